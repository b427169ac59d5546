"""EMAP, the decomposition of information and confounder pairs on their known answers, and what a user gets wrong."""

import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from bifocal.diagnose.interaction import (
    EMPTY,
    TOLERANCE,
    confounder_accuracy,
    emap,
    emap_in_blocks,
    estimate_pid,
    information,
    pid,
)
from bifocal.errors import DataError
from bifocal.sources.synthetic import Synthetic


def pairs_of(classes):
    return arrays(np.float64, (5, 5, classes), elements=st.floats(-50, 50))


logits = st.integers(1, 3).flatmap(pairs_of)
two_logits = st.integers(1, 3).flatmap(lambda classes: st.tuples(pairs_of(classes), pairs_of(classes)))


def signs(n=16):
    """Balanced ±1: every pair of bits as often."""
    return np.where(np.arange(n) % 2, 1.0, -1.0), np.where(np.arange(n) // 2 % 2, 1.0, -1.0)


def test_the_additive_part_of_a_product_of_balanced_signs_is_nothing():
    x, z = signs()
    assert np.abs(emap(np.outer(x, z))).max() < 1e-12


def test_the_additive_part_of_an_additive_function_is_the_function():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 9, 3))
    f = np.sin(x)[:, None] + (z**3)[None]
    np.testing.assert_allclose(emap(f), np.sin(x) + z**3, atol=1e-12)
    np.testing.assert_allclose(emap(f[..., 0]), (np.sin(x) + z**3)[:, 0], atol=1e-12)


def test_of_a_mixture_only_the_sum_is_left():
    x, z = signs()
    np.testing.assert_allclose(emap(x[:, None] + 2 * z + 3 * np.outer(x, z) + 4), x + 2 * z + 4, atol=1e-12)


def test_and_is_additive_to_its_ranks_but_not_to_its_values():
    x, z = (s > 0 for s in signs())
    left = emap((x[:, None] & z).astype(float))
    assert sorted(set(left.round(9))) == [-0.25, 0.25, 0.75] and (left[x & z] > left[~(x & z)].max()).all()


@given(two_logits, st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_emap_is_linear(pair, factor):
    f, g = pair
    np.testing.assert_allclose(emap(f + factor * g), emap(f) + factor * emap(g), atol=1e-9)


@given(logits)
@settings(max_examples=25, deadline=None)
def test_emap_projects(f):
    additive = f.mean(axis=1)[:, None] + f.mean(axis=0)[None] - f.mean(axis=(0, 1))
    once = emap(f)
    np.testing.assert_allclose(once, additive[np.arange(5), np.arange(5)], atol=1e-9)
    np.testing.assert_allclose(emap(additive), once, atol=1e-9)  # idempotent
    assert np.abs(emap(f - additive)).max() < 1e-9  # what was taken away has nothing additive in it


def test_one_row_keeps_its_logits():
    assert emap([[3.5]]).tolist() == [3.5]
    assert emap([[[1.0, -2.0]]]).tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize("block", [1, 3, 7, 20, 100])
def test_blocks_give_what_the_whole_gives(block):
    f = np.random.default_rng(0).normal(size=(20, 20, 2))
    np.testing.assert_allclose(emap_in_blocks(lambda r, c: f[r, c], 20, block=block), emap(f), atol=1e-12)
    flat = emap_in_blocks(lambda r, c: f[r, c, 0], 20, block=block)
    np.testing.assert_allclose(flat, emap(f)[:, 0], atol=1e-12)


def test_two_thousand_by_two_thousand_pairs_are_never_held_whole():
    rng = np.random.default_rng(0)
    t, v = rng.normal(size=(2, 2000, 2)).astype(np.float32)
    tracemalloc.start()
    found = emap_in_blocks(lambda r, c: np.maximum(t[r][:, None] + v[c], 0), 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6 < 2000 * 2000 * 2 * 4
    i = 17
    rows, columns = (np.maximum(pairs, 0, dtype=np.float64).mean(axis=0) for pairs in (t[i] + v, t + v[i]))
    total = np.mean([np.maximum(a + v, 0).mean(axis=0, dtype=np.float64) for a in t], axis=0)
    np.testing.assert_allclose(found[i], rows + columns - total, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: emap(np.zeros((3, 4))), r"of all pairs, n >= 1, found shape \[3, 4\]"),
        (lambda: emap(np.zeros(3)), r"found shape \[3\]"),
        (lambda: emap(np.zeros((0, 0))), r"found shape \[0, 0\]"),
        (lambda: emap([[0.0, np.nan], [0.0, 0.0]]), "logits are finite, found nan"),
        (lambda: emap_in_blocks(lambda r, c: np.zeros((2, 2)), 3), r"3 x 3 pairs has shape \[2, 2\]"),
        (lambda: emap_in_blocks(lambda r, c: np.zeros(9), 3), r"3 x 3 pairs has shape \[9\]"),
        (lambda: emap_in_blocks(lambda r, c: np.zeros((1, 1)), 1, block=0), "at least 1"),
        (lambda: emap_in_blocks(lambda r, c: np.zeros((1, 1)), 0), "at least 1"),
    ],
)
def test_pairs_that_are_not_all_there_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


def joint_of(x1, x2, y):
    """Joint of equally likely rows."""
    table = np.zeros([max(v) + 1 for v in (x1, x2, y)])
    np.add.at(table, (x1, x2, y), 1 / len(y))
    return table


BITS = [np.array(b) for b in zip(*product((0, 1), repeat=2), strict=True)]
AND = 0.75 * np.log2(4 / 3)
"""Bits of redundancy in AND: what each source alone tells, since neither tells anything of its own."""
GATES = {
    "xor": (joint_of(*BITS, BITS[0] ^ BITS[1]), (0, 0, 0, 1)),
    "and": (joint_of(*BITS, BITS[0] & BITS[1]), (AND, 0, 0, 0.5)),
    "or": (joint_of(*BITS, BITS[0] | BITS[1]), (AND, 0, 0, 0.5)),
    "unique_text": (joint_of(*BITS, BITS[0]), (0, 1, 0, 0)),
    "unique_image": (joint_of(*BITS, BITS[1]), (0, 0, 1, 0)),
    "redundant": (joint_of(BITS[0], BITS[0], BITS[0]), (1, 0, 0, 0)),
    "copy": (joint_of(*BITS, 2 * BITS[0] + BITS[1]), (0, 1, 1, 0)),
    "nothing": (np.full((2, 3, 2), 1 / 12), (0, 0, 0, 0)),
    "one class": (np.full((2, 3, 1), 1 / 6), (0, 0, 0, 0)),
    "one of each": (np.ones((1, 1, 1)), (0, 0, 0, 0)),
    "constant text": (joint_of(0 * BITS[0], BITS[1], BITS[1]), (0, 0, 1, 0)),
    "class never seen": (np.pad(joint_of(*BITS, BITS[0] ^ BITS[1]), ((0, 1), (1, 0), (1, 1))), (0, 0, 0, 1)),
}


@pytest.mark.parametrize("gate", GATES)
def test_the_decomposition_meets_its_known_answers(gate):
    joint, known = GATES[gate]
    assert tuple(pid(joint)) == pytest.approx(known, abs=TOLERANCE)


def test_the_known_answer_of_and_is_that_of_the_literature():
    assert pid(GATES["and"][0]).redundancy == pytest.approx(0.3113, abs=5e-5)


def test_a_bit_of_each_kind_comes_apart():
    r, u1, u2, a, b = (np.array(v) for v in zip(*product((0, 1), repeat=5), strict=True))
    joint = joint_of(4 * r + 2 * u1 + a, 4 * r + 2 * u2 + b, 8 * r + 4 * u1 + 2 * u2 + (a ^ b))
    assert joint.shape == (8, 8, 16)
    assert tuple(pid(joint)) == pytest.approx((1, 1, 1, 1), abs=TOLERANCE)


@given(arrays(np.float64, (3, 4), elements=st.floats(0, 1)))
@settings(max_examples=15, deadline=None)
def test_of_a_copied_pair_the_redundancy_is_what_the_two_share(pair):
    assume(pair.sum() > 0.1)
    pair = pair / pair.sum()
    joint = np.zeros((3, 4, 12))
    for i, j in np.ndindex(3, 4):
        joint[i, j, 4 * i + j] = pair[i, j]
    found = pid(joint)  # Bertschinger et al. 2014, proposition on the copy
    assert found.redundancy == pytest.approx(information(pair), abs=2 * TOLERANCE)
    assert found.synergy == pytest.approx(0, abs=2 * TOLERANCE)


def union_by_search(joint):
    """Least I(X1, X2; Y) over the joints of 2 x 2 x 2 with these marginals: a search in a search, one for each y."""
    turn = np.array([[1.0, -1.0], [-1.0, 1.0]])
    (low, low_2), (high, high_2) = -np.minimum(joint[0, 0], joint[1, 1]), np.minimum(joint[0, 1], joint[1, 0])

    def cost(moved, moved_2):
        q = np.maximum(joint + turn[..., None] * [moved, moved_2], 0)
        return float((xlogy(q, q) - xlogy(q, q.sum(axis=2, keepdims=True))).sum())

    def least(of, start, end):
        found = minimize_scalar(of, bounds=(start, end), method="bounded", options={"xatol": 1e-11}).fun
        return min(found, of(start), of(end))

    y = joint.sum(axis=(0, 1))
    best = least(lambda moved: least(lambda other: cost(moved, other), low_2, high_2), low, high)
    return (best - xlogy(y, y).sum()) / np.log(2)


@pytest.mark.parametrize("seed", range(12))
def test_the_union_information_is_the_least_that_a_search_without_gradients_finds(seed):
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.full(8, 0.5)).reshape(2, 2, 2)
    if seed % 3 == 0:
        joint[0, 1, 0] = 0
        joint /= joint.sum()
    found = pid(joint)
    assert found.redundancy + found.unique_1 + found.unique_2 == pytest.approx(union_by_search(joint), abs=TOLERANCE)


def assert_consistent(joint, found):
    first, second = information(joint.sum(axis=1)), information(joint.sum(axis=0))
    assert np.isfinite(found).all() and min(found) >= -1e-12
    assert sum(found) == pytest.approx(information(joint.reshape(-1, joint.shape[2])), abs=1e-9)
    assert found.redundancy + found.unique_1 == pytest.approx(first, abs=1e-9)
    assert found.redundancy + found.unique_2 == pytest.approx(second, abs=1e-9)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
cells = st.sampled_from([0.0, 1e-15, 1e-9, 1e-4]) | st.floats(0, 1)


@given(arrays(np.float64, shapes, elements=cells))
@settings(max_examples=60, deadline=None)
def test_terms_are_consistent_with_the_information_of_each_source(table):
    assume(table.sum() > 0)
    joint = table / table.sum()
    found = pid(joint)
    assert_consistent(joint, found)
    turned = pid(joint.transpose(1, 0, 2))
    expected = (found.redundancy, found.unique_2, found.unique_1, found.synergy)
    assert tuple(turned) == pytest.approx(expected, abs=2 * TOLERANCE)


@pytest.mark.parametrize("concentration", [0.02, 0.1, 1.0])
def test_ten_by_ten_by_five_with_zero_cells(concentration):
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.full(500, concentration)).reshape(10, 10, 5)
    joint[joint < 1e-4] = 0
    joint /= joint.sum()
    assert_consistent(joint, pid(joint))


def test_relabelling_or_splitting_a_value_changes_nothing():
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(24)).reshape(3, 4, 2)
    split = np.concatenate([joint[:1] * 0.3, joint[:1] * 0.7, joint[1:]])
    for other in (joint[::-1], joint[:, [2, 0, 3, 1]], joint[..., ::-1], split):
        assert tuple(pid(other)) == pytest.approx(tuple(pid(joint)), abs=2 * TOLERANCE)


def test_counts_are_a_joint_too():
    joint = GATES["and"][0]
    assert pid(4 * joint) == pid(joint)


def test_cells_that_are_as_good_as_empty_do_not_matter():
    joint = GATES["and"][0].copy()
    joint[0, 0, 1] = EMPTY / 10
    assert tuple(pid(joint / joint.sum())) == pytest.approx(GATES["and"][1], abs=2 * TOLERANCE)


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (np.ones((2, 2)) / 4, r"\[x1, x2, y\].*found shape \[2, 2\]"),
        (np.zeros((0, 2, 2)), r"found shape \[0, 2, 2\]"),
        (np.zeros((2, 2, 2)), "sums to 1, or holds whole counts above 0 in all, found the sum 0"),
        (np.full((2, 2, 2), 0.2), "found the sum 1.6"),
        (np.array([[[1.5, -0.5]]]), "finite and from 0"),
        (np.array([[[np.nan, 1.0]]]), "finite and from 0"),
    ],
)
def test_what_is_no_joint_is_refused(joint, message):
    with pytest.raises(DataError, match=message):
        pid(joint)


def test_a_tolerance_beyond_the_numbers_is_an_error_and_not_a_guess():
    with pytest.raises(DataError, match=r"bits of the answer, asked were 1e-16"):
        pid(np.random.default_rng(0).dirichlet(np.full(12, 0.3)).reshape(2, 3, 2), tolerance=1e-16)


@pytest.mark.parametrize("structure", ["redundant", "unique_text", "unique_image", "and", "xor"])
def test_the_synthetic_source_has_the_decomposition_of_its_structure(structure):
    found = pid(Synthetic(structure=structure).joint())
    if structure != "and":
        assert tuple(found) == pytest.approx(GATES[structure][1], abs=TOLERANCE)
    else:  # its bits are there with the square root of one half, for balanced labels
        assert found.unique_1 == pytest.approx(0, abs=TOLERANCE) and found.synergy > 0.3 < found.redundancy
    noisy = pid(Synthetic(structure=structure, label_noise=0.2).joint())
    assert sum(noisy) < sum(found)


def rows_of(structure, n=1500, noise=0.0):
    """Labels, and what the best unimodal and fused models say of generated rows."""
    source = Synthetic(size=n, structure=structure, label_noise=noise)
    rows = [source.example(i) for i in range(n)]
    y, t, v = (np.array([row.labels[k] for row in rows]) for k in ("abuse_hate", "cue_text", "cue_image"))
    joint = source.joint()

    def said(table):
        return table / table.sum(axis=1, keepdims=True)

    both = np.where(joint.sum(axis=2, keepdims=True) > 0, joint, 1)[t, v]
    return y, said(joint.sum(1)[t]), said(joint.sum(0)[v]), said(both), [row.group or row.id for row in rows], joint


@pytest.mark.parametrize("structure", ["redundant", "unique_text", "unique_image", "and", "xor"])
def test_the_estimate_from_predictions_holds_the_known_answer_in_its_interval(structure):
    *predictions, groups, joint = rows_of(structure, noise=0.1)
    found = estimate_pid(*predictions, groups, resamples=60)
    for name, known in pid(joint)._asdict().items():
        term = found[name]
        assert term["low"] - 0.003 <= known <= term["high"] + 0.003, (name, known, term)
        assert term["high"] - term["low"] < 0.12
    assert found["n"] == 1500


def test_noisy_predictions_are_pooled_and_their_bias_is_taken_out():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    useless, useless_2 = rng.random((2, 500))
    plain = estimate_pid(y, useless, useless_2, useless, ["one group"] * 500)
    mended = estimate_pid(y, useless, useless_2, useless, range(500), resamples=60)
    for source in ("unique_1", "unique_2"):
        assert plain["redundancy"]["value"] + plain[source]["value"] > 0.006  # what chance puts into ten cells
        assert mended["redundancy"]["value"] + mended[source]["value"] < 0.006 and mended[source]["low"] == 0
    assert np.isnan([plain["synergy"]["low"], plain["synergy"]["high"]]).all()
    assert str(estimate_pid(y, useless, useless_2, useless, range(500), resamples=0)) == str(plain)


def test_three_classes_and_a_constant_model():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    sure, constant = np.eye(3)[y], np.full((300, 3), 1 / 3)
    found = estimate_pid(y, sure, constant, sure, range(300), resamples=30)
    assert found["unique_1"]["value"] == pytest.approx(np.log2(3), abs=0.02)
    assert [found[k]["value"] for k in ("redundancy", "unique_2", "synergy")] == pytest.approx([0, 0, 0], abs=1e-6)


def test_one_class_or_one_row_leave_nothing_to_know():
    for n in (1, 20):
        p = np.random.default_rng(0).random(n)
        found = estimate_pid(np.ones(n, dtype=int), p, p, p, range(n), resamples=5)
        assert [found[k]["value"] for k in ("redundancy", "unique_1", "unique_2", "synergy")] == [0, 0, 0, 0]


def test_an_estimate_asked_wrongly_is_refused():
    p = np.array([0.2, 0.7])
    with pytest.raises(DataError, match="groups one per row, found 10 and 1 for 2 rows"):
        estimate_pid([0, 1], p, p, p, ["a"])
    with pytest.raises(DataError, match="found 0 and 2 for 2 rows"):
        estimate_pid([0, 1], p, p, p, ["a", "b"], cells=0)
    with pytest.raises(DataError, match="give probabilities, not logits"):
        estimate_pid([0, 1], p, p * 9, p, ["a", "b"])


def quadruples(n=40):
    """XOR with its confounders: each text with both pictures, each picture with both texts."""
    i = np.arange(n)
    t, v = i // 2 % 2, i % 2
    texts, pictures = [f"text {k // 4} {k // 2 % 2}" for k in i], [f"picture {k // 4} {k % 2}" for k in i]
    return t, v, texts, pictures


def test_a_scorer_of_one_modality_gets_none_of_the_pairs_that_share_it():
    t, v, texts, pictures = quadruples()
    y = t ^ v
    assert confounder_accuracy(y, t, texts) == (0, 0, 0, 20)
    assert confounder_accuracy(y, v, pictures) == (0, 0, 0, 20)
    assert confounder_accuracy(y, y, texts) == confounder_accuracy(y, y, pictures) == (1, 1, 1, 20)


def test_coins_get_a_quarter_within_the_interval():
    t, v, texts, _ = quadruples(2000)
    found = confounder_accuracy(t ^ v, np.random.default_rng(0).integers(0, 2, 2000), texts)
    assert found.pairs == 1000 and found.low <= 0.25 <= found.high and found.high - found.low < 0.07


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(["a", "b", None])), max_size=14))
@settings(max_examples=60, deadline=None)
def test_pairs_are_counted_as_one_by_one(rows):
    pairs = [
        p[0] == p[1] and q[0] == q[1]
        for i, p in enumerate(rows)
        for q in rows[:i]
        if p[2] is not None and p[2] == q[2] and p[0] != q[0]
    ]
    y, guess, shared = ([row[k] for row in rows] for k in range(3))
    if not pairs:
        with pytest.raises(DataError, match="no two of"):
            confounder_accuracy(y, guess, shared)
        return
    found = confounder_accuracy(y, guess, shared, resamples=10)
    assert found.pairs == len(pairs) and found.value == pytest.approx(np.mean(pairs))


def test_predictions_that_are_not_one_class_per_row_are_refused():
    with pytest.raises(DataError, match=r"one per row, found \[2\], \[2, 2\] and 2"):
        confounder_accuracy([0, 1], np.zeros((2, 2)), ["a", "a"])
    with pytest.raises(DataError, match=r"one per row, found \[2\], \[2\] and 1"):
        confounder_accuracy([0, 1], [0, 1], ["a"])
