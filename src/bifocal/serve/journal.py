"""Writes decisions into the log before they are told: those that come at once in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .errors import Refused
from .store import Logged, StoreFull, StoreGone


class Journal:
    """Groups rows into transactions.

    Parameters
    ----------
    write : callable
        Rows -> nothing; blocks, and is called from one thread at a time. Raises `StoreGone`, `StoreFull`.
    """

    def __init__(self, write: Callable[[Sequence[Logged]], Any]):
        self.write = write
        self._rows: list[tuple[Logged, asyncio.Future[None]]] = []
        self._came = asyncio.Event()

    async def record(self, row: Logged) -> None:
        """Return once the row is written.

        Raises
        ------
        Refused
            ``unavailable`` where the log cannot be reached, ``storage_full`` where there is no room.
        """
        written = asyncio.get_running_loop().create_future()
        self._rows.append((row, written))
        self._came.set()
        await written

    async def run(self) -> None:
        """Write for ever; cancel it to end."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as writer:  # its own: pages that ask much of the log keep no decision waiting
            while True:
                await self._came.wait()
                self._came.clear()
                rows, self._rows = self._rows, []
                try:
                    await loop.run_in_executor(writer, self.write, [row for row, _ in rows])
                    failed: Exception | None = None
                except StoreFull as error:
                    failed = Refused("storage_full", str(error))
                except StoreGone as error:
                    failed = Refused("unavailable", str(error), retry_after=5.0)
                except Exception as error:
                    failed = Refused("internal", f"the decision cannot be logged ({error})")
                for _, written in rows:
                    if written.done():  # its client is gone
                        continue
                    if failed is None:
                        written.set_result(None)
                    else:
                        written.set_exception(failed)
