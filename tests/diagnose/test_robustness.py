from time import perf_counter

import numpy as np
import pytest

from bifocal.diagnose.robustness import Outcomes, compare_decisions
from bifocal.errors import DataError
from bifocal.evaluate.compare import paired_gain


def said(p, threshold=0.5, review=None):
    p = np.asarray(p, dtype=float)
    return Outcomes(np.stack([1 - p, p], axis=1), (p >= threshold).astype(int), review)


def made(n=400, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    return y, (0.5 + 0.25 * (2 * y - 1) + rng.normal(0, 0.15, n)).clip(0.01, 0.99), [f"g{i // 2}" for i in range(n)]


def test_nothing_attacked_changes_nothing():
    y, p, groups = made()
    found = compare_decisions(y, groups, said(p), said(p), resamples=200)
    for metric in ("auroc", "macro_f1"):
        assert found[metric]["before"] == found[metric]["after"]
        assert found[metric]["change"] == {"value": 0, "low": 0, "high": 0}
    assert found["flips"]["n"] == found["flips"]["value"] == found["flips"]["low"] == 0
    assert found["flips"]["high"] == pytest.approx(0.0095, abs=2e-4)  # Wilson's for 0 of 400: not 0
    assert found["review"] is None and found["undecided"] == 0 and found["n"] == 400


def test_flips_are_counted_each_way_and_their_interval_holds_the_share():
    y, p, groups = made()
    after = p.copy()
    flagged, clear = np.flatnonzero(p >= 0.5), np.flatnonzero(p < 0.5)
    after[flagged[:40]], after[clear[:20]] = 0.1, 0.9
    flips = compare_decisions(y, groups, said(p), said(after), resamples=400)["flips"]
    assert (flips["n"], flips["cleared"], flips["raised"]) == (60, 40, 20)
    assert flips["value"] == 0.15 and 0.09 < flips["low"] < 0.13 and 0.17 < flips["high"] < 0.22


def test_the_loss_is_the_paired_gain_the_other_way_round():
    y, p, groups = made()
    worse = said(np.random.default_rng(1).permutation(p))
    found = compare_decisions(y, groups, said(p), worse, resamples=300, seed=3)
    gain = paired_gain(y, said(p).probabilities, worse.probabilities, groups, metric="auroc", resamples=300, seed=3)
    assert found["auroc"]["change"] == {end: pytest.approx(gain[end]) for end in ("value", "low", "high")}
    assert found["auroc"]["change"]["high"] < -0.3 and found["macro_f1"]["change"]["high"] < -0.3


def test_macro_f1_is_at_the_policys_threshold():
    y, p, groups = made()
    found = compare_decisions(y, groups, said(p, 0.99), said(p, 0.5), resamples=100)
    assert found["macro_f1"]["before"] < 0.5 < 0.9 < found["macro_f1"]["after"]
    assert found["auroc"]["change"]["value"] == 0


def test_review_is_a_share_with_a_paired_interval():
    y, p, groups = made()
    before, after = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    after[:100] = True
    found = compare_decisions(y, groups, said(p, review=before), said(p, review=after), resamples=300)["review"]
    assert (found["before"], found["after"]) == (0, 0.25)
    assert 0.18 < found["change"]["low"] < 0.25 < found["change"]["high"] < 0.32


def test_rows_without_a_label_count_for_flips_alone_and_rows_without_an_opinion_for_nothing():
    y, p, groups = made()
    y = y.copy()
    y[:100] = -1
    lost = said(1 - p)
    lost.probabilities[380:] = np.nan
    found = compare_decisions(y, groups, said(p), lost, resamples=100)
    assert (found["n"], found["undecided"], found["positives"]) == (380, 20, int((y[:380] == 1).sum()))
    assert found["flips"]["value"] == 1


def test_several_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=300)
    p = np.full((300, 3), 0.1)
    p[np.arange(300), y] = 0.8
    q = np.roll(p, 1, axis=1)
    found = compare_decisions(y, range(300), Outcomes(p, p.argmax(1)), Outcomes(q, q.argmax(1)), resamples=100)
    assert found["auroc"]["before"] == found["macro_f1"]["before"] == 1 and found["macro_f1"]["after"] == 0
    assert found["flips"]["value"] == 1 and "cleared" not in found["flips"]
    assert len(found["positives"]) == 3


@pytest.mark.parametrize(
    ("labels", "p", "groups"),
    [
        ([1, 1, 1], [0.2, 0.9, 0.6], "abc"),  # one class
        ([-1, -1], [0.2, 0.9], "ab"),  # no label
        ([1], [0.7], "a"),
        ([0, 1, 0], [0.5, 0.5, 0.5], "aaa"),  # one group
        ([0, 1], [0.0, 1.0], "ab"),
        ([0, 1], [np.nan, np.nan], "ab"),  # no opinion
        ([], [], ""),
    ],
)
def test_what_cannot_be_told_is_none_and_never_nan(labels, p, groups):
    found = compare_decisions(labels, groups, said(p), said(p), resamples=100)

    def figures(content):
        for value in content.values() if isinstance(content, dict) else [content]:
            yield from figures(value) if isinstance(value, dict) else [value]

    assert not any(isinstance(value, float) and np.isnan(value) for value in figures(found))
    assert found["flips"]["n"] == 0


def test_sides_of_different_rows_are_refused():
    with pytest.raises(DataError, match=r"one split's rows, found probabilities \[2, 2\] and \[3, 2\] for 3 labels"):
        compare_decisions([0, 1, 1], "abc", said([0.1, 0.9]), said([0.1, 0.9, 0.8]))


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds():
    y, p, groups = made(100_000)
    begun = perf_counter()
    compare_decisions(y, groups, said(p), said(1 - p), resamples=1000)
    assert perf_counter() - begun < 60
