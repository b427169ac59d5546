"""Who learns and who judges: splits, holdouts and folds that never part a group and keep the classes in proportion.

Three small greedy procedures instead of scikit-learn's StratifiedGroupKFold: that one knows equal folds only, fails on
fewer groups than folds, and takes seconds per thousand groups. All of them are deterministic under the seed:
groups are ordered by a hash of seed and group name, so neither the order of rows nor that of a dict matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..example import SPLITS

Ints = NDArray[np.int64]


Carve = Callable[[Sequence[int], Mapping[str, float]], Ints]
"""Rows to carve from, and split -> share -> for each of these rows which of the splits it goes to, -1 for none."""


def assign_splits(
    ids: Sequence[str],
    groups: Sequence[str],
    classes: Sequence[int],
    official: Sequence[str | None],
    *,
    val: float,
    test: float,
    seed: int,
    promised: Sequence[bool] | None = None,
) -> dict[str, str]:
    """Give every row a split: the source's own where it has one, else one drawn by the seed (`splits_beside_official`).

    Carving is in proportion to the classes. ``val`` and ``test`` are shares of the rows carved from, met within one row
    where groups are single rows.

    Tiny data: a carved split gets at least one group as long as there are groups enough (train first, then val, then
    test); a class of one row mostly stays in train; a group larger than a split's share stays in train, and where
    the others are too few for val and test, these get them in proportion.

    Parameters
    ----------
    ids, groups, classes, official : sequences, [n]
        ``classes`` are class indices of labelled rows.
    val, test : float
        0 = do not carve.
    seed : int
    promised : sequence of bool, [n], optional
        Rows whose official split stays even where it is train and another one is to be carved.

    Returns
    -------
    dict
        Id -> ``train``, ``val`` or ``test``.

    Raises
    ------
    DataError
        Where official splits leave no row for train.
    """

    def carve(rows: Sequence[int], shares: Mapping[str, float]) -> Ints:
        return _carve([groups[i] for i in rows], [classes[i] for i in rows], list(shares.values()), seed)

    splits = splits_beside_official(groups, official, promised, {"val": val, "test": test}, carve)
    return dict(zip(ids, splits, strict=True))


def carved_shares(official: Sequence[str | None], shares: Mapping[str, float]) -> dict[str, float]:
    """Of the shares those that are carved: above 0, and of a split that no row officially is."""
    return {name: share for name, share in shares.items() if share > 0 and name not in set(official)}


def splits_beside_official(
    groups: Sequence[str],
    official: Sequence[str | None],
    promised: Sequence[bool] | None,
    shares: Mapping[str, float],
    carve: Carve,
) -> list[str]:
    """The split of each row, [n], groups being whole.

    - A row with an official split keeps it (but for train rows that a missing split is carved from).
    - A row without one follows its group where that has official rows (train before val before test, where the
      group itself straddles: that adds no further leak).
    - A split that no official row has is carved from the train and the unassigned rows. Groups with official val or
      test rows, or with a row that is promised its split, are not carved from.
    - All other rows are train.

    Raises
    ------
    DataError
        Where official splits leave no row for train.
    """
    group, own = factorize(groups), factorize(official, SPLITS)
    taken = _splits_of(group, own)
    shares = carved_shares(official, shares)
    result = np.where(own >= 0, own, _FIRST[taken[group]])
    kept = np.zeros(len(taken), dtype=bool)
    if promised is not None:
        kept[group[np.array(promised, dtype=bool)]] = True
    pool = np.flatnonzero((taken[group] <= 1) & ~kept[group])  # official in no split, or in train alone
    if shares and len(pool):
        carved = carve(pool.tolist(), shares)
        places = np.array([SPLITS.index(name) for name in shares])
        result[pool[carved >= 0]] = places[carved[carved >= 0]]
    if len(result) and result.all():
        found = sorted({SPLITS[split] for split in result.tolist()})
        raise DataError(
            f"all {len(groups)} labelled rows are officially {' or '.join(found)}, none is left to train on: add the "
            "source's train file"
        )
    return [SPLITS[split] for split in result.tolist()]


def holdout_rows(groups: Sequence[str], classes: Sequence[int], share: float, seed: int) -> list[bool]:
    """Which rows to keep aside: about ``share`` of them, whole groups, in proportion to the classes.

    At least one group is kept aside and one is not, where there are two or more; none where there is one.
    """
    return [bool(aside) for aside in _carve(groups, classes, [share], seed) >= 0]


def fold_of(groups: Sequence[str], classes: Sequence[int], folds: int, seed: int) -> list[int]:
    """The fold of each row, for cross-fitting: groups stay whole, classes and sizes are balanced.

    Larger groups are dealt first, each to the fold with the fewest rows of its main class (longest processing time
    first, Graham 1969). Folds are numbered 0 .. min(folds, number of groups) - 1, and none of those is empty.

    Raises
    ------
    DataError
        Where there are fewer than two groups: no row could be predicted by a model that has not seen its group.
    """
    units = _Units(groups, classes, seed)
    if len(units) < 2:
        raise DataError(f"cross-fitting needs rows of at least two groups, found {len(units)}")
    folds = min(folds, len(units))
    rows = [0] * folds
    of_class = [[0] * folds for _ in range(units.classes)]
    fold = np.empty(len(units), dtype=np.int64)
    sizes, mains = units.size.tolist(), units.main.tolist()
    for number, unit in enumerate(np.argsort(-units.size, kind="stable").tolist()):
        counts = of_class[mains[unit]]
        # The first few groups open a fold each, so that none stays empty.
        best = number if number < folds else min(range(folds), key=lambda f: (counts[f], rows[f]))
        fold[unit] = best
        rows[best] += sizes[unit]
        for kind, n in units.held(unit):
            of_class[kind][best] += n
    return list(map(int, fold[units.of_row]))


def leaking_rows(groups: Sequence[str], splits: Sequence[str]) -> list[bool]:
    """Rows of val and test whose group also stands in an earlier split: for val in train, for test in train or val."""
    group, split = factorize(groups), factorize(splits, SPLITS)
    earlier = (1 << split) - 1
    return [bool(leak) for leak in _splits_of(group, split)[group] & earlier]


_FIRST = np.array([0, 0, 1, 0, 2, 0, 1, 0])
"""The first of the splits in a set of them, as `_splits_of` gives it; train where there is none."""


def _splits_of(group: Ints, split: Ints) -> Ints:
    """The splits in which each group has rows: the sum of 1 for train, 2 for val and 4 for test; -1 is no split."""
    found = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.bitwise_or.at(found, group[split >= 0], 1 << split[split >= 0])
    return found


def factorize(values: Iterable[Hashable | None], known: Sequence[Hashable] = ()) -> Ints:
    """Equal values as equal numbers: their place among those known, then in the order they appear; None is -1."""
    numbers = {value: i for i, value in enumerate(known)}
    return np.array([-1 if v is None else numbers.setdefault(v, len(numbers)) for v in values], dtype=np.int64)


class _Units:
    """Groups as dealt out: never parted, each counted under its main class. Their order depends on nothing but the seed
    and their names.

    Attributes
    ----------
    of_row : int64 array, [n]
        The unit of each row.
    size, main : int64 arrays, [u]
        Rows of each unit, and the class that most of them bear. Classes are numbered in the order of their names.
    classes : int
        How many there are.
    """

    def __init__(self, groups: Sequence[str], classes: Sequence[Hashable], seed: int):
        names = list(dict.fromkeys(groups))
        digests = [hashlib.sha256(f"{seed}:{name}".encode(errors="replace")).digest() for name in names]
        place = np.empty(len(names), dtype=np.int64)
        place[sorted(range(len(names)), key=digests.__getitem__)] = np.arange(len(names))
        self.of_row = place[factorize(groups, names)]
        self.size = np.bincount(self.of_row, minlength=len(names))
        kinds = sorted(set(classes), key=str)
        self.classes = len(kinds)
        pairs, self._rows = np.unique(self.of_row * len(kinds) + factorize(classes, kinds), return_counts=True)
        unit, self._kinds = np.divmod(pairs, max(len(kinds), 1))
        self._bounds = np.searchsorted(unit, np.arange(len(names) + 1))
        order = np.lexsort((self._kinds, self._rows, unit))
        self.main = self._kinds[order][self._bounds[1:] - 1]

    def __len__(self) -> int:
        return len(self.size)

    def held(self, unit: int) -> Iterable[tuple[int, int]]:
        """Class and number of rows, for each class in a unit."""
        some = slice(self._bounds[unit], self._bounds[unit + 1])
        return zip(self._kinds[some].tolist(), self._rows[some].tolist(), strict=True)


def _carve(groups: Sequence[str], classes: Sequence[Hashable], shares: Sequence[float], seed: int) -> Ints:
    """Which of the shares each row is carved into, -1 for the rest.

    Class by class, rarest first, each group goes to the share that lacks most, as long as it fits what that one still
    wants. What a class could not fill, or overfilled by rounding, is carried to the next, so that the total is right
    as well.
    """
    units = _Units(groups, classes, seed)
    strata = [np.flatnonzero(units.main == kind) for kind in range(units.classes)]
    carved = np.full(len(units), -1)
    want = [0.0] * len(shares)
    for stratum in sorted((s for s in strata if len(s)), key=lambda s: int(units.size[s].sum())):
        for number, share in enumerate(shares):
            want[number] += share * int(units.size[stratum].sum())
        for unit, size in zip(stratum.tolist(), units.size[stratum].tolist(), strict=True):
            fitting = [number for number, wanted in enumerate(want) if size <= wanted + 0.5 - 1e-9]
            if fitting:
                neediest = max(fitting, key=lambda number: want[number] / shares[number])
                carved[unit] = neediest
                want[neediest] -= size
    return _nonempty(units.size, carved, len(shares))[units.of_row]


def _nonempty(sizes: Ints, carved: Ints, shares: int) -> Ints:
    """Give each share one group where it got none, the remainder coming first; the smallest groups move."""
    by_size = np.argsort(sizes, kind="stable")
    for number in range(-1, shares)[: len(sizes)]:
        held = np.bincount(carved + 1, minlength=shares + 1)
        if not held[number + 1]:
            # Taken from the remainder if it can spare one, else from the share with most groups (ties: the last).
            giver = -1 if held[0] > 1 else max(reversed(range(shares)), key=lambda holder: held[holder + 1])
            carved[by_size[carved[by_size] == giver][0]] = number
    return carved
