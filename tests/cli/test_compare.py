"""`bifocal compare`: what it prints and writes, and its exit statuses."""

import json
import shutil

import numpy as np
import pytest
from tests.assess.test_comparison import table_of


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Scores of three models on 3,000 posts: two alike, one much worse."""
    place = tmp_path_factory.mktemp("tables")
    for name, noise, seed in (("old", 0.1, 0), ("same", 0.1, 1), ("worse", 3, 2)):
        table_of(place / f"{name}.csv", noise=noise, seed=seed)
    return place


@pytest.mark.parametrize(("new", "margin", "code"), [("same", 0.05, 0), ("worse", 0.05, 1), ("same", 0.0001, 3)])
def test_the_gate_speaks_by_its_exit_status(command, tables, new, margin, code):
    done = command(
        "compare", "old.csv", f"{new}.csv", "--truth", "abuse", "--gate", "--margin", margin, "-o", "out", "--force",
        cwd=tables,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert f"gate: {code}" in done.stdout and (code != 3 or "It would take about" in done.stdout)


def test_page_and_json_say_the_same_and_the_page_holds_no_markup_of_a_post(command, tables):
    rows = (tables / "old.csv").read_text().splitlines()
    words = "<script>alert(1)</script>"
    (tables / "a.csv").write_text(
        "\n".join([rows[0] + ",text", *(f"{row},{words} {i}" for i, row in enumerate(rows[1:]))])
    )
    done = command("compare", "a.csv", "worse.csv", "--truth", "abuse", "--json", "-o", "told", cwd=tables)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    written = json.loads((tables / "told" / "comparison.json").read_text())
    assert told["pairs"] == written["pairs"] and told["verdict"] == "worse"
    page = (tables / "told" / "index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "worse.csv beside a.csv" in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["old.csv", "old.csv"], "a model is named twice"),
        (["old.csv"], "two models or more"),
        (["old.csv", "same.csv", "--gate"], "a gate needs labels"),
        (["old.csv", "nothing"], "no run folder"),
        (["old.csv", "same.csv", "--on", "old.csv"], "SOURCE is a configuration"),
        (["old.csv", "other.csv"], "no id of old.csv"),
    ],
)
def test_what_cannot_be_compared_is_one_line(command, tables, words, told):
    table_of(tables / "other.csv", n=5)
    text = (tables / "other.csv").read_text()
    (tables / "other.csv").write_text(text.replace("\np", "\nq"))
    done = command("compare", *words, "-q", cwd=tables)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_folder_of_others_is_not_written_over(command, tables):
    (tables / "mine").mkdir()
    (tables / "mine" / "index.html").write_text("mine")
    done = command("compare", "old.csv", "same.csv", "-o", "mine", cwd=tables)
    assert done.returncode == 2 and "--force" in done.stderr and (tables / "mine" / "index.html").read_text() == "mine"


def test_a_run_is_compared_with_its_bundle_which_knows_what_it_learned_from(command, small_run, small_bundle, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")  # its readings are counted in it
    done = command("compare", run, small_bundle, "--json", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    _, bundle = told["models"]
    assert bundle["vouched"] and bundle["size_bytes"] > 0 and bundle["ms_per_post"] > 0
    assert told["readings"] >= 1 and told["compared"] == 40
    (of,) = told["pairs"][0]["labels"].values()
    assert of["turned"]["n"] <= 4 and np.isclose(of["figures"]["auroc"]["difference"]["value"], 0, atol=0.05)
