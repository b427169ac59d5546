"""Rows as one model judged them, and its figures on any of them: resampled for intervals, in closed form for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .differences import Area, Rate, area, rate
from .intervals import bootstrap_weights
from .metrics import checked, checked_predictions, headline_metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.bool_]

MIN_CLASS = 10
"""Groups that a figure needs of each class that it speaks of."""


class RowMetrics:
    """Labels, probabilities and decisions of one model.

    Parameters
    ----------
    labels : [n]
        Class indices.
    probabilities : [n] or [n, C]
    predictions : [n] or None
        Class indices, at the policy's thresholds; None = threshold 0.5, or the likeliest class.
    groups : [n]
        Near-duplicate group of each row.
    rates_of : int, optional
        Of a label of several classes: the class, against the rest, whose error rates are wanted. Binary: class 1.

    Raises
    ------
    DataError
        As `metrics.checked`, or where groups are not one per row.
    """

    def __init__(
        self,
        labels: ArrayLike,
        probabilities: ArrayLike,
        predictions: ArrayLike | None,
        groups: Sequence[Any],
        rates_of: int | None = None,
    ):
        self.y, p = checked(labels, probabilities)
        if len(groups) != len(self.y):
            raise DataError(f"groups are one per row, found {len(groups)} for {len(self.y)} labels")
        self.predicted = checked_predictions(predictions, p)
        self.classes = p.shape[1]
        self.of = 1 if self.classes == 2 else rates_of
        self.headline = headline_metric(self.classes)
        rates = () if self.of is None else ("fpr", "fnr")
        self.names: tuple[str, ...] = (self.headline, "accuracy", *rates)
        self.group = np.unique(np.asarray(groups), return_inverse=True)[1]
        self._ranks = np.unique(p[:, 1], return_inverse=True)[1]

    def groups(self, rows: Rows) -> int:
        """How many groups some rows ``[n]`` belong to."""
        return int((np.bincount(self.group[rows]) > 0).sum())

    def figure(self, name: str, rows: Rows) -> Rate | Area | None:
        """A figure on some rows in closed form, fit for tests.

        None where under `MIN_CLASS` groups stand behind it, and for macro-F1, which few rows make too low.
        """
        if name not in self.names or name == "macro_f1":
            return None
        happened = self.y == (1 if self.of is None else self.of)
        if name == "auroc":
            enough = min(self.groups(rows & happened), self.groups(rows & ~happened)) >= MIN_CLASS
            return area(self._ranks[rows], happened[rows], self.group[rows]) if enough else None
        if name == "accuracy":
            event = self.y == self.predicted
        elif name == "fpr":
            rows, event = rows & ~happened, self.predicted == self.of
        else:
            rows, event = rows & happened, self.predicted != self.of
        return rate(event[rows], self.group[rows]) if self.groups(rows) >= MIN_CLASS else None

    def replicates(
        self, parts: Sequence[Rows], resamples: int, seed: int, *, without: bool
    ) -> Iterator[tuple[dict[str, Floats], dict[str, Floats]]]:
        """Resampled figures but for AUROC, in chunks ``[parts, b]`` by name: of each part, and of what it is held
        against, which is the first part, ``without`` or with the rows of its own.

        The counts of all parts, by group, are one sparse matrix, so that a resample is its product with the weights of
        the groups.
        """
        from scipy.sparse import csr_array

        cells, groups = self.classes**2, int(self.group.max()) + 1
        rows = [np.flatnonzero(part) for part in parts]
        index = np.concatenate(rows)
        place = np.repeat(np.arange(len(parts)) * cells, [len(r) for r in rows])
        place += self.y[index] * self.classes + self.predicted[index]
        ones = np.ones(len(index))
        counts = csr_array((ones, (place, self.group[index])), shape=(len(parts) * cells, groups))
        for weights in bootstrap_weights(range(groups), resamples, seed):
            drawn = counts @ np.ascontiguousarray(weights.T)
            here = drawn.reshape(len(parts), cells, -1).transpose(0, 2, 1)
            yield self.counted(here), self.counted(here[:1] - here if without else here[:1])

    def cells(self, rows: Rows) -> Floats:
        """Counts ``[C * C]`` of truth and prediction of some rows."""
        place = self.y[rows] * self.classes + self.predicted[rows]
        return np.bincount(place, minlength=self.classes**2).astype(np.float64)

    def counted(self, cells: Floats) -> dict[str, Floats]:
        """Figures ``[...]`` of counts ``[..., C * C]`` of truth and prediction; nan where they are not defined."""
        table = cells.reshape(*cells.shape[:-1], self.classes, self.classes)
        hits, truth, named = np.diagonal(table, axis1=-2, axis2=-1), table.sum(axis=-1), table.sum(axis=-2)
        total = truth.sum(axis=-1)
        found = {}
        with np.errstate(divide="ignore", invalid="ignore"):
            found["accuracy"] = hits.sum(axis=-1) / total
            if "macro_f1" in self.names:
                seen = truth + named
                found["macro_f1"] = np.where(seen > 0, 2 * hits / seen, 0).sum(axis=-1) / (seen > 0).sum(axis=-1)
            if self.of is not None:
                right, wanted = hits[..., self.of], truth[..., self.of]
                found["fpr"] = (named[..., self.of] - right) / (total - wanted)
                found["fnr"] = 1 - right / wanted
        return found
