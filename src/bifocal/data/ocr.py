"""Reads the words on pictures by RapidOCR: one picture for serving, a whole manifest in parallel processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import compress, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from ..contracts import Source, TextRole
from ..errors import DataError, RunError, extras_named
from ..example import Example
from ..modalities.image import SIDE, Image, square
from ..modalities.text import clean
from ..workspace import read_jsonl, room
from .compose import TEXT, detect_language
from .manifest import read_manifest

if TYPE_CHECKING:
    from ..modalities.image import Picture

When = Literal["auto", "always", "never"]

PICTURE = "image"
"""The part that is read."""
_WHOLE = Image("pad")  # whatever `fit` a run packs by: cropping would cut words off
_AHEAD = 4  # pictures handed out per process before the oldest must be back: busy processes, flat memory


@dataclass(frozen=True, slots=True)
class Reading:
    """What OCR made of one picture.

    Attributes
    ----------
    text : str
        One line per box, top to bottom, left to right.
    boxes : list
        Four corners ``[x, y]`` per line, in pixels of the picture padded to 384x384.
    confidence : float or None
        Mean over the lines, 0..1; None where there is none.
    engine : str
        Name and version of the engine.
    """

    text: str
    boxes: list[list[list[int]]]
    confidence: float | None
    engine: str


class Reader:
    """RapidOCR on one thread, with the models of its package, offline; slow to make, so make it once.

    Raises
    ------
    MissingExtra
        Where rapidocr is not installed.
    """

    def __init__(self) -> None:
        self.engine = engine_name()
        with extras_named():
            from rapidocr import RapidOCR
        self._read = RapidOCR(
            params={
                "Global.log_level": "error",  # it warns of every picture without words
                "Global.use_cls": False,  # turns lines that stand on their head, which memes do not
                "Det.limit_side_len": SIDE,
                "Det.limit_type": "max",
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, picture: Picture) -> Reading:
        """Read an RGB picture of any size; it is made to fit 384x384 first, with nothing cut off."""
        import numpy as np

        rgb = np.asarray(square(picture, "pad"))
        result = self._read(np.ascontiguousarray(rgb[:, :, ::-1]))  # BGR, as OpenCV has it
        if not result.txts:
            return Reading("", [], None, self.engine)
        boxes = np.rint(result.boxes).astype(int).tolist()
        return Reading("\n".join(result.txts), boxes, round(float(np.mean(result.scores)), 4), self.engine)

    def read_file(self, blob: bytes) -> Reading:
        """Read a picture file, the whole of it whatever the run's ``fit`` cuts off. Raises `PictureError`."""
        return self.read(_WHOLE.read(blob))


def engine_name() -> str:
    """What ``ocr.jsonl`` calls the engine. Raises `MissingExtra` where it is not installed."""
    with extras_named():
        return f"rapidocr {version('rapidocr')}"


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
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read the pictures of a manifest into ``ocr.jsonl``, in the manifest's order.

    Every row goes to ``.<out>.partial`` as soon as it is read; a call after an interruption goes on behind the last
    whole row. ``out`` appears, or is replaced, when all is read.

    Parameters
    ----------
    manifest, out : Path
        ``out`` gets ``id, text, boxes, confidence, engine, language`` per picture that is read.
    source : Source
        Opens the pictures.
    workers : int, optional
        Processes of one thread each (about 400 MB each); None = the cores at hand, 1 = this process.
    progress : callable, optional
        Given the pictures done and to be done.

    Returns
    -------
    dict
        ``pictures`` in the manifest; of these ``read`` and ``skipped``; ``with_text`` of those read; ``resumed``: read
        by an earlier call; ``seconds_per_picture`` (wall clock, 0 where none) of those read now.

    Raises
    ------
    DataError
        Where a picture cannot be opened or decoded, naming its row.
    MissingExtra
        Where a picture is to be read and rapidocr is not installed.
    RunError
        Where a process died.
    """
    pictures, asked = _asked(manifest, source, when)
    total = sum(asked)
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not partial.exists() and _later(out, manifest):  # stopped before the run could note that all is read
        os.replace(out, partial)
    done = resumed = _resume(partial, manifest, asked)
    processes = min(workers or len(os.sched_getaffinity(0)), total - resumed)
    begun = perf_counter()
    with room(partial), open(partial, "a", encoding="utf-8", newline="") as sink:
        for example, reading in _readings(islice(_rows(manifest, asked), resumed, None), source, processes):
            row = {"id": example.id, **asdict(reading), "language": detect_language(clean(reading.text))}
            sink.write(json.dumps(row, ensure_ascii=False) + "\n")
            sink.flush()
            done += 1
            if progress:
                progress(done, total)
        os.fsync(sink.fileno())
    seconds = perf_counter() - begun
    with_text = sum(bool(row["text"]) for row in read_jsonl(partial))
    os.replace(partial, out)
    return {
        "pictures": pictures,
        "read": done,
        "skipped": pictures - done,
        "with_text": with_text,
        "resumed": resumed,
        "seconds_per_picture": round(seconds / (done - resumed), 4) if done > resumed else 0.0,
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


def _resume(partial: Path, manifest: Path, asked: bytearray) -> int:
    """How many rows of an interrupted call still hold; the file is cut behind the last of them."""
    if not partial.exists():
        return 0
    rows = size = 0
    # The ids may be the same and the pictures others: a manifest written since makes every reading suspect.
    if _later(partial, manifest):
        with open(partial, "rb") as f:
            for line, example in zip(f, _rows(manifest, asked), strict=False):
                if not _holds(line, example):
                    break
                rows, size = rows + 1, size + len(line)
    os.truncate(partial, size)
    return rows


def _later(path: Path, manifest: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= manifest.stat().st_mtime_ns


def _holds(line: bytes, example: Example) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and (row["id"], row["engine"]) == (example.id, engine_name())


def _readings(examples: Iterator[Example], source: Source, processes: int) -> Iterator[tuple[Example, Reading]]:
    """Each example with its reading, in order."""
    if processes < 1:
        return
    engine_name()  # a missing extra is named here; in a process it would look like a crash
    if processes == 1:
        reader = Reader()
        for example in examples:
            with _explained(example):
                reading = reader.read_file(source.open(example.parts[PICTURE]))
            yield example, reading
        return
    others = multiprocessing.active_children()
    try:
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin_process)
    except (OSError, NotImplementedError) as error:
        raise RunError(
            f"no OCR processes can be started ({error}): they share semaphores in /dev/shm, which has to be writable; "
            "or set ocr.workers: 1"
        ) from error
    pending: deque[tuple[Example, Future[Reading]]] = deque()
    try:
        for example in examples:
            with _explained(example):
                blob = source.open(example.parts[PICTURE])
                with _begun_in_peace():
                    pending.append((example, pool.submit(_read_in_process, blob)))
            if len(pending) >= processes * _AHEAD:
                yield _oldest(pending)
        while pending:
            yield _oldest(pending)
    except BaseException:
        for process in set(multiprocessing.active_children()).difference(others):
            process.kill()  # one that is still starting would take seconds to hear that nothing is wanted of it
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _begun_in_peace() -> Iterator[None]:
    """Put Ctrl-C off while processes start: they inherit that it is blocked, and one half started would complain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if asked:
            signal.raise_signal(signal.SIGINT)


def _oldest(pending: deque[tuple[Example, Future[Reading]]]) -> tuple[Example, Reading]:
    example, future = pending.popleft()
    with _explained(example):
        return example, future.result()


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


def _begin_process() -> None:
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _reader = Reader()
    import cv2

    cv2.setNumThreads(1)  # RapidOCR crops with OpenCV, which takes a thread per core in every process


def _end_with_parent() -> None:
    """A parent that is killed cannot end its pool, whose processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_in_process(blob: bytes) -> Reading:
    return _reader.read_file(blob)
