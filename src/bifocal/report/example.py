"""One post of a run, written out so that a person can look at it and try `bifocal predict` on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contracts import Modality
from ..data.manifest import read_manifest
from ..data.shards import Split
from ..workspace import Workspace, atomic


def write_example(space: Workspace, split: Split, modalities: Mapping[str, Modality], row: int) -> dict[str, Any]:
    """Write the parts that are files (pictures, as packed) below ``report/``; others are given back as posted.

    Returns
    -------
    dict
        ``id``, and per modality the file's path within the run folder, or the part itself.
    """
    posted = next(example for example in read_manifest(space.manifest) if example.id == split.ids[row])
    result: dict[str, Any] = {"id": posted.id}
    for name, part in posted.parts.items():
        modality = modalities.get(name)
        if modality is not None and modality.input.is_file:
            path = space.report / f"example.{modality.suffix}"
            with atomic(path, "wb") as f:
                f.write(modality.pack(split.values(name)[row]))
            result[name] = str(path.relative_to(space.folder))
        elif modality is not None:
            # A text on one line, so that it can be pasted; composing does the same.
            result[name] = " ".join(part.split()) if isinstance(part, str) else part
    return result
