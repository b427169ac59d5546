"""The configurations of the repository, run whole in `make test-all`; the README's test runs the pilot always."""

import os
from pathlib import Path

import pytest

from bifocal.config import load_config
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, read_json, read_jsonl

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("BIFOCAL_DATA", ROOT.parent / "shared"))


def results_of(name, tmp_path, *overrides):
    space = Workspace.of(run(load_config(ROOT / "configs" / f"{name}.yaml", overrides), root=tmp_path))
    return space, read_json(space.results)


@pytest.mark.slow
def test_the_pilot_reads_fifty_pictures_and_is_marked_in_sample(tmp_path):
    space, results = results_of("pilot", tmp_path)
    assert results["in_sample"] is True
    assert sum(1 for row in read_jsonl(space.ocr) if row["text"]) == 50
    assert [p.name for p in space.shards("train").glob("*.tar")] == ["shard-000000.tar"]
    read = read_json(space.fusion / "config.json")["read"]
    assert read == {"text": "features", "image": "logits"}


@pytest.mark.slow
def test_the_demo_needs_both_modalities(tmp_path):
    _, results = results_of("demo", tmp_path)
    models = results["models"]
    for expert in ("text_expert", "vision_expert"):
        ours, majority = (models[m]["val"]["metrics"]["macro_f1"]["value"] for m in (expert, "majority"))
        assert ours > majority + 0.1
    assert results["gain"]["high"] > 0
    assert models["mm_fusion"]["test"]["metrics"]["auroc"]["value"] > 0.95


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "data" / "smear_memes").is_dir(), reason=f"no smear_memes below {SHARED}: set BIFOCAL_DATA"
)
def test_real_memes_with_frozen_encoders(tmp_path, monkeypatch):
    monkeypatch.setenv("BIFOCAL_DATA", str(SHARED))
    space, results = results_of("smear-memes", tmp_path)
    assert read_json(space.record)["steps"]["splits"]["rows"] == {"train": 687, "val": 63, "test": 200}
    assert results["models"]["text_expert"]["test"]["metrics"]["auroc"]["value"] > 0.58
    assert results["gain"]["low"] < results["gain"]["value"] < results["gain"]["high"]
