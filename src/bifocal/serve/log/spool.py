"""Keeps decisions on disk while the database is away, and brings each home once."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from errno import EDQUOT, ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import BifocalError
from ...workspace import atomic, folder_lock
from .decision_store import check_entry, hash_subject, read_secret
from .records import KeptPost, LogEntry, NotStorable, StoreFull, StoreGone

AT_ONCE = 200
_LOG = logging.getLogger(__name__)
_Line = tuple[bytes, LogEntry]


class Spool:
    """A file of decisions, a line each, that is synced to disk before `append` returns.

    Of an author it holds the hash alone, as the log does. `replay` writes the decisions into the log, which leaves
    alone those that it has: a crash between the log's commit and the end of the file costs nothing and doubles nothing.
    A line that a crash cut short was never acknowledged. One that is no decision, or that the log refuses, is set aside
    in ``spool.refused.jsonl`` and keeps no other waiting. Services that share a database may share the file.
    """

    def __init__(self, state: Path):
        self.path = Path(state) / "spool.jsonl"
        self.refused = Path(state) / "spool.refused.jsonl"
        self._secret = read_secret(Path(state))
        self._known = Path(state) / "last_forgotten"
        known = self._known.read_text().strip() if self._known.exists() else ""
        self._last_forgotten = int(known) if known.isdecimal() else 0
        self._counted: tuple[Any, int] = None, 0
        self.pending = _count(self.path)
        """Decisions that wait."""

    @property
    def set_aside(self) -> int:
        """Lines that the log does not take; they stay until somebody mends or deletes them."""
        try:
            status = self.refused.stat()
        except OSError:
            return 0
        stamp = status.st_mtime_ns, status.st_size
        if self._counted[0] != stamp:
            self._counted = stamp, _count(self.refused)
        return self._counted[1]

    def remember_forgotten(self, last_forgotten: int) -> None:
        """Remember, past a restart too, who was forgotten last: those who are forgotten later stay so (`replay`)."""
        if last_forgotten != self._last_forgotten:
            self._last_forgotten = last_forgotten
            # Where the disk is full it is known here, and after a restart rather too much stays forgotten.
            with suppress(BifocalError), atomic(self._known) as f:
                f.write(f"{last_forgotten}\n")

    def append(self, rows: Sequence[LogEntry], seal: Callable[[], None] = lambda: None) -> None:
        """Keep decisions, all or none.

        Parameters
        ----------
        seal : callable, optional
            Called when nothing is left but to write: what it raises keeps all of them out of the file.

        Raises
        ------
        NotStorable
            Where the log would refuse one of them.
        StoreFull, StoreGone
            Where the disk refuses.
        """
        blob = b"".join(json.dumps(self._plain(check_entry(row))).encode() + b"\n" for row in rows)
        with folder_lock(self.path.parent):
            seal()
            try:
                _append(self.path, blob)
            except OSError as error:
                if error.errno in (ENOSPC, EDQUOT):
                    raise StoreFull(f"{self.path} has no room, and the decision log is away") from error
                raise StoreGone(f"{self.path} cannot be written ({error.strerror}), and the log is away") from error
            self.pending += len(rows)

    def replay(self, record: Callable[[Sequence[LogEntry]], None]) -> int:
        """Write all that waits by ``record``, in order, and empty the file; gives the number of those written.

        Raises
        ------
        BifocalError
            What ``record`` raises but `NotStorable`; everything is then still there.
        """
        with folder_lock(self.path.parent):
            if not self.path.exists():
                self.pending = 0  # another service has brought them home
                return 0
            done, refused = 0, _Refused(self.refused)
            lines = self._lines(refused)
            while batch := list(islice(lines, AT_ONCE)):
                done += _written(batch, record, refused)
            refused.keep()
            self.path.unlink()
            self.pending = 0
            return done

    def _plain(self, row: LogEntry) -> dict[str, Any]:
        known = row.subject_hash if row.subject is None else hash_subject(self._secret, row.subject)
        plain = asdict(row) | {"at": row.at.isoformat(), "subject": None, "subject_hash": known}
        if row.last_forgotten is None:
            plain["last_forgotten"] = self._last_forgotten
        if row.original is not None and row.original.picture is not None:
            plain["original"]["picture"] = base64.b64encode(row.original.picture).decode()
        return plain

    def _lines(self, refused: _Refused) -> Iterator[_Line]:
        with open(self.path, "rb") as f:
            for line in f:
                if not line.endswith(b"\n"):
                    return
                try:
                    row = _logged(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError, NotStorable) as error:
                    refused.add(line, f"no decision of ours: {error}")
                else:
                    yield line, row


class _Refused:
    """Lines on their way to the file of those that are set aside."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[bytes] = []
        self.why = ""

    def add(self, line: bytes, why: str) -> None:
        self.lines.append(line)
        self.why = self.why or why

    def keep(self) -> None:
        """Bring them to disk, each once: a crash may have come between this and the end of the spool."""
        if not self.lines:
            return
        there = set(self.path.read_bytes().splitlines(keepends=True)) if self.path.exists() else set()
        _append(self.path, b"".join(line for line in dict.fromkeys(self.lines) if line not in there))
        _LOG.error(
            "%d decisions that waited for the database are refused by it, and set aside in %s (%s): mend the lines "
            "and put them into a spool.jsonl there while no service runs, or delete the file",
            len(self.lines), self.path, self.why[:500],
        )  # fmt: skip


def _written(lines: Sequence[_Line], record: Callable[[Sequence[LogEntry]], None], refused: _Refused) -> int:
    """Write lines, by halves where one of them is refused; the number of those written."""
    try:
        record([row for _, row in lines])
        return len(lines)
    except NotStorable as error:
        if len(lines) == 1:
            refused.add(lines[0][0], str(error))
            return 0
    half = len(lines) // 2
    return _written(lines[:half], record, refused) + _written(lines[half:], record, refused)


def _count(path: Path) -> int:
    """Whole lines of a file; 0 where there is none."""
    if not path.exists():
        return 0
    with open(path, "rb") as f:
        return sum(line.endswith(b"\n") for line in f)


def _append(path: Path, blob: bytes) -> None:
    """Write lines behind the last whole one, and bring them to disk: all or none. Raises `OSError`."""
    # Unbuffered: a buffer that could not be written would be tried again when the file is closed.
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb+", buffering=0) as f:
        end = _end_of_lines(f)
        f.truncate(end)
        try:
            _write(f, end, blob)
            os.fsync(f.fileno())
        except OSError:
            f.truncate(end)
            raise
    if end == 0:
        _sync_folder(path.parent)


def _end_of_lines(f: io.FileIO) -> int:
    """Where the last whole line ends."""
    size = f.seek(0, os.SEEK_END)
    if size == 0 or os.pread(f.fileno(), 1, size - 1) == b"\n":
        return size
    f.seek(0)
    return f.readall().rfind(b"\n") + 1


def _write(f: io.FileIO, at: int, blob: bytes) -> None:
    f.seek(at)
    rest = memoryview(blob)
    while rest:
        rest = rest[f.write(rest) :]


def _sync_folder(folder: Path) -> None:
    """Have a new file's name on disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _logged(plain: dict[str, Any]) -> LogEntry:
    original = plain["original"]
    if original is not None:
        picture = original["picture"]
        original = KeptPost(**{**original, "picture": None if picture is None else base64.b64decode(picture)})
    # A line of an earlier version does not say who was forgotten by then: whoever ever was stays forgotten.
    known = {"last_forgotten": 0, **plain, "at": datetime.fromisoformat(plain["at"]), "original": original}
    return check_entry(LogEntry(**known))
