"""Rows by falling score, equal ones together: what ROC, precision and recall, and thresholds are read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Ranking:
    """Rows ``[n]`` by falling score, cut where the score changes into ``k`` runs that a threshold flags together.

    Parameters
    ----------
    scores : [n]
    most : int, optional
        Runs at most: of more, so many are kept, evenly along the ranks, each with all rows down to it.

    Attributes
    ----------
    order : [n]
        Rows as they are ranked; of equal ones the first stays first.
    starts, ends : [k]
        Ranks of the first and last row of each run.
    thresholds : [k]
        Score of the last row of each run.
    """

    def __init__(self, scores: Floats, most: int | None = None):
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
        if most and len(ends) > most:
            ends = ends[np.linspace(0, len(ends) - 1, most).round().astype(int)]
        self.starts, self.ends, self.thresholds = np.append(0, ends[:-1] + 1), ends, ranked[ends]

    def cumulative(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums ``[k]`` of values ``[n]``, in the order of the rows, over all rows down to each run."""
        return np.add.reduceat(values[self.order], self.starts).cumsum()


class ClassRanking(Ranking):
    """A `Ranking` for the areas under the curves of one class; runs without a row of it say nothing and are left out.

    Parameters
    ----------
    happened : [n]
        Whether a row bears the class.
    scores : [n]
    """

    def __init__(self, happened: NDArray[np.bool_], scores: Floats):
        super().__init__(scores)
        self.places = np.flatnonzero(happened[self.order])
        run = np.searchsorted(self.ends, self.places)
        self.first = np.flatnonzero(np.diff(run, prepend=-1))
        """Of the rows of the class, the first of each run."""
        self.starts, self.ends = self.starts[run[self.first]], self.ends[run[self.first]]
        self.tied = bool((self.ends > self.starts).any())

    def same_as(self, other: ClassRanking) -> bool:
        """Whether both have the same areas under any weights: of rows in the same order, cut into the same runs."""
        parts = ("order", "places", "first", "starts", "ends")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in parts)

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """Areas under the ROC and the precision-recall curve, ``[b]`` each, under weights ``[b, n]``.

        The first is nan where a class is lost.
        """
        if not len(self.places):
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        counts = weights.astype(np.int32)  # sums of whole numbers are exact, and fast
        w = np.take(counts if np.array_equal(counts, weights) else weights, self.order, axis=1)
        flagged = np.cumsum(w, axis=1, dtype=w.dtype)
        found, reached = np.take(w, self.places, axis=1), np.take(flagged, self.ends, axis=1)
        if self.tied:  # rows of equal probability are flagged together
            found = np.add.reduceat(found, self.first, axis=1)
        right = np.cumsum(found, axis=1, dtype=w.dtype)
        gained = found.astype(np.float64)
        positives = right[:, -1].astype(np.float64)
        negatives = flagged[:, -1] - positives
        beaten = negatives[:, None] - (reached - right)  # of the other rows, those below each run
        if self.tied:
            inside = reached - np.take(flagged, self.starts, axis=1) + np.take(w, self.starts, axis=1) - found
            beaten += inside / 2
        roc = np.einsum("bt,bt->b", gained, beaten) / (positives * negatives)
        pr = np.einsum("bt,bt->b", gained, right / np.where(reached > 0, reached, 1)) / positives
        return roc, pr
