"""What a page draws of probabilities: ROC, precision and recall, reliability, and what every threshold would do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .metrics import bin_of, checked, checked_predictions
from .ranking import Ranking

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

POINTS = 200
"""Of a curve at most: more than a figure can show."""
BINS = 10
STEPS = 100
"""Thresholds of the explorer, from 0 to 1."""


def roc(labels: ArrayLike, probabilities: ArrayLike) -> list[tuple[float, float]]:
    """False-positive rate and recall of a binary label, from (0, 0) to (1, 1); empty where one class has no row.

    Parameters
    ----------
    labels : [n]
    probabilities : [n] or [n, 2]

    Raises
    ------
    DataError
        As `metrics.checked`.
    """
    from sklearn.metrics import roc_curve

    y, p = checked(labels, probabilities)
    if len(np.unique(y)) < 2:
        return []
    x, height, _ = roc_curve(y, p[:, 1])
    return _thinned(x, height)


def precision_recall(labels: ArrayLike, probabilities: ArrayLike) -> list[tuple[float, float]]:
    """Recall and precision of a binary label, recall rising; empty where one class has no row. Input as `roc`."""
    from sklearn.metrics import precision_recall_curve

    y, p = checked(labels, probabilities)
    if len(np.unique(y)) < 2:
        return []
    precision, recall, _ = precision_recall_curve(y, p[:, 1])
    return _thinned(recall[::-1][1:], precision[::-1][1:])  # its last point is a convention, no threshold


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[float, float]]:
    """At most `POINTS` points of a curve, evenly along its length, its ends among them."""
    length = np.append(0, np.hypot(np.diff(x), np.diff(y)).cumsum())
    wanted = np.linspace(0, length[-1], POINTS)
    kept = np.unique(np.searchsorted(length, wanted).clip(max=len(x) - 1)) if len(x) > POINTS else np.arange(len(x))
    return [(float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True)]


def reliability(probabilities: Iterable[float], happened: Iterable[bool], bins: int = BINS) -> list[dict[str, float]]:
    """How often what was given a probability came true, per bin of equal width.

    Returns
    -------
    list of dict
        Of each bin that has rows: ``n``, ``predicted`` (mean probability), ``observed`` (share that came true) and
        its 95% Wilson interval ``low``, ``high`` (which takes rows for independent, near-duplicates included).
    """
    from scipy.stats import binomtest

    p, came_true = np.array(list(probabilities)), np.array(list(happened), dtype=bool)
    found = []
    of = bin_of(p, bins)
    for b in range(bins):
        inside = of == b
        n, k = int(inside.sum()), int(came_true[inside].sum())
        if n:
            ends = binomtest(k, n).proportion_ci(method="wilson")
            predicted = float(p[inside].mean())
            found.append({"n": n, "predicted": predicted, "observed": k / n, "low": ends.low, "high": ends.high})
    return found


def reliability_target(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The probability that a reliability diagram is about, and whether it came true, ``[n]`` each.

    Of class 1 where the label is binary, of the likeliest class otherwise. Raises `DataError` as `metrics.checked`.
    """
    y, p = checked(labels, probabilities)
    if p.shape[1] == 2:
        return p[:, 1], y == 1
    top = p.argmax(axis=1)
    return p[np.arange(len(p)), top], y == top


def risk_coverage(
    labels: ArrayLike, probabilities: ArrayLike, predictions: ArrayLike | None = None
) -> tuple[list[tuple[float, float]], float]:
    """Error rate on the surest rows, by the share of rows that they are (El-Yaniv and Wiener 2010, JMLR 11).

    Parameters
    ----------
    labels, probabilities : [n], [n] or [n, C]
    predictions : [n], optional
        Class indices; None = as `metrics.predicted_classes`. The surest are those whose class is likeliest.

    Returns
    -------
    list of (coverage, risk), float
        And the area under the curve, the mean risk over all coverages (AURC: Geifman et al. 2019, arXiv:1805.08206).
        Rows of equal confidence come together.

    Raises
    ------
    DataError
        As `metrics.checked`.
    """
    y, p = checked(labels, probabilities)
    named = checked_predictions(predictions, p)
    ranking = Ranking(p[np.arange(len(y)), named])
    rows = ranking.ends + 1
    coverage, risk = rows / len(y), ranking.cumulative((named != y).astype(int)) / rows
    area = float((np.diff(coverage, prepend=0) * risk).sum())
    return _thinned(coverage, risk), area


def threshold_counts(
    labels: ArrayLike,
    probabilities: ArrayLike,
    allow_below: ArrayLike | None = None,
    block_from: ArrayLike | None = None,
) -> list[dict[str, float]]:
    """What each threshold 0, 0.01 … 1 of a binary label would do: counts of rows, from which all shares follow.

    Parameters
    ----------
    labels : [n]
        0 or 1.
    probabilities : [n] or [n, 2]
    allow_below, block_from : [n], optional
        Limits of the review band, by row: below its limit a row that is not flagged needs no person, from its limit on
        a flagged one needs none. None = nobody reviews.

    Returns
    -------
    list of dict
        ``threshold``, ``tp``, ``fp``, ``fn``, ``tn`` and ``review``.
    """
    y, p = checked(labels, probabilities)
    q = p[:, 1]
    unsure_low = np.zeros(len(y), bool) if allow_below is None else q >= np.asarray(allow_below)
    unsure_high = np.zeros(len(y), bool) if block_from is None else q < np.asarray(block_from)
    found = []
    for step in range(STEPS + 1):
        threshold = step / STEPS
        flags = q >= threshold
        hits, flagged, positives = int(y[flags].sum()), int(flags.sum()), int(y.sum())
        found.append(
            {
                "threshold": threshold,
                "tp": hits,
                "fp": flagged - hits,
                "fn": positives - hits,
                "tn": len(y) - flagged - positives + hits,
                "review": int(np.where(flags, unsure_high, unsure_low).sum()),
            }
        )
    return found
