"""The robustness suite on a small finished run: what is encoded again, what is kept, and what is refused."""

import csv
import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import bifocal
from bifocal.assess import robustness as suite
from bifocal.assess.functional_suites import functional_suite
from bifocal.assess.predictions import calibrated
from bifocal.assess.robustness import attack_run, known_attacks, robustness
from bifocal.cli.app import app
from bifocal.config import ReviewConfig, RobustnessConfig, parse_config
from bifocal.decide.policy import Band
from bifocal.errors import ConfigError, DataError, RunError
from bifocal.modalities.text import words_of
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, read_json, write_json

QUICK = {"rows": 24, "severities": [5]}


@pytest.fixture(scope="module")
def system(small_run):
    return bifocal.load(small_run)


@pytest.fixture(scope="module")
def space(small_run):
    return Workspace.of(small_run)


@pytest.fixture
def copy(small_run, tmp_path):
    """A run folder that may be written to."""
    return shutil.copytree(small_run, tmp_path / "small")


def attacked(system, space, *attacks, **settings):
    return attack_run(system, space, RobustnessConfig(attacks=list(attacks), **QUICK | settings))


def one(found, **named):
    (row,) = [row for row in found["attacks"] if all(row[key] == value for key, value in named.items())]
    return row


def test_what_cleaning_undoes_reaches_no_encoder_and_flips_nothing(system, space):
    before = {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()}
    found = attacked(system, space, "zero_width", "bidi", "homoglyphs")
    for kind in ("zero_width", "bidi", "homoglyphs"):
        cleaned, raw = (one(found, attack=kind, normaliser=on) for on in (True, False))
        assert cleaned["altered"] == raw["altered"] == raw["reached"] == 1
        assert cleaned["reached"] == cleaned["flips"]["n"] == 0
        assert cleaned["auroc"]["change"]["value"] == 0
    after = {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()}
    assert after["image"] == before["image"]  # only the attacked part is encoded again
    assert 0 < after["text"] - before["text"] <= 3 * found["rows"]  # and only what its encoder has not seen


def test_an_attack_reads_as_serving_the_attacked_post_does(system, space):
    """What the suite says of a text attack is what `predict` says of the attacked words."""
    whole = suite.open_split(space.shards("test"), system.modalities)
    posts = suite._Posts.take(system, space, whole, "test", list(range(10)))
    for remake in suite._REMADE["text"].values():
        changed, _, reached = posts._encoded("text", "leetspeak", 5, remake)
        assert reached.any()
        said = suite.Predictions.gather(
            {"text": changed}, {"text": "text_expert"}, None, "text_expert"
        )  # the expert alone: no picture needed
        probabilities = calibrated(said, system.policy, "text_expert")[0]
        for i in changed.present.nonzero().flatten().tolist():
            words = words_of(posts.split.values("text")[i])[1]
            leet = system.modalities["text"].corrupt(words, "leetspeak", 5, np.random.default_rng((0, i)))
            served = system.predict(text=leet).models["text_expert"].probability
            assert probabilities[i, 1] == pytest.approx(served, abs=1e-4)


def test_parts_are_swapped_and_taken_away_without_an_encoder(system, space):
    before = {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()}
    found = attacked(system, space, "part_swapped", "part_missing", rows=40)
    assert {(row["modality"], row["attack"]) for row in found["attacks"]} == {
        (name, kind) for name in ("text", "image") for kind in suite.PART
    }
    assert {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()} == before
    without = one(found, modality="image", attack="part_missing")
    alone = sum(not (text and image) for text, image in zip(*_presence(space), strict=True))
    assert 0 < without["undecided"] <= alone and without["n"] + without["undecided"] == 40
    assert any("nothing left to decide on" in finding for finding in found["findings"])


def _presence(space):
    with open(space.errors, newline="") as f:
        rows = list(csv.DictReader(f))
    return [bool(row["text_prob"]) for row in rows], [bool(row["vision_prob"]) for row in rows]


def test_pictures_are_attacked_at_each_severity_and_a_mirror_once(system, space):
    found = attacked(system, space, "brightness", "mirrored", rows=8, severities=[1, 5])
    assert [(row["attack"], row["severity"]) for row in found["attacks"]] == [
        ("brightness", 1), ("brightness", 5), ("mirrored", 1),
    ]  # fmt: skip
    assert all(row["normaliser"] is None and row["altered"] == row["reached"] == 1 for row in found["attacks"])


def test_captions_that_nobody_read_are_a_finding(system, space):
    found = attacked(system, space, "caption_removed", rows=8)
    assert one(found)["altered"] == 0 and one(found)["flips"]["n"] == 0
    assert any("caption_removed alters no image of these rows" in finding for finding in found["findings"])


def test_captions_are_removed_where_ocr_found_them(copy):
    space, system = Workspace.of(copy), bifocal.load(copy)
    box = [[60, 60], [300, 60], [300, 200], [60, 200]]
    rows = [{"id": i, "text": "x", "boxes": [box], "confidence": 1, "engine": "", "language": "en"}
            for i, split in read_json(space.splits).items() if split == "test"]  # fmt: skip
    space.ocr.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert one(attacked(system, space, "caption_removed", rows=8))["altered"] == 1


def test_the_same_seed_gives_the_same_figures_and_all_of_it_is_json(system, space):
    first, again = (attacked(system, space, "typos", "jpeg", rows=12) for _ in range(2))
    assert first == again
    assert set(first) == {
        "run", "label", "model", "split", "in_sample", "rows", "of", "seed", "versions", "key", "attacks", "functional",
        "findings",
    }  # fmt: skip
    assert "NaN" not in json.dumps(first) and first["rows"] == 12 and first["of"] == 40


def test_a_review_band_is_followed(system, space, monkeypatch):
    everything = Band(allow_below=None, block_from=None, positives=0, negatives=0)
    monkeypatch.setattr(type(system.policy), "band", lambda *_: everything)
    monkeypatch.setattr(system.policy, "review", ReviewConfig(fnr=0.1))
    review = one(attacked(system, space, "case", rows=12), normaliser=True)["review"]
    assert (review["before"], review["after"], review["change"]["value"]) == (1, 1, 0)


def test_the_command_writes_the_file_and_keeps_what_was_found_before(copy, tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("functionality,text,label\nslurs,some words,1\nslurs,other words,0\nnegation,not these words,0\n")
    common = ["robustness", str(copy), "--rows", "10", "-q"]
    shown = CliRunner().invoke(
        app, [*common, "--attacks", "case,zero_width,part_missing,caption_moved", "--functional", str(table)]
    )
    assert shown.exit_code == 0, shown.output
    assert "part_missing" in shown.output and "negation" in shown.output
    assert shown.output.count("not cleaned") == 1  # case is as it was, zero width not
    assert max(map(len, shown.output.splitlines()[:12])) <= 80
    again = CliRunner().invoke(app, [*common, "--attacks", "case,emoji", "--json"])
    found = json.loads(again.stdout)
    assert {row["attack"] for row in found["attacks"]} == {
        "part_missing", "zero_width", "caption_moved", "case", "emoji",
    }  # fmt: skip
    assert any("caption_moved alters no image" in finding for finding in found["findings"])
    assert len([row for row in found["attacks"] if row["attack"] == "case"]) == 10
    assert [row["n"] for row in found["functional"]["functionalities"]] == [2, 1]
    assert read_json(Workspace.of(copy).robustness) == {k: v for k, v in found.items() if k != "file"}
    other_rows = CliRunner().invoke(app, ["robustness", str(copy), "--rows", "9", "--attacks", "emoji", "--json"])
    assert {row["attack"] for row in json.loads(other_rows.stdout)["attacks"]} == {"emoji"}


def test_a_run_attacks_at_its_end_and_what_it_found_goes_with_what_it_was_found_of(small_config, small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    asked = {**small_config, "robustness": {"attacks": ["homoglyphs", "jpeg"], **QUICK}}
    space = Workspace.of(run(parse_config(asked), root=tmp_path))
    found = read_json(space.robustness)
    assert [row["attack"] for row in found["attacks"]] == ["homoglyphs", "homoglyphs", "jpeg"]
    kinds = known_attacks(bifocal.load(space.folder).modalities)
    assert {"typos", "screenshot", "part_swapped"} <= set(kinds) and len(kinds) == len(set(kinds))
    robustness(space.folder, rows=6, attacks=["emoji"])
    run(parse_config(asked), root=tmp_path)  # finished: nothing runs again
    assert read_json(space.robustness)["rows"] == 6
    run(parse_config({**asked, "bootstrap": 120, "robustness": {}}), root=tmp_path)
    assert not space.robustness.exists()


@pytest.mark.parametrize("attacks", [["homoglyph"], ["jpegs", "typos"]])
def test_an_unknown_attack_is_named_before_anything_runs(small_config, tmp_path, attacks):
    with pytest.raises(ConfigError, match=f"attacked by '{attacks[0]}'; did you mean"):
        run(parse_config({**small_config, "robustness": {"attacks": attacks}}), root=tmp_path)
    assert not any(tmp_path.iterdir())


def test_settings_out_of_range_are_refused(small_config):
    for wrong in ({"severities": [0]}, {"severities": []}, {"rows": 0}, {"attack": ["jpeg"]}):
        with pytest.raises(ConfigError, match="robustness"):
            parse_config({**small_config, "robustness": wrong})


def test_texts_and_records(records_run, tmp_path):
    folder = shutil.copytree(records_run, tmp_path / "records")
    rows = read_json(robustness(folder, rows=30, attacks=["homoglyphs", "part_missing", "part_swapped"]))["attacks"]
    assert [row["attack"] for row in rows if row["modality"] == "tabular"] == ["part_missing", "part_swapped"]
    assert [row["attack"] for row in rows if row["modality"] == "text"][-2:] == ["part_missing", "part_swapped"]


def test_an_unfinished_run_is_refused(copy):
    space = Workspace.of(copy)
    record = read_json(space.record)
    del record["steps"]["calibrate"]
    write_json(space.record, record)
    with pytest.raises(RunError, match="not finished"):
        robustness(copy)


# ------------------------------------------------------------------ functional suites


def suite_of(tmp_path, text, name="suite.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_both_layouts_say_the_same(system, tmp_path):
    plain = suite_of(tmp_path, "functionality,text,label\na,some words,1\na,more words,no\nb,last words,yes\n")
    check = suite_of(
        tmp_path,
        "functionality,case_id,test_case,label_gold\na,1,some words,hateful\na,2,more words,non-hateful\n"
        "b,3,last words,hateful\n",
        "hatecheck.csv",
    )
    found, again = functional_suite(system, plain), functional_suite(system, check)
    assert found["functionalities"] == again["functionalities"] and found["accuracy"] == again["accuracy"]
    right = sum(
        system.predict(text=text).label == label
        for text, label in (("some words", 1), ("more words", 0), ("last words", 1))
    )
    assert found["accuracy"]["value"] == right / 3 and found["n"] == 3
    assert found["functionalities"][0]["labels"] == {1: 1, 0: 1}


def test_accuracy_has_wilsons_interval(system, tmp_path):
    lines = "".join(f"a,words number {i},{system.predict(text=f'words number {i}').label}\n" for i in range(10))
    accuracy = functional_suite(system, suite_of(tmp_path, "functionality,text,label\n" + lines))["accuracy"]
    assert accuracy["value"] == 1 and accuracy["high"] == pytest.approx(1)
    assert accuracy["low"] == pytest.approx(0.7225, abs=1e-3)  # of 10 of 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "functionality, text, label or functionality, test_case, label_gold"),
        ("functionality,text,label\n", "has no rows"),
        ("functionality,text,label\nx,words,maybe\n", "'maybe' in column 'label' is no class"),
        ("functionality,text,label\nx,,1\n", "must all be there"),
        ("functionality,text,label\nx,words,\n", "must all be there"),
    ],
)
def test_a_suite_that_cannot_be_read_says_why(system, tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        functional_suite(system, suite_of(tmp_path, text))
    with pytest.raises(DataError, match="no functional suite"):
        functional_suite(system, tmp_path / "missing.csv")


def test_a_text_without_words_is_counted_not_decided(system, tmp_path):
    found = functional_suite(system, suite_of(tmp_path, "functionality,text,label\nx,\u200b,1\nx,words,1\n"))
    assert (found["n"], found["failed"]) == (1, 1)


def test_a_further_label_is_attacked_by_its_own_decisions(labels_run, tmp_path):
    folder = shutil.copytree(labels_run, tmp_path / "labels")
    path = robustness(folder, rows=20, attacks=["homoglyphs", "part_missing"], label="paid")
    found = read_json(path)
    assert path.name == "robustness_labels.paid.json" and found["label"] == "paid" and found["rows"] == 20
    flips = {
        (row["modality"], row["attack"]): row["flips"]["value"] for row in found["attacks"] if row["severity"] == 1
    }
    assert flips["text", "homoglyphs"] < flips["tabular", "part_missing"], "`paid` is of the record alone"
    assert not Workspace.of(folder).robustness.exists()
    with pytest.raises(ConfigError, match="rude"):
        robustness(folder, rows=5, attacks=["homoglyphs"], label="rude")
