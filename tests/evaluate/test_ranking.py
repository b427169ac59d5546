import numpy as np
import pytest

from bifocal.evaluate.ranking import ClassRanking, Ranking

SCORES = np.array([0.2, 0.9, 0.5, 0.9, 0.1])


def test_rows_of_equal_score_are_one_run():
    ranking = Ranking(SCORES)
    assert ranking.order.tolist() == [1, 3, 2, 0, 4]
    assert ranking.starts.tolist() == [0, 2, 3, 4]
    assert ranking.ends.tolist() == [1, 2, 3, 4]
    assert ranking.thresholds.tolist() == [0.9, 0.5, 0.2, 0.1]
    assert ranking.cumulative(np.array([1, 10, 100, 1000, 10000])).tolist() == [1010, 1110, 1111, 11111]


def test_fewer_runs_hold_all_rows_down_to_them():
    ranking = Ranking(SCORES, most=2)
    assert ranking.thresholds.tolist() == [0.9, 0.1]
    assert ranking.cumulative(np.ones(5)).tolist() == [2, 5]


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_scikit_learns(ties):
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 2, 80), rng.random(80).round(1 if ties else 8)
    weights = rng.integers(0, 3, (3, 80)).astype(float)
    roc, pr = ClassRanking(y == 1, scores).areas(weights)
    for found_roc, found_pr, w in zip(roc, pr, weights, strict=True):
        assert found_roc == pytest.approx(roc_auc_score(y, scores, sample_weight=w))
        assert found_pr == pytest.approx(average_precision_score(y, scores, sample_weight=w))


def test_a_class_without_rows_has_no_areas():
    roc, pr = ClassRanking(np.zeros(5, bool), SCORES).areas(np.ones((2, 5)))
    assert np.isnan(roc).all() and np.isnan(pr).all()
