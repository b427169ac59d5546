"""Is one model better than another: the paired gain, its interval, and the smallest gain the rows could have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .intervals import (
    LEVEL,
    RESAMPLES,
    Figure,
    Measured,
    MeasuredRows,
    Weighted,
    count_classes,
    measure_each,
    over_resamples,
    percentile_interval,
    positives,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

POWER_FACTOR = 2.8
"""z(0.975) + z(0.80): a true gain of this many standard errors is found with 80% power at two-sided 5%."""


class Gain(Figure, MeasuredRows):
    """How much better one model is than another.

    ``detectable``: the smallest gain that had an 80% chance of showing, 2.8 standard errors. nan where all rows are one
    group or one class, or where there are none.
    """

    detectable: float


@dataclass(frozen=True, slots=True)
class Resampling:
    """What all comparisons of one study share: their metric, how many resamples of groups, and from which seed."""

    metric: str
    resamples: int = RESAMPLES
    seed: int = 0

    def gain(
        self,
        labels: ArrayLike,
        probabilities_a: ArrayLike,
        probabilities_b: ArrayLike,
        groups: Sequence[Any],
    ) -> Gain:
        """`paired_gain` of b over a."""
        return paired_gain(
            labels,
            probabilities_a,
            probabilities_b,
            groups,
            metric=self.metric,
            resamples=self.resamples,
            seed=self.seed,
        )

    def gains(
        self, labels: ArrayLike, others: Mapping[str, ArrayLike], probabilities: ArrayLike, groups: Sequence[Any]
    ) -> Gains:
        """`gains_over_each` of one model over each of the others."""
        return gains_over_each(
            labels, others, probabilities, groups, metric=self.metric, resamples=self.resamples, seed=self.seed
        )


def paired_gain(
    labels: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    groups: Sequence[Any],
    *,
    metric: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gain:
    """How much better b is than a on the same rows: both are measured on the same resamples of groups, so that what
    makes a resample hard for both cancels out (Efron and Tibshirani 1993, chapter 13).

    Parameters
    ----------
    labels : [n]
        Class indices.
    probabilities_a, probabilities_b : [n, C]
        Averaged over seeds where there are several.
    groups : [n]
        Near-duplicate group of each row.
    metric : str
        A name of `metrics.METRICS`; runs are judged by ``auroc`` (binary) or ``macro_f1`` (multiclass).

    Raises
    ------
    DataError
        As `metrics.checked`, or on an unknown metric.
    """
    compared = gains_over_each(
        labels, {"a": probabilities_a}, probabilities_b, groups, metric=metric, resamples=resamples, seed=seed
    )
    return compared.each["a"]


@dataclass(frozen=True, slots=True)
class Gains:
    """One model beside several others.

    Attributes
    ----------
    each : dict
        Other model -> `paired_gain` over it.
    over : str
        The other with the least gain, which is the one to report.
    least : Gain
        Its interval is not that of the least value, whose bootstrap is biased: ``low`` is
        the least of the lower ends (a gain over every model is shown where each is; Berger 1982, intersection-union
        test), ``high`` the least of the upper ends, of k models at 1 - 0.025 / k each (Bonferroni). ``detectable`` is
        the largest of theirs.
    """

    each: dict[str, Gain]
    over: str
    least: Gain


def gains_over_each(
    labels: ArrayLike,
    others: Mapping[str, ArrayLike],
    probabilities: ArrayLike,
    groups: Sequence[Any],
    *,
    metric: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gains:
    """How much better one model is than each of several others, all on the same resamples of groups.

    Parameters
    ----------
    labels, groups : [n]
    others : mapping
        Name -> probabilities ``[n, C]``; at least one.
    probabilities : [n, C]
    metric : str
        Of which more is better, for `Gains.least`.

    Raises
    ------
    DataError
        As `paired_gain`.
    """
    classes = count_classes(labels, probabilities, groups)
    replicates = {name: np.array([np.nan]) for name in others}
    if sum(classes):
        own, theirs = Weighted(labels, probabilities), {name: Weighted(labels, p) for name, p in others.items()}

        def gains(weights: np.ndarray) -> dict[str, np.ndarray]:
            reached = own(weights, [metric])[metric]
            return {name: reached - other(weights, [metric])[metric] for name, other in theirs.items()}

        replicates = over_resamples(gains, groups, resamples, seed)
    each = {name: _told(metric, float(found[0]), found[1:], classes) for name, found in replicates.items()}
    over = min(each, key=lambda name: each[name]["value"])
    level = (LEVEL[0], 100 - (100 - LEVEL[1]) / len(each))
    ends = [percentile_interval(found[0], found[1:], level=level) for found in replicates.values()]
    least: Gain = {
        **each[over],
        "low": float(np.min([end.low for end in ends])),
        "high": float(np.min([end.high for end in ends])),
        "detectable": max(gain["detectable"] for gain in each.values()),
    }
    return Gains(each, over, least)


def _told(metric: str, value: float, replicates: np.ndarray, classes: list[int]) -> Gain:
    defined = replicates[~np.isnan(replicates)]
    return {
        "metric": metric,
        **percentile_interval(value, replicates).figure(),
        "n": sum(classes),
        "positives": positives(classes),
        "detectable": POWER_FACTOR * float(defined.std(ddof=1)) if len(defined) > 1 else float("nan"),
    }


def measure_change(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    groups: Sequence[Any],
    *,
    predictions: ArrayLike | None = None,
    metrics: Sequence[str] = ("nll", "brier"),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Measured, Measured, dict[str, Gain]]:
    """A model before and after calibration: what `intervals.measure` and `paired_gain` say, by one set of resamples.

    Parameters
    ----------
    labels, groups : [n]
    before, after : [n, C]
        Probabilities.
    predictions : [n], optional
        Class indices that a policy chose afterwards.
    metrics : sequence of str
        Those whose change is wanted.

    Returns
    -------
    tuple of dict
        Before, after; metric -> the gain, below 0 where a loss became less.

    Raises
    ------
    DataError
        As `metrics.checked`.
    """
    sides = [(before, None), (after, predictions)]
    (raw, first), (fitted, second) = measure_each(labels, sides, groups, resamples=resamples, seed=seed)
    classes = count_classes(labels, before, groups)
    changes = {}
    for metric in metrics:
        value = fitted["metrics"][metric]["value"] - raw["metrics"][metric]["value"]
        changes[metric] = _told(metric, value, second[metric] - first[metric], classes)
    return raw, fitted, changes
