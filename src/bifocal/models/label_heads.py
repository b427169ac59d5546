"""The heads of further labels in the folder of an expert: ``<label>.weight [C, d]`` and ``<label>.bias [C]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import ModelError
from .linear import LinearHead
from .saved import RESTORE

HEADS = "heads.safetensors"


def write_heads(folder: Path, heads: Mapping[str, LinearHead]) -> None:
    """Write the heads of further labels, by label; what a tensor's name cannot hold is percent-escaped."""
    tensors: dict[str, Tensor] = {}
    for label, head in heads.items():
        name = quote(label, safe="")
        tensors |= {f"{name}.weight": head.weight.contiguous(), f"{name}.bias": head.bias.contiguous()}
    save_file(tensors, folder / HEADS)


def read_head(folder: Path, label: str, like: LinearHead, penalty: float) -> LinearHead:
    """The head of a further label. Raises `ModelError` where it is missing, or of another shape than ``like``."""
    try:
        tensors = load_file(folder / HEADS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / HEADS} cannot be read ({error}): {RESTORE}") from None
    weight, bias = (tensors.get(f"{quote(label, safe='')}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or (weight.shape, bias.shape) != (like.weight.shape, like.bias.shape):
        found = "none" if weight is None else list(weight.shape)
        raise ModelError(
            f"{folder / HEADS}: label {label!r} needs a weight {list(like.weight.shape)}, found {found}: {RESTORE}"
        )
    return LinearHead(weight, bias, penalty)
