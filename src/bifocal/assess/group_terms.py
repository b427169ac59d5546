"""Words that name a group of people: read from a file, and looked for in texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import expand_home
from ..errors import ConfigError
from ..modalities.text import clean, tags_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.bool_]


def read_terms(path: str | Path) -> dict[str, list[str]]:
    """Group -> its words, from a text file: ``group: term, term`` or one term a line, which names its group itself.

    Empty lines and those that begin with ``#`` are left out, and so is a byte-order mark. Raises `ConfigError` naming
    the file, or the line.
    """
    try:
        lines = expand_home(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"slices.terms: {str(path)!r} cannot be read ({reason}): give a text file of words") from None
    found: dict[str, list[str]] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        group, colon, listed = line.partition(":")
        terms = [term for term in (_folded(term) for term in (listed.split(",") if colon else [line])) if term]
        if not terms or not group.strip():
            raise ConfigError(f"slices.terms: {path}, line {number} names no term: write `group: term, term`")
        found.setdefault(group.strip(), []).extend(terms)
    if not found:
        raise ConfigError(f"slices.terms: {path} holds no terms: write one a line, or `group: term, term`")
    return found


def mentions(texts: Sequence[str], terms: Mapping[str, Sequence[str]]) -> dict[str, Rows]:
    """Group -> whether each text ``[n]`` holds one of its words, as a whole word in any case; tags are no words."""
    found = {group: np.zeros(len(texts), dtype=bool) for group in terms}
    any_of = _whole_words(term for group in terms.values() for term in group)
    each = {group: _whole_words(words) for group, words in terms.items()}
    for row, text in enumerate(texts):
        folded = tags_of(text).sub(" ", text).casefold()
        if any_of.search(folded):
            for group, words in each.items():
                found[group][row] = words.search(folded) is not None
    return found


def _folded(term: str) -> str:
    return clean(term).casefold()


def _whole_words(terms: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, terms))})(?!\w)")
