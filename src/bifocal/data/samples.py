"""Examples as the members of a tar, also in units of some rows, by workers that open the files themselves."""

from __future__ import annotations

import ctypes
import hashlib
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

from .. import __version__
from ..contracts import Modality, Source
from ..errors import DataError
from ..example import Example
from ..scale.pool import Pool, Unit, Worker, receipts
from ..scale.threads import in_order
from .file_stamps import stamp_of
from .shards import RECORD, SampleRecord, key_of

ROWS = 128
"""Most of a unit, which also ends where a shard does."""


class Members(NamedTuple):
    """Rows of a split that follow one another, as they stand in a shard."""

    split: str
    blob: bytes
    rows: int


@dataclass(frozen=True)
class SamplePacker:
    """Makes members of examples; makes the workers that do it, which find their examples in a folder."""

    source: Source
    modalities: Mapping[str, Modality]
    folder: Path | None = None

    @cached_property
    def blanks(self) -> dict[str, bytes]:
        return {name: modality.pack(modality.blank()) for name, modality in self.modalities.items()}

    @property
    def reads_files(self) -> bool:
        return any(modality.input.is_file for modality in self.modalities.values())

    def members(self, example: Example) -> Members:
        """The parts and the record of an example that has a split and a group. Raises `DataError` naming it."""
        sample: dict[str, bytes] = {}
        present = {name: name in example.parts for name in self.modalities}
        for name, modality in self.modalities.items():
            if not present[name]:
                sample[modality.suffix] = self.blanks[name]
                continue
            raw = example.parts[name]
            try:
                value = modality.read(self.source.open(raw) if modality.input.is_file else raw)
                sample[modality.suffix] = modality.pack(value)
            except DataError as error:
                raise DataError(f"example {example.id!r}, {name}: {error}; run the step `manifest` again") from error
        record = SampleRecord(
            id=example.id, labels=example.labels, group=str(example.group), present=present, meta=example.meta
        )
        sample[RECORD] = json.dumps(record.model_dump()).encode()
        return Members(str(example.split), members_of(key_of(example.id), sample), 1)

    def key(self) -> str:
        """Changes with what members depend on, beside their examples."""
        modalities = {name: hashlib.sha256(pickle.dumps(of)).hexdigest() for name, of in self.modalities.items()}
        return json.dumps([__version__, repr(self.source), modalities])

    def stamps(self, example: Example) -> list[object]:
        """What the files of an example are: others where one was replaced."""
        files = [name for name, of in self.modalities.items() if of.input.is_file and name in example.parts]
        return [stamp_of(self.source, example.parts[name]) for name in files]

    def __call__(self, threads: int) -> Worker:
        def work(task: Mapping[str, Any], file: IO[bytes]) -> tuple[int, int]:
            assert self.folder is not None
            give_back()
            rows = 0
            with (self.folder / task["examples"]).open(encoding="utf-8") as lines:
                examples = (Example.from_json(json.loads(line)) for line in lines)
                for members in map(self.members, examples) if threads == 1 else in_order(self.members, examples):
                    file.write(members.blob)
                    rows += 1
            return rows, 0

        return work


def packed_by(pool: Pool, packer: SamplePacker, examples: Iterable[Example], shard_size: int) -> Iterator[Members]:
    """The members of all examples by the workers of a pool, of each split in its order, none across two shards."""
    assert packer.folder is not None
    for receipt in receipts(pool, packer, _units(packer, packer.folder, examples, shard_size), packer.folder):
        blob = (packer.folder / receipt.name).read_bytes()
        yield Members(receipt.name.partition("-")[0], blob, receipt.rows)


def _units(packer: SamplePacker, folder: Path, examples: Iterable[Example], shard_size: int) -> Iterator[Unit]:
    key = packer.key()
    waiting: dict[str, list[str]] = {}
    stamps: dict[str, list[object]] = {}
    counts: Counter[str] = Counter()
    units: Counter[str] = Counter()

    def unit(split: str) -> Unit:
        name = f"{split}-{units[split]:06d}"
        units[split] += 1
        content = "".join(waiting.pop(split)).encode()
        (folder / f"{name}.jsonl").write_bytes(content)
        made_of = json.dumps([key, hashlib.sha256(content).hexdigest(), stamps.pop(split)])
        return Unit(f"{name}.members", {"examples": f"{name}.jsonl"}, hashlib.sha256(made_of.encode()).hexdigest())

    for example in examples:
        split = str(example.split)
        waiting.setdefault(split, []).append(json.dumps(example.to_json()) + "\n")
        stamps.setdefault(split, []).append(packer.stamps(example))
        counts[split] += 1
        if len(waiting[split]) == ROWS or counts[split] % shard_size == 0:
            yield unit(split)
    for split in list(waiting):
        yield unit(split)


def members_of(key: str, sample: Mapping[str, bytes]) -> bytes:
    """The members of one sample, by suffix, as they stand in a tar."""
    parts: list[bytes] = []
    for suffix in sorted(sample):
        blob = sample[suffix]
        parts += _header(f"{key}.{suffix}".encode(), len(blob)), blob, bytes(-len(blob) % tarfile.BLOCKSIZE)
    return b"".join(parts)


def _template() -> bytes:
    member = tarfile.TarInfo()
    member.mode, member.uname, member.gname = 0o444, "bigdata", "bigdata"  # as webdataset writes them
    return member.tobuf(tarfile.USTAR_FORMAT)


_TEMPLATE = _template()
_SUM = sum(_TEMPLATE[:148]) + 8 * ord(" ") + sum(_TEMPLATE[156:])


def _header(name: bytes, size: int) -> bytes:
    """What `tarfile` writes before a member, ten times as fast: only name and size differ from one to the next.

    Fields of a ustar header (POSIX.1-1988): the name at 0, the size in octal at 124, at 148 the sum of all bytes, with
    the sum itself taken for spaces.
    """
    length = b"%011o" % size
    total = _SUM + sum(name) + sum(length) - 11 * ord("0")
    return b"".join((name, _TEMPLATE[len(name) : 124], length, _TEMPLATE[135:148], b"%06o\0 " % total, _TEMPLATE[156:]))


def give_back() -> None:
    """Hand freed memory back to the system: glibc keeps the holes that buffers of all sizes leave, 16 KB a picture."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
