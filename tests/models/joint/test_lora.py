"""Adapters start as nothing, learn in every backbone, and leave the expert's own weights alone."""

import pytest
import torch
from torch import nn

from bifocal.errors import ConfigError
from bifocal.models.joint.last_layers import LastLayers
from bifocal.models.joint.lora import Lora
from bifocal.models.joint_tokens import token_source


@pytest.fixture(params=["text", "image", "convolutional"])
def case(request, make_posts):
    encoder = request.getfixturevalue(request.param)
    return encoder, make_posts().values[encoder.modality], [2, 0, 9, 3]


def test_at_the_start_tokens_are_those_of_the_expert(case):
    encoder, values, rows = case
    adapted = token_source(encoder, values[0], Lora().limit).eval()
    plain = token_source(encoder, values[0], LastLayers().limit).eval()
    batch = plain.batch(values, rows, None)
    torch.testing.assert_close(adapted(batch)[0], plain(batch)[0])


def test_adapters_alone_get_gradients(case):
    encoder, values, rows = case
    tokens = token_source(encoder, values[0], Lora(r=2).limit).train()
    assert tokens.prepare(values, list(range(12))) is None
    states, there = tokens(tokens.batch(values, rows, None))
    states[there].square().sum().backward()
    learning = {name for name, p in tokens.named_parameters() if p.grad is not None}
    assert learning and all("lora_" in name for name in learning)
    assert learning == {name for name, p in tokens.named_parameters() if p.requires_grad}
    assert not any("lora_" in name for name, _ in encoder.classifier.named_parameters())


def test_a_rank_is_what_it_is_called(text, make_posts):
    tokens = token_source(text, make_posts().values["text"][0], Lora(r=3).limit)
    assert {p.shape[0] for name, p in tokens.named_parameters() if "lora_A" in name} == {3}
    assert {p.shape[1] for name, p in tokens.named_parameters() if "lora_B" in name} == {3}


def test_a_backbone_with_nothing_to_adapt_is_refused():
    with pytest.raises(ConfigError, match="a Sequential has neither: take last_layers"):
        Lora().limit(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 3)))
