"""Expected positives are those of a penalised logistic regression, whatever the rows look like."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from bifocal.decide.calibration_methods import LOOSE, STEEP
from bifocal.decide.smoothing import expected_positives


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 1.5, n)
    return z, (rng.random(n) < 1 / (1 + np.exp(-0.6 * z - 0.8))).astype(float)


def test_it_is_logistic_regression_with_priors_that_many_rows_outweigh():
    z, y = drawn(20_000)
    plain = LogisticRegression(C=np.inf).fit(z[:, None], y).predict_proba(z[:, None])[:, 1]
    assert expected_positives(1 / (1 + np.exp(-z)), y, np.ones(20_000)) == pytest.approx(plain, abs=1e-3)

    def loss(theta):
        odds = theta[0] * z[:30] + theta[1]
        priors = ((theta[0] - 1) / STEEP) ** 2 / 2 + (theta[1] / LOOSE) ** 2 / 2
        return np.sum(np.logaddexp(0, odds) - y[:30] * odds) + priors

    theta = minimize(loss, [1.0, 0.0], tol=1e-10).x
    few = expected_positives(1 / (1 + np.exp(-z[:30])), y[:30], np.ones(30))
    assert few == pytest.approx(1 / (1 + np.exp(-theta[0] * z[:30] - theta[1])), abs=1e-4)


def test_rows_of_one_probability_count_together_and_weights_count_rows():
    z, y = drawn(100)
    p = (1 / (1 + np.exp(-z))).round(1)
    each = expected_positives(p, y, np.ones(100))
    values, place = np.unique(p, return_inverse=True)
    together = expected_positives(values, np.bincount(place, y), np.bincount(place).astype(float))
    assert together == pytest.approx(np.bincount(place, each), abs=1e-5)
    w = np.where(y == 1, 3.0, 1.0)
    twice = np.repeat(np.arange(100), w.astype(int))
    repeated = expected_positives(p[twice], y[twice], np.ones(len(twice)))
    assert expected_positives(p, w * y, w) == pytest.approx(np.bincount(twice, repeated), abs=1e-5)


@pytest.mark.parametrize("p", [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.5] * 4, [1e-9, 0.2, 0.3, 1.0]])
def test_certain_equal_and_reversed_scores_end_in_shares(p):
    found = expected_positives(np.array(p), np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4))
    assert np.all((found >= 0) & (found <= 1)) and 1 < found.sum() < 3
