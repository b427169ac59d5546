"""Figures are deterministic SVG that names itself, keeps its text and takes its colours from the page."""

import re
import subprocess
import sys
from functools import cache
from io import BytesIO
from xml.etree import ElementTree

import matplotlib
from PIL import Image

from bifocal.evaluate.curves import reliability
from bifocal.report.drawings import draw_figures
from bifocal.report.figures import (
    PALETTE,
    Drawn,
    confusion_matrix,
    flip_bars,
    forest,
    metric_intervals,
    ranking_curves,
    reliability_diagram,
    risk_coverage_curves,
    threshold_curves,
    training_curves,
)
from bifocal.report.findings import findings

BINS = reliability([0.1, 0.15, 0.9, 0.92, 0.5], [False, False, True, False, True])
CURVE = [
    {"threshold": t / 10, "precision": 0.6, "recall": 1 - t / 10, "f1": 0.5, "flagged": 10.0 * (t < 8)}
    for t in range(1, 10)
]
EPOCHS = [
    {"epoch": e, "train_loss": 1 / e, "train_macro_f1": 0.5, "val_loss": 1.1 / e, "val_macro_f1": 0.4} for e in (1, 2)
]
FIGURES = {
    "a_expert": {"value": 0.6, "low": 0.5, "high": 0.7},
    "fused": {"value": 0.7, "low": None, "high": None},
    "lost": {"value": None, "low": None, "high": None},
    "majority": {"value": 0.5, "low": 0.5, "high": 0.5},
}


LINE = [[0.0, 0.0], [0.2, 0.7], [1.0, 1.0]]
GAPS = [
    {"name": "language: de (40)", "value": -0.2, "low": -0.3, "high": -0.1, "sure": True},
    {"name": "language: fr (9)", "value": 0.1, "low": None, "high": None, "sure": False},
]
FLIPS = [{"name": "text: homoglyphs", "value": 0.02, "low": 0.0, "high": 0.1, "uncleaned": 0.3}]


def all_drawn() -> dict[str, Drawn]:
    curves = training_curves({"a_expert": EPOCHS, "head_only": EPOCHS[:1]})
    assert curves is not None
    return {
        "reliability": reliability_diagram(BINS, BINS, predicted="predicted probability", observed="share positive"),
        "ranking": ranking_curves({"fused": LINE, "a": LINE}, {"fused": LINE, "a": LINE}, "fused", 0.4),
        "confusion": confusion_matrix([[5, 1], [0, 7]], [0, 1]),
        "risk": risk_coverage_curves({"fused": LINE, "a": LINE}, "fused"),
        "forest": forest(GAPS, "AUROC: slice less the rest"),
        "flips": flip_bars(FLIPS),
        "threshold": threshold_curves(CURVE, 0.4),
        "intervals": metric_intervals(FIGURES, "AUROC", "fused"),
        "training": curves,
    }


def draw() -> dict[str, str]:
    return {name: drawn.svg for name, drawn in all_drawn().items()}


drawings = cache(draw)


def test_every_figure_is_one_well_formed_svg_element_with_a_name():
    for svg in drawings().values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert svg.startswith("<svg")  # no XML declaration or doctype: it stands inside a page


def test_every_figure_comes_as_png_too():
    for drawn in all_drawn().values():
        with Image.open(BytesIO(drawn.png)) as picture:
            assert picture.format == "PNG" and picture.width > 600
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_notebook_shows_a_figure_as_wide_as_the_page_does():
    from IPython.core.formatters import DisplayFormatter

    drawn = all_drawn()["intervals"]
    shown, about = DisplayFormatter().format(drawn)
    assert shown["image/png"] == drawn.png and about["image/png"] == {"width": 538}


def test_text_stays_text():
    found = {name: set(re.findall(r">([^<>]+)</text>", svg)) for name, svg in drawings().items()}
    assert {"predicted probability", "share positive", "1"} <= found["reliability"]
    assert {"precision", "recall", "F1", "0.40"} <= found["threshold"]
    assert {"a_expert", "fused", "lost", "majority", "AUROC", "0.700"} <= found["intervals"]
    assert {"a_expert: loss", "train", "val", "epoch"} <= found["training"]
    assert not any("head_only" in text for text in found["training"])
    assert {"fused", "a", "recall", "precision"} <= found["ranking"]
    assert {"truth", "predicted", "5", "7"} <= found["confusion"] and {"language: de (40)"} <= found["forest"]
    assert {"text: homoglyphs"} <= found["flips"]


def test_the_same_numbers_give_the_same_bytes():
    assert drawings() == draw()


def test_every_colour_can_be_set_by_the_page():
    for svg in drawings().values():
        bare = re.sub(r"var\(--fig-\w+, #[0-9a-f]{6}\)", "", svg)
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{3,6}", bare)
        assert f"var(--fig-muted, {PALETTE['muted']})" in svg


def test_figures_on_one_page_share_no_ids():
    ids = [i for svg in drawings().values() for i in set(re.findall(r' id="([^"]+)"', svg))]
    assert len(ids) == len(set(ids)) > 0
    for svg in drawings().values():  # and none that is pointed at was lost
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(re.findall(r' id="([^"]+)"', svg))


def test_names_from_a_run_are_neither_markup_nor_mathematics():
    svg = metric_intervals({"<b>$x_{$": FIGURES["a_expert"], "majority": FIGURES["majority"]}, "AUROC", "majority").svg
    assert "&lt;b&gt;$x_{$" in svg


def test_precision_is_not_drawn_where_nothing_is_flagged():
    elsewhere = [{**row, "precision": row["precision"] if row["flagged"] else 0.0} for row in CURVE]
    assert threshold_curves(elsewhere, 0.4) == threshold_curves(CURVE, 0.4)
    moved = [{**row, "precision": 0.3} for row in CURVE]
    assert threshold_curves(moved, 0.4) != threshold_curves(CURVE, 0.4)


def test_heads_fitted_at_one_go_have_no_curve():
    assert training_curves({"text_expert": EPOCHS[:1], "vision_expert": EPOCHS[:1]}) is None
    assert training_curves({}) is None


def test_a_run_without_val_draws_train_alone():
    drawn = training_curves({"a_expert": [{"epoch": e, "train_loss": 1 / e, "train_macro_f1": 0.5} for e in (1, 2, 3)]})
    assert drawn is not None
    assert ">train<" in drawn.svg
    assert ">val<" not in drawn.svg


def test_no_global_state_is_touched():
    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before
    code = "import sys, bifocal.report.figures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_histogram_of_scores_counts_every_tested_post_once(fake_run):
    facts = findings(fake_run())
    rows = facts["explorer"]["tested"]["rows"]
    bins = draw_figures(facts)["scores"].rows
    assert sum(b["positive"] for b in bins) == rows[0]["tp"] and sum(b["negative"] for b in bins) == rows[0]["fp"]
    assert len(bins) == 20 and (bins[0]["from"], bins[-1]["to"]) == (0, 1)
