"""The cache of tokens: as many hidden states of each row as it has words or patches, written row by row and mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..workspace import atomic

if TYPE_CHECKING:
    from ..data.shards import Split

AT_ONCE = 256
"""Rows encoded at a time: their tokens are held until they are written."""
HEADER = 4096
"""Bytes kept free for a header that is known last."""
Encode = Callable[[Sequence[Any], Callable[[int], None] | None], list[Tensor]]
"""Values, and who is told of their number -> the tokens ``[L, d]`` of each."""
Add = Callable[[Sequence[Tensor]], None]


def token_path(path: Path) -> Path:
    """Where the tokens lie that belong to a cache of features."""
    return path.with_suffix(".tokens.safetensors")


def make_tokens(
    encode: Encode,
    split: Split,
    modality_name: str,
    path: Path,
    key: Mapping[str, str],
    progress: Callable[[int, int | None], None] | None = None,
    *,
    keep: bool = True,
) -> tuple[Tensor, ...]:
    """The tokens ``[L, d]`` of every row of a split, none where the part is absent: from the cache, or made now.

    Parameters
    ----------
    encode : callable
        Runs the encoder.
    key : mapping
        What they depend on; a cache of another key is written anew.
    keep : bool
        Write what the cache does not hold yet.
    """
    if (cached := read_tokens(path, key)) is not None:
        return cached
    rows = [i for i, here in enumerate(split.present[modality_name]) if here]

    def chunks() -> Iterator[list[Tensor]]:
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]

            def tell(done: int, start: int = start) -> None:
                if progress:
                    progress(start + done, len(rows))

            yield encode(split.take(some).values(modality_name), tell)

    if keep:
        with written_tokens(path, key, rows, len(split)) as add:
            for made in chunks():
                add(made)
        found = read_tokens(path, key)
        assert found is not None  # it was written just now
        return found
    return spread([tokens for made in chunks() for tokens in made], rows, len(split))


def spread(tokens: Sequence[Tensor], rows: Sequence[int], n: int) -> tuple[Tensor, ...]:
    """Tokens of some of n rows, and of each other row none."""
    whole = [torch.zeros(0, tokens[0].shape[1] if tokens else 0)] * n
    for row, found in zip(rows, tokens, strict=True):
        whole[row] = found
    return tuple(whole)


def read_tokens(path: Path, key: Mapping[str, str]) -> tuple[Tensor, ...] | None:
    """Views ``[L, d]`` of the mapped file, one per row; None where it is missing, of another key, or damaged."""
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            if any(metadata.get(name) != value for name, value in key.items()):
                return None
            states, lengths = f.get_tensor("tokens"), f.get_tensor("lengths")
    except (OSError, SafetensorError):
        return None
    if metadata.get("sha256") != hashlib.sha256(states.numpy().data).hexdigest():
        return None
    return states.split(lengths.tolist())


@contextmanager
def written_tokens(path: Path, key: Mapping[str, str], rows: Sequence[int], n: int) -> Iterator[Add]:
    """Write tokens as they come: what is yielded takes those of the next of ``rows``, which are some of n.

    The file, in the safetensors format, holds ``tokens [sum of L, d]`` float32 and ``lengths [n]`` int32; it appears
    once it is whole.
    """
    lengths, digest, width, done = torch.zeros(n, dtype=torch.int32), hashlib.sha256(), 0, 0
    with atomic(path, "wb") as f:
        f.write(b" " * HEADER)

        def add(tokens: Sequence[Tensor]) -> None:
            nonlocal width, done
            for found in tokens:
                blob = found.contiguous().numpy().data
                f.write(blob)
                digest.update(blob)
                lengths[rows[done]] = len(found)
                done, width = done + 1, found.shape[1]

        yield add
        f.write(lengths.numpy().data)
        total = int(lengths.sum())
        end = total * width * 4
        header = {
            "__metadata__": {**key, "sha256": digest.hexdigest()},
            "tokens": {"dtype": "F32", "shape": [total, width], "data_offsets": [0, end]},
            "lengths": {"dtype": "I32", "shape": [n], "data_offsets": [end, end + n * 4]},
        }
        f.seek(0)
        f.write((HEADER - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(HEADER - 8))
