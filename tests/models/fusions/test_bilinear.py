"""Known answers: the factors are a full outer product under a low-rank tensor, and it says AND and XOR."""

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.fusions.bilinear import Bilinear, BilinearHead

FAST = {"width": 32, "learning_rates": [1e-2], "weight_decays": [0.01], "epochs": 15}


def fitted(rows, val=None, seeds=(0, 1), **options):
    return Bilinear(**FAST | options).fit(rows, next(iter(rows.values())).labels, seeds=seeds, val=val)


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


def test_it_is_a_full_outer_product_under_a_tensor_of_low_rank():
    """Its tensor, written out for all columns of three parts and the constants, gives the same logits."""
    torch.manual_seed(0)
    dims = {"a": 3, "b": 4, "c": 2}
    head = BilinearHead(dims, 2, width=5, rank=2, dropout=0.0)
    inputs = {name: torch.randn(6, d) for name, d in dims.items()}
    a, b, c = (torch.cat([f.weight, f.bias.unsqueeze(1)], dim=1).unflatten(0, (2, 5)) for f in head.factors)
    tensor = torch.einsum("r,rwi,rwj,rwk->wijk", head.mix.flatten(), a, b, c)
    x, y, z = (torch.cat([value, torch.ones(6, 1)], dim=1) for value in inputs.values())
    fused = torch.einsum("wijk,ni,nj,nk->nw", tensor, x, y, z) + head.bias
    torch.testing.assert_close(head(inputs, {}), head.out(fused), atol=1e-5, rtol=1e-5)


def test_without_the_additive_terms_it_cannot_say_and(evidence, monkeypatch):
    """With the constants held at 0, both bits off look like both bits on."""
    monkeypatch.setattr("torch.nn.init.ones_", lambda bias: torch.nn.init.zeros_(bias).requires_grad_(False))
    assert accuracy(fitted(evidence("and"), val=evidence("and", 300, 1)), evidence("and", 1000, 2)) < 0.85


def test_it_grows_with_the_sum_of_the_widths_not_with_their_product():
    sizes = [sum(p.numel() for p in BilinearHead({"a": d, "b": d}, 2, 8, 4, 0.0).parameters()) for d in (50, 100, 150)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 2 * 50 * 8 * 4


def test_it_has_no_weights_to_show(evidence):
    rows = evidence("and", 200)
    assert fitted(rows, epochs=1).explain(rows) == {}


@pytest.mark.parametrize("option", [{"width": 0}, {"rank": 0}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'bilinear'"):
        Bilinear(**option)
