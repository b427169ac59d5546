"""Evidence: what an expert says of a split, by one pass of its encoder, cached for everything downstream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..contracts import TokenEncoder
from ..example import Evidence, Label
from ..models.window_rows import COUNTS, by_head, by_held_out_heads, put_rows, take_rows
from ..workspace import atomic, fingerprint
from .token_cache import make_tokens, token_path

if TYPE_CHECKING:
    from ..contracts import Encoder
    from ..data.shards import Split

ENCODED_AT_ONCE = 2048
"""Rows handed to an encoder at a time: enough for batches of texts of like length, few enough to hold their tokens."""
Progress = Callable[[int, int | None], None]
_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


@dataclass(frozen=True, slots=True)
class SharedFeatures:
    """What one pass of an encoder gave, for the heads of several labels.

    Attributes
    ----------
    path : Path
        The cache of the first label, which holds it.
    encoded : callable
        Gives it.
    """

    path: Path
    encoded: Callable[[], dict[str, Tensor]]


def evidence_of(
    encoder: Encoder,
    split: Split,
    modality_name: str,
    label_name: str,
    label: Label,
    path: Path,
    *,
    shared: SharedFeatures | None = None,
    folds: int = 5,
    seed: int = 0,
    keep: bool = True,
    progress: Progress | None = None,
    tokens: bool = False,
) -> Evidence:
    """What the expert says of a split, running the encoder only where the cache does not hold its features yet.

    The expert knows which rows it learned from. There a frozen encoder's features are clean
    and its logits are cross-fitted, so that a fusion may learn from both; a fine-tuned encoder's are marked ``seen``.

    Parameters
    ----------
    path : Path
        The cache, a safetensors file for outside readers too: ``features``, ``logits``, ``present``, ``labels``,
        ``seen``, with the ids and the fingerprints of weights, preprocessing and shards in its metadata. Where the
        head chooses among the windows of long texts, these lie beside (`bifocal.models.window_rows`).
    shared : SharedFeatures, optional
        For a further label, whose cache holds what its head makes of them; None = the features are its own.
    folds, seed : int
        Of the cross-fitting.
    keep : bool
        Write what the cache does not hold yet; without, a reader of a finished run changes nothing in it.
    tokens : bool
        Bring the tokens too, where the encoder has any: cached beside, see `bifocal.fit.token_cache`.

    Returns
    -------
    Evidence
        Of every row of the split; absent parts have zero features and logits.
    """
    features_path = shared.path if shared else path
    found = tokens_of(encoder, split, modality_name, features_path, progress, keep=keep) if tokens else None
    encoded = shared.encoded() if shared else features_of(encoder, split, modality_name, path, progress, keep=keep)
    labels = torch.tensor(split.classes(label_name, label))
    present = torch.tensor(split.present[modality_name], dtype=torch.bool)
    found_by_head = by_head(encoder, encoded)
    deployed = found_by_head["logits"] * present[:, None]
    rows = [i for i, name in enumerate(split.ids) if name in encoder.learned_from]
    seen = torch.zeros(len(split), dtype=torch.bool)
    seen[[] if encoder.frozen else rows] = True
    task = fingerprint(label_name, label.classes, rows, encoder.frozen, folds, seed)
    key = {**_source(encoder, split), "head": _digest({"logits": deployed}), "task": task}
    kept = read_cache(path, key)
    cached = {} if kept is None else kept[0]
    if kept is None:
        features, logits = found_by_head["features"], deployed.clone()
        if encoder.frozen and rows:
            groups = [split.groups[i] for i in rows]
            some = take_rows(encoded, rows)
            held_out = by_held_out_heads(encoder, some, labels[rows], groups, folds=folds, seed=seed)
            features[rows], logits[rows] = held_out["features"], held_out["logits"]
        more = {"features": features, "logits": logits, "present": present, "labels": labels, "seen": seen}
        if shared and COUNTS not in encoded:  # no window is chosen, so that every head has the same features
            more.pop("features")
        cached = more if shared else {**encoded, **more}
        if keep:
            write_cache(path, cached, {**key, "ids": split.ids})
    features = cached.get("features", encoded["features"])
    return Evidence(split.ids, split.groups, features, cached["logits"], present, labels, seen, found)


def tokens_of(
    encoder: Encoder,
    split: Split,
    modality_name: str,
    path: Path,
    progress: Progress | None = None,
    *,
    keep: bool = True,
) -> tuple[Tensor, ...] | None:
    """The tokens of every row, from the cache or by one pass, which fills the cache of features as well.

    None where the encoder has none.
    """
    if not isinstance(encoder, TokenEncoder):
        return None
    encoded: dict[str, Tensor] = {}
    rows = [i for i, here in enumerate(split.present[modality_name]) if here]
    done = 0

    def encode(values: Sequence[Any], tell: Callable[[int], None] | None) -> list[Tensor]:
        nonlocal done
        found, tokens = encoder.encode_tokens(values, tell)
        put_rows(encoded, found, rows[done : done + len(tokens)], len(split))
        done += len(tokens)
        return tokens

    source = _source(encoder, split)
    made = make_tokens(encode, split, modality_name, token_path(path), source, progress, keep=keep)
    if encoded and keep and read_cache(path, source) is None:
        write_cache(path, encoded, source)
    return made


def features_of(
    encoder: Encoder,
    split: Split,
    modality_name: str,
    path: Path,
    progress: Progress | None = None,
    *,
    keep: bool = True,
) -> dict[str, Tensor]:
    """What `Encoder.encode` gives of every row but for the logits, from the cache or by one pass.

    Rows without the part are zero. Where the cache is of other weights, preprocessing or shards, it is begun anew,
    unless not to be kept.
    """
    source = _source(encoder, split)
    kept = read_cache(path, source)
    if kept is not None:
        return {name: t for name, t in kept[0].items() if name not in ("logits", "present", "labels", "seen")}
    rows = [i for i, here in enumerate(split.present[modality_name]) if here]
    encoded: dict[str, Tensor] = {}

    def tell(done: int) -> None:
        if progress:
            progress(start + done, len(rows))

    for start in range(0, max(len(rows), 1), ENCODED_AT_ONCE):
        some = rows[start : start + ENCODED_AT_ONCE]
        put_rows(encoded, encoder.encode(split.take(some).values(modality_name), tell), some, len(split))
    if keep:
        write_cache(path, encoded, source)
    return encoded


def _source(encoder: Encoder, split: Split) -> dict[str, str]:
    return {"encoder": encoder.fingerprint(), "split": split.fingerprint}


def read_cache(path: Path, key: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata of a cache written under this key; None where it is missing, of another key, or damaged."""
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
            if any(metadata.get(name) != value for name, value in key.items()):
                return None
            # Copied, since where a tensor begins in the mapped file decides how some processors round its products.
            tensors = {name: f.get_tensor(name).clone() for name in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return (tensors, metadata) if metadata.get("sha256") == _digest(tensors) else None


def write_cache(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """In the safetensors format, tensor by tensor: the library's `save` first makes a second copy of them all, and its
    `save_file` puts a file of its own in the place of the one that `atomic` syncs."""
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    header: dict[str, Any] = {"__metadata__": {**text, "sha256": _digest(tensors)}}
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # wide ones first: all are aligned
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _DTYPES[tensors[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    blob = json.dumps(header).encode()
    blob += b" " * (-len(blob) % 8)
    with atomic(path, "wb") as f:
        f.write(len(blob).to_bytes(8, "little") + blob)
        for name in order:
            f.write(tensors[name].contiguous().numpy().data)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()
