"""Posts as `bifocal init` finds them: which source reads them, and enough of their rows to tell what they are."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from .. import plugins
from ..config import expand_home
from ..diagnose.column_roles import FILE
from ..errors import BifocalError, DataError
from ..example import Example, Rejected
from ..files.folders import Files, from_folder, is_clutter
from ..files.layouts import Layout
from ..files.names import PICTURES
from ..files.post_table import delimiter_of
from ..files.tables import SUFFIXES, is_table
from ..files.text_lines import guess_encoding
from ..sources.hub import Hub
from ..sources.image_folder import ImageFolder
from ..sources.table import Table

READ = 200_000
"""Rows at most that are read: of more, the first ones."""
KEPT = 20_000
"""Of those, the rows that are looked at, drawn at random."""
LONGEST = 2000
"""Characters of a cell that are looked at."""
NAMES_TRIED = 50
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ARCHIVES = (".tar", ".zip")


@dataclass(frozen=True, slots=True)
class PostsFound:
    """What was found.

    Attributes
    ----------
    kind : str
        Of the source that reads them.
    options : dict
        Of that source, as far as they are known without its columns.
    columns : dict
        Column -> cells of the rows that were looked at; empty of a layout whose columns are known.
    examples : list of Example
        Of such a layout, the first ones.
    rows : int
        Read: all of them, or `READ`.
    bad : int
        Of those, the rows that cannot be read.
    whole : bool
        Whether all were read.
    notes : list of str
        What was taken for what.
    """

    kind: str
    options: dict[str, Any]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    rows: int = 0
    bad: int = 0
    whole: bool = True
    notes: list[str] = field(default_factory=list)


def find_posts(given: str) -> PostsFound:
    """What lies under a name: a table, a folder or archive in a known layout, or a dataset of the hub.

    Raises
    ------
    DataError
        Where nothing is there, or nothing that can be read as posts; says what can.
    """
    path = expand_home(given)
    files = Files(path)
    if not files.exists():
        if _HUB_ID.fullmatch(given) and not path.suffix:
            return _from_hub(given)
        raise DataError(f"there is no file or folder {given!r}; name a table ({', '.join(SUFFIXES)}), a folder, or an "
                        "archive of posts, or a dataset of the hub as owner/name")  # fmt: skip
    if path.is_file() and path.suffix.lower() not in _ARCHIVES:
        if not is_table(path.name):
            sheet = path.suffix.lower() in (".xlsx", ".xls", ".ods")
            more = "save the sheet as CSV (UTF-8)" if sheet else f"known endings: {', '.join(SUFFIXES)}, .tar, .zip"
            raise DataError(f"{given} is no table that can be read: {more}")
        return _from_table(given)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _from_hub(given)
    if layout := _layout(given):
        return layout
    names = [name for name in files.names() if not is_clutter(name)]
    if any(is_table(name) for name in names):
        return _from_table(given)
    folders = {PurePosixPath(name).parent for name in names if name.lower().endswith(PICTURES)}
    if len(folders) > 1:
        return _from_examples("image_folder", ImageFolder(root=path), {"root": given})
    raise DataError(
        f"{given} {files.found()}; expected a table ({', '.join(SUFFIXES)}), folders of pictures (class/*.jpg), or a "
        "layout that `bifocal inspect` knows (docs/sources.md)"
    )


def _layout(given: str) -> PostsFound | None:
    """The published layout that most of the rows fit."""
    best: PostsFound | None = None
    for kind in plugins.names("sources"):
        layout = plugins.load("sources", kind)
        if not issubclass(layout, Layout):
            continue
        try:
            source = layout(root=Path(given))
            found = _from_examples(kind, source, {"root": given}) if source.listed() else None
        except BifocalError:
            continue
        if found and found.bad <= 0.2 * found.rows and (best is None or len(found.examples) > len(best.examples)):
            best = found
    return best


def _from_examples(kind: str, source: Any, options: Mapping[str, Any]) -> PostsFound:
    examples, bad, rows = [], 0, 0
    for row in islice(iter(source), READ):
        rows += 1
        bad += isinstance(row, Rejected)
        if isinstance(row, Example):
            examples.append(row)
    return PostsFound(kind, dict(options), examples=examples, rows=rows, bad=bad, whole=rows < READ)


def _from_table(given: str) -> PostsFound:
    plain = Table(root=Path(given))
    try:
        tables = plain.tables
    except DataError as error:
        text, several, _ = str(error).partition(": say which under `file`")
        raise DataError(f"{text}: name one of them (bifocal init {given}/TABLE)" if several else text) from None
    options: dict[str, Any] = {"root": given}
    notes = []
    name = next(iter(tables))
    encoding = "utf-8"
    if not name.lower().endswith(".parquet"):
        encoding = guess_encoding(plain.files, name)
        if encoding != "utf-8":
            options["encoding"] = encoding
            notes.append(f"{name} is not UTF-8, and is read as {encoding}")
    if other := delimiter_of(plain.files, name, encoding):
        options["delimiter"] = {"\t": "tab"}.get(other, other)
        notes.append(f"{name}: columns are separated by {other!r}")
    source = Table(**options)
    columns, rows, bad, whole = _sampled(row for table in tables for _, row in source.read(table))
    if bad and not any(columns.values()):
        raise DataError(f"{given} has no row that can be read, of {bad:,}: `bifocal inspect` says what is wrong")
    if not rows:
        raise DataError(f"{given} has no rows below the names of its columns: nothing can be learned")
    splits = {split for split in tables.values() if split}
    if splits:
        notes.append(f"tables are taken for splits by their names: {', '.join(tables)}")
    return PostsFound("table", options, columns, rows=rows, bad=bad, whole=whole, notes=[*notes, *source.notes()])


def _from_hub(given: str) -> PostsFound:
    source = Hub(dataset=given)
    columns, rows, bad, whole = _sampled(source.stored_rows())
    return PostsFound("hub", {"dataset": given}, columns, rows=rows, bad=bad, whole=whole)


def _sampled(rows: Iterator[dict[str, Any] | Rejected]) -> tuple[dict[str, list[Any]], int, int, bool]:
    """Columns of `KEPT` of the first `READ` rows; rows read, rows broken, and whether that was all."""
    kept: list[dict[str, Any]] = []
    rng = random.Random(0)
    read = good = bad = 0
    for row in islice(rows, READ):
        read += 1
        if isinstance(row, Rejected):
            bad += 1
            continue
        good += 1
        small = {column: _small(cell) for column, cell in row.items()}
        if len(kept) < KEPT:
            kept.append(small)
        elif (place := rng.randrange(good)) < KEPT:
            kept[place] = small
    names = dict.fromkeys(name for row in kept for name in row)
    return {name: [row.get(name) for row in kept] for name in names}, read, bad, read < READ


def _small(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell[:LONGEST]
    if isinstance(cell, bytes) or (isinstance(cell, Mapping) and cell.keys() & {"bytes", "path"}):
        return FILE
    return cell


@dataclass(frozen=True, slots=True)
class PicturesFound:
    """Where the pictures of a table lie: the option ``images`` (None = beside the table), and how many names fit."""

    images: str | None
    why: str


def find_pictures(names: list[str], root: Path, asked: str | None) -> PicturesFound:
    """The folder in which most of some pictures' names are found.

    Looked at are what was asked for; else the table's own folder, the folders and archives in it, the current folder,
    and those beside the table's.

    Parameters
    ----------
    names : list of str
        As the table has them.
    root : Path
        The table, or the folder or archive that holds it.
    asked : str, optional
        The folder that a person named.

    Raises
    ------
    DataError
        Where no folder has more than a few of them: names where it looked.
    """
    home = root.parent if root.is_file() and root.suffix.lower() not in _ARCHIVES else root
    tried = [from_folder(name, home) for name in names[:: max(1, len(names) // NAMES_TRIED)][:NAMES_TRIED]]
    looked = [expand_home(asked)] if asked else list(_places(tried, home))
    places = list({place.resolve(): None for place in looked})
    found = {place: sum(len(files.matching(name)) == 1 for name in tried) for place, files in
             ((place, Files(place)) for place in places) if files.exists()}  # fmt: skip
    best = max(found, key=lambda place: found[place], default=None)
    if best is None or found[best] < 0.2 * len(tried):
        where = ", ".join(map(str, places[:4])) + (f" and {len(places) - 4} folders near it" if len(places) > 4 else "")
        raise DataError(
            f"of {len(tried)} pictures that the table names, such as {tried[0]!r}, "
            f"{found[best] if best else 0} lie in {where}: name their folder or archive with --images, or leave the "
            "column out with --drop"
        )
    why = f"{found[best]} of {len(tried)} names that were looked up are found there"
    if best == home.resolve():
        return PicturesFound(None, why)
    return PicturesFound(str(best.relative_to(home.resolve()) if best.is_relative_to(home.resolve()) else best), why)


def _places(names: list[str], home: Path) -> Iterator[Path]:
    absolute = [PurePosixPath(name) for name in names if name.startswith("/")]
    if len(absolute) > 0.5 * len(names):
        shared = absolute[0].parent
        while not all(path.is_relative_to(shared) for path in absolute):
            shared = shared.parent
        yield home
        if shared != PurePosixPath("/"):  # or any file of the machine could be read
            yield Path(shared)
        return
    yield home
    if home.is_file():  # an archive, whose own folders are looked in
        inside = Counter(PurePosixPath(n).parent for n in Files(home).names() if n.lower().endswith(PICTURES))
        yield from (home / folder for folder, _ in inside.most_common(50))
        return
    inner = _inside(home)
    yield from inner
    yield from (deeper for one in inner if one.is_dir() for deeper in _inside(one))
    yield Path.cwd()
    yield from _inside(Path.cwd())
    yield home.resolve().parent
    yield from _inside(home.resolve().parent)


def _inside(folder: Path) -> list[Path]:
    try:
        inner = sorted(folder.iterdir())
    except OSError:
        return []
    return [one for one in inner if not is_clutter(one.name) and (one.is_dir() or one.suffix.lower() in _ARCHIVES)][:50]
