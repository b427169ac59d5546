"""Rows of delimited text (CSV, TSV and the like), where a stray quote swallows no other rows."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from ..errors import DataError
from ..example import Rejected
from ..spreadsheet import is_guarded, raw
from .folders import Files
from .text_lines import check_encoding, decoded, describe_encoding, for_display, has_bad_bytes

Quotes = Literal["auto", "standard", "none", "backslash"]
"""How cells are quoted: as found; ``"…"`` with quotes inside doubled; not at all, a quote being a sign like any other;
or ``"…"`` with quotes inside behind a backslash."""
Read = tuple[str, dict[str, Any] | Rejected]
"""Where a row stands, and the row."""
Line = tuple[int, str]
"""The number of a line, and the line with its end."""

MAX_CELL = 131_072
"""Characters of a cell; a text over 100,000 is refused later, by name."""
MAX_LINE = 64 * 2**20
"""Characters; a longer line is no row, and would be held whole."""
SHOWN = 200
COMMON = ",;\t|"
"""Delimiters that are looked for."""
_DIRECTIVE = re.compile(r'"?sep=(.)"?[\r\n]*')
"""The first line by which Excel is told the delimiter."""
_QUOTED = re.compile(r'""|"')
_ESCAPED = re.compile(r'\\.|""|"', re.DOTALL)
_LOOKED_AT, _FEWEST = 5000, 5
"""Lines at most, and rows at least, that show what the cells of a column look like."""
_MOST_SHAPES, _MOST_WORDS = 10, 3


def read_delimited(
    files: Files,
    name: str,
    *,
    delimiter: str | None,
    encoding: str,
    quotes: Quotes,
    default: str,
    note: Callable[[str], None] | None,
) -> Iterator[Read]:
    """Every row of a file of delimited text as ``(where, row)``; one that cannot be read as ``(where, Rejected)``.

    Parameters
    ----------
    delimiter : str or None
        None = that of a first line ``sep=;``, else ``default``.
    quotes : str
        ``auto`` reads a quote that opens a cell and is not closed before other rows follow as a plain character, and
        quotes behind backslashes where the file has them. A row that ends within a cell of the one before it is a row.
    note : callable, optional
        Is told, at the end, what was taken for what.
    """
    return _Delimited(files, name, encoding, quotes).rows(delimiter, default, note)


class _Delimited:
    def __init__(self, files: Files, name: str, encoding: str, quotes: Quotes):
        self.files, self.name, self.encoding, self.quotes = files, name, encoding, quotes
        self.delimiter = ""
        self.header: list[str] = []
        self.is_ours = False
        self.again: deque[Line] = deque()
        self.strays: list[int] = []
        self.suspects: list[int] = []

    # ------------------------------------------------------------------ rows

    def rows(self, asked: str | None, default: str, note: Callable[[str], None] | None) -> Iterator[Read]:
        csv.field_size_limit(2 * MAX_LINE)  # of the whole process; cells are measured here
        with self.files.opened(self.name) as file:
            self.lines = self._numbered(decoded(file, self.name, self.encoding, ""))
            self._read_header(asked, default)
            while line := self._next():
                if line[1].strip("\r\n"):
                    yield from self._record(line)
        if note:
            for text in self._notes():
                note(text)

    def _numbered(self, stream: Any) -> Iterator[Line]:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            yield number, line
            while len(line) == MAX_LINE and line[-1] not in "\r\n":  # the row is refused by its length
                line = stream.readline(MAX_LINE)

    def _next(self) -> Line | None:
        return self.again.popleft() if self.again else next(self.lines, None)

    def _read_header(self, asked: str | None, default: str) -> None:
        line = self._next()
        directive = _DIRECTIVE.fullmatch(line[1]) if line else None
        self.delimiter = asked or (directive[1] if directive else default)
        if directive:
            line = self._next()
        while line and not line[1].strip("\r\n"):
            line = self._next()
        if line is None:
            raise DataError(f"{self.name} is empty; expected a line with the names of the columns, and rows below it")
        taken, is_open = self._gathered(line)
        text = "".join(text for _, text in taken)
        if has_bad_bytes(text):
            raise DataError(describe_encoding(self.files, self.name, self.encoding))
        if is_open:
            raise DataError(f"{self.name}: a quote that opens in line {line[0]}, the header, is never closed")
        cells = self._cells(text)
        self.is_ours = is_guarded([raw(cell) for cell in cells])  # written by Bifocal: read as it was before
        self.header = self._named([raw(cell) for cell in cells] if self.is_ours else cells)

    def _named(self, cells: list[str]) -> list[str]:
        name, delimiter = self.name, self.delimiter
        header = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, start=1)]
        if any("\0" in cell for cell in header):
            raise DataError(f"{name} holds zero bytes where the names of the columns are expected: it is no text")
        if len(header) == 1 and (other := other_delimiter(cells[0], delimiter)):
            written = "\\t" if other == "\t" else other
            raise DataError(f'{name} has the one column {cells[0][:SHOWN]!r}: set the option delimiter: "{written}"')
        check_column_names(name, header)
        if all(map(_is_number, cells)):
            raise DataError(
                f"{name} begins with {cells[:8]!r}, not with the names of its columns: add a line with them"
            )
        return header

    def _record(self, line: Line) -> Iterator[Read]:
        taken, is_open = self._gathered(line)
        if is_open:
            yield from self._unclosed(taken)
            return
        text = "".join(text for _, text in taken)
        cells = self._cells(text)
        if self.quotes == "auto" and '"' in text:
            plain = self._split(line[1])
            if self._swallows(taken, cells) if len(taken) > 1 else len(cells) != len(self.header) == len(plain):
                yield self._stray(taken, plain)
                return
        if len(taken) > 1 and any(self.delimiter in cell and "\n" in cell.replace("\r", "\n") for cell in cells):
            self.suspects.append(line[0])
        yield self._row(line[0], text, cells)

    def _row(self, number: int, line: str, cells: list[str]) -> Read:
        where, width = f"{self.name}:{number}", len(self.header)
        if has_bad_bytes(line):
            check_encoding(self.files, self.name, self.encoding)
            reason = f"not {self.encoding.upper()}"
        elif len(line) > MAX_CELL and max(map(len, cells)) > MAX_CELL:
            reason = f"the line holds a cell of over {MAX_CELL:,} characters, the most that is read: shorten it"
        elif len(cells) != width:
            reason = f"{len(cells)} cells where the header has {width} (a {self.delimiter!r} without quotes?)"
        else:
            found = map(raw, cells) if self.is_ours else cells
            return where, {column: cell or None for column, cell in zip(self.header, found, strict=True)}
        return where, Rejected(None, where, reason, for_display(line[:SHOWN]))

    # ------------------------------------------------------------------ quotes

    def _gathered(self, line: Line) -> tuple[list[Line], bool]:
        """A line and those that its open quote takes in; and whether that quote is still open then."""
        taken = [line]
        is_open = self._leaves_open(line[1], False)
        size = len(line[1])
        while is_open and size <= MAX_CELL and (more := self._next()):
            taken.append(more)
            size += len(more[1])
            is_open = self._leaves_open(more[1], True)
        return taken, is_open

    def _leaves_open(self, line: str, inside: bool) -> bool:
        """Whether a quoted cell goes on behind a line's end."""
        if self.quotes == "none" or ('"' not in line):
            return inside
        marks, at = _ESCAPED if self.backslashes(line) else _QUOTED, 0
        while True:
            if inside:
                closing = next((mark for mark in marks.finditer(line, at) if mark[0] == '"'), None)
                if closing is None:
                    return True
                at, inside = closing.end(), False
            elif line.startswith('"', at):
                at, inside = at + 1, True
                continue
            at = line.find(self.delimiter, at) + 1
            if not at:
                return False

    def _unclosed(self, taken: list[Line]) -> Iterator[Read]:
        """Rows of lines that a quote opens and none closes."""
        first, last = taken[0], taken[-1]
        if self.quotes == "auto":
            yield self._stray(taken, self._split(first[1]))
            return
        at = f"lines {first[0]} to {last[0]}" if len(taken) > 1 else "the line"
        holds = f"{at} hold{'' if len(taken) > 1 else 's'}"
        reason = f"{at} cannot be read as CSV (a quote is not closed): double the quotes inside, or set quotes: none"
        if sum(len(text) for _, text in taken) > MAX_CELL:
            reason = (
                f"{holds} a cell of over {MAX_CELL:,} characters, the most that is read: shorten it, or close its quote"
            )
        for number, text in taken:  # each may have been a row
            where = f"{self.name}:{number}"
            yield where, Rejected(None, where, reason, for_display(text[:SHOWN]))

    def _stray(self, taken: list[Line], cells: list[str]) -> Read:
        """The first line, its quote a plain character; those behind it are read anew."""
        self.again.extendleft(reversed(taken[1:]))
        number, text = taken[0]
        self.strays.append(number)
        return self._row(number, text, cells)

    def _swallows(self, taken: list[Line], cells: list[str]) -> bool:
        """Whether the lines of one cell are rows of their own: of as many cells, which look like those of others."""
        width = len(self.header)
        if width < 2 or len(self._split(taken[0][1])) != width == len(cells):
            return False
        inner = [self._alone(text) for _, text in taken[1:] if text.strip()]
        rows = [cells for cells in inner if len(cells) == width]
        if not rows or len(rows) < 0.8 * len(inner):
            return False
        if not self.shapes:  # nothing to go by: a tab is seldom typed, and chance makes no table of many lines
            return self.delimiter == "\t" or (len(inner) > 1 and width > 2)
        alike = [sum(_shape(cells[i]) in of for i, of in self.shapes.items()) for cells in rows]
        return 2 * sum(2 * n > len(self.shapes) for n in alike) > len(inner)

    def _alone(self, line: str) -> list[str]:
        """The cells of one line, had no quote been open before it."""
        if not self._leaves_open(line, False) and len(cells := self._cells(line)) == len(self.header):
            return cells
        return self._split(line)

    @cached_property
    def shapes(self) -> dict[int, set[str]]:
        """Columns whose cells look alike (numbers, ids, dates, classes) -> what they look like."""
        width, most = len(self.header), _MOST_SHAPES
        rows, any_rows = [], []
        inside = False
        with self.files.opened(self.name) as file:
            for line in islice(decoded(file, self.name, self.encoding, ""), 1, _LOOKED_AT):
                begun, inside = inside, self._leaves_open(line, inside)
                if not begun and not inside and len(cells := self._cells(line)) == width:
                    rows.append(cells)
                elif len(cells := self._split(line)) == width:
                    any_rows.append(cells)
        if len(rows) < _FEWEST:  # all of it stands in quotes: what all lines have in common is no chance either
            rows, most = any_rows, 1
        if len(rows) < _FEWEST:
            return {}
        found = {i: {_shape(row[i]) for row in rows} for i in range(width)}
        most = min(most, max(1, len(rows) // 5))
        return {
            i: of for i, of in found.items() if len(of) <= most and max(shape.count(" ") for shape in of) < _MOST_WORDS
        }

    def backslashes(self, line: str) -> bool:
        """Whether backslashes stand before quotes inside cells, in this file."""
        return self.quotes == "backslash" or (self.quotes == "auto" and "\\" in line and self.escapes)

    @cached_property
    def escapes(self) -> bool:
        """Whether more lines with a quote behind a backslash are rows if it is an escape than if it is not."""
        doubled = escaped = 0
        with self.files.opened(self.name) as file:
            for line in decoded(file, self.name, self.encoding, ""):
                if '\\"' in line:
                    doubled += self._is_row(line, None)
                    escaped += self._is_row(line, "\\")
        return escaped > doubled

    def _is_row(self, line: str, escape: str | None) -> bool:
        try:
            cells = next(csv.reader([line], delimiter=self.delimiter, escapechar=escape, strict=True), [])
        except csv.Error:
            return False
        return len(cells) == (len(self.header) or len(cells))

    # ------------------------------------------------------------------ cells

    def _split(self, line: str) -> list[str]:
        return line.rstrip("\r\n").split(self.delimiter)

    def _cells(self, line: str) -> list[str]:
        escape = "\\" if self.backslashes(line) else None
        if self.quotes == "none" or ('"' not in line and not (escape and "\\" in line)):
            return self._split(line)
        if escape:
            line = self._escaped(line)
        try:  # as pandas reads it: what follows on a quoted phrase belongs to its cell
            return next(csv.reader([line], delimiter=self.delimiter, escapechar=escape, strict=False), [])
        except csv.Error:
            return self._split(line)

    def _escaped(self, line: str) -> str:
        """With no backslash lost but that of an escape, and nothing where databases write ``\\N`` for it."""
        edge = re.escape(self.delimiter)
        line = re.sub(rf"(?:(?<={edge})|^)\\N(?={edge}|[\r\n]|$)", "", line)
        return re.sub(rf'\\(["\\{edge}])|\\', lambda mark: mark[0] if mark[1] else "\\\\", line)

    def _notes(self) -> Iterator[str]:
        if self.strays:
            yield (
                f"{self.name}: {_times(self.strays, 'cell')} with a quote that no other closes, read as a plain "
                "character; set quotes: standard if they hold line breaks, quotes: none to read every quote so"
            )
        if self.suspects:
            yield (
                f"{self.name}: {_times(self.suspects, 'quoted cell')} with both line breaks and {self.delimiter!r}: "
                "set quotes: none if stray quotes swallowed rows there"
            )
        if self.quotes == "auto" and self.__dict__.get("escapes"):
            yield f"{self.name}: its quotes are escaped by backslashes, and read so (quotes: backslash)"


def other_delimiter(header: str, delimiter: str) -> str | None:
    """What separates the columns of a header, where it is not the delimiter."""
    return max((d for d in COMMON if d != delimiter and d in header), key=header.count, default=None)


def check_column_names(name: str, header: list[str]) -> None:
    """Raise `DataError` where two columns have one name."""
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise DataError(f"{name} has two columns of the name {', '.join(map(repr, twice))}: rename one")


def _times(lines: list[int], what: str) -> str:
    more = ", …" if len(lines) > 3 else ""
    lines_ = f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:3]))}{more}"
    return f"{len(lines):,} {what}{'s' if len(lines) > 1 else ''} ({lines_})"


def _shape(cell: str) -> str:
    """What a cell looks like: runs of digits as ``9``, of letters as ``a``."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", cell.replace('"', "")))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
        return True
    except ValueError:
        return False
