"""Near-duplicates: which rows are one post in other clothes, and must therefore share a split.

A picture's hash alone merges every meme drawn on one template, a text's words alone every "good morning"; hash AND text
decide. Candidates for both conditions come from exact filters, so no pair is missed and no all-pairs table is built.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..example import Example
from ..modalities.text import ALONE, tags_of
from .splits import factorize

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NEAR_BITS = 31
"""PDQ distance up to which two pictures are near (of 256; PDQ's authors' own threshold). One meme after JPEG-60 and a
resize stood up to 28 away from itself, two captions on one template as little as 20 from each other."""
NEAR_TEXT = 0.9
"""Share of words in common, ``2 * matching / total`` (difflib's ratio), from which two texts are near-equal."""
WORDS_TO_IDENTIFY = 3
"""Identical texts of fewer words ("so true") say nothing about their posts without the picture."""
BANDS = 16
"""16 bands of 16 bits: of two hashes at most 31 bits apart, one band differs in at most one bit (31 < 16 * 2)."""
PAIRS_AT_ONCE = 2_000_000
FILTERED_AT_ONCE = 20_000
COMPARED_AT_ONCE = 500

Ints = NDArray[np.int64]

# Marks belong to the letter before them.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0dff"
_WORD = re.compile(rf"[{ALONE}]|(?:[^\W_{ALONE}]|[{_MARKS}])+")


def duplicate_groups(
    ids: Sequence[str], texts: Sequence[str], hashes: Sequence[str | None], own: Sequence[str | None]
) -> list[str]:
    """Group rows that are near-duplicates of one another, directly or through others (connected components).

    Two rows are joined where

    - their pictures are near (PDQ distance <= 31) and their texts near-equal: difflib's ratio over case-folded words
      >= 0.9, or both without words;
    - their texts hold the same three or more words in the same order;
    - the source gave them the same group.

    Both filters are exact. Pictures: a band of the hash differs in at most one bit (multi-index hashing, Norouzi et al.
    2012, arXiv:1307.2982). Texts: near-equal texts share one of their rarest words (prefix filtering, Xiao et al. 2011,
    doi:10.1145/2000824.2000825). Only pairs that pass both are looked at, and only while they are not yet joined; a
    template with thousands of captions costs what its captions have in common.

    Parameters
    ----------
    ids : sequence of str, [n]
    texts : sequence of str, [n]
        Composed texts; tags and language do not count.
    hashes : sequence of str or None, [n]
        PDQ hashes as 64 hex digits; None = no picture.
    own : sequence of str or None, [n]
        The source's groups.

    Returns
    -------
    list of str, [n]
        The id of the first row of each row's group.

    Raises
    ------
    DataError
        On a hash that is not 64 hex digits.
    """
    if not ids:
        return []
    words = _Words(texts)
    joined = _Components(len(ids))
    joined.add_equal(factorize(own))
    joined.add_equal(np.where(words.length >= WORDS_TO_IDENTIFY, words.text, -1))
    pictured = np.flatnonzero([pdq is not None for pdq in hashes])
    bits = _bits(pictured, ids, hashes)
    _, first, kind = np.unique(
        np.column_stack([bits.view(np.int64), words.text[pictured]]), axis=0, return_index=True, return_inverse=True
    )
    joined.add(pictured, pictured[first[kind]])
    if len(first) > 1:
        rows = pictured[first]
        near = _Components(len(rows))
        near.add_equal(joined.labels()[rows])
        _join_near(bits[first], _Captions(words, rows), near)
        labels = near.labels()
        joined.add(rows, rows[np.unique(labels, return_index=True)[1][labels]])
    labels = joined.labels()
    first = np.unique(labels, return_index=True)[1]
    return [ids[row] for row in first[labels]]


def joined_groups(groups: Sequence[str], contents: Sequence[str]) -> list[str]:
    """The group of each row, groups that hold a row of equal content being one, called as the first of them."""
    joined = _Components(len(groups))
    for values in (groups, contents):
        joined.add_equal(factorize(values))
    labels = joined.labels()
    first = np.unique(labels, return_index=True)[1]
    return [groups[row] for row in first[labels]]


def words_of(composed: str) -> list[str]:
    """The words of a composed text by which it is compared: without tags, case and punctuation."""
    return _WORD.findall(tags_of(composed).sub(" ", composed).casefold())


def rows_with_near_duplicates(
    ids: Sequence[str],
    texts: Sequence[str],
    hashes: Sequence[str | None],
    own: Sequence[str | None],
    groups: Sequence[str],
) -> int:
    """Rows that have a near-duplicate, the source's own groups left aside (one author's posts are no duplicates).

    ``groups`` is what `duplicate_groups` made of the others, and already the answer where the source has none.
    """
    return rows_in_shared_groups(duplicate_groups(ids, texts, hashes, [None] * len(own)) if any(own) else groups)


def picture_hash(example: Example) -> str | None:
    """The PDQ hash that the manifest keeps of an example's picture; None where it has none."""
    return next((facts["pdq"] for facts in example.meta["facts"].values() if "pdq" in facts), None)


def rows_in_shared_groups(groups: Sequence[str]) -> int:
    """Rows whose group holds others."""
    return sum(n for n in Counter(groups).values() if n > 1)


def _join_near(bits: NDArray[np.uint64], captions: _Captions, joined: _Components) -> None:
    """Join all rows near in picture (``bits [n, 4]``) and text."""
    bands = bits.view(np.uint16)
    for band in range(BANDS):
        for candidates in _candidates(captions, bands[:, band], joined):
            left, right = joined.apart(*candidates)
            difference = bits[left] ^ bits[right]
            near = np.bitwise_count(difference).sum(1) <= NEAR_BITS
            # A pair that an earlier band brought up has been judged there.
            lanes = np.bitwise_count(difference[near].view(np.uint16)) <= 1
            fresh = lanes.argmax(1) == band
            left, right = left[near][fresh], right[near][fresh]
            same = captions.number[left] == captions.number[right]
            joined.add(left[same], right[same])
            _join_near_texts(left[~same], right[~same], captions, joined)


def _join_near_texts(left: Ints, right: Ints, captions: _Captions, joined: _Components) -> None:
    """Piece by piece, so that what one piece joins the next need not compare."""
    for start in range(0, len(left), FILTERED_AT_ONCE):
        piece = slice(start, start + FILTERED_AT_ONCE)
        a, b = captions.comparable(*joined.apart(left[piece], right[piece]))
        for inner in range(0, len(a), COMPARED_AT_ONCE):
            piece = slice(inner, inner + COMPARED_AT_ONCE)
            joined.add(*captions.near_equal(*joined.apart(a[piece], b[piece])))


def _candidates(captions: _Captions, band: NDArray[np.uint16], joined: _Components) -> Iterator[tuple[Ints, Ints]]:
    """Pairs that share a rare word and differ in at most one bit of a band, a few million at a time."""
    keys = captions.marks << 16 | band[captions.members].astype(np.int64)
    order = np.argsort(keys, kind="stable")
    keys, members = keys[order], captions.members[order]
    if not len(keys):
        return
    values, starts, counts = np.unique(keys, return_index=True, return_counts=True)

    def unsettled(some: Ints, others: Ints) -> NDArray[np.bool_]:
        """Which pairs of buckets hold rows that are not all joined yet."""
        labels = joined.labels()[members]
        low, high = np.minimum.reduceat(labels, starts), np.maximum.reduceat(labels, starts)
        return np.minimum(low[some], low[others]) != np.maximum(high[some], high[others])

    every = np.arange(len(values))
    one = every[unsettled(every, every)]
    here = _ranges(starts[one], counts[one])
    # Within a bucket: each entry with those after it.
    yield from _pairs(members, here, here + 1, np.repeat(starts[one] + counts[one], counts[one]) - here - 1)
    for bit in range(16):
        one = every[(values >> bit & 1) == 0]
        other = np.minimum(np.searchsorted(values, values[one] | 1 << bit), len(values) - 1)
        met = values[other] == values[one] | 1 << bit
        one, other = one[met], other[met]
        open_ = unsettled(one, other)
        one, other = one[open_], other[open_]
        n = counts[one]
        yield from _pairs(members, _ranges(starts[one], n), np.repeat(starts[other], n), np.repeat(counts[other], n))


def _pairs(members: Ints, here: Ints, starts: Ints, counts: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Entry ``here[k]`` with each of the ``counts[k]`` entries from ``starts[k]`` on, in chunks."""
    total = np.cumsum(counts)
    begin = 0
    while begin < len(here):
        done = total[begin - 1] if begin else 0
        end = max(int(np.searchsorted(total, done + PAIRS_AT_ONCE, side="right")), begin + 1)
        some = slice(begin, end)
        begin = end
        if (n := counts[some]).any():
            yield members[np.repeat(here[some], n)], members[_ranges(starts[some], n)]


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """``starts[k], starts[k] + 1, ...`` (``counts[k]`` of them) for each k, in a row."""
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def _bits(rows: Ints, ids: Sequence[str], hashes: Sequence[str | None]) -> NDArray[np.uint64]:
    """The hashes of some rows, ``[m, 4]``."""
    digits = bytearray()
    for row in rows:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", hashes[row] or ""):
            raise DataError(
                f"row {ids[row]!r}: a PDQ hash has 64 hex digits, found {hashes[row]!r}: run the step `manifest` again"
            )
        digits += bytes.fromhex(hashes[row] or "")
    return np.frombuffer(digits, dtype=np.uint64).reshape(-1, 4)


class _Words:
    """The texts as numbers of their words: 60 bytes a text where strings would take ten times as much.

    Attributes
    ----------
    codes : int32 array
        The words of all texts in a row, numbered in alphabetical order.
    starts, length : int64 arrays, [n]
        Where in ``codes`` each text begins, and how many words it has.
    text : int64 array, [n]
        Equal for texts of the same words in the same order, and for them alone.
    vocabulary : int
        Number of distinct words.
    """

    def __init__(self, texts: Iterable[str]):
        numbers: dict[str, int] = {}
        codes, ends = array("i"), array("q", [0])
        for text in texts:
            codes.extend(numbers.setdefault(word, len(numbers)) for word in words_of(text))
            ends.append(len(codes))
        self.vocabulary = len(numbers)
        place = np.empty(len(numbers), dtype=np.int32)
        place[[numbers[word] for word in sorted(numbers)]] = np.arange(len(numbers), dtype=np.int32)
        self.codes: NDArray[np.int32] = place[np.frombuffer(codes, dtype=np.int32)]
        bounds = np.frombuffer(ends, dtype=np.int64)
        self.starts: Ints = bounds[:-1]
        self.length: Ints = np.diff(bounds)
        self.text = factorize(self[row].tobytes() for row in range(len(self.starts)))

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """The words of one text."""
        return self.codes[self.starts[row] : self.starts[row] + self.length[row]]


class _Captions:
    """The words of some rows, and under which rare words these have to meet for their texts to be near-equal.

    Two multisets of a and b words with ratio >= 0.9 share at least 9 (a + b) / 20 words, hence at least 9 a / 11 of the
    a: sorted by rarity, they meet among the first ``a - ceil(9 a / 11) + 1`` of each.

    Attributes
    ----------
    number : int64 array, [m]
        Which of the distinct texts each row has.
    members, marks : int64 arrays, [k]
        Row ``members[j]`` is to be found under mark ``marks[j]``; marks of a single row are left out.
    """

    def __init__(self, words: _Words, rows: Ints):
        self.words = words
        _, first, self.number = np.unique(words.text[rows], return_index=True, return_inverse=True)
        self.texts = rows[first]
        self.length = words.length[self.texts]
        flat = words.codes[_ranges(words.starts[self.texts], self.length)].astype(np.int64)
        last = np.zeros(len(flat), dtype=bool)
        last[np.cumsum(self.length)[self.length > 0] - 1] = True
        neighbours = (flat[:-1] * words.vocabulary + flat[1:])[~last[:-1]]
        self.singles = _multisets(flat, self.length)
        self.doubles = _multisets(neighbours, np.maximum(self.length - 1, 0))
        marks, counts = self._rarest()
        starts = np.cumsum(counts) - counts
        members = np.repeat(np.arange(len(rows)), counts[self.number])
        marks = marks[_ranges(starts[self.number], counts[self.number])]
        shared = np.bincount(marks)[marks] > 1
        self.members: Ints = members[shared]
        self.marks: Ints = marks[shared]

    def _rarest(self) -> tuple[Ints, Ints]:
        """The marks of all texts in a row, and how many each has; texts without words meet under one of their own."""
        wordless = self.singles.shape[1]
        frequency = np.bincount(self.singles.indices, minlength=wordless)
        rank = np.empty(wordless, dtype=np.int64)
        rank[np.argsort(frequency, kind="stable")] = np.arange(wordless)
        empty = self.length == 0
        width = np.maximum(self.length, 1)
        marks = np.full(width.sum(), wordless)
        text = np.repeat(np.arange(len(width)), width)
        marks[~empty[text]] = rank[self.singles.indices]
        marks = marks[np.lexsort((marks, text))]
        counts = width - -(-9 * self.length // 11) + ~empty
        return marks[_ranges(np.cumsum(width) - width, counts)], counts

    def comparable(self, left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """The pairs whose texts may be near-equal, by what they have in common; difflib is too slow to see them all.

        Of M matching words (M >= 0.45 T of the T words of both) in blocks, at most T - 2 M + 1 blocks, M are words in
        common and at least 3 M - T - 1 >= 0.35 T - 1 pairs of neighbours are.
        """
        for table, slope, offset in ((self.singles, 0.45, 0), (self.doubles, 0.35, 1)):
            a, b = self.number[left], self.number[right]
            common = np.asarray(table[a].multiply(table[b]).sum(axis=1))
            enough = common >= slope * (self.length[a] + self.length[b]) - offset - 1e-9
            left, right = left[enough], right[enough]
        return left, right

    def near_equal(self, left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """The pairs whose texts are near-equal."""
        near = np.array([self._ratio(a, b) >= NEAR_TEXT for a, b in zip(left, right, strict=True)], dtype=bool)
        return left[near], right[near]

    def _ratio(self, left: int, right: int) -> float:
        # difflib's ratio depends on the order of its arguments; sorting makes it a property of the pair.
        a, b = sorted(self.words[self.texts[self.number[row]]].tolist() for row in (left, right))
        return SequenceMatcher(None, a, b, autojunk=False).ratio()


def _multisets(items: Ints, lengths: Ints) -> csr_array:
    """0/1 table [texts, tokens] of the items of all texts in a row; the second "ha" of a text is another token than
    the first."""
    from scipy.sparse import csr_array

    text = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((items, text))
    items = np.unique(items, return_inverse=True)[1][order]
    begins = np.ones(len(items), dtype=bool)
    begins[1:] = (items[1:] != items[:-1]) | (text[1:] != text[:-1])
    runs = np.flatnonzero(begins)
    nth = np.arange(len(items)) - np.repeat(runs, np.diff(np.append(runs, len(items))))
    columns = np.unique(items * (int(lengths.max(initial=0)) + 1) + nth, return_inverse=True)[1]
    shape = (len(lengths), max(int(columns.max(initial=0)) + 1, 1))
    return csr_array((np.ones(len(columns), np.int32), columns, np.append(0, np.cumsum(lengths))), shape=shape)


class _Components:
    """Connected components that grow edge by edge; the edges are thinned as they come, so memory stays linear."""

    def __init__(self, n: int):
        self._labels: Ints = np.arange(n)
        self._edges: list[tuple[Ints, Ints]] = []

    def add(self, left: Ints, right: Ints) -> None:
        if len(left):
            self._edges.append((left, right))

    def add_equal(self, values: Ints) -> None:
        """Join rows of equal value; negative ones equal nothing."""
        rows = np.flatnonzero(values >= 0)
        _, first, which = np.unique(values[rows], return_index=True, return_inverse=True)
        self.add(rows, rows[first[which]])

    def labels(self) -> Ints:
        """The component of each row."""
        if self._edges:
            from scipy.sparse import coo_array
            from scipy.sparse.csgraph import connected_components

            left = self._labels[np.concatenate([edge[0] for edge in self._edges])]
            right = self._labels[np.concatenate([edge[1] for edge in self._edges])]
            n = int(self._labels.max()) + 1
            graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
            self._labels = connected_components(graph, directed=False)[1].astype(np.int64)[self._labels]
            self._edges = []
        return self._labels

    def apart(self, left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """The pairs that are not joined yet."""
        labels = self.labels()
        still = labels[left] != labels[right]
        return left[still], right[still]
