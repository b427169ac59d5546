"""The Memotion 7k layout: ``labels.csv`` beside ``images/``, and the test set's two CSV files beside ``2000_data/``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from ..contracts import TextRole
from ..errors import DataError
from ..example import LABELS, Example, Label, Rejected
from ..files.tables import DelimitedTables

TRAIN, TEST, TRUTH = "labels.csv", "2000_testdata.csv", "Meme_groundTruth.csv"
PICTURES = {TRAIN: ("images",), TEST: ("2000_data", "2000_data/2000_data")}
"""The folders beside a file in which its pictures may lie."""
TEST_COLUMNS = {"Image_name": "image_name", "OCR_extracted_text": "text_ocr", "corrected_text": "text_corrected"}
"""What the columns of the test set are called in ``labels.csv``."""
DEGREES = ("not_offensive", "slight", "very_offensive", "hateful_offensive")
"""How offensive a meme is, in the order of its digit in the ground truth of the test set."""
KEPT = ("humour", "sarcasm", "motivational", "overall_sentiment")


class Memotion(DelimitedTables):
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
    text_role : "transcript" or "caption"
        ``transcript``: what stands in the picture.
    """

    expected: ClassVar[str] = f"{TRAIN} with images/ beside it, or {TEST} with 2000_data/"

    seeks: ClassVar[bool] = True

    text_role: TextRole = "transcript"

    def labels(self) -> Mapping[str, Label]:
        return {
            "abuse_hate": LABELS["abuse_hate"],
            "offensive": LABELS["offensive"],
            "offense": Label(DEGREES, "prob", "How offensive, in four degrees."),
        }

    def listed(self) -> list[str]:
        names = self.files.names()
        return [name for wanted in (TRAIN, TEST, TRUTH) for name in names if _published(name) == wanted]

    def rows(self) -> Iterator[Example | Rejected]:
        listed = self.listed()
        for name in listed:
            if (kind := _published(name)) == TRUTH:
                continue
            degrees = self._degrees(name, listed) if kind == TEST else {}
            for where, row in self.read(name):
                if isinstance(row, Rejected):
                    yield row
                    continue
                if kind == TEST:
                    row = {TEST_COLUMNS.get(column, column): cell for column, cell in row.items()}
                    row["offensive"] = degrees.get(row.get("image_name"))
                yield self._example(row, where, name)

    def _degrees(self, test: str, listed: list[str]) -> dict[str | None, str | None]:
        """Picture -> degree, from the ground truth beside the test set; what is no degree stays, to be refused."""
        degrees: dict[str | None, str | None] = {}
        for name in listed:
            if _published(name) == TRUTH and PurePosixPath(name).parent == PurePosixPath(test).parent:
                for where, row in self.read(name):
                    if isinstance(row, Rejected) or not {"Image_name", "Labels"} <= row.keys():
                        found = row.reason if isinstance(row, Rejected) else f"found the columns {', '.join(row)}"
                        raise DataError(f"{where}: {found}; expected Image_name and Labels on every line")
                    digits = re.fullmatch(r"-?\d_[01]{4}_\d\d([0-3])\d", row["Labels"] or "")
                    degrees[row["Image_name"]] = DEGREES[int(digits[1])] if digits else row["Labels"]
        return degrees

    def _example(self, row: dict[str, Any], where: str, name: str) -> Example | Rejected:
        picture = row.get("image_name")
        if not picture:
            return Rejected(None, where, f"no image_name (the picture's file name); columns: {', '.join(row)}", row)
        if "offensive" not in row:
            return Rejected(picture, where, f"no column offensive; columns: {', '.join(row)}", row)
        degree = row["offensive"]
        try:
            Label(DEGREES).check(degree)
        except DataError as error:
            return Rejected(picture, where, f"offensive: {error}", row)
        kind = _published(name)
        candidates = [str(PurePosixPath(name).parent / folder / picture) for folder in PICTURES[kind]]
        reference = self.first_of(candidates)
        text = row.get("text_corrected") or row.get("text_ocr")
        return Example(
            id=picture,
            parts={"text": text, "image": reference} if text else {"image": reference},
            labels={
                "abuse_hate": None if degree is None else int(degree == DEGREES[-1]),
                "offensive": None if degree is None else int(degree != DEGREES[0]),
                "offense": degree,
            },
            split="train" if kind == TRAIN else "test",
            meta={key: row[key] for key in KEPT if row.get(key)},
        )


def _published(name: str) -> str:
    """The file's own name; the ground truth was published with a space in it."""
    return PurePosixPath(name).name.replace(" .csv", ".csv")
