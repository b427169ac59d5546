"""The base rate of unlabelled posts meets known answers: Gaussian mixtures whose shares have moved."""

import numpy as np
import pytest

from bifocal.decide.class_prior import adjust_prior, at_least_jeffreys, estimate_prior
from bifocal.errors import DataError
from bifocal.evaluate.intervals import Interval


def gaussians(n, shares, seed, *, training):
    """Posteriors under the training shares, and labels, of points around 0, 2, 4, ... drawn with other shares."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), n, p=shares)
    x = rng.normal(2.0 * labels)
    density = np.exp(-0.5 * (x[:, None] - 2.0 * np.arange(len(shares))) ** 2) * training
    return density / density.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_the_share_of_a_shifted_mixture_is_found(share):
    p, labels = gaussians(4000, [1 - share, share], seed=1, training=[0.7, 0.3])
    found = estimate_prior(p, [0.7, 0.3])[1]
    assert found == pytest.approx(labels.mean(), abs=0.03) and found == pytest.approx(share, abs=0.03)
    assert abs(p[:, 1].mean() - share) > 0.02  # what would be reported without the correction


def test_three_classes():
    p, labels = gaussians(6000, [0.1, 0.2, 0.7], seed=0, training=[0.5, 0.3, 0.2])
    shares = estimate_prior(p, [0.5, 0.3, 0.2])
    assert shares == pytest.approx(np.bincount(labels) / 6000, abs=0.03) and shares.sum() == pytest.approx(1)


def test_many_sets_at_once_are_each_what_they_are_alone():
    sets = [gaussians(200, [1 - s, s], seed=0, training=[0.6, 0.4])[0] for s in (0.1, 0.6)]
    weights = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), size=2)
    together = estimate_prior(np.stack(sets), [0.6, 0.4], weights)
    for p, w, found in zip(sets, weights, together, strict=True):
        assert found == pytest.approx(estimate_prior(np.repeat(p, w, axis=0), [0.6, 0.4]), abs=1e-4)


def test_unchanged_shares_are_found_unchanged():
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]])
    assert estimate_prior(p, p.mean(axis=0)) == pytest.approx(p.mean(axis=0))


def test_probabilities_of_0_and_1_are_counted():
    p = np.array([[1.0, 0.0]] * 7 + [[0.0, 1.0]] * 3)
    assert estimate_prior(p, [0.5, 0.5]) == pytest.approx([0.7, 0.3])
    assert estimate_prior(p[:7], [0.5, 0.5]) == pytest.approx([1, 0])
    low = at_least_jeffreys(Interval(1.0, 1.0, 1.0), 7)
    assert low.value == 1 and 0.5 < low.low < 0.95  # seven rows do not make it certain


def test_rows_that_say_nothing_leave_the_share_open():
    flat = np.tile([0.7, 0.3], (50, 1))
    assert estimate_prior(flat, [0.7, 0.3]) == pytest.approx([0.7, 0.3])


def test_all_rows_equal_are_all_of_the_likelier_class():
    assert estimate_prior(np.tile([0.1, 0.9], (50, 1)), [0.5, 0.5]) == pytest.approx([0, 1], abs=1e-4)


def test_a_class_without_a_share_keeps_none():
    p = np.array([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    assert estimate_prior(p, [0.5, 0.5, 0.0])[2] == 0
    with pytest.raises(DataError, match="no share"):
        estimate_prior([[0.2, 0.7, 0.1]], [0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("p", "prior"),
    [
        ([[np.nan, 1.0]], [0.5, 0.5]),
        ([[0.4, 0.4]], [0.5, 0.5]),
        ([[-0.1, 1.1]], [0.5, 0.5]),
        ([[0.5, 0.5]], [0.5, 0.2, 0.3]),
        (np.empty((0, 2)), [0.5, 0.5]),
        ([0.5, 0.5], [0.5, 0.5]),
        ([[0.5, 0.5]], [np.nan, 0.5]),
    ],
)
def test_what_makes_no_sense_is_refused(p, prior):
    with pytest.raises(DataError):
        estimate_prior(p, prior)
    with pytest.raises(DataError):
        adjust_prior(p, prior, [0.5, 0.5])


def test_adjusting_is_bayes_rule():
    p, labels = gaussians(20000, [0.9, 0.1], seed=0, training=[0.5, 0.5])
    adjusted = adjust_prior(p, [0.5, 0.5], [0.9, 0.1])
    assert adjusted.sum(axis=1) == pytest.approx(1)
    assert adjusted[:, 1].mean() == pytest.approx(labels.mean(), abs=0.01)
    exact = gaussians(20000, [0.9, 0.1], seed=0, training=[0.9, 0.1])[0]
    assert adjusted == pytest.approx(exact)
    assert adjust_prior(adjusted, [0.9, 0.1], [0.5, 0.5]) == pytest.approx(p)


def test_adjusting_certain_rows():
    certain = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    assert adjust_prior(certain, [0.5, 0.5], [0.9, 0.1])[:2] == pytest.approx(np.eye(2))
    assert adjust_prior(certain, [0.5, 0.5], [1.0, 0.0]) == pytest.approx(np.tile([1.0, 0.0], (3, 1)))
