"""Lists of known pictures, told by PDQ hashes: what is on one is decided before any model is asked."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, listed
from ..modalities.image import picture_hash
from ..spreadsheet import cells, raw
from .settings import ListSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_QUALITY = 50
"""Of PDQ's 0..100: below, a picture has so little to tell it by (a plain colour) that its hash is near many others'."""
BITS = 256
_STRICTEST = ("allow", "review", "block")
_AT_ONCE = 2**17  # rows compared at a time: what is computed of them stays in the cache
_BAD_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Match:
    """The entry of a list that a picture is."""

    list: str
    entry: str
    distance: int
    """PDQ bits that differ, of 256."""
    action: str

    def description(self) -> str:
        """In a line."""
        far = "exactly" if self.distance == 0 else f"but for {self.distance} of {BITS} bits"
        return f"it is entry {self.entry} of the list {self.list}, {far}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


class _List:
    def __init__(self, settings: ListSettings, entries: Sequence[str], hashes: NDArray[np.uint64]):
        self.name, self.action, self.distance = settings.path.stem, settings.action, settings.distance
        self.entries, self.hashes = entries, hashes

    def nearest(self, asked: NDArray[np.uint64], most: int) -> Match | None:
        best, place = most + 1, -1
        for start in range(0, len(self.hashes), _AT_ONCE):
            differ = np.bitwise_count(self.hashes[start : start + _AT_ONCE] ^ asked).sum(axis=1, dtype=np.uint16)
            at = int(differ.argmin())
            if differ[at] < best:
                best, place = int(differ[at]), start + at
        return None if place < 0 else Match(self.name, self.entries[place], best, self.action)


class KnownPictures:
    """All lists of a service, read from their files.

    A file is CSV in the layout that ThreatExchange's samples and its hasher-matcher-actioner have, without a header:
    the PDQ hash as 64 hexadecimal digits, the entry's id, a time, tags (the latter two may be missing, and are not
    read).

    Raises
    ------
    DataError
        Where a file is missing, holds nothing, or a row of it is no hash: half a list would let pass what the missing
        half names.
    """

    def __init__(self, settings: Sequence[ListSettings]):
        self._settings = settings
        self._stamp = _stamp(settings)  # before they are read: what is written meanwhile is read again
        self._lists = [_read(one) for one in settings]

    def changed(self) -> bool:
        """Whether a file is another than the one that was read."""
        return bool(_stamp(self._settings) != self._stamp)

    def __len__(self) -> int:
        return sum(len(one.entries) for one in self._lists)

    def match(self, pdq: str, quality: int) -> Match | None:
        """The entry that a picture is, of its hash; None where it is none.

        Of several lists the strictest action wins, then the nearest entry. Where ``quality`` is under `LEAST_QUALITY`,
        only the very hash counts.
        """
        if not self._lists:
            return None
        asked = _words([pdq])[0]
        found = [one.nearest(asked, one.distance if quality >= LEAST_QUALITY else 0) for one in self._lists]
        matches = [match for match in found if match is not None]
        return max(matches, key=lambda m: (_STRICTEST.index(m.action), -m.distance), default=None)


def _read(settings: ListSettings) -> _List:
    path, entries, hashes, bad = settings.path, [], [], []
    if not path.is_file():
        raise DataError(f"there is no list of known pictures {str(path)!r}")
    with open(path, newline="", encoding="utf-8-sig") as f:
        try:
            for number, row in enumerate(csv.reader(f), 1):
                if not row or not any(cell.strip() for cell in row):
                    continue
                pdq = row[0].strip().lower()
                if len(pdq) != BITS // 4 or set(pdq) - set("0123456789abcdef"):
                    bad.append(number)
                    continue
                hashes.append(pdq)
                named = raw(row[1]).strip() if len(row) > 1 else ""
                entries.append(named or f"line {number}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"the list {path} is no CSV in UTF-8 ({error})") from None
    if bad:
        lines = ", ".join(map(str, bad[:_BAD_SHOWN])) + (", ..." if len(bad) > _BAD_SHOWN else "")
        raise DataError(
            f"{len(bad)} rows of {path} (lines {lines}) begin with no PDQ hash of 64 hexadecimal digits: mend them or "
            "take them out; a list is taken whole or not at all"
        )
    if not entries:
        raise DataError(f"the list {path} is empty: give it entries, or leave the list out")
    return _List(settings, entries, _words(hashes))


def _words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes as ``[n, 4]`` words of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(-1, 4)


def _stamp(settings: Sequence[ListSettings]) -> list[Any]:
    stamps: list[Any] = []
    for one in settings:
        try:
            status = one.path.stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            stamps.append(None)
    return stamps


def _is_list(path: Path) -> bool:
    with path.open(encoding="utf-8", newline="") as file:
        cells = next(csv.reader(file))
    return len(cells) == 4 and re.fullmatch(r"[0-9a-f]{64}", cells[0]) is not None


def write_list(places: Sequence[Path], out: Path, *, as_they_are: bool = False, force: bool = False) -> dict[str, Any]:
    """Make a list of picture files, their names its entries.

    Parameters
    ----------
    places : sequence of Path
        Files, or folders whose files are taken.
    as_they_are : bool
        Write names as they are, also such as a spreadsheet runs.
    force : bool
        Overwrite a file that is there and no such list.

    Returns
    -------
    dict
        ``written``; ``poor``: of too little to be told by, written all the same; ``skipped``: the names of files that
        are no pictures.

    Raises
    ------
    DataError
        Where a place is missing, or no file is a picture; nothing is written then.
    """
    from ..decide.policy import now
    from ..modalities.image import Image, decode
    from ..system.preprocessing import read_file
    from ..workspace import atomic, check_replaceable

    check_replaceable(out, _is_list, force=force)
    if missing := [str(place) for place in places if not place.exists()]:
        raise DataError(f"there is no file or folder {missing[0]!r} to take pictures from; nothing was written")
    files = [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    written, poor, skipped, cell = 0, 0, [], cells(as_they_are)
    with atomic(out) as f:
        writer = csv.writer(f)
        for path in files:
            if path.is_dir():
                continue
            try:
                pdq, quality = picture_hash(decode(read_file(path, Image.input)))
            except DataError:
                skipped.append(path.name)
                continue
            written += 1
            poor += quality < LEAST_QUALITY
            writer.writerow([pdq, cell(path.name), now(), f"quality_{quality}"])
        if not written:
            raise DataError(
                f"no picture in {listed([str(place) for place in places])}, where {len(skipped)} files were looked at "
                "(none in folders within): nothing was written; give picture files, or folders that hold them"
            )
    return {"written": written, "poor": poor, "skipped": skipped}
