"""What a person should know of a fit before using it, in sentences: bounds missed, promises that want for rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..config import ReviewConfig, ThresholdConfig
from ..errors import DataError
from ..evaluate.sampling_weights import SamplingWeights
from .calibration_methods import LEAST_ROWS, Calibrated
from .conformal import least_rows
from .policy import Band, Fit
from .thresholds import LEAST, LOOKS, ChosenThreshold, described

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEARLY_ALL = 0.95
"""From this share of posts on a threshold is said to flag nearly everything."""


def uncalibrated(what: str, few: Mapping[str, int], then: str) -> list[str]:
    """Where the rows are too few for a calibration."""
    if not few:
        return []
    counts = ", ".join(f"{n:,} of class {name}" for name, n in few.items())
    return [f"{what}: a calibration takes {LEAST_ROWS} tuning rows of each class, found {counts}; {then}"]


def compared(model: str, chosen: Calibrated) -> str:
    """What `auto` found, in words."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in chosen.tried.items())
    return f"{model} is calibrated by {chosen.calibration.method}; cross-validated NLL: {figures}"


def unpromised(what: str, fit: Fit, classes: Sequence[int | str], review: ReviewConfig | None) -> list[str]:
    """Where the rows are too few for a promise."""
    if review is None:
        return []
    if fit.least is not None and review.alpha is not None:
        few = [str(name) for name, limit in zip(classes, fit.least, strict=True) if limit is None]
        rows = f"it takes {least_rows(review.alpha):,} rows of a class"
        return [
            f"{what}: no guarantee of alpha {review.alpha:g} for {', '.join(few)}: {rows}; always in the set"
        ] * bool(few)
    return unpromised_band(what, fit.band, review)


def unpromised_band(what: str, band: Band | None, review: ReviewConfig) -> list[str]:
    """The same of a review band."""
    found = []
    if band is not None:
        sides = (
            ("fnr", band.allow_below, band.positives, "allowed"),
            ("fpr", band.block_from, band.negatives, "blocked"),
        )
        for rate, limit, n, done in sides:
            if limit is None:
                alpha = getattr(review, rate)
                rows = f"{least_rows(alpha):,} {'positive' if rate == 'fnr' else 'negative'} rows"
                found.append(
                    f"{what}: no guarantee of {rate} {alpha:g}: it takes {rows}, found {n:,}; nothing is {done}"
                )
    return found


def few_for_bound(what: str, labels: NDArray[np.int64], rule: ThresholdConfig, *, met: bool = False) -> list[str]:
    """Where there are fewer rows than a bound needs to say anything of them: how many are missing.

    One error among n rows is a rate of 1/n; with ``confidence`` c, n rows without an error show that it is at most
    ``1 - (1 - c) ** (1 / n)`` (Clopper and Pearson 1934). Precision is of flagged rows, how many depends on the
    threshold, and positives are at most all of them, or all but that one error: so many are the least. A confident one
    is looked for in `LOOKS` places, and in fewer among fewer ranks: ``met`` says that there is a threshold with which
    it is kept to, so that nothing is missing.
    """
    classes = {
        "fpr": ("negative", 0), "recall": ("positive", 1), "precision": ("positive", 1), "capacity": ("tuning", None),
    }  # fmt: skip
    if rule.bound is None or (met and rule.confidence):
        return []
    name, label = classes[rule.by]
    rate = 1 - rule.bound if rule.by in LEAST else rule.bound
    looks = LOOKS if rule.by == "precision" else 1
    needed = 1 / rate - (rule.by == "precision")
    if rule.confidence:
        needed = math.log((1 - rule.confidence) / looks) / math.log(1 - rate)
    found, least = int((labels == label).sum()) if label is not None else len(labels), math.ceil(needed - 1e-9)
    if found >= least:
        return []
    return [
        f"{what}: {described(rule)} takes {least:,} {name} rows, found {found:,}: {least - found:,} are missing, and "
        "what it comes to on the next posts may be far from it"
    ]


def threshold_findings(
    what: str,
    chosen: ChosenThreshold | None,
    rule: ThresholdConfig,
    *,
    decides: bool = False,
    lacking: Sequence[str] = (),
    by_hand: bool = False,
) -> list[str]:
    """Findings of one threshold. Raises `DataError` where the model that decides cannot keep to the bound; with what
    `few_for_bound` found ``lacking``; ``by_hand``: the rule is not that of a run's settings."""
    if chosen is None:
        return []
    if not chosen.met:
        unmet = (
            f"{what}: no threshold keeps {described(rule)} on the rows it is chosen on; "
            f"the nearest is {chosen.nearest:.3f}, at {chosen.threshold:.3f}"
        )
        if decides:
            missing = "".join(f"; {found}" for found in lacking)
            place = "" if by_hand else " in `decide.threshold.bound`"
            raise DataError(f"{unmet}: ask for less{place}, or give more rows to tune on{missing}")
        return [f"{unmet}, which is taken"]
    if chosen.figures["flagged"] >= NEARLY_ALL:
        return [f"{what}: the threshold {chosen.threshold:.3f} flags {chosen.figures['flagged']:.0%} of posts"]
    return []


def weighed(model: str, weights: NDArray[np.float64]) -> str:
    """What sampling weights leave of the rows that a policy is fitted on."""
    found = SamplingWeights.of(weights)
    clipped = f", {found.clipped} of them clipped" if found.clipped else ""
    return (
        f"{model}: judged rows count by the decisions that they stand for{clipped}: calibration and threshold rest on "
        f"{len(weights):,} rows that tell as much as {found.effective:,.0f} of equal weight"
    )
