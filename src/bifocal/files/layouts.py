"""A published dataset layout as a declaration: its tables and their splits, its columns, its labels, its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

from ..contracts import TextRole
from ..errors import DataError
from ..example import Example, Label, LabelValue, Rejected
from ..modalities import PICTURE, TEXT
from .delimited import Read
from .tables import EncodedTables

Row = dict[str, Any]


class LabelColumn(NamedTuple):
    """The column that bears a label."""

    column: str
    classes: Mapping[Any, LabelValue]
    """Cell -> class; an empty cell is not annotated."""

    def read(self, row: Row) -> LabelValue:
        """The class of a row. Raises `DataError` on a cell that is none of those known."""
        cell = row.get(self.column)
        try:
            Label(tuple(self.classes)).check(cell)
        except DataError as error:  # which speaks of a label already
            raise DataError(str(error) if self.column == "label" else f"{self.column}: {error}") from None
        return self.classes.get(cell)


class Layout(EncodedTables):
    """A layout whose tables, columns and labels its authors fixed: a subclass declares them.

    What no declaration says is a method: a subclass always brings `picture_of`, and replaces others where it has to.

    Attributes
    ----------
    text_role : "transcript" or "caption"
        ``transcript``: what stands in the picture.
    """

    taxonomy: ClassVar[Mapping[str, Label]]
    """The labels that the layout bears."""
    tables: ClassVar[Mapping[str, str | None]]
    """Table -> the split of its rows, in the order in which tables are read."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Files that complete the tables, such as labels that were published apart."""
    anywhere: ClassVar[bool] = False
    """Whether tables lie in any folder below the root; else their names are their paths."""
    id_column: ClassVar[str]
    required: ClassVar[tuple[str, ...]] = ()
    """Columns without which a row is rejected."""
    text_columns: ClassVar[tuple[str, ...]]
    """The first that is not empty is the text."""
    label_columns: ClassVar[Mapping[str, LabelColumn]] = {}

    text_role: TextRole = "transcript"

    def labels(self) -> Mapping[str, Label]:
        return self.taxonomy

    def table_of(self, name: str) -> str:
        """What a file is called in `tables` or `beside`."""
        return PurePosixPath(name).name if self.anywhere else name

    def listed(self) -> list[str]:
        wanted = (*self.tables, *self.beside)
        if self.anywhere:
            names = self.files.names()
            found = [name for table in wanted for name in names if self.table_of(name) == table]
        else:
            found = [name for name in wanted if self.files.has(name)]
        return found if any(self.table_of(name) in self.tables for name in found) else []

    def read_table(self, name: str) -> Iterator[Read]:
        """The rows of a table, completed by what stands in other files."""
        return self.read(name)

    def rows(self) -> Iterator[Example | Rejected]:
        for name in self.listed():
            yield from self.rows_of(name)

    def rows_of(self, name: str) -> Iterator[Example | Rejected]:
        """The rows of one file; none of a file that is no table."""
        if (table := self.table_of(name)) in self.tables:
            for where, row in self.read_table(name):
                yield row if isinstance(row, Rejected) else self.example(row, where, name, self.tables[table])

    def example(self, row: Row, where: str, name: str, split: str | None) -> Example | Rejected:
        """A row of the table ``name`` as an Example, or what is wrong with it."""
        identity = None
        try:
            identity = self.id_of(row, name)
            if lacking := [column for column in self.required if column not in row]:
                raise DataError(f"no column {lacking[0]}; columns: {', '.join(row)}")
            text, parts = self.text_of(row), {PICTURE: self.picture_of(row, name)}
            labels, meta = self.labels_of(row), self.meta_of(row)
        except DataError as error:
            return Rejected(identity, where, str(error), row)
        return Example(identity, parts if text is None else {TEXT: text, **parts}, labels, split=split, meta=meta)

    def id_of(self, row: Row, name: str) -> str:
        """The id of a row. Raises `DataError` where it has none, as every method of a row does on what it refuses."""
        identity = row.get(self.id_column)
        if not isinstance(identity, str) or not identity:
            raise DataError(f"no {self.id_column} (a text); columns: {', '.join(row)}")
        return identity

    def picture_of(self, row: Row, name: str) -> str:
        """Where below the root the picture of a row lies."""
        raise NotImplementedError

    def text_of(self, row: Row) -> Any:
        """The text of a row; None where it has none."""
        return next((row[column] for column in self.text_columns if row.get(column)), None)

    def labels_of(self, row: Row) -> dict[str, LabelValue]:
        return {name: column.read(row) for name, column in self.label_columns.items()}

    def meta_of(self, row: Row) -> dict[str, Any]:
        """What of a row goes into ``meta``."""
        return {}
