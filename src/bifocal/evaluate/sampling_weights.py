"""What a sampled row stands for: weights kept from ruling an estimate, and how many rows they leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST = 20.0
"""Times the mean weight that a row counts for, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplingWeights:
    """Weights of sampled rows, their mean 1.

    Attributes
    ----------
    values : array, [n]
    clipped : int
        Rows that stand for more than `MOST` times the mean, and count for that.
    effective : float
        Rows of equal weight that would tell as much: ``(sum w)² / sum w²`` (Kish 1965, section 11.7).
    """

    values: NDArray[np.float64]
    clipped: int
    effective: float

    @classmethod
    def of(cls, weights: ArrayLike) -> SamplingWeights:
        """Weights ``[n]`` above 0, clipped.

        A few rows that stand for a hundred times the others' posts would be the whole estimate: clipping trades a
        little bias for much variance (Potter 1990, "A study of procedures to identify and trim extreme sampling
        weights"). Raises `DataError` where a weight is not a number above 0.
        """
        w = np.asarray(weights, dtype=np.float64)
        if not len(w):
            return cls(w, 0, 0.0)
        if wrong := (~(np.isfinite(w) & (w > 0))).nonzero()[0].tolist():
            raise DataError(f"a weight is a number above 0, found {w[wrong[0]]:g} in row {wrong[0]}")
        most = MOST * w.mean()
        clipped = int((w > most).sum())
        w = np.minimum(w, most)
        return cls(w / w.mean(), clipped, float(w.sum() ** 2 / (w**2).sum()))
