"""Reads the words on the pictures of a whole manifest, in parallel processes, each picture once for all runs."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict
from difflib import SequenceMatcher
from itertools import compress, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from ..contracts import Source, TextRole
from ..errors import DataError, RunError
from ..example import Example
from ..modalities.text import clean
from ..transcribe.ocr import Reader, Reading, engine_of, mostly_unread, reading_key
from ..transcribe.ocr_cache import ENOUGH, ReadingCache
from ..workspace import atomic, read_jsonl, room
from .compose import TEXT, UNREAD, detect_language
from .manifest import read_manifest

When = Literal["auto", "always", "never"]

PICTURE = "image"
"""The part that is read."""
_ALIKE = 0.8
_COMPARED = 500  # characters
_AHEAD = 4  # pictures handed out per process before the oldest must be back: busy processes, flat memory


def wanted(when: When, text: str | None, role: TextRole) -> bool:
    """Whether a picture is to be read, given the text that came with it.

    ``auto`` reads where there is no transcript of the picture: no text at all, or the post's own words.
    """
    return when == "always" or (when == "auto" and (role == "caption" or not clean(text or "")))


def read_pictures(
    manifest: Path,
    source: Source,
    out: Path,
    *,
    when: When,
    languages: Sequence[str] | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Read the pictures of a manifest into ``ocr.jsonl``, in the manifest's order.

    Every row goes to ``.<out>.partial`` as soon as it is read; a call after an interruption goes on behind the last
    whole row. ``out`` appears, or is replaced, when all is read. Rows of the manifest whose picture bears lines,
    half or more of which could not be read, are marked there (``meta.unread``).

    Parameters
    ----------
    manifest, out : Path
        ``out`` gets ``id, text, boxes, confidence, engine, unread, language`` per picture that is read.
    source : Source
        Opens the pictures.
    languages : sequence of str, optional
        As `Reader` takes them.
    cache : Path, optional
        A file of readings that runs share, see `ReadingCache`.
    workers : int, optional
        Processes of one thread each (about 500 MB each); None = the cores at hand, 1 = this process.
    progress : callable, optional
        Given the pictures done and to be done.
    note : callable, optional
        Given what a person should know: what it will cost, a cache that cannot be used.

    Returns
    -------
    dict
        ``pictures`` in the manifest; of these ``read`` and ``skipped``; of those read ``with_text``, ``unread`` (half
        or more of the lines seen were not), ``resumed`` (by an earlier call) and ``cached``; ``captions``: those with
        words that came with a text of the post's own, and ``repeated``: how many of these texts say the same;
        ``seconds_per_picture`` (wall clock, 0 where none) of those read now.

    Raises
    ------
    ConfigError
        As `Reader`.
    DataError
        Where a picture cannot be opened or decoded, naming its row.
    MissingExtra
        Where a picture is to be read and rapidocr is not installed.
    RunError
        Where a process died.
    """
    pictures, asked = _asked(manifest, source, when)
    total, note = sum(asked), note or (lambda _: None)
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not partial.exists() and _later(out, manifest):  # stopped before the run could note that all is read
        os.replace(out, partial)
    done = resumed = _resume(partial, manifest, asked, languages) if total else 0
    begun, cached = perf_counter(), 0
    with room(partial), open(partial, "a" if resumed else "w", encoding="utf-8", newline="") as sink:
        if total > resumed:
            with closing(ReadingCache(cache, reading_key(languages), note)) as known:
                work = _Work(source, languages, known, note)
                for example, reading in work.readings(manifest, asked, resumed, workers):
                    row = {"id": example.id, **asdict(reading), "language": detect_language(clean(reading.text))}
                    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
                    sink.flush()
                    done += 1
                    if progress:
                        progress(done, total)
                cached = work.cached
        os.fsync(sink.fileno())
    seconds, fresh = perf_counter() - begun, done - resumed - cached
    found = _found(manifest, source, asked, partial)
    os.replace(partial, out)
    return {
        "pictures": pictures,
        "read": done,
        "skipped": pictures - done,
        **found,
        "resumed": resumed,
        "cached": cached,
        "seconds_per_picture": round(seconds / fresh, 4) if fresh else 0.0,
    }


def _asked(manifest: Path, source: Source, when: When) -> tuple[int, bytearray]:
    """How many rows have a picture; and for each row of the manifest, 1 where it is to be read."""
    pictures, asked = 0, bytearray()
    for example in read_manifest(manifest):
        pictures += PICTURE in example.parts
        asked.append(PICTURE in example.parts and wanted(when, example.parts.get(TEXT), source.role_of(example)))
    return pictures, asked


def _rows(manifest: Path, asked: bytearray) -> Iterator[Example]:
    return compress(read_manifest(manifest), asked)


def _resume(partial: Path, manifest: Path, asked: bytearray, languages: Sequence[str] | None) -> int:
    """How many rows of an interrupted call still hold; the file is cut behind the last of them."""
    if not partial.exists():
        return 0
    rows = size = 0
    engine = engine_of(languages)
    # The ids may be the same and the pictures others: a manifest written since makes every reading suspect.
    if _later(partial, manifest):
        with open(partial, "rb") as f:
            for line, example in zip(f, _rows(manifest, asked), strict=False):
                if not _holds(line, example, engine):
                    break
                rows, size = rows + 1, size + len(line)
    os.truncate(partial, size)
    return rows


def _later(path: Path, manifest: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= manifest.stat().st_mtime_ns


def _holds(line: bytes, example: Example, engine: str) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    whole = line.endswith(b"\n") and "unread" in row  # a Bifocal of before did not tell, and read at 384 pixels
    return whole and (row["id"], row["engine"]) == (example.id, engine)


def _found(manifest: Path, source: Source, asked: bytearray, readings: Path) -> dict[str, int]:
    """What the readings of all pictures come to; rows with unread words are marked in the manifest."""
    counts = dict.fromkeys(("with_text", "unread", "captions", "repeated"), 0)
    unread: set[str] = set()
    marked: set[str] = set()
    rows = read_jsonl(readings)
    for example, read in zip(read_manifest(manifest), asked, strict=True):
        if example.meta.get(UNREAD):
            marked.add(example.id)
        if not read:
            continue
        row = next(rows)
        counts["with_text"] += bool(row["text"])
        if mostly_unread(row["unread"], len(row["boxes"])):
            unread.add(example.id)
        own = clean(example.parts.get(TEXT) or "")
        if own and row["text"] and source.role_of(example) == "caption":
            counts["captions"] += 1
            counts["repeated"] += _alike(own, row["text"])
    if unread != marked:
        _mark(manifest, unread)
    return counts | {"unread": len(unread)}


def _alike(text: str, other: str) -> bool:
    """Whether two texts say the same, but for what OCR misses."""
    one, two = ("".join(filter(str.isalnum, some.casefold()))[:_COMPARED] for some in (text, other))
    return SequenceMatcher(None, one, two, autojunk=False).ratio() >= _ALIKE


def _mark(manifest: Path, unread: set[str]) -> None:
    """Write into a manifest which rows bear words that could not be read; it stays as old as it is."""
    times = manifest.stat().st_atime_ns, manifest.stat().st_mtime_ns  # a later one would make readings suspect
    with open(manifest, encoding="utf-8") as old, atomic(manifest) as new:
        for line in old:
            row = json.loads(line)
            before = row.get("meta", {}).get(UNREAD)
            if bool(before) != (row["id"] in unread):
                meta = {name: value for name, value in row.get("meta", {}).items() if name != UNREAD}
                row["meta"] = meta | ({UNREAD: True} if row["id"] in unread else {})
                line = json.dumps(row, ensure_ascii=not _encodable(line)) + "\n"
            new.write(line)
    os.utime(manifest, ns=times)


def _encodable(line: str) -> bool:
    """Whether no character of a line is escaped because UTF-8 cannot hold it."""
    return "\\ud" not in line


class _Work:
    """Reads the pictures that are to be read and are not in the cache, and says beforehand what that costs."""

    def __init__(
        self, source: Source, languages: Sequence[str] | None, cache: ReadingCache, note: Callable[[str], None]
    ):
        self.source, self.languages, self.cache, self.note = source, languages, cache, note
        self.cached = 0
        self._took: list[float] = []
        self._told = False

    def readings(
        self, manifest: Path, asked: bytearray, resumed: int, workers: int | None
    ) -> Iterator[tuple[Example, Reading]]:
        """Each example with its reading, in order."""
        hashes = (_noted_hash(example) for example in islice(_rows(manifest, asked), resumed, None))
        held = self.cache.held(sha256 for sha256 in hashes if sha256)
        self._left = sum(asked) - resumed - held
        self._held = held
        self._processes = min(workers or len(os.sched_getaffinity(0)), max(1, self._left))
        if seconds := self.cache.seconds():
            self._tell(seconds)
        examples = islice(_rows(manifest, asked), resumed, None)
        yield from self._alone(examples) if self._processes == 1 else self._together(examples)

    def _alone(self, examples: Iterator[Example]) -> Iterator[tuple[Example, Reading]]:
        reader: Reader | None = None
        for example in examples:
            with _explained(example):
                blob, sha256, reading = self._opened(example)
                if reading is None:
                    reader = reader or Reader(self.languages)
                    reading = self._kept(sha256, *_timed(reader, blob))
            yield example, reading

    def _together(self, examples: Iterator[Example]) -> Iterator[tuple[Example, Reading]]:
        others = multiprocessing.active_children()
        spawn = multiprocessing.get_context("spawn")
        try:
            pool = ProcessPoolExecutor(self._processes, spawn, initializer=_begin_process, initargs=(self.languages,))
        except (OSError, NotImplementedError) as error:
            raise RunError(
                f"no OCR processes can be started ({error}): they share semaphores in /dev/shm, which has to be "
                "writable; or set ocr.workers: 1"
            ) from error
        pending: deque[tuple[Example, str, Reading | Future[tuple[Reading, float]]]] = deque()
        try:
            for example in examples:
                with _explained(example):
                    blob, sha256, reading = self._opened(example)
                    with _begun_in_peace():
                        pending.append((example, sha256, reading or pool.submit(_read_in_process, blob)))
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
        self, pending: deque[tuple[Example, str, Reading | Future[tuple[Reading, float]]]]
    ) -> tuple[Example, Reading]:
        example, sha256, result = pending.popleft()
        with _explained(example):
            return example, result if isinstance(result, Reading) else self._kept(sha256, *result.result())

    def _opened(self, example: Example) -> tuple[bytes, str, Reading | None]:
        """A picture's file, its hash, and its reading where it is known."""
        blob = self.source.open(example.parts[PICTURE])
        sha256 = hashlib.sha256(blob).hexdigest()
        known = self.cache.find(sha256)
        self.cached += known is not None
        return blob, sha256, known

    def _kept(self, sha256: str, reading: Reading, seconds: float) -> Reading:
        self.cache.keep(sha256, reading, seconds)
        self._took.append(seconds)
        if len(self._took) == min(ENOUGH, self._left):
            self._tell(sum(self._took) / len(self._took))
        return reading

    def _tell(self, seconds: float) -> None:
        """What is still to come, once."""
        if not self._told and self._left:
            there = f" ({self._held:,} more were read before)" if self._held else ""
            spent = duration(seconds * self._left / self._processes)
            self.note(f"{self._left:,} pictures to read{there}, about {spent}")
        self._told = True


def duration(seconds: float) -> str:
    """About how long, in the largest unit that fits."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _noted_hash(example: Example) -> str | None:
    """The hash of a picture's file, as the manifest has it."""
    facts = example.meta.get("facts", {}).get(PICTURE, {})
    return str(facts["sha256"]) if "sha256" in facts else None


def _timed(reader: Reader, blob: bytes) -> tuple[Reading, float]:
    begun = perf_counter()
    reading = reader.read_file(blob)
    return reading, perf_counter() - begun


@contextmanager
def _begun_in_peace() -> Iterator[None]:
    """Put Ctrl-C off while processes start: they inherit that it is blocked, and one half started would complain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGALRM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if asked:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _explained(example: Example) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"row {example.id!r}: {error}") from error
    except BrokenProcessPool as error:
        raise RunError(
            f"an OCR process died at or near row {example.id!r} (out of memory?); what is read is kept: run again with "
            "fewer `ocr.workers`. (A script that starts a run needs `if __name__ == '__main__':` around it.)"
        ) from error


_reader: Reader  # of a worker process, set as it begins


def _begin_process(languages: Sequence[str] | None) -> None:
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _reader = Reader(languages)
    import cv2

    cv2.setNumThreads(1)  # RapidOCR crops with OpenCV, which takes a thread per core in every process


def _end_with_parent() -> None:
    """A parent that is killed cannot end its pool, whose processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_in_process(blob: bytes) -> tuple[Reading, float]:
    return _timed(_reader, blob)
