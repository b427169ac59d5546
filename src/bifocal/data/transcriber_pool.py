"""Reads parts in parallel processes, each part once for all runs, and says beforehand what that costs."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from time import perf_counter

from ..contracts import Source, Transcriber, Transcript
from ..errors import DataError, RunError
from ..example import Example
from ..scale.local import begun_in_peace, end_with_parent
from .transcribers import ActiveTranscriber
from .transcript_cache import ENOUGH, TranscriptCache

_AHEAD = 4  # parts handed out per process before the oldest must be back: busy processes, flat memory


class TranscriberPool:
    """Reads the parts that are to be read and are not in the cache, and says beforehand what that costs."""

    def __init__(self, source: Source, active: ActiveTranscriber, cache: TranscriptCache, note: Callable[[str], None]):
        self.source, self.active, self.cache, self.note = source, active, cache, note
        self.transcriber = active.transcriber
        self.cached = 0
        self._took: list[float] = []
        self._told = False

    def transcripts(self, waiting: Callable[[], Iterator[Example]], n: int) -> Iterator[tuple[Example, Transcript]]:
        """Each of the ``n`` examples that are to be read, with what was read, in order; ``waiting`` streams them."""
        hashes = (self._noted_hash(example) for example in waiting())
        self._held = self.cache.held(sha256 for sha256 in hashes if sha256)
        self._left = n - self._held
        self._processes = min(self.active.config.workers or len(os.sched_getaffinity(0)), max(1, self._left))
        if seconds := self.cache.seconds():
            self._tell(seconds)
        yield from self._alone(waiting()) if self._processes == 1 else self._together(waiting())

    def _alone(self, examples: Iterator[Example]) -> Iterator[tuple[Example, Transcript]]:
        loaded = False
        for example in examples:
            with self._explained(example):
                blob, sha256, transcript = self._opened(example)
                if transcript is None:
                    if not loaded:
                        self.transcriber.load()
                        loaded = True
                    transcript = self._kept(sha256, *_timed(self.transcriber, blob))
            yield example, transcript

    def _together(self, examples: Iterator[Example]) -> Iterator[tuple[Example, Transcript]]:
        others = multiprocessing.active_children()
        spawn = multiprocessing.get_context("spawn")
        try:
            pool = ProcessPoolExecutor(self._processes, spawn, initializer=_begin_process, initargs=(self.transcriber,))
        except (OSError, NotImplementedError) as error:
            raise RunError(
                f"no {self.transcriber.block} processes can be started ({error}): they share semaphores in /dev/shm, "
                f"which has to be writable; or set {self.active.setting}.workers: 1"
            ) from error
        pending: deque[tuple[Example, str, Transcript | Future[tuple[Transcript, float]]]] = deque()
        try:
            for example in examples:
                with self._explained(example):
                    blob, sha256, transcript = self._opened(example)
                    with begun_in_peace():
                        pending.append((example, sha256, transcript or pool.submit(_read_in_process, blob)))
                if len(pending) >= self._processes * _AHEAD:
                    yield self._oldest(pending)
            while pending:
                yield self._oldest(pending)
        except BaseException:
            for process in set(multiprocessing.active_children()).difference(others):
                process.kill()  # one that is still starting would take seconds to hear that nothing is wanted of it
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _oldest(
        self, pending: deque[tuple[Example, str, Transcript | Future[tuple[Transcript, float]]]]
    ) -> tuple[Example, Transcript]:
        example, sha256, result = pending.popleft()
        with self._explained(example):
            return example, self._kept(sha256, *result.result()) if isinstance(result, Future) else result

    def _opened(self, example: Example) -> tuple[bytes, str, Transcript | None]:
        """A part's file, its hash, and what was read off it where that is known."""
        blob = self.source.open(example.parts[self.transcriber.modality])
        sha256 = hashlib.sha256(blob).hexdigest()
        known = self.cache.find(sha256)
        self.cached += known is not None
        return blob, sha256, known

    def _kept(self, sha256: str, transcript: Transcript, seconds: float) -> Transcript:
        self.cache.keep(sha256, transcript, seconds)
        self._took.append(seconds)
        if len(self._took) == min(ENOUGH, self._left):
            self._tell(sum(self._took) / len(self._took))
        return transcript

    def _tell(self, seconds: float) -> None:
        """What is still to come, once."""
        if not self._told and self._left:
            there = f" ({self._held:,} more were read before)" if self._held else ""
            spent = duration(seconds * self._left / self._processes)
            self.note(f"{self._left:,} {self.transcriber.noun}s to read{there}, about {spent}")
        self._told = True

    def _noted_hash(self, example: Example) -> str | None:
        """The hash of a part's file, as the manifest has it."""
        facts = example.meta.get("facts", {}).get(self.transcriber.modality, {})
        return str(facts["sha256"]) if "sha256" in facts else None

    @contextmanager
    def _explained(self, example: Example) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise DataError(f"row {example.id!r}: {error}") from error
        except BrokenProcessPool as error:
            block, setting = self.transcriber.block, self.active.setting
            raise RunError(
                f"an {block} process died at or near row {example.id!r} (out of memory?); what is read is kept: run "
                f"again with fewer `{setting}.workers`. (A script that starts a run needs `if __name__ == "
                "'__main__':` around it.)"
            ) from error


def duration(seconds: float) -> str:
    """About how long, in the largest unit that fits."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _timed(transcriber: Transcriber, blob: bytes) -> tuple[Transcript, float]:
    begun = perf_counter()
    transcript = transcriber.read(blob)
    return transcript, perf_counter() - begun


_transcriber: Transcriber  # of a worker process, set as it begins


def _begin_process(transcriber: Transcriber) -> None:
    global _transcriber
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then ends its processes
    threading.Thread(target=end_with_parent, daemon=True).start()
    _transcriber = transcriber
    _transcriber.load()


def _read_in_process(blob: bytes) -> tuple[Transcript, float]:
    return _timed(_transcriber, blob)
