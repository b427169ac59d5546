"""What any run beside this one has read off the same parts, by the hash of their files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..contracts import Transcriber, Transcript

Result = TypeVar("Result")

MOST_ROWS = 500_000
"""Readings that are kept, the latest used: some 200 MB."""
ENOUGH = 8
"""Parts from which on their mean says what one takes."""
_WAIT_S = 30.0
_AT_ONCE = 500  # hashes of one question: SQLite takes 999 values


def cache_beside(run_folder: Path, block: str) -> Path:
    """The cache that a run shares with those beside it; delete it at any time, to clear it."""
    return run_folder.parent / f".{block.lower()}-cache.sqlite"


class TranscriptCache:
    """Transcripts in an SQLite file, which several processes may use at once; for one thread.

    A cache that cannot be used (a full or read-only disk, a damaged file) is told once and does without: what it would
    have held is read again.

    Parameters
    ----------
    path : Path or None
        None = nothing is kept.
    transcriber : Transcriber
        Transcripts under another of its keys are others. Raises as `Transcriber.key`.
    tell : callable
        Given the sentence about a cache that cannot be used.
    """

    def __init__(self, path: Path | None, transcriber: Transcriber, tell: Callable[[str], None]):
        self._path, self._transcriber, self._tell = path, transcriber, tell
        self._key = transcriber.key()
        self._database: sqlite3.Connection | None = None
        if path is not None:
            self._asked(lambda: self._begin(path), None)

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def held(self, hashes: Iterable[str]) -> int:
        """How many of the parts are there."""
        held, rest = 0, iter(hashes)
        while some := list(islice(rest, _AT_ONCE)):
            marks = ", ".join("?" * len(set(some)))
            rows = self._rows(f"SELECT sha256 FROM readings WHERE key = ? AND sha256 IN ({marks})", *set(some))
            found = {row[0] for row in rows}
            held += sum(sha256 in found for sha256 in some)
        return held

    def find(self, sha256: str) -> Transcript | None:
        """What was read off a part, where it is there."""
        rows = self._rows("SELECT reading FROM readings WHERE key = ? AND sha256 = ?", sha256)
        if not rows:
            return None
        self._rows("UPDATE readings SET used = strftime('%s', 'now') WHERE key = ? AND sha256 = ?", sha256)
        found: Transcript | None = self._asked(lambda: self._transcriber.transcript(**json.loads(rows[0][0])), None)
        return found

    def keep(self, sha256: str, transcript: Transcript, seconds: float) -> None:
        """Remember a transcript and what it took."""
        row = sha256, json.dumps(asdict(transcript), ensure_ascii=False), seconds
        self._rows("INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, strftime('%s', 'now'))", *row)

    def seconds(self) -> float | None:
        """What a part took, on the mean of the latest; None where there are too few to say."""
        rows = self._rows("SELECT seconds FROM readings WHERE key = ? ORDER BY used DESC LIMIT 200")
        return sum(row[0] for row in rows) / len(rows) if len(rows) >= ENOUGH else None

    def _begin(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS readings (key TEXT, sha256 TEXT, reading TEXT, seconds REAL, used INTEGER, "
            "PRIMARY KEY (key, sha256))"
        )
        self._database.execute("CREATE INDEX IF NOT EXISTS readings_used ON readings (used)")
        (rows,) = self._database.execute("SELECT COUNT(*) FROM readings").fetchone()
        surplus = "DELETE FROM readings WHERE rowid IN (SELECT rowid FROM readings ORDER BY used LIMIT ?)"
        self._database.execute(surplus, (max(0, rows - MOST_ROWS),))

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        database = self._database
        if database is None:
            return []
        return self._asked(lambda: database.execute(statement, (self._key, *values)).fetchall(), [])

    def _asked(self, work: Callable[[], Result], otherwise: Result) -> Result:
        try:
            return work()
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            self.close()
            parts = f"{self._transcriber.noun}s"
            self._tell(f"{self._path} cannot be used ({error}), and {parts} are read anew: delete it, to have another")
            return otherwise
