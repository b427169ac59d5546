"""Splits by hash and by time: what a group is decides, and not who else is there, their order or their names."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifocal.data.splits import assign_splits, splits_beside_official
from bifocal.data.stable_splits import carve_by_hash, carve_by_time, content_hash, keyed_share, times_of
from bifocal.errors import DataError
from bifocal.example import Example

SHARES = {"val": 0.2, "test": 0.3}


def by_hash(rows, key="k", kinds=None, official=None, promised=None):
    """Split of each row; a row is (content, group)."""
    contents, groups = [content for content, _ in rows], [group for _, group in rows]
    carve = carve_by_hash(groups, contents, kinds or [None] * len(rows), key)
    return splits_beside_official(groups, official or [None] * len(rows), promised, SHARES, carve)


def split_of_groups(rows, splits):
    """Group, as its sorted contents -> its split; each has one."""
    found = {}
    for (_, group), split in zip(rows, splits, strict=True):
        found.setdefault(group, set()).add(split)
    members = {group: tuple(sorted(content for content, own in rows if own == group)) for group in found}
    assert all(len(one) == 1 for one in found.values())
    return {members[group]: one.pop() for group, one in found.items()}


posts = st.lists(
    st.tuples(st.integers(0, 10**6).map(str), st.integers(0, 25).map(str)), min_size=8, max_size=80,
    unique_by=lambda row: row[0],
)  # fmt: skip


def drawn(rows, key="k"):
    try:
        return split_of_groups(rows, by_hash(rows, key))
    except DataError as error:  # every group in val or test: that too is told
        assert "none is left to train on" in str(error)
        return None


@settings(max_examples=200, deadline=None)
@given(posts, posts, st.randoms(use_true_random=False))
def test_groups_that_gain_and_lose_no_member_keep_their_split(rows, others, chance):
    """Adding, removing, reordering, renaming, prefixes and merged groups, all at once."""
    before = drawn(rows)
    changed = [row for row in rows if chance.random() < 0.8]
    changed += [row for row in others if row[0] not in {content for content, _ in rows}]
    merged = {str(number): str(chance.choice([number, number, number, 0])) for number in range(26)}
    names = [str(number) for number in range(100, 126)]
    chance.shuffle(names)
    changed = [(content, names[int(merged[group])]) for content, group in changed]
    chance.shuffle(changed)
    after = drawn(changed[: chance.randint(1, len(changed))] if changed else rows)
    if before is None or after is None:
        return
    for members, split in after.items():
        assert before.get(members, split) == split


@settings(max_examples=50, deadline=None)
@given(posts, st.text(min_size=1, max_size=90))
def test_the_order_of_rows_and_the_length_of_the_key_do_not_matter(rows, key):
    assert drawn(rows, key) == drawn(rows[::-1], key)


def test_shares_are_met_and_another_key_gives_other_splits():
    rows = [(f"post {number}", str(number)) for number in range(4000)]
    first, second = by_hash(rows, "one"), by_hash(rows, "two")
    for split, share in SHARES.items():
        assert abs(first.count(split) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    both = sum(a == b for a, b in zip(first, second, strict=True)) / 4000
    assert abs(both - (0.5**2 + 0.2**2 + 0.3**2)) < 0.03
    assert 0 <= keyed_share("one", "") < 1


def test_another_share_of_val_moves_no_test_row():
    groups = [str(number) for number in range(500)]
    found = [
        splits_beside_official(
            groups, [None] * 500, None, {"val": val, "test": 0.2}, carve_by_hash(groups, groups, [None] * 500, "k")
        )
        for val in (0.1, 0.3)
    ]
    assert [a == "test" for a in found[0]] == [b == "test" for b in found[1]]
    assert all(b == "val" for a, b in zip(*found, strict=True) if a == "val")


def test_a_split_without_a_class_is_refused_and_a_key_that_does_better_is_named():
    rows = [(f"post {number}", str(number)) for number in range(40)]
    kinds = ["yes" if number < 4 else "no" for number in range(40)]
    bad = next(key for key in map(str, range(100)) if "yes" not in _kinds(rows, kinds, key, "test"))
    with pytest.raises(DataError, match=r"row is 'yes' under splits.key: .* set splits.key: \"(.+)\", under") as told:
        by_hash(rows, bad, kinds)
    good = str(told.value).split('set splits.key: "')[1].split('"')[0]
    splits = by_hash(rows, good, kinds)
    assert {(split, kind) for split, kind in zip(splits, kinds, strict=True)} == {
        (split, kind) for split in ("train", "val", "test") for kind in ("yes", "no")
    }


def _kinds(rows, kinds, key, split):
    return {kind for kind, own in zip(kinds, by_hash(rows, key), strict=True) if own == split}


def test_a_class_of_two_groups_cannot_be_everywhere_and_is_not_refused():
    rows = [(f"post {number}", str(number)) for number in range(40)]
    assert by_hash(rows, "k", ["rare" if number < 2 else "no" for number in range(40)])


def test_official_splits_stay_and_a_promise_of_train_holds():
    rows = [(f"post {number}", str(number)) for number in range(200)]
    official = ["test"] * 20 + ["train"] * 80 + [None] * 100
    promised = [number in range(20, 60) for number in range(200)]
    splits = by_hash(rows, official=official, promised=promised)
    assert splits[:20] == ["test"] * 20 and splits[20:60] == ["train"] * 40
    assert set(splits[60:]) == {"train", "val"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12).map(str), st.booleans()), min_size=4, max_size=60), st.integers(0, 5)
)  # fmt: skip
def test_drawn_by_the_seed_too_a_promise_of_train_holds_and_groups_stay_whole(rows, seed):
    groups, promised = [group for group, _ in rows], [one for _, one in rows]
    official = ["train" if one else None for one in promised]
    ids = [str(number) for number in range(len(rows))]
    splits = assign_splits(
        ids, groups, [0] * len(rows), official, val=0.2, test=0.3, seed=seed, promised=promised
    )  # fmt: skip
    found = {}
    for name, group in zip(ids, groups, strict=True):
        found.setdefault(group, set()).add(splits[name])
    assert all(len(one) == 1 for one in found.values())
    assert all(splits[name] == "train" for name, one in zip(ids, promised, strict=True) if one)


def by_time(times, groups=None, kinds=None, contents=None):
    n = len(times)
    groups, contents = groups or [str(i) for i in range(n)], contents or [f"{i:04}" for i in range(n)]
    carve = carve_by_time(groups, contents, kinds or [None] * n, times, "posted")
    return splits_beside_official(groups, [None] * n, None, SHARES, carve)


def test_the_latest_are_test_and_those_before_them_val():
    splits = by_time([float(n) for n in range(100)])
    assert splits == ["train"] * 50 + ["val"] * 20 + ["test"] * 30


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 20).map(str), st.uuids().map(str)),
        min_size=3,
        max_size=60,
        unique_by=lambda row: row[2],
    ),
    st.randoms(),
)
def test_by_time_nothing_in_train_is_later_than_anything_in_test_and_order_is_nothing(rows, chance):
    def split(some):
        try:
            return by_time([float(row[0]) for row in some], [row[1] for row in some], contents=[row[2] for row in some])
        except DataError:
            return None

    if (splits := split(rows)) is None:
        return
    latest = {group: max(time for time, own, _ in rows if own == group) for _, group, _ in rows}
    place = {"train": 0, "val": 1, "test": 2}
    ranked = sorted((latest[group], place[own]) for (_, group, _), own in zip(rows, splits, strict=True))
    for (early, one), (late, other) in pairwise(ranked):
        assert one <= other or early == late
    assert len(set(zip([group for _, group, _ in rows], splits, strict=True))) == len(latest)
    before = dict(zip(rows, splits, strict=True))
    chance.shuffle(rows)
    assert dict(zip(rows, split(rows), strict=True)) == before


def test_a_test_split_by_time_without_a_class_is_refused():
    with pytest.raises(DataError, match=r"no test row is 'yes' by the times of 'posted'.* set splits.by: hash"):
        by_time([float(n) for n in range(100)], kinds=["yes" if n < 60 and n % 2 else "no" for n in range(100)])


def test_rows_without_a_time_are_train():
    assert by_time([None, None, *(float(n) for n in range(10))])[:2] == ["train", "train"]


def test_times_are_dates_or_numbers_and_never_both():
    found = times_of(["a", "b", "c"], ["2026-03-01", "2026-03-01T00:00:01Z", None], "posted")
    assert found[1] - found[0] == 1 and found[2] is None
    assert times_of(["a", "b"], [3, "4.5"], "posted") == [3.0, 4.5]
    with pytest.raises(DataError, match=r"holds dates \(row 'a'\) and numbers \(row 'b'\)"):
        times_of(["a", "b"], ["2026-03-01", "17"], "posted")
    with pytest.raises(DataError, match=r"row 'b' has 'last week', which is no time"):
        times_of(["a", "b"], ["2026-03-01", "last week"], "posted")
    with pytest.raises(DataError, match="no row has anything there"):
        times_of(["a", "b"], [None, " "], "posted")


def test_content_is_what_was_posted_and_neither_id_nor_place_of_a_file():
    def post(name="1", text="hello", picture="a.png", pdq="0f", **record):
        parts = {"text": text, "image": picture, **({"tabular": record} if record else {})}
        return Example(name, parts, {}, meta={"facts": {"image": {"pdq": pdq, "sha256": "x"}}})

    same = content_hash(post())
    assert content_hash(post(name="2", picture="moved/b.png")) == same
    others = [post(text="hallo"), post(pdq="1f"), post(age=3), post(age=4)]
    assert len({same, *map(content_hash, others)}) == 5
    assert content_hash(post(a=1, b=2)) == content_hash(post(b=2, a=1))
    content_hash(post(text="\ud800"))
