"""The Memotion 7k layout: ``labels.csv`` beside ``images/``, and the test set's two CSV files beside ``2000_data/``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from ..errors import DataError
from ..example import LABELS, Label, Rejected
from ..files.delimited import Read
from ..files.layouts import LabelColumn, Layout, Row
from ..files.tables import DelimitedTables

TRAIN, TEST, TRUTH = "labels.csv", "2000_testdata.csv", "Meme_groundTruth.csv"
PICTURES = {TRAIN: ("images",), TEST: ("2000_data", "2000_data/2000_data")}
"""The folders beside a file in which its pictures may lie."""
TEST_COLUMNS = {"Image_name": "image_name", "OCR_extracted_text": "text_ocr", "corrected_text": "text_corrected"}
"""What the columns of the test set are called in ``labels.csv``."""
DEGREES = ("not_offensive", "slight", "very_offensive", "hateful_offensive")
"""How offensive a meme is, in the order of its digit in the ground truth of the test set."""
KEPT = ("humour", "sarcasm", "motivational", "overall_sentiment")


class Memotion(Layout, DelimitedTables):
    """Memes as published by Sharma et al. 2020 (SemEval-2020 Task 8: Memotion Analysis, arXiv:2008.03781).

    ``offense`` is the column ``offensive`` as it is, ``offensive`` whether it is anything but ``not_offensive`` (the
    authors' own binary task), ``abuse_hate`` whether it is ``hateful_offensive``: annotators chose among the four, so a
    meme of a lesser degree was judged not hateful. The other scales and the sentiment are kept in ``meta``. The text
    is the corrected OCR text; where there is none, the uncorrected one. There is no official val split.

    The test set was published apart: it is read where ``2000_testdata.csv`` lies anywhere below the root, its labels
    from ``Meme_groundTruth.csv`` beside it (``<sentiment>_<four binary digits>_<four degrees>`` of humour, sarcasm,
    offensive, motivational; the third degree is read). Columns and digits are as public code reads them; not verified
    against the authors' own description.

    Attributes
    ----------
    root : Path
        The folder ``memotion_dataset_7k``, or one that holds it and the test set; also in an archive.
    """

    expected: ClassVar[str] = f"{TRAIN} with images/ beside it, or {TEST} with 2000_data/"
    seeks: ClassVar[bool] = True
    taxonomy: ClassVar[Mapping[str, Label]] = {
        "abuse_hate": LABELS["abuse_hate"],
        "offensive": LABELS["offensive"],
        "offense": Label(DEGREES, "prob", "How offensive, in four degrees."),
    }
    tables: ClassVar[Mapping[str, str | None]] = {TRAIN: "train", TEST: "test"}
    beside = (TRUTH,)
    anywhere = True
    id_column = "image_name"
    required = ("offensive",)
    text_columns = ("text_corrected", "text_ocr")
    label_columns: ClassVar[Mapping[str, LabelColumn]] = {
        "abuse_hate": LabelColumn("offensive", {degree: int(degree == DEGREES[-1]) for degree in DEGREES}),
        "offensive": LabelColumn("offensive", {degree: int(degree != DEGREES[0]) for degree in DEGREES}),
        "offense": LabelColumn("offensive", {degree: degree for degree in DEGREES}),
    }

    def table_of(self, name: str) -> str:
        return super().table_of(name).replace(" .csv", ".csv")  # the ground truth was published with a space in it

    def read_table(self, name: str) -> Iterator[Read]:
        """The test set's columns as those of ``labels.csv``, and its labels from the ground truth beside it."""
        if self.table_of(name) == TRAIN:
            yield from self.read(name)
            return
        degrees = self._degrees(name)
        for where, row in self.read(name):
            if not isinstance(row, Rejected):
                row = {TEST_COLUMNS.get(column, column): cell for column, cell in row.items()}
                row["offensive"] = degrees.get(row.get("image_name"))
            yield where, row

    def _degrees(self, test: str) -> dict[str | None, str | None]:
        """Picture -> degree, from the ground truth beside the test set; what is no degree stays, to be refused."""
        degrees: dict[str | None, str | None] = {}
        for name in self.listed():
            if self.table_of(name) == TRUTH and PurePosixPath(name).parent == PurePosixPath(test).parent:
                for where, row in self.read(name):
                    if isinstance(row, Rejected) or not {"Image_name", "Labels"} <= row.keys():
                        found = row.reason if isinstance(row, Rejected) else f"found the columns {', '.join(row)}"
                        raise DataError(f"{where}: {found}; expected Image_name and Labels on every line")
                    digits = re.fullmatch(r"-?\d_[01]{4}_\d\d([0-3])\d", row["Labels"] or "")
                    degrees[row["Image_name"]] = DEGREES[int(digits[1])] if digits else row["Labels"]
        return degrees

    def picture_of(self, row: Row, name: str) -> str:
        folder, picture = PurePosixPath(name).parent, row["image_name"]
        return self.first_of([str(folder / place / picture) for place in PICTURES[self.table_of(name)]])

    def meta_of(self, row: Row) -> dict[str, Any]:
        return {column: row[column] for column in KEPT if row.get(column)}
