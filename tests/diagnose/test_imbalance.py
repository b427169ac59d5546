"""Fusions that adapt, collapse, over-rely or do none of it, on known bits; the rule, the levels, and mistakes."""

import json
from math import nan

import pytest
import torch

from bifocal import plugins
from bifocal.diagnose.imbalance import Rivalry, Rule, corrupted, measure_imbalance, outcome_of, with_fewer_rows
from bifocal.errors import DataError
from bifocal.evaluate.compare import Resampling
from bifocal.evaluate.intervals import Interval
from bifocal.example import Evidence

WIDTH = 9


def generated(n=400, *, seed=0, missing=0.0, structure="redundant"):
    """Evidence of text and image, of which each column says its bit in noise of its own; logits are their mean."""
    g = torch.Generator().manual_seed(seed)
    t, v = torch.randint(2, (2, n), generator=g)
    v = t if structure == "redundant" else v
    labels = t if structure == "redundant" else t & v
    ids = tuple(f"{seed}-{i}" for i in range(n))
    made = {}
    for name, bit in {"text": t, "image": v}.items():
        features = (2.0 * bit - 1).unsqueeze(1) + 0.2 * torch.randn(n, WIDTH, generator=g)
        there = torch.rand(n, generator=g) >= missing
        made[name] = Evidence(ids, ids, features, head(features), there, labels, torch.zeros(n) > 0)
    return made


def head(features):
    said = features.mean(dim=1)
    return torch.stack([-said, said], dim=1)


class Score:
    """Text and image in these shares; of the image only some columns."""

    def __init__(self, text, columns=WIDTH, sign=1.0):
        self.text, self.columns, self.sign = text, columns, sign

    def __call__(self, evidence):
        image = self.sign * head(evidence["image"].features[:, : self.columns])
        return self.text * head(evidence["text"].features) + (1 - self.text) * image


class Weighing(Score):
    """The same, and it says so."""

    def explain(self, evidence):
        there = {name: e.present.float() for name, e in evidence.items()}
        shares = {"text": self.text * there["text"], "image": (1 - self.text) * there["image"]}
        total = sum(shares.values()).clamp(min=1e-9)
        return {name: share / total for name, share in shares.items()}


def seen(train):
    """How much of the text there is in training."""
    return float(train["text"].present.float().mean())


def by_features(evidence):
    return head(evidence["image"].features)


def measured(fit, test=None, levels=None, metric="auroc", resamples=200, **changes):
    levels = with_fewer_rows(generated(seed=1), "text", (1, 0.5, 0.05)) if levels is None else levels
    rivalry = Rivalry(**{"weakened": "text", "stronger": "image", "expert": by_features} | changes)
    return measure_imbalance(
        lambda level, train: fit(train), levels, test or generated(), rivalry, Resampling(metric, resamples)
    )


def outcomes(found):
    return [row["outcome"] for row in found["levels"]]


# ------------------------------------------------------------------ the rule


def around(value, half=0.02):
    return Interval(value, value - half, value + half)


NOTHING = Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("gain", "excess", "left", "moved", "outcome"),
    [
        (around(0.05), NOTHING, around(0.05), around(0.3), "adapts"),
        (NOTHING, NOTHING, NOTHING, None, "adapts"),  # no weights to go by
        (around(-0.05), around(0.2), around(-0.2), around(0.3), "collapses"),  # the first that matches
        (around(-0.01), NOTHING, NOTHING, around(0.3), "none"),  # below, but maybe not; as good, but maybe not
        (around(0.05), around(0.1), around(-0.05), around(0.3), "over-relies"),
        (around(0.05), around(0.1), around(0.01), around(0.3), "over-relies"),  # an advantage that may be none
        (around(0.05), around(0.1), around(0.05), around(0.3), "adapts"),  # more to lose, and still better
        (around(0.05), around(0.01), around(-0.05), around(0.3), "adapts"),  # loses more, but maybe not
        (around(0.05), NOTHING, NOTHING, around(0.06), "none"),  # good, but no weight has moved for sure
        (around(0.05), NOTHING, NOTHING, around(0.03, half=0.001), "none"),  # for sure, but by too little
        (around(0.05), NOTHING, NOTHING, around(-0.3), "none"),
        (Interval(0, nan, nan), Interval(0.5, nan, nan), NOTHING, None, "none"),  # no interval, no judgement
    ],
)
def test_the_rule_names_each_outcome_and_none_of_them(gain, excess, left, moved, outcome):
    assert outcome_of(gain, excess, left, moved) == outcome


def test_every_threshold_of_the_rule_counts():
    assert outcome_of(around(-0.05), NOTHING, NOTHING, None, Rule(collapse=0.1)) == "none"
    assert outcome_of(around(-0.05), NOTHING, NOTHING, None, Rule(collapse=0.1, margin=0.1)) == "adapts"
    assert outcome_of(around(0.05), around(0.1), NOTHING, None, Rule(excess=0.1)) == "adapts"
    assert outcome_of(around(0.05), NOTHING, NOTHING, around(0.3), Rule(moved=0.3)) == "none"
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Rule(margin=-0.1)
    with pytest.raises(ValueError, match="Extra inputs"):
        Rule(colapse=0.1)


# ------------------------------------------------------------------ the levels


def test_starved_subsets_are_nested_seeded_and_of_the_right_size():
    train = generated(200, missing=0.2)
    there = train["text"].present
    levels = with_fewer_rows(train, "text", seed=3)
    assert list(levels) == [1.0, 0.5, 0.25, 0.1, 0.05]
    before = there
    for share, level in levels.items():
        present = level["text"].present
        assert not (present & ~before).any() and level["image"] is train["image"]
        assert int(present.sum()) == -(-int(there.sum()) * share // 1)  # rounded up
        assert (level["text"].features[~present] == 0).all()
        assert torch.equal(level["text"].features[present], train["text"].features[present])
        before = present
    assert torch.equal(levels[1.0]["text"].present, there)
    again, other = (with_fewer_rows(train, "text", seed=s)[0.1]["text"].present for s in (3, 4))
    assert torch.equal(again, levels[0.1]["text"].present) and not torch.equal(again, other)
    assert int(with_fewer_rows(train, "text", (1, 1e-9))[1e-9]["text"].present.sum()) == 1


def test_corrupted_levels_rise_from_clean_and_touch_nothing_else():
    train = generated(500)
    levels = corrupted(train, "text", (0, 1, 2))
    assert levels[0]["text"] is train["text"] and levels[2]["image"] is train["image"]
    added = [levels[d]["text"].features - train["text"].features for d in (1, 2)]
    assert added[1] == pytest.approx(2 * added[0], abs=1e-5) and added[0].std() > 0.9


# ------------------------------------------------------------------ fusions whose outcome is known


def test_a_fusion_whose_weight_follows_what_it_saw_adapts():
    found = measured(lambda train: Weighing(0.5 * seen(train)))
    assert outcomes(found) == [None, "adapts", "adapts"]
    assert [row["rows"] for row in found["levels"]] == [400, 200, 20]
    assert [row["weight"]["value"] for row in found["levels"]] == pytest.approx([0.5, 0.25, 0.025])
    assert found["levels"][2]["moved"]["value"] == pytest.approx(0.475) and found["metric"] == "auroc"
    assert found["levels"][0]["moved"] == {"value": 0, "low": 0, "high": 0}
    assert found["expert"]["intact"]["value"] == 1


def test_a_fusion_that_goes_on_trusting_what_it_hardly_saw_does_not_adapt():
    found = measured(lambda train: Weighing(0.5))
    assert outcomes(found) == [None, "none", "none"]
    silent = measured(lambda train: Score(0.5))
    assert outcomes(silent) == [None, "adapts", "adapts"]  # no weights: judged by its score alone
    assert silent["levels"][1]["weight"] is None and silent["levels"][1]["moved"] is None


def test_a_fusion_that_the_missing_parts_have_spoilt_collapses():
    found = measured(lambda train: Weighing(0.5 if seen(train) > 0.1 else 0.0, sign=1.0 if seen(train) > 0.1 else -1.0))
    assert outcomes(found) == [None, "none", "collapses"]
    assert found["levels"][2]["gain"]["high"] < 0


def test_a_fusion_on_one_column_of_what_is_left_over_relies():
    found = measured(lambda train: Weighing(0.5) if seen(train) == 1 else Weighing(0.0, columns=1))
    assert outcomes(found) == [None, "over-relies", "over-relies"]
    row = found["levels"][2]
    assert row["excess"]["low"] > 0.01 and row["left"]["high"] < 0 and row["intact"]["value"] == 1
    assert row["loss"]["value"] == pytest.approx(row["intact"]["value"] - row["disturbed"]["value"])
    assert row["excess"]["value"] == pytest.approx(row["loss"]["value"] - found["expert"]["loss"]["value"])


def test_a_fusion_that_knows_more_has_more_to_lose_and_does_not_over_rely():
    def both(train):
        text = seen(train)

        def score(evidence):
            p = [torch.sigmoid(3 * head(evidence[m].features)[:, 1]) for m in ("text", "image")]
            said = (p[0] * p[1]).clamp(1e-6, 1 - 1e-6)
            return torch.stack([1 - said, said], dim=1).log()

        return score if text else None

    levels = with_fewer_rows(generated(seed=1, structure="and"), "text", (1, 0.5))
    found = measured(both, generated(structure="and"), levels, deviations=3.0)
    row = found["levels"][1]
    assert row["gain"]["low"] > 0.1 and row["left"]["low"] > 0 and row["outcome"] == "adapts"


def test_an_expert_of_its_own_takes_the_place_of_the_logits():
    found = measured(lambda train: Score(0.0), expert=lambda evidence: -evidence["image"].logits)
    assert found["expert"]["intact"]["value"] == 0 and found["levels"][1]["gain"]["value"] == 1


def test_where_its_part_is_absent_the_expert_says_the_class_shares_whatever_logits_stand_there():
    test = generated(200, missing=0.5)
    gone = ~test["image"].present
    test["image"].logits[gone] = 9 * torch.nn.functional.one_hot(1 - test["image"].labels[gone], 2).float()
    found = measured(lambda train: Score(0.5), test, metric="accuracy", expert=None)
    share = float(
        (test["image"].present | (test["image"].labels == generated(seed=1)["text"].labels.mode()[0])).float().mean()
    )
    assert found["expert"]["intact"]["value"] == pytest.approx(share)


@pytest.mark.parametrize("strategy", ["concat", "gated"])
def test_fitted_fusions_take_starved_and_corrupted_evidence(strategy):
    train = generated(300, seed=1, missing=0.1)
    options = {"epochs": 3, "widths": [8], "learning_rates": [1e-2], "weight_decays": [0.01]}

    def fit(evidence):
        fusion = plugins.load("fusions", strategy)(**options)
        return fusion.fit(evidence, evidence["text"].labels, seeds=[0])

    found = measured(fit, generated(200, missing=0.1), with_fewer_rows(train, "text", (1, 0.05)), resamples=50)
    assert found["levels"][1]["rows"] == pytest.approx(0.05 * 270, abs=2)
    assert (found["levels"][1]["weight"] is None) == (strategy == "concat")  # it gives no weights
    noisy = measured(fit, generated(200), corrupted(train, "text", (0, 4)), resamples=50)
    assert found["levels"][1]["intact"]["value"] > 0.9 and noisy["levels"][1]["intact"]["value"] > 0.9
    json.dumps([found, noisy], allow_nan=False)


# ------------------------------------------------------------------ what the rows cannot tell, and mistakes


def test_one_group_and_a_constant_modality_are_findings_and_no_nan_reaches_the_table():
    test, train = generated(40), generated(seed=1)
    train["text"].features[:] = 1.0
    one = {
        name: Evidence(e.ids, ("g",) * 40, e.features, e.logits, e.present, e.labels, e.seen)
        for name, e in test.items()
    }
    found = measured(lambda train: Weighing(0.5 * seen(train)), one, with_fewer_rows(train, "text", (1, 0.5)))
    assert outcomes(found) == [None, "none"]
    said = " | ".join(found["findings"])
    assert "one group" in said and "text is the same in every training row" in said and "under 30" in said
    json.dumps(found, allow_nan=False)


def test_where_no_row_has_a_choice_there_are_no_weights():
    test = generated(80)
    test["text"] = test["text"].without()
    found = measured(lambda train: Weighing(0.5 * seen(train)), test)
    assert found["levels"][1]["weight"] is None and "no test row has text" in found["findings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weakened": "words"}, "no Evidence of 'words'; known: image, text"),
        ({"stronger": "text"}, "must read another modality; known: image, text"),
        ({"levels": {}}, "no level to train on"),
        ({"test": {m: e.take((e.labels == 1).nonzero().flatten()) for m, e in generated(60).items()}}, "of class 1"),
        ({"test": {"text": generated(40)["text"]}}, "no Evidence of 'image'"),
        ({"metric": "brier"}, "more is better"),
        ({"levels": {1.0: generated(40) | {"image": generated(40)["image"].without()}}}, "no training row has image"),
    ],
)
def test_mistakes_are_named_in_one_line(change, message):
    asked = {"test": generated(40), "levels": with_fewer_rows(generated(40), "text"), "resamples": 10} | change
    with pytest.raises(DataError, match=message) as error:
        measured(lambda train: Score(0.5), **asked)
    assert "\n" not in str(error.value)


def test_levels_that_make_no_sense_are_refused():
    train = generated(40)
    for kept in ((), (0.5, 0.1), (1, 0.1, 0.5), (1, 0), (1, 1)):
        with pytest.raises(DataError, match="fall from 1, the reference, and are above 0"):
            with_fewer_rows(train, "text", kept)
    for deviations in ((), (1, 2), (0, 2, 1)):
        with pytest.raises(DataError, match="rise from 0, the reference"):
            corrupted(train, "text", deviations)
    with pytest.raises(DataError, match="no Evidence of 'tabular'; known: image, text"):
        with_fewer_rows(train, "tabular")
    with pytest.raises(DataError, match="no training row has text"):
        corrupted({**train, "text": train["text"].without()}, "text")
