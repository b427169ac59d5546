"""Writes decisions into the log before they are told: those that come at once in one transaction."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..errors import Refused
from .records import LogEntry, NotStorable, StoreFull, StoreGone

_LOG = logging.getLogger(__name__)


class BatchWriter:
    """Groups rows into transactions; what is given up before its transaction commits is not written.

    Parameters
    ----------
    write : callable
        Rows, and a function to be called when nothing is left but to commit, which may raise -> nothing. Blocks, and is
        called from one thread at a time. Raises `NotStorable`, `StoreGone`, `StoreFull`.
    """

    def __init__(self, write: Callable[[Sequence[LogEntry], Callable[[], None]], Any]):
        self.write = write
        self._entries: list[_Entry] = []
        self._came = asyncio.Event()
        self._lock = threading.Lock()

    async def record(self, row: LogEntry) -> None:
        """Return once the row is written; who is cancelled while it is being committed hears how that ends.

        Raises
        ------
        Refused
            ``unavailable`` where the log cannot be reached, ``storage_full`` where there is no room, ``unusable`` where
            it cannot hold a value of the row, which costs no other row.
        """
        entry = _Entry(row, asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        self._came.set()
        try:
            await asyncio.shield(entry.written)
        except asyncio.CancelledError:
            with self._lock:
                entry.cancelled = not entry.sealed
            if entry.cancelled:
                raise
            await entry.written

    async def run(self) -> None:
        """Write for ever; cancel it to end."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as writer:  # its own: pages that ask much of the log keep no decision waiting
            while True:
                await self._came.wait()
                self._came.clear()
                entries, self._entries = self._entries, []
                await loop.run_in_executor(writer, self._write, entries)
                for entry in entries:
                    if entry.cancelled or entry.written.done():
                        entry.written.cancel()
                    elif entry.failed is None:
                        entry.written.set_result(None)
                    else:
                        entry.written.set_exception(entry.failed)

    def _write(self, entries: Sequence[_Entry]) -> None:
        """Write those that are still waited for; where one of them is refused, by halves."""
        entries = [entry for entry in entries if not entry.cancelled]
        if not entries:
            return
        try:
            self.write([entry.row for entry in entries], partial(self._seal, entries))
        except _Cancelled:
            self._write(entries)
        except NotStorable as error:
            if len(entries) > 1:
                half = len(entries) // 2
                self._write(entries[:half])
                self._write(entries[half:])
            else:
                _LOG.error("a decision cannot be logged: %s", error)
                entries[0].failed = Refused("unusable", "the log cannot hold a value of this post")
        except Exception as error:
            for entry in entries:
                entry.failed = _refused(error)

    def _seal(self, entries: Sequence[_Entry]) -> None:
        with self._lock:
            if any(entry.cancelled for entry in entries):
                raise _Cancelled
            for entry in entries:
                entry.sealed = True


class _Entry:
    """A row on its way; ``cancelled`` and ``sealed`` (about to be committed) exclude each other."""

    def __init__(self, row: LogEntry, written: asyncio.Future[None]):
        self.row = row
        self.written = written
        self.cancelled = False
        self.sealed = False
        self.failed: Refused | None = None


class _Cancelled(Exception):
    """Nobody waits for one of the rows any more: the others are to be written without it."""


def _refused(error: Exception) -> Refused:
    if isinstance(error, StoreFull):
        return Refused("storage_full", str(error))
    if isinstance(error, StoreGone):
        return Refused("unavailable", str(error), retry_after=5.0)
    return Refused("internal", f"the decision cannot be logged ({error})")
