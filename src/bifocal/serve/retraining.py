"""Writes what people said of decided posts as a folder that the source `feedback` reads: retraining closes the loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config import recorded_config
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


def labels_of(folder: Path) -> tuple[str, dict[str, Label]]:
    """Name of a run or bundle, and its labels, the first one first.

    Raises
    ------
    BifocalError
        Where the folder holds neither.
    """
    if not is_bundle(run_or_bundle(folder)):
        space = Workspace.of(folder)
        config = recorded_config(read_json(space.record)["config"], where=str(space.record))
        taxonomy = Taxonomy.from_json(read_json(space.taxonomy))
        return config.run, {name: taxonomy[name] for name in config.label_names}
    check_manifest(folder)
    card = read_json(folder / CARD)
    first = {card["config"]["label"]: card["label"]}
    return card["config"]["run"], Taxonomy.from_json(first | card.get("labels", {})).labels


def export(rows: Iterable[Mapping[str, Any]], labels: Mapping[str, Label], folder: Path) -> dict[str, Any]:
    """Write rows of `DecisionStore.labelled` whose posts are still kept, by the log or by an export into this folder.

    A folder of an earlier export is replaced, whole or not at all. A post that was purged from the log meanwhile stays
    in it, with what is said of it now; one whose decision was forgotten, or of which nothing is said any more, goes.

    Returns
    -------
    dict
        ``rows``, ``by_class`` (of the first label), ``by_sample``; of several labels ``by_label``: rows of which it is
        said; ``kept``: of the rows those whose post only the earlier export had;
        ``gone``: of the earlier export those that are in it no more; and of those left out ``without_original``
        (nothing was kept, or it was purged before it was ever exported) and ``without_class`` (a verdict that names no
        class, of a label of several classes, or unknown ones alone).

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
    counts |= {"by_label": dict.fromkeys(labels, 0)} if len(labels) > 1 else {}
    taxonomy = Taxonomy({name: Label(of.classes, of.probability, of.description) for name, of in labels.items()})
    with replaced(folder) as part:
        (part / PICTURES).mkdir()
        write_json(part / TAXONOMY, taxonomy.to_json())
        with atomic(part / ROWS) as f:
            for row in rows:
                classes, earlier = _classes_of(row, labels), before.get(row["id"])
                named = [name for name, value in classes.items() if value is not None]
                parts, picture = _parts(row), row["picture"]
                purged = not parts
                if purged and earlier is not None:
                    parts, picture = _kept(earlier, folder)
                if not named or not parts:
                    counts["without_original" if named else "without_class"] += 1
                    continue
                if picture is not None:
                    parts[PICTURE] = f"{PICTURES}/{row['id']}.png"
                    with atomic(part / parts[PICTURE], "wb") as image:
                        image.write(picture)
                known = {k: row[k] for k in ("weight", "sample", "by", "from", "said", "judged", "queued", "decided")}
                line = {"id": row["id"], **parts, "labels": classes, **known}
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts["rows"] += 1
                counts["kept"] += purged
                counts["gone"] -= earlier is not None
                first = next(iter(classes.values()))
                tallied = [("by_class", str(first))] if first is not None else []
                tallied += [("by_sample", row["sample"] or "none")]
                tallied += [("by_label", name) for name in named] if len(labels) > 1 else []
                for key, one in tallied:
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


def _classes_of(row: Mapping[str, Any], labels: Mapping[str, Label]) -> dict[str, int | str | None]:
    """By each label the class that was said, and by the first one that which follows from the action; else None.

    That a post is to be blocked says nothing of the first label where another one may be why.
    """
    first, said = next(iter(labels)), dict(row["labels"])
    if row["label"] is not None:
        said.setdefault(first, row["label"])
    classes = {n: {str(one): one for one in of.classes}.get(said.get(n, "")) for n, of in labels.items()}
    if first not in said and labels[first].binary:
        others = set(row.get("acting", ())) - {first}
        classes[first] = None if others and row["action"] == "block" else _CLASS_OF.get(row["action"])
    return classes


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
