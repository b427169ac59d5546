"""Whether each split can show every class, asked before anything is read, packed or trained that would be in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..config import SplitsConfig
from ..errors import DataError
from .splits import holdout_rows

FEW = 10
"""Rows of a class under which a split says next to nothing of it."""
REMEDY = "give more labelled rows of it, raise `splits.val` and `splits.test`, or name a source with other splits"

Classes = Mapping[str, Counter[str]]
"""Split (``unassigned``: none yet) -> class -> rows."""


def check_classes(found: Classes, name: str, shares: SplitsConfig) -> list[str]:
    """What the classes of a manifest will come to, its splits not being drawn yet; sentences to be told.

    Raises
    ------
    DataError
        Where all labelled rows, or those of an official split that is learned from or tuned on, are of one class.
    """
    total = sum(found.values(), Counter[str]())
    if not total:
        return []
    _refuse_one(total, f"all {total.total():,} labelled rows are", name)
    free = found.get("train", Counter()) + found.get("unassigned", Counter())
    for split, rows in (("train", free), ("val", found.get("val", Counter()))):
        if rows:
            _refuse_one(rows, f"all {rows.total():,} rows that are or may become {split} are", name)
    kind, least = min(free.items(), key=lambda item: item[1], default=("", 0))
    drawn = {"val": shares.val, "test": shares.test}
    drawn = {split: least * share for split, share in drawn.items() if share and split not in found}
    if not any(expected < 1 for expected in drawn.values()):
        return []
    shown = " and ".join(f"{expected:.1f} to {split}" for split, expected in drawn.items())
    return [f"{least} of {free.total():,} rows are {kind!r} by {name}, of which some {shown} can be drawn: {REMEDY}"]


def check_splits(
    rows: Iterable[tuple[str, str, Sequence[str]]], groups: Sequence[str], name: str, holdout: float, seed: int
) -> list[str]:
    """See that experts, fusion and policy will find two classes at least wherever they need them.

    Parameters
    ----------
    rows : iterable of (split, class, parts)
        The parts that a row brings of those that the run reads.
    groups : sequence of str
        Of the rows, in their order.
    holdout : float
        Share of train that will be kept aside for the fusion; 0 = none.

    Returns
    -------
    list of str
        What is too little to say much, in sentences to be told.

    Raises
    ------
    DataError
        Naming the split, the part and the class there is.
    """
    rows = list(rows)
    found: dict[str, Counter[str]] = {}
    of_part: dict[tuple[str, str], Counter[str]] = {}
    for split, kind, parts in rows:
        found.setdefault(split, Counter())[kind] += 1
        for part in parts:
            of_part.setdefault((split, part), Counter())[kind] += 1
    for (split, part), counts in of_part.items():
        if split != "test":
            _refuse_one(counts, f"all {counts.total():,} {split} rows with {part} are", name)
    train = [i for i, (split, _, _) in enumerate(rows) if split == "train"]
    if holdout and "val" in found:
        kinds = sorted({kind for _, kind, _ in rows})
        classes = [kinds.index(rows[i][1]) for i in train]
        aside = holdout_rows([groups[i] for i in train], classes, holdout, seed)
        for kept, whose in ((True, "kept aside for the fusion"), (False, "left for the experts")):
            some = Counter(rows[i][1] for i, out in zip(train, aside, strict=True) if out == kept)
            _refuse_one(
                some, f"all {some.total():,} train rows {whose} (`fusion.holdout`; `tune: head` needs none) are", name
            )
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
    if "test" not in found:
        told.append("no test split: figures will be of rows on which thresholds were chosen; set `splits.test`")
    return told


def _refuse_one(counts: Counter[str], what: str, name: str) -> None:
    kinds = [kind for kind, n in counts.items() if n]
    if len(kinds) < 2:
        of = repr(kinds[0]) if kinds else "nothing"
        raise DataError(f"{what} {of} by {name}, and two classes at least are needed there: {REMEDY}")
