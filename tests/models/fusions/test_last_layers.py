"""The last blocks learn, the others run once per row, and playing them back changes no number."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bifocal.errors import ConfigError
from bifocal.models import joint_tokens
from bifocal.models.fusions.last_layers import LastLayers
from bifocal.models.joint_fusion import deepest
from bifocal.models.joint_tokens import PLAYED, Backbone


def source(encoder, part, layers=1):
    return Backbone(encoder.modality, encoder, LastLayers(layers=layers).limit, value=part.values[0]).eval()


@pytest.fixture(params=["text", "image", "convolutional"])
def case(request, make_posts):
    """An encoder, Evidence of its modality, and rows to look at, of unlike length."""
    encoder = request.getfixturevalue(request.param)
    return encoder, make_posts(encoder.modality), [2, 0, 9, 3]


def test_what_is_played_back_gives_the_same_tokens(case):
    encoder, part, rows = case
    tokens = source(encoder, part)
    kept = tokens.prepare(part)
    assert len(kept) == 12
    whole, there = tokens(tokens.batch(part, rows, None))
    played, there_too = tokens(tokens.batch(part, rows, kept))
    assert torch.equal(there, there_too)
    assert there.any(dim=1).all()
    scale = float(whole[there].detach().abs().max())
    torch.testing.assert_close(played[there], whole[there], atol=1e-4 * scale, rtol=1e-4)
    other, mask = tokens(tokens.batch(part, [5, *rows[1:]], kept))
    apart = other[0][mask[0]].mean(dim=0) - whole[0][there[0]].mean(dim=0)
    assert float(apart.detach().abs().max()) > 1e-2 * scale


def test_blocks_that_are_passed_by_do_not_run(case):
    encoder, part, rows = case
    tokens = source(encoder, part)
    blocks = deepest(tokens.model)
    kept = tokens.prepare(part)
    ran = []
    for number, block in enumerate(blocks):  # a Linear or convolution inside tells that it was really run
        inner = next(m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        inner.register_forward_hook(lambda *_, number=number: ran.append(number))
    tokens(tokens.batch(part, rows, kept))
    assert set(ran) == {len(blocks) - 1}
    tokens(tokens.batch(part, rows, None))
    assert set(ran) == set(range(len(blocks)))


def test_pictures_are_read_once(image, make_posts):
    part = make_posts("image")
    tokens = source(image, part)
    kept = tokens.prepare(part)
    assert set(tokens.batch(replace(part, values=[None] * 12), [1, 2], kept)) == {"pixel_values", PLAYED}


def test_gradients_flow_into_the_last_blocks_only(case):
    encoder, part, rows = case
    tokens = source(encoder, part).train()
    blocks = deepest(tokens.model)
    last = {id(p) for p in blocks[-1].parameters()}
    assert {id(p) for p in tokens.parameters() if p.requires_grad} == last
    for kept in (None, tokens.prepare(part)):
        tokens.zero_grad()
        tokens.train()
        states, there = tokens(tokens.batch(part, rows, kept))
        states[there].square().sum().backward()
        assert {id(p) for p in tokens.parameters() if p.grad is not None} == last


def test_frozen_blocks_have_no_dropout_and_batch_norm_keeps_its_statistics(convolutional, text, make_posts):
    part, words_of = make_posts("image"), make_posts("text")
    tokens = source(convolutional, part)
    before = {name: buffer.clone() for name, buffer in tokens.named_buffers()}
    tokens.train()
    tokens(tokens.batch(part, [0, 2, 3], None))
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in tokens.named_buffers())
    words = source(text, words_of).train()
    first, last = deepest(words.model)
    assert last.training and not first.training and not words.model.embeddings.training


def test_all_blocks_learn_where_there_are_no_more(text, make_posts):
    tokens = source(text, make_posts("text"), layers=9)
    assert tokens.prepare(make_posts("text")) is None
    assert all(p.requires_grad for block in deepest(tokens.model) for p in block.parameters())


def test_too_much_is_not_kept(text, make_posts, monkeypatch):
    monkeypatch.setattr(joint_tokens, "KEPT_BYTES", 10_000)
    part = make_posts("text")
    tokens = source(text, part)
    assert tokens.prepare(part) is None
    assert tokens.prepare(part.take([0])) is not None


def test_a_model_that_is_more_than_a_chain_of_blocks_is_not_played_back(image, make_posts):
    """A skip from the input past the blocks: playing back would lose it."""
    part = make_posts("image")
    tokens = source(image, part)
    tokens.model.embeddings.register_forward_hook(lambda _, __, out: setattr(tokens, "seen", out))
    tokens.model.post_layernorm.register_forward_hook(lambda _, __, out: out + tokens.seen)
    assert tokens.prepare(part) is None


def test_a_backbone_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="a Sequential has no such list: take lora"):
        LastLayers().limit(nn.Sequential(nn.Linear(2, 2)))


def test_blocks_are_the_longest_list_that_lies_in_no_other():
    stages = nn.ModuleList(nn.ModuleDict({"inner": nn.ModuleList(nn.Identity() for _ in range(6))}) for _ in range(3))
    model = nn.ModuleDict({"stages": stages, "norms": nn.ModuleList([nn.Identity(), nn.Identity()])})
    assert deepest(model) == list(stages)
    assert deepest(nn.Linear(2, 2)) == []
