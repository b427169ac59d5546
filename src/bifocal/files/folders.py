"""The files below a folder, or inside a .tar or .zip, read in place: nothing is unpacked, and no path leads out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

from pydantic import field_validator

from ..config import Strict, expand_home
from ..contracts import TextRole
from ..errors import DataError, listed
from ..example import Example, Label, Rejected
from ..workspace import fingerprint
from .archives import BROKEN, UNREADABLE, Tar, Zip, escapes_root
from .names import Names, Nearest

__all__ = ["MAX_MEMBER", "FileSource", "Files", "Picture", "escapes_root", "from_folder", "is_clutter"]

MAX_MEMBER = 200 * 2**20
"""Bytes; a larger file is no picture, and a zip may make it out of nothing."""
_SEARCHED = 200_000
"""Files among which the nearest to a missing one is sought."""
_CLUTTER = ("Thumbs.db", "desktop.ini")
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")


class Files:
    """The files below a root, by relative POSIX name; pickled without what it has read, and shared by threads.

    Parameters
    ----------
    root : Path
        A folder, a ``.tar`` or ``.zip``, or a folder inside one (``memes.zip/memes``).

    Every method raises `DataError` where the root is an archive that cannot be read in place.
    """

    def __init__(self, root: Path):
        self.root = root

    def __reduce__(self) -> tuple[type[Files], tuple[Path]]:
        return Files, (self.root,)

    @cached_property
    def _place(self) -> _Folder | Tar | Zip:
        archive = next((p for p in (self.root, *self.root.parents) if p.is_file()), None)
        if archive is None:
            return _Folder(self.root)
        inner = PurePosixPath(self.root.relative_to(archive).as_posix())
        if archive.suffix.lower() in _COMPRESSED:
            raise DataError(
                f"{archive} is compressed as a whole, so that its files cannot be read one by one: unpack it, or make "
                "it a plain .tar or a .zip (gunzip, or tar -xf)"
            )
        kinds: dict[str, type[Tar | Zip]] = {".tar": Tar, ".zip": Zip}
        kind = kinds.get(archive.suffix.lower())
        return kind(archive, inner) if kind else _Folder(self.root)

    def exists(self) -> bool:
        return self._place.exists()

    def has(self, name: str) -> bool:
        """Whether `read` would find a file under this name."""
        try:
            self._place.size(name)
            return True
        except (DataError, *UNREADABLE):
            return False

    def look_up(self, name: str) -> str:
        """The file that a name means: itself, or the one that differs only in how the name is spelled.

        What may differ: the Unicode form, case, backslashes, spaces at the ends, percent-encoding, bytes that were
        read in another encoding, and last the ending of a picture.

        Raises
        ------
        DataError
            Where there is none, naming the nearest, or where the name may mean several.
        """
        found = self.matching(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{name!r} below {self.root} is not there as written, and may be {listed([repr(n) for n in found])}: "
                "write the name as the file has it"
            )
        close = self._nearest.of(name)
        hint = f"; the nearest below {self.root} is {' or '.join(map(repr, close))}" if close else ""
        try:
            self._place.size(name)
        except UNREADABLE as error:
            raise DataError(f"{name!r} below {self.root} cannot be read: {error}{hint}") from None
        except DataError as error:
            raise DataError(f"{error}{hint}") from None
        return name

    def matching(self, name: str) -> list[str]:
        """The files that a name may mean: itself where it is there, else those that `look_up` would choose from."""
        return [name] if self.has(name) else self._alike.alike(name)

    def state(self, name: str) -> list[Any] | None:
        """JSON-able: the file that a name means, its size and its times, without a look inside; None where none is.

        The time of its inode is among them: it changes where a copy keeps the time of what it replaces. In an archive
        all are the archive's.
        """
        try:
            return [name, *self._place.stamp(name)]
        except (DataError, *UNREADABLE):
            found = self._alike.alike(name)
        return [found[0], *self._place.stamp(found[0])] if len(found) == 1 else None

    def contents(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Each name with the SHA-256 of its file."""
        found = []
        for name in names:
            digest = hashlib.sha256()
            with self.opened(name) as file:
                while block := file.read(2**20):
                    digest.update(block)
            found.append((name, digest.hexdigest()))
        return found

    def read_matching(self, name: str) -> bytes:
        """As `read`, of the file that `look_up` finds where there is none of this very name."""
        try:
            return self.read(name)
        except DataError:
            if (found := self.look_up(name)) == name:
                raise
        return self.read(found)

    @cached_property
    def _alike(self) -> Names:
        return Names(self._place.listing, self.has)

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(islice(self._place.names(), _SEARCHED))

    def names(self, under: str = "") -> list[str]:
        """Sorted names of the plain files below the folder ``under``; links that lead out are not among them."""
        head = f"{under.strip('/')}/" if under.strip("/") else ""
        return sorted(name for name in self._place.names() if name.startswith(head))

    def in_any_folder(self, name: str) -> str | None:
        """The one file of this own name, or of one spelled like it as `look_up` has it, wherever it lies.

        Of several in different folders it is the first. None where there is none, or the spelling may mean several.
        """
        places, names = self._own_names
        found = [places[name]] if name in places else names.alike(name)
        return found[0] if len(found) == 1 else None

    @cached_property
    def _own_names(self) -> tuple[dict[str, str], Names]:
        places = {PurePosixPath(name).name: name for name in reversed(self.names())}
        return places, Names(lambda folder: {} if folder else places, lambda name: True)

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises
        ------
        DataError
            Where it is missing, unreadable, larger than `MAX_MEMBER`, or its name leads out of the root.
        """
        with self.opened(name) as file:
            size = self._place.size(name)
            blob = file.read(MAX_MEMBER + 1) if size <= MAX_MEMBER else b""
        if max(size, len(blob)) > MAX_MEMBER:
            raise DataError(f"{self.root / name} has over {MAX_MEMBER >> 20} MiB, the most that is read: make it small")
        return blob

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file as a seekable stream, of whatever length. Raises `DataError` as `read` does."""
        try:
            file = self._place.open(name)
        except UNREADABLE as error:
            raise DataError(f"{name!r} below {self.root} cannot be read: {error}") from None
        with file:
            try:
                yield file
            except BROKEN as error:
                raise DataError(f"{name!r} below {self.root} cannot be read: {error}") from None

    def stamp(self, names: Iterable[str]) -> list[Any]:
        """JSON-able; changes with the names, and with the size or time of a file (in an archive: of the archive)."""
        return [[name, *self._place.stamp(name)[:2]] for name in names]

    def found(self) -> str:
        """What is there instead of what was expected, for the message: ``is empty``, ``holds a, b``, …"""
        if not self._place.exists():
            return "does not exist"
        if isinstance(self._place, _Folder) and not self.root.is_dir():
            return "is not a folder, .tar or .zip"
        tops = self._place.tops()
        return f"holds {', '.join(tops[:8])}{', …' if len(tops) > 8 else ''}" if tops else self._place.empty()


def from_folder(name: str, folder: Path) -> str:
    """A picture's name as a place takes it: one that climbs (``../pictures/1.png``) is meant from the folder of its
    table, and becomes absolute; whether it may be read there is for the place to say."""
    plain = name.strip().replace("\\", "/")
    return os.path.normpath(folder.resolve() / plain) if plain.startswith("../") else name


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a table names, not yet read: whether it may be is for `Files` to say, in training as in scoring.

    Attributes
    ----------
    places : tuple of Files
        Where it is looked up, in this order.
    name : str
        As the table has it: relative to a place, or absolute and inside one.
    """

    places: tuple[Files, ...]
    name: str

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """Its bytes; a name that is nowhere as written is looked up leniently. Raises as `Files.look_up`."""
        exact = next((place for place in self.places if place.has(self.name)), None)
        place = exact or next((place for place in self.places if place.matching(self.name)), self.places[0])
        return place.read_matching(self.name)


class FileSource(Strict):
    """What all layouts below one root share; a layout brings `expected`, `listed`, `rows` and `labels`."""

    expected: ClassVar[str]
    """What the layout expects below the root, for the error where there is nothing of it."""

    seeks: ClassVar[bool] = False
    """Whether a picture is sought in several places: one that is missing may then come under another name."""

    root: Path
    """A folder, a .tar or a .zip."""
    text_role: TextRole = "caption"

    @field_validator("root")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return expand_home(value)

    @cached_property
    def files(self) -> Files:
        return Files(self.root)

    def listed(self) -> list[str]:
        """The files that list the rows (not the pictures), in the order in which they are read."""
        raise NotImplementedError

    def rows(self) -> Iterator[Example | Rejected]:
        """Every row of the files `listed`, streaming."""
        raise NotImplementedError

    def labels(self) -> Mapping[str, Label]:
        raise NotImplementedError

    def role_of(self, example: Example) -> TextRole:
        return self.text_role

    def __iter__(self) -> Iterator[Example | Rejected]:  # type: ignore[override]
        """Every row, in a fixed order; a broken one as `Rejected`.

        Raises
        ------
        DataError
            At once, where the root is missing or holds nothing of the layout.
        """
        if not self.listed():
            raise DataError(f"{self.root} {self.files.found()}; expected {self.expected}")
        return iter(self.rows())

    def fingerprint(self) -> str:
        """Changes with the options, and with the files that list rows."""
        return fingerprint(self.model_dump(mode="json"), str(self.root.resolve()), self.listing())

    def listing(self) -> Any:
        """JSON-able: what the rows are read from. Pictures are no part of it: `stamp` is asked of each."""
        return self.files.contents(self.listed())

    @property
    def pictures(self) -> Files:
        """Where pictures are looked up."""
        return self.files

    def stamp(self, reference: str) -> list[Any] | None:
        """As `bifocal.contracts.Stamped` has it."""
        found = self.pictures.state(reference)
        return ["", 0, self._names] if found is None and self.seeks else found

    @cached_property
    def _names(self) -> str:
        return fingerprint(self.files.names())

    def open(self, reference: str) -> bytes:
        """The bytes of a picture below the root, its name looked up leniently where it is not there as written.

        Raises
        ------
        DataError
            Where the file is missing, unreadable or too large, its name may mean several, or the path (also through a
            link) leads out of the root.
        """
        try:
            return self.pictures.read_matching(reference)
        except DataError as error:
            raise DataError(f"picture {error}") from None

    def first_of(self, candidates: list[str]) -> str:
        """The first of several places at which a picture lies, be it spelled otherwise; else the first of them."""
        for name in (*filter(self.files.has, candidates), *candidates):
            with suppress(DataError):
                return self.files.look_up(name)
        return candidates[0]


def is_clutter(name: str) -> bool:
    """Whether a file was left by a desktop and is no data: hidden, or a folder's settings and thumbnails."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return not parts or hidden or parts[0] == "__MACOSX" or parts[-1] in _CLUTTER


class _Folder:
    def __init__(self, root: Path):
        self.root = root

    @cached_property
    def _home(self) -> Path:
        return self.root.resolve()

    def exists(self) -> bool:
        return self.root.exists()

    def tops(self) -> list[str]:
        return sorted(p.name for p in self.root.iterdir())

    def empty(self) -> str:
        return "is empty"

    def names(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                relative = path.relative_to(self.root).as_posix()
                if (not path.is_symlink() or self._inside(relative)) and path.is_file():
                    yield relative

    def _inside(self, name: str) -> bool:
        try:
            return (self._home / name).resolve().is_relative_to(self._home)
        except (OSError, RuntimeError):
            return False

    def _path(self, name: str) -> Path:
        path = (self._home / name).resolve()
        if ".." in PurePosixPath(name).parts or not path.is_relative_to(self._home):
            raise DataError(f"{name!r} leads out of {self.root}; only paths inside are read")
        if not path.is_file():  # also keeps a pipe or a device from being waited on
            raise DataError(f"{self.root / name} is missing or not a file")
        return path

    def listing(self, folder: str) -> Mapping[str, str]:
        try:
            return {name: name for name in os.listdir(self._home / folder)} if self._inside(folder) else {}
        except (OSError, ValueError):
            return {}

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def open(self, name: str) -> IO[bytes]:
        return self._path(name).open("rb")

    def stamp(self, name: str) -> list[int]:
        found = self._path(name).stat()
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
