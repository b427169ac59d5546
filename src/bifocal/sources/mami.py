"""The MAMI layout: ``training.csv``, ``trial.csv`` and ``Test.csv``, tab-separated, each among its pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from ..contracts import TextRole
from ..errors import DataError
from ..example import BINARY, LABELS, Example, Label, Rejected
from ..files.tables import DelimitedTables

FILES = {"training.csv": "train", "trial.csv": "train", "test.csv": "test"}
TRUTH = ("test_labels.txt", "truth.txt")
KINDS = ("shaming", "stereotype", "objectification", "violence")
COLUMNS = ("misogynous", *KINDS)


class Mami(DelimitedTables):
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
    text_role : "transcript" or "caption"
        ``transcript``: what stands in the picture.
    """

    expected: ClassVar[str] = f"at least one of {', '.join(FILES)} (tab-separated), in the folder of its pictures"

    seeks: ClassVar[bool] = True

    text_role: TextRole = "transcript"

    def labels(self) -> Mapping[str, Label]:
        kinds = {kind: Label(BINARY, f"prob_{kind}", f"Misogyny by {kind}.") for kind in KINDS}
        return {"abuse_hate": LABELS["abuse_hate"], **kinds}

    def listed(self) -> list[str]:
        names = self.files.names()
        tables = [name for wanted in FILES for name in names if _own_name(name) == wanted]
        return tables + [name for name in names if tables and _own_name(name) in TRUTH]

    def rows(self) -> Iterator[Example | Rejected]:
        listed = self.listed()
        truth = self._truth([name for name in listed if _own_name(name) in TRUTH])
        for name in listed:
            if (file := _own_name(name)) not in FILES:
                continue
            for where, row in self.read(name, "\t"):
                if isinstance(row, Rejected):
                    yield row
                elif file == "test.csv" and not set(COLUMNS) & row.keys():
                    yield self._example({**row, **truth.get(row.get("file_name"), dict.fromkeys(COLUMNS))}, where, name)
                else:
                    yield self._example(row, where, name)

    def _truth(self, names: list[str]) -> dict[str | None, dict[str, str]]:
        """File name -> its five labels."""
        truth: dict[str | None, dict[str, str]] = {}
        for name in names:
            text = self.files.read(name).decode("utf-8-sig", errors="replace")
            for number, cells in enumerate(csv.reader(io.StringIO(text), delimiter="\t"), start=1):
                if cells and len(cells) != 1 + len(COLUMNS):
                    raise DataError(
                        f"{name}:{number} has {len(cells)} cells; expected a file name and {', '.join(COLUMNS)}, "
                        "separated by tabs"
                    )
                truth |= {cells[0]: dict(zip(COLUMNS, cells[1:], strict=True))} if cells else {}
        return truth

    def _example(self, row: dict[str, Any], where: str, name: str) -> Example | Rejected:
        if lacking := [column for column in ("file_name", "Text Transcription", *COLUMNS) if column not in row]:
            return Rejected(row.get("file_name"), where, f"no column {lacking[0]}; columns: {', '.join(row)}", row)
        picture, text = row["file_name"], row["Text Transcription"]
        if not picture:
            return Rejected(None, where, "no file_name (of the picture)", row)
        for column in COLUMNS:
            try:
                Label(("0", "1")).check(row[column])
            except DataError as error:
                return Rejected(picture, where, f"{column}: {error}", row)
        reference = self._picture(name, picture)
        values = {column: None if row[column] is None else int(row[column]) for column in COLUMNS}
        return Example(
            id=f"trial-{picture}" if _own_name(name) == "trial.csv" else picture,
            parts={"text": text, "image": reference} if text else {"image": reference},
            labels={"abuse_hate": values.pop("misogynous"), **values},
            split=FILES[_own_name(name)],
        )

    def _picture(self, name: str, picture: str) -> str:
        path = PurePosixPath(name)
        folders = (path.parent, path.with_suffix(""), path.parent / path.stem.upper(), path.parent / path.stem.lower())
        candidates = [str(folder / picture) for folder in folders]
        return self.first_of(candidates)


def _own_name(name: str) -> str:
    return PurePosixPath(name).name.lower()
