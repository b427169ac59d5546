"""The MultiOFF layout: three CSV files in ``Split Dataset/`` beside ``Labelled Images/``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..example import LABELS, Label
from ..files.layouts import LabelColumn, Layout, Row
from ..files.tables import DelimitedTables

FILES = {
    "Split Dataset/Training_meme_dataset.csv": "train",
    "Split Dataset/Validation_meme_dataset.csv": "val",
    "Split Dataset/Testing_meme_dataset.csv": "test",
}
COLUMNS = ("image_name", "sentence", "label")


class Multioff(Layout, DelimitedTables):
    """Memes on the US election of 2016, as published by Suryawanshi et al. 2020 (Multimodal Meme Dataset (MultiOFF) for
    Identifying Offensive Content in Image and Text, TRAC, aclanthology.org/2020.trac-1.6), with their official splits.

    The one label is ``offensive``; of hate and targets the set says nothing. Three of its 743 rows name pictures that
    the published archive lacks. Folders, columns and label names are as public code and catalogues give them; the
    archive itself was not at hand.

    Attributes
    ----------
    root : Path
        The folder ``MultiOFF_Dataset``, or it in an archive (``MultiOFF_Dataset.zip/MultiOFF_Dataset``).
    """

    expected: ClassVar[str] = f"at least one of {', '.join(FILES)}, and Labelled Images/"
    taxonomy: ClassVar[Mapping[str, Label]] = {"offensive": LABELS["offensive"]}
    tables: ClassVar[Mapping[str, str | None]] = FILES
    id_column = "image_name"
    required = COLUMNS
    text_columns = ("sentence",)
    # Published without the last letter.
    label_columns: ClassVar[Mapping[str, LabelColumn]] = {
        "offensive": LabelColumn("label", {"Non-offensiv": 0, "Non-offensive": 0, "offensive": 1})
    }

    def picture_of(self, row: Row, name: str) -> str:
        return f"Labelled Images/{row['image_name']}"
