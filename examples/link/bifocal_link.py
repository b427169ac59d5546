"""A kind of part that does not come with Bifocal: where a post links to, as its host and path.

All that Bifocal has to know of it stands in this file. See README.md beside it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

from bifocal.contracts import Input, Piece
from bifocal.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import numpy as np

    from bifocal.config import RunConfig

MAX_CHARACTERS = 2_048
"""What browsers take."""


class Link:
    """The part ``link``; its value is host and path in one spelling: ``example.org/a/b``.

    Scheme, port, user, query and fragment are left out: they say little of where a link leads to, and may say a lot of
    who followed it.
    """

    input: ClassVar[Input] = Input(
        form="words", title="Link", description="The address that the post points to.", limit=MAX_CHARACTERS
    )
    suffix: ClassVar[str] = "link"
    expert_name: ClassVar[str] = "link_expert"
    encoder: ClassVar[str] = "tfidf_text"
    encoded_as: ClassVar[str] = "text"
    lossless: ClassVar[bool] = True
    corruptions: ClassVar[tuple[str, ...]] = ("shortened", "digits")
    attacks: ClassVar[dict[str, tuple[int, ...]]] = {"digits": (1, 2, 3, 4, 5)}

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        return cls()

    def facts(self, raw: Any) -> dict[str, Any]:
        """``{"host": …}``. Raises `DataError` where it is no address."""
        return {"host": self.read(raw).partition("/")[0]}

    def read(self, raw: Any) -> str:
        """Host and path. Raises `DataError` where it is no string, too long, or without a host."""
        if not isinstance(raw, str):
            raise DataError(f"link must be a string, found {type(raw).__name__}: quote it, or leave the part out")
        if len(raw) > MAX_CHARACTERS:
            raise DataError(f"the link has {len(raw):,} characters; at most {MAX_CHARACTERS:,} are allowed")
        try:
            parsed = urlsplit(raw.strip() if "//" in raw else f"//{raw.strip()}")
            host = parsed.hostname
        except ValueError:
            host = None
        if not host or re.search(r"\s", host) or "." not in host:
            raise DataError(f"{raw[:100]!r} is no link: write an address such as https://example.org/page")
        return host.removeprefix("www.") + parsed.path.rstrip("/")

    def pack(self, value: str) -> bytes:
        return value.encode()

    def unpack(self, blob: bytes) -> str:
        return blob.decode()

    def blank(self) -> str:
        return ""

    def corrupt(self, value: str, kind: str, severity: int, rng: np.random.Generator) -> str:
        """``shortened`` takes steps of the path from its end, ``digits`` writes letters as digits that look like them.

        Severity 1..5 touches a fifth of them more each, at least one.
        """
        if kind not in self.corruptions:
            raise ConfigError(f"link has no corruption {kind!r}; {nearest(kind, self.corruptions)}")
        if severity not in range(1, 6):
            raise ConfigError(f"severity {severity!r} is not among 1, 2, 3, 4, 5")
        if kind == "shortened":
            host, *steps = value.split("/")
            left = len(steps) - max(1, round(len(steps) * severity / 5))
            return "/".join([host, *steps[: max(0, left)]])
        places = [i for i, sign in enumerate(value) if sign in _DIGITS]
        n = max(1, round(len(places) * severity / 5)) if places else 0
        chosen = set(rng.choice(len(places), n, replace=False).tolist()) if n else set()
        touched = {places[i] for i in chosen}
        return "".join(_DIGITS[sign] if i in touched else sign for i, sign in enumerate(value))

    def keep(self, value: str) -> str:
        """The decision log keeps what the expert read, and nothing of the query."""
        return value

    def restore(self, kept: str) -> str:
        return kept

    def occlusions(self, value: str, pieces: int | None = None) -> list[tuple[Piece, str]]:
        """The host, and each step of the path, left out."""
        ends = [-1, *(i for i, sign in enumerate(value) if sign == "/"), len(value)]
        spans = [(a + 1, b) for a, b in pairwise(ends) if b > a + 1]
        if len(spans) < 2:
            return []
        return [(Piece(value[a:b], (a, b)), (value[:a] + value[b:]).strip("/")) for a, b in spans]


_DIGITS = {"o": "0", "l": "1", "i": "1", "e": "3", "s": "5"}
