"""What a post says and shows, as a hash: whether two runs hold the same post, whatever they call it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from ..config import Strict
from ..example import Example
from ..modalities import TEXT
from ..modalities.text import without_tags
from .dedup import WORDS_TO_IDENTIFY, picture_hash, words_of
from .shards import RECORD, Split

DIGEST = 8
"""Bytes of a keyed hash: of 10 million posts two are taken for one with a chance of 3 in a million."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is compared of a post.

    Attributes
    ----------
    words : str
        Composed; empty where absent.
    picture : str or None
        The PDQ hash of its picture.
    record : str or None
        A hash of its record, as it is packed.
    """

    words: str
    picture: str | None = None
    record: str | None = None

    def key(self, *, words: bool = True, pictures: bool = True, records: bool = True) -> str:
        """The same for the same post; without what another run does not read."""
        written = (" ".join(words_of(self.words)) or without_tags(self.words)) if words else ""
        shown, told = (self.picture or "") if pictures else "", (self.record or "") if records else ""
        return hashlib.sha256("\0".join((written, shown, told)).encode(errors="replace")).hexdigest()

    def marks(self, kinds: Mapping[str, bool]) -> list[str]:
        """What makes another post the same, or one in other clothes: all of it, and words enough to identify it."""
        found = words_of(self.words)
        return [self.key(**kinds), *(["words " + " ".join(found)] if len(found) >= WORDS_TO_IDENTIFY else [])]


def kinds_of(*every: Sequence[Content]) -> dict[str, bool]:
    """What of their posts' content all of several sets have, for `Content.key`."""
    return {
        "words": all(any(content.words for content in of) for of in every),
        "pictures": all(any(content.picture for content in of) for of in every),
        "records": all(any(content.record for content in of) for of in every),
    }


def contents_of(split: Split) -> list[Content]:
    """The content of each row of a packed split; every record in it is read."""
    texts = split.values(TEXT) if TEXT in split.present else None
    records = [name for name, modality in split.modalities.items() if modality.input.form == "record"]
    found = []
    for row in range(len(split)):
        text = texts[row] if texts is not None and split.present[TEXT][row] else ""
        blob = b"".join(split.read(row, split.modalities[name].suffix) for name in records if split.present[name][row])
        meta = json.loads(split.read(row, RECORD))["meta"]  # it was checked when the split was opened
        picture = picture_hash(Example(split.ids[row], {}, {}, meta=meta)) if "facts" in meta else None
        found.append(Content(text, picture, hashlib.sha256(blob).hexdigest() if blob else None))
    return found


class ContentHashes(Strict):
    """Keyed hashes of the posts that a model learned from or was tuned on; no post can be read off them.

    Who holds the key, which stands beside them, and a post can tell whether the post is among them.
    """

    key: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    hashes: dict[str, list[str]]
    """Split -> hashes, sorted."""
    kinds: Annotated[dict[str, bool], Field(default_factory=dict)]
    """What the posts had, as the model reads it (`kinds_of`): others are known by the same alone."""

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[Content]]) -> Self:
        """Under a key drawn anew."""
        key = secrets.token_hex(16)
        hashes = {name: sorted(set(_hashed(key, rows, {}))) for name, rows in splits.items()}
        return cls(key=key, hashes=hashes, kinds=kinds_of([row for rows in splits.values() for row in rows]))

    def holds(self, rows: Sequence[Content]) -> list[bool]:
        """Whether each row, or one of the same words, is among them."""
        known = {one for hashes in self.hashes.values() for one in hashes}
        return [any(one in known for one in _hashed(self.key, [row], self.kinds)) for row in rows]


def _hashed(key: str, rows: Sequence[Content], kinds: Mapping[str, bool]) -> Iterator[str]:
    secret = bytes.fromhex(key)
    for row in rows:
        for mark in row.marks(kinds):
            yield hashlib.blake2b(mark.encode(errors="replace"), key=secret, digest_size=DIGEST).hexdigest()
