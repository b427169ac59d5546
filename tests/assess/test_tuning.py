"""Where val is small, calibration and thresholds rest on cross-fitted training rows too; what promises rests on val."""

import shutil

import numpy as np
import pytest

from bifocal.assess.run_data import RunData
from bifocal.assess.tuning import (
    cross_fitted,
    joined,
    training_predictions,
    tuned_on,
    tuning_predictions,
    tuning_rows,
    wants_train,
)
from bifocal.config import parse_config, recorded_config
from bifocal.decide.policy import POOLED, Policy
from bifocal.example import UNLABELLED
from bifocal.fit.cross_fit import CrossFitted
from bifocal.pipeline.train import run
from bifocal.workspace import read_json

CONFIG = {
    "run": "r",
    "source": {"kind": "synthetic", "size": 240, "missing_text": 0.05, "missing_image": 0.05},
    "ocr": "never",
    "splits": {"val": 0.2, "test": 0.2},
    "experts": {
        "text": {"encoder": "tfidf_text", "options": {"components": 8}},
        "image": {"model": "tiny", "epochs": 1, "batch_size": 8},
    },
    "fusion": {"strategy": "weighted", "folds": 3, "holdout": 0.4},
    "decide": {"review": {"fnr": 0.1}},
    "bootstrap": 100,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run: a frozen text expert, a fine-tuned image expert, and 48 val rows."""
    return run(parse_config(CONFIG), root=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def data(folder):
    return RunData.of(folder)


def test_each_model_is_tuned_on_the_rows_that_it_never_saw(data):
    train, kept = data.evidence_of("train"), set(data.fusion_rows["text"].ids)
    said = training_predictions(data)
    assert wants_train(data) and list(said.has) == ["text_expert", "vision_expert", "mm_fusion"]
    assert np.array_equal(said.has["text_expert"], train["text"].present.numpy())  # frozen: all are cross-fitted
    seen = train["image"].seen.numpy()
    assert seen.any() and not said.has["vision_expert"][seen].any() and said.has["vision_expert"][~seen].any()
    fused = np.array(said.ids)[said.has["mm_fusion"]]
    assert set(fused) == {row for row, parts in zip(said.ids, said.patterns, strict=True) if parts} & kept
    found = cross_fitted(data)
    place = {row: i for i, row in enumerate(found.ids)}
    for i in np.flatnonzero(said.has["mm_fusion"])[:5]:
        assert np.array_equal(said.logits["mm_fusion"][i], found.logits[place[said.ids[i]]].numpy())


def test_val_comes_first_and_what_is_promised_rests_on_it_alone(data):
    said, val = tuning_predictions(data), data.predictions("val")
    assert said.ids == val.ids + data.split("train").ids
    rows, counts = tuning_rows(data, said), tuned_on(data, said)
    for model in data.models:
        assert len(rows.promised[model][POOLED][1]) == val.has[model].sum() == counts[model]["val"]
        assert len(rows.scores[model][POOLED][1]) == sum(counts[model].values()) > 48
    assert set(rows.scores["mm_fusion"]) == {POOLED, "image", "text", "image+text"}
    kept = data.fusion_rows
    alone = int((kept["text"].present & (kept["text"].labels != UNLABELLED)).sum())
    assert len(rows.scores["mm_fusion"]["text"][1]) == alone + len(rows.promised["mm_fusion"]["text"][1])
    assert len(rows.groups) == len(rows.scores["mm_fusion"][POOLED][1])
    band = Policy.load(data.space.policy).models["mm_fusion"].band
    assert band.positives + band.negatives == counts["mm_fusion"]["val"]


def test_the_run_says_which_rows_tuned_what(folder, data):
    counts = tuned_on(data, tuning_predictions(data))
    steps = read_json(folder / "run.json")["steps"]
    assert steps["calibrate"]["tuned_rows"] == counts and steps["calibrate"]["rows"] == 48
    assert steps["calibrate"]["rows_by_split"] == counts["mm_fusion"]
    assert steps["fusion"]["cross_fitted"] == len(cross_fitted(data).ids)
    policy = read_json(data.space.policy)
    assert policy["tuned_on"] == counts and set(policy["data"]) == {"val", "train"}
    more = f"val (48 rows) and {counts['mm_fusion']['train']} cross-fitted rows of train"
    assert more in (folder / "models" / "mm_fusion" / "README.md").read_text()
    assert "cross-fitted rows of train" in (folder / "report" / "index.html").read_text()


def test_with_val_alone_nothing_is_cross_fitted(folder, tmp_path):
    """And the same folder goes on from where the choice begins to matter."""
    there = tmp_path / "runs" / "r"
    shutil.copytree(folder, there)
    again = run(parse_config(CONFIG | {"decide": {"on": "val"}}), root=tmp_path / "runs")
    data = RunData.of(again)
    assert not wants_train(data) and cross_fitted(data) is None
    assert tuning_predictions(data) is data.predictions("val")
    policy = read_json(data.space.policy)
    assert "tuned_on" not in policy or not policy["tuned_on"]
    assert "tuned_rows" not in read_json(again / "run.json")["steps"]["calibrate"]


def test_runs_from_before_the_choice_were_tuned_on_val(folder):
    recorded = read_json(folder / "run.json")["config"]
    assert recorded_config(recorded, "here").decide.on == "auto"
    recorded["decide"].pop("on")
    assert recorded_config(recorded, "here").decide.on == "val"


def test_what_is_saved_is_what_is_loaded(data, tmp_path):
    found, split = cross_fitted(data), data.split("train").fingerprint
    path = tmp_path / "train.safetensors"
    found.save(path, split)
    again = CrossFitted.load(path, split)
    assert again.ids == found.ids and again.groups == found.groups and again.config == found.config
    assert list(again.patterns) == ["image", "text", "image+text"]
    assert np.array_equal(again.logits, found.logits) and np.array_equal(again.fold, found.fold)
    assert CrossFitted.load(path, "other shards") is None
    path.write_bytes(path.read_bytes()[:-8])
    assert CrossFitted.load(path, split) is None


def test_rows_are_joined_in_their_order():
    logits, labels = joined((np.zeros((2, 2)), np.array([0, 1])), (np.ones((1, 2)), np.array([1])))
    assert logits[:, 0].tolist() == [0, 0, 1] and labels.tolist() == [0, 1, 1]
