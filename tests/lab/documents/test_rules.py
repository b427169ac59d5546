"""The rules behind the words: each word at its threshold."""

import copy
import json
from pathlib import Path

import pytest

from bifocal.lab.documents import rules
from bifocal.lab.documents.postmortem import postmortem
from bifocal.lab.results import LabResults

EXAMPLE = json.loads((Path(__file__).parent / "lab_results.json").read_text(encoding="utf-8"))


@pytest.fixture
def found():
    return copy.deepcopy(EXAMPLE["and"])


def lead(found):
    return rules.lead(LabResults(**found), "image")


def figure_of(found, model):
    return next(row for row in (*found["baselines"], *found["fusions"]) if row["model"] == model)["test"]["auroc"]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.011, 0.05, "clearly dominant"), (0.001, 0.05, "ahead"), (-0.01, 0.05, "level"), (-0.05, -0.001, "behind"),
     (None, None, "unknown")],
)  # fmt: skip
def test_a_lead_is_named_by_its_interval(found, low, high, word):
    found["over_others"] = {"image": {"value": 0.0, "low": low, "high": high}}
    assert lead(found) == word


def test_without_a_paired_lead_intervals_must_lie_apart(found):
    ours, theirs = (figure_of(found, found["best_of_modality"][m]) for m in ("text", "image"))
    assert lead(found) == "level"
    ours.update(low=0.95, high=0.97), theirs.update(low=0.80, high=0.90)
    assert lead(found) == "clearly dominant"
    theirs.update(high=0.945)
    assert lead(found) == "ahead"
    ours.update(low=0.70, high=0.75)
    assert lead(found) == "behind"


def test_a_fusion_is_robust_graceful_or_fragile_by_its_intervals(found):
    def word(change, over_rest):
        found["risk"]["drops"]["text"] |= dict(zip(("value", "low", "high"), change, strict=True))
        rest = dict(zip(("value", "low", "high"), over_rest, strict=True))
        found["risk"]["over_rest"] = {"text": rest, "image": {"value": 0.0, "low": -0.001, "high": 0.001}}
        return {a.modality: a.word for a in rules.absences(LabResults(**found))}["text"]

    lost, level = (-0.2, -0.23, -0.17), (0.0, -0.002, 0.002)
    assert word(lost, level) == "graceful" and rules.robustness(LabResults(**found)) == "graceful"
    assert word((-0.005, -0.006, -0.004), level) == "robust"
    assert word(lost, (-0.05, -0.06, -0.04)) == "fragile" and rules.robustness(LabResults(**found)) == "fragile"
    # The values alone would say graceful, and robust.
    assert word(lost, (0.0, -0.03, 0.03)) == "not shown" and rules.robustness(LabResults(**found)) == "not shown"
    assert word((0.0, -0.03, 0.03), (0.0, -0.03, 0.03)) == "not shown"
    # By itself the interval ends above the margin; of six comparisons it does not.
    assert word(lost, (0.0, -0.0099, 0.0099)) == "not shown"
    assert word((None, None, None), (None, None, None)) == "not shown"


def test_models_that_never_differ_on_few_rows_show_nothing(found):
    for figure in found["risk"]["drops"].values():
        figure |= {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["rows"]["test"] == 300 and rules.robustness(LabResults(**found)) == "not shown"
    found["rows"]["test"] = 301
    assert rules.robustness(LabResults(**found)) == "robust"


def test_without_a_paired_interval_of_what_is_left_it_is_made_of_two(found):
    left = found["ablation"]["modalities"]["text"]["removed"]["absent"]
    left |= {"value": 0.6, "low": 0.55, "high": 0.65}
    fragile = next(a for a in rules.absences(LabResults(**found)) if a.modality == "text")
    alone = figure_of(found, found["best_of_modality"]["image"])
    assert fragile.word == "fragile" and fragile.over_alone.value == pytest.approx(0.6 - alone["value"])
    assert fragile.over_alone.high < 0.65 - alone["low"]  # narrower than the ends apart
    del found["ablation"]
    assert {a.word for a in rules.absences(LabResults(**found))} == {"not shown"}


def test_less_stable_is_a_wide_spread_or_more_divergences_than_chance_makes(found):
    def unsteady():
        return rules.steadiness(LabResults(**found)).unsteady

    assert unsteady() == []
    row = next(r for r in found["fusions"] if r["model"] == "concat")
    widest = max(rules.steadiness(LabResults(**found)).heads)
    row["seeds"]["test"]["std"] = max(10 * widest, 0.005)
    assert unsteady() == []  # two seeds tell nothing
    for trial in (*found["baselines"], *found["fusions"]):
        trial["seeds"]["n"] = 5
    assert unsteady() == ["concat"]
    found["margin"] = 3 * row["seeds"]["test"]["std"]  # the set's own margin: half of it is more than that spread
    assert unsteady() == []
    found["margin"] = 0.01
    row["seeds"]["test"]["std"] = max(2.5 * widest, 0.005)
    assert unsteady() == []
    row["seeds"]["test"]["std"] = 0.0
    found["stability"]["models"]["concat"]["diverged"] = 3  # of 12, none of 24 heads: one in ten times by chance
    assert unsteady() == []
    found["stability"]["models"]["concat"]["diverged"] = 7
    assert unsteady() == ["concat"]


def test_new_information_is_that_of_the_weaker_modality_or_synergy(found):
    assert rules.stronger(LabResults(**found)) == found["pid"]["first"] == "text"
    found["pid"]["synergy"] = {"value": 0.005, "low": 0.0, "high": 0.01}
    found["pid"]["unique_1"] = {"value": 0.9, "low": 0.8, "high": 1.0}  # the stronger one's own
    assert rules.news(LabResults(**found)).word == "none"
    found["pid"]["unique_2"] = {"value": 0.05, "low": 0.02, "high": 0.08}
    assert rules.news(LabResults(**found)).word == "new"
    assert rules.news(LabResults(**{**found, "pid": None})) is None


def test_standings_rank_ties_before_rank():
    ranked = rules.standings([LabResults(**EXAMPLE["and"]), LabResults(**EXAMPLE["xor"])])
    first, *_, last = ranked
    assert first.ties == 2 and last.strategy == "mean" and last.ties == 1 and last.worst > 0.3
    assert {r.strategy for r in ranked} == {"mean", "concat", "attention"}
    assert rules.standings([]) == []


def test_an_outcome_is_what_the_fits_of_a_set_together_show(found):
    fit = found["imbalance"]["starved"]["text"]["levels"][1]
    others = [
        level
        for way in ("starved", "corrupted")
        for part in found["imbalance"][way].values()
        for level in part["levels"][1:]
    ]
    for level in others:
        level |= {name: {"value": 0.0, "low": -0.3, "high": 0.3} for name in ("gain", "excess", "left", "moved")}

    def word(**figures):
        fit.update({n: dict(zip(("value", "low", "high"), f, strict=True)) for n, f in figures.items()})
        return rules.outcomes_of(LabResults(**found))["starved", "text", fit["level"]]

    assert word() == "none"
    assert word(gain=(0.05, 0.04, 0.06), moved=(0.3, 0.28, 0.32)) == "adapts"
    assert word(moved=(0.06, 0.051, 0.07)) == "none"  # by itself above 0.05
    assert word(moved=(0.3, 0.28, 0.32), excess=(0.1, 0.09, 0.11)) == "over-relies"
    assert word(left=(0.05, 0.04, 0.06)) == "adapts"
    assert word(gain=(-0.05, -0.06, -0.04)) == "collapses"
    counts = rules.outcomes([LabResults(**found)])
    assert counts == {"adapts": 0, "collapses": 1, "over-relies": 0, "none": len(others) - 1}


def test_every_word_is_explained():
    text = postmortem([LabResults(**EXAMPLE["and"])], "lab")
    for word in (*rules.SEVERITY, "clearly dominant", "ahead", "level", "behind", "less stable", "new information"):
        assert f"**{word}**" in text
