"""The HarMeme layout: ``{train,val,test}.jsonl`` in folders of annotations, the pictures in folders of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import DataError
from ..example import LABELS, SPLITS, Label, LabelValue
from ..files.layouts import Layout, Row

HARM = ("not harmful", "somewhat harmful", "very harmful")
TARGETS = LABELS["target_type"].classes


class Harmeme(Layout):
    """Memes on COVID-19 (Harm-C) and US politics (Harm-P), as published by Pramanick et al. 2021 (Detecting Harmful
    Memes and Their Targets, arXiv:2110.00413; MOMENTA, arXiv:2109.05184), with their official splits.

    ``harm`` is the degree as it is. ``abuse_hate`` is 1 where a meme is somewhat or very harmful: the authors' harm is
    wider than hate (memes "targeted to abuse various social entities"), which is why the degree is kept beside it.
    ``target_type`` is ``none`` where a meme is not harmful, null where it is harmful and has no target or several;
    ``meta["labels"]`` keeps the labels as they stand. The text ``null``, as some rows have it, is no text.

    Read are all files ``{train,val,test}.jsonl`` (Harm-P of the corrected release: ``…_v1.jsonl``) anywhere below the
    root, a picture by its file name anywhere below it: releases differ in their folders (``Annotations/Harm-C/`` and
    ``HarMeme_Images/…``, or ``annotations/`` beside ``images/``). The authors call their first Harm-P obsolete, for its
    duplicates. Fields and names are verified on the val files of both; not verified: any other names that the first
    release may have for Harm-P's targets. A name that is not known is refused.

    Attributes
    ----------
    root : Path
        A folder or archive with Harm-C, Harm-P or both.
    """

    expected: ClassVar[str] = (
        "train.jsonl, val.jsonl or test.jsonl (Harm-P: train_v1.jsonl, …) in any folder, such as annotations/, and the "
        "pictures below the same root"
    )
    seeks: ClassVar[bool] = True
    taxonomy: ClassVar[Mapping[str, Label]] = {
        "abuse_hate": LABELS["abuse_hate"],
        "target_type": LABELS["target_type"],
        "harm": Label(HARM, "prob", "How harmful, in three degrees."),
    }
    tables: ClassVar[Mapping[str, str | None]] = {f"{split}.jsonl": split for split in SPLITS}
    anywhere = True
    id_column = "id"
    text_columns = ("text",)

    def table_of(self, name: str) -> str:
        return super().table_of(name).replace("_v1.jsonl", ".jsonl")

    def picture_of(self, row: Row, name: str) -> str:
        picture = row.get("image")
        if not isinstance(picture, str) or not picture:
            raise DataError("no image (the picture's file name)")
        return self.files.in_any_folder(picture) or f"images/{picture}"

    def text_of(self, row: Row) -> Any:
        return None if row.get("text") == "null" else super().text_of(row)

    def labels_of(self, row: Row) -> dict[str, LabelValue]:
        harm, target = _harm(row.get("labels"))
        hate = None if harm is None else int(harm != HARM[0])
        return {"abuse_hate": hate, "target_type": target, "harm": harm}

    def meta_of(self, row: Row) -> dict[str, Any]:
        return {"labels": row.get("labels")}


def _harm(labels: Any) -> tuple[str | None, str | None]:
    """Degree and target, from a list of one degree and any number of targets; both None where it is missing."""
    if labels is None or labels == []:
        return None, None
    known = isinstance(labels, list) and all(label in (*HARM, *TARGETS[1:]) for label in labels)
    degrees = [label for label in labels if label in HARM] if known else []
    targets = [label for label in labels if label in TARGETS] if known else []
    if len(degrees) != 1 or (targets and degrees == [HARM[0]]):
        raise DataError(
            f"labels = {labels!r}; allowed: one of {', '.join(map(repr, HARM))}, and with the latter two who is "
            f"targeted: {', '.join(map(repr, TARGETS[1:]))}"
        )
    if degrees == [HARM[0]]:
        return HARM[0], "none"
    return degrees[0], targets[0] if len(targets) == 1 else None
