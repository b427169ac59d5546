"""A lab's results are read with what is missing or null as not measured, and refused where a needed part lacks."""

import json
from pathlib import Path

import pytest

from bifocal.errors import RunError
from bifocal.lab.results import LabResults, read_set, read_sets
from bifocal.lab.results_schema import Figure

EXAMPLE = json.loads((Path(__file__).parent / "documents" / "lab_results.json").read_text(encoding="utf-8"))


def kept(folder, found, **other):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    for name, content in other.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", EXAMPLE)
def test_figures_are_those_of_the_file(name):
    found = EXAMPLE[name]
    results = LabResults(**found)
    assert results.gain.value == found["gain"]["value"] and results.title == (found["about"] or {}).get("title", "")
    for trial in (*found["baselines"], *found["fusions"]):
        read = results.model(trial["model"])
        assert read.test[found["metric"]].model_dump() == trial["test"][found["metric"]]
        assert read.spread == trial["seeds"].get("test", {}).get("std")
    assert results.tested(found["best_fusion"]) == results.model(found["best_fusion"]).test[found["metric"]]


def test_null_and_missing_parts_are_not_measured():
    found = {**EXAMPLE["and"], "stability": None, "joint": None, "imbalance": {"starved": {"text": None}}}
    del found["corruption"]
    results = LabResults(**found)
    assert not results.stability.models and not results.joint.trials and not results.imbalance.ways
    assert not {"stability", "joint", "corruption"} & results.measured and "ablation" in results.measured


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (None, 0.1, None)])
def test_the_sign_of_a_difference_is_that_of_its_interval(low, high, sign):
    assert Figure(value=0.05, low=low, high=high).sign == sign


def test_a_set_is_named_after_its_folder_and_has_what_a_benchmark_left(tmp_path):
    figure = {"value": 0.8, "low": 0.7, "high": 0.9}
    kept(tmp_path / "b", EXAMPLE["and"], autogluon={"version": "1", "auroc": figure})
    kept(tmp_path / "a", {**EXAMPLE["and"], "about": {"order": None}})
    second, first = read_sets(tmp_path)
    assert (second.name, first.name) == ("b", "a") or EXAMPLE["and"]["about"].get("order") is None
    rival = read_set(tmp_path / "b").autogluon
    assert rival.test["auroc"].model_dump() == figure and rival.version == "1"


def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(tmp_path):
    with pytest.raises(RunError, match=r"lacks gain, price.parameters.*run bifocal lab again"):
        read_set(kept(tmp_path / "a", {**{k: v for k, v in EXAMPLE["and"].items() if k != "gain"}, "price": {}}))
    with pytest.raises(RunError, match=r"cannot read: margin .*run bifocal lab again"):
        read_set(kept(tmp_path / "b", {**EXAMPLE["and"], "margin": "wide"}))
