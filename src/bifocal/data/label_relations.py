"""How the labels of one run go together: how often two are borne at once, contradict each other, or one is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import TypedDict

import numpy as np

from ..evaluate.differences import class_shares_p_value
from ..example import LabelValue, Taxonomy

Classes = Sequence[Mapping[str, LabelValue]]
"""The labels of each row, as classes (`Taxonomy.classes_of`)."""
ALPHA = 0.01
"""Chance of telling of any gap that depends on a class where none does, over all pairs of labels (Bonferroni)."""


class Pair(TypedDict):
    """Two binary labels on the rows that bear both: which of them are positive."""

    labels: list[str]
    both: int
    first: int
    """The first alone."""
    second: int
    neither: int


class Contradiction(TypedDict):
    """A label on rows whose other answers say that it should not be asked; they are not learned from or measured."""

    requires: str
    negative: dict[str, int]
    """Class -> rows, of those that are negative by the label that this one requires."""
    unknown: int
    """Rows where that label is not annotated."""


class Gap(TypedDict):
    """A label that is missing more often in some classes of another than in others."""

    label: str
    by: str
    annotated: dict[str, float]
    """Class of the other -> share of its rows on which the label is annotated."""


def pairs_of(rows: Classes, names: Sequence[str], taxonomy: Taxonomy) -> list[Pair]:
    """For each two of the binary labels among ``names``, in their order."""
    found: list[Pair] = []
    for one, other in combinations([name for name in names if taxonomy[name].binary], 2):
        n = Counter((row[one], row[other]) for row in rows)
        found.append({"labels": [one, other], "both": n[1, 1], "first": n[1, 0], "second": n[0, 1], "neither": n[0, 0]})
    return found


def contradictions_of(rows: Classes, names: Sequence[str], taxonomy: Taxonomy) -> dict[str, Contradiction]:
    """Each label that requires another -> its rows that are not positive by that one, where there are any."""
    found: dict[str, Contradiction] = {}
    for name in names:
        if (parent := taxonomy[name].requires) is None:
            continue
        odd = Counter((row[parent], str(row[name])) for row in rows if row[name] is not None and row[parent] != 1)
        negative = {kind: n for (answer, kind), n in sorted(odd.items(), key=str) if answer is not None}
        if odd:
            unknown = odd.total() - sum(negative.values())
            found[name] = {"requires": parent, "negative": negative, "unknown": unknown}
    return found


def gaps_of(rows: Classes, groups: Sequence[str], names: Sequence[str], taxonomy: Taxonomy) -> list[Gap]:
    """Where chance does not explain that a label is annotated more often in one class of another than in the rest.

    The classes of the other label are compared between rows with and without this one (`class_shares_p_value`). That
    shows nothing of a gap that depends on the very class that is missing. A label that requires another is missing
    where that is negative, which is no gap: of such a label the rows are compared where the other is positive.

    Parameters
    ----------
    groups : sequence of str
        Of the rows: near-duplicates count as one.
    """
    found: list[Gap] = []
    asked = [(name, by) for name, by in permutations(names, 2) if taxonomy[name].requires != by]
    bears = {name: np.array([row[name] is not None for row in rows]) for name in names}
    group = np.array(groups)
    for name, by in asked:
        label, known = taxonomy[by], bears[by]
        if (parent := taxonomy[name].requires) is not None:
            known = known & np.array([row[parent] == 1 for row in rows])
        index = np.array([label.index(row[by]) for row in rows])
        sides = [known & bears[name], known & ~bears[name]]
        p = class_shares_p_value([(index[side], group[side].tolist()) for side in sides], len(label.classes))
        if p < ALPHA / len(asked):
            there, gone = (np.bincount(index[side], minlength=len(label.classes)) for side in sides)
            borne = zip(label.classes, there.tolist(), (there + gone).tolist(), strict=True)
            found.append({"label": name, "by": by, "annotated": {str(c): n / of for c, n, of in borne if of}})
    return found


def told_of(contradictions: Mapping[str, Contradiction], gaps: Sequence[Gap]) -> list[str]:
    """Both in sentences, for people."""
    told = []
    for name, odd in contradictions.items():
        kinds = ", ".join(f"{n:,} x {kind!r}" for kind, n in odd["negative"].items())
        where = [f"{sum(odd['negative'].values()):,} where {odd['requires']} is 0 ({kinds})"] if kinds else []
        where += [f"{odd['unknown']:,} where {odd['requires']} is not annotated"] if odd["unknown"] else []
        told.append(
            f"{name} is annotated on rows that are not positive by {odd['requires']}, which it requires: "
            f"{' and '.join(where)}; they are kept for the other labels, and {name} is not learned from them"
        )
    for gap in gaps:
        shares = ", ".join(f"{share:.0%} of {kind!r}" for kind, share in gap["annotated"].items())
        told.append(
            f"{gap['label']} is annotated on {shares} by {gap['by']}, which is not chance: what is learned of it is of "
            "rows of another mix than the posts"
        )
    return told
