"""The threshold is the F1 maximum on the grid by the written tie rule, and the curve counts what it says."""

import csv

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from bifocal.config import ThresholdConfig
from bifocal.decide.thresholds import (
    GRID,
    SMOOTHED,
    best_f1_threshold,
    best_macro_f1_threshold,
    choose_threshold,
    class_thresholds,
    expected_figures,
    figure_of,
    threshold_curve,
    write_curve,
)
from bifocal.errors import DataError
from bifocal.evaluate.metrics import macro_f1


def test_the_grid_is_of_exact_decimals():
    assert [str(t) for t in GRID] == [
        "0.1", "0.15", "0.2", "0.25", "0.3", "0.35", "0.4", "0.45", "0.5",
        "0.55", "0.6", "0.65", "0.7", "0.75", "0.8", "0.85", "0.9",
    ]  # fmt: skip


def test_the_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    p = rng.random(200).round(2)
    y = (rng.random(200) < p).astype(int)
    for row in threshold_curve(y, p):
        flags = p >= row["threshold"]
        assert row["precision"] == pytest.approx(sk.precision_score(y, flags, zero_division=0))
        assert row["recall"] == pytest.approx(sk.recall_score(y, flags))
        assert row["f1"] == pytest.approx(sk.f1_score(y, flags))
        assert row["fpr"] == pytest.approx(flags[y == 0].mean())
        assert row["flagged"] == flags.sum()
    assert threshold_curve(y, np.stack([1 - p, p], 1)) == threshold_curve(y, p)


def test_a_probability_on_the_grid_is_flagged_by_its_own_threshold():
    for t in GRID:
        assert {r["threshold"]: r["flagged"] for r in threshold_curve([1], [t])}[t] == 1


@pytest.mark.parametrize(
    ("labels", "probabilities", "best"),
    [
        ([0, 0, 1, 1], [0.05, 0.6, 0.7, 0.8], 0.65),  # 0.65 and 0.70 are perfect: the nearer to 0.5
        ([0, 0, 1, 1], [0.05, 0.22, 0.31, 0.8], 0.3),  # only 0.25 and 0.30 are perfect
        ([0, 1], [0.05, 0.95], 0.5),  # everything is perfect
        ([0, 1, 1, 0], [0.46, 0.46, 0.9, 0.1], 0.45),  # 0.15..0.45: F1 4/5; above: 2/3
        ([0, 0], [0.3, 0.7], 0.5),  # no positives: F1 is 0 everywhere
        ([1, 1], [0.02, 0.05], 0.5),  # nothing is ever flagged
    ],
)
def test_known_answers(labels, probabilities, best):
    assert best_f1_threshold(labels, probabilities) == best


@pytest.mark.parametrize(("low", "high"), [(0.45, 0.55), (0.3, 0.7), (0.15, 0.85)])
def test_of_two_equally_near_the_lower_wins(low, high):
    # From low on both positives are flagged beside two false alarms, from high on one positive alone; between, worse.
    y, p = [1, 1, 0, 0, 0], [0.95, low + 0.02, high - 0.02, low + 0.02, 0.05]
    f1 = {r["threshold"]: r["f1"] for r in threshold_curve(y, p)}
    assert f1[low] == f1[high] == pytest.approx(2 / 3) and f1[0.5] == pytest.approx(1 / 2)
    assert best_f1_threshold(y, p) == low


def test_nothing_to_divide_by_is_zero():
    first, last = threshold_curve([0, 0], [0.3, 0.5])[0], threshold_curve([1, 1], [0.3, 0.5])[-1]
    assert first == {"threshold": 0.1, "precision": 0, "recall": 0, "f1": 0, "fpr": 1, "flagged": 2}
    assert last == {"threshold": 0.9, "precision": 0, "recall": 0, "f1": 0, "fpr": 0, "flagged": 0}


def test_the_file_has_the_columns_of_the_contract(tmp_path):
    path = tmp_path / "thresholds_curve_text_expert_demo.csv"
    rows = threshold_curve([0, 1, 1], [0.2, 0.4, 0.9])
    write_curve(path, rows)
    lines = path.read_text().splitlines()
    assert lines[0] == "threshold,precision,recall,f1,fpr,flagged"
    assert lines[1].startswith("0.10,") and len(lines) == 18
    assert pd.read_csv(path).to_dict("records") == rows
    with open(path, newline="") as f:
        assert [row["flagged"] for row in csv.DictReader(f)][:3] == ["3", "3", "3"]


def test_more_than_two_classes_are_refused():
    with pytest.raises(DataError, match="found 3 classes: take the likeliest class"):
        best_f1_threshold([0, 1], [[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    with pytest.raises(DataError, match="no rows"):
        best_f1_threshold([], [])


# ------------------------------------------------------------------ by rule


def drawn(n, seed, prevalence=0.3):
    """Labels, and probabilities that can be taken at their word."""
    rng = np.random.default_rng(seed)
    z = rng.normal(np.log(prevalence / (1 - prevalence)), 1.5, n)
    p = 1 / (1 + np.exp(-z))
    return (rng.random(n) < p).astype(int), p


def realised(y, p, threshold):
    flags = p >= threshold
    return {
        "precision": sk.precision_score(y, flags, zero_division=0),
        "recall": sk.recall_score(y, flags),
        "f1": sk.f1_score(y, flags),
        "fpr": flags[y == 0].mean(),
        "flagged": flags.mean(),
    }


BOUNDED = [("precision", 0.6), ("recall", 0.8), ("fpr", 0.1), ("capacity", 0.2)]


def keeps(by, value, bound):
    return value >= bound if by in ("precision", "recall") else value <= bound


@pytest.mark.parametrize(("by", "bound"), BOUNDED)
def test_a_bounded_rule_keeps_to_its_bound_and_no_threshold_that_does_gives_away_less(by, bound):
    y, p = drawn(400, 0)
    chosen = choose_threshold(y, p.round(2), ThresholdConfig(by=by, bound=bound))
    name = {"capacity": "flagged"}.get(by, by)
    assert chosen.met and keeps(by, chosen.figures[name], bound)
    assert chosen.figures == pytest.approx({**chosen.figures, **realised(y, p.round(2), chosen.threshold)})
    kept = [t for t in np.unique(p.round(2)) if keeps(by, realised(y, p.round(2), t)[name], bound)]
    assert chosen.threshold == (max(kept) if by == "recall" else min(kept))


def test_what_each_rule_takes():
    y, p = [0, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5]

    def by(by, **more):
        return choose_threshold(y, p, ThresholdConfig(by=by, **more)).threshold

    assert by("precision", bound=0.9) == 0.5
    assert by("precision", bound=0.66) == 0.3
    assert by("recall", bound=0.9) == 0.3
    assert by("fpr", bound=0.34) == 0.3
    assert by("capacity", bound=0.5) == 0.4
    assert by("f_beta", beta=0.1) == 0.5  # precision above all
    assert by("f_beta", beta=10) == 0.3  # recall above all
    assert by("cost", costs={"false_negative": 10}) == 0.3
    assert by("cost", costs={"false_positive": 10}) == 0.5
    assert by("f1") == best_f1_threshold(y, p)
    assert by("macro_f1") == best_macro_f1_threshold(y, p, smoothed=True)


def test_macro_f1_is_scikit_learns_and_looks_at_both_classes():
    rng = np.random.default_rng(0)
    y = (rng.random(300) < 0.8).astype(int)
    p = np.clip(0.55 + 0.15 * y + 0.15 * rng.standard_normal(300), 0, 1)
    found = [sk.f1_score(y, p >= threshold, average="macro", zero_division=0) for threshold in GRID]
    threshold = best_macro_f1_threshold(y, p)
    assert found[GRID.index(threshold)] == pytest.approx(max(found))
    assert best_f1_threshold(y, p) < threshold  # which flags nearly all, as most are positive
    assert best_macro_f1_threshold([0, 1], [0.1, 0.9]) == 0.5
    twice = best_macro_f1_threshold(y, p, np.where(y == 1, 1.0, 4.0))
    assert twice >= threshold  # with more negatives to lose, fewer are flagged


def test_of_few_rows_macro_f1_is_made_best_as_it_is_expected_and_of_many_as_it_is():
    judge = drawn(20_000, 1000)
    rule, reached = ThresholdConfig(by="macro_f1"), []
    for seed in range(40):
        y, p = drawn(60, seed)
        found = choose_threshold(y, p, rule).threshold, best_macro_f1_threshold(y, p)
        reached.append([macro_f1(*judge, predictions=judge[1] >= threshold) for threshold in found])
    expected, plain = np.mean(reached, axis=0)
    assert expected > plain + 0.005
    for n, smoothed in ((SMOOTHED - 1, True), (SMOOTHED, False)):
        y, p = drawn(n, 2)
        assert choose_threshold(y, p, rule).threshold == best_macro_f1_threshold(y, p, smoothed=smoothed)


def test_what_cannot_be_kept_to_comes_with_the_nearest_that_can():
    y, p = [1, 0, 1, 0, 0], [0.6, 0.9, 0.8, 0.3, 0.1]
    chosen = choose_threshold(y, p, ThresholdConfig(by="precision", bound=0.9))
    assert not chosen.met
    assert (chosen.threshold, chosen.nearest) == (0.6, pytest.approx(2 / 3))
    few = choose_threshold(y, p, ThresholdConfig(by="recall", bound=0.9, confidence=0.95))
    assert not few.met and few.nearest < 0.9


@pytest.mark.parametrize("by", ["precision", "recall", "fpr", "capacity", "f_beta", "cost", "f1", "macro_f1"])
@pytest.mark.parametrize("p", [np.full(40, 0.5), np.repeat([0.0, 1.0], 20)], ids=["equal", "certain"])
def test_equal_and_certain_scores_end_in_a_threshold_and_no_nan(by, p):
    y = np.tile([0, 1], 20)
    rule = ThresholdConfig(by=by, bound=0.4 if by in dict(BOUNDED) else None)
    chosen = choose_threshold(y, p, rule)
    assert 0 <= chosen.threshold <= 1 and np.isfinite(list(chosen.figures.values())).all()
    for interval in expected_figures(y, p, range(40), rule, splits=20).values():
        assert np.isfinite(interval).all()


@pytest.mark.parametrize(("by", "lacks"), [("recall", 1), ("precision", 1), ("f_beta", 1), ("fpr", 0)])
def test_a_class_without_rows_is_named(by, lacks):
    with pytest.raises(DataError, match=f"needs rows of class {lacks}, found none"):
        choose_threshold(
            [1 - lacks] * 3, [0.1, 0.5, 0.9], ThresholdConfig(by=by, bound=0.5 if by != "f_beta" else None)
        )


def share_kept(by, bound, redraws, n=400, confidence=0.9):
    """Share of redraws of val whose confident threshold keeps to the bound on all rows there are."""
    y_all, p_all = drawn(200_000, 10_000)
    rule = ThresholdConfig(by=by, bound=bound, confidence=confidence)
    right = 0
    for seed in range(redraws):
        chosen = choose_threshold(*drawn(n, seed), rule)
        right += keeps(by, realised(y_all, p_all, chosen.threshold)[{"capacity": "flagged"}.get(by, by)], bound)
    return right / redraws


def expected_share(rule, redraws, n=400, size=1.0, splits=500):
    """By figure, the share of redraws whose next rows lie in the interval."""
    inside = {}
    for seed in range(redraws):
        y, p = drawn(n, seed)
        intervals = expected_figures(y, p, range(n), rule, size=size, splits=splits)
        next_y, next_p = drawn(round(n * size), 50_000 + seed)
        threshold = choose_threshold(y, p, rule).threshold
        found = {
            **realised(next_y, next_p, threshold),
            "macro_f1": macro_f1(next_y, next_p, predictions=next_p >= threshold),
        }
        for name, (_, low, high) in intervals.items():
            inside.setdefault(name, []).append(low <= found[name] <= high)
    return {name: np.mean(hits) for name, hits in inside.items()}


def test_what_was_never_wrong_may_yet_be():
    y, p = np.repeat([0, 1], 45), np.repeat([0.1, 0.9], 45)
    for by in ("f1", "precision"):
        found = expected_figures(y, p, range(90), ThresholdConfig(by=by, bound=None if by == "f1" else 0.9))
        for name in ("precision", "recall", "f1"):
            assert 0.9 < found[name].low < 0.98 and found[name].high == 1
        assert found["fpr"].low == 0 and 0.02 < found["fpr"].high < 0.1
    assert 0.9 < expected_figures(y, p, range(90), ThresholdConfig(by="macro_f1"))["macro_f1"].low < 0.98


@pytest.mark.parametrize(
    ("rule", "figure"),
    [
        ({"by": "macro_f1"}, lambda y, flags: sk.f1_score(y, flags, average="macro")),
        ({"by": "f_beta", "beta": 2}, lambda y, flags: sk.fbeta_score(y, flags, beta=2)),
        ({"by": "cost", "costs": {"false_negative": 5}}, lambda y, f: (np.sum(f > y) + 5 * np.sum(f < y)) / len(y)),
    ],
)
def test_what_a_rule_is_about_is_among_its_figures_and_expected(rule, figure):
    rule, (y, p) = ThresholdConfig(**rule), drawn(400, 0)
    chosen = choose_threshold(y, p, rule)
    assert figure_of(rule) == rule.by
    assert chosen.figures[rule.by] == pytest.approx(figure(y, (p >= chosen.threshold).astype(int)))
    expected = expected_figures(y, p, range(400), rule, splits=100)[rule.by]
    assert expected.low < expected.value < expected.high
    worse = expected.value > chosen.figures["cost"] if rule.by == "cost" else expected.value < chosen.figures[rule.by]
    assert worse, "less is expected than what it was chosen for there"
    plain = expected_figures(y, p, range(400), ThresholdConfig(), splits=20)
    assert list(plain) == ["precision", "recall", "f1", "fpr", "flagged"]


def test_the_figure_of_a_capacity_is_the_share_flagged():
    assert figure_of(ThresholdConfig(by="capacity", bound=0.1)) == "flagged"


def slack(redraws, level=0.9):
    return 2 * np.sqrt(level * (1 - level) / redraws)


@pytest.mark.parametrize(("by", "bound"), BOUNDED)
def test_a_confident_bound_holds_as_often_as_it_says(by, bound):
    assert share_kept(by, bound, 20) >= 0.9 - slack(20)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "bound"), BOUNDED)
def test_a_confident_bound_holds_in_500_redraws(by, bound):
    assert share_kept(by, bound, 500) >= 0.9 - slack(500)


def test_the_next_rows_lie_in_the_prediction_interval():
    shares = expected_share(ThresholdConfig(by="precision", bound=0.6), 60, size=0.5, splits=200)
    assert min(shares.values()) >= 0.9 - 2 * slack(60)  # the least of five


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        ThresholdConfig(),
        ThresholdConfig(by="macro_f1"),
        *(ThresholdConfig(by=by, bound=bound) for by, bound in BOUNDED),
    ],
    ids=lambda r: r.by,
)
def test_the_next_rows_lie_in_the_prediction_interval_in_500_redraws(rule):
    shares = expected_share(rule, 500)
    assert min(shares.values()) >= 0.9 - 1.5 * slack(500), shares  # the least of five; by f1 it is F1, with 0.862


def test_thresholds_per_class_are_never_worse_than_the_likeliest_on_their_own_rows():
    """Also where two classes cannot be told apart, which undoes thresholds that are chosen one by one."""
    rng = np.random.default_rng(0)
    for seed in range(5):
        y = rng.choice(4, 400, p=[0.5, 0.3, 0.15, 0.05])
        half = rng.dirichlet([1, 1], 400)
        p = np.zeros((400, 4))
        p[:, :2], p[:, 2:] = half[:, :1] * [0.62, 0.38], half[:, 1:] * [0.75, 0.25]
        p[np.arange(400), y] += 0.2 * (seed > 0)
        p /= p.sum(axis=1, keepdims=True)
        lines = class_thresholds(y, p)
        named = (p / lines).argmax(axis=1)
        assert macro_f1(y, p, predictions=named) >= macro_f1(y, p)
    assert class_thresholds([0, 1, 2], np.eye(3)) == [0.5, 0.5, 0.5]
