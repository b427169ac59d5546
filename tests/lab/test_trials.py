"""What a trial hears and counts: rows that may be used, absent parts, the control, the cost of one seed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bifocal.config import FusionConfig
from bifocal.decide.calibration import softmax
from bifocal.errors import DataError
from bifocal.evaluate.compare import Resampling
from bifocal.example import Evidence
from bifocal.lab.trials import (
    ExpertFacts,
    Study,
    Trial,
    best,
    fit_head_trial,
    fit_trial,
    for_strategy,
    hear_expert,
    smallest_tie,
)
from bifocal.lab.usable_rows import check_splits, log_prior, usable

QUICK = FusionConfig(seeds=2, options={"epochs": 2, "widths": [4], "learning_rates": [1e-2], "weight_decays": [0.01]})
EXPERTS = {
    "a": ExpertFacts("a_expert", {"total": 100, "trained": 10}),
    "b": ExpertFacts("b_expert", {"total": 1000, "trained": 20}),
}


def study(splits):
    return Study(splits, QUICK, EXPERTS, Resampling("auroc", 100))


def evidence(n=60, absent=()):
    """Two modalities that tell the label with some noise; ``absent`` names rows of val and test without ``a``."""
    splits = {}
    for number, split in enumerate(("train", "val", "test")):
        g = torch.Generator().manual_seed(number)
        labels, there = torch.arange(n) % 3 % 2, torch.ones(n, dtype=torch.bool)
        ids = tuple(f"{split}-{i}" for i in range(n))
        splits[split] = {}
        for name in ("a", "b"):
            x = torch.randn(n, 3, generator=g) + labels[:, None]
            present = there.clone()
            if name == "a" and split != "train":
                present[list(absent)] = False
            logits = torch.stack([-x[:, 0], x[:, 0]], dim=1)
            splits[split][name] = Evidence(ids, ids, x, logits, present, labels.clone(), ~there)
    return splits


def test_rows_that_an_expert_was_trained_on_are_not_learned_from():
    splits = evidence()
    splits["train"]["a"] = replace(splits["train"]["a"], seen=torch.arange(60) < 20)
    splits["train"]["b"] = replace(splits["train"]["b"], seen=torch.arange(60) >= 50)
    for parts in splits.values():
        for e in parts.values():
            e.labels[30] = -1
    kept = usable(splits)
    assert kept["train"]["a"].ids == tuple(f"train-{i}" for i in range(20, 50) if i != 30) == kept["train"]["b"].ids
    assert len(kept["val"]["a"]) == len(kept["test"]["b"]) == 59


def test_where_experts_have_seen_everything_it_says_what_to_do():
    splits = evidence()
    splits["train"]["a"] = replace(splits["train"]["a"], seen=torch.ones(60, dtype=torch.bool))
    with pytest.raises(DataError, match="'train' has no annotated row.*fusion.holdout"):
        usable(splits)


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_a_missing_split_is_named(missing):
    with pytest.raises(DataError, match=f"set splits.{missing}"):
        check_splits({"train", "val", "test"} - {missing})


def test_of_an_absent_part_every_single_modality_model_says_the_class_shares():
    splits = evidence(absent=(0, 7))
    prior = softmax(log_prior(splits))
    heard = hear_expert("expert", "expert", "a", splits, parameters=EXPERTS["a"].parameters, seconds=None)
    np.testing.assert_allclose(softmax(heard.logits["test"][[0, 7]]), [prior, prior], atol=1e-6)
    np.testing.assert_array_equal(heard.logits["test"][1], splits["test"]["a"].logits[1].double().numpy())
    head = fit_head_trial(study(splits), "a")
    np.testing.assert_allclose(softmax(head.logits["test"][[0, 7]]), [prior, prior], atol=1e-6)
    assert head.reads == ("a",)


def test_the_control_knows_nothing_of_the_other_modalities():
    splits = evidence()
    other = {
        split: {**parts, "b": replace(parts["b"], features=-parts["b"].features)} for split, parts in splits.items()
    }
    first, second = (fit_trial(study(s), "c", "control", "concat", keep="a") for s in (splits, other))
    np.testing.assert_array_equal(first.logits["test"], second.logits["test"])
    assert first.reads == ("a",)
    fused = fit_trial(study(splits), "f", "fusion", "concat")
    assert np.abs(first.logits["test"] - fused.logits["test"]).max() > 0.01
    assert first.parameters["own"] == fused.parameters["own"] == 8 * 4 + 4 + 4 * 2 + 2  # matched, of one seed


def test_cost_counts_one_seed_and_the_experts_below():
    fused = fit_trial(study(evidence()), "f", "fusion", "concat")
    counted = 2 * (3 + 3) + 2 + 1  # mean and scale of each feature, the class shares, the width that was chosen
    assert fused.parameters["total"] == 1100 + fused.parameters["own"] + counted
    assert fused.parameters["trained"] == 30 + fused.parameters["own"]
    assert fused.members["val"].shape == (2, 60, 2) and fused.seconds > 0
    expert = hear_expert("a", "expert", "a", evidence(), parameters=EXPERTS["a"].parameters, seconds=None)
    assert expert.parameters == {"total": 100, "trained": 10, "own": 0}


def test_a_strategy_gets_the_options_that_it_knows():
    assert for_strategy(QUICK, "stacking").options == {}
    settings = for_strategy(QUICK.model_copy(update={"read": {"a": "logits"}}), "concat")
    assert settings.options["widths"] == [4] and settings.read == {} and settings.seeds == 2


def said(name, z, own):
    logits = {"val": np.stack([-z, z], 1), "test": np.stack([-z, z], 1)}
    return Trial(name, "fusion", ("a", "b"), logits, {}, {"total": own, "trained": own, "own": own}, 0.0, 1.0)


def test_the_smaller_of_equals_is_the_best():
    y = np.arange(40) % 2
    large, small, wrong = said("large", y - 0.5, 9), said("small", 2 * (y - 0.5), 3), said("wrong", 0.5 - y, 0)
    assert best([large, small, wrong], y, "auroc").name == "small"


def test_the_smallest_that_ties_is_within_the_margin_for_sure():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    z = y + rng.normal(0, 0.5, 600)
    f = said("f", z, 90)
    as_good, worse = said("as good", z + rng.normal(0, 0.01, 600), 5), said("worse", z + rng.normal(0, 0.5, 600), 1)
    resampling = Resampling("auroc", 100)
    assert smallest_tie(f, [f, as_good, worse], y, range(600), resampling).name == "as good"
    assert smallest_tie(f, [f, worse], y, range(600), resampling).name == "f"
