"""Groups stay whole, classes stay in proportion, and the same seed gives the same splits."""

import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifocal.data.splits import assign_splits, factorize, fold_of, holdout_rows, leaking_rows
from bifocal.errors import DataError
from bifocal.example import SPLITS


def assign(groups, classes=None, official=None, *, val=0.1, test=0.2, seed=0):
    """The split of each row, in row order."""
    ids = [f"row{n}" for n in range(len(groups))]
    classes = classes if classes is not None else [0] * len(groups)
    official = official if official is not None else [None] * len(groups)
    splits = assign_splits(ids, groups, classes, official, val=val, test=test, seed=seed)
    assert list(splits) == ids
    return [splits[i] for i in ids]


def singles(n):
    return [f"g{i}" for i in range(n)]


def splits_of(groups, splits):
    found = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        found[group].add(split)
    return found


rows = st.lists(
    st.tuples(st.integers(0, 30).map(lambda i: f"g{i}"), st.integers(0, 2), st.sampled_from([None, None, *SPLITS])),
    min_size=1,
    max_size=120,
)
shares = st.sampled_from([0.0, 0.1, 0.2, 0.45])


@settings(max_examples=150, deadline=None)
@given(rows, shares, shares, st.integers(0, 3))
def test_groups_are_never_parted_by_carving(rows, val, test, seed):
    groups, classes, _ = (list(column) for column in zip(*rows, strict=True))
    splits = assign(groups, classes, val=val, test=test, seed=seed)
    assert all(len(found) == 1 for found in splits_of(groups, splits).values())
    assert "train" in splits
    wanted = ["train", *(name for name, share in (("val", val), ("test", test)) if share)]
    assert set(splits) == set(wanted[: len(set(groups))])


@settings(max_examples=150, deadline=None)
@given(rows, shares, shares, st.integers(0, 3))
def test_official_splits_are_kept_and_carving_adds_no_leak(rows, val, test, seed):
    groups, classes, official = (list(column) for column in zip(*rows, strict=True))
    try:
        splits = assign(groups, classes, official, val=val, test=test, seed=seed)
    except DataError:
        held = {g for g, split in zip(groups, official, strict=True) if split in ("val", "test")}
        assert "train" not in official and held == set(groups)
        return
    for split, own in zip(splits, official, strict=True):
        assert split == own or own is None or (own == "train" and split not in official)
    before = {g: found - {None} for g, found in splits_of(groups, official).items()}
    for group, after in splits_of(groups, splits).items():
        assert len(after) <= max(1, len(before[group]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(60, 400), st.sampled_from([0.05, 0.1, 0.25]), st.sampled_from([0.1, 0.2, 0.3]), st.floats(0.03, 0.97)
)
def test_shares_are_met_within_two_points_and_classes_within_two_rows(n, val, test, positives):
    classes = (np.random.default_rng(0).random(n) < positives).astype(int).tolist()
    splits = assign(singles(n), classes, val=val, test=test)
    for name, share in (("val", val), ("test", test)):
        assert abs(splits.count(name) / n - share) <= 0.02
        for value in set(classes):
            held = sum(s == name and c == value for s, c in zip(splits, classes, strict=True))
            assert abs(held - share * classes.count(value)) <= 2


def test_many_rare_classes_do_not_empty_a_share():
    splits = Counter(assign(singles(200), [n % 40 for n in range(200)]))  # 5 rows each: half a row of val per class
    assert abs(splits["val"] - 20) <= 1 and abs(splits["test"] - 40) <= 1


def test_shares_hold_with_groups_of_mixed_size_and_class():
    generator = np.random.default_rng(1)
    groups = [f"g{g}" for g, size in enumerate(generator.integers(1, 8, 400)) for _ in range(size)]
    classes = generator.integers(0, 3, len(groups)).tolist()
    splits = assign(groups, classes)
    for name, share in (("val", 0.1), ("test", 0.2)):
        held = [c for s, c in zip(splits, classes, strict=True) if s == name]
        assert abs(len(held) / len(groups) - share) < 0.02
        for value in range(3):
            assert abs(held.count(value) / len(held) - classes.count(value) / len(classes)) < 0.08


def test_the_seed_decides_and_the_order_of_rows_does_not():
    groups, classes = singles(100), [n % 3 for n in range(100)]
    first = dict(zip(groups, assign(groups, classes, seed=1), strict=True))
    assert first == dict(zip(groups[::-1], assign(groups[::-1], classes[::-1], seed=1), strict=True))
    assert first != dict(zip(groups, assign(groups, classes, seed=2), strict=True))


def test_no_shares_leave_everything_to_train():
    assert set(assign(singles(10), val=0, test=0)) == {"train"}
    official = ["train", "test", None, "val"]
    assert assign(singles(4), official=official, val=0, test=0) == ["train", "test", "train", "val"]


def test_a_missing_split_is_carved_from_train_and_unassigned_rows():
    official = ["train"] * 60 + ["test"] * 40 + [None] * 40
    splits = assign(singles(140), [n % 2 for n in range(140)], official)
    assert splits[60:100] == ["test"] * 40
    assert splits.count("test") == 40
    assert splits.count("val") == 10  # a tenth of the 100 rows carved from


def test_rows_without_a_split_follow_their_group():
    groups = ["a", "a", "b", "b", "c", "c", "c", "d"]
    official = ["test", None, "val", None, "train", "test", None, "train"]
    splits = assign(groups, official=official)
    assert splits == ["test", "test", "val", "val", "train", "test", "train", "train"]


def test_val_is_not_carved_from_groups_that_stand_in_the_official_test():
    groups = [*singles(20), *singles(20)]
    official = ["train"] * 20 + ["test"] * 19 + ["train"]
    splits = assign(groups, official=official, val=0.3)
    assert [g for g, s in zip(groups, splits, strict=True) if s == "val"] in ([], ["g19", "g19"])


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, {"train": 1}), (2, {"train": 1, "val": 1}), (3, {"train": 1, "val": 1, "test": 1})],
)
def test_tiny_data_fill_train_first_then_val_then_test(n, expected):
    assert Counter(assign(singles(n))) == expected


def test_no_rows_give_no_splits():
    assert assign([]) == []


def test_a_class_of_one_row_stays_in_train():
    splits = assign(singles(51), [1] + [0] * 50)
    assert splits[0] == "train" and splits.count("test") == 10


def test_a_group_larger_than_a_share_stays_in_train():
    groups = ["big"] * 80 + singles(20)
    splits = assign(groups)
    assert splits[0] == "train"
    assert Counter(splits) == {"train": 80, "val": 7, "test": 13}  # the rest is shared one to two, as asked


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(DataError, match="all 3 labelled rows are officially test or val"):
        assign(singles(3), official=["val", "test", "test"])


def test_a_holdout_is_a_stratified_share_of_whole_groups():
    groups = [f"g{n // 2}" for n in range(400)]
    classes = [(n // 2) % 4 == 0 for n in range(400)]
    aside = holdout_rows(groups, classes, 0.2, 0)
    assert sum(aside) == 80 and sum(a and c for a, c in zip(aside, classes, strict=True)) == 20
    assert all(len(found) == 1 for found in splits_of(groups, aside).values())
    assert aside == holdout_rows(groups, classes, 0.2, 0) != holdout_rows(groups, classes, 0.2, 1)
    assert holdout_rows(["a", "a"], [0, 1], 0.5, 0) == [False, False]
    assert sorted(holdout_rows(["a", "b"], [0, 1], 0.01, 0)) == [False, True]


@settings(max_examples=100, deadline=None)
@given(rows.filter(lambda rows: len({row[0] for row in rows}) > 1), st.integers(2, 10), st.integers(0, 3))
def test_folds_keep_groups_whole_and_none_is_empty(rows, folds, seed):
    groups, classes, _ = (list(column) for column in zip(*rows, strict=True))
    found = fold_of(groups, classes, folds, seed)
    assert all(len(numbers) == 1 for numbers in splits_of(groups, found).values())
    assert set(found) == set(range(min(folds, len(set(groups)))))


def test_folds_are_balanced_in_size_and_class():
    classes = [int(n % 7 == 0) for n in range(350)]
    found = fold_of(singles(350), classes, 5, 0)
    for fold in range(5):
        held = [c for f, c in zip(found, classes, strict=True) if f == fold]
        assert abs(len(held) - 70) <= 1 and abs(sum(held) - 10) <= 1
    assert found != fold_of(singles(350), classes, 5, 1)


def test_folds_of_one_group_are_an_error():
    with pytest.raises(DataError, match="at least two groups, found 1"):
        fold_of(["a", "a"], [0, 1], 5, 0)


def test_leaking_rows_are_those_with_a_relative_in_an_earlier_split():
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    splits = ["train", "val", "val", "test", "train", "test", "test"]
    assert leaking_rows(groups, splits) == [False, True, False, True, False, True, False]


def test_many_groups_take_little_memory():
    n = 20_000
    groups, classes = singles(n), [0, 1] * (n // 2)
    tracemalloc.start()
    splits = assign_splits(groups, groups, classes, [None] * n, val=0.1, test=0.2, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Counter(splits.values()) == {"train": 14_000, "val": 2_000, "test": 4_000}
    assert peak < 400 * n  # bytes; an object per group takes 700


def test_values_are_numbered_by_place_then_by_appearance():
    assert factorize(["b", "c", "a", None, "c"], ["a", "b"]).tolist() == [1, 2, 0, -1, 2]
    assert factorize([]).tolist() == []
