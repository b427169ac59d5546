"""The posts in a table that is to be decided on: which of its columns a run reads, and as which part."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import expand_home
from ..errors import ConfigError, DataError, listed
from ..example import Rejected, is_nothing
from ..modalities import PARTS, argument_of, inputs
from .columns import Columns, text_cell, to_json_value
from .delimited import other_delimiter
from .folders import Files, Picture, escapes_root, from_folder
from .tables import DELIMITERS, is_table, read_rows
from .text_lines import decoded, known_encoding

MAIN = WORDS, FILE, RECORD = tuple(
    next(name for name, one in inputs().items() if one.form == form) for form in ("words", "file", "record")
)
"""The parts that a source with named columns has options of their own for; any other is among its ``parts``."""

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
        The parts that the run reads, and those of `NAMES` that are wanted.
    record : collection of str
        The columns of the tabular part; none of them is taken for another part but by the run's own source.
    options : mapping
        Of the run's source.
    images : Path, optional
        Where the pictures are looked up. By default where the run looks up its own, if the table lies below its root;
        then in the folder that the run's source calls ``images``, and the table's own.
    forms : mapping
        How each part is given (`bifocal.contracts.Input`), of those that do not come with Bifocal.

    Attributes
    ----------
    brought : set of str
        The parts for which a row had a column, empty or not.
    """

    def __init__(
        self,
        parts: Collection[str],
        record: Collection[str],
        options: Mapping[str, Any],
        images: Path | None = None,
        forms: Mapping[str, str] | None = None,
    ):
        self.parts = parts
        self.others = {name: form for name, form in (forms or {}).items() if name in parts and name not in MAIN}
        self.record = record
        self.images = images
        members = options["sources"] if isinstance(options.get("sources"), list) else [options]
        self._members: list[Mapping[str, Any]] = members
        self._own = {
            role: [names for member in members if (names := _names(member.get(role)))] for role in ("id", WORDS, FILE)
        }
        named = [member["parts"] for member in members if isinstance(member.get("parts"), Mapping)]
        self._own |= {part: [own for one in named if (own := _names(one.get(part)))] for part in self.others}
        self.brought: set[str] = set()
        self.notes: dict[str, None] = {}
        self._seen: dict[str, None] = {}
        self._read: set[str] = set()
        self._folder = Path()  # of the table that is read
        self._source: Mapping[str, Any] = {}
        self._places: tuple[Files, ...] = ()
        self._columns: tuple[dict[str, Any], Columns] | None = None

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
        return sorted(self.record) if part == RECORD else list(dict.fromkeys([*self._named(part), argument_of(part)]))

    def read(self, path: Path) -> Iterator[tuple[str, Post | DataError]]:
        """``(id, post)`` of every row; a row that cannot be read comes with its error, and its number as its id.

        Raises
        ------
        DataError
            Where the file as a whole cannot be read, or its first row has no column that the run reads.
        """
        for number, row in enumerate(self.rows(path)):
            first = not self._seen
            post = self.post(number, row)
            if first and not isinstance(row, DataError) and not self.brought:
                needed = [name for part in (*inputs(), *self.others) if part in self.parts for name in self.names(part)]
                raise DataError(
                    f"{path} has the columns {listed(list(row))}; at least one of {listed(needed)} is needed"
                )
            yield post

    def rows(self, path: Path) -> Iterator[dict[str, Any] | DataError]:
        """Every row as it stands in the table, for `post`; raises as `read`, whose columns there may be."""
        home = next((member for member in self._members if is_below(path, member)), None)
        self._source = home or (self._members[0] if len(self._members) == 1 else {})
        self._places = picture_places(path, home, self._source, self.images)
        self._folder = path.parent
        yield from _rows(path, self._source, home is not None, self.notes.setdefault)

    def post(self, number: int, row: Mapping[str, Any] | DataError) -> tuple[str, Post | DataError]:
        """``(id, post)`` of a row of the table that `rows` reads, and its number there, from 0."""
        if isinstance(row, DataError):
            return str(number), row
        self._seen.update(dict.fromkeys(row))
        return self._post(row, str(number), self._source, self._places)

    def take_columns(self) -> dict[str, list[str]]:
        """The columns that there were, those that were read and the parts that they brought, JSON-able; and begin
        anew."""
        found = {"seen": list(self._seen), "read": sorted(self._read), "brought": sorted(self.brought)}
        self._seen, self._read, self.brought = {}, set(), set()
        return found

    def add_columns(self, found: Mapping[str, list[str]]) -> None:
        """What `take_columns` gave of other rows of the same table."""
        self._seen.update(dict.fromkeys(found["seen"]))
        self._read.update(found["read"])
        self.brought.update(found["brought"])

    def _post(
        self, row: Mapping[str, Any], number: str, source: Mapping[str, Any], places: tuple[Files, ...]
    ) -> tuple[str, Post | DataError]:
        texts = self._texts(row) if WORDS in self.parts else []
        pictures = self._usable([*self._named(FILE), *inputs()[FILE].columns], row) if FILE in self.parts else []
        named = self._usable([name for name in NAMES if name in self.parts], row)
        cells = [column for column in row if column in self.record]
        nested = row.get(RECORD) if RECORD in self.parts and RECORD not in self.record else None
        record = to_json_value(nested) if isinstance(nested, Mapping) else {}
        names = self._usable([*self._named("id"), "id"], row)[:1]
        filled = [name for name in names if str("" if (value := to_json_value(row[name])) is None else value).strip()]
        words = {name: source[name] for name in ("missing", "missing_text") if _words(source.get(name))}
        options = {"id": filled[0] if filled else None, WORDS: texts, RECORD: cells, **words}
        if self._columns is None or options != self._columns[0]:  # most rows have what the row before had
            self._columns = options, Columns.model_validate(options)
        columns = self._columns[1]
        read = columns.example({c: row[c] for c in {*names, *texts, *cells}}, "", number, None, {})

        others = {part: self._usable([*self._named(part), part], row)[:1] for part in self.others}
        self._read.update(
            names, named, texts, pictures, cells, record, [RECORD] if isinstance(nested, Mapping) else [],
            *others.values(),
        )  # fmt: skip
        found = {WORDS: texts, FILE: pictures, RECORD: cells or isinstance(nested, Mapping), **others}
        self.brought.update(part for part, there in found.items() if there)
        if isinstance(read, Rejected):
            return read.id or number, DataError(read.reason)
        try:
            called = {name: None if is_nothing(row[name], columns.missing) else text_cell(row, name) for name in named}
            more = {
                part: self._other(part, row[name], columns.missing, places)
                for part, (name,) in ((part, found) for part, found in others.items() if found)
            }
        except DataError as error:
            return read.id, error
        shown = [row[column] for column in pictures if row[column] and not is_nothing(row[column], columns.missing)]
        image = shown[0] if shown else None
        return read.id, {
            "id": read.id if filled else None,
            argument_of(WORDS): read.parts.get(WORDS),
            argument_of(FILE): self._picture(places, image) if isinstance(image, str) else image,
            argument_of(RECORD): {**record, **read.parts.get(RECORD, {})} or None,
            **({PARTS: more} if more else {}),
            **called,
        }

    def _other(self, part: str, cell: Any, missing: Collection[str], places: tuple[Files, ...]) -> Any:
        """A cell of a part that does not come with Bifocal; None where nothing stands in it. Raises `DataError`."""
        if self.others[part] == "record":
            record = to_json_value(cell)
            return record if isinstance(record, Mapping) else None
        words = text_cell({part: cell}, part)
        if words is None or is_nothing(words, missing):
            return None
        return self._picture(places, words) if self.others[part] == "file" else words

    def _picture(self, places: tuple[Files, ...], cell: str) -> Picture:
        return Picture(places, from_folder(cell.strip(), self._folder))

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        """The columns that the source joins, where all are there; else the usual one; else those there are."""
        for own in self._own[WORDS]:
            if all(column in row for column in own):
                return own
        return self._usable([WORDS], row) or [column for column in self._named(WORDS) if column in row]

    def _usable(self, names: Collection[str], row: Mapping[str, Any]) -> list[str]:
        return [name for name in dict.fromkeys(names) if name in row and name not in self.record]

    def _named(self, role: str) -> list[str]:
        return [column for names in self._own[role] for column in names]


def _names(option: Any) -> list[str]:
    """Columns that an option of a source names; of a source that means something else by it, none."""
    names = option if isinstance(option, list) else [option]
    return names if all(isinstance(name, str) for name in names) else []


def _words(option: Any) -> bool:
    return isinstance(option, list) and all(isinstance(one, str) for one in option)


def _text(source: Mapping[str, Any], option: str) -> str | None:
    """An option that is a text in the sources that have it."""
    value = source.get(option)
    return value if isinstance(value, str) else None


def _root(source: Mapping[str, Any]) -> Path | None:
    return expand_home(root) if isinstance(root := source.get("root"), str | Path) else None


def is_below(path: Path, source: Mapping[str, Any]) -> bool:
    """Whether a table lies below the root of a source."""
    root = _root(source)
    return root is not None and path.resolve().is_relative_to(root.resolve())


def picture_places(
    path: Path, home: Mapping[str, Any] | None, source: Mapping[str, Any], images: Path | None
) -> tuple[Files, ...]:
    """Where pictures of a table are looked up, in this order: in ``images``, if it is given; else as the options of
    the run's ``source`` say (``home``: of the one below whose root the table lies), and beside the table."""
    if images is not None:
        if not (place := Files(images)).exists():
            raise DataError(f"images: {images} {place.found()}; expected a folder, .tar or .zip")
        return (place,)
    folders = []
    named = expand_home(_text(source, "images") or "")
    is_elsewhere = escapes_root(str(named))  # a folder that who wrote the configuration named, wherever the table lies
    if (home or is_elsewhere) and (root := _root(source)):
        root = root.parent if is_table(root.name) and not root.is_dir() else root
        folders.append(root / named)
    if not is_elsewhere and named.name and Files(path.parent / named).exists():
        folders.append(path.parent / named)
    return tuple(Files(folder) for folder in dict.fromkeys([*folders, path.parent]))


def _rows(
    path: Path, source: Mapping[str, Any], is_own: bool, told: Callable[[str], None]
) -> Iterator[dict[str, Any] | DataError]:
    path = path.resolve()  # a link may lead to the table, and its pictures still lie beside the link
    files = Files(path.parent)
    try:
        encoding = _encoding(files, path.name, source, is_own)
        delimiter = delimiter_of(files, path.name, encoding, _text(source, "delimiter") or "")
        quotes: Any = _text(source, "quotes") or "auto"
        for where, row in read_rows(files, path.name, delimiter=delimiter, encoding=encoding, quotes=quotes, note=told):
            yield DataError(f"{where}: {row.reason}") if isinstance(row, Rejected) else row
    except DataError as error:  # which may advise an option that only a source has
        text, _, option = str(error).partition(": set the option ")
        if not option:
            raise
        raise DataError(f"{text}: save it {'as UTF-8' if option.startswith('encoding') else 'with commas'}") from None


def _encoding(files: Files, name: str, source: Mapping[str, Any], is_own: bool) -> str:
    """That of the run's source; of a table from elsewhere UTF-8, if it is that."""
    try:
        encoding = known_encoding(_text(source, "encoding") or "utf-8")
    except ConfigError:  # of a source that means something else by it
        return "utf-8"
    if is_own or encoding == "utf-8":
        return encoding
    with files.opened(name) as file:
        head = file.read(2**20)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # not final: the last sign may be cut
    except UnicodeDecodeError:
        return encoding
    return encoding if b"\0" in head else "utf-8"


def delimiter_of(files: Files, name: str, encoding: str, option: str = "") -> str | None:
    """What stands between the names of the columns: that of the run's source, that of the ending, or another one."""
    default = DELIMITERS.get(Path(name).suffix.lower())
    if default is None:
        return None
    with files.opened(name) as file:
        header = decoded(file, name, encoding, None).readline(2**20)
    asked = {"tab": "\t", "\\t": "\t"}.get(option, option)
    if header.lower().lstrip('"').startswith("sep="):
        return None
    if asked and asked in header:
        return asked
    return None if default in header else other_delimiter(header, default)
