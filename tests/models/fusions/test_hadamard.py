"""Known answers: the product of projections is worked out by hand, and it says AND and XOR."""

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.fusions.hadamard import Hadamard, HadamardHead


@pytest.fixture
def kind():
    return Hadamard


def test_it_is_the_product_worked_out_by_hand():
    head = HadamardHead({"text": 2, "image": 1}, 2, width=2, dropout=0.0)
    text, image = head.projections
    with torch.no_grad():
        text.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        image.weight.copy_(torch.tensor([[3.0], [-1.0]]))
        head.out[1].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        head.out[1].bias.copy_(torch.tensor([0.0, 10.0]))
    # (1 + 1*2 + 2*1) * (1 + 3*2) = 35, and (1 + 1) * (1 - 2) = -2: the biases are the ones of a new head.
    logits = head({"text": torch.tensor([[2.0, 1.0]]), "image": torch.tensor([[2.0]])}, {})
    assert logits.tolist() == [[35.0, 43.0]]


def test_without_the_additive_terms_it_cannot_say_and(evidence, monkeypatch, fitted, accuracy):
    """With the biases held at 0, both bits off look like both bits on."""
    monkeypatch.setattr("torch.nn.init.ones_", lambda bias: torch.nn.init.zeros_(bias).requires_grad_(False))
    assert accuracy(fitted(evidence("and"), val=evidence("and", 300, 1)), evidence("and", 1000, 2)) < 0.85


def test_it_has_no_weights_to_show(evidence, fitted):
    rows = evidence("and", 200)
    assert fitted(rows, epochs=1).explain(rows) == {}


@pytest.mark.parametrize("option", [{"widths": [0]}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'hadamard'"):
        Hadamard(**option)
