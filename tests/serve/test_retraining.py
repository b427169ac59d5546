"""From decisions to verdicts to a source that a run reads, and what may not come along."""

import io
import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image
from typer.testing import CliRunner

from bifocal.__main__ import app
from bifocal.config import parse_config
from bifocal.errors import DataError, RunError
from bifocal.example import LABELS, Label
from bifocal.inspection import inspect
from bifocal.posts import Preparer
from bifocal.serve.retraining import export, label_of
from bifocal.serve.store import Logged, Original, Store, read_secret
from bifocal.workspace import read_json, read_jsonl

ROW = {f.name: None for f in fields(Logged)} | {
    "client": "shop", "decision": {}, "action": "review", "pattern": "text", "run": "small", "policy_version": "v1",
    "source": "model", "audit": False, "weight": 1.0, "probability": 0.5, "threshold": 0.4, "label": "1",
}  # fmt: skip
START = datetime(2026, 3, 1, tzinfo=UTC)
HATE = LABELS["abuse_hate"]


def logged(number, **given):
    return Logged(**{**ROW, "id": f"{number:032x}", "at": START + timedelta(seconds=number), **given})


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def composed(config, text, **parts):
    """A post's text as the service keeps it."""
    return Preparer(config, "caption").post(text, **parts).example.parts["text"]


@pytest.fixture
def store(url):
    made = Store(url, secret=b"s" * 32)
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
            logged(0, original=Original(words[0], png(10)), subject="author"),
            logged(1, original=Original(words[1], None), action="allow", audit=True, weight=50.0),
            logged(2, original=Original(words[2], png(200))),
            logged(3, original=None),
            logged(4, original=Original(words[4], None), action="allow", weight=0.0),
        ]
    )
    for number, action in ((0, "block"), (1, "allow"), (3, "allow")):
        judge(store, number, action, reason="seen")
    store.feedback(logged(0).id, "shop", "0")  # the person's verdict counts more
    store.feedback(logged(4).id, "shop", "1", "reported by five readers")
    counts = export(store.labelled("small"), "abuse_hate", HATE, tmp_path / "out")
    assert counts == {
        "rows": 3, "by_class": {"1": 2, "0": 1}, "by_sample": {"review": 1, "audit": 1, "none": 1},
        "without_original": 1, "without_class": 0,
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
    store.record([logged(i, subject=f"author {i}", original=Original(text, png(i))) for i in (1, 2)])
    for number in (1, 2):
        judge(store, number, "block")
    export(store.labelled(), "abuse_hate", HATE, tmp_path / "out")
    store.forget("author 1")
    assert export(store.labelled(), "abuse_hate", HATE, tmp_path / "out")["rows"] == 1
    assert [path.stem for path in (tmp_path / "out" / "pictures").iterdir()] == [logged(2).id]
    assert logged(1).id not in (tmp_path / "out" / "feedback.jsonl").read_text()


def test_a_post_brings_its_own_words_and_its_picture_those_upon_it(store, tmp_path):
    both = "[OCR] one does not simply [/OCR] [CAP] look at this [/CAP] <lang=en>"
    alone = "[OCR] one does not simply [/OCR] [CAP] [/CAP] <lang=en>"
    kept = [Original(both, png(1)), Original(both, None), Original(alone, png(1)), Original(None, None, {"age": 3})]
    store.record([logged(i, original=one) for i, one in enumerate(kept)])
    for i in range(len(kept)):
        judge(store, i, "allow")
    export(store.labelled(), "abuse_hate", HATE, tmp_path / "out")
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
    store.record([logged(i, label="none", original=Original(None, None, {"age": i})) for i in range(1, 5)])
    judge(store, 1, "block", label="driver")
    judge(store, 2, "block")
    store.feedback(logged(3).id, "shop", "neighbour")
    store.feedback(logged(4).id, "shop", "stranger")
    counts = export(store.labelled(), "kind", kinds, tmp_path / "out")
    assert counts["by_class"] == {"driver": 1, "neighbour": 1} and counts["without_class"] == 2


def test_a_folder_of_something_else_is_left_alone(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(DataError, match="holds no earlier export"):
        export(store.labelled(), "abuse_hate", HATE, tmp_path / "out")
    with pytest.raises(DataError, match="is a file"):
        export(store.labelled(), "abuse_hate", HATE, tmp_path / "out" / "thesis.txt")


def test_the_commands(small_run, tmp_path):
    def bifocal(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--state", str(tmp_path)])

    assert "decisions.sqlite: `bifocal serve` makes it" in str(bifocal("log", "counts", small_run).exception)
    store = Store(f"sqlite:///{tmp_path / 'decisions.sqlite'}", secret=read_secret(tmp_path))
    store.migrate()
    store.record(
        [
            logged(1, subject="ann", at=datetime.now(UTC), original=Original(None, None, {"age": 1})),
            logged(2, original=Original(None, None, {"age": 2})),
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
    assert "there is no run folder" in str(bifocal("log", "counts", tmp_path / "nowhere").exception)


def test_the_label_is_that_of_the_run(small_run, tmp_path):
    name, label, found = label_of(small_run)
    assert (name, label, found.classes) == ("small", "abuse_hate", (0, 1))
    with pytest.raises(RunError, match="there is no run folder"):
        label_of(tmp_path / "nowhere")
