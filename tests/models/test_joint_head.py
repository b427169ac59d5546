"""The co-attention head: absent parts are not looked at, weights are shares, dropout leaves every row a part."""

import pytest
import torch

from bifocal.models.joint_head import CoAttention

B, WIDTHS = 6, (5, 3, 4)


def head(modalities=3, alone=False, **changes):
    torch.manual_seed(0)
    settings = {"width": 8, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0, "alone": alone, **changes}
    return CoAttention(WIDTHS[:modalities], [True] * modalities, 2, **settings).eval()


def rows(modalities=3, seed=0):
    """Tokens of the rows that have each part; row 0 has none, row 1 the first only."""
    g = torch.Generator().manual_seed(seed)
    present = torch.rand(B, modalities, generator=g) < 0.7
    present[0], present[1] = False, torch.arange(modalities) == 0
    present[2] = True
    lengths = (4, 2, 1)
    tokens = [torch.randn(int(present[:, m].sum()), lengths[m], WIDTHS[m], generator=g) for m in range(modalities)]
    there = [torch.ones(t.shape[:2], dtype=torch.bool) for t in tokens]
    if len(there[0]) > 1:
        there[0][-1, 2:] = False
    return tokens, there, present


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_shapes_and_shares(modalities):
    tokens, there, present = rows(modalities)
    said = head(modalities, alone=True)(tokens, there, present)
    assert said.logits.shape == (B, 2) and bool(said.logits.isfinite().all())
    assert said.alone.shape == (B, modalities, 2)
    assert bool((said.weights >= 0).all()) and bool((said.weights[~present] == 0).all())
    torch.testing.assert_close(said.weights.sum(dim=1), present.any(dim=1).float())
    assert said.weights[1].tolist() == [1.0] + [0.0] * (modalities - 1)
    if modalities > 1:
        assert (said.weights[2] > 0).all() and said.weights[2].std() > 0


def test_padding_is_not_looked_at():
    tokens, there, present = rows()
    said = head()(tokens, there, present)
    tokens[0] = torch.where(there[0][..., None], tokens[0], 1e6)
    padded = head()(tokens, there, present)
    torch.testing.assert_close(padded.logits, said.logits)
    torch.testing.assert_close(padded.weights, said.weights)


def test_tokens_of_the_other_modality_change_what_is_said():
    """Logits are no sum of what each modality says: the effect of one part depends on the other."""
    model, there = head(2), torch.ones(1, 2, dtype=torch.bool)
    g = torch.Generator().manual_seed(0)
    (a, c), (b, d) = ([torch.randn(1, 2, width, generator=g) for _ in range(2)] for width in WIDTHS[:2])
    say = lambda x, y: model([x, y], [there, there], there).logits  # noqa: E731
    mixed = say(a, b) - say(a, d) - say(c, b) + say(c, d)
    assert mixed.abs().max() > 1e-4


def test_an_absent_part_is_told_from_one_of_zeros():
    model, (tokens, there, present) = head(2), rows(2)
    blank = [tokens[0], torch.zeros_like(tokens[1])]
    without = torch.stack([present[:, 0], torch.zeros(B, dtype=torch.bool)], dim=1)
    zeros, absent = model(blank, there, present), model([tokens[0], None], [there[0], None], without)
    both = present.all(dim=1)
    assert (zeros.logits - absent.logits)[both].abs().max() > 1e-3


def test_modality_dropout_leaves_every_row_a_part():
    model = head(modality_dropout=0.9).train()
    present = rows()[2].repeat(200, 1)
    stays = model._stays(present)
    assert torch.equal(stays.any(dim=1), present.any(dim=1))
    assert not (stays & ~present).any()
    many = present.sum(dim=1) == 3
    assert stays[many].float().mean() < 0.5
    assert torch.equal(model.eval()._stays(present), present)


def test_heads_of_single_modalities_reach_below_unless_detached():
    for detach in (False, True):
        model, (tokens, there, present) = head(alone=True), rows()
        model(tokens, there, present, detach=detach).alone.square().sum().backward()
        assert model.alone[0].weight.grad.abs().sum() > 0
        assert (model.projections[0][1].weight.grad is None) is detach
