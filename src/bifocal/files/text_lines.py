"""Text files decoded first, then split into lines: a byte that is not of the encoding costs its line, not the file."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable
from itertools import islice
from typing import IO

from ..errors import ConfigError, DataError
from .folders import Files

_HANDLER = "bifocal-marked"
_MARKS = re.compile("[\udc00-\udcff]")
"""What `_marked` puts in the place of bad bytes: no decoder gives these by itself, and no JSON holds them unescaped."""
_HEAD = 64 * 2**10
_LONGEST = 2**20
_GUESSED_FROM = 200_000  # lines
_WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, the longer first: one of UTF-32 begins as one of UTF-16 does."""
_FEW = 0.05
"""A file with a larger share of lines that are not of its encoding is of another."""
_NON_ASCII = re.compile(rb"[\x80-\xff]")
_C1 = re.compile(rb"[\x80-\x9f]")
_LETTERS = re.compile(rb"[A-Za-z\x80-\xff]")


def _marked(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _marked)


def known_encoding(name: str) -> str:
    """The usual name of an encoding. Raises `ConfigError` where Python has none of that name for text."""
    try:
        b"a".decode(name, _HANDLER)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ConfigError(f"encoding: {name!r} is unknown; utf-8, utf-16, latin-1 and cp1252 are usual ones") from None


def has_bad_bytes(content: str) -> bool:
    """Whether bytes stood here that are not of the encoding."""
    return not content.isascii() and _MARKS.search(content) is not None


def for_display(content: str) -> str:
    """A text for a message or the quarantine, with U+FFFD in the place of bad bytes."""
    return _MARKS.sub("�", content)


def decoded(file: IO[bytes], name: str, encoding: str, newline: str | None) -> io.TextIOWrapper:
    """A file as text, bad bytes marked, a byte order mark dropped; ``newline`` as `open` takes it.

    Raises
    ------
    DataError
        Where the first bytes show that the file is of another encoding: names the option that reads it.
    """
    return io.TextIOWrapper(file, _settled(file, name, encoding), errors=_HANDLER, newline=newline)


def _settled(file: IO[bytes], name: str, encoding: str) -> str:
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    mark = next((mark for mark in _WIDE if head.startswith(mark)), None)
    told = _WIDE[mark] if mark else _wide(head)
    if encoding.startswith(("utf-16", "utf-32")):
        if told is None and head:
            raise DataError(
                f"{name} is not {encoding.upper()}, which has many zero bytes: leave the option encoding out, or set "
                "it to what the file is"
            )
        # Of what has no mark of its own, Python takes the byte order of the machine. One that is there is dropped.
        return told or encoding
    if mark:
        raise DataError(
            f"{name} is not {encoding.upper()} at byte 0 (0x{head[0]:02x}, line 1): set the option encoding: {told}, "
            "or convert it"
        )
    if told:
        raise DataError(
            f"{name} is not {encoding.upper()} but {told.upper()}: set the option encoding: {told}, or convert it"
        )
    return encoding


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 with its byte order, of a text without a mark: by the zero bytes of signs and line breaks."""
    head = head[: len(head) // 4 * 4]
    zeros = [head[place::4].count(0) * 4 / max(len(head), 1) for place in range(4)]
    for name, zero, other in (("utf-32-le", (2, 3), (0,)), ("utf-32-be", (0, 1), (3,))):
        if all(zeros[place] > 0.9 for place in zero) and all(zeros[place] < 0.5 for place in other):
            return name
    odd, even = zeros[1] + zeros[3], zeros[0] + zeros[2]
    if max(odd, even) > 0.02 and min(odd, even) < 0.1 * max(odd, even):
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def check_encoding(files: Files, name: str, encoding: str) -> None:
    """Raise `DataError` where a file of lines, below a header, is of another encoding as a whole."""
    with files.opened(name) as file:
        lines = decoded(file, name, encoding, None)
        lines.readline(_LONGEST)
        foreign = is_other_encoding(iter(lambda: lines.readline(_LONGEST), ""))
    if foreign:
        raise DataError(describe_encoding(files, name, encoding))


def is_other_encoding(texts: Iterable[str]) -> bool:
    """Whether texts, bad bytes marked, are of another encoding, and not a few of them damaged.

    Then hardly a text beyond ASCII could be decoded, and many of them, or all, could not be.
    """
    bad = whole = total = 0
    for text in texts:
        total += 1
        bad += (marked := has_bad_bytes(text))
        whole += not marked and not text.isascii()
    return (bad > max(1, _FEW * total) or bad == total) and 10 * whole < bad


def guess_encoding(files: Files, name: str) -> str:
    """UTF-8 where most lines beyond ASCII are that; else what a byte order mark, zero bytes or accents tell."""
    with files.opened(name) as file:
        head = file.read(_HEAD)
    mark = next((mark for mark in _WIDE if head.startswith(mark)), None)
    if wide := _WIDE[mark] if mark else _wide(head):
        return wide
    _, other = _measured(files, name, "utf-8", _GUESSED_FROM)
    return other or "utf-8"


def describe_encoding(files: Files, name: str, encoding: str) -> str:
    """Where a file is not of its encoding, and which one to set."""
    place, other = _measured(files, name, encoding)
    if other == encoding:
        return f"{name} is not {encoding.upper()}{place}, and elsewhere it is: mend that line"
    if other is not None:
        return f"{name} is not {encoding.upper()}{place}: set the option encoding: {other}, or convert it"
    scripts = "to that of its script (cp1251 or koi8-r, gb18030, big5, shift_jis, euc-kr, …)"
    return f"{name} is not {encoding.upper()}{place}: set the option encoding {scripts}, or convert it"


def _measured(files: Files, name: str, encoding: str, most: int | None = None) -> tuple[str, str | None]:
    """Where a file is first not of an encoding, and of which it is: the same, one for Latin letters, or None."""
    at = letters = high = controls = bad = whole = 0
    place = ""
    with files.opened(name) as file:
        for number, line in enumerate(islice(file, most), start=1):
            try:
                whole += not line.decode(encoding).isascii()
            except UnicodeDecodeError as error:
                bad += 1
                place = place or f" at byte {at + error.start} (0x{line[error.start]:02x}, line {number})"
            at += len(line)
            letters += len(_LETTERS.findall(line))
            high += len(_NON_ASCII.findall(line))
            controls += len(_C1.findall(line))
    if whole > bad or not bad:
        return place, encoding
    if 2 * high < letters:  # Latin letters, some with accents: C1 controls in the place of quotes mean Windows
        return place, "cp1252" if controls else "latin-1"
    return place, None
