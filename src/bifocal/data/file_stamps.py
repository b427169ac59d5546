"""What the files behind a manifest were when it was made, so that a later command knows whether they still are."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..contracts import Source, Stamped
from ..errors import DataError
from ..workspace import atomic, read_jsonl

SETTLED = 2.0
"""Seconds: a file as young as this may change again within one tick of its file system's clock, unseen."""
KINDS = {"other": "hold other bytes", "come": "were missing and are there", "gone": "are gone"}

Entry = dict[str, Any]
"""``reference``; ``stamp``, as `Stamped` gives it; ``sha256`` of the bytes, None where there were none."""


def stamp_of(source: Source, reference: str) -> list[Any] | None:
    """A source's stamp of a reference; empty where it has none to give, as its files cannot change."""
    return source.stamp(reference) if isinstance(source, Stamped) else []


def entry(reference: str, stamp: list[Any] | None, begun: float, sha256: str | None) -> Entry:
    """What is noted of a file, its stamp taken at ``begun`` (seconds since the epoch), before it was read."""
    return {"reference": reference, "stamp": _settled(stamp, begun), "sha256": sha256}


def is_spelled_otherwise(noted: Entry) -> bool:
    """Whether a file was found under another spelling of its name than the row has."""
    return bool(noted["stamp"]) and noted["sha256"] is not None and noted["stamp"][0] != noted["reference"]


def _settled(stamp: list[Any] | None, begun: float) -> list[Any] | None:
    """Without times where these are too young to be trusted; the bytes are then compared the next time."""
    if not stamp or not stamp[0] or max(stamp[2:], default=0) < (begun - SETTLED) * 1e9:
        return stamp
    return [*stamp[:2], *(0 for _ in stamp[2:])]


def changes(path: Path, source: Source, *, refresh: bool = False) -> Counter[str]:
    """How many of the files noted are no longer what they were, by `KINDS`; empty where all are.

    Names, sizes and times are compared first; only where they differ are the bytes read.

    Parameters
    ----------
    refresh : bool
        Note the new stamps of files whose bytes are the old ones.
    """
    if not isinstance(source, Stamped):
        return Counter()
    noted = enumerate(read_jsonl(path))
    suspects = [(number, row) for number, row in noted if source.stamp(row["reference"]) != row["stamp"]]
    found: Counter[str] = Counter()
    renewed: dict[int, Entry] = {}
    with ThreadPoolExecutor() as pool:
        compared = pool.map(lambda suspect: _compared(suspect[1], source), suspects)
        for (number, _), outcome in zip(suspects, compared, strict=True):
            if isinstance(outcome, str):
                found[outcome] += 1
            else:
                renewed[number] = outcome
    if refresh and renewed and not found:
        with atomic(path) as file:
            for number, row in enumerate(read_jsonl(path)):
                file.write(line(renewed.get(number, row)))
    return found


def line(noted: Entry) -> str:
    """An entry as it stands in the file; ASCII, as a name may hold what UTF-8 cannot."""
    return json.dumps(noted) + "\n"


def _compared(noted: Entry, source: Source) -> str | Entry:
    """What became of a file whose stamp is not the one noted; or its new entry, where its bytes are the same."""
    begun, stamp = time.time(), stamp_of(source, noted["reference"])
    if noted["sha256"] is None:
        return "come"
    try:
        same = hashlib.sha256(source.open(noted["reference"])).hexdigest() == noted["sha256"]
    except DataError:
        return "gone"
    return entry(noted["reference"], stamp, begun, noted["sha256"]) if same else "other"
