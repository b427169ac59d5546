"""Losses of single modalities, OGM-GE's coefficients, and that gradients are scaled by exactly these."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bifocal.example import Evidence
from bifocal.models.finetune import history
from bifocal.models.joint_head import CoAttention
from bifocal.models.joint_tokens import TokenSource
from bifocal.models.joint_trainer import (
    OWN,
    JointBatches,
    JointModel,
    JointTrainer,
    TuningOptions,
    alone_loss,
    coefficients,
    mean_scores,
    modulate,
)


def test_the_stronger_modality_is_scaled_by_the_papers_formula():
    k = coefficients(torch.tensor([0.9, 0.6]), alpha=0.3)
    assert k.tolist() == pytest.approx([1 - math.tanh(0.3 * 0.9 / 0.6), 1.0])
    assert coefficients(torch.tensor([0.5, 0.5]), alpha=0.3).tolist() == [1.0, 1.0]


def test_of_three_each_is_held_against_the_mean_of_the_others():
    k = coefficients(torch.tensor([0.9, 0.7, 0.3]), alpha=0.5)
    assert k.tolist() == pytest.approx([1 - math.tanh(0.5 * 0.9 / 0.5), 1 - math.tanh(0.5 * 0.7 / 0.6), 1.0])


def test_a_modality_that_no_row_has_is_left_out():
    assert coefficients(torch.tensor([0.9, torch.nan]), alpha=0.3).tolist() == [1.0, 1.0]
    k = coefficients(torch.tensor([0.9, torch.nan, 0.6]), alpha=0.3)
    assert k.tolist() == pytest.approx([1 - math.tanh(0.3 * 1.5), 1.0, 1.0])


def test_scores_and_losses_count_the_rows_that_have_the_part():
    alone = torch.tensor([[[2.0, 0.0], [9.0, -9.0]], [[0.0, 1.0], [0.0, 0.0]]])
    labels, present = torch.tensor([0, 1]), torch.tensor([[True, False], [True, True]])
    p = alone.softmax(dim=-1)
    assert mean_scores(alone, labels, present).tolist() == pytest.approx(
        [float(p[0, 0, 0] + p[1, 0, 1]) / 2, float(p[1, 1, 1])]
    )
    expected = (cross_entropy(alone[:, 0], labels) + cross_entropy(alone[1:, 1], labels[1:])) / 2
    torch.testing.assert_close(alone_loss(alone, labels, present), expected)
    assert mean_scores(alone, labels, present & torch.tensor([True, False]))[1].isnan()


def test_noise_has_the_deviation_of_the_gradient_and_spares_the_weaker():
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(100, 100))
    gradient = torch.randn(100, 100) * 0.2 + 1
    p.grad = gradient.clone()
    modulate([p], 0.5, noise=True)
    added = p.grad - 0.5 * gradient
    assert float(added.std()) == pytest.approx(float(gradient.std()), rel=0.05)
    assert abs(float(added.mean())) < 0.01
    p.grad = gradient.clone()
    modulate([p], 1.0, noise=True)
    assert torch.equal(p.grad, gradient)


class Column(TokenSource):
    """One number of each value through a layer of its own, as one token."""

    normal, width = False, 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, self.width)

    def batch(self, part, rows, kept):
        return {"x": part.features[rows]}

    def forward(self, inputs):
        tokens = self.layer(inputs["x"]).unsqueeze(1)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)


def trainer(tmp_path, **options):
    """A model of two modalities; by heads that are set here the first is right alone, the other unsure."""
    torch.manual_seed(0)
    n = 32
    labels = torch.arange(n) % 2
    values = {"sure": labels * 2.0 - 1, "unsure": torch.randn(n)}
    ids, there = tuple(map(str, range(n))), torch.ones(n, dtype=torch.bool)
    parts = {m: Evidence(ids, ids, x.unsqueeze(1), x.unsqueeze(1), there, labels, ~there) for m, x in values.items()}
    o = TuningOptions(width=8, dropout=0.0, modality_dropout=0.0, epochs=1, **options)
    names, sources = list(values), [Column(), Column()]
    head = CoAttention([4, 4], [False] * 2, 2, width=8, heads=2, dropout=0.0, modality_dropout=0.0, alone=True)
    model = JointModel(names, sources, head, detach=not o.auxiliary)
    with torch.no_grad():
        a, b = (head.projections[0](sources[0].layer(torch.tensor([x]))) + head.embeddings[0] for x in (-1.0, 1.0))
        direction = 4 * (b - a) / (b - a).square().sum()  # to the right side by 2, on both ends
        head.alone[0].weight.copy_(torch.stack([-direction, direction]) / 2)
        head.alone[0].bias.copy_(torch.stack([direction, -direction]) @ (a + b) / 4)
        head.alone[1].weight.zero_()
        head.alone[1].bias.zero_()
    batches = JointBatches(parts, sources, [None, None], labels)
    t = JointTrainer(model, o, batches, None, seed=0, checkpoints=tmp_path)
    t.create_optimizer()
    t.current_gradient_accumulation_steps = 1  # set by the loop that is not run here
    return t, model, batches(range(n))


def gradients(t, model, batch):
    model.zero_grad()
    t.training_step(model, batch)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_of_the_stronger_modality_are_scaled_by_exactly_k(tmp_path):
    alpha = 0.4
    said = {}
    for modulation in (0.0, alpha):
        t, model, batch = trainer(tmp_path, modulation=modulation, noise=False)
        said[modulation] = gradients(t, model, batch)
        scores = t.scores
        told = t.norms[-1]
    assert scores.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5], abs=1e-3)
    k = 1 - math.tanh(alpha * float(scores[0] / scores[1]))
    assert told["coefficient.sure"] == pytest.approx(k) and told["coefficient.unsure"] == 1.0
    scaled = {"sources.0.layer.weight", "sources.0.layer.bias", "head.projections.0.1.weight"}
    assert scaled < set(said[0.0])
    for name, gradient in said[alpha].items():
        below = name.startswith(("sources.0.", "head.projections.0."))
        if "alone" not in name:
            torch.testing.assert_close(gradient, said[0.0][name] * (k if below else 1.0), atol=1e-8, rtol=1e-4)
        assert not below or gradient.abs().max() > 1e-4


def test_without_auxiliary_losses_the_single_heads_change_nothing_below(tmp_path):
    t, model, batch = trainer(tmp_path, modulation=0.1, noise=False)
    inputs = {**batch, "parts": batch["parts"]}
    gradients(t, model, inputs)
    k = t.norms[-1]["coefficient.sure"]
    plain = model.zero_grad() or cross_entropy(model(batch["parts"], batch["present"]).logits, batch["labels"])
    plain.backward()
    expected = [p.grad.clone() * k for p in model.below(0)]
    t.norms.clear()
    found = gradients(t, model, inputs)
    for (name, _), wanted in zip(
        [(n, p) for n, p in model.named_parameters() if n.startswith("sources.0.")], expected, strict=False
    ):
        torch.testing.assert_close(found[name], wanted, atol=1e-8, rtol=1e-4)


def test_auxiliary_losses_reach_below(tmp_path):
    weak, strong = (gradients(*trainer(tmp_path, auxiliary=a)) for a in (1e-9, 1.0))
    change = strong["sources.0.layer.weight"] - weak["sources.0.layer.weight"]
    assert float(change.abs().max()) > 1e-2 * float(weak["sources.0.layer.weight"].abs().max())


def test_encoders_learn_at_a_rate_of_their_own(tmp_path):
    t, model, _ = trainer(tmp_path, learning_rate=0.1, encoder_learning_rate=0.01)
    rate = {id(p): group["lr"] for group in t.optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        assert rate[id(p)] == (0.01 if name.startswith("sources.") else 0.1), name


def test_the_history_is_read_from_the_log():
    log = [
        {"loss": 0.7, "accuracy": 0.5, "macro_f1": 0.4, "grad_norm": 2.0, "grad_norm.a": 1.0, "epoch": 1.0},
        {"eval_loss": 0.6, "eval_accuracy": 0.7, "eval_macro_f1": 0.6, "eval_runtime": 3.0, "epoch": 1.0},
        {"train_runtime": 9.0, "train_loss": 0.1, "epoch": 1.0},
    ]  # fmt: skip
    assert history(log, OWN) == [
        {
            "epoch": 1, "train_loss": 0.7, "train_accuracy": 0.5, "train_macro_f1": 0.4, "grad_norm": 2.0,
            "grad_norm.a": 1.0, "val_loss": 0.6, "val_accuracy": 0.7, "val_macro_f1": 0.6,
        }
    ]  # fmt: skip
