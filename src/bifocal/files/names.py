"""Files under the names that are meant: what is not there as written is looked up leniently, and never guessed."""

from __future__ import annotations

import difflib
import re
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote

from .archives import escapes_root

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
"""Endings of files that mean to be pictures; whether they can be read is found out when they are."""
_MISREAD = ("cp437", "cp1252", "latin-1")
"""What a tool takes the UTF-8 bytes of a name for."""
_CODE_PAGES = (*("cp437", "cp850", "cp852", "cp866", "cp1250", "cp1251", "cp1252"), "cp932", "gbk", "big5", "cp949")
"""What a name whose encoding stands nowhere may be in."""
_NEIGHBOURS = 50
_SHOWN = 3


def spellings(name: str) -> set[str]:
    """What a name may be meant to be: composed, without space at its ends, unescaped, its bytes read as UTF-8."""
    names = {name, unquote(name)}
    if not name.isascii():
        names |= set(_reread(name))
    return {unicodedata.normalize("NFC", one.strip()) for one in names}


def _reread(name: str) -> Iterator[str]:
    raw = name.encode("utf-8", "surrogateescape")
    unknown = not name.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in name)
    for code in _CODE_PAGES if unknown else _MISREAD:
        try:
            yield raw.decode(code) if unknown else name.encode(code).decode()
        except UnicodeError:
            continue


def folded(name: str) -> set[str]:
    """`spellings`, whatever their case."""
    return {one.casefold() for one in spellings(name)}


def _stems(name: str) -> set[str]:
    """Without the ending of a picture."""
    return {one.removesuffix(_ending(one)) for one in folded(name)}


def _ending(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in PICTURES else ""


_Level = Callable[[str], set[str]]
_LEVELS: tuple[tuple[_Level, _Level], ...] = ((spellings, spellings), (folded, folded), (folded, _stems))
"""How folders, and how files, are compared: first but for their spelling, then their case, then a picture's ending."""


class Names:
    """Looks names up among the files below a root, folder by folder; each folder is listed once.

    Parameters
    ----------
    listing : callable
        The folder's name, "" for the root -> what lies in it: the name as its bytes say (those of an unknown encoding
        as surrogates) -> the name by which it is opened.
    is_file : callable
    """

    def __init__(self, listing: Callable[[str], Mapping[str, str]], is_file: Callable[[str], bool]):
        self._listing = listing
        self._is_file = is_file
        self._keys: dict[tuple[str, _Level], dict[str, list[str]]] = {}

    def alike(self, wanted: str) -> list[str]:
        """The files that a name may mean: none, one, or those between which nothing decides."""
        forms = dict.fromkeys(form for one in (wanted, unquote(wanted)) for form in (one, one.replace("\\", "/")))
        paths = [PurePosixPath(form.strip()).parts for form in forms if not escapes_root(form.strip())]
        for folders, files in _LEVELS:
            found: dict[str, None] = {}
            for parts in paths:
                found |= dict.fromkeys(self._walk("", parts, folders, files)) if parts else {}
            if hits := [name for name in found if self._is_file(name)]:
                return hits
        return []

    def _walk(self, folder: str, parts: tuple[str, ...], folders: _Level, files: _Level) -> Iterator[str]:
        level = folders if parts[1:] else files
        index = self._index(folder, level)
        for name in dict.fromkeys(name for key in level(parts[0]) for name in index.get(key, ())):
            path = f"{folder}/{name}" if folder else name
            if not parts[1:]:
                # Another ending is only ever that of another picture, never a text beside it.
                if files is not _stems or _ending(name):
                    yield path
            else:
                yield from self._walk(path, parts[1:], folders, files)

    def _index(self, folder: str, level: _Level) -> dict[str, list[str]]:
        if (folder, level) not in self._keys:
            index: dict[str, list[str]] = {}
            for shown, name in self._listing(folder).items():
                for key in level(shown):
                    index.setdefault(key, []).append(name)
            self._keys[folder, level] = index
        return self._keys[folder, level]


def _digits(name: str) -> list[str]:
    return re.findall(r"\d+", name)


class Nearest:
    """The names that come nearest to one that is not there, for the message; takes no time however many there are."""

    def __init__(self, names: Iterable[str]):
        self._sorted = sorted(names)
        self._places: dict[str, list[str]] = {}
        for name in self._sorted:
            for key in _stems(PurePosixPath(name).name):
                self._places.setdefault(key, []).append(name)

    def of(self, wanted: str) -> list[str]:
        """Files of that name in other folders; else the one spelled most like it among those that sort beside it."""
        path = PurePosixPath(unquote(wanted).replace("\\", "/").strip())
        if same := list(dict.fromkeys(n for key in _stems(path.name) for n in self._places.get(key, ()))):
            return same[:_SHOWN]
        at = bisect(self._sorted, str(path))
        around = [
            name  # 00013.png is no misspelling of 00012.png
            for name in self._sorted[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
            if _digits(name) == _digits(str(path))
        ]
        return difflib.get_close_matches(str(path), around, n=1, cutoff=0.5)
