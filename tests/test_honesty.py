"""The promises a reader of the figures relies on: test chooses nothing, leaks are found, parts missing are decided."""

import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import bifocal
from bifocal.config import parse_config
from bifocal.decide import calibration_methods as calibrators
from bifocal.decide import policy_fit as fitting
from bifocal.decide.calibration import fit_temperature, softmax
from bifocal.decide.calibration_methods import Temperature
from bifocal.decide.policy import ModelPolicy, PatternPolicy, Policy
from bifocal.decide.thresholds import best_f1_threshold
from bifocal.decide.tuning_rows import PolicySettings, TuningRows
from bifocal.example import Evidence
from bifocal.pipeline.train import run
from bifocal.sources.synthetic import Synthetic
from bifocal.workspace import Workspace, read_json

TINY = {"model": "tiny", "epochs": 1, "batch_size": 8}
EXPERTS = {"text": {**TINY, "learning_rate": 2e-3}, "image": {**TINY, "learning_rate": 1e-3}}


def turn_test_labels(folder):
    """Every label of the test file into its opposite; nothing else changes."""
    path = folder / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "label": 1 - row["label"]}) + "\n" for row in rows))


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two runs from scratch, alike but for the labels of their test rows."""
    root = tmp_path_factory.mktemp("twins")
    Synthetic(size=100, structure="redundant", label_noise=0.2).write_folder(root / "true")
    shutil.copytree(root / "true", root / "turned")
    turn_test_labels(root / "turned")

    def finished(name):
        return run(
            parse_config(
                {
                    "run": "twin",
                    "source": {"kind": "hateful_memes", "root": str(root / name)},
                    "ocr": "never",
                    "experts": EXPERTS,
                    "fusion": {"seeds": 2, "options": {"epochs": 5}},
                    "bootstrap": 100,
                }
            ),
            root=root / "runs" / name,
        )

    return [Workspace.of(finished(name)) for name in ("true", "turned")]


def test_the_labels_of_test_choose_no_weight(twins):
    for expert in ("text_expert", "vision_expert"):
        weights = [load_file(space.expert(expert) / "model.safetensors") for space in twins]
        assert weights[0].keys() == weights[1].keys()
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    fused = [torch.load(space.fusion / "fusion_model.pt", weights_only=True) for space in twins]
    assert fused[0].keys() == fused[1].keys()
    assert all(torch.equal(fused[0][name], fused[1][name]) for name in fused[0])
    histories = [read_json(space.record)["steps"]["experts"]["history"] for space in twins]
    figures = [
        [{k: v for k, v in epoch.items() if k.startswith(("train", "val"))} for epoch in history[expert]]
        for history in histories
        for expert in ("text_expert", "vision_expert")
    ]
    assert figures[:2] == figures[2:] and "val_macro_f1" in figures[0][0]


def test_the_labels_of_test_choose_no_temperature_and_no_threshold(twins):
    for artifact in ("policy", "calibration", "thresholds"):
        first, second = (read_json(getattr(space, artifact)) for space in twins)
        for day in (first, second):
            day.pop("date", None)
        assert first == second, artifact
    for model in ("text_expert", "vision_expert", "mm_fusion"):
        first, second = (space.curve(model).read_text() for space in twins)
        assert first == second
    results = [read_json(space.results) for space in twins]
    assert results[0]["gain"]["chosen_on"] == results[1]["gain"]["chosen_on"]
    # The fusion is compared with every expert, so that none is chosen to compare it with.
    assert all(set(found["gains"]) == {"text_expert", "vision_expert"} for found in results)


def test_the_labels_of_test_are_what_test_is_measured_on(twins):
    """Without this the two tests above would also pass where the turned labels were never read."""
    first, second = (read_json(space.results) for space in twins)
    for model in ("text_expert", "vision_expert", "mm_fusion"):
        there, back = (r["models"][model]["test"]["metrics"]["auroc"]["value"] for r in (first, second))
        assert there + back == pytest.approx(1)
        for split in ("train", "val"):
            assert first["models"][model][split] == second["models"][model][split]


# ------------------------------------------------------------------ leakage


def write_leaking_folder(root):
    """24 train, 8 val and 8 test posts with nothing in common, and a ninth test post that is the first of train."""
    rng = np.random.default_rng(0)
    (root / "img").mkdir(parents=True)
    number = 0
    for name, n in (("train", 24), ("dev", 8), ("test", 8)):
        rows = []
        for _ in range(n):
            picture = f"img/{number}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)).save(root / picture)
            text = " ".join(f"{word}{number}" for word in ("alpha", "beta", "gamma", "delta"))
            rows.append({"id": f"row{number}", "img": picture, "label": number % 2, "text": text})
            number += 1
        if name == "train":
            first = rows[0]
        if name == "test":
            rows.append({**first, "id": "copy"})
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("action", ["report", "drop"])
def test_a_test_post_that_repeats_a_train_post_is_counted_and_on_request_dropped(tmp_path, action):
    write_leaking_folder(tmp_path / "memes")
    config = parse_config(
        {"run": "leak", "leakage": action, "source": {"kind": "hateful_memes", "root": str(tmp_path / "memes")}}
    )
    space = Workspace.of(run(config, root=tmp_path, until="shards"))
    steps = read_json(space.record)["steps"]
    assert steps["splits"]["leakage"] == {"action": action, "rows": {"test": 1}}
    splits = read_json(space.splits)
    packed = {split: packed_ids(space, split) for split in ("train", "val", "test")}
    assert splits["row0"] == "train" and "row0" in packed["train"]
    kept = 9 if action == "report" else 8
    assert ("copy" in splits) == ("copy" in packed["test"]) == (action == "report")
    assert steps["splits"]["rows"] == steps["shards"]["rows"] == {"train": 24, "val": 8, "test": kept}
    assert {split: len(ids) for split, ids in packed.items()} == {"train": 24, "val": 8, "test": kept}


def packed_ids(space, split):
    ids = []
    for path in sorted(space.shards(split).glob("*.tar")):
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")]
            ids += [json.load(tar.extractfile(name))["id"] for name in names]
    return ids


# ------------------------------------------------------------------ presence patterns


@pytest.fixture
def copied(small_run, tmp_path):
    """The finished run once more, to be written to."""
    return shutil.copytree(small_run, tmp_path / "small")


def test_each_set_of_parts_gets_a_temperature_and_a_threshold_of_its_own(copied, small_config, monkeypatch):
    """As the run has it, with fewer rows asked for: the small run's val has 40."""
    config = parse_config(small_config)
    run(config, root=copied.parent, start="calibrate", until="calibrate")
    space = Workspace.of(copied)
    assert Policy.load(space.policy).models["mm_fusion"].patterns == {}  # under 200 rows

    monkeypatch.setattr(fitting, "MIN_PATTERN_ROWS", 10)
    monkeypatch.setattr(calibrators, "LEAST_ROWS", 3)
    run(config, root=copied.parent, start="calibrate", until="calibrate")
    policy = Policy.load(space.policy)
    fits = policy.models["mm_fusion"].patterns
    assert set(fits) == {"text", "image", "image+text"}
    assert policy.models["text_expert"].patterns == {}
    evidence = {name: load_file(space.evidence(f"{name}_expert", "val")) for name in ("text", "vision")}
    text, image = (evidence[name]["present"].astype(bool) for name in ("text", "vision"))
    assert {name: fit.n for name, fit in fits.items()} == {
        "text": text.sum(),
        "image": image.sum(),
        "image+text": (text & image).sum(),
    }

    system = bifocal.load(copied)
    logits, labels = text_alone(system, evidence, text)
    assert fits["text"].calibration.temperature == pytest.approx(fit_temperature(logits, labels))
    assert fits["text"].threshold == best_f1_threshold(labels, softmax(logits, fits["text"].calibration.temperature))
    assert fits["text"].calibration.temperature != policy.models["mm_fusion"].calibration.temperature


def text_alone(system, evidence, rows):
    """Logits of the fusion on posts stripped of their pictures, by blanking the Evidence by hand."""
    n = int(rows.sum())
    labels = torch.from_numpy(evidence["text"]["labels"][rows])
    made = {}
    for modality, expert, present in (("text", "text", True), ("image", "vision", False)):
        arrays = {k: torch.from_numpy(evidence[expert][k][rows]) for k in ("features", "logits")}
        flags = torch.full((n,), present)
        made[modality] = Evidence(("",) * n, ("",) * n, *arrays.values(), flags, labels, torch.zeros(n) > 0)
    return system.engine.fusion(made).numpy(), labels.numpy()


def test_200_rows_are_enough_for_a_set_of_parts_and_199_are_not():
    rng = np.random.default_rng(0)

    def scores(n, scale):
        labels = np.arange(n) % 2
        margin = scale * (labels - 0.5 + rng.normal(0, 1, n))
        return np.stack([-margin, margin], 1), labels

    tuning = {"mm_fusion": {"pooled": scores(400, 4.0), "text": scores(200, 40.0), "image": scores(199, 40.0)}}
    settings = PolicySettings(
        run="r", label="abuse_hate", classes=(0, 1), probability_key="prob", in_sample=False, versions={}
    )
    fitted = fitting.fit_policy(TuningRows(tuning), settings)
    pooled = fitted.policy.models["mm_fusion"]
    assert set(pooled.patterns) == {"text"} and pooled.patterns["text"].n == 200
    assert pooled.patterns["text"].calibration.temperature > 2 * pooled.calibration.temperature


def test_a_post_is_decided_by_the_threshold_and_temperature_of_the_parts_it_brings(small_run, tmp_path):
    system = bifocal.load(small_run)
    picture = tmp_path / "a.png"
    Image.new("RGB", (300, 200), (200, 60, 20)).save(picture)
    plain = {
        "text": system.predict("a quiet morning").probability,
        "image": system.predict(image_path=picture).probability,
    }
    fits = {
        "text": PatternPolicy(calibration=Temperature(temperature=1e6), threshold=0.45, n=200),
        "image": PatternPolicy(calibration=Temperature(temperature=1.0), threshold=1.0, n=200),
    }
    pooled = system.policy.models["mm_fusion"]
    own = ModelPolicy(calibration=pooled.calibration, threshold=0.0, patterns=fits)
    system.policy = system.policy.model_copy(update={"models": {**system.policy.models, "mm_fusion": own}})
    text, image = system.predict("a quiet morning"), system.predict(image_path=picture)
    both = system.predict("a quiet morning", picture)
    assert (text.threshold, image.threshold, both.threshold) == (0.45, 1.0, 0.0)
    assert (text.label, image.label, both.label) == (1, 0, 1)
    assert (text.action, image.action, both.action) == ("block", "allow", "block")
    assert text.probability == pytest.approx(0.5, abs=1e-4) != pytest.approx(plain["text"], abs=1e-4)
    uncalibrated = np.log(plain["image"] / (1 - plain["image"])) * pooled.calibration.temperature
    assert image.probability == pytest.approx(1 / (1 + np.exp(-uncalibrated)), abs=1e-6)
    assert "0.45 from text" in text.why
    batch = system.predict_batch([{"text": "a quiet morning"}, {"image_path": picture}])
    assert [decision.threshold for decision in batch] == [0.45, 1.0]
