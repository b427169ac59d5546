"""Pretrained models are found and loaded, or refused with one line that says what to do."""

import json
import pickle

import pytest
import torch
import transformers as t
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from bifocal.errors import ModelError
from bifocal.models.pretrained import load_pretrained, locate, quiet
from bifocal.models.saved import sealed

AUTO = t.AutoModelForSequenceClassification
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = t.BertConfig(vocab_size=20, **SIZE)


def load(folder, auto=AUTO):
    with quiet():
        return load_pretrained(auto, lambda where: where, str(folder), ["no", "yes"])


@pytest.fixture
def model_folder(tmp_path):
    with quiet():
        t.BertModel(CONFIG).save_pretrained(tmp_path)
    return tmp_path


def test_a_name_is_a_preset_a_folder_or_a_hub_id(tmp_path):
    assert locate("base", "maker/model") == "maker/model"
    assert locate(str(tmp_path), "maker/model") == str(tmp_path)
    assert locate("other/model", "maker/model") == "other/model"


def test_a_missing_folder_is_named_with_its_neighbours(tmp_path):
    (tmp_path / "minilm-l6").mkdir()
    with pytest.raises(ModelError, match="did you mean 'minilm-l6'"):
        locate(str(tmp_path / "minilm-l5"), "maker/model")


def test_a_new_head_is_put_on_a_pretrained_encoder(model_folder):
    model, _ = load(model_folder)
    assert model.config.id2label == {0: "no", 1: "yes"}
    stored = load_file(model_folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, stored)


def test_half_precision_is_loaded_in_full(model_folder):
    path = model_folder / "model.safetensors"
    save_file({name: w.half() for name, w in load_file(path).items()}, path, metadata={"format": "pt"})
    model, _ = load(model_folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_missing_offline_is_one_line_with_the_ways_out(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load("no-such-maker/no-such-model")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("no-such-maker/no-such-model", constants.HF_HUB_CACHE, "unset HF_HUB_OFFLINE", "path", "model: tiny"):
        assert part in message


def test_a_folder_without_weights_does_not_start_from_noise(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no complete model"):
        load(tmp_path)


def test_weights_of_another_model_do_not_start_from_noise(model_folder):
    save_file({"x": torch.zeros(2)}, model_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit its config\.json"):
        load(model_folder)


def test_weights_of_another_shape_do_not_start_from_noise(model_folder):
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "vocab_size": 30}))
    with pytest.raises(ModelError, match="1 of another shape"):
        load(model_folder)


def test_broken_weights_are_named(model_folder):
    (model_folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot be used"):
        load(model_folder)


def test_a_text_model_is_no_image_model(model_folder):
    with pytest.raises(ModelError, match="cannot be used as AutoModelForImageClassification"):
        load(model_folder, t.AutoModelForImageClassification)


def test_code_in_a_model_folder_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.O"}}
        )
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be used"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_quiet_gives_the_word_back():
    log = t.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    with quiet():
        assert log.get_verbosity() == log.ERROR
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


class Evil:
    """Runs code where a pickle of it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(model_folder, recwarn, write):
    (model_folder / "model.safetensors").unlink()
    write({"bert.pooler.dense.bias": Evil(model_folder / "ran")}, model_folder / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"its pytorch_model\.bin is damaged, or would run code .*safetensors"
    ) as caught:
        load(model_folder)
    assert not (model_folder / "ran").exists()
    assert "\n" not in str(caught.value) and not recwarn.list


def test_an_honest_pickle_of_tensors_is_read(model_folder):
    weights = load_file(model_folder / "model.safetensors")
    (model_folder / "model.safetensors").unlink()
    torch.save(weights, model_folder / "pytorch_model.bin")
    model, _ = load(model_folder)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.bert.state_dict()[name], weights[name])


def cut(blob):
    return blob[: len(blob) // 2]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", cut),
        ("model.safetensors", lambda blob: b""),
        ("model.safetensors", lambda blob: b"version https://git-lfs.github.com/spec/v1\n"),
        ("config.json", cut),
        ("config.json", lambda blob: b"\xff\xfe\x00"),
        ("pytorch_model.bin", cut),
        ("pytorch_model.bin", lambda blob: b""),
        ("pytorch_model.bin", lambda blob: b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_the_damaged_file_is_named_with_what_to_do(model_folder, name, damage):
    if name.endswith(".bin"):
        torch.save(load_file(model_folder / "model.safetensors"), model_folder / name)
        (model_folder / "model.safetensors").unlink()
    path = model_folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ModelError, match=rf"its {name} is damaged.*(copy the model's folder again|take the model)"
    ) as e:
        load(model_folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", ["wide", None, 17])
def test_a_configuration_that_makes_no_model_is_one_line(model_folder, value):
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "hidden_size": value}))
    with pytest.raises(ModelError, match="hidden.size") as caught:
        load(model_folder)
    assert "\n" not in str(caught.value)


def test_a_tensor_missing_from_a_part_that_is_there_does_not_start_from_noise(model_folder):
    """As where a byte of its name flipped: all that safetensors can say is that the file reads well."""
    path = model_folder / "model.safetensors"
    blob = path.read_bytes()
    path.write_bytes(blob.replace(b"embeddings.word_embeddings.weight", b"embeddings.word_embeddingz.weight"))
    with pytest.raises(ModelError, match="1 of 23 encoder tensors missing"):
        load(model_folder)


def test_a_pooler_may_be_missing_whole(model_folder):
    path = model_folder / "model.safetensors"
    kept = {name: w for name, w in load_file(path).items() if not name.startswith("pooler")}
    save_file(kept, path, metadata={"format": "pt"})
    load(model_folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(model_folder, value):
    path = model_folder / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.0.output.dense.weight"][3, 3] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"are damaged: bert\.encoder\.layer\.0\.output\.dense\.weight holds"):
        load(model_folder)


def test_an_expert_of_ours_that_was_altered_is_no_base_for_another(model_folder):
    with sealed(model_folder.with_name("expert"), {"encoder": "hf_text"}) as part:
        (part / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes())
    weights = model_folder.with_name("expert") / "model.safetensors"
    assert locate(str(weights.parent), "maker/model") == str(weights.parent)
    blob = bytearray(weights.read_bytes())
    blob[-9] ^= 1
    weights.write_bytes(blob)
    with pytest.raises(ModelError, match=r"model\.safetensors was altered since it was saved"):
        locate(str(weights.parent), "maker/model")
