"""The rule clause by clause, in its order, and on the borders of its intervals."""

from dataclasses import asdict
from math import ceil, nan

import numpy as np
import pytest

from bifocal.evaluate.compare import Gains
from bifocal.evaluate.intervals import Interval
from bifocal.lab.verdict import MARGIN, Verdict, interval_of, judge, least_gain, rows_needed, sentence

HIGH = Interval(0.05, 0.03, 0.07)
NONE = Interval(0.0, -0.002, 0.002)
OPEN = Interval(0.02, -0.01, 0.05)


def judged(gain=HIGH, control=HIGH, additive=NONE, n=1000):
    return judge(Interval(*gain), Interval(*control), Interval(*additive), n=n)


def test_a_gain_that_ends_below_the_margin_is_not_worth_it():
    assert judged(gain=NONE).word == "not worth it"
    assert judged(gain=(-0.1, -0.2, -0.05)).word == "not worth it"
    assert judged(gain=(0.0, 0.0, 0.0)).word == "not worth it"  # two models that make no error at all
    named = judged(gain=(0.005, 0.002, 0.008))
    assert named.word == "not worth it" and "above 0, but under the margin" in named.reason
    assert "under the margin" not in judged(gain=NONE).reason


@pytest.mark.parametrize(("n", "word"), [(18, "undecided"), (300, "undecided"), (301, "not worth it")])
def test_rows_too_few_to_show_a_difference_do_not_show_that_there_is_none(n, word):
    nothing = (0.0, 0.0, 0.0)
    verdict = judged(gain=nothing, n=n)
    assert verdict.word == word
    assert ("an interval is not known" in verdict.reason) == (word == "undecided")
    assert judged(gain=OPEN, control=nothing, n=n).word == word
    assert judged(additive=nothing, n=n).kind == ("kind unknown" if word == "undecided" else "additive")


def test_a_gain_at_the_margin_is_not_below_it():
    assert judged(gain=(0.008, 0.006, MARGIN)).word == "gain shown"
    assert judged(gain=(0.02, MARGIN, 0.03)).word == "worth it"


def test_a_gain_that_is_real_and_may_be_under_the_margin_is_shown_with_the_rows_that_would_tell():
    verdict = judged(gain=(0.02, 0.004, 0.036))
    assert (verdict.word, verdict.kind) == ("gain shown", None)
    # Half an interval of 0.016 is to leave 0.01 with 80% power: 2.8 instead of 1.96 standard errors.
    assert verdict.more_rows == pytest.approx(1000 * ((1.6 * 2.8 / 1.96) ** 2 - 1), rel=1e-3)
    assert "whether the gain reaches the margin of 0.01 is open" in verdict.reason
    assert f"{verdict.more_rows:,} more test rows would decide it with 80% power" in verdict.reason
    under = judged(gain=(0.006, 0.001, 0.011))
    assert (under.word, under.more_rows) == (
        "gain shown",
        pytest.approx(1000 * ((1.25 * 2.8 / 1.96) ** 2 - 1), rel=1e-3),
    )
    at = judged(gain=(MARGIN, 0.001, 0.02))
    assert at.more_rows is None and "no number of rows" in at.reason
    assert judged(gain=(0.02, 0.004, 0.036), control=(0.02, 0.0, 0.04)).word == "undecided"


def test_the_margin_is_configured():
    gain = Interval(0.02, 0.015, 0.025)
    words = {margin: judge(gain, HIGH, NONE, n=1000, margin=margin).word for margin in (0.01, 0.02, 0.03)}
    assert words == {0.01: "worth it", 0.02: "gain shown", 0.03: "not worth it"}


def test_the_least_gain_is_unknown_where_it_rests_on_models_that_never_differ_on_few_rows():
    def least(n, **others):
        each = {name: {"value": v, "low": low, "high": high, "n": n} for name, (v, low, high) in others.items()}
        over = min(each, key=lambda name: each[name]["value"])
        ends = {end: min(gain[end] for gain in each.values()) for end in ("low", "high")}
        return least_gain(Gains(each, over, {**each[over], **ends}))

    gain = (0.1, 0.05, 0.15)
    assert least(300, text=gain, image=(0.5, 0.5, 0.5)) == gain  # the other says nothing of either end
    assert least(301, text=gain, image=(0.0, 0.0, 0.0)) == (0, 0, 0)
    few = least(300, text=(0.01, -0.02, 0.04), image=(0.0, 0.0, 0.0))
    assert few.low == -0.02 and few.high != few.high


def test_what_its_own_architecture_does_without_the_others_is_no_gain():
    verdict = judged(control=(-0.01, -0.02, 0.0))
    assert verdict.word == "not worth it" and verdict.kind is None and "architecture" in verdict.reason
    assert judged(control=(-0.001, -0.02, 0.0001)).word == "undecided"


@pytest.mark.parametrize(
    ("additive", "kind"),
    [
        ((0.03, 0.02, 0.04), "interacting"),
        ((0.003, 0.001, 0.005), "interacting"),  # first match: above 0, though inside the margin
        ((0.0, -0.009, 0.009), "additive"),
        ((0.0, 0.0, 0.0), "additive"),
        ((0.0, -0.01, 0.009), "kind unknown"),
        ((0.005, -0.005, 0.01), "kind unknown"),
        ((-0.05, -0.06, -0.04), "kind unknown"),
        ((nan, nan, nan), "kind unknown"),
    ],
)
def test_worth_it_has_a_kind(additive, kind):
    verdict = judged(additive=additive)
    assert (verdict.word, verdict.kind, verdict.more_rows) == ("worth it", kind, None)


@pytest.mark.parametrize(("gain", "control"), [(OPEN, HIGH), (HIGH, OPEN), (OPEN, OPEN)])
def test_anything_else_is_undecided_and_says_how_many_rows_would_decide(gain, control):
    verdict = judged(gain=gain, control=control)
    # Half an interval of 0.03 has to shrink below 0.02, at 2.8 standard errors for 1.96: (3/2 x 2.8/1.96)² of the rows.
    assert (verdict.word, verdict.kind, verdict.more_rows) == ("undecided", None, 3593)
    assert "3,593 more test rows would decide it with 80% power" in verdict.reason


def test_the_nearest_clause_decides_how_many_rows():
    sure = Interval(0.05, 0.04, 0.06)
    twice = ceil(100 * (4 * (2.8 / 1.96) ** 2 - 1))
    assert rows_needed(Interval(0.0, -0.02, 0.02), sure, 100) == twice  # below the margin: 0.02 -> 0.01
    assert rows_needed(Interval(0.004, -0.008, 0.016), sure, 100) == twice  # 0.012 -> 0.006 beats 0.012 -> 0.004
    assert rows_needed(HIGH, Interval(-0.01, -0.03, 0.01), 100) == twice  # the control's end at or below 0


@pytest.mark.parametrize("value", [0.0, 0.03])
def test_what_the_rows_needed_promise_comes_true(value):
    """Of samples as large as that, drawn around the same figure, 80% leave the verdict open no more."""
    half, n = 0.04, 500
    assert judged((value, value - half, value + half), n=n).word == "undecided"
    more = rows_needed(Interval(value, value - half, value + half), HIGH, n)
    half *= (n / (n + more)) ** 0.5
    drawn = np.random.default_rng(0).normal(value, half / 1.96, size=2000)
    decided = np.mean([judged((v, v - half, v + half)).word != "undecided" for v in drawn])
    assert decided == pytest.approx(0.8, abs=0.03)


def test_where_no_number_of_rows_would_do():
    verdict = judged(gain=(0.03, 0.01, 0.05), control=(0.0, -0.01, 0.01))
    assert verdict.more_rows is None and "no number of rows" in verdict.reason


def test_an_unknown_interval_decides_nothing():
    for gain, control in [((0.05, nan, nan), HIGH), (HIGH, (0.05, nan, nan)), ((nan, nan, nan), HIGH)]:
        verdict = judged(gain=gain, control=control)
        assert (verdict.word, verdict.more_rows) == ("undecided", None) and "not known" in verdict.reason
        assert "nan" not in verdict.reason


def test_the_sentence_names_who_is_compared():
    said = sentence(judged(), fusion="mean", over="text: tfidf_text", metric="auroc", n=1234)
    assert said.startswith("worth it, additive: mean over text: tfidf_text (auroc, 1,234 test rows): the gain +0.050 [")
    assert asdict(Verdict("undecided", None, "", 3))["more_rows"] == 3


def test_the_interval_of_a_paired_gain():
    assert interval_of({"metric": "auroc", "value": 0.1, "low": 0.0, "high": 0.2, "n": 3}) == Interval(0.1, 0.0, 0.2)
