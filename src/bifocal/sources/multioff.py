"""The MultiOFF layout: three CSV files in ``Split Dataset/`` beside ``Labelled Images/``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ..contracts import TextRole
from ..errors import DataError
from ..example import LABELS, Example, Label, Rejected
from ..files.tables import DelimitedTables

FILES = {
    "Split Dataset/Training_meme_dataset.csv": "train",
    "Split Dataset/Validation_meme_dataset.csv": "val",
    "Split Dataset/Testing_meme_dataset.csv": "test",
}
NAMES = {"Non-offensiv": 0, "Non-offensive": 0, "offensive": 1}
"""Published without the last letter."""
COLUMNS = ("image_name", "sentence", "label")


class Multioff(DelimitedTables):
    """Memes on the US election of 2016, as published by Suryawanshi et al. 2020 (Multimodal Meme Dataset (MultiOFF) for
    Identifying Offensive Content in Image and Text, TRAC, aclanthology.org/2020.trac-1.6), with their official splits.

    The one label is ``offensive``; of hate and targets the set says nothing. Three of its 743 rows name pictures that
    the published archive lacks. Folders, columns and label names are as public code and catalogues give them; the
    archive itself was not at hand.

    Attributes
    ----------
    root : Path
        The folder ``MultiOFF_Dataset``, or it in an archive (``MultiOFF_Dataset.zip/MultiOFF_Dataset``).
    text_role : "transcript" or "caption"
        ``transcript``: what stands in the picture.
    """

    expected: ClassVar[str] = f"at least one of {', '.join(FILES)}, and Labelled Images/"

    text_role: TextRole = "transcript"

    def labels(self) -> Mapping[str, Label]:
        return {"offensive": LABELS["offensive"]}

    def listed(self) -> list[str]:
        return [name for name in FILES if self.files.has(name)]

    def rows(self) -> Iterator[Example | Rejected]:
        for name in self.listed():
            for where, row in self.read(name):
                yield row if isinstance(row, Rejected) else _example(row, where, FILES[name])


def _example(row: dict[str, Any], where: str, split: str) -> Example | Rejected:
    if lacking := [column for column in COLUMNS if column not in row]:
        return Rejected(None, where, f"no column {lacking[0]}; columns: {', '.join(row)}", row)
    picture, text, label = (row[column] for column in COLUMNS)
    if not picture:
        return Rejected(None, where, "no image_name (the picture's file name)", row)
    try:
        Label(tuple(NAMES)).check(label)
    except DataError as error:
        return Rejected(picture, where, str(error), row)
    reference = f"Labelled Images/{picture}"
    return Example(
        id=picture,
        parts={"text": text, "image": reference} if text else {"image": reference},
        labels={"offensive": NAMES.get(label)},
        split=split,
    )
