"""Texts become tokens the same way in training, after loading, and for outside readers."""

import os
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, ModelError
from bifocal.modalities.text import TAG, compose
from bifocal.models.encoders.hf_text import HfText, train_tokenizer
from bifocal.models.pretrained import quiet
from bifocal.models.saved import CARD
from bifocal.workspace import read_json, write_json

TEXTS = [
    f"[OCR] {a} {b} of the river [/OCR] [CAP] [/CAP] <lang=en>" for a in ("old", "new") for b in ("stone", "wood")
] * 5
MINILM = Path(os.environ.get("BIFOCAL_DATA", "../shared")) / "models" / "minilm-l6"


def create(**changes):
    return HfText.create(ExpertConfig(model="tiny", **changes), (0, 1), 0, TEXTS)


def test_frequent_words_are_single_tokens():
    tokens = train_tokenizer(TEXTS, 2000).tokenize(TEXTS[0])
    assert tokens == [f"▁{word}" for word in TEXTS[0].split()]


def test_the_same_texts_give_the_same_tokenizer():
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    first, second = (train_tokenizer(lines, 600).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_a_tokenizer_needs_words(texts):
    with pytest.raises(ModelError, match="are empty"):
        train_tokenizer(texts, 600)


def test_the_vocabulary_keeps_to_its_size():
    many = [" ".join(f"word{i}x{j}" for j in range(20)) for i in range(60)] * 2
    assert len(train_tokenizer(many, 300)) <= 300


def test_the_tokenizer_loads_back_exactly(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 2000)
    tokenizer.save_pretrained(tmp_path)
    transformers.DebertaV2Config().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXTS[0], "ｏｌｄ  stone\nof ① the ½ river", "unseen wörds", ""):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("old")["input_ids"]) == ["[CLS]", "▁old", "[SEP]"]


def test_long_texts_are_cut_and_short_ones_are_not_padded_to_them():
    encoder = create(options={"max_length": 16}, encode_batch_size=2)
    values = ["river", "river " * 300, "stone", "stone " * 200]
    widths = [inputs["input_ids"].shape[1] for _, inputs in encoder.batches(values)]
    assert widths == [16, 3]


def test_outside_readers_cut_texts_where_we_do(tmp_path):
    create(options={"max_length": 16}).save(tmp_path / "expert")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "expert")
    assert len(tokenizer("river " * 300, truncation=True)["input_ids"]) == 16
    assert HfText.load(tmp_path / "expert").options.max_length == 16


LONG = compose("", " ".join(["old river wood new stone"] * 30), "en")  # 150 words, a token each


def test_a_text_of_one_window_costs_one_pass_and_gives_what_it_did():
    encoder, before = create(options={"max_length": 64}), create(options={"max_length": 64, "windows": 1})
    found, then = encoder.encode(TEXTS), before.encode(TEXTS)
    assert encoder.examples_encoded == before.examples_encoded == len(TEXTS)
    assert found.keys() == then.keys() == {"features", "logits"}
    assert all(torch.equal(found[name], then[name]) for name in found)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_long_text_is_the_window_that_its_head_finds_most_positive(pooling):
    encoder = create(options={"max_length": 64}, pooling=pooling)
    windows = encoder.windows(LONG)
    assert len(windows.texts) > 2 and windows.whole and encoder.windows(TEXTS[0]).texts == (TEXTS[0],)
    told = []
    found = encoder.encode([TEXTS[0], LONG, TEXTS[1]], told.append)
    assert encoder.examples_encoded == len(windows.texts) + 2 and told[-1] == 3
    alone = encoder.encode(windows.texts)
    best = (alone["logits"][:, 1] - alone["logits"][:, 0]).argmax()
    for name in ("features", "logits"):
        torch.testing.assert_close(found[name][1], alone[name][best], atol=1e-5, rtol=1e-5)
        short = encoder.encode([TEXTS[0], TEXTS[1]])[name]
        torch.testing.assert_close(found[name][[0, 2]], short, atol=1e-5, rtol=1e-5)
    assert found["windows"].tolist() == [1, len(windows.texts), 1]
    assert not create(options={"max_length": 64, "windows": 2}).windows(LONG).whole


def test_of_several_classes_a_long_text_is_the_mean_of_its_windows():
    encoder = HfText.create(ExpertConfig(model="tiny", options={"max_length": 64}), ("a", "b", "c"), 0, TEXTS)
    alone, found = encoder.encode(encoder.windows(LONG).texts), encoder.encode([LONG])
    for name in ("features", "logits"):
        torch.testing.assert_close(found[name][0], alone[name].mean(dim=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.head_logits(found), found["logits"], atol=1e-5, rtol=1e-5)
    assert found.keys() == {"features", "logits"}


def test_tokens_of_a_long_text_are_those_of_all_windows_and_it_is_trained_on_the_first():
    encoder = create(options={"max_length": 64})
    first = encoder.windows(LONG).texts
    _, tokens = encoder.encode_tokens([LONG, TEXTS[0]])
    _, alone = encoder.encode_tokens(first)
    assert len(tokens) == 2 and len(tokens[0]) == sum(map(len, alone))
    torch.testing.assert_close(tokens[0], torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert torch.equal(encoder.inputs([LONG])["input_ids"], encoder.inputs([first[0]])["input_ids"])


def test_windows_are_kept_and_an_expert_that_was_saved_without_them_reads_one(tmp_path):
    encoder = create(options={"max_length": 64})
    encoder.save(tmp_path / "expert")
    card = read_json(tmp_path / "expert" / CARD)
    again = HfText.load(tmp_path / "expert")
    assert card["windows"] == again.most_windows == 8 and again.fingerprint() == encoder.fingerprint()
    assert torch.equal(again.encode([LONG])["features"], encoder.encode([LONG])["features"])
    write_json(tmp_path / "expert" / CARD, {name: value for name, value in card.items() if name != "windows"})
    old = HfText.load(tmp_path / "expert")
    assert old.windows(LONG).texts == (LONG,) and not old.windows(LONG).whole
    one = create(options={"max_length": 64, "windows": 1})
    assert old.fingerprint() == one.fingerprint() != encoder.fingerprint()
    assert torch.equal(old.encode([LONG])["features"], one.encode([LONG])["features"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = transformers.BertConfig(
        vocab_size=2000, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    path = tmp_path_factory.mktemp("bert")
    with quiet():
        transformers.BertModel(config).save_pretrained(path)
    train_tokenizer(TEXTS, 2000).save_pretrained(path)
    return path


def test_a_longer_text_than_the_positions_reach_is_refused(folder):
    with pytest.raises(ConfigError, match=r"max_length = 600 exceeds the 512 tokens"):
        HfText.create(ExpertConfig(model=str(folder), options={"max_length": 600}), (0, 1), 0, TEXTS)


def test_a_local_folder_is_taken_with_its_tokenizer(folder):
    encoder = HfText.create(ExpertConfig(model=str(folder), tune="head", pooling="mean"), (0, 1), 0, [])
    assert encoder.encode(TEXTS)["features"].shape == (20, 16)


def test_a_folder_without_tokenizer_is_refused(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ModelError, match="brings no tokenizer"):
        HfText.create(ExpertConfig(model=str(tmp_path)), (0, 1), 0, TEXTS)


@pytest.mark.skipif(not MINILM.is_dir(), reason=f"no model in {MINILM}")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_minilm_reads_texts(pooling):
    config = ExpertConfig(model=str(MINILM), tune="head", pooling=pooling)
    encoded = HfText.create(config, (0, 1), 0, TEXTS).encode(["a river", "a brook", "a stone bridge", ""])
    features = encoded["features"]
    assert features.shape == (4, 384)
    assert features.isfinite().all()
    if pooling == "mean":
        near = torch.nn.functional.cosine_similarity(features[0], features[1], dim=0)
        far = torch.nn.functional.cosine_similarity(features[0], features[2], dim=0)
        assert near > far


def test_a_further_head_hands_over_its_own_logits():
    encoder = create(tune="head")
    head = encoder.add_head("more", ("a", "b", "c"))
    for e in (encoder, head):
        traced = e.exportable()
        with torch.inference_mode():
            features, logits = traced.module(*traced.inputs.values())
        torch.testing.assert_close(logits, e.head_logits({"features": features}))
        assert traced.settings["highest"] is (e is encoder)


def test_words_are_dropped_in_training_by_their_share_and_the_seeds_alone():
    text = compose("one two three four five", "six seven eight nine ten", "en")
    assert create().augment(text, (0, 0, 0)) == text
    encoder = create(options={"word_drop": 0.3})
    seen = [encoder.augment(text, (0, epoch, row)) for epoch in range(10) for row in range(10)]
    assert seen == [encoder.augment(text, (0, epoch, row)) for epoch in range(10) for row in range(10)]
    words = text.split()
    for shorter in seen:
        kept = iter(words)
        assert all(word in kept for word in shorter.split())  # in their order
        assert [w for w in shorter.split() if TAG.fullmatch(w)] == [w for w in words if TAG.fullmatch(w)]
    left = sum(len(shorter.split()) - 5 for shorter in seen) / (100 * 10)
    assert 0.65 < left < 0.75
