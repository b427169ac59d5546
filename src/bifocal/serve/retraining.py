"""Writes what people said of decided posts as a folder that the source `feedback` reads: retraining closes the loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, RunError
from ..example import Label, Taxonomy
from ..modalities.text import words_of
from ..sources.feedback import ROWS, TAXONOMY
from ..workspace import Workspace, atomic, read_json, write_json
from .records import VERDICTS

PICTURES = "pictures"
_CLASS_OF = dict(zip(VERDICTS, (0, 1), strict=True))
"""What a verdict says of a binary label: the actions follow it."""


def label_of(folder: Path) -> tuple[str, str, Label]:
    """Name of a run or bundle, and its label; a bundle is loaded for it.

    Raises
    ------
    BifocalError
        Where the folder holds neither.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {str(folder)!r}")
    if (folder / "run.json").is_file():
        space = Workspace.of(folder)
        config = read_json(space.record)["config"]
        return config["run"], config["label"], Taxonomy.from_json(read_json(space.taxonomy))[config["label"]]
    from .. import load

    system = load(folder)
    return system.config.run, system.config.label, system.label


def export(rows: Iterable[Mapping[str, Any]], name: str, label: Label, folder: Path) -> dict[str, Any]:
    """Write rows of `Store.labelled` whose posts are still kept.

    A folder of an earlier export is brought up to date: what the log does not hold any more goes from it too.

    Returns
    -------
    dict
        ``rows``, ``by_class``, ``by_sample``, and of those left out ``without_original`` (nothing was kept, or it was
        purged) and ``without_class`` (a verdict that names no class of a label of several, or an unknown one).

    Raises
    ------
    DataError
        Where the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ROWS).is_file():
        raise DataError(f"{folder} is not empty, and holds no earlier export: name a new folder")
    counts: dict[str, Any] = {"rows": 0, "by_class": {}, "by_sample": {}, "without_original": 0, "without_class": 0}
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    written = set()
    write_json(
        folder / TAXONOMY, Taxonomy({name: Label(label.classes, label.probability, label.description)}).to_json()
    )
    with atomic(folder / ROWS) as f:
        for row in rows:
            value = _class_of(row, label)
            parts = _parts(row)
            if value is None or not parts:
                counts["without_class" if value is None else "without_original"] += 1
                continue
            if row["picture"] is not None:
                path = pictures / f"{row['id']}.png"
                with atomic(path, "wb") as picture:
                    picture.write(row["picture"])
                written.add(path)
                parts["image"] = f"{PICTURES}/{path.name}"
            known = {key: row[key] for key in ("weight", "sample", "by", "from", "said", "judged", "queued", "decided")}
            f.write(json.dumps({"id": row["id"], **parts, "labels": {name: value}, **known}, ensure_ascii=False) + "\n")
            counts["rows"] += 1
            for key, one in (("by_class", str(value)), ("by_sample", row["sample"] or "none")):
                counts[key][one] = counts[key].get(one, 0) + 1
    for path in pictures.iterdir():
        if path not in written:
            path.unlink()
    return counts


def _class_of(row: Mapping[str, Any], label: Label) -> int | str | None:
    """The class that was said, or follows from the action; None where there is none."""
    if row["label"] is not None:
        return {str(name): name for name in label.classes}.get(row["label"])
    return _CLASS_OF.get(row["action"]) if label.binary else None


def _parts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a post; a picture is named by the caller.

    Its own words and those read off its picture were composed into one text, of which a source gives one half: the
    post's own words, as the picture's are read again where there is one; without a picture, both.
    """
    parts: dict[str, Any] = {} if row["tabular"] is None else {"tabular": row["tabular"]}
    if row["picture"] is not None:
        parts["image"] = ""
    if row["text"] is not None:
        transcript, caption = words_of(row["text"])
        if caption and transcript and row["picture"] is None:
            caption = f"{transcript} {caption}"
        parts |= {"text": caption or transcript, "text_role": "caption" if caption else "transcript"}
    return parts
