"""Whether an ONNX model keeps its weights in other files, found without opening any of them, and without onnx."""

from __future__ import annotations

import mmap
from pathlib import Path

from ..errors import ModelError

_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message of onnx.proto -> field -> the message in it, on the way to tensors."""
_EXTERNAL_DATA = 13
"""The field of a tensor that names the file where its values lie."""
_FIXED = {1: 8, 5: 4}
"""Wire type -> bytes."""
_LONGEST = 63
"""Bits by which the last byte of a number is shifted, at most."""


def check_whole(path: Path) -> None:
    """Refuse a model that names other files: by its version, ONNX Runtime opens whichever they are.

    Raises
    ------
    ModelError
        There, and where the file is no model.
    """
    try:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            elsewhere = _elsewhere(content, 0, len(content), "model")
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} is no model that ONNX Runtime reads: {error}") from None
    if elsewhere:
        raise ModelError(f"{path} keeps weights in other files, which an exported model does not: export it again")


def _elsewhere(content: mmap.mmap, at: int, end: int, kind: str) -> bool:
    """Whether a tensor in a message of this kind lies in another file."""
    while at < end:
        tag, at = _number(content, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            at = _number(content, at)[1]
        elif wire in _FIXED:
            at += _FIXED[wire]
        elif wire == 2:
            size, at = _number(content, at)
            if kind == "tensor" and field == _EXTERNAL_DATA:
                return True
            part = _PARTS[kind].get(field)
            if part is not None and _elsewhere(content, at, at + size, part):
                return True
            at += size
        else:
            raise ValueError(f"a field of wire type {wire}")
    return False


def _number(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of the wire format, and where it ends."""
    value = shift = 0
    while shift <= _LONGEST:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
