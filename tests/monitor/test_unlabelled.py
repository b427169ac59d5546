"""Accuracy and base rate of rows whose labels are hidden: known answers, also where an assumption is broken."""

import numpy as np
import pytest

from bifocal.monitor.unlabelled import Labelled, ScoreBins, Unlabelled, estimate

SETTINGS = {"alpha": 0.01, "resamples": 200}


def posts(n, share, seed, *, distance=2.0, noise=1.0, blunt=1.0):
    """Labels and calibrated probabilities (at a base rate of 0.3) of points around 0 and ``distance``.

    Moving ``share`` is label shift; ``distance`` and ``noise`` are not. ``blunt`` under 1 makes probabilities timid.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(int)
    x = rng.normal(distance * labels, noise)
    return labels, 1 / (1 + np.exp(-blunt * (2 * x - 2 + np.log(0.3 / 0.7))))


def estimated(val, new, **settings):
    labels, p = val
    cells = ScoreBins.fit(p, None, 2)
    known = Labelled(labels, (p >= 0.5) == labels, sure(p), cells.of(p, None), np.arange(len(p)))
    q = new[1]
    hidden = Unlabelled(sure(q), cells.of(q, None), np.arange(len(q)))
    return estimate(known, hidden, classes=2, cells=len(cells), **{**SETTINGS, **settings})


def sure(p):
    return np.maximum(p, 1 - p)


def right(new):
    labels, p = new
    return np.mean((p >= 0.5) == labels)


def within(interval, value):
    return interval["low"] <= value <= interval["high"]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_a_new_base_rate_is_found_and_so_is_the_accuracy_it_makes(share):
    new = posts(5000, share, 1)
    found = estimated(posts(2000, 0.3, 0), new)
    assert within(found["base_rate"][1], new[0].mean())
    assert within(found["accuracy"]["label_shift"], right(new))
    assert found["label_shift"]["holds"] is True
    assert found["base_rate"][1]["reference"] == pytest.approx(0.3, abs=0.03)


def test_intervals_hold_the_true_figures_about_as_often_as_they_say():
    held = {"confidence": 0, "thresholded_confidence": 0, "label_shift": 0, "base_rate": 0}
    for seed in range(100):
        found = estimated(posts(400, 0.3, 2 * seed), posts(400, 0.3, 2 * seed + 1), resamples=200, seed=seed)
        population = right(posts(100_000, 0.3, 999))
        for name in ("confidence", "thresholded_confidence", "label_shift"):
            held[name] += within(found["accuracy"][name], population)
        held["base_rate"] += within(found["base_rate"][1], 0.3)
    assert min(held.values()) >= 95 - 2 * np.sqrt(100 * 0.95 * 0.05), held


def test_harder_posts_lower_the_estimates_that_follow_confidence():
    val, new = posts(4000, 0.3, 0), posts(8000, 0.3, 1)
    near = np.random.default_rng(2).random(8000) < np.exp(-8 * (sure(new[1]) - 0.5))  # the line draws more posts
    new = new[0][near], new[1][near]
    found = estimated(val, new)
    assert right(new) < found["accuracy"]["reference"]["value"] - 0.1
    assert within(found["accuracy"]["confidence"], right(new))
    assert found["accuracy"]["thresholded_confidence"]["high"] < right(new)  # it falls too far: not its kind of drift
    assert found["label_shift"]["holds"] is False


def test_what_is_no_mixture_of_the_classes_is_marked():
    """Every post in the middle, where neither class had many."""
    rng = np.random.default_rng(1)
    middle = rng.integers(2, size=1000), 1 / (1 + np.exp(-rng.normal(0, 0.3, 1000)))
    found = estimated(posts(2000, 0.3, 0), middle)["label_shift"]
    assert found["holds"] is False and found["p"] < 0.01 and found["misfit"] > 0.2


def test_mixtures_of_the_classes_are_marked_in_at_most_alpha_of_all_cases():
    marked = 0
    for seed in range(150):
        share = np.random.default_rng(seed).uniform(0.02, 0.98)
        found = estimated(posts(300, 0.3, 2 * seed), posts(300, share, 2 * seed + 1), alpha=0.05, resamples=100)
        marked += found["label_shift"]["holds"] is False
    assert marked / 150 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)


def test_probabilities_that_are_miscalibrated_do_not_move_the_base_rate():
    new = posts(5000, 0.6, 1, blunt=0.3)
    found = estimated(posts(2000, 0.3, 0, blunt=0.3), new)
    assert within(found["base_rate"][1], new[0].mean())


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_scores_all_equal_say_nothing_of_the_base_rate(value):
    labels = np.repeat([0, 1], [70, 30])
    found = estimated((labels, np.full(100, value)), (labels, np.full(100, value)))
    assert found["base_rate"] is None and found["label_shift"]["holds"] is None
    accuracy = 0.3 if value == 1 else 0.7
    for name in ("confidence", "thresholded_confidence"):
        assert found["accuracy"][name]["value"] == pytest.approx(accuracy)
    assert "label_shift" not in found["accuracy"]


def test_one_class_alone_says_nothing_of_the_base_rate():
    labels, p = posts(200, 0.3, 0)
    found = estimated((labels * 0, p), (labels, p))
    assert found["base_rate"] is None and found["accuracy"]["reference"]["value"] == np.mean(p < 0.5)


def test_one_new_row_gives_wide_intervals_and_no_nan():
    found = estimated(posts(200, 0.3, 0), posts(1, 0.3, 1))
    assert found["label_shift"]["holds"] is True
    for interval in (*found["accuracy"].values(), *found["base_rate"]):
        assert np.isfinite([interval["value"], interval["low"], interval["high"]]).all()
    assert found["base_rate"][1]["high"] - found["base_rate"][1]["low"] > 0.8


def test_copies_widen_the_intervals():
    labels, p = posts(600, 0.3, 0)
    cells = ScoreBins.fit(p, None, 2)
    known = Labelled(labels, (p >= 0.5) == labels, sure(p), cells.of(p, None), np.arange(600))
    q = np.repeat(p[:60], 10)
    widths = []
    for copies in (np.arange(600), np.repeat(np.arange(60), 10)):
        found = estimate(known, Unlabelled(sure(q), cells.of(q, None), copies), classes=2, cells=len(cells), **SETTINGS)
        widths.append(found["accuracy"]["confidence"]["high"] - found["accuracy"]["confidence"]["low"])
    assert widths[1] > 1.2 * widths[0]


def classes_of_three(n, shares, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=shares)
    density = np.exp(-0.5 * (rng.normal(2.0 * labels)[:, None] - 2.0 * np.arange(3)) ** 2)
    p = density / density.sum(axis=1, keepdims=True)
    return labels, p.max(axis=1), p.argmax(axis=1)


def test_several_classes_are_told_apart_by_what_was_predicted_and_how_surely():
    labels, top, predicted = classes_of_three(3000, [0.4, 0.4, 0.2], 0)
    cells = ScoreBins.fit(top, predicted, 3)
    assert len(cells) == 9
    known = Labelled(labels, predicted == labels, top, cells.of(top, predicted), np.arange(3000))
    truth, sureness, said = classes_of_three(4000, [0.1, 0.3, 0.6], 1)
    new = Unlabelled(sureness, cells.of(sureness, said), np.arange(4000))
    found = estimate(known, new, classes=3, cells=len(cells), **SETTINGS)
    for y, interval in enumerate(found["base_rate"]):
        assert within(interval, np.mean(truth == y))
    assert within(found["accuracy"]["label_shift"], np.mean(said == truth))
    assert found["label_shift"]["holds"] is True
