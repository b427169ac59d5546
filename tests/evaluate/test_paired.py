"""Paired differences, the verdict by the rule, weights and slices."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bifocal.errors import DataError
from bifocal.evaluate.intervals import Weighted
from bifocal.evaluate.paired import (
    Answers,
    ComparedFigure,
    PairedSettings,
    compare_answers,
    figure_verdict,
    flagged_shares,
    slice_differences,
    verdict_of,
)
from bifocal.evaluate.sampling_weights import MOST, SamplingWeights


def f1(flagged, hits, positives, rows):
    return 2 * hits / (flagged + positives)


FIGURES = [
    ComparedFigure("f1", "policy", f1),
    ComparedFigure("nll", "probabilities", lower_is_better=True),
    ComparedFigure("auroc"),
]
SETTINGS = PairedSettings(resamples=200)


def answers(p, cut=0.5):
    return Answers((p >= cut).astype(np.int64), np.stack([1 - p, p], axis=1))


def drawn(n=2000, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(np.int64)
    shared = 2.5 * (y - 0.5) + rng.normal(size=n)
    sides = [answers(1 / (1 + np.exp(-shared - noise * rng.normal(size=n)))) for _ in range(2)]
    return y, *sides


@pytest.mark.parametrize(
    ("ends", "lower_is_better", "verdict"),
    [
        ((0.001, 0.02), False, "better"),
        ((-0.009, 0.02), False, "no worse"),
        ((-0.009, -0.001), False, "no worse"),  # surely lower, and surely within the margin
        ((-0.02, -0.001), False, "worse"),
        ((-0.02, 0.02), False, "cannot tell"),
        ((float("nan"), float("nan")), False, "cannot tell"),
        ((0.001, 0.02), True, "worse"),
        ((-0.02, -0.001), True, "better"),
    ],
)
def test_the_verdict_on_one_figure_follows_the_rule(ends, lower_is_better, verdict):
    figure = {"value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
    assert figure_verdict(figure, 0.01, lower_is_better=lower_is_better) == verdict


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [
        ([("policy", "better"), ("probabilities", "no worse")], "better"),
        ([("policy", "no worse"), ("probabilities", "better")], "no worse"),  # NLL alone makes no model better
        ([("policy", "better"), ("probabilities", "cannot tell")], "cannot tell"),
        ([("policy", "cannot tell"), ("probabilities", "worse")], "worse"),
        ([("shown", None)], "cannot tell"),
    ],
)
def test_the_verdict_on_all_figures_is_that_of_the_worst(judged, verdict):
    assert verdict_of({"role": role, "verdict": found} for role, found in judged) == verdict


def test_weights_count_as_so_many_rows_and_auroc_takes_any_number():
    y, old, new = drawn(400)
    w = np.random.default_rng(1).integers(1, 4, size=400).astype(float)
    rows = np.repeat(np.arange(400), w.astype(int))
    weighted = compare_answers(y, old, new, range(400), FIGURES, SETTINGS, w)
    repeated = compare_answers(y[rows], old.take(rows), new.take(rows), rows.tolist(), FIGURES, SETTINGS)
    for name in weighted:
        assert weighted[name]["difference"]["value"] == pytest.approx(repeated[name]["difference"]["value"], abs=1e-12)
    w = np.random.default_rng(2).random(400) + 0.01
    found = Weighted(y, old.probabilities)(w[None], ["auroc"])["auroc"][0]
    assert found == pytest.approx(roc_auc_score(y, old.probabilities[:, 1], sample_weight=w))


def test_where_hardly_a_decision_turned_over_the_interval_is_no_point():
    y, old, _ = drawn(100)
    figure = compare_answers(y, old, old, range(100), FIGURES, SETTINGS)["f1"]
    assert figure["difference"]["value"] == 0 and figure["difference"]["low"] < -0.01
    assert figure["verdict"] == "cannot tell" and figure["rows_needed"] > 100
    y, old, _ = drawn(5000)
    assert compare_answers(y, old, old, range(5000), FIGURES, SETTINGS)["f1"]["verdict"] == "no worse"


def test_the_interval_is_of_groups_not_rows():
    y, old, new = drawn(500)
    rows = np.repeat(np.arange(500), 4)
    one = compare_answers(y, old, new, range(500), FIGURES, SETTINGS)["f1"]
    four = compare_answers(y[rows], old.take(rows), new.take(rows), rows.tolist(), FIGURES, SETTINGS)["f1"]
    width = [f["difference"]["high"] - f["difference"]["low"] for f in (one, four)]
    assert width[1] == pytest.approx(width[0], rel=0.15)


def test_without_probabilities_only_decisions_are_compared():
    y, old, new = drawn(300)
    bare = Answers(new.predicted, None)
    assert list(compare_answers(y, old, bare, range(300), FIGURES, SETTINGS)) == ["f1"]


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -2.0], [1.0, float("nan")]])
def test_a_weight_is_a_number_above_nothing(weights):
    with pytest.raises(DataError, match="above 0"):
        SamplingWeights.of(weights)


def test_a_row_that_stands_for_very_many_is_clipped_and_counted():
    found = SamplingWeights.of([1.0] * 999 + [100_000.0])
    assert found.clipped == 1 and found.values.mean() == pytest.approx(1)
    assert found.values[-1] / found.values[0] == pytest.approx(MOST * (999 + 100_000) / 1000)
    assert 1 < found.effective < 1000 and SamplingWeights.of([2.0, 2.0]).effective == pytest.approx(2)


def test_flags_that_were_none_before_have_moved_without_end():
    none, some = np.zeros(4, dtype=int), np.array([1, 0, 0, 0])
    assert flagged_shares(none, some).change == np.inf and flagged_shares(none, none).change == 0
    assert flagged_shares(some, none).change == -1
    assert flagged_shares(some, none, np.array([3.0, 1, 1, 1])).old == 0.5


def test_slices_tell_where_the_new_model_lost_and_few_rows_are_named_alone():
    y, old, _ = drawn(2000, noise=0)
    harmed = np.arange(2000) < 500
    p = old.probabilities[:, 1].copy()
    p[harmed] = np.random.default_rng(5).permutation(p[harmed])
    inside = {("half", "harmed"): harmed, ("half", "other"): ~harmed, ("few", "few"): np.arange(2000) < 10}
    found = slice_differences(y, old, answers(p), list(range(2000)), FIGURES[0], inside, SETTINGS)
    lost, same, few = found
    assert lost["difference"]["high"] < 0 and lost["p_adjusted"] < 0.001 and lost["n"] == 500
    assert same["difference"]["value"] == 0 and same["p_adjusted"] is None
    assert few["difference"] is None and few["n"] == 10
