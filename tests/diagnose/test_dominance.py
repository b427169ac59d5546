"""Shares on their known answers: XOR, unique, redundant; the axioms of Shapley; and what a user gets wrong."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifocal.diagnose.dominance import (
    conditional_utilization,
    cooperation,
    measure_dominance,
    perceptual_score,
    shapley,
)
from bifocal.errors import DataError
from bifocal.sources.synthetic import Synthetic

BOTH = ("image", "text")
STRUCTURES = ("redundant", "unique_text", "unique_image", "and", "xor")


def subsets(names):
    return [frozenset(s) for s in chain.from_iterable(combinations(names, k) for k in range(len(names) + 1))]


def two(chance, text, image, both):
    """Values of the subsets of two modalities."""
    return {
        frozenset(): chance,
        frozenset({"text"}): text,
        frozenset({"image"}): image,
        frozenset(BOTH): both,
    }


XOR, UNIQUE, REDUNDANT = two(0.5, 0.5, 0.5, 1), two(0.5, 1, 0.5, 1), two(0.5, 1, 1, 1)


def accuracies(source: Synthetic):
    """What the best classifier of each subset reaches, by the source's own account."""
    known = source.known_accuracy()
    chance = float(source.joint().sum((0, 1)).max())
    return two(chance, known["text"], known["image"], known["both"])


@pytest.mark.parametrize(
    ("values", "text", "image", "together"),
    [(XOR, 0.25, 0.25, 0.5), (UNIQUE, 0.5, 0, 0), (REDUNDANT, 0.25, 0.25, -0.5)],
    ids=["xor", "unique_text", "redundant"],
)
def test_shares_and_cooperation_meet_their_known_answers(values, text, image, together):
    assert shapley(values) == pytest.approx({"text": text, "image": image}, abs=1e-12)
    assert cooperation(values) == pytest.approx(together, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "text", "image"),
    [(XOR, 0.5, 0.5), (UNIQUE, 0.5, 0), (REDUNDANT, 0, 0)],
    ids=["xor", "unique_text", "redundant"],
)
def test_conditional_utilization_meets_its_known_answers(values, text, image):
    assert conditional_utilization(values) == pytest.approx({"text": text, "image": image}, abs=1e-12)


@pytest.mark.parametrize(
    ("structure", "text", "image", "together"),
    [
        ("redundant", 0.25, 0.25, -0.5),
        ("unique_text", 0.5, 0, 0),
        ("unique_image", 0, 0.5, 0),
        ("xor", 0.25, 0.25, 0.5),
    ],
)
def test_the_synthetic_source_knows_the_same_shares(structure, text, image, together):
    values = accuracies(Synthetic(structure=structure, overlay=False))
    assert shapley(values) == pytest.approx({"text": text, "image": image}, abs=1e-9)
    assert cooperation(values) == pytest.approx(together, abs=1e-9)


def test_under_and_the_modalities_share_alike_and_noise_takes_from_both():
    clean = shapley(accuracies(Synthetic(structure="and")))
    noisy = shapley(accuracies(Synthetic(structure="and", label_noise=0.1)))
    assert clean["text"] == pytest.approx(clean["image"]) == pytest.approx(0.25)
    assert noisy["text"] == pytest.approx(0.8 * clean["text"])


numbers = st.floats(-5, 5, allow_nan=False)


@given(st.integers(1, 4), st.data())
@settings(max_examples=40, deadline=None)
def test_shares_sum_to_the_gain_over_chance_and_do_not_depend_on_names(k, data):
    names = [f"m{i}" for i in range(k)]
    values = {s: data.draw(numbers) for s in subsets(names)}
    shares = shapley(values)
    assert sum(shares.values()) == pytest.approx(values[frozenset(names)] - values[frozenset()], abs=1e-9)
    renamed = dict(zip(names, reversed(names), strict=True))
    turned = shapley({frozenset(renamed[m] for m in s): v for s, v in values.items()})
    assert {renamed[m]: share for m, share in shares.items()} == pytest.approx(turned, abs=1e-9)


@given(st.lists(numbers, min_size=2, max_size=4), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_interchangeable_modalities_share_alike_and_a_useless_one_gets_nothing(by_size, seed):
    names = [f"m{i}" for i in range(len(by_size))]
    alike = shapley({s: ([0, *by_size])[len(s)] for s in subsets(names)})
    assert max(alike.values()) - min(alike.values()) < 1e-9
    rng = np.random.default_rng(seed)
    game = {s: float(rng.normal()) for s in subsets(names[:-1])}
    useless = shapley({s: game[s - {names[-1]}] for s in subsets(names)})
    assert useless[names[-1]] == pytest.approx(0, abs=1e-12)


def test_three_modalities_that_add_up_keep_what_each_brings_and_one_alone_gets_everything():
    worth = {"text": 0.3, "image": 0.1, "tabular": -0.05}
    values = {s: 0.5 + sum(worth[m] for m in s) for s in subsets(sorted(worth))}
    assert shapley(values) == pytest.approx(worth, abs=1e-12)
    assert cooperation(values) == pytest.approx(0, abs=1e-12)
    assert shapley({frozenset(): 0.5, frozenset({"text"}): 0.8}) == pytest.approx({"text": 0.3})


def test_arrays_of_resamples_are_taken_one_by_one():
    rng = np.random.default_rng(0)
    drawn = {s: rng.random(7) for s in subsets(BOTH)}
    together = shapley(drawn), cooperation(drawn), conditional_utilization(drawn)
    for i in range(7):
        one = {s: float(v[i]) for s, v in drawn.items()}
        assert shapley(one)["text"] == pytest.approx(together[0]["text"][i])
        assert cooperation(one) == pytest.approx(together[1][i])
        assert conditional_utilization(one)["image"] == pytest.approx(together[2]["image"][i])


def test_a_missing_subset_is_named():
    values = {s: v for s, v in XOR.items() if s != frozenset({"image"})}
    with pytest.raises(DataError, match=r"misses the value of \{image\}") as error:
        shapley(values)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"misses the value of \{\};.*\{\} is chance"):
        shapley({s: v for s, v in XOR.items() if s})
    assert conditional_utilization({s: v for s, v in XOR.items() if s})["text"] == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "at least one modality"),
        ({frozenset(): 0.5}, "at least one modality"),
        ({"text": 0.5}, "frozensets of modality names"),
        (two(0.5, float("nan"), 0.5, 1), r"finite values, found nan for \{text\}"),
        (two(0.5, 0.5, float("inf"), 1), r"finite values, found inf for \{image\}"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, message):
    for function in (shapley, cooperation):
        with pytest.raises(DataError, match=message):
            function(values)


def test_a_model_that_is_never_right_has_no_utilization():
    with pytest.raises(DataError, match="above 0, found 0"):
        conditional_utilization(two(0, 0, 0, 0))


def grid(n: int = 40):
    """Balanced bits t and v, each pair as often."""
    return np.arange(n) % 2, np.arange(n) // 2 % 2


def reads(t, v, rule):
    def predict(rows):
        return rule(t[rows["text"]], v[rows["image"]])

    return predict


RULES = {
    "xor": (lambda t, v: t ^ v, 0.5, 0.5),
    "unique_text": (lambda t, v: t, 0.5, 0),
    "and": (lambda t, v: t & v, 0.25, 0.25),
}


@pytest.mark.parametrize("structure", RULES)
def test_perceptual_scores_meet_their_known_answers(structure):
    t, v = grid()
    rule, text, image = RULES[structure]
    scores = perceptual_score(reads(t, v, rule), rule(t, v), BOTH)
    assert {name: s.value for name, s in scores.items()} == pytest.approx({"text": text, "image": image}, abs=1e-12)
    for score in scores.values():
        assert score.low - 1e-12 <= score.value <= score.high + 1e-12


def test_a_few_permutations_come_near_the_full_expectation_and_are_seeded():
    rng = np.random.default_rng(0)
    t, v = rng.integers(0, 2, (2, 600))
    predict = reads(t, v, lambda a, b: a ^ b)
    few = perceptual_score(predict, t ^ v, BOTH, permutations=20, resamples=50)
    assert few["text"].value == pytest.approx(0.5, abs=0.03)
    assert few == perceptual_score(predict, t ^ v, ["text", "image"], permutations=20, resamples=50)
    assert few != perceptual_score(predict, t ^ v, BOTH, permutations=20, resamples=50, seed=1)


def test_the_score_is_a_part_of_the_accuracy():
    t, v = grid()
    y = np.where(np.arange(40) < 10, 1 - t, t)  # the model is right on three rows of four, and at 0.5 when permuted
    score = perceptual_score(reads(t, v, lambda a, b: a), y, BOTH)
    assert score["text"].value == pytest.approx((0.75 - 0.5) / 0.75, abs=1e-12)


def test_its_interval_draws_groups_whole():
    t, v = grid()
    y = np.where(np.arange(40) < 10, 1 - t, t)
    rows, groups = (
        perceptual_score(reads(t, v, lambda a, b: a), y, BOTH, groups=g)["text"] for g in (None, np.arange(40) // 10)
    )
    assert groups.high - groups.low > 1.5 * (rows.high - rows.low)
    alone = perceptual_score(reads(t, v, lambda a, b: a), y, BOTH, groups=["g"] * 40)["text"]
    assert alone.value == rows.value and np.isnan([alone.low, alone.high]).all()


def test_one_row_or_one_class_have_a_score_of_nothing():
    t, v = np.ones(5, dtype=int), np.ones(5, dtype=int)
    for n in (1, 5):
        scores = perceptual_score(reads(t, v, lambda a, b: a & b), t[:n], BOTH)
        assert [s.value for s in scores.values()] == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "n >= 1"),
        ({"modalities": []}, "a collection of names"),
        ({"modalities": "text"}, "a collection of names"),
        ({"permutations": 0}, "permutations >= 1"),
        ({"groups": ["a"]}, "one per row, found 1 for 4"),
        ({"predict": lambda rows: np.zeros((4, 2))}, r"class indices \[4\], found shape \[4, 2\]: take the argmax"),
        ({"predict": lambda rows: 1 - np.array([0, 1, 0, 1])}, "none of 4 rows is predicted right"),
    ],
)
def test_a_score_asked_wrongly_is_refused(change, message):
    arguments = {"predict": lambda rows: np.zeros(4), "labels": [0, 1, 0, 1], "modalities": BOTH} | change
    with pytest.raises(DataError, match=message):
        perceptual_score(**arguments)


def one_hot(classes):
    return np.eye(2)[np.asarray(classes)]


def xor_model(n=400, seed=0):
    t, v = np.random.default_rng(seed).integers(0, 2, (2, n))
    chance = np.full((n, 2), 0.5)
    return t ^ v, two(chance, chance, chance, one_hot(t ^ v))


def test_measured_shares_hold_the_known_answer_in_their_interval():
    y, probabilities = xor_model()
    found = measure_dominance(y, probabilities, range(len(y)))
    for name in BOTH:
        share, rate = found["shapley"][name], found["conditional_utilization"][name]
        assert share["low"] <= 0.25 <= share["high"] and rate["low"] <= 0.5 <= rate["high"]
        assert 0 < share["high"] - share["low"] < 0.06
    assert found["cooperation"]["low"] <= 0.5 <= found["cooperation"]["high"]
    assert [v["modalities"] for v in found["values"]] == [[], ["image"], ["text"], ["image", "text"]]
    assert found["values"][-1]["value"] == 1 and found["n"] == 400


def test_measured_shares_are_those_of_the_measured_values():
    y, probabilities = xor_model(60)
    found = measure_dominance(y, probabilities, range(60), metric="macro_f1", resamples=20)
    values = {frozenset(v["modalities"]): v["value"] for v in found["values"]}
    assert {m: s["value"] for m, s in found["shapley"].items()} == pytest.approx(shapley(values))
    assert found["cooperation"]["value"] == pytest.approx(cooperation(values))


def test_measuring_on_one_class_says_that_the_metric_is_not_defined():
    y, probabilities = xor_model(30)
    with pytest.raises(DataError, match="auroc is not defined on these 30 rows"):
        measure_dominance(np.zeros_like(y), probabilities, range(30), metric="auroc")
    with pytest.raises(DataError, match="more is better, found 'nll'; known: accuracy, auprc, auroc, macro_f1"):
        measure_dominance(y, probabilities, range(30), metric="nll")
    del probabilities[frozenset()]
    with pytest.raises(DataError, match=r"misses the value of \{\}"):
        measure_dominance(y, probabilities, range(30))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_known_scorer_gets_its_shares_on_generated_rows(structure):
    source = Synthetic(size=200, structure=structure)
    rows = [source.example(i).labels for i in range(200)]
    y, t, v = (np.array([row[name] for row in rows]) for name in ("abuse_hate", "cue_text", "cue_image"))
    joint = source.joint()
    seen = {(): joint.sum((0, 1)), ("text",): joint.sum(1), ("image",): joint.sum(0), BOTH: joint}
    index = {(): (), ("text",): (t,), ("image",): (v,), BOTH: (t, v)}
    said = {}
    for names, table in seen.items():
        p = np.broadcast_to(table[index[names]], (200, 2))
        said[frozenset(names)] = p / p.sum(axis=1, keepdims=True)
    found = measure_dominance(y, said, [source.example(i).group or i for i in range(200)])
    known = accuracies(source)
    for name, share in shapley(known).items():
        assert found["shapley"][name]["low"] - 1e-9 <= share <= found["shapley"][name]["high"] + 1e-9
    assert found["cooperation"]["low"] - 1e-9 <= cooperation(known) <= found["cooperation"]["high"] + 1e-9
