"""Exported readers give, to the bit where they can, what transformers' own tokenizers and image processors give."""

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer, BertTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from bifocal.config import ExpertConfig
from bifocal.errors import ModelError
from bifocal.models.encoders.hf_text import HfText
from bifocal.system.onnx_inputs import Pixels, Tokens

PROCESSORS = {
    "siglip": SiglipImageProcessorPil(size={"height": 64, "width": 64}),
    "siglip-384": SiglipImageProcessorPil(size={"height": 384, "width": 384}),
    "mobilenet": MobileNetV2ImageProcessorPil(),
    "vit": ViTImageProcessorPil(),
    "clip": CLIPImageProcessorPil(),
    "plain": ViTImageProcessorPil(do_resize=False, do_normalize=False),
}


def pictures():
    rng = np.random.default_rng(0)
    for width, height in ((384, 384), (300, 420), (512, 256)):
        yield Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor(name):
    processor = PROCESSORS[name]
    reader = Pixels(processor.to_dict())
    for picture in pictures():
        theirs = processor(images=[picture], return_tensors="np")["pixel_values"][0]
        ours = reader.pixels(picture)
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(ours - theirs).max() < 1e-6


def test_pictures_come_in_order_and_few_at_a_time():
    square = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(10)]
    batches = list(Pixels(PROCESSORS["siglip"].to_dict()).read(square)[1])
    assert [rows for rows, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[1][1]["pixel_values"].shape == (4, 3, 64, 64)


@pytest.mark.parametrize("asked", [{"do_pad": True}, {"do_flip_channel_order": True}, {"size": {"longest_edge": 9}}])
def test_a_step_that_is_not_known_is_refused(asked):
    with pytest.raises(ModelError, match="which an exported encoder cannot"):
        Pixels(PROCESSORS["siglip"].to_dict() | asked)


TEXTS = ["a quiet morning", "", "one " * 300, "naïve café — 日本語 🎉", "[OCR] words [/OCR] [CAP] [/CAP] <lang=en>"]


@pytest.fixture
def tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "quiet", "morning", "one", "words", "##s", "e", "n"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def test_tokens_are_those_of_the_tokenizer(tokenizer):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    reader = Tokens(
        {
            "tokenizer": backend.to_str(),
            "max_length": 24,
            "inputs": names,
            "padding": {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0},
        }
    )
    ((rows, inputs),) = reader.read(TEXTS)[1]
    theirs = tokenizer([TEXTS[i] for i in rows], truncation=True, max_length=24, padding=True, return_tensors="np")
    assert rows[0] == 2  # the longest first
    for name in names:
        assert np.array_equal(inputs[name], theirs[name])


def test_texts_of_like_length_share_a_batch(tokenizer):
    backend = tokenizer.backend_tokenizer
    settings = {"tokenizer": backend.to_str(), "max_length": 128, "inputs": ["input_ids"], "padding": {"input_ids": 0}}
    texts = ["one " * (i % 40 + 1) for i in range(80)]
    batches = list(Tokens(settings).read(texts)[1])
    assert sorted(i for rows, _ in batches for i in rows) == list(range(80))
    widths = [inputs["input_ids"].shape[1] for _, inputs in batches]
    assert len(widths) == 3 and widths == sorted(widths, reverse=True) and widths[-1] < 15


def test_a_long_text_is_read_in_the_windows_of_its_expert(tmp_path):
    texts = ["one river", "old river wood new stone " * 30, "stone"]
    encoder = HfText.create(ExpertConfig(model="tiny", options={"max_length": 64}), (0, 1), 0, texts)
    settings = encoder.exportable().settings
    reader = Tokens(settings)
    counts, batches = reader.read(texts)
    windows = [encoder.windows(text) for text in texts]
    assert counts == [len(found.texts) for found in windows] and counts[1] > 2
    assert [reader.windows(text) for text in texts] == windows
    every = [text for found in windows for text in found.texts]
    for rows, inputs in batches:
        theirs = encoder.inputs([every[i] for i in rows])
        assert all(np.array_equal(inputs[name], theirs[name].numpy()) for name in inputs)
    old = Tokens({name: value for name, value in settings.items() if name not in ("windows", "highest")})
    assert old.read(texts)[0] == [1, 1, 1] and [old.windows(text).whole for text in texts] == [True, False, True]
