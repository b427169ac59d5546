"""Rows of a table file (CSV, TSV, JSON lines, JSON, Parquet), streaming, whatever is wrong with some of them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from ..errors import ConfigError, DataError, extras_named
from ..example import Rejected
from ..spreadsheet import is_guarded, raw
from ._files import Files

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of the files that are read, in lower case."""
MAX_CELL = 131_072
"""Characters of a CSV cell; a text over 100,000 is refused later, by name."""
MAX_LINE = 64 * 2**20
"""Bytes; a longer line is no row, and would be held whole."""
NAMELESS = re.compile(r"column \d+")
"""What `read_rows` calls a column of CSV that has no name."""
MAX_LEVELS = 50
_SHOWN = 200

Read = tuple[str, dict[str, Any] | Rejected]
"""Where a row stands, and the row."""


def is_table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def read_rows(files: Files, name: str, *, delimiter: str | None = None, encoding: str = "utf-8") -> Iterator[Read]:
    """Every row of a table file as ``(where, row)``; one that cannot be read comes as ``(where, Rejected)``.

    Cells of CSV are strings, an empty one is None; so is a NaN of JSON or Parquet. A column of CSV without a name (the
    index of a data frame) is called ``column 1``, by its place. JSON is a list of rows, or ``{key: row}``, where a row
    then also bears its ``key``; it alone is held whole.

    Parameters
    ----------
    delimiter : str, optional
        Of CSV; by default ``,``, and a tab for TSV.
    encoding : str
        Of all but Parquet. A byte order mark is dropped.

    Raises
    ------
    ConfigError
        On an unknown encoding.
    DataError
        Where the file as a whole cannot be read: missing, of another kind, of another encoding (names the byte), no
        header, another delimiter, two columns of one name.
    """
    suffix = PurePosixPath(name).suffix.lower()
    try:
        encoding = codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(f"encoding: {encoding!r} is unknown; utf-8, latin-1 and cp1252 are the usual ones") from None
    if suffix not in SUFFIXES:
        raise DataError(f"{name} is no table that can be read; known endings: {', '.join(SUFFIXES)}")
    if suffix == ".json":
        return _json(files, name, encoding)
    if suffix == ".parquet":
        return _parquet(files, name)
    if suffix in DELIMITERS:
        return _csv(files, name, delimiter or DELIMITERS[suffix], encoding)
    return _lines(files, name, encoding)


def _csv(files: Files, name: str, delimiter: str, encoding: str) -> Iterator[Read]:
    with files.opened(name) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="")
        lines = iter(lambda: text.readline(MAX_LINE), "")
        taken: list[str] = []
        csv.field_size_limit(MAX_CELL)  # of the whole process, and others set it too
        # Strict, or an open quote swallows rows in silence.
        reader = csv.reader(_kept(lines, taken), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        ours = False
        while True:
            taken.clear()
            start = reader.line_num + 1
            where = f"{name}:{start}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                reason = _csv_fault(error, start, reader.line_num)
                for number, line in enumerate(taken, start):  # each may have been a row
                    yield f"{name}:{number}", Rejected(None, f"{name}:{number}", reason, line[:_SHOWN])
                continue
            except UnicodeDecodeError:
                raise DataError(_bad_byte(files, name, encoding)) from None
            if cells is None:
                break
            if not cells:
                continue
            if header is None:
                ours = is_guarded([raw(cell) for cell in cells])  # written by Bifocal: read as it was before
                header = _header([raw(cell) for cell in cells] if ours else cells, name, delimiter)
            elif len(cells) != len(header):
                reason = f"{len(cells)} cells where the header has {len(header)} (a {delimiter!r} without quotes?)"
                yield where, Rejected(None, where, reason, delimiter.join(cells)[:_SHOWN])
            else:
                found = map(raw, cells) if ours else cells
                yield where, {column: cell or None for column, cell in zip(header, found, strict=True)}
        if header is None:
            raise DataError(f"{name} is empty; expected a line with the names of the columns, and rows below it")


def _csv_fault(error: csv.Error, first: int, last: int) -> str:
    at = f"lines {first} to {last}" if last > first else "the line"
    if "field limit" in str(error):
        goes_on = f"{at} hold{'' if last > first else 's'} a cell of over {MAX_CELL:,} characters"
        return f"{goes_on}, the most that is read: shorten it" + (", or close its quote" if last > first else "")
    return f"{at} cannot be read as CSV ({error}): double the quotes inside"


def _kept(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    """The lines, each noted in ``taken`` as it is given."""
    for line in lines:
        taken.append(line)
        yield line


def _header(cells: list[str], name: str, delimiter: str) -> list[str]:
    header = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, start=1)]
    if len(header) == 1 and (other := next((d for d in ";\t,|" if d != delimiter and d in cells[0]), None)):
        shown = "\\t" if other == "\t" else other
        raise DataError(f'{name} has the one column {cells[0][:_SHOWN]!r}: set the option delimiter: "{shown}"')
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise DataError(f"{name} has two columns of the name {', '.join(map(repr, twice))}: rename one")
    if all(_is_number(cell) for cell in cells):
        raise DataError(f"{name} begins with {cells[:8]!r}, not with the names of its columns: add a line with them")
    return header


def _is_number(cell: str) -> bool:
    try:
        float(cell)
        return True
    except ValueError:
        return False


def _bad_byte(files: Files, name: str, encoding: str) -> str:
    """Where a file is not of its encoding; a decoder knows the place within its buffer only."""
    at = 0
    with files.opened(name) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                place = f"byte {at + error.start} (0x{line[error.start]:02x}, line {number})"
                other = "utf-16" if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin-1"
                return f"{name} is not {encoding.upper()} at {place}: set the option encoding: {other}, or convert it"
            at += len(line)
    return f"{name} is not {encoding.upper()}: set the option encoding, or convert it"


def _lines(files: Files, name: str, encoding: str) -> Iterator[Read]:
    with files.opened(name) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            where = f"{name}:{number}"
            if len(line) > MAX_LINE:
                yield where, Rejected(None, where, f"a line of over {MAX_LINE >> 20} MiB", _shown(line))
                _skip_line(file, line)
            elif line.strip():
                yield where, _object(line, where, encoding)


def _skip_line(file: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE)


def _shown(line: bytes) -> str:
    return line[:_SHOWN].decode(errors="replace")


def _object(line: bytes, where: str, encoding: str) -> dict[str, Any] | Rejected:
    try:
        row = json.loads(line.decode("utf-8-sig" if encoding == "utf-8" else encoding))
    except UnicodeDecodeError:
        return Rejected(None, where, f"not {encoding.upper()}", _shown(line))
    except (ValueError, RecursionError):
        return Rejected(None, where, "not valid JSON", _shown(line))
    return _row(row, where)


def is_deep(value: Any, levels: int = MAX_LEVELS) -> bool:
    """Whether lists and objects stand within one another so often that nobody meant it, and copying would fail."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deep(one, levels - 1) for one in inner)


def _row(row: Any, where: str) -> dict[str, Any] | Rejected:
    if is_deep(row):
        return Rejected(None, where, f"lists or objects within one another, more than {MAX_LEVELS} deep")
    if not isinstance(row, dict):
        return Rejected(None, where, f"a JSON {type(row).__name__} where an object is expected", row)
    return {key: _cell(value) for key, value in row.items()}


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _json(files: Files, name: str, encoding: str) -> Iterator[Read]:
    try:
        content = json.loads(files.read(name).decode("utf-8-sig" if encoding == "utf-8" else encoding))
    except UnicodeDecodeError:
        raise DataError(_bad_byte(files, name, encoding)) from None
    except (ValueError, RecursionError) as error:
        hint = " (one object per line? name it .jsonl)" if "Extra data" in str(error) else ""
        raise DataError(f"{name} is not valid JSON: {error}{hint}") from None
    if isinstance(content, dict) and any(isinstance(row, dict) for row in content.values()):
        rows = ((key, {"key": key, **row} if isinstance(row, dict) else row) for key, row in content.items())
    elif isinstance(content, list):
        rows = ((str(number), row) for number, row in enumerate(content, start=1))
    else:
        raise DataError(f"{name} holds a JSON {type(content).__name__}; expected a list of rows, or {{key: row}}")
    for key, row in rows:
        yield f"{name}:{key}", _row(row, f"{name}:{key}")


def _parquet(files: Files, name: str) -> Iterator[Read]:
    with extras_named():
        from pyarrow import ArrowException, parquet
    with files.opened(name) as file:
        try:
            table = parquet.ParquetFile(file)
            number = 0
            for batch in table.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", {key: _cell(value) for key, value in row.items()}
        except (ArrowException, OSError) as error:
            raise DataError(f"{name} is no Parquet file that can be read ({' '.join(str(error).split())})") from None
