"""Which terms a text holds and what each weighs: scikit-learn's TF-IDF over words and over the letters inside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt

from ..config import Strict
from ..errors import ModelError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def _rising(lengths: tuple[int, int]) -> tuple[int, int]:
    if lengths[0] > lengths[1]:
        raise ValueError(f"runs from {lengths[0]} to {lengths[1]}; name the shorter length first")
    return lengths


Lengths = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_rising)]


class TermOptions(Strict):
    """Which n-grams are terms, and how they are weighed."""

    word_ngrams: Lengths = (1, 2)
    """Shortest and longest run of words."""
    char_ngrams: Lengths = (2, 5)
    """Shortest and longest run of characters inside a word, its borders included."""
    min_count: PositiveInt = 2
    """Training texts that a term must stand in."""
    max_terms: Annotated[int, Field(ge=1, le=2**22)] = 20_000
    """Terms of either kind, the most frequent ones; float32 counts to 2**24 exactly."""
    sublinear: bool = True
    """Count a term that stands in a text t times as 1 + ln t."""


class Terms:
    """The vocabulary of some texts, and how much each of its terms tells.

    Parameters
    ----------
    vocabulary : mapping
        ``words``, ``characters`` -> terms in the order of their columns; a kind without terms is left out.
    idf : np.ndarray, [V]
        Inverse document frequencies (smoothed), for the columns of all kinds one after another.
    options : TermOptions
    """

    def __init__(self, vocabulary: Mapping[str, Sequence[str]], idf: np.ndarray, options: TermOptions):
        self.vocabulary = dict(vocabulary)
        self.idf = idf
        self.options = options
        self._kinds = []
        start = 0
        for kind, terms in self.vocabulary.items():
            vectorizer = _vectorizer(kind, options, terms)
            vectorizer.idf_ = idf[start : start + len(terms)]
            self._kinds.append(vectorizer)
            start += len(terms)

    @classmethod
    def of(cls, texts: Sequence[str], options: TermOptions) -> Self:
        """The terms of some texts, read twice.

        Raises
        ------
        ModelError
            Where no term stands in ``min_count`` of them.
        """
        vocabulary, idf = {}, []
        for kind in ("words", "characters"):
            vectorizer = _vectorizer(kind, options)
            try:
                vectorizer.fit(texts)
            except ValueError:  # scikit-learn's answer where no term is left; emoji alone are no words
                continue
            vocabulary[kind] = vectorizer.get_feature_names_out().tolist()
            idf.append(vectorizer.idf_)
        if not vocabulary:
            raise ModelError(
                f"the {len(texts)} training texts hold no term that stands in {options.min_count} of them "
                f"({sum(not text.strip() for text in texts)} are empty): give more rows, lower options.min_count, or "
                "leave the text out"
            )
        return cls(vocabulary, np.concatenate(idf), options)

    def __len__(self) -> int:
        return len(self.idf)

    def __call__(self, texts: Iterable[str]) -> csr_array:
        """TF-IDF ``[n, V]`` float32 of one text or more; the terms of each kind have Euclidean norm 1, or 0."""
        from scipy.sparse import csr_array, hstack

        return csr_array(hstack([vectorizer.transform(texts) for vectorizer in self._kinds], format="csr"))


def _vectorizer(kind: str, options: TermOptions, vocabulary: Sequence[str] | None = None) -> Any:
    """Counts n-grams of ``words`` or ``characters``; those of a ``vocabulary`` alone, where there is one."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from .letter_ngrams import LetterNgrams

    return (TfidfVectorizer if kind == "words" else LetterNgrams)(
        analyzer="word" if kind == "words" else "char_wb",
        ngram_range=options.word_ngrams if kind == "words" else options.char_ngrams,
        sublinear_tf=options.sublinear,
        dtype=np.float32,
        vocabulary=vocabulary,
        min_df=options.min_count,
        max_features=options.max_terms,
    )


def top_terms(rows: csr_array, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``width`` heaviest terms of each row: columns and weights, both ``[n, width]`` float32.

    A row of fewer is filled with column 0 of weight 0, which changes no sum.
    """
    terms, weights = np.zeros((2, rows.shape[0], width), np.float32)
    for i in range(rows.shape[0]):
        row = slice(rows.indptr[i], rows.indptr[i + 1])
        kept = np.argsort(-rows.data[row], kind="stable")[:width]
        terms[i, : len(kept)] = rows.indices[row][kept]
        weights[i, : len(kept)] = rows.data[row][kept]
    return terms, weights


def from_heaviest(terms: np.ndarray, weights: np.ndarray, columns: int) -> csr_array:
    """Rows ``[n, columns]`` float32 of what `top_terms` gave."""
    from scipy.sparse import csr_array

    there = weights != 0
    ends = np.concatenate([[0], np.count_nonzero(there, axis=1).cumsum()])
    return csr_array((weights[there], terms[there].astype(np.int32), ends), shape=(len(terms), columns))
