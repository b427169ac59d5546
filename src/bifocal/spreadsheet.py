"""Words of others in CSV: cells that a spreadsheet would run as a formula are written so that it shows them instead."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .errors import DataError
from .workspace import atomic

GUARD = "'"
"""Before a cell it says "text" to a spreadsheet (OWASP, "CSV Injection")."""
_FORMULA = r"=+\-@\u2212\u207a-\u207c\u208a-\u208c\u2a75\u2a76\ufb29\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20"
"""What a formula begins with, in all its widths; the true minus is taken for one as well."""
_PASSED_OVER = (
    r"\s\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\"'`\u00b4\u2018-\u201f\u2032-\u2037\u00ab\u00bb\u2039\u203a\uff02\uff07\uff40"
)
"""White space, what cannot be seen, and quotes: a spreadsheet, or what reads for it, may take them away."""
_RUNS = re.compile(f"[{_PASSED_OVER}]*[{_FORMULA}]|['\"\\s]*[\t\r\n]")
_ERRORS = {"error_type", "all_agree", "fusion_only_right"}
_SLICES = {"column", "slice", "groups", "positives", "note"}


def guarded(cell: Any) -> Any:
    """A cell that no spreadsheet runs; numbers and harmless words stay as they are.

    >>> guarded("=1+1"), guarded("a-b"), guarded(-0.5)
    ("'=1+1", 'a-b', -0.5)
    """
    return GUARD + cell if isinstance(cell, str) and _RUNS.match(cell) else cell


def raw(cell: str) -> str:
    """What `guarded` was given: it undoes that exactly, whatever it was.

    >>> raw("'=1+1"), raw("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith(GUARD) and _RUNS.match(cell, 1) else cell


def cells(raw: bool) -> Callable[[Any], Any]:
    """How a table writes its cells: as they are, or `guarded`."""
    return (lambda cell: cell) if raw else guarded


def is_guarded(columns: Collection[str]) -> bool:
    """Whether a table is one that Bifocal guards, by its columns: of decisions, of errors, of slices."""
    found = set(columns)
    scored = {"id", "error"} <= found and any(name.startswith(("versions.", "present.")) for name in found)
    return scored or found == {"id", "error"} or found >= _ERRORS or found >= _SLICES


def unguard(table: Path, output: Path) -> int:
    """Write a guarded table as it would be without its guards, whole or not at all; gives the number of cells changed.

    Raises
    ------
    DataError
        Where there is no such table, it is no CSV, or the output would overwrite it.
    """
    if not table.is_file():
        raise DataError(f"there is no table {str(table)!r}")
    if output.exists() and output.samefile(table):
        raise DataError(f"{output} is the table itself, which would be overwritten: name another output")
    changed = 0
    try:
        with open(table, newline="", encoding="utf-8-sig") as file, atomic(output) as f:
            writer = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a lone carriage return stays a cell's
            for row in csv.reader(file, strict=True):
                words = [raw(cell) for cell in row]
                changed += sum(one != other for one, other in zip(row, words, strict=True))
                writer.writerow(words)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} is no CSV in UTF-8 ({error})") from None
    return changed
