"""Adapters start as nothing, learn in every backbone, and leave the expert's own weights alone."""

import pytest
import torch
from torch import nn

from bifocal.errors import ConfigError
from bifocal.models.fusions.last_layers import LastLayers
from bifocal.models.fusions.lora import Lora
from bifocal.models.joint_tokens import Backbone


@pytest.fixture(params=["text", "image", "convolutional"])
def case(request, make_posts):
    encoder = request.getfixturevalue(request.param)
    return encoder, make_posts(encoder.modality), [2, 0, 9, 3]


def source(encoder, part, limit):
    return Backbone(encoder.modality, encoder, limit, value=part.values[0])


def test_at_the_start_tokens_are_those_of_the_expert(case):
    encoder, part, rows = case
    adapted = source(encoder, part, Lora().limit).eval()
    plain = source(encoder, part, LastLayers().limit).eval()
    batch = plain.batch(part, rows, None)
    torch.testing.assert_close(adapted(batch)[0], plain(batch)[0])


def test_adapters_alone_get_gradients(case):
    encoder, part, rows = case
    tokens = source(encoder, part, Lora(r=2).limit).train()
    assert tokens.prepare(part) is None
    states, there = tokens(tokens.batch(part, rows, None))
    states[there].square().sum().backward()
    learning = {name for name, p in tokens.named_parameters() if p.grad is not None}
    assert learning and all("lora_" in name for name in learning)
    assert learning == {name for name, p in tokens.named_parameters() if p.requires_grad}
    assert not any("lora_" in name for name, _ in encoder.classifier.named_parameters())


def test_a_rank_is_what_it_is_called(text, make_posts):
    tokens = source(text, make_posts("text"), Lora(r=3).limit)
    assert {p.shape[0] for name, p in tokens.named_parameters() if "lora_A" in name} == {3}
    assert {p.shape[1] for name, p in tokens.named_parameters() if "lora_B" in name} == {3}


def test_a_backbone_with_nothing_to_adapt_is_refused():
    with pytest.raises(ConfigError, match="a Sequential has neither: take last_layers"):
        Lora().limit(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 3)))
