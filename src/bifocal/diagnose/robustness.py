"""What an attack on the inputs does to decisions: AUROC and macro-F1 lost, decisions turned over, posts to review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from ..errors import DataError
from ..evaluate.intervals import RESAMPLES, CountedRows, OptionalFigure, Weighted, over_resamples, positives
from ..example import UNLABELLED
from .scored_rows import figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

METRICS = ("auroc", "macro_f1")
FEW = 10
"""Under so many rows for or against a share, its interval is at least Wilson's: resamples of none show no chance."""


@dataclass(frozen=True)
class Outcomes:
    """What a model decides on the rows of a split.

    Attributes
    ----------
    probabilities : array, [n, C]
        Calibrated; nan where the model has no opinion (nothing of the post is left).
    predictions : array, [n]
        Class indices, by the policy's thresholds; any where there is no opinion.
    review : bool array, [n], or None
        Whether a person decides; None = the policy has no review band.
    """

    probabilities: Floats
    predictions: NDArray[np.int64]
    review: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[np.bool_]) -> Outcomes:
        review = None if self.review is None else self.review[rows]
        return Outcomes(self.probabilities[rows], self.predictions[rows], review)


class Change(TypedDict):
    """A figure before and after; None where the rows cannot tell."""

    before: float | None
    after: float | None
    change: OptionalFigure


class Flips(OptionalFigure):
    """The share of decisions that became others, ``n`` of them; of two classes the number each way."""

    n: int
    cleared: NotRequired[int]
    """Flagged before, not after."""
    raised: NotRequired[int]


class ComparedDecisions(CountedRows):
    """Decisions before and after an attack; ``positives`` are of the labelled rows."""

    undecided: int
    """Rows left out."""
    auroc: Change
    macro_f1: Change
    """At the policy's thresholds."""
    flips: Flips
    review: Change | None
    """None without a band."""


def compare_decisions(
    labels: Sequence[int] | NDArray[np.int64],
    groups: Sequence[Any],
    before: Outcomes,
    after: Outcomes,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ComparedDecisions:
    """Decisions on the same rows before and after an attack, with paired 95% intervals over groups of near-duplicates.

    Both sides are measured on the same resamples, so that only the attack tells them apart
    (`evaluate.compare.paired_gain`). Rows that either side has no opinion on are left out and counted.

    Parameters
    ----------
    labels : [n]
        Class indices; rows with `UNLABELLED` count for flips and review alone.
    groups : [n]
    before, after : Outcomes

    Raises
    ------
    DataError
        Where arrays are not of the same rows or classes, or as `metrics.checked`.
    """
    y = np.asarray(labels, dtype=np.int64)
    if before.probabilities.shape != after.probabilities.shape or not len(y) == len(groups) == len(after.predictions):
        raise DataError(
            f"the two sides are of one split's rows, found probabilities {list(before.probabilities.shape)} and "
            f"{list(after.probabilities.shape)} for {len(y)} labels and {len(groups)} groups"
        )
    decided = np.isnan(before.probabilities + after.probabilities).sum(axis=1) == 0
    y, sides = y[decided], (before.take(decided), after.take(decided))
    kept = list(compress(groups, decided))
    figures = _figures(y, kept, sides, resamples, seed)
    known = y != UNLABELLED
    flipped = sides[0].predictions != sides[1].predictions
    return {
        "n": len(y),
        "positives": positives(np.bincount(y[known], minlength=before.probabilities.shape[1]).tolist()),
        "undecided": int((~decided).sum()),
        "auroc": _change(figures["auroc"]),
        "macro_f1": _change(figures["macro_f1"]),
        "flips": _flips(figures["flips"][0], flipped, sides),
        "review": _change(figures["review"]) if "review" in figures else None,
    }


def _figures(
    y: NDArray[np.int64], groups: Sequence[Any], sides: tuple[Outcomes, Outcomes], resamples: int, seed: int
) -> dict[str, Floats]:
    """Each figure of both sides ``[2, 1 + resamples]``, first that of the rows as they are; ``flips`` has one row."""
    known = y != UNLABELLED
    scorers = [Weighted(y[known], side.probabilities[known], side.predictions[known]) for side in sides if known.any()]
    shares = {"flips": (sides[0].predictions != sides[1].predictions)[None]}
    if sides[0].review is not None and sides[1].review is not None:
        shares["review"] = np.stack([sides[0].review, sides[1].review])

    def measured(weights: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore"):
            found = {name: rows @ weights.T / weights.sum(axis=1) for name, rows in shares.items()}
        of = [scorer(weights[:, known], METRICS) for scorer in scorers]
        nothing = np.full((2, len(weights)), np.nan)
        return found | {name: np.stack([side[name] for side in of]) if of else nothing for name in METRICS}

    return over_resamples(measured, groups, resamples, seed)


def _change(figures: Floats) -> Change:
    before, after = (figure(side)["value"] for side in figures)
    return {"before": before, "after": after, "change": figure(figures[1] - figures[0])}


def _share(figures: Floats, happened: NDArray[np.bool_]) -> OptionalFigure:
    """A share with its interval, which few rows for or against it do not make narrow."""
    from scipy.stats import binomtest

    found, k, n = figure(figures), int(happened.sum()), len(happened)
    if n and min(k, n - k) < FEW:
        ends = binomtest(k, n).proportion_ci(method="wilson")
        low, high = found["low"], found["high"]
        found["low"] = ends.low if low is None else min(low, ends.low)
        found["high"] = ends.high if high is None else max(high, ends.high)
    return found


def _flips(figures: Floats, flipped: NDArray[np.bool_], sides: tuple[Outcomes, Outcomes]) -> Flips:
    found: Flips = {"n": int(flipped.sum()), **_share(figures, flipped)}
    was, became = (side.predictions for side in sides)
    if sides[0].probabilities.shape[1] == 2:
        found["cleared"], found["raised"] = int(np.sum(was > became)), int(np.sum(was < became))
    return found
