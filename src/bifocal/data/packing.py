"""Writes shards: a run's examples as WebDataset tars, each whole or not there, the same bytes every time."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO

from ..contracts import Modality, Source
from ..errors import DataError, ShardError
from ..example import SPLITS, Example, Taxonomy
from ..scale.pool import Pool, is_portable
from ..scale.threads import in_order
from ..workspace import atomic, file_sha256, write_json
from .samples import ROWS, Members, SamplePacker, give_back, packed_by
from .shards import INDEX, Index, ShardEntry, key_of, taxonomy_key


def pack(
    examples: Iterable[Example],
    source: Source,
    modalities: Mapping[str, Modality],
    *,
    folder: Callable[[str], Path],
    taxonomy: Taxonomy,
    shard_size: int,
    pool: Pool | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write the shards of every split anew; the same examples give the same bytes.

    Files are prepared side by side, so that `Source.open` is called from several threads or processes at once.
    A shard appears under its name when it is complete, a split's index after all of them; the old index goes first.

    Parameters
    ----------
    examples : iterable of Example
        Composed, each with its split and group; consumed once, streaming.
    source : Source
    modalities : mapping of name to Modality
        Every sample holds a member for each, blank where the part is absent.
    folder : callable
        Split -> its folder; all three are cleared of earlier shards.
    taxonomy : Taxonomy
    shard_size : int
        Most examples in a shard.
    pool : Pool, optional
        Prepares files, those of a few examples at a time; what it has finished outlives a killed call, in a folder
        ``.packing`` beside those of the splits, which takes as much room as the shards until these are whole. None =
        threads do.
    progress : callable, optional
        Receives examples done.

    Returns
    -------
    dict
        Split -> number of examples, without splits that got none.

    Raises
    ------
    DataError
        Naming the example whose part cannot be read, or that has no split or group.
    ShardError
        Where two ids lead to one key.
    RunError
        Where the disk is full.
    """
    for split in SPLITS:
        _clear(folder(split))
    work = folder(SPLITS[0]).with_name(".packing")
    writers: dict[str, _Writer] = {}
    done = 0
    with ExitStack() as stack:
        packer = SamplePacker(source, modalities, work)
        for split, members, rows in _packed(_assigned(examples), packer, pool, shard_size):
            if split not in writers:
                writers[split] = stack.enter_context(_Writer(folder(split), shard_size))
            writers[split].write(members, rows)
            done += rows
            if progress:
                progress(done)
    shutil.rmtree(work, ignore_errors=True)
    suffixes = {name: modality.suffix for name, modality in modalities.items()}
    for split, writer in writers.items():
        shards = [ShardEntry(name=p.name, count=n, sha256=file_sha256(p)) for p, n in writer.shards]
        count = sum(entry.count for entry in shards)
        index = Index(taxonomy=taxonomy_key(taxonomy), modalities=suffixes, shards=shards, count=count)
        write_json(folder(split) / INDEX, index.model_dump())
    return {split: sum(n for _, n in writers[split].shards) for split in SPLITS if split in writers}


def _assigned(examples: Iterable[Example]) -> Iterator[Example]:
    """The same, each found to have a split, a group and a key of its own."""
    keys: set[str] = set()
    for example in examples:
        if example.split not in SPLITS or example.group is None:
            raise DataError(
                f"example {example.id!r} has split {example.split!r} and group {example.group!r}; assign both"
            )
        if (key := key_of(example.id)) in keys:
            raise ShardError(f"example {example.id!r} is packed twice (key {key!r}): ids must be unique")
        keys.add(key)
        yield example


def _packed(examples: Iterator[Example], packer: SamplePacker, pool: Pool | None, shard_size: int) -> Iterator[Members]:
    if not packer.reads_files:
        return map(packer.members, examples)
    first = list(islice(examples, 2 * ROWS)) if pool and is_portable(packer) else []
    examples = chain(first, examples)
    if not pool or len(first) < 2 * ROWS:
        return in_order(packer.members, examples)
    return packed_by(pool, packer, examples, shard_size)


def _clear(folder: Path) -> None:
    """Remove what an earlier pack left, the index first: from here on the split is not packed."""
    (folder / INDEX).unlink(missing_ok=True)
    for path in (*folder.glob("shard-*.tar"), *folder.glob(".*.part")):
        path.unlink()
    with suppress(OSError):  # missing, or somebody keeps files of their own there
        folder.rmdir()


class _Writer(ExitStack):
    """The shards of one split, one open at a time."""

    def __init__(self, folder: Path, shard_size: int):
        super().__init__()
        self.folder = folder
        self.shard_size = shard_size
        self.shards: list[tuple[Path, int]] = []

    def write(self, members: bytes, rows: int) -> None:
        if not self.shards or self.shards[-1][1] == self.shard_size:
            self.close()
            give_back()
            path = self.folder / f"shard-{len(self.shards):06d}.tar"
            self._file: IO[bytes] = self.enter_context(atomic(path, "wb"))
            self.callback(self._end)
            self.shards.append((path, 0))
        self._file.write(members)
        path, count = self.shards[-1]
        self.shards[-1] = (path, count + rows)

    def _end(self) -> None:
        """Two empty blocks end a tar, and whole records are written."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.write(bytes(-self._file.tell() % tarfile.RECORDSIZE))
