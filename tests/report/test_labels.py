"""A run of several labels has a page for each, and at the top of each a table of all."""

import shutil
from pathlib import Path

import pytest
from tests.report.test_html import Page

from bifocal.report.findings import findings
from bifocal.report.html import to_html
from bifocal.report.labels import labels_of
from bifocal.report.markdown import to_markdown
from bifocal.workspace import Workspace, read_json, write_json

PAGES = {"urgent": "report", "paid": "report.paid", "kind": "report.kind"}
FIGURE = {"value": 0.71, "low": 0.64, "high": 0.78}


@pytest.fixture
def judged(labels_run, tmp_path):
    """The same run, whose child label is judged end to end too."""
    folder = Path(shutil.copytree(labels_run, tmp_path / "labels", ignore=shutil.ignore_patterns("evidence", "shards")))
    space = Workspace.of(folder)
    results = read_json(space.results)
    results["labels"]["kind"]["end_to_end"] = {"n": 120, "accuracy": FIGURE, "macro_f1": FIGURE}
    shares = {"annotated": [0.5, 0.5], "unannotated": [0.9, 0.1]}
    results["labels"]["paid"]["annotation"] = {
        "annotated": 80,
        "unannotated": 40,
        "shares": shares,
        "p": 0.0,
        "differ": True,
    }
    results["contradictions"] = {"kind": {"flagged_without_parent": 7, "of": 120}}
    write_json(space.results, results)
    return folder


def test_each_page_leads_to_the_others(labels_run):
    for name, folder in PAGES.items():
        page = Page((labels_run / folder / "index.html").read_text(encoding="utf-8"))
        links = [value for tag, key, value in page.attributes if (tag, key) == ("a", "href") and value[0] != "#"]
        assert links == [f"../{other}/index.html" for label, other in PAGES.items() if label != name]
        assert all((labels_run / folder / link).is_file() for link in links)
        assert f"all below is of {name}" in page.text
        markdown = (labels_run / folder / "report.md").read_text(encoding="utf-8")
        assert markdown.count("](../report") == 2 and f"\n| {name} |" in markdown


def test_a_row_holds_what_the_results_of_its_label_hold(labels_run):
    space = Workspace.of(labels_run)
    each = {of["name"]: of for of in read_json(labels_run / "report.paid" / "report.json")["labels"]["each"]}
    assert {name: (of["act"], of["requires"]) for name, of in each.items()} == {
        "urgent": ("block", None), "paid": ("review", None), "kind": ("none", "urgent"),
    }  # fmt: skip
    for name, of in each.items():
        results = space.for_label("" if name == "urgent" else name).read_section(space.results)
        main = results["models"]["mm_fusion"]
        assert of["gain"] == results["gain"] and of["threshold"] == main["threshold"]
        assert of["headline"]["value"] == main["test"]["calibrated"][of["headline"]["metric"]]["value"]
        assert of["rows"] == {split: main[split]["n"] for split in ("train", "val", "test")}
    assert each["kind"]["rows"]["test"] < each["paid"]["rows"]["test"]


def test_a_label_that_requires_another_is_told_of_as_such(judged):
    facts = findings(judged, "paid")
    for text in (to_markdown(facts), Page(to_html(facts, {})).text):
        assert "end to end, over all 120 posts annotated for urgent" in text and "macro-F1 0.710" in text
        assert "paid seems to be annotated more often in some classes: of 80 rows that bear it" in text
        assert "On 7 of the 120 test posts where urgent is not flagged, kind would be, were it asked" in text
    space = Workspace.of(judged)
    results = read_json(space.results)
    del results["labels"]["kind"]["end_to_end"]
    write_json(space.results, results)
    kind = findings(judged, "kind")
    assert kind["label"]["requires"] == "urgent"
    text = to_markdown(kind)
    assert "Given a post (text and tabular) that is positive by urgent, which of the 3 classes" in text
    assert "its figures are given the true parent." in text and "end to end" not in text


def test_a_run_of_one_label_has_no_such_table(fake_run):
    assert labels_of(fake_run()) is None and "labels" not in findings(fake_run())
