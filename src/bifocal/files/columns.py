"""The column map: which columns of somebody's table are the id, the parts, the labels, the group and the split."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..config import Strict
from ..errors import DataError, listed, nearest
from ..example import NOTHING, Example, Label, LabelValue, Rejected, is_nothing
from ..modalities import PICTURE, TEXT
from .labels import LabelMap, keys_as_written
from .tables import NAMELESS

Row = Mapping[str, Any]
Split = Literal["train", "val", "test"]

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What others call the splits, in lower case."""
KEY = "__key__"
"""What WebDataset calls a sample's name, which is an id even where another column is taken for it."""
_NO_CELL = (bytes, list, tuple, dict)


class Columns(Strict):
    """Options that say what the columns of a table mean, shared by all sources that read one.

    Attributes
    ----------
    id : str, optional
        By default the number of the row.
    text : str or list of str, optional
        Several are joined by a line break, empty ones left out.
    image : str, optional
        The column of the picture's path.
    tabular : list of str or "rest"
        Columns of the tabular part; ``rest`` = all that have a name, no other role, and are not in ``drop``.
    parts : dict
        Any other part -> its column.
    labels : dict
        Label -> column, or `LabelMap`. (In Python the field is ``label_maps``: `labels` gives the taxonomy.)
    group : str, optional
        Rows with the same value share a split.
    split : str, optional
        The column of the official split.
    split_map : dict
        Its values -> train, val, test, or null where the row is to be split here; beside `SPLIT_NAMES`.
    drop : list of str
        Columns that are neither fed nor kept in ``meta``, where all others without a role go.
    missing : list of str
        Words for nothing in columns of labels, groups, splits, paths and records, in any case (``None`` as written);
        where a map or ``classes`` names one of them, it means what is said there. By default `NOTHING`.
    missing_text : list of str
        Words for nothing in columns of text, where by default only an empty cell is nothing.
    """

    id: str | None = None
    text: str | list[str] | None = None
    image: str | None = None
    tabular: list[str] | Literal["rest"] = Field(default=[])
    parts: dict[str, str] = Field(default={})
    label_maps: dict[str, LabelMap] = Field(default={}, alias="labels")
    group: str | None = None
    split: str | None = None
    split_map: Annotated[dict[str, Split | None], BeforeValidator(keys_as_written)] = Field(default={})
    drop: list[str] = Field(default=[])
    missing: list[str] = Field(default=list(NOTHING))
    missing_text: list[str] = Field(default=[])

    @field_validator("label_maps", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"column": one} if isinstance(one, str) else one for name, one in value.items()}

    @field_validator("label_maps")
    @classmethod
    def _unified_labels_keep_their_classes(cls, value: dict[str, LabelMap]) -> dict[str, LabelMap]:
        for name, spec in value.items():
            spec.check_name(name)
        return value

    @model_validator(mode="after")
    def _one_role_each(self) -> Columns:
        fed: dict[str, list[str]] = {
            "text": self._texts(),
            "image": self._images(),
            "tabular": self._tabulars(),
            **{f"parts.{part}": [column] for part, column in self.parts.items()},
        }
        for option, columns in fed.items():
            for name, spec in self.label_maps.items():
                if spec.column in columns:
                    raise ValueError(f"{option}: column {spec.column!r} is the label {name}, and would give it away")
            if both := [column for column in columns if column in self.drop]:
                raise ValueError(f"column {both[0]!r} is named both under {option} and under drop; choose one")
        others = [("id", self.id), ("group", self.group), ("split", self.split)]
        for option, taken in [*others, *(("image", column) for column in self._images())]:
            if taken in fed["tabular"]:
                raise ValueError(f"tabular: column {taken!r} is the {option}, which is never fed")
        return self

    def _texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text or []

    def _images(self) -> list[str]:
        return [] if self.image is None else [self.image]

    def _tabulars(self) -> list[str]:
        return [] if self.tabular == "rest" else self.tabular

    def _needed(self) -> tuple[dict[str, str], dict[str, str]]:
        """Columns that must stand in every table, and those that must stand in one; column -> option."""
        each = dict.fromkeys(self._tabulars(), "tabular") | dict.fromkeys(self._texts(), "text")
        each |= {column: f"parts.{part}" for part, column in self.parts.items()}
        each |= dict.fromkeys(self._images(), "image") | ({self.id: "id"} if self.id else {})
        once = {column: role for role, column in (("group", self.group), ("split", self.split)) if column}
        once |= dict.fromkeys(self.drop, "drop")
        return each, once | {spec.column: f"labels.{name}" for name, spec in self.label_maps.items()}

    def check_columns(self, tables: Iterable[tuple[str, Iterable[Row]]]) -> set[str]:
        """See that every column named in the options is there: those of the parts in each table, others in one.

        Reads until all are seen, which in a table with a header is its first row.

        Returns
        -------
        set of str
            All columns seen.

        Raises
        ------
        DataError
            Naming the table, the option, and the nearest column there is.
        """
        each, once = self._needed()
        known: set[str] = set()
        for name, rows in tables:
            here: set[str] = set()
            for row in rows:
                here |= row.keys()
                if each.keys() <= here and once.keys() <= known | here:
                    break
            known |= here
            if here and (absent := next((c for c in each if c not in here), None)):
                raise DataError(f"{name} has no column {absent!r} ({each[absent]}); {nearest(absent, here)}")
        if known and (absent := next((c for c in once if c not in known), None)):
            raise DataError(f"there is no column {absent!r} ({once[absent]}); {nearest(absent, known)}")
        return known

    def check_parts(self, columns: Iterable[str]) -> None:
        """Refuse options that leave every row without a part. Raises `DataError`, naming the columns there are."""
        if columns and not (self._texts() or self._images() or self.tabular or self.parts):
            there = listed(sorted(columns))
            raise DataError(f"the source names no text, image or tabular column, and one is needed; columns: {there}")

    def labels(self) -> Mapping[str, Label]:
        return self._labels

    @cached_property
    def _labels(self) -> dict[str, Label]:
        return self.taxonomy(self.readable_rows)

    def readable_rows(self) -> Iterable[Row]:
        """Rows in whose columns the classes of labels are found; a source brings them."""
        raise NotImplementedError

    def taxonomy(self, rows: Callable[[], Iterable[Row]]) -> dict[str, Label]:
        """The labels; where classes are not told, a column is read. Raises `DataError` as `LabelMap.infer_classes`."""
        found = {}
        for name, spec in self.label_maps.items():
            label = spec.declared_label(name) if spec.has_all_classes(name) else None
            found[name] = label or spec.infer_classes(name, _values(spec, rows(), self.missing))
        return found

    def example(
        self, row: Row, where: str, number: str, split: Split | None, labels: Mapping[str, Label]
    ) -> Example | Rejected:
        """One row as an Example; ``number`` is its id where no column is, ``split`` where the row names none."""
        name = None
        try:
            name = number if self.id is None else text_cell(row, self.id)
            if name is None:
                raise DataError(f"column {self.id!r} (id) is empty")
            return Example(
                id=name,
                parts=self._parts(row),
                labels={
                    key: _label(spec, key, row, labels[key], self.missing) for key, spec in self.label_maps.items()
                },
                group=None if self.group is None else self._filled(row, self.group),
                split=self._split(row, split),
                meta={c: to_json_value(v) for c, v in row.items() if c not in self.named and not self._is_rest(c, v)},
            )
        except DataError as error:
            return Rejected(name, where, str(error), to_json_value(row))

    def _parts(self, row: Row) -> dict[str, Any]:
        words = [text for column in self._texts() if (text := text_cell(row, column))]
        texts = [text for text in words if not is_nothing(text, self.missing_text)]
        parts: dict[str, Any] = {TEXT: "\n".join(texts)} if texts else {}
        for column in self._images():
            picture = row.get(column) or ""
            if not isinstance(picture, str):
                hint = "" if isinstance(picture, bool | int | float) else "; `kind: hub` reads pictures inside a table"
                raise DataError(
                    f"column {column!r} (image) holds a {type(picture).__name__}, expected the path of a file{hint}"
                )
            if picture.strip() and not is_nothing(picture, self.missing):
                parts.setdefault(PICTURE, picture.strip())
        columns = [c for c in row if self._is_rest(c, row[c])] if self.tabular == "rest" else self._tabulars()
        found = {column: row.get(column) for column in columns}
        cells = {c: None if is_nothing(value, self.missing) else to_json_value(value) for c, value in found.items()}
        if any(cell is not None for cell in cells.values()):
            parts["tabular"] = cells
        for part, column in self.parts.items():
            cell = to_json_value(row[column]) if isinstance(row.get(column), Mapping) else text_cell(row, column)
            if cell is not None and not is_nothing(cell, self.missing):
                parts[part] = cell
        return parts

    def _split(self, row: Row, otherwise: Split | None) -> Split | None:
        if self.split is None or (value := text_cell(row, self.split)) is None:
            return otherwise
        value = value.strip()
        if value in self.split_map:
            return self.split_map[value]
        if is_nothing(value, self.missing):
            return otherwise
        if value.lower() not in SPLIT_NAMES:
            allowed = ", ".join([*self.split_map, *SPLIT_NAMES])
            raise DataError(f"{value!r} in column {self.split!r} (split) is unknown; allowed: {allowed}: set split_map")
        return SPLIT_NAMES[value.lower()]

    def _filled(self, row: Row, column: str) -> str | None:
        value = text_cell(row, column)
        return None if is_nothing(value, self.missing) else value

    @cached_property
    def named(self) -> frozenset[str]:
        """The columns that the options name."""
        parts = (*self._texts(), *self._images(), *self._tabulars(), *self.parts.values())
        roles = {self.id, self.group, self.split, *parts, *self.drop}
        return frozenset(role for role in roles if role) | {spec.column for spec in self.label_maps.values()}

    def _is_rest(self, column: str, value: Any) -> bool:
        if self.tabular != "rest" or column in self.named or column == KEY:
            return False
        return not isinstance(value, _NO_CELL) and not NAMELESS.fullmatch(column)


def by_split(value: str | list[str] | dict[str, str] | None) -> str | list[str] | dict[str, str] | None:
    """An option that may be ``{split: …}``. Raises `ValueError` where one of its splits is none."""
    for name in value if isinstance(value, dict) else ():
        if split_named(name) is None:
            raise ValueError(f"{name!r} is no split; write {{train: …, val: …, test: …}}")
    return value


def split_named(name: str) -> Split | None:
    """The split that a name means: ``dev`` is val; None where it means none."""
    return SPLIT_NAMES.get(name.lower())


def text_cell(row: Row, column: str) -> str | None:
    """A cell as text; None where there is nothing in it. Raises `DataError` on a list, an object or bytes."""
    value = row.get(column)
    if isinstance(value, _NO_CELL):
        raise DataError(f"column {column!r} holds a {type(value).__name__}; expected a text or a number")
    value = to_json_value(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or not str(value).strip() else str(value)


def to_json_value(value: Any) -> Any:
    """A value as JSON knows it: dates as ISO 8601, decimals as numbers, NaN as null, bytes by their number alone."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | decimal.Decimal):
        number = float(value)
        return None if math.isnan(number) else number if math.isfinite(number) else str(number)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(key): to_json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(one) for one in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _label(spec: LabelMap, name: str, row: Row, label: Label, missing: list[str]) -> LabelValue:
    raw = row.get(spec.column)
    if is_nothing(raw, missing) and not spec.knows_word(str(raw), label):
        return None
    try:
        return spec.encode(name, spec.parse_cell(raw), label)
    except DataError as error:
        raise DataError(f"label {name}: {error}") from None


def _values(spec: LabelMap, rows: Iterable[Row], missing: list[str]) -> Iterator[LabelValue]:
    """The annotated values of a column; those that will be rejected with their row are passed over."""
    for row in rows:
        raw = row.get(spec.column)
        if is_nothing(raw, missing) and not spec.knows_word(str(raw)):
            continue
        try:
            if (value := spec.parse_cell(raw)) is not None:
                yield value
        except DataError:
            continue
