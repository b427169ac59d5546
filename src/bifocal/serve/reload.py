"""What changes on disk while the service runs is taken up, or refused and the old goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from .api.metrics import Metrics

_LOG = logging.getLogger(__name__)  # what it says comes to stderr, unless the program decides otherwise


class Reloadable(NamedTuple):
    """Something that may change, and what takes it up or raises."""

    name: str
    changed: Callable[[], bool]
    take: Callable[[], Awaitable[None]]


class WatchedFiles:
    """Files that may become others.

    Parameters
    ----------
    paths : callable
        Which they are now.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]):
        self.paths = paths
        self._stamp = self._seen()

    def changed(self) -> bool:
        """Whether they are others than when this was last asked."""
        before, self._stamp = self._stamp, self._seen()
        return self._stamp != before

    def _seen(self) -> list[tuple[str, int, int, int]]:
        found = []
        for path in self.paths():
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((path.name, status.st_mtime_ns, status.st_size, status.st_ino))
        return found


class Reloader:
    """Looks for changes for ever, and has each taken up."""

    def __init__(self, watched: Iterable[Reloadable], metrics: Metrics, *, every_s: float):
        self.watched = tuple(watched)
        self.metrics = metrics
        self.every_s = every_s
        self.trouble: str | None = None
        """That the last reload was refused, if it was; why is said on stderr only, since anybody may ask for this."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.every_s)
            for name, _, take in [watched for watched in self.watched if watched.changed()]:
                try:
                    await take()
                    self.trouble = None
                    _LOG.warning("the new %s serve", name)
                    self.metrics.reloads.labels("taken").inc()
                except Exception as error:  # a file that cannot be read, too: the watch goes on
                    self.trouble = f"the new {name} are refused, the old ones serve"
                    _LOG.warning(f"{self.trouble}: {error}")
                    self.metrics.reloads.labels("refused").inc()
