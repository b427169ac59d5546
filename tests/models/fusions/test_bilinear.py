"""Known answers: the factors are a full outer product under a low-rank tensor, and it says AND and XOR."""

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.fusions.bilinear import Bilinear, BilinearHead


@pytest.fixture
def kind():
    return Bilinear


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


def test_without_the_additive_terms_it_cannot_say_and(evidence, monkeypatch, fitted, accuracy):
    """With the constants held at 0, both bits off look like both bits on."""
    monkeypatch.setattr("torch.nn.init.ones_", lambda bias: torch.nn.init.zeros_(bias).requires_grad_(False))
    assert accuracy(fitted(evidence("and"), val=evidence("and", 300, 1)), evidence("and", 1000, 2)) < 0.85


def test_it_grows_with_the_sum_of_the_widths_not_with_their_product():
    sizes = [sum(p.numel() for p in BilinearHead({"a": d, "b": d}, 2, 8, 4, 0.0).parameters()) for d in (50, 100, 150)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 2 * 50 * 8 * 4


def test_it_has_no_weights_to_show(evidence, fitted):
    rows = evidence("and", 200)
    assert fitted(rows, epochs=1).explain(rows) == {}


@pytest.mark.parametrize("option", [{"widths": [0]}, {"rank": 0}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'bilinear'"):
        Bilinear(**option)
