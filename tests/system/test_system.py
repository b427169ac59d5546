import csv
import json
import shutil

import pytest
from PIL import Image

import bifocal
from bifocal import plugins
from bifocal.config import parse_config
from bifocal.decide.policy import Policy
from bifocal.errors import BifocalError, DataError, ModelError, RunError
from bifocal.pipeline.train import run
from bifocal.transcribe.ocr import Reading
from bifocal.workspace import Workspace, read_jsonl


@pytest.fixture(scope="module")
def system(small_run):
    return bifocal.load(small_run)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (300, 200), (200, 60, 20)).save(path)
    return path


def test_a_decision_says_all_that_it_should(system, picture):
    answer = system.predict(text="a quiet morning by the river", image_path=picture).to_dict()
    assert set(answer) == {
        "prob_hate", "label", "threshold", "action", "why", "models", "present", "text_used", "truncated",
        "unread", "language", "versions",
    }  # fmt: skip
    assert 0 <= answer["prob_hate"] <= 1 and answer["label"] in (0, 1)
    assert answer["action"] == ("block" if answer["label"] else "allow")
    assert answer["label"] == int(answer["prob_hate"] >= answer["threshold"])
    assert set(answer["models"]) == {"text_expert", "vision_expert", "mm_fusion"}
    assert answer["models"]["mm_fusion"]["prob_hate"] == answer["prob_hate"]
    assert answer["present"] == {"text": True, "image": True}
    assert answer["text_used"] == "[OCR] [/OCR] [CAP] a quiet morning by the river [/CAP] <lang=en>"
    assert answer["language"] == "en"
    assert {"bifocal", "run", "text_expert", "vision_expert", "mm_fusion"} <= set(answer["versions"])
    json.dumps(answer)


def _saw(*lines, unread):
    """OCR that saw two lines, and read one or none."""
    boxes = [[[0, 0], [9, 0], [9, 9], [0, 9]]] * len(lines)
    return lambda blob: Reading("\n".join(lines), boxes, None, "rapidocr", unread)


@pytest.mark.parametrize("send", [None, "review"])
def test_words_that_could_not_be_read_are_told_and_may_be_sent_to_review(small_run, picture, send, read_by):
    system = bifocal.load(small_run)
    system.policy = system.policy.model_copy(update={"unread": send})
    read_by(system, _saw("words read", unread=0))
    read = system.predict(image_path=picture)
    assert (read.unread, read.action) == (False, "block" if read.label else "allow")
    read_by(system, _saw(unread=2))
    unread = system.predict(image_path=picture)
    assert unread.unread and unread.to_dict()["unread"] is True
    assert unread.action == (send or ("block" if unread.label else "allow"))
    assert unread.why.endswith("; words on the picture could not be read") == (send is not None)
    assert unread.present == {"text": False, "image": True}


def test_an_unread_picture_of_a_run_on_texts_is_refused_as_such(small_run, picture, read_by):
    system = bifocal.load(small_run)
    del system.preprocessor.modalities["image"]
    for unread, said in ((0, "none of it"), (2, "only words that could not be read")):
        read_by(system, _saw(unread=unread))
        with pytest.raises(DataError, match=said):
            system.predict(image_path=picture)


def test_either_part_may_be_missing_not_both(system, picture):
    only_text = system.predict(text="a quiet morning")
    assert only_text.present == {"text": True, "image": False}
    assert set(only_text.models) == {"text_expert", "mm_fusion"}
    only_picture = system.predict(image_path=picture)
    assert set(only_picture.models) == {"vision_expert", "mm_fusion"}
    with pytest.raises(DataError, match="a post needs text or image_path; none was given"):
        system.predict()
    with pytest.raises(DataError, match="no words"):
        system.predict(text=" \u200b ")


def test_one_pass_of_each_encoder_serves_all_three_answers(system, picture):
    before = {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()}
    system.predict(text="a quiet morning", image_path=picture)
    system.predict_batch([{"text": "words"}, {"text": "more words", "image_path": picture}])
    after = {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()}
    assert {name: after[name] - before[name] for name in after} == {"text": 3, "image": 2}


def test_a_batch_answers_as_single_posts_do_and_a_bad_row_harms_no_other(system, picture):
    rows = [
        {"text": "a quiet morning", "image_path": picture},
        {"image_path": picture.parent / "missing.png"},
        {"text": "only words here"},
        {},
        {"text": "x", "sound": "y"},
        {"image_path": picture},
    ]
    answers = system.predict_batch(rows)
    assert [isinstance(a, BifocalError) for a in answers] == [False, True, False, True, True, False]
    assert "missing.png" in str(answers[1]) and "sound" in str(answers[4])
    for row, answer in zip(rows, answers, strict=True):
        if not isinstance(answer, BifocalError):
            assert answer.probability == pytest.approx(system.predict(**row).probability, abs=1e-5)


def test_serving_gives_the_probabilities_of_the_run(small_run, small_config, system, tmp_path):
    """The whole chain agrees: posts of the test split, posted again, get what the error table says of them."""
    space = Workspace.of(small_run)
    with open(space.errors, newline="") as f:
        table = {row["id"]: row for row in csv.DictReader(f)}
    options = {k: v for k, v in small_config["source"].items() if k != "kind"}
    source = plugins.load("sources", "synthetic")(**options)
    rows = [row for row in read_jsonl(space.manifest) if row["id"] in table]
    assert {len(row["parts"]) for row in rows} == {1, 2}
    for row in rows:
        picture = tmp_path / "post.png"
        if "image" in row["parts"]:
            picture.write_bytes(source.open(row["parts"]["image"]))
        answer = system.predict(row["parts"].get("text"), picture if "image" in row["parts"] else None)
        assert answer.probability == pytest.approx(float(table[row["id"]]["fusion_prob"]), abs=1e-4)
        assert answer.label == int(table[row["id"]]["fusion_pred"])


def test_a_broken_picture_is_an_error_of_one_line(system, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"<svg></svg>")
    with pytest.raises(DataError) as caught:
        system.predict(image_path=path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_names_its_neighbours(small_run, tmp_path):
    with pytest.raises(RunError, match="runs beside it: small"):
        bifocal.load(small_run.parent / "smal")
    with pytest.raises(RunError, match="not a run folder"):
        bifocal.load(tmp_path)


def test_an_altered_model_is_refused(small_run, tmp_path):
    copy = tmp_path / "small"
    shutil.copytree(small_run, copy)
    weights = copy / "models" / "text_expert" / "model.safetensors"
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        bifocal.load(copy)


@pytest.fixture(scope="module")
def records(records_run):
    return bifocal.load(records_run)


def test_a_post_may_bring_a_record(records):
    answer = records.predict(text="a marble house", tabular={"price": 95.5, "room": "whole", "opened": "2019-03-11"})
    assert answer.present == {"text": True, "tabular": True}
    assert set(answer.models) == {"text_expert", "tabular_expert", "mm_fusion"}
    cheap = records.predict(text="a plain house", tabular={"price": 5})
    assert cheap.probability < answer.probability
    only = records.predict(tabular={"price": 95.5})
    assert only.present == {"text": False, "tabular": True}
    assert set(only.models) == {"tabular_expert", "mm_fusion"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prize": 3}, "did you mean 'price'"),
        ({"price": "much"}, "price"),
        ({"price": [1]}, "price"),
        ("price: 3", "found str"),
        ({}, "this run reads text, tabular, and the post has none"),
        ({"price": None, "room": " "}, "this run reads text, tabular, and the post has none"),
    ],
)
def test_a_record_that_training_cannot_have_meant_is_refused(records, record, message):
    with pytest.raises(DataError, match=message) as error:
        records.predict(tabular=record)
    assert "\n" not in str(error.value)


def test_a_value_never_seen_and_a_missing_column_are_ordinary(records):
    probabilities = [
        records.predict(tabular=record).probability
        for record in ({"price": 60, "room": "a tent"}, {"price": 60}, {"room": None, "price": 60})
    ]
    assert all(0 <= p <= 1 for p in probabilities)


def test_a_run_without_records_says_what_it_reads(system):
    for others in ({}, {"text": "words"}):
        with pytest.raises(DataError, match="this run reads text, image; leave tabular out"):
            system.predict(tabular={"price": 3}, **others)
    assert system.predict(text="words", tabular={}).present["text"]  # an empty record is an absent one


def test_a_picture_is_refused_where_nothing_reads_it(records, picture, monkeypatch):
    assert "image" in records.reads  # for the words on it
    monkeypatch.setattr(records.preprocessor, "transcribers", [])
    with pytest.raises(DataError, match="this run reads text, tabular; leave image_path out"):
        records.predict(text="a marble house", image_path=picture)


def test_a_text_is_refused_where_nothing_reads_it(system, picture, monkeypatch):
    monkeypatch.setattr(system.preprocessor, "modalities", {"image": system.modalities["image"]})
    with pytest.raises(DataError, match="this run reads image; leave text out"):
        system.predict(text="words", image_path=picture)


def test_serving_a_record_says_what_training_cached(records, records_run):
    """The same rows through `predict_batch` and through the shards give the same logits."""
    rows = {row["id"]: row for row in read_jsonl(records_run / "data_manifest.jsonl")}
    with open(records_run / "errors_records.csv", newline="") as f:
        written = list(csv.DictReader(f))[:20]
    posts = [rows[row["id"]]["parts"] for row in written]
    decisions = records.predict_batch([{"text": p["text"], "tabular": p["tabular"]} for p in posts])
    for row, decision in zip(written, decisions, strict=True):
        assert decision.models["tabular_expert"].probability == pytest.approx(float(row["tabular_prob"]), abs=1e-4)
        assert decision.probability == pytest.approx(float(row["fusion_prob"]), abs=1e-4)


LONG = "a quiet morning " + "word " * 1500


def test_a_person_decides_on_what_was_not_read_whole_where_the_policy_says_so(
    system, picture, monkeypatch, capsys, read_by
):
    from bifocal.cli.decision_tables import print_decision

    here = system.predict(LONG)
    assert here.truncated and here.action in ("allow", "block")
    print_decision(here, as_json=False)
    assert "not all of the post's words were read" in capsys.readouterr().out
    monkeypatch.setattr(system, "policy", system.policy.model_copy(update={"truncated": "review"}))
    there = system.predict(LONG)
    assert (there.action, there.truncated) == ("review", True) and there.why.startswith(here.why)
    assert there.probability == here.probability
    short = system.predict("a quiet morning", picture)
    assert not short.truncated and short.action in ("allow", "block")
    # Words that were read off a picture count as those of the post.
    read_by(system, lambda blob: Reading(LONG, [], None, "rapidocr"), when="always")
    assert system.predict("a quiet morning", picture).action == "review"


def test_the_rule_for_what_is_not_read_whole_is_configured(small_run, small_config, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    config = parse_config(small_config | {"decide": {"on": "val", "truncated": "review"}})
    folder = run(config, root=tmp_path, until="calibrate")
    before, after = (Policy.load(next(place.glob("policy_*.json"))) for place in (small_run, folder))
    assert (before.truncated, after.truncated) == (None, "review") and before.version != after.version
    assert after.model_copy(update={"truncated": None}).version == before.version
