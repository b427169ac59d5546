"""Cross-fitted Predictions are of rows that nothing behind them has seen, and their settings give what is deployed."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from bifocal import plugins
from bifocal.config import FusionConfig
from bifocal.decide.calibration import fit_temperature
from bifocal.errors import ConfigError, DataError
from bifocal.evaluate.metrics import auroc
from bifocal.example import UNLABELLED, Evidence
from bifocal.fit.cross_fit import cross_fit_fusion, cross_fits
from bifocal.fit.fusion import fit_fusion
from bifocal.models.linear import cross_fit

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


# ---------------------------------------------------------------------------------------------- what it is for


def conjunction(n, seed):
    """Noisy bits, one to a modality, whose AND is the label but for a tenth of the rows."""
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (2, n), generator=g)
    labels = ((bits[0] & bits[1]) ^ (torch.rand(n, generator=g) < 0.1)).long()
    ids, there = tuple(f"{seed}-{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
    result = {}
    for name, bit in zip(("text", "image"), bits, strict=True):
        x = torch.randn(n, 24, generator=g)
        x[:, :4] += bit[:, None]
        heard = 3 * x[:, :4].mean(dim=1) - 1.5
        result[name] = Evidence(ids, ids, x, torch.stack([-heard, heard], dim=1), there, labels, ~there)
    return result


@pytest.mark.parametrize(("strategy", "options"), [("weighted", {}), ("concat", {"learning_rates": [3e-3]})])
@pytest.mark.parametrize(("rows", "draws", "most"), [(300, 4, 0.01), (1000, 2, 0.005)])
def test_the_temperature_fits_what_is_deployed(strategy, options, rows, draws, most):
    """Fitted on members that learned from fewer rows, it costs the model of all rows next to nothing on fresh ones."""
    lost = []
    for seed in range(draws):
        given, fresh = conjunction(rows, seed), conjunction(4000, 1000 + seed)
        found = cross_fit_fusion(FusionConfig(strategy=strategy, seeds=2, options=options), given, seed=seed)
        logits = fit_fusion(found.config, given, val=None, seed=seed)(fresh).double()
        truth, own = fresh["text"].labels, fit_temperature(found.logits.numpy(), found.labels.numpy())
        best = fit_temperature(logits.numpy(), truth.numpy())
        nll = [functional.cross_entropy(logits / t, truth).item() for t in (own, best)]
        lost.append(nll[0] - nll[1])
    assert sum(lost) / draws <= most


def permuted(rows, seed):
    """Two experts' features without a signal, and labels drawn apart; logits as experts cross-fit them."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=g) < 0.3).long()
    ids, there = tuple(map(str, range(rows))), torch.ones(rows, dtype=torch.bool)
    result = {}
    for name in ("text", "image"):
        x = torch.randn(rows, 64, generator=g)
        logits = cross_fit(x, labels, ids, classes=2, folds=5, seed=seed, penalty=1e-3)
        result[name] = Evidence(ids, ids, x, logits, there, labels, ~there)
    return result


def mean_auroc(strategy, draws):
    found = []
    for seed in range(draws):
        said = cross_fit_fusion(FusionConfig(strategy=strategy, seeds=2), permuted(300, seed), seed=seed)
        found.append(auroc(said.labels.numpy(), said.logits.softmax(dim=1).numpy()))
    return sum(found) / draws


@pytest.mark.parametrize("strategy", ["mean", "weighted"])
def test_labels_that_say_nothing_are_not_learned(strategy):
    assert mean_auroc(strategy, 8) < 0.53


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mean", "weighted", "stacking"])
def test_labels_that_say_nothing_are_at_chance(strategy):
    """Over 20 draws of 300 rows the mean has a standard error of 0.01: two of them stand for chance."""
    assert mean_auroc(strategy, 20) < 0.52
