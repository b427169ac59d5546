"""Keeps decisions on disk while the database is away, and brings each home once."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from errno import EDQUOT, ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any

from .store import Logged, Original, StoreFull, StoreGone

AT_ONCE = 200


class Spool:
    """A file of decisions, a line each, that is synced to disk before `append` returns.

    `replay` writes them into the log, which leaves alone those that it has: a crash between the log's commit and the
    end of the file costs nothing and doubles nothing. A line that a crash cut short was never acknowledged.
    """

    def __init__(self, state: Path):
        self.path = Path(state) / "spool.jsonl"
        self._lock = threading.Lock()
        self.pending = sum(1 for _ in self._lines()) if self.path.exists() else 0
        """Decisions that wait."""

    def append(self, rows: Sequence[Logged]) -> None:
        """Keep decisions, all or none. Raises `StoreFull`, `StoreGone` where the disk refuses."""
        blob = b"".join(json.dumps(_plain(row)).encode() + b"\n" for row in rows)
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "rb+") as f:
                    end = _whole(f)
                    try:
                        f.seek(end)
                        f.truncate()
                        f.write(blob)
                        f.flush()
                        os.fsync(f.fileno())
                    except OSError:
                        os.truncate(self.path, end)
                        raise
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
        with self._lock:
            if not self.path.exists():
                return 0
            done, rows = 0, self._lines()
            while batch := list(islice(rows, AT_ONCE)):
                record(batch)
                done += len(batch)
            self.path.unlink()
            self.pending = 0
            return done

    def _lines(self) -> Iterator[Logged]:
        with open(self.path, "rb") as f:
            for line in f:
                if line.endswith(b"\n"):
                    yield _logged(json.loads(line))


def _whole(f: Any) -> int:
    """Where the last whole line ends."""
    size = f.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    f.seek(size - 1)
    if f.read(1) == b"\n":
        return int(size)
    f.seek(0)
    return int(f.read().rfind(b"\n") + 1)


def _plain(row: Logged) -> dict[str, Any]:
    plain = asdict(row) | {"at": row.at.isoformat()}
    if row.original is not None and row.original.picture is not None:
        plain["original"]["picture"] = base64.b64encode(row.original.picture).decode()
    return plain


def _logged(plain: dict[str, Any]) -> Logged:
    original = plain["original"]
    if original is not None:
        picture = original["picture"]
        original = Original(original["text"], None if picture is None else base64.b64decode(picture))
    return Logged(**{**plain, "at": datetime.fromisoformat(plain["at"]), "original": original})
