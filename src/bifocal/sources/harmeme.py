"""The HarMeme layout: ``{train,val,test}.jsonl`` in folders of annotations, the pictures in folders of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from ..contracts import TextRole
from ..errors import DataError
from ..example import LABELS, SPLITS, Example, Label, Rejected
from ..files.names import Names
from ..files.tables import EncodedTables

HARM = ("not harmful", "somewhat harmful", "very harmful")
TARGETS = LABELS["target_type"].classes


class Harmeme(EncodedTables):
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
    text_role : "transcript" or "caption"
        ``transcript``: what stands in the picture.
    """

    expected: ClassVar[str] = (
        "train.jsonl, val.jsonl or test.jsonl (Harm-P: train_v1.jsonl, …) in any folder, such as annotations/, and the "
        "pictures below the same root"
    )

    seeks: ClassVar[bool] = True

    text_role: TextRole = "transcript"

    def labels(self) -> Mapping[str, Label]:
        return {
            "abuse_hate": LABELS["abuse_hate"],
            "target_type": LABELS["target_type"],
            "harm": Label(HARM, "prob", "How harmful, in three degrees."),
        }

    def listed(self) -> list[str]:
        names = self.files.names()
        return [name for split in SPLITS for name in names if _split(name) == split]

    def rows(self) -> Iterator[Example | Rejected]:
        places = {PurePosixPath(name).name: name for name in reversed(self.files.names())}
        names = Names(lambda folder: {} if folder else places, lambda name: True)

        def place_of(picture: str) -> str:
            found = [places[picture]] if picture in places else names.alike(picture)
            return found[0] if len(found) == 1 else f"images/{picture}"

        for name in self.listed():
            for where, row in self.read(name):
                yield row if isinstance(row, Rejected) else _example(row, where, _split(name), place_of)


def _split(name: str) -> str | None:
    """The split that a file of annotations is; None for any other file."""
    stem, suffix = PurePosixPath(name).stem.removesuffix("_v1"), PurePosixPath(name).suffix
    return stem if suffix == ".jsonl" and stem in SPLITS else None


def _example(row: dict[str, Any], where: str, split: str | None, place_of: Callable[[str], str]) -> Example | Rejected:
    name, picture, text = row.get("id"), row.get("image"), row.get("text")
    if not isinstance(name, str) or not name:
        return Rejected(None, where, "no id (a text)", row)
    if not isinstance(picture, str) or not picture:
        return Rejected(name, where, "no image (the picture's file name)", row)
    try:
        harm, target = _harm(row.get("labels"))
    except DataError as error:
        return Rejected(name, where, str(error), row)
    reference = place_of(picture)
    return Example(
        id=name,
        parts={"image": reference} if text in (None, "", "null") else {"text": text, "image": reference},
        labels={
            "abuse_hate": None if harm is None else int(harm != HARM[0]),
            "target_type": target,
            "harm": harm,
        },
        split=split,
        meta={"labels": row.get("labels")},
    )


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
