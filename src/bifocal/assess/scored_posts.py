"""What a model says of posts by one of its labels, wherever it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import ThresholdConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ModelLabel(NamedTuple):
    """One label as a model knows it; None = the table does not say."""

    classes: tuple[int | str, ...] | None
    probability: str | None
    rule: ThresholdConfig | None


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a model says of posts ``[n]`` by one label.

    Attributes
    ----------
    predicted : array, [n]
        Class indices; `UNLABELLED` where the model says nothing.
    probabilities : array, [n, C], or None
        Calibrated; nan where it says nothing; None = only decisions are known.
    actions : array of str, [n]
        What is done; empty where the model says nothing.
    patterns : array of str, [n]
        Which modalities it read; empty where that is not known.
    """

    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None
    actions: NDArray[Any]
    patterns: NDArray[Any]

    def take(self, rows: NDArray[Any]) -> Scored:
        """The same for some rows."""
        p = None if self.probabilities is None else self.probabilities[rows]
        return Scored(self.predicted[rows], p, self.actions[rows], self.patterns[rows])
