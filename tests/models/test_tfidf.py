"""Terms are those of scikit-learn's vectorisers, and survive being written as JSON and numbers."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from bifocal.errors import ModelError
from bifocal.models.letter_ngrams import LetterNgrams
from bifocal.models.tfidf import TermOptions, Terms, from_heaviest, top_terms

TEXTS = [
    "The old stone bridge, the OLD one",
    "an old mill by the river",
    "",
    "river stone 🪨 river",
    "Brücke über den Fluß",
]
OTHERS = ["the stone mill", "nothing of it", "", "🪨"]


def dense(rows):
    return rows.toarray()


@pytest.mark.parametrize("sublinear", [True, False])
def test_terms_are_those_of_scikit_learn(sublinear):
    terms = Terms.of(TEXTS, TermOptions(word_ngrams=(1, 2), char_ngrams=(2, 4), min_count=2, sublinear=sublinear))
    settings = {"min_df": 2, "sublinear_tf": sublinear}
    reference = make_union(
        TfidfVectorizer(ngram_range=(1, 2), **settings),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), **settings),
    ).fit(TEXTS)
    np.testing.assert_allclose(dense(terms(OTHERS)), reference.transform(OTHERS).toarray(), atol=1e-6)
    assert [*terms.vocabulary["words"][:2], terms.vocabulary["characters"][0]] == ["old", "river", " b"]


def test_each_kind_of_terms_has_length_one():
    terms = Terms.of(TEXTS, TermOptions())
    words = len(terms.vocabulary["words"])
    squares = dense(terms(OTHERS)) ** 2
    np.testing.assert_allclose(squares[:, :words].sum(axis=1), [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(squares[:, words:].sum(axis=1), [1, 1, 0, 0], atol=1e-6)


def test_terms_survive_json():
    terms = Terms.of(TEXTS, TermOptions(min_count=1))
    again = Terms(json.loads(json.dumps(terms.vocabulary)), terms.idf.copy(), terms.options)
    assert len(again) == len(terms) == sum(map(len, terms.vocabulary.values()))
    np.testing.assert_array_equal(dense(again(TEXTS + OTHERS)), dense(terms(TEXTS + OTHERS)))


def test_the_most_frequent_terms_are_kept():
    terms = Terms.of(TEXTS, TermOptions(word_ngrams=(1, 1), max_terms=3, min_count=1))
    assert terms.vocabulary["words"] == ["old", "river", "the"]
    assert len(terms.vocabulary["characters"]) == 3


def test_texts_without_words_have_characters_still():
    terms = Terms.of(["🪨", "🪨🪨", "!"], TermOptions())
    assert list(terms.vocabulary) == ["characters"]
    assert dense(terms(["🪨"])).any()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["", " ", ""], r"3 training texts .* stands in 2 of them \(3 are empty\)"),
        (["one", "two", ""], r"stands in 2 .*\(1 are empty\): give more rows, lower options.min_count"),
        ([], "the 0 training texts"),
    ],
)
def test_texts_without_common_terms_are_refused(texts, said):
    with pytest.raises(ModelError, match=said):
        Terms.of(texts, TermOptions(char_ngrams=(5, 5)))


@pytest.mark.parametrize(
    "wrong",
    [{"char_ngrams": (5, 2)}, {"word_ngrams": (0, 1)}, {"min_count": 0}, {"max_terms": 2**24}, {"word_ngram": (1, 1)}],
)
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        TermOptions(**wrong)


def test_rows_survive_being_listed_by_their_terms():
    rows = csr_array(np.array([[0, 0.5, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32))
    terms, weights = top_terms(rows, 6)
    assert terms.shape == weights.shape == (3, 6)
    np.testing.assert_array_equal(dense(from_heaviest(terms, weights, 4)), dense(rows))


def test_the_heaviest_terms_are_kept_and_the_first_of_equals():
    rows = np.ones((2, 100), np.float32)
    rows[0, [0, 7, 90, 91]] = [0, 2, 3, 2]
    terms, weights = top_terms(csr_array(rows), 4)
    assert terms.tolist() == [[90, 7, 91, 1], [0, 1, 2, 3]]
    assert weights.tolist() == [[3, 2, 2, 1], [1, 1, 1, 1]]


def test_rows_of_zeros_hold_no_term():
    """The evidence of an absent part is filled with zeros, and term 0 is a term like others."""
    rows = from_heaviest(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), 5)
    assert rows.shape == (2, 5) and rows.nnz == 0


def test_letters_are_counted_as_scikit_learn_counts_them():
    """To the byte, though each distinct word is cut once: the files of a run depend on it."""
    texts = [*TEXTS, *OTHERS, " ", "İstanbul ΟΔΥΣΣΕΎΣ\u2003ΑΣ\x1cb", "a a  a\n\na"]
    settings = {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True, "dtype": np.float32}
    rows = []
    for kind in (TfidfVectorizer, LetterNgrams):
        vectorizer = kind(min_df=2, max_features=30, **settings)
        found = vectorizer.fit_transform(texts)
        terms = vectorizer.get_feature_names_out().tolist()
        again = kind(vocabulary=terms, **settings)
        again.idf_ = vectorizer.idf_
        rows.append((terms, found, again.transform(texts[::-1]), again.transform([""])))
    assert rows[0][0] == rows[1][0]
    for one, other in zip(rows[0][1:], rows[1][1:], strict=True):
        for name in ("data", "indices", "indptr"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
