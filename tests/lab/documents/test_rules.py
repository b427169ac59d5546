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


def test_a_fusion_is_robust_graceful_or_fragile(found):
    left = next(v for v in found["dominance"]["auroc"]["values"] if v["modalities"] == ["image"])
    alone = figure_of(found, found["best_of_modality"]["image"])["value"]

    def word():
        return next(a.word for a in rules.absences(LabResults(**found)) if a.modality == "text")

    left["value"] = alone - 0.009
    assert word() == "graceful"
    left["value"] = alone - 0.011
    assert word() == "fragile" and rules.robustness(LabResults(**found)) == "fragile"
    found["risk"]["drops"]["text"]["value"] = -0.009
    assert word() == "robust"
    left["value"] = None
    assert word() == "unknown"


def test_less_stable_is_a_wide_spread_or_more_divergences(found):
    assert rules.steadiness(LabResults(**found)).unsteady == []
    row = next(r for r in found["fusions"] if r["model"] == "concat")
    widest = max(rules.steadiness(LabResults(**found)).heads)
    row["seeds"]["test"]["std"] = max(2 * widest, 0.005) + 0.001
    assert rules.steadiness(LabResults(**found)).unsteady == ["concat"]
    row["seeds"]["test"]["std"] = 0.0
    found["stability"]["models"]["concat"]["diverged"] = 1  # of 12: what a grid is for
    assert rules.steadiness(LabResults(**found)).unsteady == []
    found["stability"]["models"]["concat"]["diverged"] = 2
    assert rules.steadiness(LabResults(**found)).unsteady == ["concat"]


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


def test_every_word_is_explained():
    text = postmortem([LabResults(**EXAMPLE["and"])], "lab")
    for word in (*rules.SEVERITY, "clearly dominant", "ahead", "level", "behind", "less stable", "new information"):
        assert f"**{word}**" in text
