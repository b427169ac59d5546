"""A run again with what people have judged since: on the same splits, judged, promoted only where the gate passes."""

import importlib.util
import json
import random
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifocal.cli.app import app, main
from bifocal.config import ReviewConfig, ThresholdConfig, parse_config
from bifocal.deploy.policies import set_review, set_threshold
from bifocal.deploy.promotion import promote
from bifocal.errors import ConfigError, DataError, RunError
from bifocal.pipeline.train import run
from bifocal.serve.retrain import RetrainSettings, retrain
from bifocal.workspace import Workspace, file_lock, read_json, read_jsonl

EXAMPLE = Path(__file__).parents[2] / "examples" / "loop_posts.py"
spec = importlib.util.spec_from_file_location("loop_posts", EXAMPLE)
people = importlib.util.module_from_spec(spec)
spec.loader.exec_module(people)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A run on a table of generated posts, nothing of which is changed."""
    place = tmp_path_factory.mktemp("retrain")
    people.write(place / "posts.csv", 900)
    labels = {"abuse": {"column": "abuse", "map": {"yes": 1, "no": 0}}}
    config = {
        "run": "posts",
        "label": "abuse",
        "ocr": "never",
        "source": {"kind": "table", "root": str(place / "posts.csv"), "id": "id", "text": "text", "labels": labels},
        "splits": {"by": "hash", "val": 0.2, "test": 0.4},
        "modalities": ["text"],
        "experts": {"text": {"encoder": "tfidf_text"}},
        "decide": {"on": "val"},
        "bootstrap": 100,
    }
    return run(parse_config(config), root=place / "runs")


@pytest.fixture
def posts(old, tmp_path):
    """A copy of its own."""
    return shutil.copytree(old, tmp_path / "runs" / "posts")


def judged(folder, count, *, flipped=False, sample="audit", said="verdict", label="abuse", start=0, near=()):
    """An export: a quarter of the posts are abusive in the new word, which the old model lets pass."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, lines = random.Random(start), []
    texts = [(people.text(chance, None if number % 4 else people.NEW), number % 4 == 0) for number in range(count)]
    for number, (text, abusive) in enumerate([*texts, *near], start=start):
        decided = {"action": "allow", "probability": 0.3 if abusive else 0.1 + 0.001 * number, "policy_version": "v"}
        lines.append({
            "id": f"{number:032x}", "text": text, "text_role": "caption", "labels": {label: int(abusive != flipped)},
            "weight": 10.0 if sample == "audit" else 1.0, "sample": sample, "by": "ann", "from": said, "said": "",
            "judged": "2026-11-01", "queued": "audit", "decided": decided,
        })  # fmt: skip
    (folder / "feedback.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    taxonomy = {label: {"classes": [0, 1], "probability": "prob", "description": "", "above": None}}
    (folder / "label_taxonomy.json").write_text(json.dumps(taxonomy))
    return folder


def test_judged_posts_train_or_judge_and_the_test_of_before_is_the_same(posts, tmp_path):
    before = read_json(posts / "splits.json")
    rows = {row["id"]: row["parts"]["text"] for row in read_jsonl(posts / "data_manifest.jsonl")}
    copied = next(rows[name] for name, split in before.items() if split == "test")
    export = judged(tmp_path / "judged", 200, near=[(copied, 1)])
    set_threshold(posts, None, ThresholdConfig(by="fpr", bound=0.1), by="ann", why="counsel asked for it")
    link = tmp_path / "runs" / "current"
    promote(posts, link)
    done = retrain(link, export, RetrainSettings(promote=True))
    new = Workspace.of(done.new)
    after = read_json(new.splits)
    assert {name.removeprefix("table:"): split for name, split in after.items() if name.startswith("table:")} == before
    ours = {name: split for name, split in after.items() if name.startswith("judged:")}
    aside = read_json(new.split_record)["recent"]
    assert set(ours.values()) == {"train"} and len(ours) + len(aside) == 200 and 20 < len(aside) < 65
    assert done.rows["left_out"] == {"near an old test row": 1}
    assert new.run == "posts-2" and read_json(new.record)["config"]["splits"]["from"] == str(posts)
    assert done.recent.compared == len(aside) and done.frozen.compared == list(before.values()).count("test")
    figures = done.recent.pairs[0]["labels"]["abuse"]["figures"]
    assert figures["nll"]["verdict"] == "better" and figures["recall"]["verdict"] == "better"
    assert figures["recall"]["new"]["value"] > 0.8 > 0.5 > figures["recall"]["old"]["value"]
    assert len(done.by_hand) == 1 and "false-positive rate at most 0.1 by ann" in done.by_hand[0]
    change = read_json(new.policy)["changes"][-1]
    assert (change["by"], change["rule"]["bound"]) == ("ann", 0.1) and "(from run posts" in change["why"]
    assert (new.folder / "report" / "index.html").is_file()
    assert (done.promoted is not None) == (done.gate == 0) == (link.resolve() == new.folder.resolve())
    assert "NaN" not in (told := json.dumps(done.to_dict(), default=str)) and "Infinity" not in told

    again = retrain(new.folder, judged(tmp_path / "judged", 240), RetrainSettings(name="third"))
    sources = read_json(Path(again.new) / "run.json")["config"]["source"]["sources"]
    assert [source.get("name", source["kind"]) for source in sources] == ["table", "judged"]
    third = read_json(Path(again.new) / "splits.json")
    assert third.items() >= after.items()
    assert set(read_json(Path(again.new) / "split_record.json")["recent"]) >= set(aside)
    assert again.frozen.readings > done.frozen.readings


def test_flipped_verdicts_are_refused_before_anything_is_trained(posts, tmp_path):
    export = judged(tmp_path / "judged", 100, flipped=True)
    with pytest.raises(DataError, match=r"most of what was allowed should not have been: 75 of 100 .* swapped"):
        retrain(posts, export)
    assert [path.name for path in posts.parent.iterdir() if path.is_dir()] == ["posts"]


def test_what_cannot_be_learned_from_is_told_in_a_line(posts, tmp_path):
    with pytest.raises(DataError, match="holds no export of feedback"):
        retrain(posts, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nothing of abuse, .* but of offensive: it was exported from another run"):
        retrain(posts, judged(tmp_path / "other", 20, label="offensive"))
    with pytest.raises(DataError, match="holds no verdict of a moderator"):
        retrain(posts, judged(tmp_path / "reports", 20, said="feedback"))
    good = judged(tmp_path / "judged", 20)
    with file_lock(posts.parent / ".retrain.lock", "held by", ""), pytest.raises(RunError, match="under way"):
        retrain(posts, good)
    promote(shutil.copytree(posts, posts.parent / "another"), posts.parent / "current")
    with pytest.raises(RunError, match=r"current leads to .*another, which is in service"):
        retrain(posts, good, RetrainSettings(promote=True))
    record = read_json(posts / "run.json")
    record["config"]["limit"] = 50
    (posts / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="as a pilot"):
        retrain(posts, good)


def test_reports_train_only_where_it_is_said_and_the_command_says_how_it_went(posts, tmp_path):
    export = judged(tmp_path / "judged", 60, said="feedback", sample=None)
    set_threshold(posts, None, 0.6, by="ann", why="seen")
    arguments = ["retrain", str(posts), "--feedback", str(export), "--with-reports", "--promote"]
    done = CliRunner().invoke(app, [*arguments, "--json", "--name", "next"])
    told = json.loads(done.stdout)
    assert done.exit_code == told["gate"] in (0, 1, 3), done.output
    assert told["recent"] is None and "nothing audited of this export" in told["notes"][0]
    assert told["rows"]["new"] == {"train": 60}
    assert "the threshold 0.6 that ann gave holds for the new model" in told["by_hand"][0]
    assert (posts.parent / "current").is_symlink() == (told["gate"] == 0)
    assert "by --feedback" in str(CliRunner().invoke(app, ["retrain", str(posts)]).exception)
    for name in ("posts", "next"):
        if not (link := posts.parent / "current").exists() or link.resolve().name != name:
            promote(posts.parent / name, link)
    assert "leads to posts, before next" in CliRunner().invoke(app, ["retrain", str(link), "--back"]).stdout


def test_judged_rows_that_are_tuned_on_count_by_what_they_stand_for(posts, tmp_path):
    record = read_json(posts / "run.json")
    record["config"]["decide"]["on"] = "cross_fit"
    (posts / "run.json").write_text(json.dumps(record))
    done = retrain(posts, judged(tmp_path / "judged", 100))
    found = read_json(Path(done.new) / "run.json")["steps"]["calibrate"]
    train = found["rows_by_split"]["train"]
    (told,) = (finding for finding in found["findings"] if "stand for" in finding)
    rows, effective = re.search(r"([\d,]+) rows that tell as much as ([\d,]+) of equal weight", told).groups()
    assert int(rows) == found["rows"] + train and 0.2 * int(rows) < int(effective) < 0.6 * int(rows)
    assert not any("stand for" in one for one in read_json(posts / "run.json")["steps"]["calibrate"]["findings"])


@pytest.mark.slow
def test_of_several_labels_each_is_judged_and_has_its_own_rules_again(tmp_path):
    people.write(tmp_path / "posts.csv", 500)
    lines = (tmp_path / "posts.csv").read_text().splitlines()
    rude = ["rude", *("yes" if "ka" in line.split(",")[1] else "no" for line in lines[1:])]
    (tmp_path / "posts.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(lines, rude, strict=True)))
    yes_no = {"map": {"yes": 1, "no": 0}}
    labels = {"abuse": {"column": "abuse", **yes_no}, "rude": {"column": "rude", **yes_no}}
    config = {
        "run": "both", "labels": ["abuse", {"rude": {"act": "review"}}], "ocr": "never", "modalities": ["text"],
        "source": {"kind": "table", "root": str(tmp_path / "posts.csv"), "id": "id", "text": "text", "labels": labels},
        "splits": {"val": 0.3, "test": 0.3}, "experts": {"text": {"encoder": "tfidf_text"}}, "bootstrap": 100,
        "decide": {"on": "val"},
    }  # fmt: skip
    old = run(parse_config(config), root=tmp_path / "runs")
    set_threshold(old, None, ThresholdConfig(by="recall", bound=0.8), label="rude", by="ann", why="counsel")
    set_review(old, ReviewConfig(fnr=0.2), label="abuse", by="bob", why="staff")
    export = judged(tmp_path / "judged", 60)
    with pytest.raises(ConfigError, match="nothing of rude"):
        retrain(old, export)
    taxonomy = read_json(export / "label_taxonomy.json")
    (export / "label_taxonomy.json").write_text(json.dumps({**taxonomy, "rude": taxonomy["abuse"]}))
    done = retrain(old, export)
    assert done.by_hand[0] == "abuse: the review bands that bob asked for are fitted to the new model"
    assert done.by_hand[1].startswith("rude: text_expert, pooled: recall at least 0.8 by ann: ")
    policy = read_json(Workspace.of(done.new).policy)
    assert policy["review"]["fnr"] == 0.2 and policy["labels"]["rude"]["changes"][-1]["rule"]["bound"] == 0.8
    assert done.frozen.pairs[0]["labels"].keys() == {"abuse", "rude"}
    assert list(done.recent.pairs[0]["labels"]) == ["abuse"] or done.recent.pairs[0]["labels"]["rude"]["labelled"] == 0


def test_an_error_that_nobody_foresaw_does_not_end_as_if_the_new_model_were_worse(monkeypatch, capsys):
    def broken(*_, **__):
        raise ZeroDivisionError

    for command, where in (
        (["retrain", "posts", "--feedback", "judged"], "bifocal.serve.retrain.retrain"),
        (["compare", "old", "new", "--gate"], "bifocal.assess.comparison.compare_models"),
    ):
        monkeypatch.setattr(where, broken)
        monkeypatch.setattr("sys.argv", ["bifocal", *command])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 70 and "ZeroDivisionError" in capsys.readouterr().err


def test_judged_posts_that_stand_in_two_exports_are_refused(posts, tmp_path):
    first = judged(tmp_path / "september", 40)
    record = read_json(posts / "run.json")
    table, feedback = record["config"]["source"], {"kind": "feedback", "root": str(first), "name": "judged"}
    record["config"]["source"] = {"kind": "several", "sources": [table, feedback]}
    (posts / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"10 judged posts of .*october stand in .*september, too.* export into"):
        retrain(posts, judged(tmp_path / "october", 40, start=30))


def test_a_label_that_is_cut_out_of_a_number_is_refused(posts, tmp_path):
    taxonomy = read_json(posts / "label_taxonomy.json")
    taxonomy["abuse"]["above"] = 3.0
    (posts / "label_taxonomy.json").write_text(json.dumps(taxonomy))
    with pytest.raises(ConfigError, match=r"run posts makes abuse out of a number \(`above`\)"):
        retrain(posts, judged(tmp_path / "judged", 20))


def test_what_was_found_is_told_where_the_link_cannot_be_swung(posts, tmp_path, monkeypatch):
    def swung_meanwhile(*_, **__):
        raise RunError("runs/current leads to another by now")

    monkeypatch.setattr("bifocal.serve.retrain.promote", swung_meanwhile)
    monkeypatch.setattr("bifocal.serve.retrain.gate_of", lambda _: 0)
    arguments = ["retrain", str(posts), "--feedback", str(judged(tmp_path / "judged", 60)), "--promote", "--json"]
    done = CliRunner().invoke(app, arguments)
    told = json.loads(done.stdout)
    assert done.exit_code == 2 and told["promoted"] is None and told["gate"] == 0
    assert told["notes"][-1] == "not in service: runs/current leads to another by now"


def test_what_is_sure_to_fail_is_refused_before_anything_is_trained(posts, tmp_path):
    good, before = judged(tmp_path / "judged", 20), sorted(posts.parent.iterdir())
    (posts.parent / "taken").mkdir()
    with pytest.raises(RunError, match="taken is no link"):
        retrain(posts, good, RetrainSettings(promote=True, link=posts.parent / "taken"))
    other = shutil.copytree(posts, posts.parent / "other")
    with pytest.raises(RunError, match="other is another run"):
        retrain(posts, good, RetrainSettings(name="other"))
    (posts / "bundles" / "onnx").mkdir(parents=True)
    with pytest.raises(RunError, match=r"has bundles \(onnx\)"):
        retrain(posts, good, RetrainSettings(promote=True))
    assert sorted(posts.parent.iterdir()) == sorted([*before, other, posts.parent / "taken"])
