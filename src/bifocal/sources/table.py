"""A table of posts: CSV, TSV, JSON lines, JSON or Parquet, its columns named in the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from ..config import expand_home
from ..errors import DataError, nearest
from ..example import Example, Label, Rejected
from ..files.columns import Columns, Split, by_split, split_named
from ..files.folders import Files, escapes_root, from_folder, is_clutter
from ..files.tables import SUFFIXES, DelimitedTables, is_table


class Table(Columns, DelimitedTables):
    """Somebody's own table; `Columns` has the options that say what its columns mean, `DelimitedTables` those of CSV.

    Attributes
    ----------
    root : Path
        A folder, .tar or .zip that holds the table, or the table itself.
    file : str, list of str or dict, optional
        The table below the root, several, or ``{split: table}``. By default the only table there is, or the tables
        that are named after splits (``train.csv``, ``dev.csv``).
    images : str, optional
        The folder, .tar or .zip in which pictures are looked up: below the root, or anywhere else by an absolute path,
        one that begins with ``~``, or one that climbs (``../pictures``, from the root). By default the root. Names in
        the table may be absolute, or climb from its folder, where they lead into this one.
    """

    expected: ClassVar[str] = f"a table ({', '.join(SUFFIXES)})"

    file: Annotated[str | list[str] | dict[str, str] | None, AfterValidator(by_split)] = None
    images: str | None = None

    @cached_property
    def files(self) -> Files:
        return Files(self.root.parent if self._is_table_itself() else self.root)

    @cached_property
    def pictures(self) -> Files:
        """Where pictures are looked up.

        Who writes a configuration may name any folder; a link below the root came with the data and may not lead out.
        Raises `DataError` where it does.
        """
        if self.images is None:
            return self.files
        place = self.files.root / expand_home(self.images)
        if not escapes_root(str(expand_home(self.images))) and not place.resolve().is_relative_to(
            self.files.root.resolve()
        ):
            raise DataError(f"images: {place} is a link that leads out of {self.files.root}: name a higher root")
        return Files(place)

    def _is_table_itself(self) -> bool:
        return is_table(self.root.name) and not self.root.is_dir()

    @cached_property
    def tables(self) -> dict[str, Split | None]:
        """Table -> its split, where it has one by name.

        Raises
        ------
        DataError
            Where one is missing, or where there are several and none is named.
        """
        asked = self.root.name if self._is_table_itself() and self.file is None else self.file
        if asked is None:
            return self._only_table()
        if isinstance(asked, dict):
            tables = {name: split_named(split) for split, name in asked.items()}
        else:
            tables = dict.fromkeys([asked] if isinstance(asked, str) else asked)
        for name in tables:
            if not self.files.has(name):
                there = [table for table in self.files.names() if is_table(table) and not is_clutter(table)]
                raise DataError(f"there is no file {name!r} below {self.files.root}; {nearest(name, there)}")
        return tables

    def _only_table(self) -> dict[str, Split | None]:
        there = [name for name in self.files.names() if is_table(name) and not is_clutter(name)]
        there = [name for name in there if "/" not in name] or there
        splits = {name: split_named(PurePosixPath(name).stem) for name in there}
        if len(there) > 1 and (None in splits.values() or len({PurePosixPath(name).parent for name in there}) > 1):
            listed = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
            raise DataError(f"{self.root} holds {len(there)} tables ({listed}): say which under `file`")
        return dict(sorted(splits.items(), key=lambda item: ("train", "val", "test", None).index(item[1])))

    def listed(self) -> list[str]:
        return list(self.tables)

    def listing(self) -> Any:
        """As of every source, and where pictures lie."""
        return [super().listing(), str(self.pictures.root)]

    def readable_rows(self) -> Iterator[dict[str, Any]]:
        return (row for name in self.tables for row in self._good_rows(name))

    def _good_rows(self, name: str) -> Iterator[dict[str, Any]]:
        return (row for _, row in self.read(name) if not isinstance(row, Rejected))

    def rows(self) -> Iterator[Example | Rejected]:
        if self.images is not None and not self.pictures.exists():
            raise DataError(f"images: {self.pictures.root} {self.pictures.found()}; expected a folder, .tar or .zip")
        self.check_parts(self.check_columns((name, self._good_rows(name)) for name in self.tables))
        return self._rows(self.labels())

    def _rows(self, labels: Mapping[str, Label]) -> Iterator[Example | Rejected]:
        for name, split in self.tables.items():
            for number, (where, row) in enumerate(self.read(name), start=1):
                if isinstance(row, Rejected):
                    yield row
                else:
                    own = str(number) if len(self.tables) == 1 else f"{name}:{number}"
                    yield self.example(row, where, own, split, labels)

    def stamp(self, reference: str) -> list[Any] | None:
        name = from_folder(reference, self.files.root)
        found = super().stamp(name)
        return [reference, *found[1:]] if found and found[0] == name else found

    def open(self, reference: str) -> bytes:
        name = from_folder(reference, self.files.root)
        try:
            return self.pictures.read_matching(name)
        except DataError as error:
            lost = self.images is None and not reference.startswith("/") and not self.pictures.has(name)
            if not lost:
                raise DataError(f"picture {error}") from None
            raise DataError(
                f"picture {error}; paths are looked up in {self.pictures.root.resolve()}: set `images` to the folder "
                "or archive of the pictures"
            ) from None
