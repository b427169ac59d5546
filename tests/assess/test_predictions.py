"""What models say of rows, and how it is measured, on opinions made by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from bifocal.assess.predictions import (
    Predictions,
    blanked,
    calibrated,
    column,
    confusion,
    example_row,
    gains_over_experts,
    measure_class_shares,
    measure_models,
    pattern_predictions,
    prior,
    seed_spread,
    write_error_table,
)
from bifocal.decide.calibration_methods import Temperature
from bifocal.decide.policy import ModelPolicy, PatternPolicy, Policy
from bifocal.evaluate.compare import Resampling
from bifocal.example import LABELS, UNLABELLED, Evidence

EXPERTS = {"text": "text_expert", "image": "vision_expert"}
BINARY = LABELS["abuse_hate"]


def evidence(margins, present, labels=None):
    """Evidence whose logits are (0, margin)."""
    n = len(margins)
    logits = torch.stack([torch.zeros(n), torch.tensor(margins, dtype=torch.float32)], 1)
    return Evidence(
        ids=tuple(f"row{i}" for i in range(n)),
        groups=tuple(f"g{i}" for i in range(n)),
        features=torch.zeros(n, 2),
        logits=logits,
        present=torch.tensor(present, dtype=torch.bool),
        labels=torch.tensor(labels if labels is not None else [0] * n),
        seen=torch.zeros(n, dtype=torch.bool),
    )


def total(rows):
    """A fusion: the sum of the logits of the parts that are there."""
    return sum(e.logits * e.present[:, None] for e in rows.values())


@pytest.fixture
def pair():
    """Rows with both parts, text alone, image alone, neither."""
    labels = [1, 0, 1, 0]
    return {
        "text": evidence([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0], labels),
        "image": evidence([10.0, 20.0, 30.0, 40.0], [1, 0, 1, 0], labels),
    }


def policy(**models):
    """A policy of `ModelPolicy` by model."""
    return Policy(
        run="r",
        label="abuse_hate",
        classes=(0, 1),
        probability_key="prob_hate",
        in_sample=False,
        approximate=True,
        versions={},
        models=models,
    )


def plain(*models):
    return policy(**{model: ModelPolicy(calibration=Temperature(temperature=1), threshold=0.5) for model in models})


def opinions(labels, *, has=None, patterns=None, **probabilities):
    """Those whose softmax is the probabilities given; ``has`` and ``patterns`` by default as if all were there."""
    labels = np.asarray(labels)
    n = len(labels)
    p = {model: np.asarray(values, dtype=float) for model, values in probabilities.items()}
    logits = {model: np.log(np.stack([1 - values, values], 1)) for model, values in p.items()}
    here = {model: np.ones(n, bool) for model in p} | {m: np.asarray(rows, bool) for m, rows in (has or {}).items()}
    rows = tuple(f"row{i}" for i in range(n))
    return Predictions(rows, rows, labels, logits, here, list(patterns or ["image+text"] * n))


# ------------------------------------------------------------------ gathering


def test_opinions_say_who_speaks_on_which_row(pair):
    said = Predictions.gather(pair, EXPERTS, total, "mm_fusion")
    assert said.ids == ("row0", "row1", "row2", "row3") and said.groups[1] == "g1"
    assert said.labels.tolist() == [1, 0, 1, 0]
    assert list(said.logits) == list(said.has) == ["text_expert", "vision_expert", "mm_fusion"]
    assert said.has["text_expert"].tolist() == [True, True, False, False]
    assert said.has["vision_expert"].tolist() == [True, False, True, False]
    assert said.has["mm_fusion"].tolist() == [True, True, True, False]
    assert said.patterns == ["image+text", "text", "image", ""]
    assert said.logits["vision_expert"][:, 1].tolist() == [10, 20, 30, 40]
    assert said.logits["mm_fusion"][:, 1].tolist() == [11, 2, 30, 0]


def test_without_a_fusion_only_the_expert_speaks(pair):
    said = Predictions.gather({"text": pair["text"]}, EXPERTS, None, "mm_fusion")
    assert list(said.logits) == ["text_expert"] and said.patterns == ["text", "text", "", ""]


def test_blanking_keeps_the_rows_that_have_the_parts_and_hides_the_others(pair):
    left = blanked(pair, ["text"])
    assert left["text"].ids == left["image"].ids == ("row0", "row1")
    assert left["text"].present.tolist() == [True, True] and left["image"].present.tolist() == [False, False]
    both = blanked(pair, ["image", "text"])
    assert both["text"].ids == ("row0",) and both["image"].present.tolist() == [True]
    assert pair["image"].present.tolist() == [True, False, True, False]


def test_the_fusion_is_heard_on_every_set_of_parts(pair):
    said = pattern_predictions(pair, EXPERTS, total, "mm_fusion")
    assert {name: (logits[:, 1].tolist(), labels.tolist()) for name, (logits, labels) in said.items()} == {
        "image": ([10, 30], [1, 1]),
        "text": ([1, 2], [1, 0]),
        "image+text": ([11], [1]),
    }


# ------------------------------------------------------------------ deciding


def test_each_row_is_calibrated_by_the_parts_it_brings():
    patterns = {
        "text": PatternPolicy(calibration=Temperature(temperature=2), threshold=0.6, n=200),
        "image": PatternPolicy(calibration=Temperature(temperature=0.5), threshold=0.97, n=200),
    }
    rules = policy(mm_fusion=ModelPolicy(calibration=Temperature(temperature=1), threshold=0.7, patterns=patterns))
    odds = np.log(0.8 / 0.2)
    said = opinions([1, 1, 1, 1], patterns=["text", "image+text", "image", ""], mm_fusion=[0.8] * 4)
    said.has["mm_fusion"][3] = False
    probabilities, predictions = calibrated(said, rules, "mm_fusion")
    expected = [1 / (1 + np.exp(-odds / 2)), 0.8, 1 / (1 + np.exp(-odds / 0.5))]
    assert probabilities[:3, 1] == pytest.approx(expected)
    assert np.isnan(probabilities[3]).all()
    assert predictions[:3].tolist() == [1, 1, 0]


def test_the_prior_is_the_share_of_each_class_among_the_labelled():
    assert prior(np.array([0, 0, 0, 1, -1, -1]), 3).tolist() == [0.75, 0.25, 0]


def test_confusion_counts_each_kind_once():
    labels, predictions = np.array([1] * 5 + [0] * 10), np.array([1, 0, 0, 0, 0] + [1, 1] + [0] * 8)
    assert confusion(labels, predictions) == {"tp": 1, "fn": 4, "fp": 2, "tn": 8}


def test_columns_are_named_after_their_models():
    assert [column(m) for m in ("text_expert", "vision_expert", "mm_fusion")] == ["text", "vision", "fusion"]


def test_the_row_to_show_is_the_first_flagged_rightly():
    rules = plain("mm_fusion")
    assert example_row(opinions([0, 0, 1, 1], mm_fusion=[0.9, 0.1, 0.2, 0.8]), rules, "mm_fusion") == 3
    assert example_row(opinions([0, 1], mm_fusion=[0.9, 0.1]), rules, "mm_fusion") == 0


# ------------------------------------------------------------------ measuring

RESAMPLING = Resampling("auroc", 100)
HALF = np.array([0.5, 0.5])


def test_the_gain_is_the_least_of_those_over_every_expert_on_the_tested_rows():
    """On val the text expert is perfect and the vision expert wrong, on test it is the other way round."""
    labels = [0, 0, 0, 1, 1, 1] * 4
    right, wrong = np.where(np.array(labels) == 1, 0.8, 0.3), np.where(np.array(labels) == 1, 0.3, 0.8)
    tuned = opinions(labels, text_expert=right, vision_expert=wrong, mm_fusion=wrong)
    tested = opinions(labels, text_expert=wrong, vision_expert=right, mm_fusion=right)
    rules = plain("text_expert", "vision_expert", "mm_fusion")
    gain, gains = gains_over_experts(tuned, tested, rules, "mm_fusion", HALF, RESAMPLING)
    assert gain["over"] == "vision_expert" and gain["value"] == pytest.approx(0.0)
    assert gain["chosen_on"] == {"text_expert": 1.0, "vision_expert": 0.0}
    assert {expert: over["value"] for expert, over in gains.items()} == {"text_expert": 1.0, "vision_expert": 0.0}
    assert gain["metric"] == "auroc" and gain["n"] == 24 and gain["low"] <= gain["value"] <= gain["high"]


def test_the_gain_is_negative_where_the_fusion_is_worse():
    labels = [0, 1] * 12
    good = np.where(np.array(labels) == 1, 0.8, 0.3)
    said = opinions(labels, text_expert=good, mm_fusion=1 - good)
    gain, _ = gains_over_experts(said, said, plain("text_expert", "mm_fusion"), "mm_fusion", HALF, RESAMPLING)
    assert gain["over"] == "text_expert" and gain["value"] == pytest.approx(-1.0)


def test_splits_of_other_class_shares_are_told_of_and_copies_count_once():
    def split(positives, n, groups=None):
        labels = np.array([1] * positives + [0] * (n - positives))
        found = opinions(labels, mm_fusion=np.full(n, 0.5))
        return replace(found, groups=tuple(groups)) if groups else found

    even, more = split(50, 100), split(80, 100)
    found = measure_class_shares({"train": even, "test": more}, BINARY)
    assert found["differ"] and found["p"] < 1e-4
    assert found["shares"] == {"train": [0.5, 0.5], "test": pytest.approx([0.2, 0.8])}
    assert not measure_class_shares({"train": even, "test": even}, BINARY)["differ"]
    copies = split(80, 100, [str(i // 20) for i in range(100)])  # five posts, twenty times each
    assert not measure_class_shares({"train": even, "test": copies}, BINARY)["differ"]
    unlabelled = replace(more, labels=np.full(100, UNLABELLED))
    assert measure_class_shares({"train": even, "test": unlabelled}, BINARY)["p"] == 1.0


def test_an_expert_that_says_nothing_of_a_row_counts_with_the_class_shares():
    """Right on the half it speaks of, silent on the other; where most of train is positive, silence leans that way."""
    labels = np.array([0, 1] * 8)
    has = np.arange(16) < 8
    text = np.where(labels == 1, 0.9, 0.1)
    said = opinions(labels, has={"text_expert": has}, text_expert=text, mm_fusion=text)
    rules = plain("text_expert", "mm_fusion")
    shares = np.array([0.05, 0.95])
    gain, _ = gains_over_experts(said, said, rules, "mm_fusion", shares, RESAMPLING)
    # All 8 positives beat the 4 negatives at 0.1; of the 4 negatives at 0.95 none is beaten, the silent 4 tie.
    expected = (8 * 4 + 4 * 4 / 2) / 64
    assert gain["chosen_on"] == {"text_expert": pytest.approx(expected)}
    assert gain["value"] == pytest.approx(1 - expected)


def test_every_model_is_measured_on_every_split_and_the_majority_beside_them():
    labels = np.array([0] * 12 + [1] * 8)
    p = np.where(labels == 1, 0.6, 0.2)
    p[0], p[-1] = 0.65, 0.4
    has = np.ones(20, bool)
    has[5] = False
    said = opinions(labels, has={"text_expert": has}, text_expert=p, mm_fusion=p)
    rules = policy(
        text_expert=ModelPolicy(calibration=Temperature(temperature=1), threshold=0.5),
        mm_fusion=ModelPolicy(calibration=Temperature(temperature=1), threshold=0.3),
    )
    weights = {"text_expert": {"total": 7, "trained": 3}, "mm_fusion": {"total": 2, "trained": 2}}
    shares = np.array([0.6, 0.4])
    models = measure_models({"val": said, "test": said}, rules, weights, shares, "test", RESAMPLING)
    assert list(models) == ["text_expert", "mm_fusion", "majority"]
    for name, figures in models.items():
        own = set() if name == "majority" else {"threshold", "class_thresholds", "calibration"}
        assert set(figures) == {"parameters", "val", "test"} | own
        for split in ("val", "test"):
            extra = set() if name == "majority" else {"calibrated", "confusion"}
            assert {"n", "positives", "metrics"} | extra <= set(figures[split])
            assert set(figures[split]["metrics"]["auroc"]) == {"value", "low", "high"}
    text, fused, majority = (models[m]["test"] for m in models)
    assert models["text_expert"]["parameters"] == {"total": 7, "trained": 3}
    assert models["majority"]["parameters"] == {"total": 0, "trained": 0}
    assert (models["text_expert"]["threshold"], models["mm_fusion"]["threshold"]) == (0.5, 0.3)
    assert text["n"] == 19 and fused["n"] == majority["n"] == 20
    assert text["confusion"] == {"tp": 7, "fn": 1, "fp": 1, "tn": 10}
    assert fused["confusion"] == {"tp": 8, "fn": 0, "fp": 1, "tn": 11}
    accuracy = {kind: fused[kind]["accuracy"]["value"] for kind in ("metrics", "calibrated")}
    assert accuracy == {"metrics": pytest.approx(18 / 20), "calibrated": pytest.approx(19 / 20)}
    assert majority["metrics"]["accuracy"]["value"] == pytest.approx(12 / 20)
    assert majority["metrics"]["auroc"]["value"] == pytest.approx(0.5)


def test_figures_before_and_after_calibration_stand_apart():
    labels = np.array([0, 1] * 20)
    said = opinions(labels, mm_fusion=np.where(labels == 1, 0.99, 0.01))
    rules = policy(mm_fusion=ModelPolicy(calibration=Temperature(temperature=4), threshold=0.5))
    model = measure_models({"test": said}, rules, {"mm_fusion": {}}, HALF, "test", RESAMPLING)["mm_fusion"]
    figures = model["test"]
    odds = np.log(0.99 / 0.01) / 4
    assert figures["metrics"]["nll"]["value"] == pytest.approx(-np.log(0.99))
    assert figures["calibrated"]["nll"]["value"] == pytest.approx(np.log(1 + np.exp(-odds)))
    change = model["calibration"]["nll"]
    assert change["value"] == pytest.approx(figures["calibrated"]["nll"]["value"] - figures["metrics"]["nll"]["value"])
    assert change["low"] <= change["value"] <= change["high"] and set(model["calibration"]) == {"nll", "brier"}


def test_the_spread_over_seeds_is_that_of_the_members_alone():
    labels = np.array([0, 0, 1, 1])

    class Ensemble:
        def member_logits(self, _):
            margins = torch.tensor([[-1.0, -2.0, 1.0, 2.0], [1.0, -2.0, -1.0, 2.0]])
            return torch.stack([torch.zeros_like(margins), margins], -1)

    spread = seed_spread(Ensemble(), {}, labels, "auroc")
    assert spread["n"] == 2
    assert spread["auroc"]["mean"] == pytest.approx((1 + 0.75) / 2)
    assert spread["auroc"]["std"] == pytest.approx(np.std([1, 0.75], ddof=1))
    assert seed_spread(total, {}, labels, "auroc") == {}


def test_a_model_without_an_opinion_leaves_its_cells_empty(tmp_path):
    said = opinions(
        [1, 0],
        has={"text_expert": [True, False]},
        patterns=["image+text", "image"],
        text_expert=[0.2, 0.9],
        mm_fusion=[0.8, 0.6],
    )
    rules = policy(
        text_expert=ModelPolicy(calibration=Temperature(temperature=1), threshold=0.5),
        mm_fusion=ModelPolicy(
            calibration=Temperature(temperature=1),
            threshold=0.5,
            patterns={"image": PatternPolicy(calibration=Temperature(temperature=1), threshold=0.7, n=200)},
        ),
    )
    path = tmp_path / "errors.csv"
    write_error_table(path, said, ["words", ""], rules, BINARY, "test", ["text_expert", "mm_fusion"])
    with open(path, newline="") as f:
        first, second = csv.DictReader(f)
    assert (first["text_pred"], first["fusion_pred"], first["error_type"]) == ("0", "1", "TP")
    assert first["fusion_only_right"] == "1" and first["all_agree"] == "0"
    assert (second["text_prob"], second["text_pred"]) == ("", "")
    assert (second["fusion_pred"], second["error_type"]) == ("0", "TN")  # by the threshold of its own pattern
    assert float(first["fusion_prob"]) == pytest.approx(0.8)
