"""The Hateful Memes layout, in which most meme sets are shared: ``{train,dev,test}.jsonl`` beside a folder ``img/``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import field_validator

from ..errors import DataError
from ..example import BINARY, LABELS, Example, Label, LabelValue, Rejected
from ..files.layouts import LabelColumn, Layout, Row

# Within a split the plain name comes last: where it stands beside its successors it is the challenge's unlabelled
# first release, and of a row that stands in two files the first is taken.
FILES = {
    "train.jsonl": "train",
    "dev_seen.jsonl": "val",
    "dev_unseen.jsonl": "val",
    "dev.jsonl": "val",
    "test_seen.jsonl": "test",
    "test_unseen.jsonl": "test",
    "test.jsonl": "test",
}
"""The files that are read, in this order, and the split each one is."""
FIELDS = ("id", "img", "label", "text")
"""The fields of a row that have a meaning; all others go into ``meta``."""


class HatefulMemes(Layout):
    """Memes as published by Kiela et al. 2020 (The Hateful Memes Challenge, arXiv:2005.04790) and by many since.

    Each line is an object with ``id``, ``img`` (path below the root), ``label`` (0, 1, or null or missing where not
    annotated) and ``text`` (may be missing); every other field is kept in ``meta``. A row that stands in two files of
    one split (``dev_seen`` and ``dev_unseen`` overlap) is taken once.

    Attributes
    ----------
    root : Path
        What holds the files.
    label : str
        The name that ``label`` gets in the taxonomy.
    """

    expected: ClassVar[str] = f"at least one of {', '.join(FILES)}, and img/"
    tables: ClassVar[Mapping[str, str | None]] = FILES

    label: str = "abuse_hate"

    @field_validator("label")
    @classmethod
    def _binary(cls, value: str) -> str:
        if value in LABELS and not LABELS[value].binary:
            raise ValueError(f"{value!r} has the classes {LABELS[value].classes}, but this layout's labels are 0 and 1")
        return value

    def labels(self) -> Mapping[str, Label]:
        return {self.label: LABELS.get(self.label, Label(BINARY, f"prob_{self.label}"))}

    def rows(self) -> Iterator[Example | Rejected]:
        seen: dict[tuple[str, str | None, str], tuple[str, LabelValue]] = {}
        for name in self.listed():
            for row in self.rows_of(name):
                if isinstance(row, Example):
                    label = row.labels[self.label]
                    first_file, first_label = seen.setdefault((row.id, row.split, row.parts["image"]), (name, label))
                    if first_file != name and label in (None, first_label):
                        continue
                yield row

    def id_of(self, row: Row, name: str) -> str:
        identity = row.get("id")
        if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
            raise DataError("no id (a text or a whole number)")
        return str(identity)

    def picture_of(self, row: Row, name: str) -> str:
        picture = row.get("img")
        if not isinstance(picture, str) or not picture:
            raise DataError("no img (the path of the picture)")
        return picture

    def text_of(self, row: Row) -> Any:
        text = row.get("text")
        return None if isinstance(text, str) and not text.strip() else text

    def labels_of(self, row: Row) -> dict[str, LabelValue]:
        return {self.label: LabelColumn("label", {0: 0, 1: 1}).read(row)}

    def meta_of(self, row: Row) -> dict[str, Any]:
        return {column: cell for column, cell in row.items() if column not in FIELDS}
