"""The paired gain is the difference of the figures, its interval is paired and grouped, its power honest."""

import numpy as np
import pytest

from bifocal.errors import DataError
from bifocal.evaluate.compare import gains_over_each, measure_change, paired_gain
from bifocal.evaluate.intervals import measure
from bifocal.evaluate.metrics import auroc, macro_f1, nll


def two_models(n: int, *, skill: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two models that share most of what they know; b knows ``skill`` more."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    shared = y + rng.normal(0, 1, n)
    z = np.stack([shared + rng.normal(0, 0.3, n), shared + skill * y + rng.normal(0, 0.3, n)])
    p = 1 / (1 + np.exp(-z))
    return y, np.stack([1 - p[0], p[0]], 1), np.stack([1 - p[1], p[1]], 1)


def test_the_gain_is_the_difference_of_the_figures():
    y, a, b = two_models(300, skill=0.5)
    groups = [str(i // 2) for i in range(300)]
    gain = paired_gain(y, a, b, groups, metric="auroc", resamples=300, seed=0)
    assert list(gain) == ["metric", "value", "low", "high", "n", "positives", "detectable"]
    assert gain["value"] == pytest.approx(auroc(y, b) - auroc(y, a))
    assert gain["low"] < gain["value"] < gain["high"]
    assert (gain["metric"], gain["n"], gain["positives"]) == ("auroc", 300, int(y.sum()))
    assert paired_gain(y, a, b, groups, metric="nll", resamples=9)["value"] == pytest.approx(nll(y, b) - nll(y, a))


@pytest.mark.parametrize("n", [120, 0])
def test_a_change_is_told_as_by_measuring_twice_and_comparing(n):
    y, a, b = two_models(n, skill=0.5)
    groups, settings = [str(i // 2) for i in range(n)], {"resamples": 60, "seed": 3}
    chosen = (b[:, 1] >= 0.7).astype(int)
    before, after, changes = measure_change(y, a, b, groups, predictions=chosen, **settings)
    np.testing.assert_equal(before, measure(y, a, groups, **settings))
    np.testing.assert_equal(after, measure(y, b, groups, predictions=chosen, **settings))
    assert list(changes) == ["nll", "brier"]
    for metric, change in changes.items():
        alone = paired_gain(y, a, b, groups, metric=metric, **settings)
        assert list(change) == list(alone)
        for key, value in alone.items():
            assert change[key] == (value if key == "metric" else pytest.approx(value, nan_ok=True))


def test_the_least_gain_takes_the_least_ends_and_widens_the_upper_by_the_number_of_models():
    y, a, b = two_models(300, skill=0.6)
    _, c, _ = two_models(300, skill=0.6, seed=1)  # of other labels: at chance
    found = gains_over_each(y, {"near": a, "far": c}, b, range(300), metric="auroc", resamples=400)
    for name, other in (("near", a), ("far", c)):
        assert found.each[name] == paired_gain(y, other, b, range(300), metric="auroc", resamples=400)
    assert found.over == "near" and found.least["value"] == found.each["near"]["value"]
    assert found.least["low"] == found.each["near"]["low"] < found.each["far"]["low"]
    assert found.each["near"]["high"] < found.least["high"] < found.each["far"]["high"]
    alone = gains_over_each(y, {"near": a}, b, range(300), metric="auroc", resamples=400)
    assert alone.least == alone.each["near"]


def test_a_least_gain_above_zero_is_rare_where_one_of_two_gains_is_nothing():
    """The bootstrap of a minimum would be biased; the ends by intersection and union hold their level."""
    shown, missed = 0, 0
    for seed in range(120):
        y, a, b = two_models(200, skill=0, seed=seed)  # b is a with other noise: no gain
        worse = two_models(200, skill=0, seed=seed + 1000)[1]
        found = gains_over_each(y, {"a": a, "worse": worse}, b, range(200), metric="auroc", resamples=200, seed=seed)
        shown += found.least["low"] > 0
        missed += found.least["high"] < 0
    assert shown <= 120 * 0.06 and missed <= 120 * 0.06


def test_multiclass_is_judged_by_macro_f1():
    rng = np.random.default_rng(0)
    y, a, b = rng.integers(0, 3, 90), rng.dirichlet(np.ones(3), 90), rng.dirichlet(np.ones(3), 90)
    gain = paired_gain(y, a, b, range(90), metric="macro_f1", resamples=50, seed=0)
    assert gain["value"] == pytest.approx(macro_f1(y, b) - macro_f1(y, a))
    assert gain["positives"] == np.bincount(y).tolist()


def test_a_model_against_itself_gains_nothing_for_sure():
    y, a, _ = two_models(100, skill=0)
    gain = paired_gain(y, a, a, range(100), metric="auroc", resamples=100, seed=0)
    assert gain["value"] == gain["low"] == gain["high"] == gain["detectable"] == 0


def test_swapping_the_models_turns_the_sign():
    y, a, b = two_models(200, skill=0.5)
    there, back = (paired_gain(y, *pair, range(200), metric="auroc", resamples=200) for pair in ((a, b), (b, a)))
    assert there["value"] == pytest.approx(-back["value"])
    assert there["low"] == pytest.approx(-back["high"])


def test_a_gain_of_the_detectable_size_is_found_four_times_in_five():
    found, detectable = 0, []
    for seed in range(120):  # skill 0.163: about the smallest gain 300 such rows can show
        y, a, b = two_models(300, skill=0.163, seed=seed)
        gain = paired_gain(y, a, b, range(300), metric="auroc", resamples=200, seed=seed)
        found += gain["low"] > 0
        detectable.append((gain["value"], gain["detectable"]))
    value, smallest = np.mean(detectable, axis=0)
    assert value == pytest.approx(smallest, rel=0.1)
    assert 0.68 < found / 120 < 0.92


def test_pairing_and_groups_change_the_width():
    y, a, b = two_models(300, skill=0.2)
    alone = paired_gain(y, a, b, range(300), metric="auroc", resamples=300)
    threefold = [np.repeat(v, 3, axis=0) for v in (y, a, b)]
    grouped = paired_gain(*threefold, np.repeat(np.arange(300), 3), metric="auroc", resamples=300)
    fooled = paired_gain(*threefold, range(900), metric="auroc", resamples=300)
    assert grouped["detectable"] == pytest.approx(alone["detectable"], rel=0.05)
    assert fooled["detectable"] < 0.75 * alone["detectable"]


@pytest.mark.filterwarnings("error")
def test_what_the_rows_cannot_tell_is_nan():
    for y, p, groups in (([], np.empty((0, 2)), []), ([1, 1], np.full((2, 2), 0.5), [0, 1])):
        gain = paired_gain(y, p, p, groups, metric="auroc", resamples=10)
        assert all(np.isnan(gain[k]) for k in ("value", "low", "high", "detectable"))
    y, a, b = two_models(50, skill=0.5)
    gain = paired_gain(y, a, b, ["one"] * 50, metric="auroc")
    assert not np.isnan(gain["value"]) and np.isnan(gain["low"]) and np.isnan(gain["detectable"])


def test_unknown_metrics_and_uneven_rows_are_refused():
    y, a, b = two_models(50, skill=0.5)
    with pytest.raises(DataError, match="no metric 'f1'; known: accuracy, auprc"):
        paired_gain(y, a, b, range(50), metric="f1")
    with pytest.raises(DataError, match=r"found \[50\] and \[49, 2\]"):
        paired_gain(y, a, b[1:], range(50), metric="auroc")
