"""The Hateful Memes layout, in which most meme sets are shared: ``{train,dev,test}.jsonl`` beside a folder ``img/``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import field_validator

from ..contracts import TextRole
from ..errors import DataError
from ..example import BINARY, LABELS, UNLABELLED, Example, Label, LabelValue, Rejected
from ..files.tables import EncodedTables

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


class HatefulMemes(EncodedTables):
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
    text_role : "transcript" or "caption"
        ``transcript``: ``text`` is what stands in the picture.
    """

    expected: ClassVar[str] = f"at least one of {', '.join(FILES)}, and img/"

    label: str = "abuse_hate"
    text_role: TextRole = "transcript"

    @field_validator("label")
    @classmethod
    def _binary(cls, value: str) -> str:
        if value in LABELS and not LABELS[value].binary:
            raise ValueError(f"{value!r} has the classes {LABELS[value].classes}, but this layout's labels are 0 and 1")
        return value

    def labels(self) -> Mapping[str, Label]:
        return {self.label: LABELS.get(self.label, Label(BINARY, f"prob_{self.label}"))}

    def listed(self) -> list[str]:
        return [name for name in FILES if self.files.has(name)]

    def rows(self) -> Iterator[Example | Rejected]:
        seen: dict[tuple[str, str, str], tuple[str, LabelValue]] = {}
        for name in self.listed():
            for where, found in self.read(name):
                row = found if isinstance(found, Rejected) else self._row(found, where, FILES[name])
                if isinstance(row, Example):
                    label = row.labels[self.label]
                    key = (FILES[name], row.id, row.parts["image"])
                    first_file, first_label = seen.setdefault(key, (name, label))
                    if first_file != name and label in (None, first_label):
                        continue
                yield row

    def _row(self, row: dict[str, Any], where: str, split: str) -> Example | Rejected:
        name, picture, text = row.get("id"), row.get("img"), row.get("text")
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            return Rejected(None, where, "no id (a text or a whole number)", row)
        if not isinstance(picture, str) or not picture:
            return Rejected(str(name), where, "no img (the path of the picture)", row)
        try:
            index = self.labels()[self.label].index(row.get("label"))
        except DataError as error:
            return Rejected(str(name), where, str(error), row)
        wordless = text is None or (isinstance(text, str) and not text.strip())
        return Example(
            id=str(name),
            parts={"image": picture} if wordless else {"text": text, "image": picture},
            labels={self.label: None if index == UNLABELLED else index},
            split=split,
            meta={key: value for key, value in row.items() if key not in FIELDS},
        )
