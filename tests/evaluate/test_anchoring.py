"""Thresholds by what an older model does."""

import numpy as np
import pytest

from bifocal.evaluate.anchoring import threshold_of_rate, threshold_of_share


def test_the_same_share_is_flagged_whatever_the_scale_of_the_scores():
    rng = np.random.default_rng(0)
    p = rng.random(1000)
    found = threshold_of_share(p**3, p >= 0.93)
    assert found.reached == found.wanted == np.mean(p >= 0.93) == np.mean(p**3 >= found.threshold)
    assert not np.any(p**3 == found.threshold)  # between two scores, not on one


def test_of_tied_scores_the_nearest_reachable_share_is_taken_and_told():
    p = np.array([0.9] * 10 + [0.5] * 60 + [0.1] * 30)
    near = threshold_of_share(p, np.arange(100) < 20)
    assert (near.wanted, near.reached, near.tied) == (0.2, 0.1, 10)
    far = threshold_of_share(p, np.arange(100) < 50)
    assert (far.reached, far.tied) == (0.7, 60) and np.mean(p >= far.threshold) == 0.7


@pytest.mark.parametrize(("flags", "share"), [(0, 0.0), (4, 1.0)])
def test_none_and_all_can_be_flagged(flags, share):
    p = np.array([0.2, 0.4, 0.6, 0.8])
    found = threshold_of_share(p, np.arange(4) < flags)
    assert np.mean(p >= found.threshold) == found.reached == share and 0 <= found.threshold <= 1


@pytest.mark.parametrize("keep", ["precision", "fpr"])
def test_precision_and_error_rate_are_kept_by_a_model_with_other_scores(keep):
    rng = np.random.default_rng(1)
    y = (rng.random(20_000) < 0.3).astype(np.int64)
    old = 1 / (1 + np.exp(-(2 * (y - 0.5) + rng.normal(size=len(y)))))
    new = 1 / (1 + np.exp(-3 * (3 * (y - 0.5) + rng.normal(size=len(y)))))
    flags = old >= 0.6

    def figures(flags):
        return {"precision": y[flags].mean(), "fpr": flags[y == 0].mean()}

    found = threshold_of_rate(y, old, flags, new, keep)
    assert found.wanted == pytest.approx(figures(flags)[keep], abs=0.01)
    assert figures(new >= found.threshold)[keep] == pytest.approx(found.wanted, abs=0.01)
    assert y[new >= found.threshold].sum() > y[flags].sum()  # the better model finds more at the same price
