"""Windows of a text that is longer than its encoder reads, and what of them stands for the text; arrays, no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..modalities.text import ALONE, tags_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from tokenizers import Encoding

    Floats = NDArray[np.float32]

OVERLAP = 4
"""A window shares one in so many of its tokens with the next: what is cut apart in one is whole in the other."""
LEAST = 32
"""Tokens of words in a window, at least, where the text is split: abuse among others is diluted the more there are."""
LEAST_ROWS = 20
"""Texts of either class, at least, that an offset is fitted on."""
LEAST_ROOM = 8
"""Tokens of words that a window holds beside the tags, at least; a text whose tags leave fewer is cut, not split."""
INPUTS = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
"""Inputs of an encoder by transformers' names -> what an encoding calls them."""
_APART = re.compile(rf"\s|[{ALONE}]")


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one text.

    Attributes
    ----------
    texts : tuple of str
        Each a composed text of its own: every tag of the whole, and the words between two places of it.
    places : tuple of (int, int)
        Where its words begin and end in the whole.
    whole : bool
        Whether they hold all of the words.
    """

    texts: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    whole: bool


def one_window(value: str, *, whole: bool) -> Windows:
    """A text that is not split."""
    return Windows((value,), ((0, len(value)),), whole)


@dataclass(frozen=True, slots=True)
class Splitter:
    """Cuts texts into windows for one encoder.

    Attributes
    ----------
    encode : callable
        Texts -> their encodings, truncated to what the encoder reads; ``overflowing`` holds the rest.
    room : int
        Tokens that the encoder reads, special ones not counted.
    most : int
        Windows, at most; what is beyond the last one is not read.
    """

    encode: Callable[[Sequence[str]], Sequence[Encoding]]
    room: int
    most: int

    def read(self, values: Sequence[str]) -> tuple[list[Encoding], list[int]]:
        """The encodings of every window of these texts, and how many windows each has."""
        texts = list(values)  # each is read once
        found = [self._split(*pair)[1] for pair in zip(texts, self.encode(texts), strict=True)]
        return [encoding for windows in found for encoding in windows], [len(windows) for windows in found]

    def split(self, value: str) -> Windows:
        """The windows that are read of a text."""
        return self._split(value, self.encode([value])[0])[0]

    def _split(self, value: str, encoding: Encoding) -> tuple[Windows, Sequence[Encoding]]:
        """A word that a cut falls into may need more tokens than it had in the whole: then all windows get shorter."""
        fits = not encoding.overflowing
        if fits or self.most == 1:
            return one_window(value, whole=fits), [encoding]
        room, tried = self.room, 0
        while True:
            windows = _split_text(value, encoding, room, self.most)
            if len(windows.texts) == 1:
                return windows, [encoding]
            encodings = self.encode(windows.texts)
            if not (beyond := max(sum(map(_words, e.overflowing)) for e in encodings)):
                return windows, encodings
            tried += 1
            room -= max(beyond, tried)


def _words(encoding: Encoding) -> int:
    """Tokens that stand for something in the text."""
    return len(encoding.ids) - sum(encoding.special_tokens_mask)


def _split_text(value: str, encoding: Encoding, room: int, most: int) -> Windows:
    """Cut a text that is too long into overlapping windows.

    Cuts fall between words, where there are any: a script without spaces is cut between signs, a word that is longer
    than half a window within. All windows but the only one are full; the last ends where the text does.
    """
    tags = list(tags_of(value).finditer(value))
    spans = _spans(encoding)
    inside = np.zeros(len(value) + 1, dtype=bool)
    for tag in tags:
        inside[tag.start() : tag.end()] = True
    words = [span for span in spans if not inside[span[0] : span[1]].any()]
    room -= len(spans) - len(words)
    if room < LEAST_ROOM or len(words) <= room:
        return one_window(value, whole=False)
    room = min(room, max(LEAST, math.ceil(len(words) / (1 + (most - 1) * (1 - 1 / OVERLAP)))))
    cuts = [i == 0 or bool(_APART.search(value[words[i - 1][1] : words[i][0] + 1])) for i in range(len(words))]
    places: list[tuple[int, int]] = []
    start, end, last = 0, 0, len(words) - room
    while end < len(words) and len(places) < most:
        end = _cut(cuts, start + room, start + room // 2)
        places.append((words[start][0], words[end - 1][1]))
        start = end - room // OVERLAP
        if start < last:
            start = _cut(cuts, start, end - room // 2)
        else:  # the last one, which is to reach the end
            start = next((i for i in range(last, end) if cuts[i]), last)
    texts = tuple(_between(value, tags, first, last) for first, last in places)
    return Windows(texts, tuple(places), end == len(words))


def _spans(encoding: Encoding) -> list[tuple[int, int]]:
    """Where each token stands in the text, those that the tokenizer adds left out."""
    found = []
    for part in (encoding, *encoding.overflowing):
        found += [span for span, added in zip(part.offsets, part.special_tokens_mask, strict=True) if not added]
    return sorted((start, end) for start, end in found if end > start)


def _cut(cuts: Sequence[bool], place: int, least: int) -> int:
    """The last place between words up to here; this very one, where there is none from ``least`` on."""
    if place >= len(cuts):
        return len(cuts)
    return next((i for i in range(place, least - 1, -1) if cuts[i]), place)


def _between(value: str, tags: Sequence[re.Match[str]], first: int, last: int) -> str:
    """The tags of a text, and its words between two places."""
    pieces, at = [], 0
    for tag in tags:
        pieces += [value[max(at, first) : min(tag.start(), last)], tag[0]]
        at = tag.end()
    return " ".join(" ".join([*pieces, value[max(at, first) : last]]).split())


def is_highest(classes: Sequence[object]) -> bool:
    """Whether one window speaks for a text: where there is a positive class (0 and 1); else all of them do."""
    return list(classes) == [0, 1]


def join_windows(
    columns: Mapping[str, Floats], counts: Sequence[int], *, highest: bool, offsets: Sequence[float] = ()
) -> dict[str, Floats]:
    """What stands for each text, of what an encoder gave of its windows; a text of one window keeps it to the bit.

    With ``highest`` the window whose positive log-odds are the highest, as it is enough that abuse stands somewhere.
    Else the mean over the windows; that of logits is the mean log-probability but for a number that all classes share,
    and is what the head makes of the mean features.

    Parameters
    ----------
    columns : mapping
        Name -> ``[m, d]``, the windows of the first text first; ``logits`` are among them.
    counts : sequence of int, [n]
        Windows of each text; m in sum.
    offsets : sequence of float
        By how much the highest of one, two, ... windows is too high (`fit_offsets`); the log-odds are lowered by it.
    """
    sizes = np.asarray(counts, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    if len(sizes) == 0 or sizes.max() == 1:
        return dict(columns)
    if not highest:
        shares = np.float32(1) / sizes.astype(np.float32)[:, None]
        return {name: np.add.reduceat(column, starts) * shares for name, column in columns.items()}
    odds = columns["logits"][:, 1] - columns["logits"][:, 0]
    best = [start + int(odds[start : start + size].argmax()) for start, size in zip(starts, sizes, strict=True)]
    found = {name: column[best] for name, column in columns.items()}
    if len(offsets):
        lowered = np.array([offsets[size - 1] for size in sizes], dtype=np.float32) / 2
        found["logits"] = found["logits"] + np.stack([lowered, -lowered], axis=1)
    return found


def fit_offsets(odds: ArrayLike, counts: ArrayLike, labels: ArrayLike, most: int) -> list[float]:
    """By how much the highest log-odds of several windows exceed what the labels bear out, beyond those of one window.

    The highest of several is higher by chance alone, so that long posts would raise more false alarms. For 2, 3 to 4, 5
    to 8 windows and so on the offset is what brings the mean probability to the share of positives, less the same for
    texts of one window. With fewer than `LEAST_ROWS` of either class it is that of fewer windows.

    Parameters
    ----------
    odds : [n]
        The highest, by heads that have not seen the text.
    counts, labels : [n]
        Windows of each text, and 0 or 1; rows with another label are left out.
    most : int

    Returns
    -------
    list of float
        For 1 to ``most`` windows, 0 first; empty where no text of several can be judged.
    """
    z, n, y = np.asarray(odds, dtype=np.float64), np.asarray(counts), np.asarray(labels)
    several = _group(n)
    excess: dict[int, float] = {}
    for group in np.unique(several).tolist():
        rows = several == group
        if min((rows & (y == label)).sum() for label in (0, 1)) >= LEAST_ROWS:
            excess[group] = _excess(z[rows & (y >= 0)], float(y[rows & (y >= 0)].mean()))
    if 0 not in excess or len(excess) == 1:
        return []
    groups = _group(np.arange(1, most + 1)).tolist()
    return [excess[max(g for g in excess if g <= group)] - excess[0] for group in groups]


def _group(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for one window, 1 for 2, 2 for 3 to 4, 3 for 5 to 8, ..."""
    return np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64)


def _excess(odds: NDArray[np.float64], share: float) -> float:
    """What has to be taken from log-odds for their mean probability to be this share; by bisection."""
    low, high = float(odds.min()) - 30, float(odds.max()) + 30
    for _ in range(60):
        middle = (low + high) / 2
        above = (0.5 * (1 + np.tanh((odds - middle) / 2))).mean() > share
        low, high = (middle, high) if above else (low, middle)
    return low
