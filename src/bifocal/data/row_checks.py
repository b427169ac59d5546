"""Checks rows of a source for the manifest, also in units of some rows, by workers that read the source themselves."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..contracts import Modality, Source
from ..errors import DataError
from ..example import SPLITS, Example, Rejected, Taxonomy
from ..modalities.text import has_words
from ..scale.pool import Pool, Unit, Worker, finished, forget, receipts
from ..scale.threads import in_order
from ..workspace import read_jsonl
from .file_stamps import Entry, entry, stamp_of

ROWS = 128
"""Of a unit."""


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row of the source, as it goes on."""

    row: Example | Rejected
    line: str
    """For the manifest where all of it holds, else for the quarantine."""
    seen: list[Entry]
    """What the files that were read, or sought, were."""


@dataclass(frozen=True)
class RowChecks:
    """How rows are checked; makes the workers that do it."""

    source: Source
    modalities: Mapping[str, Modality]
    taxonomy: Taxonomy
    limit: int | None = None

    def reads_files(self, row: Example | Rejected) -> bool:
        """Whether a file is read for it, which takes far longer than anything else."""
        return isinstance(row, Example) and any(
            self.modalities[n].input.is_file for n in row.parts if n in self.modalities
        )

    def rows(self) -> Iterator[tuple[int, Example | Rejected]]:
        """Each with its number in the source."""
        return enumerate(islice(iter(self.source), self.limit), start=1)

    def key(self) -> str:
        """Changes with what a check depends on, but for the files behind references."""
        classes = {name: f"{type(of).__module__}:{type(of).__qualname__}" for name, of in self.modalities.items()}
        labels = self.taxonomy.to_json()
        return json.dumps([__version__, repr(self.source), self.source.fingerprint(), classes, labels, self.limit])

    def still_hold(self, path: Path) -> bool:
        """Whether all files that were read, or sought, for the rows of a unit's file are what they were."""
        rows: Iterator[Any] = read_jsonl(path)
        return all(stamp_of(self.source, e["reference"]) == e["stamp"] for _, _, seen in rows for e in seen)

    def check(self, item: tuple[int, Example | Rejected]) -> CheckedRow:
        number, row = item
        seen: list[Entry] = []
        if isinstance(row, Rejected):
            return CheckedRow(row, quarantine_line(row), seen)
        try:
            _check_fields(row, self.taxonomy)
            parts = {name: raw for name, raw in row.parts.items() if not is_empty(raw)}
            facts = {}
            for name in self.modalities:
                if name in parts:
                    facts[name] = _facts(name, self.modalities[name], parts[name], self.source, seen)
            if not parts:
                raise DataError("the row brings nothing to read: every part is missing or empty")
            labels = {name: row.labels.get(name) for name in self.taxonomy.labels}
            row = replace(row, parts=parts, labels=labels, meta={**row.meta, "facts": facts})
            return CheckedRow(row, json_line(row.to_json()), seen)
        except DataError as error:
            return CheckedRow(*rejected(row, f"row {number} of the source", str(error)), seen)

    def __call__(self, threads: int) -> Worker:
        return _Checker(self, threads)


def checked_by(pool: Pool, checks: RowChecks, n_units: Iterator[int], folder: Path) -> Iterator[CheckedRow]:
    """Every row checked by the workers of a pool, in order.

    Parameters
    ----------
    n_units : iterator of int
        Counts the units up, from 0, as rows are found to be there.
    """
    key = checks.key()

    def units() -> Iterator[Unit]:
        for n in n_units:
            unit = Unit(f"rows-{n:06d}.jsonl", {"first": n * ROWS, "rows": ROWS}, key)
            if finished(unit, folder) and not checks.still_hold(folder / unit.name):
                forget(unit, folder)
            yield unit

    for receipt in receipts(pool, checks, units(), folder):
        with (folder / receipt.name).open(encoding="utf-8") as file:
            for text in file:
                is_example, line, seen = json.loads(text)
                fields = json.loads(line)
                yield CheckedRow(Example.from_json(fields) if is_example else Rejected(**fields), line, seen)


class _Checker:
    """Checks the rows of one unit after another; goes through the source once, as units are given in order."""

    def __init__(self, checks: RowChecks, threads: int):
        self.checks, self.threads = checks, threads
        self._at = 0
        self._rows = checks.rows()

    def __call__(self, task: Mapping[str, Any], file: IO[bytes]) -> tuple[int, int]:
        first, end = task["first"], task["first"] + task["rows"]
        if first < self._at:
            self._at, self._rows = 0, self.checks.rows()
        rows, self._at = islice(self._rows, first - self._at, end - self._at), end
        counts = {Example: 0, Rejected: 0}
        for checked in map(self.checks.check, rows) if self.threads == 1 else in_order(self.checks.check, rows):
            counts[type(checked.row)] += 1
            file.write((json.dumps([isinstance(checked.row, Example), checked.line, checked.seen]) + "\n").encode())
        return counts[Example], counts[Rejected]


def is_empty(raw: Any) -> bool:
    """Whether a part brings nothing to read: no value, no sign to be seen, or a record of such cells."""
    cells = raw.values() if isinstance(raw, dict) else (raw,)
    return all(c is None or c != c or (isinstance(c, str) and not has_words(c)) for c in cells)


def _check_fields(row: Example, taxonomy: Taxonomy) -> None:
    if not isinstance(row.id, str) or not row.id:
        raise DataError(f"id must be a non-empty string, found {row.id!r}")
    try:
        row.id.encode()
    except UnicodeEncodeError:
        raise DataError(f"id {row.id!r} is not valid Unicode (a lone surrogate)") from None
    if row.split is not None and row.split not in SPLITS:
        raise DataError(f"split {row.split!r} is unknown; allowed: {', '.join(SPLITS)}, or null")
    if row.group is not None and not isinstance(row.group, str):
        raise DataError(f"group must be a string or null, found {row.group!r}")
    taxonomy.check(row.labels)


def _facts(name: str, modality: Modality, raw: Any, source: Source, seen: list[Entry]) -> dict[str, Any]:
    """The facts of a part; what was read for them, or sought, is noted in ``seen``."""
    try:
        return modality.facts(_opened(raw, source, seen) if modality.input.is_file else raw)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _opened(reference: str, source: Source, seen: list[Entry]) -> bytes:
    begun, stamp = time.time(), stamp_of(source, reference)
    try:
        blob = source.open(reference)
    except DataError:
        seen.append(entry(reference, stamp, begun, None))
        raise
    seen.append(entry(reference, stamp, begun, hashlib.sha256(blob).hexdigest()))
    return blob


def rejected(row: Example, where: str, reason: str) -> tuple[Rejected, str]:
    bad = Rejected(row.id if isinstance(row.id, str) else None, where, reason, row.to_json())
    return bad, quarantine_line(bad)


def quarantine_line(row: Rejected) -> str:
    try:
        return json_line(row.to_json())
    except DataError:
        return json_line({**row.to_json(), "row": repr(row.row)})


def json_line(row: Mapping[str, Any]) -> str:
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the row is not JSON: {error}") from None
    try:
        line.encode()
    except UnicodeEncodeError:  # a lone surrogate in a text, which UTF-8 cannot hold and JSON can escape
        line = json.dumps(row, allow_nan=False)
    return line + "\n"
