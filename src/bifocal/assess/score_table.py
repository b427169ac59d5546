"""A table of scores as a model that is compared: what `bifocal score` wrote, or another system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import DataError, listed, nearest
from ..example import UNLABELLED, Rejected
from ..files.folders import Files
from ..files.tables import read_rows
from .scored_posts import ModelLabel, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECISION = "label"
"""The column in which `bifocal score` writes what was decided."""
SCORES = ("score", "prob", "probability")
"""Columns of a score, in tables that Bifocal did not write."""


class ScoreTable:
    """A table of scores: what `bifocal score` wrote, or another system's, with an ``id`` and a score.

    Parameters
    ----------
    truth : str, optional
        The column of the true label, of one label; by default the label's name.
    score : str, optional
        The column of the score, of one label.
    threshold : float
        From which on a post is flagged, where the table says no decision.
    """

    kind: Literal["run", "bundle", "scores"] = "scores"

    def __init__(self, path: Path, *, truth: str | None = None, score: str | None = None, threshold: float = 0.5):
        self.name, self.path = str(path), path
        self.truth_column, self.score_column, self.threshold = truth, score, threshold
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.left_out = 0
        for row in _table_rows(path):
            identity = None if row is None else row.get("id")
            if row is None or identity in (None, "") or row.get("error") not in (None, ""):
                self.left_out += 1
            elif str(identity) in self.rows:
                raise DataError(f"{path}: the id {identity!r} stands in two rows: a score each is wanted")
            else:
                self.rows[str(identity)] = row
        if not self.rows:
            raise DataError(f"{path} has no row with an `id` and a score: give what `bifocal score` wrote")
        self.first = next(iter(self.rows.values()))

    @cached_property
    def labels(self) -> Mapping[str, ModelLabel]:
        """Those named in it; without names, one that is called by its column of true labels, or "label"."""
        nested = self.first.get("labels")
        if isinstance(nested, Mapping):
            return dict.fromkeys(map(str, nested), ModelLabel(None, None, None))
        named = {c.split(".")[1]: None for row in self.rows.values() for c in row if c.startswith("labels.")}
        return dict.fromkeys(named or [self.truth_column or ""], ModelLabel(None, None, None))

    @property
    def version(self) -> str | None:
        found = field(self.first, "versions.policy")
        return None if found is None else str(found)

    @property
    def size_bytes(self) -> int | None:
        return None

    def vouched(self) -> bool:
        return False

    def answers(self, ids: Sequence[str], name: str, label: ModelLabel) -> Scored:
        """What it says of posts, by their ids.

        Raises `DataError` where it has no column of a score, or a class that the label lacks.
        """
        classes = label.classes or (0, 1)
        score, decided = self._columns(name, label)
        n, binary = len(ids), classes == (0, 1)
        predicted, p = np.full(n, UNLABELLED, dtype=np.int64), np.full((n, 2), np.nan)
        done = np.full(n, "", dtype=object)
        for i, identity in enumerate(ids):
            row = self.rows.get(identity, {})
            written, named = field(row, score), field(row, decided)
            given = number(written)
            if given is None and written not in (None, ""):
                raise DataError(
                    f"{self.path}: the score of {identity!r} is {written!r}; a probability between 0 and 1 is wanted "
                    "(one of 0 to 100: divide by 100)"
                )
            if given is None or (not binary and named in (None, "")):
                continue
            p[i] = 1 - given, given
            predicted[i] = given >= self.threshold if named in (None, "") else self._class(named, classes)
            acted = field(row, decided.removesuffix(DECISION) + "action")
            usual = ("allow", "block")[predicted[i]] if binary else str(classes[predicted[i]])
            done[i] = str(acted) if acted not in (None, "") else usual
        return Scored(predicted, p if binary else None, done, np.full(n, "", dtype=object))

    def _columns(self, name: str, label: ModelLabel) -> tuple[str, str]:
        """The columns of score and decision by a label; one that holds the truth is no decision."""
        decision = "" if self.truth_column == DECISION else DECISION
        if self.score_column is not None:
            if self.score_column not in self.first:
                known = nearest(self.score_column, list(self.first))
                raise DataError(f"{self.path} has no column {self.score_column!r} of scores; {known}")
            return self.score_column, decision
        if field(self.first, f"labels.{name}.prob") is not None or any(
            field(row, f"labels.{name}.prob") is not None for row in self.rows.values()
        ):
            return f"labels.{name}.prob", f"labels.{name}.label"
        own = [column for column in self.first if column.startswith("prob_")]
        for column in (label.probability, *own, *SCORES):
            if column and column in self.first:
                return column, decision
        raise DataError(
            f"{self.path} has the columns {listed(list(self.first))} and none of a score by {name or 'a label'} "
            f"({listed([c for c in (label.probability, *SCORES) if c])}): give what `bifocal score` wrote"
        )

    def _class(self, value: Any, classes: tuple[int | str, ...]) -> int:
        found = class_index(value, classes)
        if found is None:
            raise DataError(f"{self.path}: the label {value!r} is none of {listed(list(map(str, classes)))}")
        return found

    def truth(self, ids: Sequence[str], name: str, classes: tuple[int | str, ...]) -> NDArray[np.int64]:
        """The true class of each post, `UNLABELLED` where it has none: a decision is none, unless it is named so."""
        column = self.truth_column or name
        found = np.full(len(ids), UNLABELLED, dtype=np.int64)
        if self.truth_column is None and column == DECISION:
            return found
        for i, identity in enumerate(ids):
            value = self.rows.get(identity, {}).get(column)
            if value not in (None, ""):
                found[i] = self._class(value, classes)
        return found


def class_index(value: Any, classes: Sequence[int | str]) -> int | None:
    """The class that a cell names; None = none of them. pandas makes 1.0 of 1 where a cell is empty."""
    named = str(value).strip()
    names = [str(name) for name in classes]
    if named not in names:
        named = {"true": "1", "false": "0"}.get(named.lower(), named.removesuffix(".0"))
    return names.index(named) if named in names else None


def number(value: Any) -> float | None:
    """A cell as a probability, or None where it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found <= 1 else None


def field(row: Mapping[str, Any], name: str) -> Any:
    """A field by its dotted name, of a flat row or a nested one."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _table_rows(path: Path) -> Iterator[Mapping[str, Any] | None]:
    path = path.resolve()
    for _, row in read_rows(Files(path.parent), path.name, quotes="standard"):
        yield None if isinstance(row, Rejected) else row
