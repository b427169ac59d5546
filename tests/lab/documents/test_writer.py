"""The committed documents and figures are those that the committed results give; writing them again changes nothing."""

import json
import re
from pathlib import Path

import pytest

from bifocal.errors import RunError
from bifocal.lab.documents.writer import experiments, render_documents, write_documents
from bifocal.lab.results import read_sets

ROOT = Path(__file__).parents[3]
EXAMPLE = json.loads((Path(__file__).parent / "lab_results.json").read_text(encoding="utf-8"))


@pytest.fixture
def lab(tmp_path):
    """A folder of two sets' results, without the figures that take longest to draw."""
    for name in ("three", "colours"):
        (tmp_path / "lab" / name).mkdir(parents=True)
        (tmp_path / "lab" / name / "results.json").write_text(
            json.dumps(EXAMPLE[name] | {"stability": None}), encoding="utf-8"
        )
    return tmp_path / "lab"


@pytest.mark.skipif(not list(ROOT.glob("lab/*/results.json")), reason="no results are committed below lab/")
def test_the_committed_documents_match_the_committed_results():
    rendered = render_documents(ROOT / "lab", ROOT)
    for path, text in rendered.items():
        assert path.is_file(), f"{path} is missing: run bifocal lab --write"
        assert path.read_text(encoding="utf-8") == text, f"{path} is not what the results give: run bifocal lab --write"
    stale = {*ROOT.glob("lab/**/*.svg"), *ROOT.glob("lab/**/*.md")} - set(rendered)
    assert not stale, f"files that no results give: delete {stale}"


def test_the_index_is_short_and_has_a_row_per_set_in_every_table():
    sets = len(list(ROOT.glob("lab/*/results.json")))
    index = experiments(read_sets(ROOT / "lab"), "lab")
    assert len(index.splitlines()) <= 250
    for heading in ("Overview", "Pipelines", "Strategy", "Parameters", "Stability"):
        table = index.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        assert sum(line.startswith("| ") for line in table.splitlines()) == sets + 2, heading


def test_everything_is_written_in_order_and_equal_numbers_give_equal_bytes(lab, tmp_path):
    written = write_documents(lab, tmp_path)
    assert written[:3] == [tmp_path / "experiments.md", tmp_path / "postmortem.md", lab / "gains.svg"]
    before = {path: path.read_bytes() for path in written}
    assert {path: text.encode() for path, text in render_documents(lab, tmp_path).items()} == before
    text = (tmp_path / "experiments.md").read_text(encoding="utf-8")
    # By `about.order`; a set without one comes last.
    assert text.index("\n| 1. [Shop") < text.index("\n| 2. [three]")
    documents = [path for path in written if path.suffix == ".md"]
    assert len(documents) == 4
    for path in documents:
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).is_file(), (path, link)


def test_a_changed_number_changes_the_documents(lab, tmp_path):
    before = render_documents(lab, tmp_path)
    path = lab / "colours" / "results.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["gain"]["value"] += 0.1
    path.write_text(json.dumps(found), encoding="utf-8")
    after = render_documents(lab, tmp_path)
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed == {"experiments.md", "postmortem.md", "gains.svg", "README.md"}


def test_what_autogluon_reached_is_told_where_it_was_measured(lab, monkeypatch):
    monkeypatch.setattr("bifocal.lab.documents.writer.draw", lambda results: {})  # it is told in words
    assert "0.111" not in "".join(text for path, text in render_documents(lab).items() if path.suffix == ".md")
    metric = json.loads((lab / "three" / "results.json").read_text(encoding="utf-8"))["metric"]
    figure = {"version": "1.6.3", "seconds": 15.0, metric: {"value": 0.111, "low": 0.1, "high": 0.12}}
    (lab / "three" / "autogluon.json").write_text(json.dumps(figure), encoding="utf-8")
    rendered = render_documents(lab, lab.parent)
    of_set = rendered[lab / "three" / "README.md"]
    assert "AutoGluon's tabular predictor (version 1.6.3" in of_set and "0.111" in of_set
    assert "0.111" in rendered[lab.parent / "postmortem.md"]


def test_no_results_and_broken_ones_are_told_in_one_line(lab, tmp_path):
    with pytest.raises(RunError, match="run bifocal lab on a configuration first"):
        render_documents(tmp_path / "nowhere")
    (lab / "three" / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="lacks metric, margin.*run bifocal lab again"):
        render_documents(lab)
