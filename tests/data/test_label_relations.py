"""How labels go together on rows whose labels are known."""

from dataclasses import replace

import numpy as np
import pytest

from bifocal.data.label_relations import contradictions_of, gaps_of, pairs_of, told_of
from bifocal.example import LABELS, Taxonomy

TAXONOMY = Taxonomy({**LABELS, "target_type": replace(LABELS["target_type"], requires="abuse_hate")})
NAMES = list(LABELS)


def rows(*given):
    return [dict(zip(NAMES, one, strict=True)) for one in given]


def test_pairs_count_rows_that_bear_both_of_two_binary_labels():
    found = pairs_of(
        rows((1, 1, None), (1, 1, "none"), (1, 0, None), (0, 1, None), (0, 0, None), (None, 1, None), (0, None, None)),
        NAMES,
        TAXONOMY,
    )
    assert found == [{"labels": ["abuse_hate", "offensive"], "both": 2, "first": 1, "second": 1, "neither": 1}]


def test_a_label_on_rows_that_its_own_is_not_asked_of_is_counted_by_class_and_told():
    given = rows((1, 1, "society"), (0, 1, "none"), (0, 1, "none"), (0, 0, "society"), (None, 0, "none"), (0, 0, None))
    found = contradictions_of(given, NAMES, TAXONOMY)
    assert found == {"target_type": {"requires": "abuse_hate", "negative": {"none": 2, "society": 1}, "unknown": 1}}
    assert told_of(found, []) == [
        "target_type is annotated on rows that are not positive by abuse_hate, which it requires: 3 where abuse_hate "
        "is 0 (2 x 'none', 1 x 'society') and 1 where abuse_hate is not annotated; they are kept for the other labels, "
        "and target_type is not learned from them"
    ]
    assert contradictions_of(given[:1], NAMES, TAXONOMY) == contradictions_of(given, NAMES[:2], TAXONOMY) == {}


def with_gaps(shares, n=1000, copies=1):
    """Rows of which ``offensive`` is annotated on these shares of the two classes of ``abuse_hate``."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(n // copies):
        y = i % 2
        found += rows((y, 1 if rng.random() < shares[y] else None, None)) * copies
    return found, [str(i // copies) for i in range(n // copies * copies)]


def test_a_label_that_is_missing_more_often_in_one_class_of_another_is_told():
    given, groups = with_gaps((0.8, 0.4))
    (gap,) = gaps_of(given, groups, NAMES, TAXONOMY)
    assert (gap["label"], gap["by"]) == ("offensive", "abuse_hate")
    assert gap["annotated"] == {"0": pytest.approx(0.8, abs=0.04), "1": pytest.approx(0.4, abs=0.04)}
    (told,) = told_of({}, [gap])
    assert told.startswith("offensive is annotated on ") and " of '0', " in told and "of '1' by abuse_hate" in told


def test_what_chance_may_have_left_out_is_not_told_and_copies_of_a_post_count_once():
    assert gaps_of(*with_gaps((0.5, 0.5)), NAMES, TAXONOMY) == []
    given, groups = with_gaps((0.8, 0.4), n=960, copies=24)
    assert gaps_of(given, [str(i) for i in range(960)], NAMES, TAXONOMY)
    assert gaps_of(given, groups, NAMES, TAXONOMY) == []


def test_a_label_is_no_gap_where_it_is_not_asked():
    given = rows(*[(i % 2, 1, "none" if i % 2 else None) for i in range(400)])
    assert gaps_of(given, [str(i) for i in range(400)], NAMES, TAXONOMY) == []
