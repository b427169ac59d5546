"""Is one model better than another: the paired gain, its interval, and the smallest gain the rows could have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .intervals import (
    RESAMPLES,
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
    ) -> dict[str, Any]:
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


def paired_gain(
    labels: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    groups: Sequence[Any],
    *,
    metric: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
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
        A name of `metrics.METRICS`; the design judges by ``auroc`` (binary) or ``macro_f1`` (multiclass).

    Returns
    -------
    dict
        ``metric``; ``value`` = m(b) - m(a), ``low``, ``high`` (95%); ``n``; ``positives`` (as `intervals.measure`);
        ``detectable``: the smallest gain that had an 80% chance of showing, 2.8 standard errors. nan where all rows
        are one group or one class, or where there are none.

    Raises
    ------
    DataError
        As `metrics.checked`, or on an unknown metric.
    """
    classes = count_classes(labels, probabilities_a, groups)
    gains = np.array([np.nan])
    if sum(classes):
        a, b = (Weighted(labels, p) for p in (probabilities_a, probabilities_b))

        def gain(weights: np.ndarray) -> dict[str, np.ndarray]:
            return {metric: b(weights, [metric])[metric] - a(weights, [metric])[metric]}

        gains = over_resamples(gain, groups, resamples, seed)[metric]
    return _told(metric, float(gains[0]), gains[1:], classes)


def _told(metric: str, value: float, replicates: np.ndarray, classes: list[int]) -> dict[str, Any]:
    defined = replicates[~np.isnan(replicates)]
    return {
        "metric": metric,
        **percentile_interval(value, replicates)._asdict(),
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
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
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
