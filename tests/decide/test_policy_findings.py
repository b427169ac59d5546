"""A bound that wants for rows says how many are missing, before anybody relies on it."""

import numpy as np
import pytest

from bifocal.config import ThresholdConfig
from bifocal.decide.policy_findings import few_for_bound

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
