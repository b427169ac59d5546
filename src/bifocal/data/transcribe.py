"""Reads the words that the parts of a whole manifest carry, each part once for all runs, into ``<block>.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from difflib import SequenceMatcher
from itertools import compress, islice
from pathlib import Path
from time import perf_counter
from typing import Any

from ..contracts import Source, Transcript
from ..example import Example
from ..modalities import TEXT
from ..modalities.text import clean
from ..workspace import atomic, disk_errors, read_jsonl
from .compose import UNREAD, detect_language
from .manifest import read_manifest
from .transcriber_pool import TranscriberPool
from .transcribers import ActiveTranscriber
from .transcript_cache import TranscriptCache

_ALIKE = 0.8
_COMPARED = 500  # characters


def transcribe(
    manifest: Path,
    source: Source,
    active: ActiveTranscriber,
    out: Path,
    *,
    cache: Path | None = None,
    also_unread: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Read the parts of a manifest that carry words into ``<block>.jsonl``, in the manifest's order.

    Every row goes to ``.<out>.partial`` as soon as it is read; a call after an interruption goes on behind the last
    whole row. ``out`` appears, or is replaced, when all is read. Rows of the manifest whose part bears words, half or
    more of which could not be read, are marked there (``meta.unread``).

    Parameters
    ----------
    manifest, out : Path
        ``out`` gets the ``id``, the fields of the transcript and the ``language`` of each part that is read.
    source : Source
        Opens the parts.
    active : ActiveTranscriber
        Who reads, when, and in how many processes of one thread each (of OCR about 500 MB each); None = the cores at
        hand, 1 = this process.
    cache : Path, optional
        A file of transcripts that runs share, see `TranscriptCache`.
    also_unread : collection of str
        Ids of rows that are marked because of what another transcriber could not read (`unread_rows`).
    progress : callable, optional
        Given the parts done and to be done.
    note : callable, optional
        Given what a person should know: what it will cost, a cache that cannot be used.

    Returns
    -------
    dict
        ``pictures`` (or what else the transcriber calls them) in the manifest; of these ``read`` and ``skipped``; of
        those read ``with_text``, ``unread`` (half or more of the lines seen were not), ``resumed`` (by an earlier call)
        and ``cached``; ``captions``: those with words that came with a text of the post's own, and ``repeated``: how
        many of these texts say the same; ``seconds_per_picture`` (wall clock, 0 where none) of those read now.

    Raises
    ------
    ConfigError, MissingExtra
        As `Transcriber.key`, where a part is to be read.
    DataError
        Where a part cannot be opened or decoded, naming its row.
    RunError
        Where a process died.
    """
    transcriber = active.transcriber
    parts, asked = _asked(manifest, source, active)
    total, note = sum(asked), note or (lambda _: None)
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not partial.exists() and _later(out, manifest):  # stopped before the run could note that all is read
        os.replace(out, partial)
    done = resumed = _resume(partial, manifest, asked, active) if total else 0
    begun, cached = perf_counter(), 0
    with disk_errors(partial), open(partial, "a" if resumed else "w", encoding="utf-8", newline="") as sink:
        if total > resumed:
            with closing(TranscriptCache(cache, transcriber, note)) as known:
                pool = TranscriberPool(source, active, known, note)

                def waiting() -> Iterator[Example]:
                    return islice(compress(read_manifest(manifest), asked), resumed, None)

                for example, transcript in pool.transcripts(waiting, total - resumed):
                    row = {"id": example.id, **asdict(transcript), "language": detect_language(clean(transcript.text))}
                    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
                    sink.flush()
                    done += 1
                    if progress:
                        progress(done, total)
                cached = pool.cached
        os.fsync(sink.fileno())
    seconds, fresh = perf_counter() - begun, done - resumed - cached
    found = _found(manifest, source, asked, active, partial)
    _mark(manifest, unread_rows(partial, active).union(also_unread))
    os.replace(partial, out)
    return {
        f"{transcriber.noun}s": parts,
        "read": done,
        "skipped": parts - done,
        **found,
        "resumed": resumed,
        "cached": cached,
        f"seconds_per_{transcriber.noun}": round(seconds / fresh, 4) if fresh else 0.0,
    }


def _asked(manifest: Path, source: Source, active: ActiveTranscriber) -> tuple[int, bytearray]:
    """How many rows have the part; and for each row of the manifest, 1 where it is to be read."""
    parts, asked = 0, bytearray()
    for example in read_manifest(manifest):
        parts += active.transcriber.modality in example.parts
        asked.append(active.wants(example.parts, source.role_of(example)))
    return parts, asked


def _resume(partial: Path, manifest: Path, asked: bytearray, active: ActiveTranscriber) -> int:
    """How many rows of an interrupted call still hold; the file is cut behind the last of them."""
    if not partial.exists():
        return 0
    rows = size = 0
    engine = active.transcriber.engine
    # The ids may be the same and the parts others: a manifest written since makes every row suspect.
    if _later(partial, manifest):
        with open(partial, "rb") as f:
            for line, example in zip(f, compress(read_manifest(manifest), asked), strict=False):
                if not _holds(line, example, engine, active):
                    break
                rows, size = rows + 1, size + len(line)
    os.truncate(partial, size)
    return rows


def _later(path: Path, manifest: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= manifest.stat().st_mtime_ns


def _holds(line: bytes, example: Example, engine: str, active: ActiveTranscriber) -> bool:
    try:
        row = json.loads(line)
        told = asdict(_transcript(row, active)).keys() <= row.keys()  # an earlier version did not tell as much
    except (ValueError, TypeError, AttributeError):
        return False
    return line.endswith(b"\n") and told and (row.get("id"), row.get("engine")) == (example.id, engine)


def _transcript(row: Mapping[str, Any], active: ActiveTranscriber) -> Transcript:
    """What was read, as a row of ``<block>.jsonl`` has it."""
    return active.transcriber.transcript(**{name: row[name] for name in row if name not in ("id", "language")})


def unread_rows(path: Path, active: ActiveTranscriber) -> set[str]:
    """Ids of the rows of ``<block>.jsonl`` half or more of whose words could not be read."""
    return {row["id"] for row in read_jsonl(path) if _transcript(row, active).mostly_unread}


def _found(manifest: Path, source: Source, asked: bytearray, active: ActiveTranscriber, path: Path) -> dict[str, int]:
    """What the transcripts of all parts come to."""
    counts = dict.fromkeys(("with_text", "unread", "captions", "repeated"), 0)
    for example, row in zip(compress(read_manifest(manifest), asked), read_jsonl(path), strict=True):
        read = _transcript(row, active)
        counts["with_text"] += bool(read.text)
        counts["unread"] += read.mostly_unread
        own = clean(example.parts.get(TEXT) or "")
        if own and read.text and source.role_of(example) == "caption":
            counts["captions"] += 1
            counts["repeated"] += _alike(own, read.text)
    return counts


def _alike(one: str, other: str) -> bool:
    """Whether two texts say the same, but for what a transcriber misses."""
    first, second = ("".join(filter(str.isalnum, words.casefold()))[:_COMPARED] for words in (one, other))
    return SequenceMatcher(None, first, second, autojunk=False).ratio() >= _ALIKE


def _mark(manifest: Path, unread: set[str]) -> None:
    """Write into a manifest which rows bear words that could not be read; it stays as old as it is."""
    if {example.id for example in read_manifest(manifest) if example.meta.get(UNREAD)} == unread:
        return
    times = manifest.stat().st_atime_ns, manifest.stat().st_mtime_ns  # a later one would make transcripts suspect
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
