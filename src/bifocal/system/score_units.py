"""A table of posts cut into units of rows, and what decides on one of them, in any process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, TypedDict

from ..data.manifest import without_details
from ..errors import BifocalError, DataError, RunError
from ..files.post_table import Posts
from ..scale.pool import Unit

UNIT_ROWS = 2000
"""Rows of a unit, about: what a killed process has to do again. A unit is whole batches."""
UNIT_FILES = 128
"""The same where posts bring files, such as pictures, which take a hundred times as long."""
Lines = Iterator[tuple[int, Any]]


class DecisionLike(Protocol):
    """A decision, whoever made it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""


class Decider(Protocol):
    """What decides: a System, or a service."""

    @property
    def modalities(self) -> Collection[str]:
        """Those of the run."""

    @property
    def reads(self) -> frozenset[str]:
        """The parts that a post may bring, and what it may be called by (``subject``, ``external_id``)."""

    @property
    def forms(self) -> Mapping[str, str]:
        """How each part is given: ``words``, ``file`` or ``record``."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns of a record that are read."""

    @property
    def source_options(self) -> Mapping[str, Any]:
        """Of the run's source, whose columns a table may have."""

    @property
    def reads_words(self) -> bool:
        """Whether words on pictures are read."""

    @property
    def identity(self) -> Any:
        """JSON-able: another wherever decisions may be others."""

    @property
    def binary(self) -> bool:
        """Whether labels are 0 and 1."""

    @property
    def loader(self) -> Callable[[], Decider] | None:
        """Makes the same in another process, to which it can be sent; None where one process has to do."""

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[DecisionLike | BifocalError]:
        """A decision or an error for each row."""


class UnitFacts(TypedDict):
    """What is known of the rows of a unit: the first line of its file."""

    columns: dict[str, bool]
    """Of the output, in order of appearance, without ``error``: whether each holds 0 and 1 alone."""
    reasons: dict[str, int]
    """Errors without what differs from row to row, and how often each occurred."""
    table: dict[str, list[str]]
    """`Posts.take_columns`."""


@dataclass(frozen=True)
class Scoring:
    """Makes workers that decide on rows of one table, by models that each process loads anew.

    Attributes
    ----------
    load : callable
        Gives what decides.
    identity : JSON-able
        Of what decides in the process that asks.
    rows : Path
        The table.
    images : Path or None
        Where pictures are looked up.
    batch_size : int
    """

    load: Callable[[], Decider]
    identity: Any
    rows: Path
    images: Path | None
    batch_size: int

    def __call__(self, threads: int) -> ScoringWorker:
        system = self.load()
        if system.identity != self.identity:
            raise RunError("the run's policy or models were replaced while the table was decided on: score it again")
        return ScoringWorker(system, self)


def posts_of(system: Decider, images: Path | None) -> Posts:
    """What reads a table for one that decides."""
    return Posts(system.reads, system.columns, system.source_options, images, system.forms)


@dataclass
class ScoringWorker:
    """Decides on one unit after another. The table is read along, and anew where a unit lies before the last one."""

    system: Decider
    scoring: Scoring
    _posts: Posts = field(init=False)
    _rows: Lines = field(init=False, default_factory=lambda: iter(()))
    _next: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._posts = posts_of(self.system, self.scoring.images)

    def __call__(self, task: Mapping[str, Any], file: IO[bytes]) -> tuple[int, int]:
        """Write the facts, then a line for each row; ASCII, since an id may hold what UTF-8 cannot."""
        start, stop = task["rows"]
        columns: dict[str, bool] = {}
        reasons: Counter[str] = Counter()
        lines = []
        rows = self._between(start, stop)
        while batch := [self._posts.post(number, row) for number, row in islice(rows, self.scoring.batch_size)]:
            decided = iter(self.system.predict_batch([post for _, post in batch if not isinstance(post, DataError)]))
            for identity, post in batch:
                line = _line(identity, post if isinstance(post, DataError) else next(decided))
                if line["error"] is not None:
                    reasons[without_details(line["error"])] += 1
                for column, value in flat(line).items():
                    columns[column] = columns.get(column, True) and isinstance(value, int) and value in (0, 1)
                lines.append(json.dumps(line).encode() + b"\n")
        if len(lines) != stop - start:
            raise RunError(f"{self.scoring.rows} was changed while it was decided on: score it again")
        columns.pop("error")
        facts = UnitFacts(columns=columns, reasons=dict(reasons), table=self._posts.take_columns())
        file.write(json.dumps(facts).encode() + b"\n")
        file.writelines(lines)
        return len(lines) - reasons.total(), reasons.total()

    def _between(self, start: int, stop: int) -> Lines:
        if self._next is None or self._next > start:
            self._rows, self._next = enumerate(self._posts.rows(self.scoring.rows)), 0
        rows, self._next = islice(self._rows, start - self._next, stop - self._next), stop
        return rows


def units(system: Decider, posts: Posts, rows: Path, batch_size: int, key: str) -> Iterator[Unit]:
    """The rows of a table in units, whose borders do not depend on who does them; reads on as they are asked for.

    ``posts`` has read the first rows of it, and so knows whether they bring files.
    """
    if system.loader is None:
        most = batch_size  # a service is asked again for nothing that it answered
    else:
        most = UNIT_FILES if any(system.forms.get(name) == "file" for name in posts.brought) else UNIT_ROWS
    size = max(1, most // batch_size) * batch_size
    table, start = posts.rows(rows), 0
    while n := sum(1 for _ in islice(table, size)):
        yield Unit(f"{start:010d}.jsonl", {"rows": [start, start + n]}, key)
        start += n


def read_facts(path: Path) -> UnitFacts:
    """The first line of a unit's file."""
    with path.open(encoding="utf-8") as file:
        facts: UnitFacts = json.loads(file.readline())
    return facts


def _line(identity: str, answer: DecisionLike | BifocalError) -> dict[str, Any]:
    if isinstance(answer, BifocalError):
        return {"id": identity, "error": str(answer)}
    told = answer.to_dict()
    decision = {"decision_id": told.pop("id")} if "id" in told else {}
    return {"id": identity, **decision, **told, "error": None}


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """One level only: ``models.text_expert.prob`` and the like become columns; a label that is not asked has none."""
    result: dict[str, Any] = {}
    if isinstance(row.get("labels"), dict):
        row = {**row, "labels": {label: answer for label, answer in row["labels"].items() if answer is not None}}
    for key, value in row.items():
        if isinstance(value, dict):
            result.update({f"{key}.{inner}": v for inner, v in flat(value).items()})
        else:
            result[key] = value
    return result
