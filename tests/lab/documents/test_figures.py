"""The lab's figures stand alone, name themselves, and are left out where there is nothing to draw."""

import copy
import json
import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from bifocal.lab.documents.figures import PALETTE, draw, gains, standalone
from bifocal.lab.results import LabResults

EXAMPLE = json.loads((Path(__file__).parent / "lab_results.json").read_text(encoding="utf-8"))


@cache
def drawn(name):
    return draw(LabResults(**EXAMPLE[name], name=name))


def texts(svg):
    return re.findall(r">([^<>]+)</text>", svg)


def test_every_figure_is_well_formed_and_needs_no_page():
    for svg in drawn("xor").values():
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") and "var(" not in svg and "mathdefault" not in svg
        assert root[0].tag.endswith("rect")  # the paper behind it
        assert len(svg) < 40_000


def test_figures_show_the_numbers_of_the_results():
    found = EXAMPLE["xor"]
    shown = texts(drawn("xor")["fusions.svg"])
    for row in found["fusions"]:
        assert row["model"] in shown and f"{row['test']['auroc']['value']:.3f}" in shown
    assert f"B: {found['best_baseline']}" in shown
    assert {"typos", "word drop", "blur"} <= set(texts(drawn("xor")["corruption.svg"]))
    assert set(texts(drawn("xor")["missing.svg"])) >= {"text", "image", "B"}


def test_what_was_not_run_has_no_figure():
    assert set(drawn("three")) == {"fusions.svg", "missing.svg", "parameters.svg"}


def test_gains_leave_out_what_is_not_known():
    sets = [LabResults(**EXAMPLE[name], name=name) for name in ("and", "three")]
    shown = texts(gains(sets))
    assert f"{EXAMPLE['and']['gain']['value']:+.3f}" in shown and "three" in shown and len(sets) == 2


def test_the_band_of_gains_is_each_set_s_margin():
    def bands(*margins):
        sets = [LabResults(**{**EXAMPLE["and"], "margin": margin}, name=f"set {margin}") for margin in margins]
        return gains(sets).count(f"fill: {PALETTE['grid']}")

    assert bands(0.01, 0.01) == 1 and bands(0.01, 0.02) == 2


def test_values_that_are_not_known_are_no_error():
    found = copy.deepcopy({**EXAMPLE["xor"], "name": "xor"})
    for row in found["fusions"]:
        row["test"]["auroc"] = {"value": None, "low": None, "high": None}
        row["val"]["auroc"] = None
    found["ablation"]["modalities"]["text"]["noise"][0]["low"] = None
    assert "fusions.svg" in draw(LabResults(**found))


def test_numbers_in_words_are_not_cut():
    svg = '<svg a="1.23456"><text x="0.98765">0.98765</text></svg>'
    assert standalone(svg).endswith('<text x="0.98">0.98765</text></svg>\n') and 'a="1.23"' in standalone(svg)
