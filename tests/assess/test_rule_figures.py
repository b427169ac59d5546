"""The figure that was asked for is counted on tested rows by whole groups, at the policy's base rate."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk
from tests.assess.test_predictions import opinions, plain

from bifocal.assess.rule_figures import measure_rule
from bifocal.config import ReviewConfig, ThresholdConfig
from bifocal.decide.policy import Band, Change, Expected, PatternPolicy
from bifocal.evaluate.compare import Resampling

RESAMPLING = Resampling("auroc", 200, 0)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    p = rng.random(400)
    return (rng.random(400) < p).astype(int), p


def measured(rows, policy=None, **changed):
    y, p = rows
    policy = (policy or plain("text")).model_copy(update=changed)
    return measure_rule(opinions(y, text=p), policy, "text", RESAMPLING)


@pytest.mark.parametrize(
    ("rule", "figure", "value"),
    [
        ({"by": "f1"}, "f1", sk.f1_score),
        ({"by": "macro_f1"}, "macro_f1", lambda y, flags: sk.f1_score(y, flags, average="macro")),
        ({"by": "f_beta", "beta": 0.5}, "f_beta", lambda y, flags: sk.fbeta_score(y, flags, beta=0.5)),
        ({"by": "precision", "bound": 0.7}, "precision", sk.precision_score),
        ({"by": "recall", "bound": 0.7}, "recall", sk.recall_score),
        ({"by": "fpr", "bound": 0.2}, "fpr", lambda y, flags: flags[y == 0].mean()),
        ({"by": "capacity", "bound": 0.2}, "flagged", lambda y, flags: flags.mean()),
        ({"by": "cost", "costs": {"false_positive": 2}}, "cost", lambda y, f: np.mean(2 * (f > y) + (f < y))),
    ],
)
def test_it_is_the_figure_of_the_rule_beside_what_was_asked_and_expected(rows, rule, figure, value):
    rule = ThresholdConfig(**rule)
    (found,) = measured(rows, rule=rule, expected={figure: Expected(value=0.5, low=0.4, high=0.6)})
    y, p = rows
    assert (found["of"], found["figure"]) == ("threshold", figure)
    assert found["value"] == pytest.approx(value(y, (p >= 0.5).astype(int)))
    assert found["low"] < found["value"] < found["high"] < found["low"] + 0.25
    asked = (rule.bound, None) if rule.by in ("precision", "recall") else (None, rule.bound)
    assert (found["at_least"], found["at_most"]) == asked
    assert found["expected"] == {"value": 0.5, "low": 0.4, "high": 0.6}


def test_copies_of_a_group_count_once_and_a_rate_of_none_may_yet_be_more(rows):
    y, p = (np.repeat(part, 4) for part in rows)
    rule = ThresholdConfig(by="fpr", bound=0.2)
    policy = plain("text").model_copy(update={"rule": rule})
    copies = replace(opinions(y, text=p), groups=tuple(str(i // 4) for i in range(len(y))))
    (one,), (four,) = measured(rows, rule=rule), measure_rule(copies, policy, "text", RESAMPLING)
    assert four["value"] == one["value"]
    assert four["high"] - four["low"] == pytest.approx(one["high"] - one["low"], rel=0.2)
    (none,) = measured(([0] * 30 + [1] * 30, [0.1] * 30 + [0.9] * 30), rule=rule)
    assert none["value"] == none["low"] == 0 and 0.03 < none["high"] < 0.15


def test_a_share_is_that_at_the_base_rate(rows):
    y, p = rows
    (found,) = measured(rows, rule=ThresholdConfig(by="precision", bound=0.1), base_rate=(0.9, 0.1))
    flags, weights = p >= 0.5, np.where(y == 1, 0.1 / y.mean(), 0.9 / (1 - y.mean()))
    assert found["value"] == pytest.approx(weights[flags] @ y[flags] / weights[flags].sum(), rel=0.01)


def test_the_review_band_is_told_by_the_errors_that_no_person_sees(rows):
    policy = plain("text")
    band = Band(allow_below=0.2, block_from=0.9, positives=200, negatives=200)
    models = {"text": policy.models["text"].model_copy(update={"band": band})}
    by_hand = Change(date="", by="Ada", why="so", model="text", pattern="pooled", before=0.4, after=0.5, version="")
    review = ReviewConfig(fnr=0.1, fpr=0.02)
    allowed, blocked = measured(rows, policy, models=models, review=review, changes=(by_hand,))
    y, p = rows
    assert (allowed["of"], allowed["figure"], allowed["at_most"]) == ("review", "fnr", 0.1)
    assert allowed["value"] == pytest.approx((p[y == 1] < 0.2).mean())
    assert (blocked["figure"], blocked["value"]) == ("fpr", pytest.approx((p[y == 0] >= 0.9).mean()))
    only = measured(rows, policy, models=models, review=ReviewConfig(fpr=0.02))
    assert [(found["of"], found["figure"]) for found in only] == [("threshold", "f1"), ("review", "fpr")]


def test_where_nothing_can_be_counted_there_is_no_figure(rows):
    y, p = rows
    (found,) = measured((y, p / 4), rule=ThresholdConfig(by="precision", bound=0.5))
    assert np.isnan([found["value"], found["low"], found["high"]]).all()
    silent = opinions(y, text=p, has={"text": np.zeros(len(y))})
    assert measure_rule(silent, plain("text"), "text", RESAMPLING) == []
    assert measured(rows, classes=(0, 1, 2)) == []


def test_where_patterns_have_other_rules_only_the_rows_of_the_pooled_threshold_are_measured(rows):
    y, p = rows
    pooled, rule = plain("text").models["text"], ThresholdConfig(by="fpr", bound=0.2)
    own = PatternPolicy(calibration=pooled.calibration, threshold=0.95, n=200)
    change = Change(date="", by="Ada", why="so", model="text", pattern="text", before=0.5, after=0.95, version="")
    found_by = change.model_copy(update={"pattern": "pooled", "rule": rule})

    def figures(*changes, patterns=("text",)):
        model = pooled.model_copy(update={"patterns": dict.fromkeys(patterns, own)})
        expected = {name: Expected(value=0.5, low=0.4, high=0.6) for name in ("f1", "fpr")}
        policy = plain("text").model_copy(update={"models": {"text": model}, "changes": changes, "expected": expected})
        return measure_rule(opinions(y, patterns=["text", "image+text"] * 200, text=p), policy, "text", RESAMPLING)

    (one_rule,) = figures()
    assert "rows" not in one_rule and one_rule["expected"]
    assert one_rule["value"] == pytest.approx(sk.f1_score(y, p >= np.tile([0.95, 0.5], 200)))
    for changes, figure in (
        ((change,), sk.f1_score(y[1::2], p[1::2] >= 0.5)),
        ((found_by,), (p[1::2] >= 0.5)[y[1::2] == 0].mean()),
    ):
        (found,) = figures(*changes)
        assert found["value"] == pytest.approx(figure) and (found["rows"], found["expected"]) == (200, None)
        assert found["low"] < found["value"] < found["high"]
    assert figures(found_by, patterns=("text", "image+text")) == []  # the pooled threshold decides no row
