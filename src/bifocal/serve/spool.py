"""Keeps decisions on disk while the database is away, and brings each home once."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from errno import EDQUOT, ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..workspace import held
from .store import Logged, Original, StoreFull, StoreGone, hashed, read_secret

AT_ONCE = 200


class Spool:
    """A file of decisions, a line each, that is synced to disk before `append` returns.

    Of an author it holds the hash alone, as the log does. `replay` writes the decisions into the log, which leaves
    alone those that it has: a crash between the log's commit and the end of the file costs nothing and doubles nothing.
    A line that a crash cut short was never acknowledged. Services that share a database may share the file.
    """

    def __init__(self, state: Path):
        self.path = Path(state) / "spool.jsonl"
        self._secret = read_secret(Path(state))
        self.pending = sum(1 for _ in self._lines()) if self.path.exists() else 0
        """Decisions that wait."""

    def append(self, rows: Sequence[Logged]) -> None:
        """Keep decisions, all or none. Raises `StoreFull`, `StoreGone` where the disk refuses."""
        blob = b"".join(json.dumps(self._plain(row)).encode() + b"\n" for row in rows)
        with held(self.path.parent):
            try:
                # Unbuffered: a buffer that could not be written would be tried again when the file is closed.
                with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "rb+", buffering=0) as f:
                    end = _end_of_lines(f)
                    f.truncate(end)
                    try:
                        _write(f, end, blob)
                        os.fsync(f.fileno())
                    except OSError:
                        f.truncate(end)
                        raise
                if end == 0:
                    _sync_folder(self.path.parent)
            except OSError as error:
                if error.errno in (ENOSPC, EDQUOT):
                    raise StoreFull(f"{self.path} has no room, and the decision log is away") from error
                raise StoreGone(f"{self.path} cannot be written ({error.strerror}), and the log is away") from error
            self.pending += len(rows)

    def replay(self, record: Callable[[Sequence[Logged]], None]) -> int:
        """Write all that waits by ``record``, in order, and empty the file; gives their number.

        Raises
        ------
        BifocalError
            What ``record`` raises; everything is then still there.
        """
        with held(self.path.parent):
            if not self.path.exists():
                self.pending = 0  # another service has brought them home
                return 0
            done, rows = 0, self._lines()
            while batch := list(islice(rows, AT_ONCE)):
                record(batch)
                done += len(batch)
            self.path.unlink()
            self.pending = 0
            return done

    def _plain(self, row: Logged) -> dict[str, Any]:
        known = row.subject_hash if row.subject is None else hashed(self._secret, row.subject)
        plain = asdict(row) | {"at": row.at.isoformat(), "subject": None, "subject_hash": known}
        if row.original is not None and row.original.picture is not None:
            plain["original"]["picture"] = base64.b64encode(row.original.picture).decode()
        return plain

    def _lines(self) -> Iterator[Logged]:
        with open(self.path, "rb") as f:
            for number, line in enumerate(f, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield _logged(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    raise RunError(
                        f"{self.path}: line {number} is no decision of ours: mend it, or take it out"
                    ) from None


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


def _logged(plain: dict[str, Any]) -> Logged:
    original = plain["original"]
    if original is not None:
        picture = original["picture"]
        original = Original(**{**original, "picture": None if picture is None else base64.b64decode(picture)})
    return Logged(**{**plain, "at": datetime.fromisoformat(plain["at"]), "original": original})
