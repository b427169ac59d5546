"""Writes what people said of decided posts as a folder that the source `feedback` reads: retraining closes the loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, listed
from ..example import Label, Taxonomy
from ..modalities import PARTS, PICTURE, TEXT, inputs
from ..modalities.text import words_of
from ..sources.feedback import ROWS, TAXONOMY
from ..system.bundle import CARD, check_manifest, is_bundle, run_or_bundle
from ..workspace import Workspace, atomic, read_json, read_jsonl, remove_leftovers, replaced, write_json
from .log.records import VERDICTS

PICTURES = "pictures"
_CLASS_OF = dict(zip(VERDICTS, (0, 1), strict=True))
"""What a verdict says of a binary label: the actions follow it."""


def label_of(folder: Path) -> tuple[str, str, Label]:
    """Name of a run or bundle, and its label.

    Raises
    ------
    BifocalError
        Where the folder holds neither.
    """
    if not is_bundle(run_or_bundle(folder)):
        space = Workspace.of(folder)
        config = read_json(space.record)["config"]
        return config["run"], config["label"], Taxonomy.from_json(read_json(space.taxonomy))[config["label"]]
    check_manifest(folder)
    card = read_json(folder / CARD)
    config = card["config"]
    return config["run"], config["label"], Taxonomy.from_json({config["label"]: card["label"]})[config["label"]]


def export(rows: Iterable[Mapping[str, Any]], name: str, label: Label, folder: Path) -> dict[str, Any]:
    """Write rows of `DecisionStore.labelled` whose posts are still kept, by the log or by an export into this folder.

    A folder of an earlier export is replaced, whole or not at all. A post that was purged from the log meanwhile stays
    in it, with what is said of it now; one whose decision was forgotten, or of which nothing is said any more, goes.

    Returns
    -------
    dict
        ``rows``, ``by_class``, ``by_sample``; ``kept``: of the rows those whose post only the earlier export had;
        ``gone``: of the earlier export those that are in it no more; and of those left out ``without_original``
        (nothing was kept, or it was purged before it was ever exported) and ``without_class`` (a verdict that names no
        class of a label of several, or an unknown one).

    Raises
    ------
    DataError
        Where the folder holds something else.
    """
    folder = folder.resolve()  # a link stays one
    remove_leftovers(folder.parent, folder.name)
    before = _exported(folder)
    counts: dict[str, Any] = {"rows": 0, "by_class": {}, "by_sample": {}, "kept": 0, "gone": len(before)}
    counts |= {"without_original": 0, "without_class": 0}
    taxonomy = Taxonomy({name: Label(label.classes, label.probability, label.description)})
    with replaced(folder) as part:
        (part / PICTURES).mkdir()
        write_json(part / TAXONOMY, taxonomy.to_json())
        with atomic(part / ROWS) as f:
            for row in rows:
                value, earlier = _class_of(row, label), before.get(row["id"])
                parts, picture = _parts(row), row["picture"]
                purged = not parts
                if purged and earlier is not None:
                    parts, picture = _kept(earlier, folder)
                if value is None or not parts:
                    counts["without_class" if value is None else "without_original"] += 1
                    continue
                if picture is not None:
                    parts[PICTURE] = f"{PICTURES}/{row['id']}.png"
                    with atomic(part / parts[PICTURE], "wb") as image:
                        image.write(picture)
                known = {k: row[k] for k in ("weight", "sample", "by", "from", "said", "judged", "queued", "decided")}
                line = {"id": row["id"], **parts, "labels": {name: value}, **known}
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts["rows"] += 1
                counts["kept"] += purged
                counts["gone"] -= earlier is not None
                for key, one in (("by_class", str(value)), ("by_sample", row["sample"] or "none")):
                    counts[key][one] = counts[key].get(one, 0) + 1
    return counts


def _exported(folder: Path) -> dict[str, dict[str, Any]]:
    """Decision -> its row of an earlier export. Raises `DataError` where the folder is none of an export."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    if not (folder / ROWS).is_file():
        raise DataError(f"{folder} is not empty, and holds no earlier export: name a new folder")
    remove_leftovers(folder)
    if others := sorted({path.name for path in folder.iterdir()} - {ROWS, TAXONOMY, PICTURES}):
        raise DataError(
            f"{folder} holds more than an earlier export, which is replaced whole: move {listed(others)} elsewhere, or "
            "name a new folder"
        )
    try:
        return {row["id"]: row for row in read_jsonl(folder / ROWS)}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / ROWS} is not as it was exported ({error}): name a new folder") from None


def _kept(row: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], bytes | None]:
    """Parts and picture of a post in an earlier export; none where its picture was taken away."""
    parts = {part: row[part] for part in (*inputs(), "text_role", PARTS) if part in row}
    if PICTURE not in parts:
        return parts, None
    path = folder / PICTURES / f"{row['id']}.png"
    return (parts, path.read_bytes()) if path.is_file() else ({}, None)


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
    kept = {name: row.get(one.kept_as) for name, one in inputs().items()}
    parts: dict[str, Any] = {name: part for name, part in kept.items() if part is not None}
    if row.get(PARTS):
        parts[PARTS] = row[PARTS]
    if PICTURE in parts:
        parts[PICTURE] = ""
    if TEXT in parts:
        transcript, caption = words_of(parts[TEXT])
        if caption and transcript and PICTURE not in parts:
            caption = f"{transcript} {caption}"
        parts |= {TEXT: caption or transcript, "text_role": "caption" if caption else "transcript"}
    return parts
