"""Figures of judged rows and of groups of people are those that one counts by hand; copies of a post are one post."""

import numpy as np
import pytest
from scipy.stats import fisher_exact

from bifocal.errors import DataError
from bifocal.evaluate.intervals import bootstrap_weights
from bifocal.evaluate.metrics import accuracy, macro_f1
from bifocal.evaluate.row_metrics import MIN_CLASS, RowMetrics
from bifocal.evaluate.slices import SliceSettings, measure_gaps, measure_slices


def counted(*parts):
    """Labels, probabilities and parts of (how many, label, probability) rows."""
    sizes, labels, probabilities = zip(*parts, strict=True)
    where = np.arange(len(sizes)).repeat(sizes)
    return np.array(labels)[where], np.array(probabilities)[where], where


BINARY = [(7, 1, 0.9), (3, 1, 0.1), (3, 0, 0.9), (17, 0, 0.1)]


def test_figures_of_a_binary_label():
    y, p, _ = counted(*BINARY)
    judged, rows = RowMetrics(y, p, None, range(30), None), np.ones(30, dtype=bool)
    assert (judged.headline, judged.names) == ("auroc", ("auroc", "accuracy", "fpr", "fnr"))
    figures = {name: judged.figure(name, rows) for name in judged.names}
    # Of 200 pairs 7 * 17 are in order, and 7 * 3 + 3 * 17 equal.
    assert figures["auroc"].value == pytest.approx((119 + 72 / 2) / 200)
    shares = {name: (found.part, found.whole) for name, found in figures.items() if name != "auroc"}
    assert shares == {"accuracy": (24, 30), "fpr": (3, 20), "fnr": (3, 10)}
    assert judged.cells(rows).tolist() == [17, 3, 3, 7]
    assert judged.counted(judged.cells(rows)) == pytest.approx({"accuracy": 0.8, "fpr": 0.15, "fnr": 0.3})


def test_the_predictions_of_a_policy_come_before_a_half():
    y, p, _ = counted(*BINARY)
    judged, rows = RowMetrics(y, p, np.ones(30, dtype=int), range(30), None), np.ones(30, dtype=bool)
    assert (judged.figure("fpr", rows).value, judged.figure("fnr", rows).value) == (1, 0)
    assert judged.figure("auroc", rows).value == pytest.approx(0.775)


def test_of_several_classes_one_is_held_against_the_rest_where_it_is_named():
    truth = np.array([0, 1, 2]).repeat([12, 20, 28])
    named = np.concatenate([np.array(part).repeat(n) for part, n in (((0, 2), 6), ((1, 2), 10), ((2, 0), 14))])
    p = np.full((60, 3), 0.1)
    p[np.arange(60), named] = 0.8
    plain, asked = (RowMetrics(truth, p, None, range(60), of) for of in (None, 2))
    rows = np.ones(60, dtype=bool)
    assert plain.names == ("macro_f1", "accuracy") and asked.names == (*plain.names, "fpr", "fnr")
    assert plain.figure("fpr", rows) is None and plain.figure("macro_f1", rows) is None
    assert asked.figure("fpr", rows)[:2] == (16, 32) and asked.figure("fnr", rows)[:2] == (14, 28)
    assert plain.counted(plain.cells(rows))["macro_f1"] == pytest.approx(macro_f1(truth, p))
    some = (truth != 1) & (named != 1)  # a class that neither stands nor is named there
    assert plain.counted(plain.cells(some))["macro_f1"] == pytest.approx(macro_f1(truth[some], p[some]))


def test_a_figure_takes_ten_groups_of_each_class_that_it_speaks_of():
    y, p, _ = counted((9, 1, 0.9), (10, 0, 0.1))
    judged, rows = RowMetrics(y, p, None, range(19), None), np.ones(19, dtype=bool)
    assert {name for name in judged.names if judged.figure(name, rows) is None} == {"auroc", "fnr"}
    rows[-1] = False
    assert {name for name in judged.names if judged.figure(name, rows) is None} == {"auroc", "fnr", "fpr"}
    copies = RowMetrics(y.repeat(50), p.repeat(50), None, np.arange(19).repeat(50), None)
    assert copies.groups(np.ones(950, dtype=bool)) == 19
    assert copies.figure("fnr", np.ones(950, dtype=bool)) is None and MIN_CLASS == 10
    assert all(judged.figure(name, np.zeros(19, dtype=bool)) is None for name in judged.names)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("without", [True, False])
def test_resampled_figures_are_those_of_the_rows_drawn(classes, without):
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, classes, 90), rng.integers(0, 40, 90)
    p = rng.dirichlet(np.ones(classes), 90)
    judged = RowMetrics(y, p, None, groups, 1)
    parts = [rng.random(90) < 0.8, rng.random(90) < 0.4, np.arange(90) < 3]
    parts[1:] = [part & parts[0] for part in parts[1:]]
    found = list(judged.replicates(parts, 7, 3, without=without))
    count = int(judged.group.max()) + 1
    times = np.concatenate(list(bootstrap_weights(range(count), 7, 3)))[:, judged.group].astype(int)
    predicted = p.argmax(axis=1) if classes > 2 else (p[:, 1] >= 0.5).astype(int)

    def figures(rows, b):
        drawn = np.flatnonzero(rows).repeat(times[b][rows])
        negative = drawn[y[drawn] != 1]
        wrong = (predicted[negative] == 1).mean() if len(negative) else np.nan
        return (accuracy(y[drawn], p[drawn]) if len(drawn) else np.nan), wrong

    for side, each in ((0, parts), (1, [parts[0] & ~part for part in parts] if without else parts[:1])):
        drawn = {name: np.concatenate([chunk[side][name] for chunk in found], axis=1) for name in ("accuracy", "fpr")}
        assert drawn["accuracy"].shape == (len(each), 7)
        for i, rows in enumerate(each):
            for b in range(7):
                expected = figures(rows, b)
                assert (drawn["accuracy"][i, b], drawn["fpr"][i, b]) == pytest.approx(expected, nan_ok=True)


def test_rows_that_cannot_be_judged_are_refused():
    y, p, _ = counted(*BINARY)
    for labels, probabilities, groups, message in (
        (y, p, range(29), "groups are one per row, found 29 for 30 labels"),
        (np.where(y == 1, -1, y), p, range(30), "found -1: leave out rows without a label"),
        (y, np.where(p > 0.5, np.nan, p), range(30), "probabilities lie in 0..1, found nan"),
        ([], [], [], "there are no rows to evaluate"),
    ):
        with pytest.raises(DataError, match=message):
            RowMetrics(labels, probabilities, None, groups, None)


# ------------------------------------------------------------------ slices and groups, counted


def test_the_gap_between_groups_is_counted_and_tested_as_by_hand():
    """Of 100 negative posts that speak of A 30 are flagged, of B 6 of 60, of 400 that speak of none 20."""
    y, p, part = counted(
        (70, 0, 0.2), (30, 0, 0.8), (20, 1, 0.8), (54, 0, 0.2), (6, 0, 0.8), (15, 1, 0.8), (5, 1, 0.2),
        (380, 0, 0.2), (20, 0, 0.8), (50, 1, 0.8), (30, 1, 0.2),
    )  # fmt: skip
    members = {"A": part < 3, "B": (part >= 3) & (part < 7)}
    found = measure_gaps(RowMetrics(y, p, None, range(len(y))), members, SliceSettings(resamples=100)).to_dict()
    a, b = found["groups"]
    assert [(g["n"], g["negatives"], g["positives"], g["note"]) for g in (a, b)] == [
        (120, 100, 20, None),
        (80, 60, 20, None),
    ]
    reference = found["reference"]
    assert (reference["n"], reference["negatives"], reference["note"]) == (480, 400, None)
    assert a["figures"]["fpr"]["value"] == 0.3 and a["differences"]["fpr"]["value"] == pytest.approx(0.25)
    assert b["figures"]["fnr"]["value"] == 0.25 and b["differences"]["fnr"]["value"] == pytest.approx(0.25 - 30 / 80)
    tables = {
        ("A", "fpr"): [[30, 70], [20, 380]],
        ("A", "fnr"): [[0, 20], [30, 50]],
        ("B", "fpr"): [[6, 54], [20, 380]],
        ("B", "fnr"): [[5, 15], [30, 50]],
    }
    raw = {key: fisher_exact(table).pvalue for key, table in tables.items()}
    gaps = {(g["group"], name): g["differences"][name] for g in (a, b) for name in ("fpr", "fnr")}
    assert {key: gap["p"] for key, gap in gaps.items()} == pytest.approx(raw)
    least, second = sorted(raw, key=raw.get)[:2]
    assert (least, second) == (("A", "fpr"), ("A", "fnr")) and found["comparisons"] == 4
    assert gaps[least]["p_adjusted"] == pytest.approx(4 * raw[least])
    assert gaps[second]["p_adjusted"] == pytest.approx(3 * raw[second])
    assert found["largest"]["slice"] == "A" and found["largest"]["low"] > 0


def test_a_gap_beyond_chance_comes_before_a_wider_one_that_may_be_chance():
    """Of 12 negatives 3 are flagged (0.25), of 600 90 (0.15), of 2,000 that speak of none 100 (0.05)."""
    y, p, part = counted(
        (9, 0, 0.2), (3, 0, 0.8), (30, 1, 0.8), (510, 0, 0.2), (90, 0, 0.8), (100, 1, 0.8),
        (1900, 0, 0.2), (100, 0, 0.8), (300, 1, 0.8),
    )  # fmt: skip
    members = {"few": part < 3, "many": (part >= 3) & (part < 6)}
    found = measure_gaps(RowMetrics(y, p, None, range(len(y))), members, SliceSettings(resamples=20)).to_dict()
    few, many = (g["differences"]["fpr"] for g in found["groups"])
    assert few["value"] > many["value"] and few["p_adjusted"] > 0.05 > many["p_adjusted"]
    largest = found["largest"]
    assert (largest["slice"], largest["significant"], largest["here"], largest["rest"]) == ("many", True, 0.15, 0.05)


def test_what_the_groups_are_held_against_may_be_too_few_or_none():
    y, p, part = counted((40, 0, 0.2), (40, 1, 0.8), (12, 0, 0.2))
    found = measure_gaps(RowMetrics(y, p, None, range(92)), {"A": part < 2}, SliceSettings(resamples=20)).to_dict()
    assert found["reference"]["note"] == "too few rows" and found["largest"] is None
    assert found["groups"][0]["note"] == "too few rows to compare with for auroc, accuracy, fpr, fnr"
    found = measure_gaps(
        RowMetrics(y, p, None, range(92)), {"A": part < 2, "B": part > 0}, SliceSettings(resamples=20)
    ).to_dict()
    assert (found["reference"]["n"], found["reference"]["note"]) == (0, "no rows")
    assert found["groups"][0]["note"] == "no rows to compare with"


def test_the_worst_slice_is_the_least_likely_of_those_that_holm_makes_equal():
    """Two slices that nothing tells apart but their p-values: a wide gap of few rows, a narrower one of many."""
    y, p, part = counted(
        (29, 0, 0.2), (21, 0, 0.8), (348, 0, 0.2), (132, 0, 0.8), (1600, 0, 0.2), (400, 0, 0.8), (400, 1, 0.8)
    )
    slices = {("size", "few"): part < 2, ("size", "many"): (part >= 2) & (part < 4)}
    found = measure_slices(RowMetrics(y, p, None, range(len(y))), slices, SliceSettings(resamples=20)).to_dict()
    few, many = (row["differences"]["fpr"] for row in found["slices"])
    assert few["value"] > many["value"] > 0 and many["p"] < few["p"] and many["p_adjusted"] == few["p_adjusted"]
    worst = found["worst"]
    assert (worst["slice"], worst["figure"], worst["p"], worst["significant"]) == ("many", "fpr", many["p"], True)


def false_alarms(sets):
    """In how many data sets without any gap one is called more than chance; each post stands there once to three
    times, and may speak of several of six groups."""
    found = 0
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        groups = np.arange(400).repeat(rng.integers(1, 4, 400))
        y = (rng.random(400) < 0.4)[groups].astype(int)
        p = (1 / (1 + np.exp(-3 * (y[np.searchsorted(groups, range(400))] - 0.5) - rng.normal(0, 1.5, 400))))[groups]
        members = {f"group {k}": (rng.random(400) < 0.1)[groups] for k in range(6)}
        gaps = measure_gaps(RowMetrics(y, p, None, groups), members, SliceSettings(min_rows=20, resamples=2)).to_dict()
        assert gaps["comparisons"] > 6
        rates = [row["differences"][name] for row in gaps["groups"] for name in ("fpr", "fnr")]
        found += any(gap["p_adjusted"] <= 0.05 for gap in rates if gap)
    return found


def test_chance_is_rarely_called_a_gap():
    assert false_alarms(60) <= 60 * 0.05 + 2 * np.sqrt(60 * 0.05 * 0.95)


@pytest.mark.slow
def test_chance_is_called_a_gap_in_at_most_one_set_of_twenty():
    assert false_alarms(600) <= 600 * 0.05 + 2 * np.sqrt(600 * 0.05 * 0.95)
