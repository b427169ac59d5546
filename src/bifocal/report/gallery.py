"""Pictures of the worst errors, small, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

from ..contracts import Modality
from ..data.shards import Split
from ..workspace import Workspace, atomic, write_json

GALLERY = "pictures"
SIDE = 192
"""Pixels of a thumbnail's longer side."""


def write_gallery(space: Workspace, split: Split, modalities: Mapping[str, Modality], ids: Sequence[str]) -> None:
    """Write the pictures of some posts to ``report/pictures/``, and an index of them by id; those of before go.

    Posts without a picture are left out. A picture is that part whose packed form Pillow can open.
    """
    from PIL import Image

    folder = space.report / GALLERY
    for path in folder.glob("*"):
        path.unlink()
    rows = {id: row for row, id in enumerate(split.ids)}
    index: dict[str, str] = {}
    for name, modality in modalities.items():
        if not modality.input.is_file:
            continue
        for id in ids:
            if id in index or not split.present[name][rows[id]]:
                continue
            with Image.open(BytesIO(modality.pack(split.values(name)[rows[id]]))) as picture:
                small = picture.convert("RGB")
                small.thumbnail((SIDE, SIDE))
            index[id] = f"{len(index)}.jpg"
            with atomic(folder / index[id], "wb") as f:
                small.save(f, "JPEG", quality=80)
    write_json(folder / "index.json", index)
