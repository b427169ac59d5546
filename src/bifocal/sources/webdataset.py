"""Somebody else's WebDataset: tar files in which the members of a sample stand together under one key."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_validator

from ..errors import DataError
from ..example import Example, Label, Rejected
from ..files.archives import Member, scan_tar
from ..files.columns import Columns, Split, by_split, split_named
from ..files.folders import MAX_MEMBER, Files, FileSource, is_clutter
from ..files.tables import MAX_LEVELS, is_deep

TEXTS = ("txt", "text", "caption", "cls")
"""Last endings of members that are read as text."""
MAX_TEXT = 16 * 2**20
"""Bytes of such a member, or of a JSON one."""
_HEADER = 512
_REFERENCE = re.compile(r"(?P<place>.+)@(?P<offset>\d{1,15})\+(?P<size>\d{1,15})", re.DOTALL)


@dataclass
class _Sample:
    """The members of one key, by their ending: all that follows the first dot of the file's name."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    wrong: str = ""


class Webdataset(Columns, FileSource):
    """Samples as the WebDataset library writes them; `Columns` has the options that say what their members mean.

    The columns are ``__key__``; the endings of members (``txt``, ``cls``, ``jpg``); and for a JSON member its fields,
    as ``json.caption``, or ``json.user.age`` below one another. Members are found by the tar's headers and read by
    their offset. Only texts, JSON and the endings under ``image`` are ever opened: never a pickle (``.pyd``, ``.pkl``);
    what else a sample brings is named in ``meta["not_read"]``.

    Attributes
    ----------
    root : Path
        The folder that holds the tars, or one tar.
    pattern : str or dict
        Which files below the root are read, such as ``train-*.tar``; or ``{split: pattern}``.
    id, text : str
        By default ``__key__`` and ``txt``.
    image : list of str
        Endings of the picture; the first that a sample has is taken.
    """

    expected: ClassVar[str] = "tars of samples, which `pattern` names"

    pattern: Annotated[str | dict[str, str], AfterValidator(by_split)] = "*.tar"
    id: str | None = "__key__"
    text: str | list[str] | None = "txt"
    image: list[str] = Field(default=["jpg", "jpeg", "png", "webp"])  # type: ignore[assignment]

    @field_validator("image", mode="before")
    @classmethod
    def _one_ending(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def _images(self) -> list[str]:
        return self.image

    def _needed(self) -> tuple[dict[str, str], dict[str, str]]:
        """A sample brings what it has, so each column has to stand in one sample; those by default in none."""
        each, once = super()._needed()
        by_default = {"image", *({"text", "id"} - self.model_fields_set)}
        return {}, {**{column: role for column, role in each.items() if role not in by_default}, **once}

    @cached_property
    def files(self) -> Files:
        return Files(self.root.parent if self.root.is_file() else self.root)

    @cached_property
    def shards(self) -> dict[str, Split | None]:
        """Name of a tar -> its split, where the pattern tells it."""
        if self.root.is_file():
            return {self.root.name: None} if self.root.suffix == ".tar" else {}
        names = [name for name in self.files.names() if not is_clutter(name)]
        patterns = self.pattern if isinstance(self.pattern, dict) else {"": self.pattern}
        found: dict[str, Split | None] = {}
        for split, pattern in patterns.items():
            for name in names:
                if PurePosixPath(name).match(pattern):
                    found.setdefault(name, split_named(split))
        return found

    @cached_property
    def _spelled(self) -> dict[str, str]:
        """An ending in lower case -> as the options have it: their case decides nothing, as WebDataset has it."""
        return {name.lower(): name for name in ("json", *self.named)}

    def listed(self) -> list[str]:
        return list(self.shards)

    def listing(self) -> Any:
        """Pictures and all else lie in the tars themselves, which are too large to be hashed."""
        return self.files.stamp(self.listed())

    def stamp(self, reference: str) -> list[Any] | None:
        return []

    def readable_rows(self) -> Iterator[dict[str, Any]]:
        return (row for name in self.shards for _, row in self._read(name) if not isinstance(row, Rejected))

    def rows(self) -> Iterator[Example | Rejected]:
        self.check_parts(self.check_columns([("", self.readable_rows())]))
        return self._rows(self.labels())

    def _rows(self, labels: Mapping[str, Label]) -> Iterator[Example | Rejected]:
        for name, split in self.shards.items():
            for where, row in self._read(name):
                key = str(row.get("__key__")) if isinstance(row, dict) else ""
                yield row if isinstance(row, Rejected) else self.example(row, where, key, split, labels)

    def _read(self, shard: str) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
        """``(where, row)`` of every sample; what is wrong with the tar itself comes last, as one `Rejected`."""
        keys: set[str] = set()
        with self.files.opened(shard) as file:
            for sample in self._samples(shard):
                where = f"{shard}:{sample.key}" if isinstance(sample, _Sample) else shard
                if isinstance(sample, Rejected):
                    yield where, sample
                elif sample.key in keys:
                    reason = f"key {sample.key!r} stands in the shard before; the members of a sample stand together"
                    yield where, Rejected(sample.key, where, reason, list(sample.members))
                else:
                    keys.add(sample.key)
                    yield where, self._row(sample, shard, where, file)

    def _samples(self, shard: str) -> Iterator[_Sample | Rejected]:
        sample, endings = _Sample(""), set[str]()
        try:
            for member in scan_tar(self.files.root / shard):
                if is_clutter(member.name):
                    continue
                key, ending = _key_and_ending(member.name)
                ending = self._spelled.get(ending.lower(), ending)
                if key != sample.key:
                    if sample.members:
                        endings = set(sample.members)
                        yield sample
                    sample = _Sample(key)
                if ending in sample.members:
                    sample.wrong = f"member {member.name!r} stands twice"
                elif member.refused and not sample.wrong:
                    sample.wrong = f"member {member.name!r} {member.refused}"
                sample.members[ending] = member
        except DataError as error:
            # The last sample may have lost members; it has not where it has all that the one before it has.
            whole = not sample.members or bool(endings and endings <= set(sample.members))
            if whole and sample.members:
                yield sample
            lost = "" if whole else f"; sample {sample.key!r} before it may be incomplete and is left out"
            yield Rejected(None if whole else sample.key, shard, f"{error}{lost}")
            return
        if sample.members:
            yield sample

    def _row(self, sample: _Sample, shard: str, where: str, file: IO[bytes]) -> dict[str, Any] | Rejected:
        row: dict[str, Any] = {"__key__": sample.key}
        try:
            if sample.wrong:
                raise DataError(sample.wrong)
            unread = []
            for ending, member in sample.members.items():
                kind = ending.rpartition(".")[2].lower()
                if ending in self.image:
                    row[ending] = f"{shard}/{member.name}@{member.offset}+{member.size}"
                elif kind == "json":
                    row |= _flat(ending, _parsed(_text(member, file), member.name))
                elif kind in TEXTS:
                    row[ending] = _text(member, file)
                else:
                    unread.append(ending)
            return row | ({"not_read": unread} if unread else {})
        except DataError as error:
            return Rejected(sample.key, where, str(error), list(sample.members))

    def open(self, reference: str) -> bytes:
        """The bytes of a picture, by the place that its reference names.

        Raises
        ------
        DataError
            Where there is no such shard, no member begins at that place, or it is too large.
        """
        match = _REFERENCE.fullmatch(reference)
        shard = self._shard_of(match["place"]) if match else None
        if match is None or shard is None:
            raise DataError(
                f"picture {reference[:200]!r} is in no shard below {self.root}; expected shard/member@byte+size"
            )
        offset, size = int(match["offset"]), int(match["size"])
        if size > MAX_MEMBER:
            raise DataError(f"picture {reference!r} has over {MAX_MEMBER >> 20} MiB, the most that is read")
        with self.files.opened(shard) as file:
            file.seek(max(0, offset - _HEADER))  # where the member's own header stands, whatever precedes it
            header, blob = file.read(_HEADER), file.read(size)
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError:
            info = tarfile.TarInfo()
        if offset < _HEADER or info.size != size or not info.isreg() or len(blob) < size:
            raise DataError(f"picture {reference!r}: no such member begins there; was the shard changed? run again")
        return blob

    def _shard_of(self, place: str) -> str | None:
        cuts = [i for i, sign in enumerate(place) if sign == "/"]
        return next((place[:cut] for cut in cuts if place[:cut] in self.shards), None)


def _key_and_ending(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends before the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending


def _text(member: Member, file: IO[bytes]) -> str:
    if member.size > MAX_TEXT:
        raise DataError(f"{member.name} has over {MAX_TEXT >> 20} MiB, the most that is read of a text")
    file.seek(member.offset)
    try:
        return file.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{member.name} is not UTF-8 (byte {error.start})") from None


def _parsed(text: str, name: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not valid JSON: {error}") from None
    if is_deep(value):
        raise DataError(f"{name} has lists or objects within one another, more than {MAX_LEVELS} deep")
    return value


def _flat(name: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` of member ``json`` as ``{"json.a.b": 1}``; lists stay."""
    if not isinstance(value, dict):
        return {name: value}
    return {column: one for key, inner in value.items() for column, one in _flat(f"{name}.{key}", inner).items()}
