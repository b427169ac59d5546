"""Fusions that read tokens, and those that tune encoders, from training on generated memes to an answer over HTTP."""

import json

import pytest
import torch

import bifocal
from bifocal.config import parse_config
from bifocal.contracts import EncoderTuner
from bifocal.deploy.export import export
from bifocal.errors import ModelError
from bifocal.pipeline.train import run
from bifocal.system.system import System
from bifocal.workspace import Workspace, read_json

TEXT = "an old lantern by the river"


@pytest.fixture(scope="module", params=["cross_attention", pytest.param("lora", marks=pytest.mark.slow)])
def trained(request, small_config, tmp_path_factory):
    """A finished run whose experts are frozen, so that one pass of each has to serve everything."""
    config = {
        **small_config,
        "run": request.param,
        "experts": {name: {"model": "tiny", "tune": "head"} for name in ("text", "image")},
        "fusion": {"strategy": request.param, "options": {"epochs": 2, "width": 32}},
    }
    return run(parse_config(config), root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def system(trained):
    return bifocal.load(trained)


def test_what_a_run_leaves(trained, system):
    space = Workspace.of(trained)
    card = read_json(space.fusion / "config.json")
    assert card["strategy"] == space.folder.name and card["read"] == {"text": "tokens", "image": "tokens"}
    assert card["seeds"] == 1 and 1 <= len(card["state"]["history"]) <= 2
    held = torch.load(space.fusion / "fusion_model.pt", weights_only=True)
    assert all(isinstance(t, torch.Tensor) for t in held.values())
    assert set(read_json(space.calibration)) == set(read_json(space.thresholds)) >= {"mm_fusion", "text_expert"}
    assert {"text", "image", "text+image"} >= set(read_json(space.calibration)["mm_fusion"]["abuse_hate"]["patterns"])
    # Each encoder that makes tokens did so once per example: its tokens lie beside the features, or by themselves.
    own = isinstance(system.engine.fusion, EncoderTuner)
    for expert in ("text_expert", "vision_expert"):
        for split in ("train", "val", "test"):
            assert space.evidence(expert, split).is_file()
            assert (space.evidence_folder / expert / f"{split}.tokens.safetensors").is_file() is not own
            assert (space.evidence_folder / "mm_fusion" / f"{split}.{expert}.tokens.safetensors").is_file() is own


def test_one_pass_of_each_expert_answers_and_explains(system, picture):
    before = {name: encoder.examples_encoded for name, encoder in system.engine.experts.items()}
    posts = [system.preprocessor.post({"text": TEXT}), system.preprocessor.post({"image": picture()})]
    system.decide(posts)
    assert {n: e.examples_encoded - before[n] for n, e in system.engine.experts.items()} == {"text": 1, "image": 1}
    explained = system.explain(text=TEXT)
    assert explained.score - explained.baseline == pytest.approx(sum(explained.contributions.values()))
    assert len(explained.pieces["text"]) > 3


def test_the_command_line_and_http_say_what_python_says(trained, system, command, serve, picture, tmp_path):
    (tmp_path / "meme.png").write_bytes(picture())
    expected = system.predict(text=TEXT, image_path=tmp_path / "meme.png")
    done = command("predict", trained, "--text", TEXT, "--image", tmp_path / "meme.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prob_hate"] == pytest.approx(expected.probability, abs=1e-5)
    server = serve(trained)
    server.wait_ready()
    answers = [server.predict(TEXT, picture()), server.predict(TEXT), server.predict(image=picture())]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    assert answers[0].json()["prob_hate"] == pytest.approx(expected.probability, abs=1e-5)
    assert answers[1].json()["prob_hate"] == pytest.approx(system.predict(text=TEXT).probability, abs=1e-5)
    assert "mm_fusion" in answers[0].json()["models"]


def test_onnx_is_refused_at_once_and_torch_decides_alike(trained, tmp_path):
    name = trained.name
    with pytest.raises(ModelError, match=f"{name} reads tokens.*export for the engine torch.*such as concat"):
        export(trained, "onnx", output=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
    report = export(trained, "torch", output=tmp_path / "torch")
    assert report["flips"]["count"] == 0 and report["seconds_per_post"]["engine"] > 0
    assert System.load(tmp_path / "torch").engine.name == "torch"
