"""The MAMI layout: ``training.csv``, ``trial.csv`` and ``Test.csv``, tab-separated, each among its pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import ClassVar

from ..errors import DataError
from ..example import BINARY, LABELS, Label, Rejected
from ..files.delimited import Read
from ..files.layouts import LabelColumn, Layout, Row
from ..files.tables import DelimitedTables

TRUTH = ("test_labels.txt", "truth.txt")
KINDS = ("shaming", "stereotype", "objectification", "violence")
COLUMNS = ("misogynous", *KINDS)


class Mami(Layout, DelimitedTables):
    """Memes as published by Fersini et al. 2022 (SemEval-2022 Task 5: Multimedia Automatic Misogyny Identification,
    aclanthology.org/2022.semeval-1.74).

    ``abuse_hate`` is ``misogynous``; the four kinds of misogyny are labels of their own. The labels of the test set
    stand apart in ``test_labels.txt`` (also ``truth.txt``: file name and five digits, no header); without it the test
    rows have none. The 100 memes of the trial release belong to train, their ids marked ``trial-``: there is no
    official val split, and they are too few for one.

    The files are found, whatever the case of their names, anywhere below the root (the archives nest them in folders of
    the authors' machine), a picture beside its file or in a folder of that file's name. File names and columns are as
    the authors' baselines and public code read them; the archives themselves are given out on request only, so that
    the columns of ``trial.csv`` are not verified.

    Attributes
    ----------
    root : Path
        The folder, or archive, that holds all of it.
    """

    expected: ClassVar[str] = (
        "at least one of training.csv, trial.csv, test.csv (tab-separated), in the folder of its pictures"
    )
    seeks: ClassVar[bool] = True
    taxonomy: ClassVar[Mapping[str, Label]] = {
        "abuse_hate": LABELS["abuse_hate"],
        **{kind: Label(BINARY, f"prob_{kind}", f"Misogyny by {kind}.") for kind in KINDS},
    }
    tables: ClassVar[Mapping[str, str | None]] = {"training.csv": "train", "trial.csv": "train", "test.csv": "test"}
    beside = TRUTH
    anywhere = True
    id_column = "file_name"
    required = ("Text Transcription", *COLUMNS)
    text_columns = ("Text Transcription",)
    label_columns: ClassVar[Mapping[str, LabelColumn]] = {
        name: LabelColumn(column, {"0": 0, "1": 1})
        for name, column in zip(("abuse_hate", *KINDS), COLUMNS, strict=True)
    }

    def table_of(self, name: str) -> str:
        return super().table_of(name).lower()

    def read_table(self, name: str) -> Iterator[Read]:
        """The rows of a table; those of a test set without labels have what stands in the file of labels."""
        is_test = self.table_of(name) == "test.csv"
        truth = self._truth() if is_test else {}
        for where, row in self.read(name, "\t"):
            if is_test and not isinstance(row, Rejected) and not set(COLUMNS) & row.keys():
                row |= truth.get(row.get("file_name"), dict.fromkeys(COLUMNS))
            yield where, row

    def _truth(self) -> dict[str | None, dict[str, str | None]]:
        """File name -> its five labels."""
        truth: dict[str | None, dict[str, str | None]] = {}
        for name in (name for name in self.listed() if self.table_of(name) in TRUTH):
            text = self.files.read(name).decode("utf-8-sig", errors="replace")
            for number, cells in enumerate(csv.reader(io.StringIO(text), delimiter="\t"), start=1):
                if cells and len(cells) != 1 + len(COLUMNS):
                    raise DataError(
                        f"{name}:{number} has {len(cells)} cells; expected a file name and {', '.join(COLUMNS)}, "
                        "separated by tabs"
                    )
                truth |= {cells[0]: dict(zip(COLUMNS, cells[1:], strict=True))} if cells else {}
        return truth

    def id_of(self, row: Row, name: str) -> str:
        return ("trial-" if self.table_of(name) == "trial.csv" else "") + super().id_of(row, name)

    def picture_of(self, row: Row, name: str) -> str:
        path = PurePosixPath(name)
        folders = (path.parent, path.with_suffix(""), path.parent / path.stem.upper(), path.parent / path.stem.lower())
        return self.first_of([str(folder / row["file_name"]) for folder in folders])
