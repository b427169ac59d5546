import random

import pytest

from bifocal.diagnose.column_roles import AskedRoles, find_roles
from bifocal.errors import DataError

N = 120
rng = random.Random(0)
LABEL = ["yes" if i % 3 == 0 else "no" for i in range(N)]
TEXT = [f"somebody said number {i} on the bridge today" for i in range(N)]
EMPTY = [None] * N


def roles(asked=None, **columns):
    given = {"text": TEXT, "hateful": LABEL, **columns}
    return {column.name: column for column in find_roles(given, asked or AskedRoles())}


@pytest.mark.parametrize(
    ("name", "cells", "role"),
    [
        ("post_id", [f"t-{i}" for i in range(N)], "id"),
        ("id", list(range(N)), "id"),
        ("user_id", [i % 40 for i in range(N)], "group"),
        ("thread", [f"t{i % 30}" for i in range(N)], "group"),
        ("author", [f"a{i}" for i in range(N)], "not read"),  # another in every row groups nothing
        ("posted", [f"2026-01-{1 + i % 28:02}" for i in range(N)], "time"),
        ("created_at", [1.7e9 + i for i in range(N)], "time"),
        ("country", [rng.choice(["DE", "US", "FR"]) for _ in range(N)], "record"),
        ("followers", [rng.randint(0, 9999) for _ in range(N)], "record"),
        ("price", [f"${rng.randint(0, 9)}.50" for i in range(N)], "record"),
        ("photo", [f"img/{i}.JPG" for i in range(N)], "image"),
        ("photo", [f"https://example.org/{i}.jpg" for i in range(N)], "not read"),
        ("set", [["train", "dev", "test"][i % 3] for i in range(N)], "split"),
        ("constant", ["x"] * N, "not read"),
        ("photo", [{"bytes": b"x", "path": None}] * N, "image"),  # inside the table
        ("nothing", EMPTY, "not read"),
        ("serial", list(range(1000, 1000 + N)), "not read"),
        ("code", [f"c{i}" for i in range(N)], "not read"),
        ("verdict", [rng.choice(["removed", "kept"]) for _ in range(N)], "not read"),
    ],
)
def test_the_role_of_a_column(name, cells, role):
    found = roles(**{name: cells})
    assert found[name].role == role and found[name].why
    assert (found["text"].role, found["hateful"].role) == ("text", "label")


@pytest.mark.parametrize(
    ("cells", "classes", "binary"),
    [
        (["yes", "no"], {"no": 0, "yes": 1}, True),
        ([True, False], {"false": 0, "true": 1}, True),
        ([1, 0], {"0": 0, "1": 1}, True),
        (["1.0", "0.0"], None, True),
        (["hate", "not hate"], {"not hate": 0, "hate": 1}, True),
        (["ham", "spam"], {"ham": 0, "spam": 1}, True),
        (["none", "insult", "threat"], {}, False),
    ],
)
def test_classes_of_a_label(cells, classes, binary):
    label = roles(AskedRoles(labels=["target"]), target=[cells[i % len(cells)] for i in range(N)])["target"].label
    assert label.binary is binary
    assert classes is None or dict(label.map) == classes


@pytest.mark.parametrize(("no", "yes"), [("n", "y"), ("f", "t"), ("off", "on"), ("nothate", "hate")])
def test_the_value_that_says_no_is_the_negative_one_however_rare(no, yes):
    cells = [yes] * 80 + [no] * 40
    assert roles(AskedRoles(labels=["target"]), target=cells)["target"].label.map == {no: 0, yes: 1}


def test_a_value_is_one_however_it_is_spelled_and_a_word_that_begins_with_not_says_nothing():
    asked = AskedRoles(labels=["target"])
    spelled = roles(asked, target=["Yes"] * 60 + ["yes"] * 10 + ["No"] * 50)["target"].label
    assert spelled.map == {"No": 0, "Yes": 1, "yes": 1} and spelled.binary
    assert roles(asked, target=["ordinary"] * 80 + ["notable"] * 40)["target"].label.map == {
        "ordinary": 0,
        "notable": 1,
    }


def test_how_sure_somebody_was_of_a_label_is_no_second_label():
    found = roles(label=[i % 2 for i in range(N)], label_confidence=[0.5 + i / N / 2 for i in range(N)])
    assert found["label"].role == "label" and found["label_confidence"].role != "label"


def test_of_two_words_that_tell_nothing_the_rarer_is_the_positive_one():
    found = roles(AskedRoles(labels=["kind"]), kind=["blue"] * 80 + ["red"] * 40)["kind"]
    assert found.label.map == {"blue": 0, "red": 1}
    assert found.warning == "does not say which of blue and red is positive: the rarer is taken, red; see its `map`"
    assert not roles(AskedRoles(labels=["kind"]), kind=["ham"] * 40 + ["spam"] * 80)["kind"].warning


@pytest.mark.parametrize("word", ["unsure", "Not sure", "?", "skipped", "cannot tell", "unlabeled"])
def test_a_third_value_by_which_nobody_answered_is_not_annotated(word):
    cells = ["yes"] * 40 + ["no"] * 70 + [word] * 10
    found = roles(AskedRoles(labels=["target"]), target=cells)["target"]
    assert found.label.map == {"no": 0, "yes": 1, word: None} and found.label.binary and not found.warning
    assert "10 rows say neither, and are not annotated" in found.why
    assert found.label.classes_of(cells).count(None) == 10


def test_a_third_value_that_says_something_makes_a_third_class_and_is_told():
    found = roles(AskedRoles(labels=["target"]), target=["yes"] * 40 + ["no"] * 60 + ["borderline"] * 20)["target"]
    assert not found.label.binary
    assert found.warning == "has borderline beside yes and no: each is a class, until a `map` says more"
    assert not roles(AskedRoles(labels=["target"]), target=["0", "1", "2"] * 40)["target"].warning


def test_a_score_becomes_two_classes():
    cells = [i / N for i in range(N)]
    found = find_roles({"text": TEXT, "toxicity": cells})
    label = next(column.label for column in found if column.label)
    assert label.above == 0.5 and sum(label.classes_of(cells)) == N // 2 - 1


def test_several_labels_are_found_and_their_rows_are_fed_to_none():
    found = roles(offensive=[i % 2 for i in range(N)])
    assert [name for name, column in found.items() if column.role == "label"] == ["hateful", "offensive"]


def test_what_gives_the_label_away_is_not_fed():
    found = roles(
        note=["insults" if label == "yes" else None for label in LABEL],
        score=[rng.random() + 5 * (label == "yes") for label in LABEL],
        noise=[rng.random() for _ in LABEL],
    )
    for name in ("note", "score"):
        assert found[name].role == "not read" and "gives hateful away" in found[name].warning
    assert found["noise"].role == "record" and not found["noise"].warning


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("reporter_email", ["x"] * 60 + ["y"] * 60, "e-mail"),
        ("contact", [f"user{i}@example.com" for i in range(N)], "e-mail"),
        ("origin", [f"10.0.{i % 7}.{i}" for i in range(N)], "IP"),
        ("line", [f"+49 30 1234{i:03}" for i in range(N)], "telephone"),
        ("full_name", [f"Ada Lovelace {'I' * (i % 9)}" for i in range(N)], "name"),
        ("name", [f"Ada Number{'x' * (i % 9)}" for i in range(N)], "name"),
    ],
)
def test_what_looks_personal_is_told_and_not_fed(name, cells, kind):
    column = roles(**{name: cells})[name]
    assert column.role == "not read" and kind in column.warning


def test_dates_and_prices_are_no_telephone_numbers():
    found = roles(day=[f"{1 + i % 28:02}.03.2026" for i in range(N)], size=[f"{i}.{i}" for i in range(N)])
    assert not found["day"].warning and not found["size"].warning


def test_a_title_and_a_body_are_both_read_and_a_note_is_not():
    found = roles(title=TEXT, remark=[f"an internal remark number {i} on that" for i in range(N)])
    assert [name for name, column in found.items() if column.role == "text"] == ["text", "title"]
    assert found["remark"].role == "not read"


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"text": TEXT, "stars": [i % 5 for i in range(N)]}, AskedRoles(), "no column is known for a label .* --label"),
        ({"text": TEXT, "a": [0, 1] * 60, "b": [1, 0] * 60}, AskedRoles(), r"\(of yes and no are a, b\): say which"),
        ({"text": TEXT, "label": ["no"] * N}, AskedRoles(), "cannot be the label, all 120 rows are 'no'"),
        ({"text": TEXT, "label": EMPTY}, AskedRoles(["label"]), "it is empty"),
        ({"text": TEXT}, AskedRoles(["hatefull"]), "--label 'hatefull': there is no such column"),
        ({"text": TEXT}, AskedRoles(["text"]), "120 values on 120 rows, which are no classes"),
        ({"text": TEXT, "y": LABEL}, AskedRoles(drop=["ys"]), "--drop 'ys': .* did you mean 'y'"),
    ],
)
def test_without_a_usable_label_the_message_says_what_to_do(columns, asked, message):
    with pytest.raises(DataError, match=message):
        find_roles(columns, asked)
