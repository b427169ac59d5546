"""Shards: WebDataset tars that are checked before use and read lazily, without running anything in them.

Any reader of tars or WebDatasets can read them. Bifocal itself does not use webdataset's decoder, which unpickles.
`bifocal.data.packing` writes them.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ..contracts import Modality
from ..errors import ShardError
from ..example import Label, LabelValue, Taxonomy
from ..workspace import file_sha256, fingerprint

INDEX = "index.json"
RECORD = "json"
"""Suffix of the member that says what a sample is; the others hold its parts."""
LONGEST_KEY = 80
"""Bytes; with a suffix it stays under the 100 of the oldest tar header, which every reader knows."""
AGAIN = "run the step `shards` again (`bifocal run CONFIG --from shards`)"


class SampleRecord(BaseModel):
    """The ``<key>.json`` of a sample."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str
    labels: dict[str, LabelValue]
    group: str
    present: dict[str, bool]
    """Modality -> whether the post has this part. This decides, never the blank that stands in for it."""
    meta: dict[str, Any]


class ShardEntry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    count: int
    sha256: str


class Index(BaseModel):
    """``index.json``, written last: a split without it is not packed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    taxonomy: str
    """Fingerprint of the taxonomy that the labels belong to."""
    modalities: dict[str, str]
    """Modality -> suffix of its members."""
    shards: list[ShardEntry]
    count: int


def key_of(id: str) -> str:
    """The name of an example inside a shard: ASCII letters, digits, ``_``, ``-`` and percent escapes.

    Dots and slashes are escaped too, since webdataset cuts keys at the first dot. An id that would be longer than 80
    bytes keeps its first 60 and ends in a hash; the whole id stands in the sample's JSON.
    """
    key = re.sub(rb"[^A-Za-z0-9_-]", lambda match: b"%%%02X" % match[0][0], id.encode()).decode()
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[:60]}-{hashlib.sha256(id.encode()).hexdigest()[:16]}"


def taxonomy_key(taxonomy: Taxonomy) -> str:
    """What an index calls the taxonomy that its labels belong to."""
    return fingerprint(taxonomy.to_json())


@dataclass(frozen=True, eq=False)
class Split:
    """One packed split: ids, groups and presence in memory, everything else read from the tars when asked for.

    Holds no open file, so it can be pickled, forked and read from several threads.
    """

    modalities: Mapping[str, Modality]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    present: dict[str, list[bool]]
    """Modality -> whether each row has this part."""
    fingerprint: str
    """Changes with the content of the shards and the rows taken from them."""
    paths: tuple[Path, ...]
    places: Mapping[str, NDArray[np.int64]]
    """Suffix -> ``[n, 3]``: which of the paths, offset and size of the member, in bytes."""
    read_classes: dict[tuple[str, Label], tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)
    """What `classes` found: a record of every row is read for it."""

    def __len__(self) -> int:
        return len(self.ids)

    def classes(self, label_name: str, label: Label) -> list[int]:
        """Class index of each row, `UNLABELLED` where it is not annotated. Raises `DataError` on an unknown value."""
        key = (label_name, label)
        if key not in self.read_classes:
            found = (label.of_row(label_name, self.record(row).labels) for row in range(len(self)))
            self.read_classes[key] = tuple(found)
        return list(self.read_classes[key])

    def record(self, row: int) -> SampleRecord:
        """What is packed of a row besides its parts."""
        return _parse(self.read(row, RECORD), f"{self.ids[row]!r}")

    def meta(self, row: int) -> dict[str, Any]:
        """What the source and the manifest know of a row besides its parts."""
        return self.record(row).meta

    def values(self, modality: str) -> Values:
        """The parts of one modality, unpacked one by one as they are asked for; blank where absent."""
        return Values(self, modality)

    def take(self, rows: Iterable[int]) -> Split:
        """The same for some rows, in the order given."""
        index = list(rows)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in index),
            groups=tuple(self.groups[row] for row in index),
            present={name: [flags[row] for row in index] for name, flags in self.present.items()},
            fingerprint=fingerprint(self.fingerprint, index),
            places={suffix: table[index] for suffix, table in self.places.items()},
        )

    def read(self, row: int, suffix: str) -> bytes:
        """The bytes of one member. Raises `ShardError` where the shard has gone or shrunk since it was opened."""
        shard, offset, size = self.places[suffix][row].tolist()
        try:
            with self.paths[shard].open("rb", buffering=0) as file:
                file.seek(offset)
                blob = file.read(size)
        except FileNotFoundError:
            blob = b""
        if len(blob) != size:
            raise ShardError(f"{self.paths[shard]} was removed or cut while it was read; {AGAIN}")
        return blob


class Values(Sequence[Any]):
    """The parts of one modality of a `Split`, read and unpacked on access."""

    def __init__(self, split: Split, modality: str):
        self._split = split
        self._modality = split.modalities[modality]
        self._name = modality

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> Values: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return Values(self._split.take(range(len(self))[row]), self._name)
        return self._modality.unpack(self._split.read(row, self._modality.suffix))


def open_split(folder: Path, modalities: Mapping[str, Modality], taxonomy: Taxonomy | None = None) -> Split:
    """Check a packed split against its index and find where everything stands.

    Parameters
    ----------
    folder : Path
        ``shards/train`` or the like.
    modalities : mapping of name to Modality
        Those that it was packed with, as they pack.
    taxonomy : Taxonomy, optional
        Where given, the shards must have been packed with this one.

    Raises
    ------
    ShardError
        Where a shard is missing, cut, altered or not in the index; a sample is incomplete or there twice; a member is
        none that Bifocal writes; modalities, picture format or taxonomy are not those it was packed with; or there is
        no index.
    """
    index = _index(folder)
    asked = {name: modality.suffix for name, modality in modalities.items()}
    if index.modalities != asked:
        found, wanted = (_named(f"{name} as {suffix}" for name, suffix in m.items()) for m in (index.modalities, asked))
        raise ShardError(f"{folder} was packed with {found}, asked for {wanted}; {AGAIN}")
    if taxonomy is not None and index.taxonomy != taxonomy_key(taxonomy):
        mine = taxonomy_key(taxonomy)
        raise ShardError(f"{folder} was packed with another taxonomy ({index.taxonomy}; this run has {mine}); {AGAIN}")
    suffixes = [*asked.values(), RECORD]
    ids: dict[str, None] = {}
    groups: list[str] = []
    present: dict[str, list[bool]] = {name: [] for name in modalities}
    places = array("q")
    for number, entry in enumerate(index.shards):
        path = folder / entry.name
        for key, record, members in _samples(path, entry, suffixes):
            if key_of(record.id) != key or set(record.present) != set(modalities):
                raise ShardError(f"{path}: {key}.{RECORD} belongs to another sample or other modalities; {AGAIN}")
            if record.id in ids:
                raise ShardError(f"{path}: sample {record.id!r} stands in an earlier shard as well; {AGAIN}")
            ids[record.id] = None
            groups.append(record.group)
            for name, there in record.present.items():
                present[name].append(there)
            for suffix in suffixes:
                places.extend((number, *members[suffix]))
    if len(ids) != index.count:
        raise ShardError(f"{folder} holds {len(ids)} samples, {INDEX} says {index.count}; {AGAIN}")
    table = np.array(places, dtype=np.int64).reshape(-1, len(suffixes), 3)
    return Split(
        modalities=dict(modalities),
        ids=tuple(ids),
        groups=tuple(groups),
        present=present,
        fingerprint=fingerprint(index.taxonomy, index.modalities, [entry.sha256 for entry in index.shards]),
        paths=tuple(folder / entry.name for entry in index.shards),
        places={suffix: table[:, column] for column, suffix in enumerate(suffixes)},
    )


def _index(folder: Path) -> Index:
    """The index of a split, with every shard it names there and no other."""
    path = folder / INDEX
    try:
        index = Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{folder} is not packed (no {INDEX}): run the step `shards`") from None
    except ValidationError as error:
        raise ShardError(f"{path} is not an index of shards ({error.error_count()} faults); {AGAIN}") from None
    named = {entry.name for entry in index.shards}
    there = {path.name for path in folder.glob("*.tar")}
    if named != there or len(named) < len(index.shards):
        faults = [f"{name} is missing" for name in named - there] + [f"{name} is not in it" for name in there - named]
        raise ShardError(f"{path} does not describe its folder: {_named(faults) or 'a shard is named twice'}; {AGAIN}")
    return index


def _samples(
    path: Path, entry: ShardEntry, suffixes: Sequence[str]
) -> Iterator[tuple[str, SampleRecord, dict[str, tuple[int, int]]]]:
    """Key, record and places (suffix -> offset, size) of each sample of a shard that matches its index."""
    if (found := file_sha256(path)) != entry.sha256:
        raise ShardError(
            f"{path} was cut or altered: its SHA-256 is {found[:12]}…, {INDEX} says {entry.sha256[:12]}…; {AGAIN}"
        )
    samples = _scan(path, suffixes)
    if len(samples) != entry.count:
        raise ShardError(f"{path} holds {len(samples)} samples, {INDEX} says {entry.count}; {AGAIN}")
    with path.open("rb") as file:
        for key, members in samples.items():
            if missing := [suffix for suffix in suffixes if suffix not in members]:
                raise ShardError(f"{path}: sample {key!r} lacks its member {_named(missing)}; {AGAIN}")
            offset, size = members[RECORD]
            file.seek(offset)
            yield key, _parse(file.read(size), f"{path}: {key}.{RECORD}"), members


def _scan(path: Path, suffixes: Sequence[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """Key -> suffix -> offset and size, from the tar's headers; no member is opened."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if not member.isreg() or member.issparse() or suffix not in suffixes:
                    allowed = ", ".join(f"<key>.{suffix}" for suffix in suffixes)
                    raise ShardError(f"{path}: member {member.name!r} is none of {allowed} as a plain file; {AGAIN}")
                if suffix in samples.setdefault(key, {}):
                    raise ShardError(f"{path}: member {member.name!r} is there twice; {AGAIN}")
                samples[key][suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ShardError(f"{path} is not a whole tar ({error}); {AGAIN}") from error
    return samples


def _parse(blob: bytes, where: str) -> SampleRecord:
    try:
        return SampleRecord.model_validate(json.loads(blob))
    except ValueError as error:  # not JSON, not UTF-8, or not the fields of a record
        raise ShardError(f"{where} is not the record of a sample ({type(error).__name__}); {AGAIN}") from None


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
