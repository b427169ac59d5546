"""Whether a column of a table gives a label away all alone: its AUROC as a predictor, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluate.ranking import ClassRanking

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAK = 0.98
"""AUROC above which a column is taken for the label in other words."""
FEWEST = 10
"""Rows of a class under which nothing is said of it: chance alone reaches `LEAK` there."""
FOLDS = 5
_BINS = 50


def label_given_away(
    cells: Sequence[Hashable | None], labels: Sequence[Hashable | None], number: Callable[[Hashable], float | None]
) -> float:
    """AUROC with which one column predicts a label; of several classes the best that one of them comes to.

    A value counts by the share of the class among rows of the other folds that bear it (target encoding, cross-fitted;
    Micci-Barreca 2001), so that an id, whose values are all different, predicts nothing. An empty cell is a value: a
    column that is filled in only for posts that were judged gives the judgement away. Numbers are cut into bins of
    equal size for it, and are ranked as they are, both ways, too.

    Parameters
    ----------
    cells, labels : sequence of hashable or None, [n]
        None = nothing there; rows without a label are left out.
    number : callable
        A cell as a number, or None.

    Returns
    -------
    float
        0.5 or less = nothing; nan where no class has `FEWEST` rows and as many outside it.
    """
    rows = [i for i, label in enumerate(labels) if label is not None]
    found = [labels[i] for i in rows]
    values = [cells[i] for i in rows]
    read = [None if value is None else number(value) for value in values]
    is_number = sum(one is not None for one in read) > 0.9 * sum(value is not None for value in values)
    keys = _binned(read) if is_number else _codes(values)
    folds = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    best = float("nan")
    for kind in dict.fromkeys(found):
        happened = np.array([one == kind for one in found])
        if not FEWEST <= happened.sum() <= len(rows) - FEWEST:
            continue
        scores = [_auroc(happened, _encoded(keys, happened, folds))]
        if is_number:
            known = np.array([one is not None for one in read])
            if FEWEST <= happened[known].sum() <= known.sum() - FEWEST and known.mean() > 0.9:
                ranked = _auroc(happened[known], np.array([one for one in read if one is not None], dtype=np.float64))
                scores.append(max(ranked, 1 - ranked))
        best = float(np.nanmax([best, *scores]))
    return best


def _auroc(happened: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return float(ClassRanking(happened, scores).areas(np.ones((1, len(scores))))[0][0])


def _codes(values: Sequence[Hashable | None]) -> NDArray[np.intp]:
    codes: dict[Hashable | None, int] = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.intp)


def _binned(read: Sequence[float | None]) -> NDArray[np.intp]:
    """Bins of about as many rows each; rows without a number are one of their own."""
    numbers = np.array([np.nan if one is None else one for one in read], dtype=np.float64)
    known = numbers[~np.isnan(numbers)]
    bins = int(np.clip(len(known) // (2 * FEWEST), 2, _BINS))
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.empty(0)
    return np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, side="right"))


def _encoded(keys: NDArray[np.intp], happened: NDArray[np.bool_], folds: NDArray[np.intp]) -> NDArray[np.float64]:
    """Share of the class among the rows of the other folds that bear a row's value, drawn a little to the mean."""
    width = int(keys.max()) + 1
    scores = np.empty(len(keys))
    for fold in range(FOLDS):
        inside = folds == fold
        counts = np.bincount(keys[~inside], minlength=width)
        sums = np.bincount(keys[~inside], weights=happened[~inside], minlength=width)
        prior = happened.mean()  # of all rows: that of the other folds would tell something of this one
        scores[inside] = ((sums + prior) / (counts + 1))[keys[inside]]
    return scores
