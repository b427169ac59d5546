"""A .tar and a .zip read in place: an index of the members, read once, then each member by its offset."""

from __future__ import annotations

import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from ..errors import DataError

BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading a damaged file may raise."""
UNREADABLE = (*BROKEN, ValueError, RuntimeError)
"""What opening one may raise; also a null byte in its name, links in a circle, an unknown compression."""
_BLOCK = 512
_UTF8 = 0x800
"""The mark of a member of a zip whose name is UTF-8."""


def escapes_root(name: str) -> bool:
    """Whether a name is absolute or climbs: such a name is never opened, wherever it may lead."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


class Member(NamedTuple):
    """A file in a tar: where its bytes lie, and why it is not to be opened (a link, a device), where it is not."""

    name: str
    offset: int
    size: int
    refused: str = ""


def scan_tar(path: Path) -> Iterator[Member]:
    """The members of a plain tar in their order, from the headers alone; folders are left out.

    Raises
    ------
    DataError
        After the last member that is whole, where the rest is cut or broken: names the byte where it begins.
    """
    length = path.stat().st_size
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115 (closed below)
    except (tarfile.TarError, ValueError) as error:
        raise DataError(f"{path} is no plain .tar ({error}); a compressed one has to be gunzipped first") from None
    end = 0
    with tar:
        try:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or it holds every header for ever
                if (
                    tar.offset <= end
                    or info.size < 0
                    or (info.sparse is None and info.offset_data + info.size > length)
                ):
                    raise tarfile.ReadError(f"member {info.name!r} is cut")
                end = tar.offset
                if not info.isdir():
                    yield Member(str(PurePosixPath(info.name)), info.offset_data, info.size, _refusal(info))
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is broken at byte {end} ({error}): fetch it again, the rest is not read") from None
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(_BLOCK)
    if any(block):  # tarfile takes a bad header for the end, and says nothing
        raise DataError(f"{path} is broken at byte {end} (no header there): fetch it again, the rest is not read")
    if not block:
        raise DataError(
            f"{path} ends at byte {end} without the mark of its end: cut between two members? fetch it again"
        )


def _refusal(info: tarfile.TarInfo) -> str:
    if escapes_root(info.name):
        return "leads out of the archive; only paths inside are read"
    if info.islnk() or info.issym():
        return "is a link, which is not followed inside an archive"
    return "" if info.isreg() and info.sparse is None else "is not a plain file"


class Archive:
    """What a .tar and a .zip share: an index, read once."""

    def __init__(self, path: Path, inner: PurePosixPath):
        self.path = path
        self.inner = inner
        self.members: dict[str, Any] = {}
        self.spelled: dict[str, str] = {}
        """Name -> its bytes as surrogates, of names whose encoding stands nowhere."""
        self.refused: dict[str, str] = {}
        self.broken = ""

    def _add(self, name: str, member: Any, refused: str, spelled: str = "") -> None:
        if self.inner != PurePosixPath():
            head = f"{self.inner}/"
            if not name.startswith(head):
                return
            name = name.removeprefix(head)
            spelled = "/".join(spelled.split("/")[len(self.inner.parts) :])
        if spelled not in ("", name):
            self.spelled[name] = spelled
        if refused:
            self.refused[name] = refused
        else:
            self.members[name] = member

    @cached_property
    def _tree(self) -> dict[str, dict[str, str]]:
        tree: dict[str, dict[str, str]] = {}
        for name in self.members:
            shown = self.spelled.get(name, name).split("/")
            parts = name.split("/")
            for depth in range(len(parts)):
                tree.setdefault("/".join(parts[:depth]), {}).setdefault(shown[depth], parts[depth])
        return tree

    def listing(self, folder: str) -> Mapping[str, str]:
        """What lies in a folder: each name as its bytes say, and as it is opened here."""
        return self._tree.get(folder, {})

    def exists(self) -> bool:
        return self.inner == PurePosixPath() or bool(self.members)

    def tops(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self.members})

    def empty(self) -> str:
        return f"holds nothing that can be read ({self.broken})" if self.broken else "is empty"

    def names(self) -> Iterable[str]:
        return self.members

    def member(self, name: str) -> Any:
        if escapes_root(name):
            raise DataError(f"{name!r} leads out of {self.path}; only paths inside are read")
        plain = str(PurePosixPath(name))
        if plain in self.members:
            return self.members[plain]
        if plain in self.refused:
            raise DataError(f"{self.path / self.inner / name} {self.refused[plain]}")
        rest = f" ({self.broken})" if self.broken else ""
        raise DataError(f"{self.path / self.inner / name} is missing or not a file{rest}")

    def stamp(self, name: str) -> list[int]:
        self.member(name)
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class Tar(Archive):
    def __init__(self, path: Path, inner: PurePosixPath):
        super().__init__(path, inner)
        try:
            for member in scan_tar(path):
                self._add(member.name, member, member.refused)
        except DataError as error:
            self.broken = str(error)

    def size(self, name: str) -> int:
        return int(self.member(name).size)

    def open(self, name: str) -> IO[bytes]:
        member = self.member(name)
        return io.BufferedReader(Slice(self.path, member.offset, member.size))


class Zip(Archive):
    def __init__(self, path: Path, inner: PurePosixPath):
        super().__init__(path, inner)
        try:
            self.zip = zipfile.ZipFile(io.BufferedReader(Slice(path, 0, path.stat().st_size)))
        except (*UNREADABLE, NotImplementedError) as error:
            self.broken = f"{path} is no .zip that can be read ({error}): fetch it again"
            return
        for info in self.zip.infolist():
            name, spelled = (str(PurePosixPath(one)) for one in _zip_name(info))
            if not (info.is_dir() or info.filename.endswith("\\")):
                self._add(name, info, self._refusal(info, name), spelled)

    def _refusal(self, info: zipfile.ZipInfo, name: str) -> str:
        if escapes_root(name):
            return "leads out of the archive; only paths inside are read"
        if stat.S_ISLNK(info.external_attr >> 16):
            return "is a link, which is not followed inside an archive"
        return "is encrypted" if info.flag_bits & 1 else ""

    def size(self, name: str) -> int:
        return int(self.member(name).file_size)

    def open(self, name: str) -> IO[bytes]:
        return self.zip.open(self.member(name))  # gives no more bytes than are declared


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, str]:
    """The name of a member, and the same as its bytes say: as surrogates where nothing says what they are in.

    Without the mark of UTF-8 a name is taken for cp437, as the format has it. Many tools write UTF-8 all the same, and
    some Windows ones part folders by backslashes alone.
    """
    name = spelled = info.filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        spelled = name.encode("cp437").decode("utf-8", "surrogateescape")
        name = name if any("\udc80" <= sign <= "\udcff" for sign in spelled) else spelled
    if "/" not in name:
        return name.replace("\\", "/"), spelled.replace("\\", "/")
    return name, spelled


class Slice(io.RawIOBase):
    """A stretch of a file as a file of its own, with a position of its own: processes and threads share none."""

    def __init__(self, path: Path, offset: int, size: int):
        self._file = path.open("rb")
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), max(0, self._size - self._at))
        blob = os.pread(self._file.fileno(), size, self._offset + self._at)
        buffer[: len(blob)] = blob
        self._at += len(blob)
        return len(blob)

    def close(self) -> None:
        self._file.close()
        super().close()
