"""What is saved loads back the same, also without Bifocal; what is altered is refused."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, ModelError
from bifocal.models.encoders.hf_image import HfImage
from bifocal.models.encoders.hf_text import HfText

TEXTS = [f"{a} {b} river" for a in ("old", "new", "grey") for b in ("stone", "wood", "copper", "glass")]
PICTURES = [Image.new("RGB", (80, 80), (20 * i, 90, 240 - 20 * i)) for i in range(12)]
LABELS = torch.tensor([0, 1] * 6)
GROUPS = [str(i) for i in range(12)]


def create(kind=HfText, values=TEXTS, **changes):
    return kind.create(ExpertConfig(model="tiny", **changes), ("no", "yes"), 0, values)


def frozen(kind=HfText, values=TEXTS, **changes):
    """A frozen expert with a fitted head, and what it says of the values."""
    encoder = create(kind, values, tune="head", **changes)
    encoded = encoder.encode(values)
    encoder.fit_head(encoded, LABELS, GROUPS)
    return encoder, {**encoded, "logits": encoder.head_logits(encoded)}


READER = """
import json, sys, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folders, texts = json.loads(sys.argv[1])
said = {}
for name in ("cls", "mean", "several"):
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    model = AutoModelForSequenceClassification.from_pretrained(folders[name])
    with torch.no_grad():
        said[name] = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.tolist()
    said["labels"] = model.config.id2label
processor = AutoImageProcessor.from_pretrained(folders["image"], backend="pil")
model = AutoModelForImageClassification.from_pretrained(folders["image"])
pictures = [Image.new("RGB", (80, 80), (20 * i, 90, 240 - 20 * i)) for i in range(12)]
with torch.no_grad():
    said["image"] = model(**processor(images=pictures, return_tensors="pt")).logits.tolist()
said["bifocal"] = any(name.startswith("bifocal") for name in sys.modules)
print(json.dumps(said))
"""


def test_the_auto_classes_read_what_was_saved_without_bifocal(tmp_path):
    text, text_says = frozen()
    mean, mean_says = frozen(pooling="mean")
    image, image_says = frozen(HfImage, PICTURES)
    several, _ = frozen()
    several.add_head("more", ("a", "b", "c"))
    folders = {"cls": text, "mean": mean, "image": image, "several": several}
    for name, encoder in folders.items():
        encoder.save(tmp_path / name)
    arguments = json.dumps([{name: str(tmp_path / name) for name in folders}, TEXTS])
    done = subprocess.run([sys.executable, "-c", READER, arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["bifocal"] is False
    assert said["labels"] == {"0": "no", "1": "yes"}
    torch.testing.assert_close(torch.tensor(said["cls"]), text_says["logits"], atol=1e-4, rtol=0)
    assert said["several"] == said["cls"] and (tmp_path / "several" / "heads.safetensors").exists()
    torch.testing.assert_close(torch.tensor(said["image"]), image_says["logits"], atol=1e-4, rtol=0)
    auto_head = mean.classifier.auto_head(mean_says["auto_features"]).detach()
    torch.testing.assert_close(torch.tensor(said["mean"]), auto_head, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_load_gives_back_what_was_saved(tmp_path, pooling):
    encoder, says = frozen(pooling=pooling, options={"max_length": 16})
    encoder.learned_from = frozenset({"a", "ü"})
    encoder.save(tmp_path / "expert")
    again = HfText.load(tmp_path / "expert")
    for name, tensor in again.encode(TEXTS).items():
        torch.testing.assert_close(tensor, says[name], atol=1e-6, rtol=1e-5)
    for attribute in ("classes", "frozen", "penalty", "learned_from", "expert", "seed"):
        assert getattr(again, attribute) == getattr(encoder, attribute)
    assert again.parameters() == encoder.parameters()
    assert again.fingerprint() == encoder.fingerprint()


def test_own_head_and_card_are_open_to_outside_readers(tmp_path):
    encoder, says = frozen(pooling="mean")
    encoder.save(tmp_path / "expert")
    head = load_file(tmp_path / "expert" / "head.safetensors")
    logits = says["features"] @ head["weight"].T + head["bias"]
    torch.testing.assert_close(logits, says["logits"], atol=1e-4, rtol=1e-4)
    card = json.loads((tmp_path / "expert" / "bifocal.json").read_text())
    assert card["auto_logits_equal"] is False
    assert card["base_model"] == "tiny"
    assert {"config.json", "model.safetensors", "head.safetensors", "tokenizer.json"} <= set(card["sha256"])


def test_heads_of_further_labels_are_open_to_outside_readers(tmp_path):
    encoder, says = frozen(pooling="mean")
    head = encoder.add_head("a b/c", ("a", "b", "c"))
    head.fit_head(says, torch.tensor([0, 1, 2] * 4), GROUPS)
    encoder.save(tmp_path / "expert")
    tensors = load_file(tmp_path / "expert" / "heads.safetensors")
    assert tensors.keys() == {"a%20b%2Fc.weight", "a%20b%2Fc.bias"}
    logits = says["features"] @ tensors["a%20b%2Fc.weight"].T + tensors["a%20b%2Fc.bias"]
    torch.testing.assert_close(logits, head.head_logits(says), atol=1e-4, rtol=1e-4)
    card = json.loads((tmp_path / "expert" / "bifocal.json").read_text())
    told = {"classes": ["a", "b", "c"], "penalty": head.penalty, "learned_from": 0, "window_offsets": []}
    assert card["heads"] == {"a b/c": told}


def test_a_flipped_byte_is_refused(tmp_path):
    encoder = create()
    encoder.save(tmp_path / "expert")
    weights = tmp_path / "expert" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors was altered"):
        HfText.load(tmp_path / "expert")


def test_lora_is_merged_on_save(tmp_path):
    encoder = create(tune="lora")
    counted = encoder.parameters()
    assert counted["trained"] < 0.2 * counted["total"]
    features = encoder.encode(TEXTS)["features"]
    encoder.save(tmp_path / "expert")
    assert not [
        name for name in load_file(tmp_path / "expert" / "model.safetensors") if "lora" in name or "base_layer" in name
    ]
    again = HfText.load(tmp_path / "expert")
    torch.testing.assert_close(again.encode(TEXTS)["features"], features)
    assert again.parameters() == counted


def test_parameters_that_learn():
    total = create().parameters()["total"]
    assert create().parameters() == {"total": total, "trained": total}
    assert create(tune="head").parameters() == {"total": total, "trained": 2 * 64 + 2}
    assert create(tune="head", pooling="mean").parameters()["trained"] == 2 * (2 * 64 + 2)


def test_the_fingerprint_follows_weights_and_preprocessing_alone():
    encoder, _ = frozen()
    before = encoder.fingerprint()
    encoder.fit_head(encoder.encode(TEXTS[::-1]), LABELS, GROUPS)
    assert encoder.fingerprint() == before == create().fingerprint()
    others = [create(options={"max_length": 64}), create(pooling="mean"), create(values=TEXTS[:6])]
    with torch.no_grad():
        next(encoder.classifier.encoder.parameters())[0, 0] += 1e-3
    assert len({before, encoder.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_the_same_seed_gives_the_same_expert_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    first = create().fingerprint()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert create().fingerprint() == first
    assert HfText.create(ExpertConfig(model="tiny"), (0, 1), 1, TEXTS).fingerprint() != first


def test_cross_fitting_needs_a_fitted_head():
    encoder, says = frozen()
    held_out = encoder.cross_fit(says, LABELS, GROUPS, folds=3, seed=0)
    assert held_out.shape == says["logits"].shape
    assert not torch.allclose(held_out, says["logits"])
    with pytest.raises(ModelError, match="not fitted"):
        create().cross_fit(says, LABELS, GROUPS, folds=3, seed=0)


def test_an_unknown_option_is_named():
    with pytest.raises(ConfigError, match="did you mean 'max_length'"):
        create(options={"max_lenght": 8})


@pytest.mark.parametrize("model", ["tiny", "base"])
@pytest.mark.parametrize("kind", [HfText, HfImage])
def test_cost_is_known_without_weights(kind, model):
    full = kind.cost(ExpertConfig(model=model), 2)
    head = kind.cost(ExpertConfig(model=model, tune="head"), 2)
    assert full["trained"] == full["total"] == head["total"]
    assert head["trained"] == 2 * (768 if model == "base" else 64) + 2
    if model == "base":
        millions, gflops = {HfText: (279, 39.3), HfImage: (93, 112.1)}[kind]
        assert full["total"] / 1e6 == pytest.approx(millions, abs=1)
        assert full["flops_per_example"] / 1e9 == pytest.approx(gflops, rel=0.01)


def test_cost_agrees_with_the_model_made():
    counted = HfText.cost(ExpertConfig(model="tiny", tune="lora"), 2)
    assert create(tune="lora").parameters() == {name: counted[name] for name in ("total", "trained")}
