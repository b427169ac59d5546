"""What people do to the words of a post to get them past a model, or for no reason at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ._obfuscation import LATIN, scripts_of, shown

if TYPE_CHECKING:
    import numpy as np

    Words = list[str]
    Attack = Callable[[Words, int, np.random.Generator], Words]

_LEET = str.maketrans("aAeEiIoOsStT", "443311005577")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_OVERRIDE, _POP = "\u202e", "\u202c"
_EMBEDDINGS = ("\u202a", _POP), ("\u2066", "\u2069"), ("\u200e", "\u200f")
_GAPS = " ", ".", "-"
_FEWEST = 4
"""Letters of a word worth spelling out."""
_EMOJI = ("😂", "🔥", "💯", "😭", "🙏", "👀", "💀", "❤️", "👍", "🤡", "🐍", "🎉", "🇺🇸", "👨‍👩‍👧")
BENIGN = (
    "What a lovely day it is.",
    "Thank you all for being here.",
    "Have a nice weekend, everyone.",
    "The garden looks beautiful this spring.",
    "I made soup for dinner and it was good.",
)
HOSTILE = (
    "I hate every one of them.",
    "They are disgusting and should all disappear.",
    "Get rid of these animals.",
    "Nobody wants you people here.",
    "You are worthless, all of you.",
)


def _each(disguise: Callable[[str, np.random.Generator], str | None]) -> Attack:
    """An attack on so many words, of those that the disguise does something to."""

    def attack(words: Words, n: int, rng: np.random.Generator) -> Words:
        done, left = list(words), n
        for i in rng.permutation(len(words)).tolist():
            if left and (disguised := disguise(words[i], rng)) is not None and disguised != words[i]:
                done[i] = disguised
                left -= 1
        return done

    return attack


def _homoglyphs(word: str, rng: np.random.Generator) -> str | None:
    """Some letters of a word of one script by look-alikes of another (UTS #39), not all: the word is mixed then."""
    scripts = scripts_of(word)
    if len(scripts) != 1:
        return None
    others = [LATIN] if scripts != {LATIN} else ["CYRILLIC", "GREEK"]
    for other in rng.permutation(others).tolist():
        places = [i for i, letter in enumerate(word) if shown(letter, other)]
        most = min(len(places), sum(map(str.isalpha, word)) - 1)
        if most > 0:
            chosen = set(rng.choice(places, int(rng.integers(1, most + 1)), replace=False).tolist())
            return "".join(shown(c, other) or c if i in chosen else c for i, c in enumerate(word))
    return None


def _zero_width(word: str, rng: np.random.Generator) -> str | None:
    if len(word) < 2:
        return None
    gaps = set(rng.choice(len(word) - 1, int(rng.integers(1, len(word))), replace=False).tolist())
    return "".join(c + (str(rng.choice(list(_INVISIBLE))) if i in gaps else "") for i, c in enumerate(word))


def _bidi(word: str, rng: np.random.Generator) -> str:
    """Reversed under an override, so that it is seen as it was; or between marks that show nothing."""
    if rng.random() < 0.5 and word.isascii() and word.isalnum():
        return _OVERRIDE + word[::-1] + _POP
    opening, closing = _EMBEDDINGS[rng.integers(len(_EMBEDDINGS))]
    middle = int(rng.integers(len(word) + 1))
    return word[:middle] + opening + word[middle:] + closing


def _spacing(word: str, rng: np.random.Generator) -> str | None:
    return str(rng.choice(_GAPS)).join(word) if len(word) >= _FEWEST and word.isalpha() else None


def _case(word: str, rng: np.random.Generator) -> str:
    start = int(rng.integers(2))
    alternating = "".join(c.upper() if i % 2 == start else c.lower() for i, c in enumerate(word))
    return word.swapcase() if rng.random() < 0.5 else alternating


def _appended(sentences: tuple[str, ...]) -> Attack:
    """Sentences behind the words, until so many words more stand there."""

    def attack(words: Words, n: int, rng: np.random.Generator) -> Words:
        more: Words = []
        for i in rng.permutation(len(sentences)).tolist():
            if len(more) < n:
                more += sentences[i].split()
        return [*words, *more]

    return attack


ATTACKS: dict[str, Attack] = {
    "homoglyphs": _each(_homoglyphs),
    "leetspeak": _each(lambda word, _: word.translate(_LEET)),
    "zero_width": _each(_zero_width),
    "bidi": _each(_bidi),
    "spacing": _each(_spacing),
    "case": _each(_case),
    "emoji": _each(lambda word, rng: f"{word} {_EMOJI[rng.integers(len(_EMOJI))]}"),
    "benign_appended": _appended(BENIGN),
    "hostile_appended": _appended(HOSTILE),
}
"""Kind -> words, how many of them, a generator -> the words disguised."""
