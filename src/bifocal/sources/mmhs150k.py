"""The MMHS150K layout: tweets with a picture, ``MMHS150K_GT.json`` beside ``splits/`` and ``img_resized/``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ..contracts import TextRole
from ..errors import DataError
from ..example import LABELS, SPLITS, Example, Label, LabelValue, Rejected
from ..files.layouts import Layout, Row

ANNOTATIONS = "MMHS150K_GT.json"
SPLIT_FILES = {f"splits/{split}_ids.txt": split for split in SPLITS}
KINDS = ("NotHate", "Racist", "Sexist", "Homophobe", "Religion", "OtherHate")
"""What an annotator could choose, by the number that stands in ``labels``."""


class Mmhs150k(Layout):
    """Tweets as published by Gomez et al. 2020 (Exploring Hate Speech Detection in Multimodal Publications, WACV,
    arXiv:1910.03814), with their official splits.

    ``abuse_hate`` is what most of a tweet's annotators (three) say, any kind of hate counting as hate; ``hate_kind`` is
    the one kind that most of them chose. Both are null where there is no majority, or no vote; ``meta["votes"]`` keeps
    each vote. The text is the tweet's own (``tweet_text``). Nothing is ever fetched from the URLs in the file.
    ``img_txt/`` (the authors' OCR) is not read: the OCR step reads the pictures as it does those of any source.
    The layout follows the readme in the published archive. Not verified: that every row has three votes.

    Attributes
    ----------
    root : Path
        The folder ``MMHS150K``, or it in an archive (``MMHS150K.zip/MMHS150K``).
    text_role : "transcript" or "caption"
        ``caption``: the post's own words.
    """

    expected: ClassVar[str] = f"{ANNOTATIONS}, {', '.join(SPLIT_FILES)} and img_resized/"
    taxonomy: ClassVar[Mapping[str, Label]] = {
        "abuse_hate": LABELS["abuse_hate"],
        "hate_kind": Label(KINDS, "prob", "The kind of hate that most annotators chose."),
    }
    tables: ClassVar[Mapping[str, str | None]] = {ANNOTATIONS: None}
    beside = tuple(SPLIT_FILES)
    id_column = "key"
    text_columns = ("tweet_text",)

    text_role: TextRole = "caption"

    def listed(self) -> list[str]:
        """All of the files, or none: without a file of ids its split would be lost."""
        found = super().listed()
        return found if len(found) == 1 + len(SPLIT_FILES) else []

    def rows(self) -> Iterator[Example | Rejected]:
        split_of, twice = self._splits()
        for where, row in self.read(ANNOTATIONS):
            if isinstance(row, Rejected):
                yield row
                continue
            tweet = row.get("key")
            if not isinstance(tweet, str):
                yield Rejected(None, where, "no tweet id: the file has to be an object {tweet id: tweet}", row)
                continue
            split = split_of.pop(tweet, None)
            if tweet in twice:
                yield Rejected(tweet, where, f"stands in two splits: {twice[tweet]}", row)
            else:
                yield self.example(row, where, ANNOTATIONS, split)
        for tweet, split in split_of.items():
            yield Rejected(tweet, f"splits/{split}_ids.txt", f"this tweet is not in {ANNOTATIONS}")

    def _splits(self) -> tuple[dict[str, str], dict[str, str]]:
        """Tweet -> split, and the tweets that stand in two (downloads with a split file twice are about)."""
        split_of: dict[str, str] = {}
        twice: dict[str, str] = {}
        for name, split in SPLIT_FILES.items():
            with self.files.opened(name) as lines:
                for line in lines:
                    tweet = line.decode("utf-8-sig", errors="replace").strip()
                    if tweet and split_of.setdefault(tweet, split) != split:
                        twice[tweet] = f"{split_of[tweet]} and {split}"
        return split_of, twice

    def picture_of(self, row: Row, name: str) -> str:
        return f"img_resized/{row['key']}.jpg"

    def labels_of(self, row: Row) -> dict[str, LabelValue]:
        votes = _votes(row.get("labels"))
        hate = _majority([vote if vote == KINDS[0] else "hate" for vote in votes])
        return {"abuse_hate": None if hate is None else int(hate == "hate"), "hate_kind": _majority(votes)}

    def meta_of(self, row: Row) -> dict[str, Any]:
        return {"votes": _votes(row.get("labels"))}


def _votes(labels: Any) -> list[str]:
    if labels is None:
        return []
    if not isinstance(labels, list) or any(type(vote) is not int or not 0 <= vote < len(KINDS) for vote in labels):
        allowed = ", ".join(f"{number} ({kind})" for number, kind in enumerate(KINDS))
        raise DataError(f"labels = {labels!r} is not a list of votes; allowed: {allowed}")
    return [KINDS[vote] for vote in labels]


def _majority(votes: list[str]) -> str | None:
    """What more than half of the votes say."""
    return next((vote for vote, count in Counter(votes).items() if 2 * count > len(votes)), None)
