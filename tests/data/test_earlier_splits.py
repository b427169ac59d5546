"""Splits that are taken over: old rows keep theirs whatever comes, and no new row comes near those that judge."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.test_prepare import Prepared

from bifocal.data.earlier_splits import EarlierRun, NewRows, SplitRule, take_over, told_of
from bifocal.errors import DataError, RunError
from bifocal.sources.table import Table
from bifocal.workspace import read_json, read_jsonl, write_json

HASH = SplitRule("hash", "k", {"val": 0.2, "test": 0.3})
SHUFFLE = SplitRule("shuffle", "0", {"val": 0.2, "test": 0.3})


def earlier(splits, rule=SHUFFLE):
    """A run whose rows' contents are ``c`` and their ids."""
    contents = {name: f"c{name}" for name in splits}
    return EarlierRun("old", rule, dict(splits), contents, {name: {"abuse": 0} for name in splits})


def rows(given, official=None, promised=None, labels=None, sources=None, samples=None):
    """``given``: (id, content, group)."""
    n = len(given)
    ids, contents, groups = (list(column) for column in zip(*given, strict=True))
    return NewRows(
        ids, contents, groups, official or [None] * n, promised or [None] * n, sources or [None] * n,
        labels or [{"abuse": 0}] * n, samples or [None] * n,
    )  # fmt: skip


def test_new_rows_near_what_judges_are_left_out_and_named():
    old = earlier({"1": "train", "2": "val", "3": "test", "4": "train"})
    kept = [("1", "c1", "a"), ("2", "c2", "b"), ("3", "c3", "c"), ("4", "c4", "d")]
    new = [("5", "x", "a"), ("6", "y", "b"), ("7", "z", "c"), ("8", "w", "e")]
    taken = take_over(rows(kept + new), old)
    assert taken.splits == {**old.splits, "5": "train", "8": "train"}
    assert [(row["id"], row["why"], row["near"]) for row in taken.changes] == [
        ("6", "near an old val row", ["2"]), ("7", "near an old test row", ["3"]),
    ]  # fmt: skip
    assert taken.counts["new"] == {"train": 2} and taken.counts["matched"] == {"content": 4}
    assert told_of(taken.counts) == [
        "2 rows are left out (1 near an old test row, 1 near an old val row): see split_changes.jsonl"
    ]


def test_a_new_row_that_joins_old_groups_of_different_splits_is_left_out():
    old = earlier({"1": "train", "2": "test"})
    taken = take_over(rows([("1", "c1", "a"), ("2", "c2", "a"), ("9", "x", "a")]), old)
    assert taken.splits == old.splits
    assert taken.counts["left_out"] == {"near old train and test rows": 1}


def test_rows_are_known_by_content_then_by_id_and_what_is_gone_or_relabelled_is_told():
    old = earlier({"1": "test", "p2": "val", "3": "train", "4": "test", "5": "train"})
    given = [("one", "c1", "a"), ("posts:p2", "edited", "b"), ("3", "c3", "c")]
    labels = [{"abuse": 0}, {"abuse": 0}, {"abuse": 1}]
    taken = take_over(rows(given, labels=labels, sources=[None, "posts", None]), old)
    assert taken.splits == {"one": "test", "posts:p2": "val", "3": "train"}
    assert taken.counts["matched"] == {"content": 2, "id": 1}
    assert (taken.counts["gone"], taken.counts["relabelled"]) == ({"train": 1, "test": 1}, {"train": 1})
    told = " ".join(told_of(taken.counts))
    assert "gone: 1 of train, 1 of test" in told and "labelled otherwise: 1 of train" in told
    assert ("3", "abuse: 0, now 1") in {(row["id"], row["why"]) for row in taken.changes}


def test_a_number_may_be_that_of_a_row_and_makes_no_other_post_an_old_one():
    old = earlier({"1": "test", "2": "val", "3": "train"})
    taken = take_over(rows([("1", "stranger", "a"), ("2", "c3", "b")]), old)
    assert taken.splits == {"1": "train", "2": "train"} and taken.counts["gone"] == {"test": 1, "val": 1}


def test_a_number_behind_a_sources_name_is_no_more_than_a_number():
    old = earlier({"posts:5": "test", "posts:6": "val", "7": "train"})
    given = [("posts:5", "stranger", "a"), ("posts:6", "another", "b"), ("posts:7", "third", "c"), ("x", "c7", "d")]
    taken = take_over(rows(given, sources=["posts", "posts", "posts", None]), old)
    assert set(taken.splits.values()) == {"train"} and taken.counts["matched"] == {"content": 1}


def test_an_old_row_whose_content_has_changed_is_left_out_where_it_comes_near_what_judges():
    old = earlier({"one": "train", "two": "test", "three": "test", "four": "train"})
    given = [("one", "edited", "b"), ("two", "c2", "b"), ("three", "edited too", "b"), ("four", "c4", "d")]
    old = EarlierRun(old.name, old.rule, old.splits, old.contents | {"two": "c2", "four": "c4"}, old.labels)
    taken = take_over(rows(given), old)
    assert taken.splits == {"two": "test", "three": "test", "four": "train"}
    assert [(row["id"], row["why"], row["near"]) for row in taken.changes if row["what"] == "left out"] == [
        ("one", "near an old test row", ["two"])
    ]


def test_a_judged_post_equal_to_a_row_that_judges_is_left_out_whatever_its_group():
    old = earlier({"1": "test", "2": "train"})
    taken = take_over(rows([("1", "c1", "a"), ("2", "c2", "b"), ("judged:9", "c1", "z")]), old)
    assert taken.splits == {"1": "test", "2": "train"}
    assert taken.counts["left_out"] == {"near an old test row": 1}


def test_of_equal_rows_each_keeps_its_own_and_one_too_many_is_new():
    old = EarlierRun("old", SHUFFLE, {"1": "train", "2": "test"}, {"1": "c", "2": "c"}, {"1": {}, "2": {}})
    assert take_over(rows([("2", "c", "a"), ("1", "c", "b")]), old).splits == {"2": "test", "1": "train"}
    taken = take_over(rows([("2", "c", "a"), ("1", "c", "b"), ("7", "c", "a")]), old)
    assert taken.splits == {"2": "test", "1": "train"}
    assert taken.counts["left_out"] == {"near old train and test rows": 1}


def test_a_judged_copy_of_a_test_row_never_takes_its_place():
    old = earlier({"1": "test", "2": "train"})
    given = [("judged:1", "c1", "a"), ("renamed", "c1", "a"), ("2", "c2", "b")]
    taken = take_over(rows(given, ["train", None, None], ["train", None, None], sources=["judged", None, None]), old)
    assert taken.splits["renamed"] == "test" and "judged:1" not in taken.splits
    alone = take_over(rows([given[0], given[2]], ["train", None], ["train", None], sources=["judged", None]), old)
    assert alone.splits == {"2": "train"}
    assert alone.counts["left_out"] == {"train by its source's configuration, and test in the earlier run": 1}


def test_an_official_test_row_beside_an_old_train_row_is_left_out():
    old = earlier({"1": "train", "2": "test"})
    taken = take_over(rows([("1", "c1", "a"), ("2", "c2", "b"), ("3", "x", "a"), ("4", "y", "d")],
                           [None, None, "test", "test"]), old)  # fmt: skip
    assert taken.splits == {"1": "train", "2": "test", "4": "test"}


def audited(count, start=0):
    """Posts that were audited since: (id, content, group)."""
    return [(f"judged:{n}", f"a{n}", f"audited {n}") for n in range(start, start + count)]


def test_a_fifth_of_what_was_audited_is_kept_aside_and_stays_aside():
    old = earlier({"1": "train", "2": "test"})
    given = [("1", "c1", "a"), ("2", "c2", "b"), *audited(400)]
    table = rows(given, ["train"] * 402, [None, None, *["train"] * 400], samples=[None, None, *["audit"] * 400])
    taken = take_over(table, old, 0.2)
    assert 50 < len(taken.recent) < 110 and taken.counts["recent"] == len(taken.recent)
    assert not taken.splits.keys() & set(taken.recent) and len(taken.splits) == 402 - len(taken.recent)
    assert set(taken.splits.values()) == {"train", "test"} and not taken.counts["left_out"]
    contents = dict(zip(table.ids, table.contents, strict=True))
    aside, kept = frozenset(contents[name] for name in taken.recent), {n: contents[n] for n in taken.splits}
    later = EarlierRun("new", SHUFFLE, taken.splits, kept, {n: {} for n in contents}, aside)
    more = [*given, *audited(100, 400)]
    samples = [None, None, *["audit"] * 500]
    again = take_over(rows(more, ["train"] * 502, [None, None, *["train"] * 500], samples=samples), later, 0.2)
    assert set(taken.recent) < set(again.recent) and again.splits.items() >= taken.splits.items()


def test_what_is_near_a_row_that_is_kept_aside_is_left_out_and_near_an_old_row_none_is():
    old = earlier({"1": "train", "2": "test"})
    given = [("1", "c1", "a"), ("2", "c2", "b"), *audited(60)]
    samples = [None, None, *["audit"] * 60]
    name = take_over(rows(given, samples=samples), old, 0.5).recent[0]
    group = {one: own for one, _, own in given}[name]
    near = take_over(rows([*given, ("copy", "zz", group)], samples=[*samples, None]), old, 0.5)
    assert name in near.recent and "copy" not in near.splits
    assert near.counts["left_out"] == {"near a row that is kept aside to judge by": 1}
    joined = [(one, content, "a" if one == name else own) for one, content, own in given]
    taken = take_over(rows(joined, samples=samples), old, 0.5)
    assert taken.splits[name] == "train" and name not in taken.recent
    reviewed = take_over(rows(given, samples=[None, None, *["review"] * 60]), old, 0.5)
    assert reviewed.recent == []


def test_what_was_kept_aside_is_never_trained_on_whoever_brings_it():
    splits, contents, labels = {"1": "train", "2": "test"}, {"1": "c1", "2": "c2"}, {"1": {}, "2": {}}
    old = EarlierRun("old", SHUFFLE, splits, contents, labels, frozenset({"a0"}))
    kept = [("1", "c1", "a"), ("2", "c2", "b")]
    given = [*kept, ("posts:9", "a0", "z"), ("near it", "zz", "z"), ("bridge", "a0", "a")]
    taken = take_over(rows(given), old, 0.2)
    assert taken.splits == splits and taken.recent == []
    assert taken.counts["left_out"] == {"near a row that is kept aside to judge by": 3}
    alone = take_over(rows([*kept, ("bridge", "a0", "a")], samples=[None, None, "audit"]), old, 0.2)
    assert alone.splits == splits and alone.recent == []


def test_another_table_is_refused():
    with pytest.raises(DataError, match="no row is one of old, neither by its content nor by its id"):
        take_over(rows([("x", "y", "z")]), earlier({"1": "train"}))
    with pytest.raises(DataError, match="none of the rows of old that are still there is train"):
        take_over(rows([("2", "c2", "a")]), earlier({"1": "train", "2": "test"}))


@st.composite
def changed_table(draw):
    """A run, and its rows after some went, came, were renamed, reordered and joined."""
    count = draw(st.integers(2, 25))
    splits = {str(n): draw(st.sampled_from(["train", "train", "val", "test"])) for n in range(count)}
    splits["0"] = "train"
    gone = draw(st.sets(st.integers(1, count - 1)))
    renamed = draw(st.booleans())
    table = [
        (f"other {n}" if renamed else str(n), f"c{n}", str(draw(st.integers(0, 12))))
        for n in range(count)
        if n not in gone
    ]
    table += [(f"new {n}", f"n{n}", str(draw(st.integers(0, 16)))) for n in range(draw(st.integers(0, 15)))]
    return splits, draw(st.permutations(table)), draw(st.sampled_from([HASH, SHUFFLE]))


@settings(max_examples=300, deadline=None)
@given(changed_table())
def test_whatever_comes_old_rows_keep_their_split_and_what_judges_stays_clean(case):
    splits, table, rule = case
    old = earlier(splits, rule)
    taken = take_over(rows(table), old)
    of_content = {content: splits[name] for name, content in old.contents.items()}
    held = {}
    for name, content, group in table:
        if content in of_content:
            assert taken.splits[name] == of_content[content]
            held.setdefault(group, set()).add(of_content[content])
    left_out = {row["id"] for row in taken.changes if row["what"] == "left out"}
    for name, content, group in table:
        if content not in of_content:
            near = held.get(group, set())
            assert (name in left_out) == bool(near - {"train"})
            assert (name in taken.splits) != (name in left_out)
            if near == {"train"} or (not near and rule is SHUFFLE):
                assert taken.splits[name] == "train"
    new_groups = {}
    for name, content, group in table:
        if content not in of_content and group not in held:
            new_groups.setdefault(group, set()).add(taken.splits[name])
    assert all(len(one) == 1 for one in new_groups.values())
    assert sum(taken.counts["gone"].values()) == len(splits) - sum(taken.counts["matched"].values())
    again = take_over(rows(table[::-1]), old)
    assert again.splits == taken.splits


WORDS = ["river", "kettle", "window", "garden", "bicycle", "thunder", "pepper", "violin", "marble", "lantern"]


def text(number):
    return " ".join(WORDS[int(digit)] + digit for digit in f"{number * 7919:06d}")


def table(folder, posts):
    """A run-to-be on a CSV of (id, text, abuse, day)."""
    folder.mkdir(parents=True)
    lines = [f"{name},{words},{label},2026-01-{day:02d}" for name, words, label, day in posts]
    (folder / "posts.csv").write_text("id,text,abuse,day\n" + "\n".join(lines) + "\n")
    return Table(root=str(folder / "posts.csv"), id="id", text="text", labels={"abuse_hate": "abuse"})


def prepared(folder, posts, **splits):
    made = Prepared(folder, table(folder / "data", posts), modalities=["text"], splits=splits)
    counts = made.split()
    write_json(made.space.record, {"run": "p", "config": made.config.model_dump(mode="json"), "text_role": "caption"})
    return made, counts


POSTS = [(f"post-{n}", text(n), n % 2, n % 28 + 1) for n in range(60)]


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "a run from before"])
def test_a_run_takes_over_the_splits_of_another(tmp_path, noted):
    first, _ = prepared(tmp_path / "old", POSTS)
    before = read_json(first.space.splits)
    if not noted:
        first.space.split_record.unlink()
    test_row = next(post for post in POSTS if before[post[0]] == "test")
    more = [(f"again-{n}", text(n), n % 2, 1) for n in range(100, 120)]
    near = ("copy", test_row[1], test_row[2], 1)
    second, counts = prepared(tmp_path / "new", [near, *POSTS[5:], *more], **{"from": str(tmp_path / "old")})
    after = read_json(second.space.splits)
    assert {name: after[name] for name in before if name in after} == {
        name: split for name, split in before.items() if name not in {post[0] for post in POSTS[:5]}
    }
    assert all(after[name] == "train" for name, *_ in more)
    assert counts["from"]["left_out"] == {"near an old test row": 1} and "copy" not in after
    assert sum(counts["from"]["gone"].values()) == 5
    changes = list(read_jsonl(second.space.split_changes))
    assert {row["id"] for row in changes if row["what"] == "left out"} == {"copy"}
    _, counts = prepared(tmp_path / "third", [*POSTS, *more], **{"from": str(tmp_path / "new")})
    assert counts["from"]["new"] == {"train": 5}


def test_by_hash_the_rule_is_noted_and_a_run_from_it_goes_on_by_it(tmp_path):
    more = [(f"again-{n}", text(n), n % 2, 1) for n in range(100, 200)]
    first, counts = prepared(tmp_path / "old", POSTS, by="hash", key="spring", val=0.2, test=0.2)
    record = read_json(first.space.split_record)
    assert record["rule"] == counts["rule"] == {"by": "hash", "key": "spring", "shares": {"val": 0.2, "test": 0.2}}
    assert record["contents"].keys() == read_json(first.space.splits).keys()
    second, _ = prepared(tmp_path / "new", [*POSTS, *more], **{"from": str(tmp_path / "old")})
    alone, _ = prepared(tmp_path / "alone", [*more, *POSTS], by="hash", key="spring", val=0.2, test=0.2)
    assert read_json(second.space.splits) == read_json(alone.space.splits)
    assert read_json(second.space.split_record)["rule"] == record["rule"]


def test_by_time(tmp_path):
    made, _ = prepared(tmp_path / "run", POSTS, by="time", time="day", val=0.2, test=0.2)
    splits = read_json(made.space.splits)
    days = {split: [day for name, *_, day in POSTS if splits[name] == split] for split in ("train", "val", "test")}
    assert max(days["train"]) <= min(days["val"]) and max(days["val"]) <= min(days["test"])
    with pytest.raises(DataError, match="splits.time = 'hour': no row has anything there"):
        prepared(tmp_path / "other", POSTS, by="time", time="hour")


def test_a_record_that_was_altered_is_told(tmp_path):
    made, _ = prepared(tmp_path / "run", POSTS)
    write_json(made.space.split_record, {"rule": {"by": "hash"}})
    with pytest.raises(RunError, match="not as a run writes it"):
        EarlierRun.of(tmp_path / "run")
    made.space.split_record.unlink()
    record = read_json(made.space.record)
    record["config"]["source"]["kind"] = "outside.module:Source"
    write_json(made.space.record, json.loads(json.dumps(record)))
    with pytest.raises(RunError, match=r"reads by outside\.module:Source, which is no part of Bifocal"):
        EarlierRun.of(tmp_path / "run")
