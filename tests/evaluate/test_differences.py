"""Rates and areas agree with the textbooks row by row, know what copies are worth, and keep their level on few rows."""

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from bifocal.evaluate.differences import Area, Rate, area, difference, holm, jeffreys, rate
from bifocal.evaluate.intervals import Interval
from bifocal.evaluate.metrics import auroc


def scored(n, seed, skill=1.0, prevalence=0.4):
    """Ranks with ties, and whether class 1 happened."""
    rng = np.random.default_rng(seed)
    happened = rng.random(n) < prevalence
    return np.unique((skill * happened + rng.normal(0, 1, n)).round(1), return_inverse=True)[1], happened


def delong(ranks, happened):
    """AUROC and its variance from all pairs, as DeLong, DeLong and Clarke-Pearson (1988) write them."""
    up, down = ranks[happened][:, None], ranks[~happened][None]
    won = (up > down) + 0.5 * (up == down)
    by_up, by_down = won.mean(axis=1), won.mean(axis=0)
    return won.mean(), by_up.var(ddof=1) / len(by_up), by_down.var(ddof=1) / len(by_down)


def test_the_area_and_its_variance_are_those_of_all_pairs():
    ranks, happened = scored(120, seed=0)
    found = area(ranks, happened, np.arange(120))
    value, *parts = delong(ranks, happened)
    assert found.value == pytest.approx(value) == auroc(happened.astype(int), ranks / ranks.max())
    assert found.parts == pytest.approx(tuple(parts)) and found.shared == 0
    assert found.groups == found.rows == (happened.sum(), (~happened).sum())


def test_copies_of_a_row_are_worth_one_row():
    ranks, happened = scored(120, seed=1)
    groups = np.arange(120)
    once = area(ranks, happened, groups), rate(happened, groups)
    thrice = area(ranks.repeat(3), happened.repeat(3), groups.repeat(3)), rate(happened.repeat(3), groups.repeat(3))
    assert thrice[0].interval() == pytest.approx(once[0].interval())
    assert thrice[1].effect == pytest.approx(3) and once[1].effect == 1
    assert thrice[1].interval() == pytest.approx(once[1].interval())
    assert rate(np.zeros(9, bool), np.arange(3).repeat(3)).interval().high == pytest.approx(jeffreys(0, 3).high)


def test_rows_of_a_group_that_have_nothing_in_common_cost_little():
    rng = np.random.default_rng(0)
    effects = [rate(rng.random(600) < 0.3, np.arange(600) // 3).effect for _ in range(50)]
    assert 1 <= np.mean(effects) < 1.25


def test_the_p_value_of_rates_is_fishers():
    table = [[3, 47], [20, 980]]
    ours = Rate(3, 50, 50, 1.0).p_value(Rate(20, 1000, 1000, 1.0))
    assert ours == pytest.approx(fisher_exact(table).pvalue)
    assert Rate(5, 50, 50, 1.0).p_value(Rate(50, 500, 500, 1.0)) == 1


def test_an_interval_is_never_empty():
    for value, low, high in ((0.0, 0.0, 0.06), (1.0, 0.94, 1.0)):
        assert jeffreys(value, 40) == pytest.approx((value, low, high), abs=0.01)
    perfect = area(np.arange(40), np.arange(40) >= 20, np.arange(40))
    assert perfect.value == 1 and perfect.interval().low == pytest.approx(jeffreys(1.0, 20).low)
    ranks, happened = scored(60, seed=2, skill=2.5)
    worse = area(ranks, ~happened, np.arange(60))
    assert perfect.p_value(worse) < 1e-4 and perfect.p_value(perfect) == 1


def test_a_wider_confidence_gives_a_wider_interval():
    ranks, happened = scored(60, seed=3)
    for found in (area(ranks, happened, np.arange(60)), rate(happened, np.arange(60))):
        narrow, wide = found.interval(0.95), found.interval(0.999)
        assert 0 < wide.low < narrow.low < found.value < narrow.high < wide.high < 1


def test_the_difference_is_newcombes():
    """56 of 70 against 48 of 80: 0.0524 to 0.3339 by method 10 (Newcombe 1998, table II)."""
    sides = []
    for k, n in ((56, 70), (48, 80)):
        ends = binomtest(k, n).proportion_ci(method="wilson")
        sides.append(Interval(k / n, ends.low, ends.high))
    assert difference(*sides) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    back = difference(*reversed(sides))
    assert (back.low, back.high) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_holm_steps_down():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({"a": 0.9}) == {"a": 0.9} and holm({}) == {}


def sides(make, n, others, copies, rng):
    """A figure of some rows and of others that are like them; each stands there ``copies`` times."""
    groups = np.arange((n + others) // copies).repeat(copies)
    happened = (rng.random(len(groups) // copies) < 0.4).repeat(copies)
    scores = 2.3 * happened + rng.normal(0, 1, len(groups) // copies).repeat(copies)
    here = np.arange(len(groups)) < n
    return [make(scores[part], happened[part], groups[part]) for part in (here, ~here)]


def as_area(scores, happened, groups) -> Area:
    return area(np.unique(scores, return_inverse=True)[1], happened, groups)


def as_rate(scores, happened, groups) -> Rate:
    return rate(scores > 3.5, groups)


@pytest.mark.parametrize("make", [as_area, as_rate])
@pytest.mark.parametrize("copies", [1, 3])
def test_few_rows_do_not_cry_wolf(make, copies):
    """Of rare events and high areas a normal approximation would find several times as many differences."""
    rng = np.random.default_rng(0)
    p = []
    while len(p) < 600:
        here, there = sides(make, 60 * copies, 900, copies, rng)
        if min(here.groups if isinstance(here, Area) else (10,)) >= 10:
            p.append(here.p_value(there))
    for level in (0.05, 0.01):
        assert np.mean(np.array(p) <= level) <= level + 2 * np.sqrt(level * (1 - level) / len(p))
