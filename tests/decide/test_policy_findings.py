"""A bound that wants for rows says how many are missing, before anybody relies on it."""

import numpy as np
import pytest

from bifocal.config import ThresholdConfig
from bifocal.decide.policy_findings import few_for_bound, threshold_findings
from bifocal.decide.thresholds import choose_threshold
from bifocal.errors import DataError

LABELS = np.array([0] * 30 + [1] * 20)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"by": "fpr", "bound": 0.02}, "takes 50 negative rows, found 30: 20 are missing"),
        ({"by": "recall", "bound": 0.98}, "takes 50 positive rows, found 20: 30 are missing"),
        ({"by": "capacity", "bound": 0.01}, "takes 100 tuning rows, found 50: 50 are missing"),
        ({"by": "precision", "bound": 0.96}, "takes 24 positive rows, found 20: 4 are missing"),
        # Of 51 rows that all are right the lower end at 99.5%, a 20th of 10%, is 0.9013, of 50 it is 0.8995.
        ({"by": "precision", "bound": 0.9, "confidence": 0.9}, "takes 51 positive rows, found 20: 31 are missing"),
        # Without an error among 149 rows the upper end at 95% is 0.0199, among 148 it is 0.0200 and more.
        ({"by": "fpr", "bound": 0.02, "confidence": 0.95}, "takes 149 negative rows, found 30: 119 are missing"),
    ],
)
def test_it_says_how_many_rows_are_missing(rule, says):
    (finding,) = few_for_bound("mm_fusion", LABELS, ThresholdConfig(**rule))
    assert finding.startswith("mm_fusion: ") and says in finding


def test_a_confident_precision_that_is_kept_to_lacks_no_rows():
    """Among few ranks there are fewer places to look in, and so less to divide the risk by."""
    rule, labels = ThresholdConfig(by="precision", bound=0.9, confidence=0.9), np.array([0] * 40 + [1] * 45)
    chosen = choose_threshold(labels, np.repeat([0.1, 0.9], [40, 45]), rule)
    assert chosen.met and few_for_bound("m", labels, rule, met=chosen.met) == []
    assert few_for_bound("m", labels, rule)


@pytest.mark.parametrize(("by_hand", "told"), [(True, "ask for less, or"), (False, "less in `decide.threshold.bound`")])
def test_a_bound_that_is_not_kept_to_is_to_be_lowered_where_it_was_asked(by_hand, told):
    rule, labels = ThresholdConfig(by="fpr", bound=0.01), np.arange(100) % 2
    chosen = choose_threshold(labels, np.full(100, 0.5), rule)
    with pytest.raises(DataError, match=told):
        threshold_findings("m", chosen, rule, decides=True, by_hand=by_hand)


@pytest.mark.parametrize(
    "rule",
    [
        {"by": "fpr", "bound": 0.1},
        {"by": "recall", "bound": 0.95},
        {"by": "precision", "bound": 0.95},
        {"by": "macro_f1"},
    ],
)
def test_it_is_silent_where_there_are_enough_or_nothing_is_promised(rule):
    assert few_for_bound("mm_fusion", LABELS, ThresholdConfig(**rule)) == []
