"""Curves keep their ends and their area when thinned, and thresholds are counted as the policy would decide."""

import numpy as np
import pytest

from bifocal.errors import DataError
from bifocal.evaluate.curves import (
    POINTS,
    precision_recall,
    reliability,
    reliability_target,
    risk_coverage,
    roc,
    threshold_counts,
)
from bifocal.evaluate.metrics import auprc, auroc


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 20_000)
    return y, 1 / (1 + np.exp(-rng.normal(1.5 * (2 * y - 1), 1.5)))


def test_a_thinned_roc_has_the_area_of_the_whole(scored):
    points = roc(*scored)
    assert len(points) <= POINTS and points[0] == (0, 0) and points[-1] == (1, 1)
    x, y = np.array(points).T
    assert (np.diff(x) >= 0).all() and np.trapezoid(y, x) == pytest.approx(auroc(*scored), abs=1e-3)


def test_a_thinned_precision_recall_curve_has_the_area_of_the_whole(scored):
    points = precision_recall(*scored)
    assert len(points) <= POINTS and points[-1][0] == 1 and points[-1][1] == pytest.approx(0.5, abs=0.02)
    x, y = np.array(points).T
    assert (np.diff(x) >= 0).all() and np.trapezoid(y, x) == pytest.approx(auprc(*scored), abs=3e-3)


def test_few_rows_are_drawn_as_they_are():
    assert roc([0, 1, 1], [0.2, 0.4, 0.9]) == [(0, 0), (0, 0.5), (0, 1), (1, 1)]
    assert precision_recall([0, 1, 1], [0.2, 0.4, 0.9]) == [(0.5, 1), (1, 1), (1, 2 / 3)]


@pytest.mark.parametrize("curve", [roc, precision_recall])
def test_one_class_has_no_curve(curve):
    assert curve([1, 1], [0.2, 0.4]) == []
    with pytest.raises(DataError, match="no rows"):
        curve([], [])


def test_reliability_is_of_class_1_or_of_the_likeliest():
    p, happened = reliability_target([1, 0], [[0.3, 0.7], [0.6, 0.4]])
    assert p.tolist() == [0.7, 0.4] and happened.tolist() == [True, False]
    p, happened = reliability_target([2, 0], [[0.2, 0.2, 0.6], [0.1, 0.5, 0.4]])
    assert p.tolist() == [0.6, 0.5] and happened.tolist() == [True, False]
    assert [b["n"] for b in reliability([0.05, 0.07, 0.95], [False, True, True])] == [2, 1]


def test_thresholds_are_counted():
    rows = threshold_counts([0, 1, 1, 0], [0.1, 0.3, 0.8, 0.9])
    assert rows[0] == {"threshold": 0, "tp": 2, "fp": 2, "fn": 0, "tn": 0, "review": 0}
    assert rows[30] == {"threshold": 0.3, "tp": 2, "fp": 1, "fn": 0, "tn": 1, "review": 0}
    assert rows[31]["fn"] == 1 and rows[100] == {"threshold": 1, "tp": 0, "fp": 0, "fn": 2, "tn": 2, "review": 0}


def test_the_band_decides_who_is_reviewed():
    rows = threshold_counts([0, 1, 1, 0], [0.1, 0.3, 0.8, 0.9], allow_below=[0.2] * 4, block_from=[0.85] * 4)
    assert rows[50]["review"] == 2  # 0.3 is not flagged and not sure to be allowed, 0.8 flagged and not sure
    assert rows[95]["review"] == 3  # nothing is flagged: three lie above the lower limit
    assert rows[0]["review"] == 3


def test_risk_rises_with_coverage_as_counted():
    points, area = risk_coverage([1, 1, 0, 0], [0.9, 0.8, 0.7, 0.4])
    assert points == [(0.25, 0), (0.5, 0), (0.75, pytest.approx(1 / 3)), (1, 0.25)]
    assert area == pytest.approx((0 + 0 + 1 / 3 + 0.25) / 4)
    points, area = risk_coverage([1, 0], [0.5, 0.5])
    assert points == [(1, 0.5)] and area == 0.5


def test_confidence_that_tells_nothing_has_the_error_rate_as_its_area(scored):
    y, p = scored
    rng = np.random.default_rng(0)
    told, blind = risk_coverage(y, p)[1], risk_coverage(y, rng.permutation(p), (p >= 0.5).astype(int))[1]
    wrong = ((p >= 0.5) != y).mean()
    assert told < wrong / 2 and blind == pytest.approx(wrong, abs=0.02)
