"""Every resample equals the plain figure on the repeated rows, groups stay whole, and the intervals cover the truth."""

import json
import tracemalloc

import numpy as np
import pytest

from bifocal.errors import DataError
from bifocal.evaluate import intervals
from bifocal.evaluate.intervals import (
    Interval,
    Weighted,
    bootstrap_weights,
    measure,
    measure_each,
    percentile_interval,
)
from bifocal.evaluate.metrics import METRICS


def rows(n: int, classes: int, *, seed: int = 0, digits: int = 1) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities with many ties, and groups of one to several rows, not lying side by side."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n).round(digits)
    p[:, -1] = (1 - p[:, :-1].sum(axis=1)).round(digits)
    y = np.array([rng.choice(classes, p=row / row.sum()) for row in p.clip(0, 1)])
    return y, p.clip(0, 1), [f"g{i}" for i in rng.integers(0, n // 2, n)]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("digits", [1, 12])
@pytest.mark.parametrize("policy", [False, True])
def test_each_replicate_equals_the_plain_figure_on_the_repeated_rows(classes, digits, policy):
    y, p, groups = rows(90, classes, digits=digits)
    predictions = np.random.default_rng(5).integers(0, classes, 90) if policy else None
    (weights,) = bootstrap_weights(groups, 25, seed=3)
    replicates = Weighted(y, p, predictions)(weights)
    assert list(replicates) == list(METRICS)
    for b, w in enumerate(weights.astype(int)):
        again = None if predictions is None else np.repeat(predictions, w)
        for name, figure in METRICS.items():
            expected = figure(np.repeat(y, w), np.repeat(p, w, axis=0), again)
            assert replicates[name][b] == pytest.approx(expected, abs=1e-9), (name, b)


@pytest.mark.filterwarnings("error")
def test_a_resample_that_loses_a_class_is_nan_exactly_where_the_plain_figure_is():
    y, p = np.array([0, 0, 0, 1, 2]), rows(5, 3)[1]
    (weights,) = bootstrap_weights(list("abcde"), 60, seed=0)
    replicates = Weighted(y, p)(weights)
    for name, figure in METRICS.items():
        plain = [figure(np.repeat(y, w), np.repeat(p, w, axis=0), None) for w in weights.astype(int)]
        np.testing.assert_allclose(replicates[name], plain, atol=1e-9, err_msg=name)
    assert np.isnan(replicates["auroc"]).any()


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    groups = ["a", "b", "a", "c", "c", "c"]
    (weights,) = bootstrap_weights(groups, 500, seed=0)
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 3:] == weights[:, 3:4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights[:, [0, 1, 3]].mean(axis=0) == pytest.approx([1, 1, 1], abs=0.15)


def test_the_same_seed_gives_the_same_resamples_and_chunks_hold_the_memory_down(monkeypatch):
    monkeypatch.setattr(intervals, "CHUNK", 1000)
    chunks = list(bootstrap_weights(list(range(100)), 55, seed=1))
    assert [len(c) for c in chunks] == [10] * 5 + [5]
    again = list(bootstrap_weights(list(range(100)), 55, seed=1))
    assert all((a == b).all() for a, b in zip(chunks, again, strict=True))
    assert (np.concatenate(chunks) != np.concatenate(list(bootstrap_weights(list(range(100)), 55, seed=2)))).any()


def test_fifty_thousand_rows_fit_into_200_megabytes():
    rng = np.random.default_rng(0)
    p, n = rng.random(50_000), 50_000
    y = (rng.random(n) < p).astype(int)
    tracemalloc.start()
    measure(y, np.stack([1 - p, p], axis=1), np.arange(n), resamples=30, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_measure_has_the_form_of_the_results_file():
    y, p, groups = rows(120, 2)
    result = measure(y, p, groups, resamples=200, seed=0)
    assert list(result) == ["n", "positives", "metrics"]
    assert (result["n"], result["positives"]) == (120, int(y.sum()))
    assert set(result["metrics"]) == {
        "auroc", "macro_f1", "accuracy", "auprc", "brier", "nll",
        "ece_top_label", "ece_top_label_debiased", "ece_positive", "ece_positive_debiased",
    }  # fmt: skip
    for name, entry in result["metrics"].items():
        assert list(entry) == ["value", "low", "high"]
        assert entry["value"] == METRICS[name](y, p, None)
        assert entry["low"] < entry["value"] < entry["high"], name
    assert result == json.loads(json.dumps(result)) == measure(y, p, groups, resamples=200, seed=0)
    assert result != measure(y, p, groups, resamples=200, seed=1)


def test_intervals_are_the_percentiles_of_the_replicates():
    y, p, groups = rows(80, 3)
    (weights,) = bootstrap_weights(groups, 300, seed=7)
    low, high = np.percentile(Weighted(y, p)(weights)["nll"], [2.5, 97.5])
    found = measure(y, p, groups, resamples=300, seed=7)["metrics"]["nll"]
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_multiclass_counts_every_class():
    y, p, groups = rows(60, 3)
    assert measure(y, p, groups, resamples=10, seed=0)["positives"] == np.bincount(y, minlength=3).tolist()


def test_predictions_of_a_policy_move_accuracy_and_f1_only():
    y, p, groups = rows(100, 2)
    plain = measure(y, p, groups, resamples=50, seed=0)["metrics"]
    chosen = measure(y, p, groups, predictions=(p[:, 1] >= 0.7).astype(int), resamples=50, seed=0)["metrics"]
    assert {name for name in plain if plain[name] != chosen[name]} == {"accuracy", "macro_f1"}


@pytest.mark.filterwarnings("error")
def test_what_the_rows_cannot_tell_is_nan():
    nothing = measure([], np.empty((0, 3)), [], resamples=10, seed=0)
    assert nothing["n"] == 0 and nothing["positives"] == [0, 0, 0]
    assert all(np.isnan(v) for entry in nothing["metrics"].values() for v in entry.values())
    y, p, _ = rows(30, 2)
    one_group = measure(y, p, ["g"] * 30, resamples=10, seed=0)["metrics"]["accuracy"]
    assert one_group["value"] > 0 and np.isnan(one_group["low"]) and np.isnan(one_group["high"])
    one_class = measure(np.ones(30, int), p, list(range(30)), resamples=10, seed=0)["metrics"]
    assert np.isnan(one_class["auroc"]["value"]) and one_class["accuracy"]["low"] <= one_class["accuracy"]["high"]


def test_senseless_input_is_refused():
    y, p, groups = rows(30, 2)
    with pytest.raises(DataError, match="groups are one per row, found 29 for 30"):
        measure(y, p, groups[1:], resamples=10, seed=0)
    with pytest.raises(DataError, match="leave out rows without a label"):
        measure(np.where(y == 1, -1, y), p, groups, resamples=10, seed=0)
    with pytest.raises(DataError, match="no metric 'auc'; did you mean 'auroc'"):
        Weighted(y, p)(np.ones((1, 30)), ["auc"])


def test_the_interval_of_accuracy_covers_the_truth_and_only_with_groups():
    rng = np.random.default_rng(0)
    grouped = alone = 0
    for seed in range(300):
        right = np.repeat(rng.random(100) < 0.7, 3)  # three copies of each post: 100 posts' worth of knowledge
        p = np.where(right, 0.8, 0.2)
        for groups, by_group in ((np.repeat(np.arange(100), 3), True), (np.arange(300), False)):
            y = np.ones(300, int)
            drawn = [Weighted(y, p)(w, ["accuracy"])["accuracy"] for w in bootstrap_weights(groups, 200, seed)]
            interval = percentile_interval(float(right.mean()), np.concatenate(drawn))
            covered = interval.low <= 0.7 <= interval.high
            grouped, alone = grouped + (covered and by_group), alone + (covered and not by_group)
    assert 0.90 <= grouped / 300 <= 0.985
    assert alone / 300 < 0.85


def test_the_interval_of_a_debiased_ece_covers_zero_for_a_perfect_model():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        p = 1 / (1 + np.exp(-rng.normal(0, 1.5, 200)))
        y = (rng.random(200) < p).astype(int)
        entry = measure(y, np.stack([1 - p, p], 1), np.arange(200), resamples=200, seed=seed)["metrics"]
        covered += entry["ece_positive_debiased"]["low"] <= 0 <= entry["ece_positive_debiased"]["high"]
    assert covered / 60 > 0.8  # plain percentiles: about 0.12


def test_percentile_interval_leaves_nan_out():
    assert percentile_interval(1.0, np.array([np.nan, 0.0, 2.0, np.nan])) == Interval(1.0, 0.05, 1.95)
    assert percentile_interval(5.0, np.array([0.0, 2.0]), recentred=True) == Interval(5.0, 4.05, 5.95)
    assert np.isnan(percentile_interval(1.0, np.array([np.nan, 0.5])).low)


def test_models_that_rank_rows_alike_have_the_figures_that_each_has_alone():
    """Areas are computed once for both; a third model, which ranks otherwise, and ties have their own."""
    rng = np.random.default_rng(3)
    labels, logits, groups = rng.integers(0, 2, 90), rng.normal(size=90), list(range(90))
    sides = []
    for scores in (logits, logits / 1.7, logits.round(1), -logits):
        p = 1 / (1 + np.exp(-scores))
        sides.append((np.column_stack([1 - p, p]), None))
    together = measure_each(labels, sides, groups, resamples=40)
    for side, (figures, drawn) in zip(sides, together, strict=True):
        alone, own = measure_each(labels, [side], groups, resamples=40)[0]
        assert figures == alone
        assert all(np.array_equal(drawn[name], own[name]) for name in METRICS)
    assert Weighted(labels, sides[0][0]).ranks_as(Weighted(labels, sides[1][0]))
    assert not Weighted(labels, sides[0][0]).ranks_as(Weighted(labels, sides[2][0]))
