"""Rows of a table file (CSV, TSV, JSON lines, JSON, Parquet), streaming, whatever is wrong with some of them."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field, PrivateAttr, field_validator

from ..errors import ConfigError, DataError, extras_named
from ..example import Rejected
from .delimited import MAX_CELL, MAX_LINE, SHOWN, Quotes, Read, check_column_names, read_delimited
from .folders import Files, FileSource
from .text_lines import (
    check_encoding,
    decoded,
    describe_encoding,
    for_display,
    has_bad_bytes,
    is_other_encoding,
    known_encoding,
)

__all__ = ["MAX_CELL", "DelimitedTables", "EncodedTables", "is_table", "read_rows"]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of the files that are read, in lower case."""
NAMELESS = re.compile(r"column \d+")
"""What `read_rows` calls a column of CSV that has no name."""
MAX_LEVELS = 50


def is_table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def read_rows(
    files: Files,
    name: str,
    *,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    quotes: Quotes = "auto",
    note: Callable[[str], None] | None = None,
) -> Iterator[Read]:
    """Every row of a table file as ``(where, row)``; one that cannot be read comes as ``(where, Rejected)``.

    Cells of CSV are strings, an empty one is None; so is a NaN of JSON or Parquet. A column of CSV without a name (the
    index of a data frame) is called ``column 1``, by its place. JSON is a list of rows, ``{key: row}``, where a row
    then also bears its ``key``, or ``{column: {row: cell}}`` and ``{column: [cell, …]}`` as pandas writes it; it alone
    is held whole.

    Parameters
    ----------
    delimiter : str, optional
        Of CSV; by default what a first line ``sep=;`` names, else ``,``, and a tab for TSV.
    encoding : str
        Of all but Parquet. A byte order mark is dropped. Bytes that are not of it cost their row.
    quotes : str
        Of CSV: ``auto``, ``standard``, ``none`` or ``backslash``, as `delimited.read_delimited` says.
    note : callable, optional
        Is told, after the last row, what of CSV had to be guessed.

    Raises
    ------
    ConfigError
        On an unknown encoding.
    DataError
        Where the file as a whole cannot be read: missing, of another kind, of another encoding (names the byte), no
        header, another delimiter, two columns of one name.
    """
    suffix = PurePosixPath(name).suffix.lower()
    encoding = known_encoding(encoding)
    if suffix not in SUFFIXES:
        raise DataError(f"{name} is no table that can be read; known endings: {', '.join(SUFFIXES)}")
    if suffix == ".json":
        return _json(files, name, encoding)
    if suffix == ".parquet":
        return _parquet(files, name)
    if suffix in DELIMITERS:
        return read_delimited(
            files,
            name,
            delimiter=delimiter,
            encoding=encoding,
            quotes=quotes,
            default=DELIMITERS[suffix],
            note=note,
        )
    return _lines(files, name, encoding)


class EncodedTables(FileSource):
    """A layout below one root whose rows stand in files of text.

    Attributes
    ----------
    encoding : str
        Of those files.
    """

    encoding: str = "utf-8"

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            known_encoding(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("encoding: ")) from None
        return value

    def read(self, name: str) -> Iterator[Read]:
        """The rows of one file, as `read_rows` gives them."""
        return read_rows(self.files, name, encoding=self.encoding)


class DelimitedTables(EncodedTables):
    """A layout below one root whose rows stand in CSV, or among them.

    Attributes
    ----------
    delimiter : str, optional
        Of CSV; by default that of the layout (``,``, and a tab, written ``tab``, for TSV), or of a line ``sep=;``.
    quotes : "auto", "standard", "none" or "backslash"
        Of CSV. ``standard``: a cell may stand in quotes, with delimiters, line breaks and doubled quotes inside.
        ``none``: a quote is a sign like any other, and each line is a row. ``backslash``: a quote inside stands behind
        a backslash. ``auto``: as the file has them; a quote that would swallow rows is read as a plain character.
    """

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quotes: Quotes = "auto"
    _notes: dict[str, None] = PrivateAttr(default_factory=dict)

    @field_validator("delimiter", mode="before")
    @classmethod
    def _tab_by_name(cls, value: Any) -> Any:
        return "\t" if value in ("tab", "\\t") else value

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n':
            raise ValueError(f"{value!r} cannot separate cells")
        return value

    def read(self, name: str, delimiter: str | None = None) -> Iterator[Read]:
        """The rows of one file, as `read_rows` gives them; ``delimiter`` is the layout's own."""
        return read_rows(
            self.files,
            name,
            delimiter=self.delimiter or delimiter,
            encoding=self.encoding,
            quotes=self.quotes,
            note=lambda finding: self._notes.setdefault(finding),
        )

    def notes(self) -> list[str]:
        """What of the files read so far had to be guessed."""
        return list(self._notes)


def _lines(files: Files, name: str, encoding: str) -> Iterator[Read]:
    with files.opened(name) as file:
        text = decoded(file, name, encoding, None)
        number = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            where = f"{name}:{number}"
            if len(line) > MAX_LINE:
                yield where, Rejected(None, where, f"a line of over {MAX_LINE >> 20} MiB", for_display(line[:SHOWN]))
                while line and not line.endswith("\n"):
                    line = text.readline(MAX_LINE)
            elif has_bad_bytes(line):
                check_encoding(files, name, encoding)
                yield where, Rejected(None, where, f"not {encoding.upper()}", for_display(line[:SHOWN]))
            elif line.strip():
                yield where, _object(line, where)


def _object(line: str, where: str) -> dict[str, Any] | Rejected:
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except DataError as error:
        return Rejected(None, where, str(error), line[:SHOWN])
    except (ValueError, RecursionError):
        return Rejected(None, where, "not valid JSON", line[:SHOWN])
    return _row(row, where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise DataError(f"two values under the one name {next(n for n in names if names.count(n) > 1)!r}: keep one")
    return found


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
    blob = decoded(io.BytesIO(files.read(name)), name, encoding, None).read()
    try:
        content = json.loads(blob, object_pairs_hook=_unique)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except (ValueError, RecursionError) as error:
        if has_bad_bytes(blob):
            raise DataError(describe_encoding(files, name, encoding)) from None
        hint = " (one object per line? name it .jsonl)" if "Extra data" in str(error) else ""
        raise DataError(f"{name} is not valid JSON: {error}{hint}") from None
    rows = _json_rows(content, name)
    texts = [json.dumps(row, ensure_ascii=False) for _, row in rows] if has_bad_bytes(blob) else []
    if texts and is_other_encoding(texts):
        raise DataError(describe_encoding(files, name, encoding))
    for place, (key, row) in enumerate(rows):
        where = f"{name}:{key}"
        if texts and has_bad_bytes(texts[place]):
            yield where, Rejected(None, where, f"not {encoding.upper()}", for_display(texts[place][:SHOWN]))
        else:
            yield where, _row(row, where)


def _json_rows(content: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        cells = list(content.values())
        if all(isinstance(column, list) and len(column) == len(cells[0]) for column in cells):
            content = [dict(zip(content, row, strict=True)) for row in zip(*cells, strict=True)]
        elif isinstance(cells[0], dict) and all(
            isinstance(column, dict) and column.keys() == cells[0].keys() and all(map(str.isdecimal, column))
            for column in cells
        ):  # as pandas writes a frame
            content = [{name: column[key] for name, column in content.items()} for key in cells[0]]
    if isinstance(content, dict) and any(isinstance(row, dict) for row in content.values()):
        return [(key, {"key": key, **row} if isinstance(row, dict) else row) for key, row in content.items()]
    if isinstance(content, list):
        return [(str(number), row) for number, row in enumerate(content, start=1)]
    raise DataError(f"{name} holds a JSON {type(content).__name__}; expected a list of rows, or {{key: row}}")


def _parquet(files: Files, name: str) -> Iterator[Read]:
    with extras_named():
        from pyarrow import ArrowException, parquet
    with files.opened(name) as file:
        try:
            table = parquet.ParquetFile(file)
            check_column_names(name, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(batch_size=1000):
                for row in arrow_rows(batch):
                    number += 1
                    where = f"{name}:{number}"
                    yield where, Rejected(None, where, row) if isinstance(row, str) else row
        except (ArrowException, OSError) as error:
            raise DataError(f"{name} is no Parquet file that can be read ({' '.join(str(error).split())})") from None


def arrow_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of an Arrow batch or table; in the place of one with a cell that Python cannot hold, the reason."""
    try:
        rows: list[Any] = batch.to_pylist()
    except Exception:  # a text that is no UTF-8, a date beyond the year 9999, an unknown time zone, …
        rows = [_arrow_row(batch, number) for number in range(batch.num_rows)]
    for row in rows:
        yield row if isinstance(row, str) else {key: _cell(value) for key, value in row.items()}


def _arrow_row(batch: Any, number: int) -> dict[str, Any] | str:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[number].as_py()
        except Exception as error:
            kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())[:SHOWN]
            return f"column {name!r} ({column.type}) holds what cannot be read: {kind}"
    return row
