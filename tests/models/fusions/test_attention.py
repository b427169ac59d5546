"""Known answers: it is torch's scaled dot-product attention, absent parts get no weight, it says AND and XOR."""

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.fusions.attention import Attention, AttentionHead


@pytest.fixture
def kind():
    return Attention


def test_it_is_torchs_scaled_dot_product_attention():
    """One head, some parts absent: the tokens are keys and values of the learned query."""
    torch.manual_seed(0)
    head = AttentionHead({"a": 3, "b": 2, "c": 4}, 2, width=8, heads=1, dropout=0.0)
    inputs = {"a": torch.randn(5, 3), "b": torch.randn(5, 2), "c": torch.randn(5, 4)}
    present = {"a": torch.tensor([1, 1, 0, 0, 1]) > 0, "b": torch.tensor([1, 0, 1, 1, 1]) > 0, "c": torch.ones(5) > 0}
    tokens, mask = torch.stack(head.embed(inputs), dim=1), torch.stack(list(present.values()), dim=1).unsqueeze(1)
    query = head.queries.expand(5, 1, 8)
    gathered = torch.nn.functional.scaled_dot_product_attention(query, tokens, tokens, attn_mask=mask)
    torch.testing.assert_close(head(inputs, present), head.out(gathered.squeeze(1)))


def test_every_head_gathers_by_its_own_query():
    torch.manual_seed(0)
    head = AttentionHead({"a": 3, "b": 2}, 2, width=4, heads=2, dropout=0.0)
    inputs, there = {"a": torch.randn(1, 3), "b": torch.randn(1, 2)}, torch.ones(1, dtype=torch.bool)
    with torch.no_grad():  # the first query sees the first part only, the second the second
        a, b = (token[0] for token in head.embed(inputs))
        head.queries.copy_(1e4 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) @ torch.linalg.pinv(torch.stack([a, b])).T)
        expected = head.out(torch.cat([a[:2], b[2:]]))
    torch.testing.assert_close(head(inputs, {"a": there, "b": there})[0], expected)


def test_attention_is_shared_among_the_parts_that_a_row_has(evidence, fitted):
    rows = evidence("and", 200, names=("text", "image", "tabular"))
    fusion = fitted(rows, epochs=3)
    weights = fusion.explain({**rows, "image": rows["image"].without()})
    assert list(weights) == list(rows) and bool((weights["image"] == 0).all())
    torch.testing.assert_close(weights["text"] + weights["tabular"], torch.ones(200))
    assert weights["text"].std() > 0  # attention belongs to rows
    nothing = fusion.explain({name: e.without() for name, e in rows.items()})
    assert all(bool((w == 0).all()) for w in nothing.values())


@pytest.mark.parametrize("option", [{"widths": [0]}, {"heads": 0}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'attention'"):
        Attention(**option)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="width 30 must be a multiple of heads 4"):
        Attention(widths=[30])
