"""Known answers: concat says AND and XOR, and falls back on one part where the other is absent."""

from functools import cache

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.example import Evidence
from bifocal.models.fusions.concat import Concat
from bifocal.models.fusions.mean import Mean
from bifocal.models.fusions.stacking import Stacking
from bifocal.models.linear import cross_fit, fit_linear

STRUCTURES = {"and": torch.bitwise_and, "xor": torch.bitwise_xor, "redundant": lambda t, v: t}
SEEDS = (0, 1)


@cache
def evidence(structure, n, seed, spread=0.35):
    """Gaussian clusters around the bits t and v; the experts are linear heads, cross-fitted on their rows."""
    g = torch.Generator().manual_seed(seed)
    t, v = torch.randint(0, 2, (2, n), generator=g)
    if structure == "redundant":
        v = t
    labels = STRUCTURES[structure](t, v)
    ids, there = tuple(f"{seed}-{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
    result = {}
    for name, bit in (("text", t), ("image", v)):
        features = torch.randn(n, 6, generator=g) * spread
        features[:, :2] += torch.stack([bit, 1 - bit], dim=1)
        penalty = fit_linear(features, labels, ids, classes=2).penalty
        logits = cross_fit(features, labels, ids, classes=2, folds=5, seed=0, penalty=penalty)
        result[name] = Evidence(ids, ids, features, logits, there, labels, ~there)
    return result


def fitted(kind, structure, n=1200, **options):
    rows = evidence(structure, n, 0)
    val = evidence(structure, 300, 1)
    return kind(**options).fit(rows, rows["text"].labels, seeds=SEEDS, val=val)


def concat(structure, **options):
    return fitted(Concat, structure, widths=[32], learning_rates=[1e-2], weight_decays=[0.01], **options)


def accuracy(logits, rows):
    return (logits.argmax(dim=1) == rows["text"].labels).float().mean().item()


def test_and_is_better_read_from_both_parts():
    new = evidence("and", 1000, 2)
    both = accuracy(concat("and")(new), new)
    assert both > 0.95 and both > max(accuracy(e.logits, new) for e in new.values()) + 0.1


def test_xor_needs_features():
    new = evidence("xor", 1000, 2)
    assert accuracy(concat("xor")(new), new) > 0.95
    for late in (Mean, Stacking):
        assert 0.4 < accuracy(fitted(late, "xor")(new), new) < 0.6


def test_it_falls_back_on_the_part_that_is_there():
    new = evidence("redundant", 1000, 2)
    fusion = concat("redundant", epochs=10)
    for name, e in new.items():
        left = {other: x if other == name else x.without() for other, x in new.items()}
        assert accuracy(fusion(left), new) > accuracy(e.logits, new) - 0.02


def test_features_and_logits_are_chosen_by_modality():
    rows = evidence("and", 300, 1)
    fusion = Concat(epochs=1).fit(rows, rows["text"].labels, seeds=SEEDS, read={"image": "logits"})
    config, tensors = fusion.state()
    assert config["read"] == {"text": "features", "image": "logits"}
    assert tensors["weights.first.layer.weight"].shape == (2, 128, (6 + 1) + (2 + 1))


@pytest.mark.parametrize("option", [{"widths": [0]}, {"dropout": 1.0}, {"wdth": 3}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ConfigError, match="fusion 'concat'"):
        Concat(**option)


def test_it_has_no_weights_to_show():
    rows = evidence("and", 300, 1)
    assert Concat(epochs=1).fit(rows, rows["text"].labels, seeds=SEEDS).explain(rows) == {}
