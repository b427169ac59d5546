"""Known answers: of two modalities it is the bimodal unit, its gates are shares, and it says AND and XOR."""

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.fusions.gated import Gated, GatedHead


@pytest.fixture
def kind():
    return Gated


def test_of_two_modalities_it_is_the_bimodal_unit():
    """``h = z * tanh(H_1 x_1) + (1 - z) * tanh(H_2 x_2)`` with a sigmoid for z."""
    torch.manual_seed(0)
    head = GatedHead({"a": 3, "b": 2}, 2, width=4, dropout=0.0)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    first, second = head.gate({"a": x, "b": y}).split(4, dim=1)
    z = torch.sigmoid(first - second)
    fused = z * head.hidden[0](x).tanh() + (1 - z) * head.hidden[1](y).tanh()
    there = torch.ones(5, dtype=torch.bool)
    torch.testing.assert_close(head({"a": x, "b": y}, {"a": there, "b": there}), head.out(fused))


def test_gates_are_shares_of_the_parts_that_a_row_has(evidence, fitted):
    rows = evidence("and", 200, names=("text", "image", "tabular"))
    fusion = fitted(rows, epochs=3)
    weights = fusion.explain({**rows, "image": rows["image"].without()})
    assert list(weights) == list(rows) and bool((weights["image"] == 0).all())
    torch.testing.assert_close(weights["text"] + weights["tabular"], torch.ones(200))
    assert weights["text"].std() > 0  # gates belong to rows
    nothing = fusion.explain({name: e.without() for name, e in rows.items()})
    assert all(bool((w == 0).all()) for w in nothing.values())


def test_the_gates_shown_are_those_of_all_seeds(evidence, fitted):
    rows = evidence("and", 200)
    both, *single = (fitted(rows, seeds=seeds, epochs=2).explain(rows)["text"] for seeds in [(0, 1), (0,), (1,)])
    torch.testing.assert_close(both, torch.stack(single).mean(dim=0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*single, atol=1e-3)


@pytest.mark.parametrize("option", [{"widths": [0]}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'gated'"):
        Gated(**option)
