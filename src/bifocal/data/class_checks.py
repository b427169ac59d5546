"""Whether each split can show every class, asked before anything is read, packed or trained that would be in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress, repeat
from typing import NamedTuple

from ..config import SplitsConfig
from ..errors import DataError
from ..example import SPLITS
from .splits import holdout_rows

FEW = 10
"""Rows of a class under which a split says next to nothing of it."""
NO_TEST = "no test split: figures will be of rows on which thresholds were chosen; set `splits.test`"
REMEDY = "give more labelled rows of it, raise `splits.val` and `splits.test`, or name a source with other splits"

Classes = Mapping[str, Counter[str]]
"""Split (``unassigned``: none yet) -> class -> rows."""


def asked_of(name: str, requires: str | None) -> str:
    """How messages call a label, of whose rows those alone count on which it is asked."""
    return f"{name} (where {requires} is 1)" if requires else name


def remedy_of(found: Classes, name: str) -> str:
    """What can be done about one of several labels, of which there is so much."""
    told = "; ".join(
        f"{split}: {', '.join(f'{n:,} x {kind!r}' for kind, n in sorted(found[split].items()))}"
        for split in (*SPLITS, "unassigned")
        if split in found
    )
    total = sum(counts.total() for counts in found.values())
    return f"{name} is annotated on {total:,} rows ({told or 'none'}): give more of them, or leave it out of `labels`"


def check_classes(found: Classes, name: str, shares: SplitsConfig, remedy: str = REMEDY) -> list[str]:
    """What the classes of a manifest will come to, its splits not being drawn yet; sentences to be told.

    Raises
    ------
    DataError
        Where all labelled rows, or those of an official split that is learned from or tuned on, are of one class.
    """
    total = sum(found.values(), Counter[str]())
    if not total:
        return []
    _refuse_one(total, "labelled rows", name, remedy)
    free = found.get("train", Counter()) + found.get("unassigned", Counter())
    for split, rows in (("train", free), ("val", found.get("val", Counter()))):
        if rows:
            _refuse_one(rows, f"rows that are or may become {split}", name, remedy)
    kind, least = min(free.items(), key=lambda item: item[1], default=("", 0))
    drawn = {"val": shares.val, "test": shares.test}
    drawn = {split: least * share for split, share in drawn.items() if share and split not in found}
    if not any(expected < 1 for expected in drawn.values()):
        return []
    shown = " and ".join(f"{expected:.1f} to {split}" for split, expected in drawn.items())
    return [f"{least} of {free.total():,} rows are {kind!r} by {name}, of which some {shown} can be drawn: {REMEDY}"]


class SplitRow(NamedTuple):
    """A row as the checks see it: one label of it, and the parts it brings of those that the run reads."""

    split: str
    kind: str | None
    """Its class; None where the label is not annotated."""
    parts: Sequence[str]


def rows_aside(rows: Sequence[SplitRow], groups: Sequence[str], holdout: float, seed: int) -> list[bool]:
    """Which rows will be kept aside for the fusion, ``holdout`` of train; empty where there is no val split, or 0."""
    if not holdout or all(row.split != "val" for row in rows):
        return []
    train = [i for i, row in enumerate(rows) if row.split == "train"]
    kinds = sorted({str(row.kind) for row in rows})
    classes = [kinds.index(str(rows[i].kind)) for i in train]
    aside = set(compress(train, holdout_rows([groups[i] for i in train], classes, holdout, seed)))
    return [i in aside for i in range(len(rows))]


def check_splits(rows: Sequence[SplitRow], aside: Sequence[bool], name: str, remedy: str = REMEDY) -> list[str]:
    """See that experts, fusion and policy will find two classes at least wherever they need them.

    Parameters
    ----------
    rows : sequence of SplitRow
    aside : sequence of bool
        Of the rows, as `rows_aside` finds them; empty for none.
    remedy : str
        What is to be done where they do not.

    Returns
    -------
    list of str
        What is too little to say much, in sentences to be told.

    Raises
    ------
    DataError
        Naming the split, the part and the class there is.
    """
    found: dict[str, Counter[str]] = {}
    of_part: dict[tuple[str, str], Counter[str]] = {}
    of_use: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for (split, kind, parts), out in zip(rows, aside or repeat(False, len(rows)), strict=True):
        counts = found.setdefault(split, Counter())
        for part in parts:
            of_part.setdefault((split, part), Counter())
        if kind is None:
            continue
        counts[kind] += 1
        of_use[out][kind] += split == "train"
        for part in parts:
            of_part[split, part][kind] += 1
    for split, counts in found.items():
        if not counts:
            raise DataError(f"no {split} row bears {name}: {remedy}")
    for (split, part), counts in of_part.items():
        if split != "test":
            _refuse_one(counts, f"{split} rows with {part}", name, remedy)
    for kept, whose in ((True, "kept aside for the fusion"), (False, "left for the experts")) if aside else ():
        what = f"train rows {whose} (`fusion.holdout`; `tune: head` needs none)"
        _refuse_one(of_use[kept], what, name, remedy)
    return _poor(found, name)


def _poor(found: Classes, name: str) -> list[str]:
    told = []
    total = sum(found.values(), Counter[str]())
    for split, counts in found.items():
        for kind in sorted(total):
            if split == "train" and not counts[kind]:
                told.append(
                    f"no train row is {kind!r} by {name}, {total[kind]} others are: no model can learn it; {REMEDY}"
                )
            elif split != "train" and counts[kind] < FEW:
                told.append(
                    f"{split} has {counts[kind]} rows that are {kind!r} by {name}: figures of it say little; {REMEDY}"
                )
    return told


def _refuse_one(counts: Counter[str], what: str, name: str, remedy: str) -> None:
    kinds = [kind for kind, n in counts.items() if n]
    if len(kinds) < 2:
        found = f"all {counts.total():,} {what} are {kinds[0]!r} by {name}" if kinds else f"no {what} bear {name}"
        raise DataError(f"{found}, and two classes at least are needed there: {remedy}")
