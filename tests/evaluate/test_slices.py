"""A planted slice is found and chance is not; figures are those of the slice's own rows, and too few rows are named."""

import csv
import json

import numpy as np
import pytest

from bifocal.errors import DataError
from bifocal.evaluate.intervals import measure
from bifocal.evaluate.metrics import accuracy, auroc, macro_f1
from bifocal.evaluate.row_metrics import RowMetrics
from bifocal.evaluate.slices import SliceSettings, measure_gaps, measure_slices, write_slices


def judged(n, *, seed=0, classes=2, skill=1.5, prevalence=0.4):
    """Labels and calibrated probabilities ``[n, C]`` of a model that knows something."""
    rng = np.random.default_rng(seed)
    if classes == 2:
        y = (rng.random(n) < prevalence).astype(int)
        p = 1 / (1 + np.exp(-skill * (skill * (y - 0.5) + rng.normal(0, 1, n)) - np.log(prevalence / (1 - prevalence))))
        return y, np.stack([1 - p, p], axis=1)
    y = rng.integers(0, classes, n)
    z = rng.normal(0, 1, (n, classes)) + skill * (y[:, None] == np.arange(classes))
    return y, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def columns(n, k, *, seed=0):
    """Slices of ``k`` columns of four values that have nothing to do with anything."""
    rng = np.random.default_rng([seed, 1])  # not the draws that the labels were made of
    drawn = {f"column {c}": rng.choice(4, n, p=[0.55, 0.25, 0.12, 0.08]) for c in range(k)}
    return {(name, f"value {v}"): values == v for name, values in drawn.items() for v in range(4)}


def rows_of(found):
    return {(row["column"], row["slice"]): row for row in found["slices"]}


def discoveries(found):
    return [
        (row["column"], row["slice"], figure)
        for row in found["slices"]
        for figure, gap in row["differences"].items()
        if gap and gap.get("p_adjusted", 1) <= 0.05
    ]


def test_the_figures_are_those_of_the_rows():
    y, p = judged(600)
    rows = np.arange(600) % 3 == 0
    found = rows_of(
        measure_slices(
            RowMetrics(y, p, None, range(600)), {("third", "yes"): rows}, SliceSettings(resamples=200)
        ).to_dict()
    )["third", "yes"]
    assert (found["n"], found["groups"], found["positives"], found["note"]) == (200, 200, int(y[rows].sum()), None)
    flagged = p[:, 1] >= 0.5
    expected = {
        "auroc": auroc(y[rows], p[rows]),
        "accuracy": accuracy(y[rows], p[rows]),
        "fpr": flagged[rows & (y == 0)].mean(),
        "fnr": 1 - flagged[rows & (y == 1)].mean(),
    }
    rest = {
        "auroc": auroc(y[~rows], p[~rows]),
        "accuracy": accuracy(y[~rows], p[~rows]),
        "fpr": flagged[~rows & (y == 0)].mean(),
        "fnr": 1 - flagged[~rows & (y == 1)].mean(),
    }
    for name, figure in found["figures"].items():
        gap = found["differences"][name]
        assert figure["value"] == pytest.approx(expected[name])
        assert figure["low"] < figure["value"] < figure["high"]
        assert gap["rest"] == pytest.approx(rest[name])
        assert gap["value"] == pytest.approx(expected[name] - rest[name])
        assert gap["low"] < gap["value"] < gap["high"]


def test_intervals_are_at_least_those_of_the_bootstrap_over_groups():
    y, p = judged(300, seed=1)
    y, p, groups = y.repeat(2), p.repeat(2, axis=0), np.arange(300).repeat(2)
    everything = {("all", "of them"): np.ones(600, dtype=bool)}
    found = measure_slices(RowMetrics(y, p, None, groups), everything, SliceSettings(resamples=500, seed=3)).to_dict()[
        "slices"
    ][0]["figures"]
    plain = measure(y, p, groups, resamples=500, seed=3)["metrics"]["accuracy"]
    assert found["accuracy"]["low"] <= plain["low"] and plain["high"] <= found["accuracy"]["high"]
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    assert width == pytest.approx(plain["high"] - plain["low"], rel=0.15)
    area = measure(y, p, groups, resamples=500, seed=3)["metrics"]["auroc"]
    assert found["auroc"]["high"] - found["auroc"]["low"] == pytest.approx(area["high"] - area["low"], rel=0.2)


@pytest.mark.parametrize("harm", ["auroc", "fpr", "fnr"])
def test_a_planted_slice_is_found_among_forty(harm):
    y, p = judged(3000, skill=2)
    bad = np.random.default_rng(5).random(3000) < 0.08
    predictions = (p[:, 1] >= 0.5).astype(int)
    if harm == "auroc":
        p[bad] = judged(int(bad.sum()), seed=9, skill=0.01)[1]
    else:
        wrong = bad & (y == (harm == "fnr")) & (np.random.default_rng(6).random(3000) < 0.35)
        predictions[wrong] = 1 - y[wrong]
    slices = {**columns(3000, 10), ("planted", "yes"): bad}
    found = measure_slices(RowMetrics(y, p, predictions, range(3000)), slices, SliceSettings(resamples=100)).to_dict()
    worst = found["worst"]
    assert (worst["column"], worst["figure"], worst["significant"]) == ("planted", harm, True)
    assert set(discoveries(found)) == {("planted", "yes", harm)}
    assert found["comparisons"] == 3 * 41 and worst["confidence"] == pytest.approx(1 - 0.05 / 123)
    assert (worst["value"] < 0 and worst["high"] < 0) if harm == "auroc" else (worst["value"] > 0 and worst["low"] > 0)
    alone = rows_of(found)["planted", "yes"]["differences"][harm]
    assert worst["low"] < alone["low"] and alone["high"] < worst["high"]


def false_alarms(sets, *, n, copies=1, classes=2, **settings):
    """In how many data sets without any difference one is named."""
    found = 0
    for seed in range(sets):
        y, p = (a.repeat(copies, axis=0) for a in judged(n // copies, seed=seed, classes=classes, **settings))
        groups = np.arange(n // copies).repeat(copies)
        slices = columns(len(groups), 5, seed=seed)
        # Half of the columns are of the whole group, as a language is, half of its rows, as a length may be.
        slices |= {("of groups", k[1]): s[groups] for k, s in columns(n // copies, 1, seed=seed + 10_000).items()}
        found += bool(
            discoveries(
                measure_slices(RowMetrics(y, p, None, groups), slices, SliceSettings(resamples=2, seed=seed)).to_dict()
            )
        )
    return found


NULL = {
    "single rows": {"n": 600},
    "rare, skilled": {"n": 900, "prevalence": 0.1, "skill": 3.0},
    "copies": {"n": 1200, "copies": 3},
    "five classes": {"n": 600, "classes": 5},
}


@pytest.mark.parametrize("kind", NULL)
def test_chance_is_rarely_called_a_difference(kind):
    sets = 20
    assert false_alarms(sets, **NULL[kind]) <= sets * 0.05 + 2 * np.sqrt(sets * 0.05 * 0.95)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NULL)
def test_chance_is_called_a_difference_in_at_most_one_set_of_twenty(kind):
    sets = 600
    assert false_alarms(sets, **NULL[kind]) <= sets * 0.05 + 2 * np.sqrt(sets * 0.05 * 0.95)


def test_a_slice_and_its_complement_are_one_question():
    y, p = judged(400)
    half = np.arange(400) % 2 == 0
    one = measure_slices(
        RowMetrics(y, p, None, range(400)), {("half", "yes"): half}, SliceSettings(resamples=2)
    ).to_dict()
    slices = {("half", "yes"): half, ("half", "no"): ~half, ("same", "rows"): half}
    found = measure_slices(RowMetrics(y, p, None, range(400)), slices, SliceSettings(resamples=2)).to_dict()
    assert one["comparisons"] == found["comparisons"] == 3
    yes, no, same = (row["differences"]["fpr"] for row in found["slices"])
    assert yes["p_adjusted"] == no["p_adjusted"] == same["p_adjusted"]
    assert yes["value"] == pytest.approx(-no["value"]) and yes["low"] == pytest.approx(-no["high"])


def test_several_classes_have_macro_f1_and_a_class_against_the_rest_where_asked():
    y, p = judged(900, classes=4)
    rows = np.arange(900) < 300
    found = measure_slices(
        RowMetrics(y, p, None, range(900)), {("first", "yes"): rows}, SliceSettings(resamples=100)
    ).to_dict()
    row = found["slices"][0]
    assert found["headline"] == "macro_f1" and row["positives"] == np.bincount(y[rows]).tolist()
    assert row["figures"]["macro_f1"]["value"] == pytest.approx(macro_f1(y[rows], p[rows]))
    assert row["differences"]["macro_f1"]["rest"] == pytest.approx(macro_f1(y[~rows], p[~rows]))
    assert "p" in row["differences"]["accuracy"] and "p" not in row["differences"]["macro_f1"]
    asked = measure_slices(
        RowMetrics(y, p, None, range(900), rates_of=2), {("first", "yes"): rows}, SliceSettings(resamples=100)
    ).to_dict()
    named = p.argmax(axis=1) == 2
    figures = asked["slices"][0]["figures"]
    assert figures["fpr"]["value"] == pytest.approx(named[rows & (y != 2)].mean())
    assert figures["fnr"]["value"] == pytest.approx(1 - named[rows & (y == 2)].mean())
    assert (found["comparisons"], asked["comparisons"]) == (1, 3)


@pytest.mark.filterwarnings("error")
def test_too_few_rows_are_named_and_never_nan(tmp_path):
    y, p = judged(400)
    inside = np.arange(400)
    slices = {
        ("few", "none"): inside < 0,
        ("few", "one"): inside < 1,
        ("few", "29"): inside < 29,
        ("few", "nearly all"): inside >= 5,
        ("few", "all"): inside >= 0,
        ("class", "positive"): y == 1,
    }
    measured = measure_slices(RowMetrics(y, p, None, range(400)), slices, SliceSettings(resamples=50))
    found = measured.to_dict()
    notes = {row["slice"]: (row["n"], row["note"]) for row in found["slices"]}
    assert notes == {
        "none": (0, "no rows"),
        "one": (1, "too few rows"),
        "29": (29, "too few rows"),
        "nearly all": (395, "too few rows to compare with for auroc, accuracy, fpr, fnr"),
        "all": (400, "all rows: nothing to compare with"),
        "positive": (int(y.sum()), "too few rows for auroc, fpr"),
    }
    json.dumps(found, allow_nan=False)
    write_slices(tmp_path / "slices.csv", measured)
    assert "nan" not in (tmp_path / "slices.csv").read_text()


def test_rows_of_few_groups_are_few_rows():
    y, p = judged(40)
    y, p, groups = y.repeat(10), p.repeat(10, axis=0), np.arange(40).repeat(10)
    found = measure_slices(
        RowMetrics(y, p, None, groups), {("copies", "yes"): groups < 20}, SliceSettings(resamples=50)
    ).to_dict()["slices"][0]
    assert (found["n"], found["groups"], found["note"]) == (200, 20, "too few rows")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_equal_scores_of_zero_or_one_are_no_finding(probability):
    y = np.arange(200) % 2
    rows = np.arange(200) < 90
    found = measure_slices(
        RowMetrics(y, np.full(200, probability), None, range(200)),
        {("some", "rows"): rows},
        SliceSettings(resamples=50),
    ).to_dict()
    json.dumps(found, allow_nan=False)
    assert found["slices"][0]["figures"]["auroc"]["value"] == 0.5 and not discoveries(found)


def test_no_slices_and_no_comparisons():
    y, p = judged(50)
    found = measure_slices(RowMetrics(y, p, None, range(50)), {}, SliceSettings(resamples=20)).to_dict()
    assert (found["slices"], found["comparisons"], found["worst"]) == ([], 0, None)


def test_slices_that_are_not_of_the_rows_are_refused():
    y, p = judged(50)
    with pytest.raises(DataError, match=r"slice 'b' of a is a bool per row, found int64 of shape \[50\]"):
        measure_slices(RowMetrics(y, p, None, range(50)), {("a", "b"): y}, SliceSettings(resamples=20))
    with pytest.raises(DataError, match="groups are one per row, found 49 for 50 labels"):
        measure_slices(RowMetrics(y, p, None, range(49)), {}, SliceSettings(resamples=20))


def test_the_gap_of_a_group_is_found_and_of_others_not():
    y, p = judged(4000, skill=2)
    rng = np.random.default_rng(3)
    members = {name: rng.random(4000) < 0.06 for name in ("first", "second", "third")} | {"few": np.arange(4000) < 12}
    predictions = (p[:, 1] >= 0.5).astype(int)
    predictions[members["second"] & (y == 0) & (rng.random(4000) < 0.35)] = 1
    found = measure_gaps(RowMetrics(y, p, predictions, range(4000)), members, SliceSettings(resamples=100)).to_dict()
    none = ~np.any(list(members.values()), axis=0)
    reference = found["reference"]
    assert (reference["n"], reference["negatives"]) == (none.sum(), (y[none] == 0).sum())
    assert reference["figures"]["fpr"]["value"] == pytest.approx(predictions[none & (y == 0)].mean())
    second = found["groups"][1]
    expected = predictions[members["second"] & (y == 0)].mean()
    assert second["figures"]["fpr"]["value"] == pytest.approx(expected)
    assert second["differences"]["fpr"]["value"] == pytest.approx(expected - reference["figures"]["fpr"]["value"])
    gaps = {(g["group"], name): gap for g in found["groups"] for name, gap in g["differences"].items()}
    compared = [pair for pair, gap in gaps.items() if gap and "p" in gap]
    assert found["comparisons"] == len(compared) == 6  # both rates of the three groups that have rows enough
    assert [pair for pair in compared if gaps[pair]["p_adjusted"] <= 0.05] == [("second", "fpr")]
    largest = found["largest"]
    assert (largest["slice"], largest["figure"], largest["significant"]) == ("second", "fpr", True)
    assert largest["low"] > 0 and found["groups"][3]["note"] == "too few rows"


def test_groups_that_cover_all_rows_leave_nothing_to_compare_with():
    y, p = judged(300)
    found = measure_gaps(
        RowMetrics(y, p, None, range(300)), {"everyone": np.ones(300, dtype=bool)}, SliceSettings(resamples=20)
    ).to_dict()
    assert found["reference"]["n"] == 0 and found["largest"] is None and found["comparisons"] == 0
    json.dumps(found, allow_nan=False)


def test_gaps_of_several_classes_need_one_to_hold_against_the_rest():
    y, p = judged(300, classes=3)
    members = {"some": np.arange(300) < 150}
    with pytest.raises(DataError, match=r"name one class in `slices.rates_of`"):
        measure_gaps(RowMetrics(y, p, None, range(300)), members, SliceSettings(resamples=20))
    found = measure_gaps(RowMetrics(y, p, None, range(300), rates_of=0), members, SliceSettings(resamples=20)).to_dict()
    assert found["groups"][0]["negatives"] == (y[:150] != 0).sum()


def test_the_table_says_what_the_figures_say(tmp_path):
    for classes in (2, 3):
        y, p = judged(300, classes=classes)
        measured = measure_slices(RowMetrics(y, p, None, range(300)), columns(300, 2), SliceSettings(resamples=50))
        found = measured.to_dict()
        write_slices(tmp_path / "slices.csv", measured)
        with open(tmp_path / "slices.csv", newline="") as f:
            rows = list(csv.DictReader(f))
        assert len(rows) == 8
        for row, measured in zip(rows, found["slices"], strict=True):
            assert (row["column"], row["slice"], int(row["n"])) == (
                measured["column"],
                measured["slice"],
                measured["n"],
            )
            gap = measured["differences"]["accuracy"]
            assert row["accuracy_difference"] == (repr(gap["value"]) if gap else "")
            assert bool(row["accuracy_p"]) == (classes == 3 and gap is not None)
    y, p = judged(300)
    write_slices(
        tmp_path / "slices.csv",
        measure_slices(RowMetrics(y, p, None, range(300)), {("=1+1", "@x"): y == 1}, SliceSettings(resamples=5)),
    )
    assert "\n'=1+1,'@x," in (tmp_path / "slices.csv").read_text()
    write_slices(tmp_path / "slices.csv", None)
    assert (tmp_path / "slices.csv").read_text() == "column,slice,n,groups,positives,note\n"
