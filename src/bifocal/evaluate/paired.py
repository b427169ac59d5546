"""Is a new model better than the old one: paired differences on the same rows, and a verdict by a rule set before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np

from .compare import POWER_FACTOR
from .differences import holm
from .intervals import RESAMPLES, Figure, Weighted, over_resamples, percentile_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Classes = NDArray[np.int64]
    Rows = NDArray[np.bool_]

Verdict = Literal["better", "no worse", "worse", "cannot tell"]
Role = Literal["policy", "probabilities", "shown"]

GATE: dict[Verdict, int] = {"better": 0, "no worse": 0, "worse": 1, "cannot tell": 3}
"""Verdict -> exit status of a gate."""
MARGIN = 0.01
"""How much worse a figure may be, by default: of the policy's figures, and of NLL in nats."""
FEW_TURNED = 10
"""Under so many decisions that turned over, resamples know too little of those that will."""
SLICE_RESAMPLES = 200
"""A slice needs a standard error alone."""

OfCounts = Callable[[Any, Any, Any, Any], Any]
"""Rows flagged, hits among them, positives, rows (``[b]`` each) -> figures ``[b]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model says of the compared rows.

    Attributes
    ----------
    predicted : array, [n]
        Class indices, as the policy decides.
    probabilities : array, [n, C], or None
        Calibrated; None = only the decisions are known.
    """

    predicted: Classes
    probabilities: Floats | None

    def take(self, rows: NDArray[Any]) -> Answers:
        """Those on some rows."""
        return Answers(self.predicted[rows], None if self.probabilities is None else self.probabilities[rows])


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """A figure that two models are compared by.

    Attributes
    ----------
    name : str
    role : {"policy", "probabilities", "shown"}
        What the policy chose its thresholds by, how good the probabilities are, or no part of the verdict.
    of : callable, optional
        Makes it of counts of a binary label; None = a name of `metrics.METRICS`.
    lower_is_better : bool
    """

    name: str
    role: Role = "shown"
    of: OfCounts | None = None
    lower_is_better: bool = False


class PairedFigure(TypedDict):
    """One figure of two models on the same rows, with 95% intervals."""

    old: Figure
    new: Figure
    difference: Figure
    """New less old."""
    better: Literal["higher", "lower"]
    role: Role
    margin: float | None
    """How much worse it may be; None = it is no part of the verdict."""
    verdict: Verdict | None
    rows_needed: int | None
    """So many rows would show with 80% power that equal models are no worse."""


class SliceDifference(TypedDict):
    """The leading figure on some of the rows."""

    column: str
    value: str
    n: int
    old: float | None
    new: float | None
    difference: Figure | None
    """None = too few rows."""
    p_adjusted: float | None
    """Of no difference; Holm's correction over all slices."""


@dataclass(frozen=True, slots=True)
class PairedSettings:
    """How models are compared: the margin, and resamples of groups from a seed."""

    margin: float = MARGIN
    resamples: int = RESAMPLES
    seed: int = 0


def compare_answers(
    labels: Classes,
    old: Answers,
    new: Answers,
    groups: Sequence[Any],
    figures: Sequence[ComparedFigure],
    settings: PairedSettings,
    weights: Floats | None = None,
) -> dict[str, PairedFigure]:
    """Every figure of both models, and their difference, on the same resamples of groups.

    Parameters
    ----------
    labels : [n]
        Class indices; rows without a label are left out by the caller.
    old, new : Answers
        A figure of probabilities is left out where one of the models gives none.
    groups : [n]
    figures : sequence of ComparedFigure
    weights : [n], optional
        How many posts each row stands for; None = one.

    Raises
    ------
    DataError
        As `metrics.checked`.
    """
    wanted = [f for f in figures if f.of is not None or f.name in ("macro_f1", "accuracy") or _both_say(old, new)]
    if not len(labels):
        return {}
    sides = [_Side(labels, answers, wanted) for answers in (old, new)]

    def measure(drawn: Floats) -> dict[tuple[int, str], Floats]:
        weighted = drawn if weights is None else drawn * weights
        return {(i, name): found for i, side in enumerate(sides) for name, found in side(weighted).items()}

    drawn = over_resamples(measure, groups, settings.resamples, settings.seed)
    turned = _turned(old, new, groups)
    told = {}
    for figure in wanted:
        before, after = drawn[0, figure.name], drawn[1, figure.name]
        doubt = 0.0 if figure.role != "policy" else turned * _leverage(labels, old.predicted, figure.of)
        told[figure.name] = _told(figure, before, after, doubt, len(labels), settings.margin)
    return told


def _both_say(old: Answers, new: Answers) -> bool:
    return old.probabilities is not None and new.probabilities is not None


class _Side:
    """Every figure of one model under many weightings."""

    def __init__(self, labels: Classes, answers: Answers, figures: Sequence[ComparedFigure]):
        p = answers.probabilities
        if p is None:
            p = np.eye(max(2, int(max(labels.max(), answers.predicted.max())) + 1))[answers.predicted]
        self.weighted = Weighted(labels, p, answers.predicted)
        self.names = [figure.name for figure in figures if figure.of is None]
        self.of_counts = {figure.name: figure.of for figure in figures if figure.of is not None}
        flags, y = answers.predicted == 1, labels == 1
        self.counted = np.column_stack([flags, flags & y, y, np.ones(len(y))]).astype(np.float64)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        found = self.weighted(weights, self.names)
        if self.of_counts:
            sums = (weights @ self.counted).T
            found |= {name: np.asarray(of(*sums), dtype=np.float64) for name, of in self.of_counts.items()}
        return found


def _turned(old: Answers, new: Answers, groups: Sequence[Any]) -> float:
    """Share of groups whose decisions may yet turn over beyond those seen to; 0 where many have been seen.

    The upper end of Jeffreys' 95% interval, less the share itself: resamples of rows of which none turned over would
    make any model as good as any other.
    """
    from scipy.special import betaincinv

    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    changed = np.bincount(group_of, old.predicted != new.predicted) > 0
    n, k = len(changed), int(changed.sum())
    return 0.0 if k >= FEW_TURNED else float(betaincinv(k + 0.5, n - k + 0.5, 0.975)) - k / n


def _leverage(labels: Classes, predicted: Classes, of: OfCounts | None) -> float:
    """How much a figure moves per share of rows that are decided wrongly instead of rightly."""
    n, y = len(labels), labels == 1
    if of is None:  # macro-F1 of several classes, whose rarest moves most
        counts = np.bincount(labels)
        return n / (len(counts) * max(1, int(counts[counts > 0].min())))
    flags = predicted == 1
    flagged, hits, positives = float(flags.sum()), float((flags & y).sum()), float(y.sum())
    whole = float(of(*map(np.array, (flagged, hits, positives, float(n)))))
    missed = float(of(*map(np.array, (max(flagged - 1, 0.0), max(hits - 1, 0.0), positives, float(n)))))
    wrongly = float(of(*map(np.array, (flagged + 1, hits, positives, float(n)))))
    return n * max(abs(whole - missed), abs(whole - wrongly))


def _told(figure: ComparedFigure, before: Floats, after: Floats, doubt: float, n: int, margin: float) -> PairedFigure:
    difference = percentile_interval(float(after[0] - before[0]), (after - before)[1:])
    told: PairedFigure = {
        "old": percentile_interval(float(before[0]), before[1:]).figure(),
        "new": percentile_interval(float(after[0]), after[1:]).figure(),
        "difference": {
            "value": difference.value,
            "low": min(difference.low, difference.value - doubt),
            "high": max(difference.high, difference.value + doubt),
        },
        "better": "lower" if figure.lower_is_better else "higher",
        "role": figure.role,
        "margin": None if figure.role == "shown" else margin,
        "verdict": None,
        "rows_needed": None,
    }
    if figure.role != "shown":
        told["verdict"] = figure_verdict(told["difference"], margin, lower_is_better=figure.lower_is_better)
        spread = (after - before)[1:]
        spread = spread[~np.isnan(spread)]
        if len(spread) > 1 and margin > 0:  # chance shrinks with the root of n, what is not known of rare turns with n
            needed = max((POWER_FACTOR * float(spread.std(ddof=1)) / margin) ** 2, doubt / margin)
            told["rows_needed"] = math.ceil(n * needed)
    return told


def figure_verdict(difference: Figure, margin: float, *, lower_is_better: bool = False) -> Verdict:
    """What a paired interval says of one figure.

    ``better`` above 0, ``no worse`` above ``-margin``; else ``worse`` where it lies wholly below 0.

    >>> figure_verdict({"value": 0.0, "low": -0.004, "high": 0.004}, 0.01)
    'no worse'
    """
    low, high = difference["low"], difference["high"]
    if lower_is_better:
        low, high = -high, -low
    if low > -margin:
        return "better" if low > 0 else "no worse"
    return "worse" if high < 0 else "cannot tell"


def verdict_of(figures: Iterable[PairedFigure]) -> Verdict:
    """The verdict on a model by all the figures that are judged.

    ``worse`` where one is; else ``cannot tell`` where one cannot be told, or there is none; else ``better`` where one
    of the policy's own figures is, or ``no worse``.
    """
    judged = [(figure["role"], figure["verdict"]) for figure in figures if figure["verdict"] is not None]
    found = {verdict for _, verdict in judged}
    if "worse" in found:
        return "worse"
    if not judged or "cannot tell" in found:
        return "cannot tell"
    return "better" if ("policy", "better") in judged else "no worse"


class Flagged(NamedTuple):
    """Shares of posts that two models flag."""

    old: float
    new: float

    @property
    def change(self) -> float:
        """Relative to the old share; infinite where that is 0 and the new one is not."""
        if self.old:
            return self.new / self.old - 1
        return math.inf if self.new else 0.0


def flagged_shares(old: Classes, new: Classes, weights: Floats | None = None) -> Flagged:
    """Of class indices ``[n]`` of a binary label, those of class 1."""
    return Flagged(*(float(np.average(side == 1, weights=weights)) for side in (old, new)))


def slice_differences(
    labels: Classes,
    old: Answers,
    new: Answers,
    groups: Sequence[Any],
    figure: ComparedFigure,
    slices: Mapping[tuple[str, str], Rows],
    settings: PairedSettings,
    weights: Floats | None = None,
    *,
    min_rows: int = 30,
) -> list[SliceDifference]:
    """The difference of one figure on every slice (column and value -> rows ``[n]``), in their order.

    Intervals are the difference and 1.96 standard errors of resamples, each for itself; p-values bear Holm's correction
    over all slices, as one alarm among many is what chance gives. A slice of under ``min_rows`` groups is named alone.
    """
    names, found, raw = np.asarray(groups, dtype=object), list[SliceDifference](), dict[str, float]()
    light = PairedSettings(settings.margin, min(SLICE_RESAMPLES, settings.resamples), settings.seed)
    for (column, value), inside in slices.items():
        rows = np.flatnonzero(inside)
        told: SliceDifference = {
            "column": column, "value": value, "n": len(rows), "old": None, "new": None, "difference": None,
            "p_adjusted": None,
        }  # fmt: skip
        found.append(told)
        if len(set(names[rows].tolist())) < min_rows:
            continue
        sides = [_Side(labels[rows], answers.take(rows), [figure]) for answers in (old, new)]
        own = np.ones(len(rows)) if weights is None else weights[rows]
        drawn = _resampled(sides, own, names[rows].tolist(), figure.name, light)
        spread = (drawn[1] - drawn[0])[1:]
        value_of, error = float(drawn[1][0] - drawn[0][0]), float(np.nanstd(spread, ddof=1))
        told["old"], told["new"] = float(drawn[0][0]), float(drawn[1][0])
        told["difference"] = {"value": value_of, "low": value_of - 1.96 * error, "high": value_of + 1.96 * error}
        if error > 0:
            raw[str(len(found) - 1)] = math.erfc(abs(value_of) / error / math.sqrt(2))
    for at, p in holm(raw).items():
        found[int(at)]["p_adjusted"] = p
    return found


def _resampled(
    sides: Sequence[_Side], weights: Floats, groups: Sequence[Any], name: str, settings: PairedSettings
) -> dict[int, Floats]:
    """One figure of each side, and of each resample."""

    def measure(drawn: Floats) -> dict[int, Floats]:
        return {i: side(drawn * weights)[name] for i, side in enumerate(sides)}

    return over_resamples(measure, groups, settings.resamples, settings.seed)
