"""A link is swung to a run and back, at once or not at all, and nothing else is ever replaced."""

import json
import os

import pytest
from typer.testing import CliRunner

from bifocal.cli.app import app
from bifocal.deploy.promotion import link_beside, promote, put_back
from bifocal.errors import RunError
from bifocal.system.bundle import default_state_folder
from bifocal.workspace import read_jsonl


@pytest.fixture
def runs(tmp_path):
    """Three finished runs, as far as a link is concerned."""
    for name in ("a", "b", "c"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"run": name}))
        (folder / f"policy_{name}.json").write_text("{}")
    return tmp_path / "runs"


def test_a_link_is_made_swung_and_swung_back_one_by_one(runs):
    link = link_beside(runs / "a")
    assert link == runs / "current"
    first = promote(runs / "a", link)
    assert (first.now, first.before, os.readlink(link)) == ("a", None, "a")
    assert link_beside(link) == link
    for name in ("b", "c"):
        promote(runs / name, link)
    assert link.resolve() == runs / "c"
    assert [put_back(link).now, put_back(link).now] == ["b", "a"]
    with pytest.raises(RunError, match="nothing to go back to"):
        put_back(link)
    promote(runs / "c", link)
    assert put_back(link).now == "a"
    history = [(row["now"], row["back"]) for row in read_jsonl(runs / "current.serve" / "promotions.jsonl")]
    assert history == [
        ("a", False), ("b", False), ("c", False), ("b", True), ("a", True), ("c", False), ("a", True),
    ]  # fmt: skip
    assert not list(runs.glob(".*.part"))


def test_log_and_keys_stay_where_they_are_whichever_run_is_in_service(runs):
    link = runs / "current"
    promote(runs / "a", link)
    before = default_state_folder(link)
    promote(runs / "b", link)
    assert default_state_folder(link) == before == runs / "current.serve"
    assert default_state_folder(runs / "b") == runs / "b" / "serve"
    (runs / "other").symlink_to("a")  # somebody's own link, of a service from before
    assert default_state_folder(runs / "other") == runs / "other" / "serve"


def test_the_runs_may_be_moved_together(runs, tmp_path):
    for name in ("a", "b"):
        promote(runs / name, runs / "current")
    moved = runs.rename(tmp_path / "elsewhere")
    assert (moved / "current").resolve() == moved / "b"
    assert put_back(moved / "current").now == "a"


def test_what_cannot_serve_is_not_promoted(runs):
    (runs / "mine").mkdir()
    with pytest.raises(RunError, match="is no link, and is not replaced"):
        promote(runs / "a", runs / "mine")
    with pytest.raises(RunError, match="is not a run folder"):
        promote(runs / "mine", runs / "current")
    (runs / "b" / "policy_b.json").unlink()
    with pytest.raises(RunError, match="no policy yet"):
        promote(runs / "b", runs / "current")
    promote(runs / "a", runs / "current")
    with pytest.raises(RunError, match="in service"):
        promote(runs / "current", runs / "current")
    bundle = runs / "a" / "bundles" / "onnx"
    bundle.mkdir(parents=True)
    for name, content in (("manifest.json", {}), ("bundle.json", {"engine": "onnx"})):
        (bundle / name).write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"has a bundle for onnx.* `bifocal export .*c --engine onnx` first"):
        promote(runs / "c", runs / "current")
    assert (runs / "current").resolve() == runs / "a"


def test_the_command(runs):
    def bifocal(*arguments):
        return CliRunner().invoke(app, ["promote", *map(str, arguments)])

    (runs / "a" / "serve").mkdir()
    told = bifocal(runs / "a").stdout
    assert "leads to a" in told and "bifocal serve" in told and "of this run alone" in told
    assert json.loads(bifocal(runs / "b", "--json").stdout)["before"] == "a"
    assert "leads to a, before b" in bifocal(runs / "current", "--back").stdout
    assert "nothing to go back to" in str(bifocal(runs / "a", "--back").exception)


def test_a_link_that_somebody_swung_otherwise_and_a_torn_history_are_told_and_not_trusted(runs):
    link = runs / "current"
    promote(runs / "a", link)
    promote(runs / "b", link)
    with pytest.raises(RunError, match="was held against"):
        promote(runs / "c", link, instead_of=runs / "a")
    link.unlink()
    link.symlink_to("c")
    with pytest.raises(RunError, match="somebody swung it otherwise"):
        put_back(link)
    with (runs / "current.serve" / "promotions.jsonl").open("a") as file:
        file.write('{"date": "20')
    with pytest.raises(RunError, match="cannot be read"):
        put_back(link)
