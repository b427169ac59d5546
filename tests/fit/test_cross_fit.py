"""Cross-fitted Predictions are of rows that nothing behind them has seen, and their settings give what is deployed."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from bifocal import plugins
from bifocal.config import FusionConfig
from bifocal.errors import ConfigError, DataError
from bifocal.example import UNLABELLED, Evidence
from bifocal.fit.cross_fit import cross_fit_fusion, cross_fits
from bifocal.fit.fusion import fit_fusion

FAST = {"epochs": 4, "widths": [8], "learning_rates": [1e-2, 1e-3], "weight_decays": [0.01]}


def evidence(n=80, seed=0):
    """Two rows to a group, which bear the same features and labels."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) // 2) % 2
    ids, groups = tuple(f"{seed}-{i}" for i in range(n)), tuple(f"{seed}-{i // 2}" for i in range(n))
    nothing = torch.zeros(n, dtype=torch.bool)
    result = {}
    for name in ("text", "image"):
        x = torch.randn(n // 2, 4, generator=g).repeat_interleave(2, dim=0)
        logits = x[:, :2] + functional.one_hot(labels, 2)
        result[name] = Evidence(ids, groups, x, logits, ~nothing, labels, nothing)
    return result


def config(**settings):
    return FusionConfig(**{"strategy": "concat", "seeds": 2, "folds": 4, "options": FAST} | settings)


def test_groups_stay_whole_and_every_pattern_is_heard():
    rows = evidence()
    found = cross_fit_fusion(config(), rows, seed=0)
    assert found.ids == rows["text"].ids and found.groups == rows["text"].groups
    assert torch.equal(found.fold[::2], found.fold[1::2]) and sorted(set(found.fold.tolist())) == [0, 1, 2, 3]
    assert list(found.patterns) == ["image", "text", "image+text"]
    assert torch.equal(found.patterns["image+text"], found.logits)
    assert not torch.allclose(found.patterns["text"], found.logits, atol=1e-3)
    torch.testing.assert_close(
        found.losses(), functional.cross_entropy(found.logits.double(), found.labels, reduction="none")
    )


def test_twins_say_nothing_of_each_other():
    """Features are noise and every row has a twin: who learned from the twin would know the label."""
    rows = evidence(200)
    labels = torch.randint(0, 2, (100,), generator=torch.Generator().manual_seed(3)).repeat_interleave(2)
    noise = {m: replace(e, labels=labels, logits=torch.zeros(200, 2)) for m, e in rows.items()}
    wide = {"epochs": 20, "widths": [64], "learning_rates": [1e-2]}
    right = (cross_fit_fusion(config(options=wide), noise, seed=0).logits.argmax(dim=1) == labels).float().mean()
    assert right < 0.62
    single = {m: replace(e, groups=e.ids) for m, e in noise.items()}
    assert (cross_fit_fusion(config(options=wide), single, seed=0).logits.argmax(dim=1) == labels).float().mean() > 0.7


def test_rows_without_annotation_are_left_out():
    rows = evidence()
    labels = rows["text"].labels.clone()
    labels[:20] = UNLABELLED
    marked = {m: replace(e, labels=labels) for m, e in rows.items()}
    kept = {m: e.take(range(20, 80)) for m, e in rows.items()}
    first, second = (cross_fit_fusion(config(), some, seed=0) for some in (marked, kept))
    assert torch.equal(first.logits, second.logits) and first.ids == rows["text"].ids[20:]


def test_the_settings_are_those_that_a_plain_fit_takes():
    rows = evidence()
    found = cross_fit_fusion(config(read={"image": "logits"}), rows, seed=5)
    assert found.config.read == {"image": "logits"} and found.config.strategy == "concat"
    assert len(found.config.options["learning_rates"]) == 1 and found.config.options["epochs"] <= 4
    fusion = fit_fusion(found.config, rows, val=None, seed=5)
    assert fusion.trained.grid_point[0] == found.config.options["learning_rates"][0]
    again = cross_fit_fusion(config(read={"image": "logits"}), rows, seed=5)
    assert torch.equal(again.logits, found.logits) and again.config == found.config


def test_rule_3_holds_here_too():
    rows = evidence()
    tainted = {**rows, "image": replace(rows["image"], seen=torch.arange(80) == 4)}
    with pytest.raises(DataError, match="image on 1 of 80"):
        cross_fit_fusion(config(), tainted, seed=0)
    assert len(cross_fit_fusion(config(strategy="mean", options={}), tainted, seed=0, in_sample=True).ids) == 80


def test_what_cannot_be_cross_fitted_is_refused():
    joint = [name for name in plugins.names("fusions") if plugins.load("fusions", name).reads == "tokens"]
    assert joint == ["cross_attention", "last_layers", "lora"]
    assert not any(cross_fits(FusionConfig(strategy=name)) for name in joint) and cross_fits(config())
    with pytest.raises(ConfigError, match=r"cross_attention cannot be cross-fitted.*decide.on: val"):
        cross_fit_fusion(FusionConfig(strategy="cross_attention"), evidence(), seed=0)
    rows = evidence()
    one = {m: replace(e, groups=("same",) * 80) for m, e in rows.items()}
    with pytest.raises(DataError, match="at least two groups"):
        cross_fit_fusion(config(), one, seed=0)
