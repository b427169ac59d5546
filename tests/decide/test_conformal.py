"""Conformal limits meet their known answers, and keep their promise over many splits of a pool."""

import numpy as np
import pytest

from bifocal.decide.conformal import alarm_threshold, least_rows, risk_threshold, split_quantile
from bifocal.errors import DataError

HUNDREDTHS = [i / 100 for i in range(1, 100)]


def test_known_answers():
    assert split_quantile(HUNDREDTHS, 0.1) == 0.90
    assert risk_threshold(HUNDREDTHS, 0.1) == 0.10
    assert alarm_threshold(HUNDREDTHS, 0.1) == np.nextafter(0.90, 1)  # 9 of 99 above, as 9 of 99 are missed below


@pytest.mark.parametrize(("alpha", "least"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_with_too_few_rows_there_is_no_guarantee(alpha, least):
    assert least_rows(alpha) == least
    for limit in (risk_threshold, alarm_threshold):
        assert limit(np.linspace(0, 1, least), alpha) is not None
        assert limit(np.linspace(0, 1, least - 1), alpha) is None
    assert split_quantile(np.linspace(1, 0, least), alpha) == 1
    assert split_quantile(np.linspace(0, 1, least - 1), alpha) == np.inf


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": 1}, {"scores": [np.nan]}, {"scores": [np.inf]}])
def test_what_makes_no_sense_is_refused(wrong):
    for limit in (split_quantile, risk_threshold, alarm_threshold):
        with pytest.raises(DataError):
            limit(**{"scores": [0.5], "alpha": 0.1, **wrong})


@pytest.mark.parametrize("ties", [None, 2, 1], ids=["continuous", "hundredths", "tenths"])
@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_mean_risk_over_500_splits_of_a_pool_is_at_most_alpha(alpha, ties):
    rng = np.random.default_rng(0)
    pool = rng.beta(2, 3, 6000)
    pool = pool if ties is None else pool.round(ties)
    risks = {"missed": [], "flagged": [], "beyond": []}
    for _ in range(500):
        rng.shuffle(pool)
        known, rest = pool[:300], pool[300:]
        risks["missed"].append(np.mean(rest < risk_threshold(known, alpha)))
        risks["flagged"].append(np.mean(rest >= alarm_threshold(known, alpha)))
        risks["beyond"].append(np.mean(rest > split_quantile(known, alpha)))
    for name, found in risks.items():
        assert np.mean(found) <= alpha + 2 * np.std(found) / np.sqrt(500), name
        assert ties or np.mean(found) >= alpha - 1 / 301 - 2 * np.std(found) / np.sqrt(500), name
