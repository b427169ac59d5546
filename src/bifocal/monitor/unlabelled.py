"""What can be said of posts without labels: estimates of accuracy and base rate, and whether their assumption holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..decide.class_prior import at_least_jeffreys, estimate_prior
from ..diagnose.drift import BINS, bin_of, independent_rows, quantile_edges
from ..evaluate.intervals import CHUNK, Interval, bootstrap_weights, percentile_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 500
BINS_PER_CLASS = 3
"""Of a label of several classes: its cells are the class that was predicted and how sure the model was."""
MISFIT = 0.02
"""Share of posts like no mixture of the reference's classes from which on a significant misfit counts."""
ASSUMES = {
    "confidence": "the scores stay as calibrated, or as miscalibrated, as they were on the reference",
    "thresholded_confidence": "the confidence that told right from wrong on the reference still does",
    "label_shift": "only the base rate has changed, not what posts of a class look like",
}


class Labelled(NamedTuple):
    """The reference's rows that bear a label."""

    labels: NDArray[np.int64]
    """``[n]`` class indices."""
    right: NDArray[np.bool_]
    """``[n]``: whether the decision was."""
    confidence: Floats
    """``[n]``: calibrated probability of the class that was decided for."""
    cells: NDArray[np.int64]
    """``[n]``, see `ScoreBins`."""
    groups: NDArray[Any]
    """``[n]``: near-duplicates share one."""


class Unlabelled(NamedTuple):
    """New rows."""

    confidence: Floats
    cells: NDArray[np.int64]
    copies: NDArray[Any]
    """``[m]``: copies of one post share a value."""


@dataclass(frozen=True)
class ScoreBins:
    """Bins of what a model says: how often posts of each class fall into each is known from the reference.

    Shares of cells take the place of calibrated probabilities in the estimate of the base rate: they are right by
    construction whatever the calibration is worth, and say enough where a decision holds but one probability of several
    classes.

    Attributes
    ----------
    edges : tuple of array
        Inner edges of the bins of the score: by predicted class, or of all rows together.
    """

    edges: tuple[Floats, ...]

    @classmethod
    def fit(cls, scores: Floats, predicted: NDArray[np.int64] | None, classes: int) -> Self:
        """Bins of the reference's rows; ``predicted`` None = bins of the score say it all, as of a binary label."""
        if predicted is None:
            return cls((quantile_edges(scores),))
        rows = [scores[predicted == y] for y in range(classes)]
        return cls(tuple(quantile_edges(x, BINS_PER_CLASS) if len(x) >= BINS else np.empty(0) for x in rows))

    def __len__(self) -> int:
        return sum(len(edges) + 1 for edges in self.edges)

    def of(self, scores: Floats, predicted: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Index of the cell of each row; ``predicted`` as in `fit`."""
        if predicted is None:
            return bin_of(scores, self.edges[0])
        found = np.zeros(len(scores), dtype=np.int64)
        start = 0
        for y, edges in enumerate(self.edges):
            rows = predicted == y
            found[rows] = start + bin_of(scores[rows], edges)
            start += len(edges) + 1
        return found


def estimate(
    reference: Labelled,
    new: Unlabelled,
    *,
    classes: int,
    cells: int,
    alpha: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy and base rate of rows without labels: **estimates**, each as good as what it takes for granted.

    - ``confidence``: the reference's accuracy less what mean confidence has lost (difference of confidences, Guillory
      et al. 2021, arXiv:2107.03315);
    - ``thresholded_confidence``: the share above the confidence under which as many reference rows lie as were wrong
      (Average Thresholded Confidence, Garg et al. 2022, arXiv:2201.04234, equations 1 and 2);
    - ``label_shift``: the reference's accuracy class by class, at the estimated base rate;
    - the base rate itself: EM (`decide.class_prior.estimate_prior`) on the shares of `ScoreBins`.

    Accuracies are of posts like these; a labelled sample of them strays further by its own size. Intervals (95%)
    resample reference groups, and new rows less their copies; they know nothing of a broken assumption. Where the
    estimates lie far apart, at most one assumption holds: label shift breaks that of the first two. It is tested:
    whether shares of cells are a mixture of the reference's classes, by a parametric bootstrap of the likelihood ratio.

    Parameters
    ----------
    reference : Labelled
        Two groups at least; all labels known.
    new : Unlabelled
        One row at least.
    classes, cells : int
    alpha : float
        Level of the test of label shift.

    Returns
    -------
    dict
        ``accuracy``: ``reference`` (`Interval`), and by method `Interval` and ``assumes``; ``base_rate``: per class
        index ``reference`` and an `Interval`, or None where nothing tells the classes apart; ``label_shift``:
        ``holds`` (False, True = not rejected, or None = cannot be tested), ``p``, ``misfit``: the share of rows like no
        mixture of the reference's classes.
    """
    m = len(new.cells)
    rows = independent_rows(new.copies)
    rng = np.random.default_rng(seed)
    seen = np.bincount(new.cells, minlength=cells) / m
    counted = _Counted(reference, classes, cells)
    whole = counted(np.ones((1, len(reference.labels))))
    drawn = [counted(w) for w in bootstrap_weights(reference.groups.tolist(), resamples, seed)]
    known = np.count_nonzero(whole.tables[0].sum(axis=0)) > 1 and np.count_nonzero(whole.tables[0].sum(axis=1)) > 1

    ordered = np.sort(new.confidence)
    spread = new.confidence.std() / np.sqrt(rows)
    replicates: dict[str, list[Floats]] = {"reference": [], **{name: [] for name in ASSUMES}}
    shares: list[Floats] = []
    for part in drawn:
        b = len(part.accuracy)
        replicates["reference"].append(part.accuracy)
        mean = new.confidence.mean() + spread * rng.standard_normal(b)
        replicates["confidence"].append((part.accuracy + mean - part.confidence).clip(0, 1))
        above = _share_above(ordered, part)
        replicates["thresholded_confidence"].append(rng.binomial(max(1, round(rows)), above) / max(1, round(rows)))
        if known:
            q = _mixture(part.tables, rng.multinomial(max(1, round(rows)), seen, size=b))
            shares.append(q)
            replicates["label_shift"].append(_recalled(part, q))
    values = {
        "reference": whole.accuracy[0],
        "confidence": (whole.accuracy[0] + new.confidence.mean() - whole.confidence[0]).clip(0, 1),
        "thresholded_confidence": _share_above(ordered, whole)[0],
    }
    base_rate = None
    if known:
        q = _mixture(whole.tables, seen[None])
        values["label_shift"] = _recalled(whole, q)[0]
        base_rate = _base_rate(q[0], np.concatenate(shares), counted.prior, rows)
    accuracy: dict[str, Any] = {}
    for name, value in values.items():
        interval = percentile_interval(float(value), np.concatenate(replicates[name]))
        if name != "reference":
            interval = at_least_jeffreys(interval, rows)
        accuracy[name] = {**interval._asdict(), **({"assumes": ASSUMES[name]} if name in ASSUMES else {})}
    independent = independent_rows(reference.groups) / len(reference.groups)
    fit = _fit(whole.tables[0], independent, seen, rows, alpha, resamples, rng) if known else _UNTESTED
    return {"accuracy": accuracy, "base_rate": base_rate, "label_shift": fit}


_UNTESTED = {"holds": None, "p": None, "misfit": None}


class _Figures(NamedTuple):
    """Of the reference under some weightings ``[b]``."""

    accuracy: Floats
    confidence: Floats
    limit: Floats
    """The confidence under which as many rows lie as were wrong."""
    tied: Floats
    """Of the rows on the limit, the share that has to count as above it for that."""
    recall: Floats
    """``[b, C]``; that of a class without rows is 0, and so is its share."""
    tables: Floats
    """``[b, K, C]``: rows by cell and class."""


class _Counted:
    """The reference's figures under many weightings at once."""

    def __init__(self, reference: Labelled, classes: int, cells: int):
        self.confidence = reference.confidence
        self.order = np.argsort(reference.confidence, kind="stable")
        self.ordered = reference.confidence[self.order]
        self.classes = (reference.labels[:, None] == np.arange(classes)).astype(np.float64)
        self.prior = self.classes.mean(axis=0)
        self.right = reference.right.astype(np.float64)
        self.places = reference.cells * classes + reference.labels
        self.shape = (cells, classes)

    def __call__(self, weights: Floats) -> _Figures:
        total = weights.sum(axis=1)
        accuracy = weights @ self.right / total
        limit, tied = self._limits(weights[:, self.order], (1 - accuracy) * total)
        hits, seen = weights @ (self.classes * self.right[:, None]), weights @ self.classes
        size = self.shape[0] * self.shape[1]
        tables = np.array([np.bincount(self.places, w, minlength=size) for w in weights], dtype=np.float64)
        return _Figures(
            accuracy,
            weights @ self.confidence / total,
            limit,
            tied,
            np.divide(hits, seen, out=np.zeros(hits.shape), where=seen > 0),
            tables.reshape(-1, *self.shape),
        )

    def _limits(self, weights: Floats, wrong: Floats) -> tuple[Floats, Floats]:
        """Limit and share of ties for weights ``[b, n]`` by rising confidence, of which ``wrong [b]`` lie below."""
        below = np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0)))
        at = (below[:, 1:] <= wrong[:, None] + 1e-9).sum(axis=1)
        limit = np.append(self.ordered, np.inf)[at]
        rows = np.arange(len(weights))
        start, end = (below[rows, np.searchsorted(self.ordered, limit, side=side)] for side in ("left", "right"))
        tied = np.divide(end - wrong, end - start, out=np.zeros(len(limit)), where=end > start)
        return limit, tied.clip(0, 1)


def _share_above(ordered: Floats, figures: _Figures) -> Floats:
    """Share of sorted values above each limit, with their part of those on it."""
    start, end = (np.searchsorted(ordered, figures.limit, side=side) for side in ("left", "right"))
    return (len(ordered) - end + figures.tied * (end - start)) / len(ordered)


def _recalled(figures: _Figures, shares: Floats) -> Floats:
    return (figures.recall * shares).sum(axis=-1)


def _components(tables: Floats) -> Floats:
    """How posts of each class fall into cells, ``[b, K, C]``: a row more of each class, spread as all rows are.

    Without it a cell in which the reference has no row of a class would rule that class out for good.
    """
    pooled = tables.sum(axis=-1, keepdims=True) + 1 / tables.shape[-2]
    pooled = pooled / pooled.sum(axis=-2, keepdims=True)
    smoothed: Floats = (tables + pooled) / (tables.sum(axis=-2, keepdims=True) + 1)
    return smoothed


def _mixture(tables: Floats, counts: NDArray[Any]) -> Floats:
    """Class shares ``[b, C]`` of greatest likelihood for rows by cell ``[b, K]``; a class without rows has none."""
    prior = tables.sum(axis=-2)
    prior = prior / prior.sum(axis=-1, keepdims=True)
    joint = _components(tables) * prior[..., None, :]
    size = max(1, CHUNK // joint[0].size)
    posterior = joint / joint.sum(axis=-1, keepdims=True)
    return np.concatenate(
        [
            estimate_prior(posterior[i : i + size], prior[i : i + size], counts[i : i + size])
            for i in range(0, len(tables), size)
        ]
    )


def _base_rate(shares: Floats, drawn: Floats, prior: Floats, rows: float) -> list[dict[str, float]]:
    found = []
    for share, replicates, before in zip(shares, drawn.T, prior, strict=True):
        interval: Interval = at_least_jeffreys(percentile_interval(float(share), replicates), rows)
        found.append({"reference": float(before), **interval._asdict()})
    return found


def _fit(
    table: Floats, independent: float, seen: Floats, rows: float, alpha: float, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether shares of cells ``[K]`` are a mixture of the classes of a table ``[K, C]``, both being samples."""
    m = max(1, round(rows))
    labelled = np.maximum(1, (table.sum(axis=0) * independent).round()).astype(int) * (table.sum(axis=0) > 0)
    if len(table) <= np.count_nonzero(labelled):
        return _UNTESTED
    scaled = table / np.maximum(table.sum(axis=0), 1) * labelled
    q = _mixture(scaled[None], seen[None])
    expected = (_components(scaled) * q[0]).sum(axis=-1)
    found = _misfit(scaled[None], seen[None] * m)[0]
    components = (scaled / np.maximum(labelled, 1)).T
    tables = np.stack(
        [rng.multinomial(n, c if n else seen, size=resamples) for n, c in zip(labelled, components, strict=True)], -1
    )
    counts = rng.multinomial(m, (components.T * q[0]).sum(axis=-1), size=resamples)
    chance = _misfit(tables.astype(np.float64), counts)
    p = float((1 + np.sum(chance >= found - 1e-9)) / (1 + resamples))
    strange = float(np.abs(seen - expected).sum() / 2)
    return {"holds": not (p <= alpha and strange >= MISFIT), "p": p, "misfit": strange}


def _misfit(tables: Floats, counts: NDArray[Any]) -> Floats:
    """Likelihood ratio ``[b]`` of counts ``[b, K]`` free, against the best mixture of the tables' classes."""
    q = _mixture(tables, counts)
    expected = (_components(tables) * q[:, None]).sum(axis=-1) * counts.sum(axis=-1, keepdims=True)
    ratio = np.divide(counts, expected, out=np.ones(expected.shape), where=counts > 0)
    return 2 * (counts * np.log(ratio)).sum(axis=-1)
