"""Known answers: the product of projections is worked out by hand, and it says AND and XOR."""

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.fusions.hadamard import Hadamard, HadamardHead

FAST = {"width": 32, "learning_rates": [1e-2], "weight_decays": [0.01], "epochs": 15}


def fitted(rows, val=None, seeds=(0, 1), **options):
    return Hadamard(**FAST | options).fit(rows, next(iter(rows.values())).labels, seeds=seeds, val=val)


def accuracy(fusion, rows):
    return (fusion(rows).argmax(dim=1) == rows["text"].labels).float().mean().item()


@pytest.mark.parametrize("names", [("text", "image"), ("text", "image", "tabular")])
@pytest.mark.parametrize(("structure", "least"), [("and", 0.97), ("xor", 0.95)])
def test_it_says_and_and_xor(evidence, structure, least, names):
    fusion = fitted(evidence(structure, names=names), val=evidence(structure, 300, 1, names))
    assert accuracy(fusion, evidence(structure, 1000, 2, names)) > least


def test_one_modality_is_enough(evidence):
    assert accuracy(fitted(evidence("first", names=("text",))), evidence("first", 1000, 2, ("text",))) > 0.97


def test_it_falls_back_on_the_part_that_is_there(evidence):
    new = evidence("first", 1000, 2)
    fusion = fitted(evidence("first"))
    assert accuracy(fusion, {**new, "image": new["image"].without()}) > 0.97
    guess = fusion({**new, "text": new["text"].without()}).softmax(dim=1)
    assert bool(guess.isfinite().all()) and 0.35 < guess[:, 1].mean() < 0.65


def test_seeds_and_grid_points_together_are_those_one_by_one(evidence):
    rows, val = evidence("and", 200), evidence("and", 100, 1)
    few = {"epochs": 3, "weight_decays": [0.1]}
    many = fitted(rows, val, (3, 4), learning_rates=[1e-6, 1e-3], **few)
    assert many.trained.grid_point == (1e-3, 0.1)
    for seed, member in zip((3, 4), many.member_logits(val), strict=True):
        alone = fitted(rows, val, (seed,), learning_rates=[1e-3], **few)
        torch.testing.assert_close(alone.member_logits(val)[0], member, atol=1e-5, rtol=1e-5)


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


def test_without_the_additive_terms_it_cannot_say_and(evidence, monkeypatch):
    """With the biases held at 0, both bits off look like both bits on."""
    monkeypatch.setattr("torch.nn.init.ones_", lambda bias: torch.nn.init.zeros_(bias).requires_grad_(False))
    assert accuracy(fitted(evidence("and"), val=evidence("and", 300, 1)), evidence("and", 1000, 2)) < 0.85


def test_it_has_no_weights_to_show(evidence):
    rows = evidence("and", 200)
    assert fitted(rows, epochs=1).explain(rows) == {}


@pytest.mark.parametrize("option", [{"width": 0}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'hadamard'"):
        Hadamard(**option)
