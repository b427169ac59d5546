"""From decisions to verdicts to a source that a run reads, and what may not come along."""

import io
import json
import os
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from bifocal.cli.app import app
from bifocal.config import parse_config
from bifocal.errors import ConfigError, DataError, RunError
from bifocal.example import LABELS, Label
from bifocal.pipeline.checks import label_of
from bifocal.pipeline.inspect import inspect
from bifocal.serve.log.decision_store import DecisionStore, read_secret
from bifocal.serve.log.records import KeptPost, LogEntry
from bifocal.serve.retraining import export, labels_of
from bifocal.sources import build_source, taxonomy_of
from bifocal.system.preprocessing import Preprocessor
from bifocal.workspace import read_json, read_jsonl

ROW = {f.name: None for f in fields(LogEntry)} | {
    "client": "shop", "decision": {}, "action": "review", "pattern": "text", "run": "small", "policy_version": "v1",
    "source": "model", "audit": False, "weight": 1.0, "probability": 0.5, "threshold": 0.4, "label": "1",
}  # fmt: skip
START = datetime(2026, 3, 1, tzinfo=UTC)
HATE = LABELS["abuse_hate"]


def logged(number, **given):
    return LogEntry(**{**ROW, "id": f"{number:032x}", "at": START + timedelta(seconds=number), **given})


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def composed(config, text, **parts):
    """A post's text as the service keeps it."""
    return Preprocessor(config, "caption").post({"text": text, **parts}).example.parts["text"]


@pytest.fixture
def store(url):
    made = DecisionStore(url, secret=b"s" * 32)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def config(small_config):
    return parse_config(small_config)


def judge(store, number, action, who="ann", **given):
    store.claim(who, logged(number).id)
    store.verdict(logged(number).id, who, action, **given)


def test_decisions_verdicts_export_and_a_run_that_reads_them(store, config, tmp_path):
    words = [composed(config, f"a quiet morning by the lake number {i}") for i in range(5)]
    store.record(
        [
            logged(0, original=KeptPost(words[0], png(10)), subject="author"),
            logged(1, original=KeptPost(words[1], None), action="allow", audit=True, weight=50.0),
            logged(2, original=KeptPost(words[2], png(200))),
            logged(3, original=None),
            logged(4, original=KeptPost(words[4], None), action="allow", weight=0.0),
        ]
    )
    for number, action in ((0, "block"), (1, "allow"), (3, "allow")):
        judge(store, number, action, reason="seen")
    store.feedback(logged(0).id, "shop", "0")  # the person's verdict counts more
    store.feedback(logged(4).id, "shop", "1", "reported by five readers")
    counts = export(store.labelled("small"), {"abuse_hate": HATE}, tmp_path / "out")
    assert counts == {
        "rows": 3, "by_class": {"1": 2, "0": 1}, "by_sample": {"review": 1, "audit": 1, "none": 1},
        "kept": 0, "gone": 0, "without_original": 1, "without_class": 0,
    }  # fmt: skip

    source = {"kind": "feedback", "root": str(tmp_path / "out")}
    found = inspect(config.model_copy(update={"source": parse_config({"run": "x", "source": source}).source}))
    assert (found["rows"], found["usable"]) == (3, 3)
    assert found["labels"]["abuse_hate"] == {"0": 1, "1": 2, "not annotated": 0}

    several = [{"kind": "synthetic", "size": 40}, {**source, "name": "judged", "split": "train"}]
    settings = tmp_path / "again.json"
    settings.write_text(json.dumps({"run": "again", "ocr": "never", "source": several}))
    packed = CliRunner().invoke(app, ["pack", str(settings), "--runs", str(tmp_path), "--json"])
    assert packed.exit_code == 0, packed.output
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "again" / "data_manifest.jsonl")}
    first, audited, reported = (rows[f"judged:{logged(i).id}"] for i in (0, 1, 4))
    assert [row["labels"]["abuse_hate"] for row in (first, audited, reported)] == [1, 0, 1]
    assert first["parts"] == {
        "text": "a quiet morning by the lake number 0",
        "image": f"judged:pictures/{logged(0).id}.png",
    }
    meta = audited["meta"]
    assert (meta["weight"], meta["sample"], meta["by"], meta["from"]) == (50.0, "audit", "ann", "verdict")
    assert (meta["said"], meta["decided"]["action"]) == ("seen", "allow")
    assert (reported["meta"]["sample"], reported["meta"]["from"], reported["meta"]["by"]) == (None, "feedback", "shop")
    splits = read_json(tmp_path / "again" / "splits.json")
    assert splits[first["id"]] == "train"
    assert "author" not in (tmp_path / "out" / "feedback.jsonl").read_text()


def test_what_was_forgotten_goes_from_an_export_too(store, config, tmp_path):
    text = composed(config, "a quiet morning")
    store.record([logged(i, subject=f"author {i}", original=KeptPost(text, png(i))) for i in (1, 2)])
    for number in (1, 2):
        judge(store, number, "block")
    export(store.labelled(), {"abuse_hate": HATE}, tmp_path / "out")
    store.forget("author 1")
    assert export(store.labelled(), {"abuse_hate": HATE}, tmp_path / "out")["rows"] == 1
    assert [path.stem for path in (tmp_path / "out" / "pictures").iterdir()] == [logged(2).id]
    assert logged(1).id not in (tmp_path / "out" / "feedback.jsonl").read_text()


@pytest.fixture
def purged(store, config, tmp_path):
    """A log of three judged posts that were exported, and then purged."""
    text = composed(config, "a quiet morning")
    kept = [KeptPost(text, png(1)), KeptPost(text, None), KeptPost(None, None, {"age": 3})]
    store.record([logged(i, subject=f"author {i}", original=one) for i, one in enumerate(kept)])
    for number in range(3):
        judge(store, number, "block")
    export(store.labelled(), {"abuse_hate": HATE}, tmp_path / "out")
    assert store.purge(datetime.now(UTC)) == 3
    return store


def test_what_was_purged_stays_in_an_export_and_what_was_forgotten_goes(purged, tmp_path):
    out = tmp_path / "out"
    before = list(read_jsonl(out / "feedback.jsonl"))
    purged.appeal(logged(1).id, "shop", "satire")
    judge(purged, 1, "allow", who="bob")
    purged.record([logged(4, original=KeptPost(None, None, {"age": 4})), logged(5, original=None)])
    for number in (4, 5):
        judge(purged, number, "allow")
    counts = export(purged.labelled(), {"abuse_hate": HATE}, out)
    assert (counts["rows"], counts["kept"], counts["gone"], counts["without_original"]) == (4, 3, 0, 1)
    rows = list(read_jsonl(out / "feedback.jsonl"))
    assert rows[0] == before[0] and rows[2] == before[2]
    assert (rows[1]["labels"], rows[1]["by"], rows[1]["text"]) == ({"abuse_hate": 0}, "bob", before[1]["text"])
    assert (out / "pictures" / f"{logged(0).id}.png").read_bytes() == png(1)
    purged.forget("author 0")
    counts = export(purged.labelled(), {"abuse_hate": HATE}, out)
    assert (counts["rows"], counts["kept"], counts["gone"]) == (3, 2, 1)
    assert not list((out / "pictures").iterdir()) and logged(0).id not in (out / "feedback.jsonl").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_a_picture_that_was_taken_away_leaves_no_half_a_post(purged, tmp_path):
    (tmp_path / "out" / "pictures" / f"{logged(0).id}.png").unlink()
    counts = export(purged.labelled(), {"abuse_hate": HATE}, tmp_path / "out")
    assert (counts["rows"], counts["gone"], counts["without_original"]) == (2, 1, 1)


@pytest.mark.parametrize("killed_at", ["a row", "its place"])
def test_who_is_killed_while_exporting_leaves_the_earlier_export(purged, tmp_path, killed_at):
    out, rows = tmp_path / "out", list(purged.labelled())
    before = (out / "feedback.jsonl").read_text()

    def dying():
        yield rows[0]
        os._exit(9)

    if (child := os.fork()) == 0:
        if killed_at == "its place":  # put aside, and its successor not there yet
            replace = os.replace
            os.replace = lambda a, b: os._exit(9) if Path(b) == out else replace(a, b)
        export(dying() if killed_at == "a row" else rows, {"abuse_hate": HATE}, out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    if killed_at == "a row":
        assert (out / "feedback.jsonl").read_text() == before
    assert export(rows, {"abuse_hate": HATE}, out)["kept"] == 3
    assert (out / "feedback.jsonl").read_text() == before and len(list((out / "pictures").iterdir())) == 1


def test_a_post_brings_its_own_words_and_its_picture_those_upon_it(store, tmp_path):
    both = "[OCR] one does not simply [/OCR] [CAP] look at this [/CAP] <lang=en>"
    alone = "[OCR] one does not simply [/OCR] [CAP] [/CAP] <lang=en>"
    kept = [KeptPost(both, png(1)), KeptPost(both, None), KeptPost(alone, png(1)), KeptPost(None, None, {"age": 3})]
    store.record([logged(i, original=one) for i, one in enumerate(kept)])
    for i in range(len(kept)):
        judge(store, i, "allow")
    export(store.labelled(), {"abuse_hate": HATE}, tmp_path / "out")
    rows = list(read_jsonl(tmp_path / "out" / "feedback.jsonl"))
    assert [(row.get("text"), row.get("text_role")) for row in rows] == [
        ("look at this", "caption"),
        ("one does not simply look at this", "caption"),
        ("one does not simply", "transcript"),
        (None, None),
    ]
    assert rows[3]["tabular"] == {"age": 3}


def test_of_several_classes_a_verdict_names_its_own(store, tmp_path):
    kinds = Label(("none", "driver", "neighbour"))
    store.record([logged(i, label="none", original=KeptPost(None, None, {"age": i})) for i in range(1, 5)])
    judge(store, 1, "block", label="driver")
    judge(store, 2, "block")
    store.feedback(logged(3).id, "shop", "neighbour")
    store.feedback(logged(4).id, "shop", "stranger")
    counts = export(store.labelled(), {"kind": kinds}, tmp_path / "out")
    assert counts["by_class"] == {"driver": 1, "neighbour": 1} and counts["without_class"] == 2


def test_of_several_labels_each_is_exported_as_far_as_it_is_said(store, config, tmp_path):
    labels = {"abuse_hate": HATE, "rude": Label((0, 1)), "kind": Label(("none", "driver"))}
    store.record([logged(i, original=KeptPost(composed(config, f"words {i}"), None)) for i in range(1, 5)])
    judge(store, 1, "block", labels={"rude": "0"})
    judge(store, 2, "block", labels={"abuse_hate": "0", "kind": "driver"})
    store.feedback(logged(3).id, "shop", "", labels={"rude": "1"})
    store.feedback(logged(4).id, "shop", "", labels={"rude": "who"})
    counts = export(store.labelled(), labels, tmp_path / "out")
    assert (counts["rows"], counts["without_class"]) == (3, 1)
    assert counts["by_label"] == {"abuse_hate": 2, "rude": 2, "kind": 1}
    assert [list(row["labels"].values()) for row in read_jsonl(tmp_path / "out" / "feedback.jsonl")] == [
        [1, 0, None], [0, None, "driver"], [None, 1, None]
    ]  # fmt: skip
    source = {"kind": "feedback", "root": str(tmp_path / "out")}
    asked = parse_config({"run": "x", "labels": list(labels), "ocr": "never", "source": source})
    found = inspect(asked)
    assert found["labels"]["rude"] == {"0": 1, "1": 1, "not annotated": 1}
    judged = build_source(asked.source)
    with pytest.raises(ConfigError, match=r"'offensive' is not in the feedback export .*abuse_hate, rude, kind: exp"):
        label_of(asked, "offensive", taxonomy_of(judged), judged)


def test_a_folder_of_something_else_is_left_alone(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(DataError, match="holds no earlier export"):
        export(store.labelled(), {"abuse_hate": HATE}, tmp_path / "out")
    export([], {"abuse_hate": HATE}, tmp_path / "earlier")
    (tmp_path / "earlier" / "notes.txt").write_text("dear")
    with pytest.raises(DataError, match=r"replaced whole: move notes\.txt elsewhere"):
        export([], {"abuse_hate": HATE}, tmp_path / "earlier")
    with pytest.raises(DataError, match="is a file"):
        export(store.labelled(), {"abuse_hate": HATE}, tmp_path / "out" / "thesis.txt")


def test_the_commands(small_run, tmp_path):
    def bifocal(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--state", str(tmp_path)])

    assert "decisions.sqlite: `bifocal serve` makes it" in str(bifocal("log", "counts", small_run).exception)
    store = DecisionStore(f"sqlite:///{tmp_path / 'decisions.sqlite'}", secret=read_secret(tmp_path))
    store.migrate()
    store.record(
        [
            logged(1, subject="ann", at=datetime.now(UTC), original=KeptPost(None, None, {"age": 1})),
            logged(2, original=KeptPost(None, None, {"age": 2})),
            logged(3, run="another"),
        ]
    )
    judge(store, 1, "block")
    counted = json.loads(bifocal("log", "counts", small_run, "--json").stdout)
    assert counted["decisions"] == {"review": 1}
    assert counted["queue"] == {"open.review": 2, "done": 1, "claimed": 0}
    assert json.loads(bifocal("log", "purge", small_run, "--days", 1, "--json").stdout) == {"purged": 1}
    exported = bifocal("feedback", "export", small_run, "-o", tmp_path / "out", "--json")
    assert json.loads(exported.stdout)["by_class"] == {"1": 1}, exported.output
    receipt = json.loads(bifocal("log", "forget", small_run, "ann", "--json").stdout)
    assert receipt["deleted"]["decisions"] == 1
    again = bifocal("log", "forget", small_run, "ann")
    assert again.exit_code == 1 and again.stdout == ""
    assert f"nothing is held of this author in sqlite:///{tmp_path}/decisions.sqlite" in again.stderr
    again = bifocal("log", "forget", small_run, "ann", "--json")
    assert again.exit_code == 1 and not any(json.loads(again.stdout)["deleted"].values())
    assert "SUBJECT is empty" in str(bifocal("log", "forget", small_run, " ").exception)


def test_the_label_is_that_of_the_run(small_run, tmp_path):
    name, labels = labels_of(small_run)
    assert (name, {label: of.classes for label, of in labels.items()}) == ("small", {"abuse_hate": (0, 1)})
    with pytest.raises(RunError, match="is not a run folder"):
        labels_of(tmp_path / "nowhere")
