"""The folder of a saved expert: written whole or not at all, and sealed by the SHA-256 of every file in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelError, RunError
from ..workspace import file_sha256, read_json, replaced, write_json

CARD = "bifocal.json"
RESTORE = "restore it, or train the expert again (`bifocal run CONFIG --from experts`)"


@contextmanager
def sealed(folder: Path, card: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder to write into; it takes its name, and its ``bifocal.json``, once the block ends well.

    Parameters
    ----------
    folder : Path
        What stood there before is replaced.
    card : mapping
        What the expert is, with its plug-in under ``encoder``; the hashes are added under ``sha256``.
    """
    with replaced(folder) as part:
        yield part
        hashes = {p.name: file_sha256(p) for p in sorted(part.iterdir())}
        write_json(part / CARD, {**card, "sha256": hashes})


def read_card(folder: Path) -> dict[str, Any]:
    """The ``bifocal.json`` of an expert. Raises `ModelError` where there is none."""
    try:
        card: dict[str, Any] = read_json(folder / CARD)
    except RunError:
        raise ModelError(
            f"{folder} holds no readable {CARD}, so it is no expert saved by Bifocal: name an expert's folder, "
            "or train it again (`bifocal run CONFIG --from experts`)"
        ) from None
    return card


def check_seal(folder: Path, card: Mapping[str, Any]) -> None:
    """Raise `ModelError` where a file of the expert is missing or altered: a flipped byte loads without a word."""
    for name, expected in card["sha256"].items():
        path = folder / Path(name).name  # an expert's folder is flat; whatever else a card names is missing
        found = file_sha256(path) if path.is_file() else None
        if found != expected:
            fault = "was altered since it was saved (its SHA-256 differs)" if found else "is missing"
            raise ModelError(f"{path} {fault}: {RESTORE}")
