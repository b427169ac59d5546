"""The posts in a table that is to be decided on: which of its columns a run reads, and as which part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, listed
from ..example import Rejected
from ._columns import Columns, plain, word
from ._files import Files
from ._tables import read_rows

PICTURES = ("image_path", "img", "image")
"""Columns that hold a picture's path, whatever the run's source calls them."""

NAMES = ("subject", "external_id")
"""Columns that hold the author of a post and the post, as the platform calls them; a service reads them."""
MAX_NAME = 200
"""Characters of either that a service takes."""

Post = dict[str, Any]
"""A row of `System.predict_batch`, or of a service's; ``id`` is None where the table has none."""


class Posts:
    """Reads the rows of one table, and notes which columns there were and which of them were read.

    A part stands in the columns that the run's own source names for it, or under its usual name.

    Parameters
    ----------
    parts : collection of str
        The parts that the run reads: ``text``, ``image``, ``tabular``; and those of `NAMES` that are wanted.
    record : collection of str
        The columns of the tabular part; none of them is taken for another part but by the run's own source.
    options : mapping
        Of the run's source.

    Attributes
    ----------
    brought : set of str
        The parts for which a row had a column, empty or not.
    """

    def __init__(self, parts: Collection[str], record: Collection[str], options: Mapping[str, Any]):
        self.parts = parts
        self.record = record
        members = options["sources"] if isinstance(options.get("sources"), list) else [options]
        self._own = {
            role: [names for member in members if (names := _names(member.get(role)))]
            for role in ("id", "text", "image")
        }
        self.brought: set[str] = set()
        self._seen: dict[str, None] = {}
        self._read: set[str] = set()
        self._folders: dict[Path, Files] = {}

    @property
    def unread(self) -> list[str]:
        """Columns of the rows so far that were not read, in their order."""
        return [column for column in self._seen if column not in self._read]

    @property
    def missing(self) -> list[str]:
        """Columns of the record that no row so far had."""
        return sorted(set(self.record) - self._read)

    def names(self, part: str) -> list[str]:
        """The columns in which a part is looked for."""
        if part == "tabular":
            return sorted(self.record)
        return list(dict.fromkeys([*self._named(part), "image_path" if part == "image" else part]))

    def read(self, path: Path) -> Iterator[tuple[str, Post | DataError]]:
        """``(id, post)`` of every row; a row that cannot be read comes with its error, and its number as its id.

        Raises
        ------
        DataError
            Where the file as a whole cannot be read, or its first row has no column that the run reads.
        """
        for number, row in enumerate(_rows(path)):
            if isinstance(row, DataError):
                yield str(number), row
                continue
            first = not self._seen
            self._seen.update(dict.fromkeys(row))
            post = self._post(row, str(number), path.parent)
            if first and not self.brought:
                needed = [
                    name for part in ("text", "image", "tabular") if part in self.parts for name in self.names(part)
                ]
                raise DataError(
                    f"{path} has the columns {listed(list(row))}; at least one of {listed(needed)} is needed"
                )
            yield post

    def _post(self, row: Mapping[str, Any], number: str, folder: Path) -> tuple[str, Post | DataError]:
        texts = self._texts(row) if "text" in self.parts else []
        pictures = self._usable([*self._named("image"), *PICTURES], row) if "image" in self.parts else []
        named = self._usable([name for name in NAMES if name in self.parts], row)
        cells = [column for column in row if column in self.record]
        nested = row.get("tabular") if "tabular" in self.parts and "tabular" not in self.record else None
        record = plain(nested) if isinstance(nested, Mapping) else {}
        names = self._usable([*self._named("id"), "id"], row)[:1]
        filled = [name for name in names if str("" if (value := plain(row[name])) is None else value).strip()]
        columns = Columns(id=filled[0] if filled else None, text=texts, tabular=cells)
        read = columns.example({c: row[c] for c in {*names, *texts, *cells}}, "", number, None, {})

        self._read.update(
            names, named, texts, pictures, cells, record, ["tabular"] if isinstance(nested, Mapping) else []
        )
        found = {"text": texts, "image": pictures, "tabular": cells or isinstance(nested, Mapping)}
        self.brought.update(part for part, there in found.items() if there)
        if isinstance(read, Rejected):
            return read.id or number, DataError(read.reason)
        try:
            called = {name: word(row, name) for name in named}
            image = self._picture(next((row[column] for column in pictures if row[column]), None), folder)
        except DataError as error:
            return read.id, error
        return read.id, {
            "id": read.id if filled else None,
            "text": read.parts.get("text"),
            "image_path": image,
            "tabular": {**record, **read.parts.get("tabular", {})} or None,
            **called,
        }

    def _picture(self, image: Any, folder: Path) -> Any:
        """The path of a picture, looked up as a source does where it is not there as written."""
        if not isinstance(image, str):
            return image
        if folder not in self._folders:
            self._folders[folder] = Files(folder)
        found = self._folders[folder].meant(image)
        if len(found) > 1:
            raise DataError(
                f"the picture {image!r} is not there as written, and may be {listed(found)}: write its name"
            )
        return folder / (found[0] if found else image)

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        """The columns that the source joins, where all are there; else ``text``; else what there is of the former."""
        for own in self._own["text"]:
            if all(column in row for column in own):
                return own
        return self._usable(["text"], row) or [column for column in self._named("text") if column in row]

    def _usable(self, names: Collection[str], row: Mapping[str, Any]) -> list[str]:
        return [name for name in dict.fromkeys(names) if name in row and name not in self.record]

    def _named(self, role: str) -> list[str]:
        return [column for names in self._own[role] for column in names]


def _names(option: Any) -> list[str]:
    """Columns that an option of a source names; of a source that means something else by it, none."""
    names = option if isinstance(option, list) else [option]
    return names if all(isinstance(name, str) for name in names) else []


def _rows(path: Path) -> Iterator[dict[str, Any] | DataError]:
    path = path.resolve()  # a link may lead to the table, and its pictures still lie beside the link
    try:
        for where, row in read_rows(Files(path.parent), path.name):
            yield DataError(f"{where}: {row.reason}") if isinstance(row, Rejected) else row
    except DataError as error:  # which may advise an option that only a source has
        told, _, option = str(error).partition(": set the option ")
        if not option:
            raise
        raise DataError(f"{told}: save it {'as UTF-8' if option.startswith('encoding') else 'with commas'}") from None
