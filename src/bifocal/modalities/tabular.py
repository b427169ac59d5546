"""The record beside a post: column name -> string, number, boolean or nothing, in one spelling."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..contracts import Input, Piece
from ..errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from ..config import RunConfig

Cell = str | int | float | bool | None
Record = dict[str, Cell]

NOTHING = ("", "n/a", "na", "nan", "null")
"""How tables write that a cell holds nothing, in lower case."""
MAX_COLUMNS = 1_000
MAX_CHARACTERS = 10_000
"""Of one cell or column name; a longer one is prose, which belongs into the text part."""

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")


def as_number(cell: Cell) -> float | None:
    """A cell as a number, also where it is one in words (tables without types); None where it is none.

    >>> [as_number(cell) for cell in (3, "2.5", "12 m", True)]
    [3.0, 2.5, None, None]
    """
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, str):
        if not _NUMBER.fullmatch(cell):
            return None
        cell = float(cell)
    return float(cell) if abs(cell) <= sys.float_info.max else None


class Tabular:
    """The tabular part; its value is the record itself, its names and strings stripped."""

    input: ClassVar[Input] = Input(
        form="record",
        title="Record",
        description="Column -> value of the post's record.",
        argument="tabular",
        kept_as="tabular",
        place=2,
    )
    suffix: ClassVar[str] = "tab.json"
    expert_name: ClassVar[str] = "tabular_expert"
    encoder: ClassVar[str] = "auto"
    lossless: ClassVar[bool] = True
    corruptions: ClassVar[tuple[str, ...]] = ("missing", "noise", "unseen")

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        return cls()

    def facts(self, raw: Any) -> dict[str, Any]:
        """``{"columns": n, "missing": m}``: cells in all, and those that hold nothing.

        Raises
        ------
        DataError
            Where it is no mapping of names to strings, finite numbers, booleans and null, or is too large.
        """
        if not isinstance(raw, dict):
            raise DataError(
                f"tabular must be a mapping of column names to values, found {type(raw).__name__}: "
                'write {"column": value, …}, or leave the part out'
            )
        if len(raw) > MAX_COLUMNS:
            raise DataError(f"the record has {len(raw):,} columns; at most {MAX_COLUMNS:,} are allowed: `drop` some")
        names = set()
        for name, cell in raw.items():
            names.add(_checked_name(name))
            _check_cell(name, cell)
        if len(names) < len(raw):
            raise DataError("two columns bear the same name but for spaces at its ends: rename one")
        return {"columns": len(raw), "missing": sum(_plain(cell) is None for cell in raw.values())}

    def read(self, raw: Mapping[str, Cell]) -> Record:
        """The record with names and strings stripped; an empty string, NaN and `NOTHING` are None: a missing cell."""
        return {_settled(name): _plain(cell) for name, cell in raw.items()}

    def pack(self, value: Record) -> bytes:
        return json.dumps(value, sort_keys=True, allow_nan=False).encode()

    def unpack(self, blob: bytes) -> Record:
        record: Record = json.loads(blob)
        return record

    def blank(self) -> Record:
        return {}

    def corrupt(self, value: Record, kind: str, severity: int, rng: np.random.Generator) -> Record:
        """Disturb cells of a record that hold something.

        ``missing`` empties them; ``noise`` multiplies numbers by a factor between 1/2 and 2 (a zero becomes 1 or -1);
        ``unseen`` replaces strings that are no numbers, and booleans, by one that no training row held. Severity 1..5
        touches 10, 20, 30, 45, 60% of the cells that the kind applies to, at least one; a record without such cells
        is given back as it is.
        """
        if kind not in _CORRUPTIONS:
            raise ConfigError(f"tabular has no corruption {kind!r}; {nearest(kind, _CORRUPTIONS)}")
        if severity not in _SHARES:
            raise ConfigError(f"severity {severity!r} is not among {', '.join(map(str, _SHARES))}")
        applies, disturbed = _CORRUPTIONS[kind]
        names = sorted(name for name, cell in value.items() if cell is not None and applies(cell))
        n = max(1, round(_SHARES[severity] * len(names))) if names else 0
        chosen = {names[i] for i in rng.choice(len(names), n, replace=False)} if names else set()
        return {name: disturbed(cell, rng) if name in chosen else cell for name, cell in value.items()}

    def occlusions(self, value: Record, pieces: int | None = None) -> list[tuple[Piece, Record]]:
        """Each cell that holds something emptied, whatever ``pieces``: columns have no neighbours to be joined with."""
        names = [name for name, cell in value.items() if cell is not None]
        return [(Piece(name), {**value, name: None}) for name in names] if len(names) > 1 else []


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"a tabular column must have a name, found {str(name)[:50]!r}: name it, or drop it")
    if len(name) > MAX_CHARACTERS:
        raise DataError(f"a column name has {len(name):,} characters; at most {MAX_CHARACTERS:,} are allowed")
    return _settled(name)


def _check_cell(name: str, cell: Any) -> None:
    column = f"tabular column {name[:50]!r}"
    if isinstance(cell, str):
        if len(cell) > MAX_CHARACTERS:
            raise DataError(
                f"{column} holds {len(cell):,} characters; at most {MAX_CHARACTERS:,} are allowed: "
                "shorten it, or make it (part of) the text"
            )
    elif cell is not None and not isinstance(cell, bool | int | float):
        raise DataError(f"{column} holds a {type(cell).__name__}; allowed: a string, a number, true, false, null")
    elif cell is not None and abs(cell) > sys.float_info.max:
        raise DataError(f"{column} holds a number that is not finite: give null where it is missing")


def _settled(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text.strip())


def _plain(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return None if (text := _settled(cell)).lower() in NOTHING else text
    return None if cell != cell else cell  # NaN is the one value that differs from itself


def _noisy(cell: Cell, rng: np.random.Generator) -> Cell:
    number = as_number(cell) or 0.0
    disturbed = number * 2 ** rng.uniform(-1, 1) if number else float(rng.choice([-1, 1]))
    if isinstance(cell, int):
        whole = round(disturbed) if abs(disturbed) <= sys.float_info.max else cell
        return whole if whole != cell else cell + 1
    disturbed = min(max(disturbed, -sys.float_info.max), sys.float_info.max)
    return repr(disturbed) if isinstance(cell, str) else disturbed


def _is_word(cell: Cell) -> bool:
    return isinstance(cell, str | bool) and as_number(cell) is None


_SHARES = {1: 0.10, 2: 0.20, 3: 0.30, 4: 0.45, 5: 0.60}
_CORRUPTIONS: dict[str, tuple[Callable[[Cell], bool], Callable[[Cell, np.random.Generator], Cell]]] = {
    "missing": (lambda _: True, lambda cell, rng: None),
    "noise": (lambda cell: as_number(cell) is not None, _noisy),
    "unseen": (_is_word, lambda cell, rng: f"unseen {rng.integers(2**32):08x}"),
}
