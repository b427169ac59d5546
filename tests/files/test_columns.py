import datetime
import decimal
import json
import math

import pytest
from pydantic import ValidationError

from bifocal.config import explain
from bifocal.errors import DataError
from bifocal.example import LABELS, Example, Rejected, Taxonomy
from bifocal.files.columns import Columns, split_named, to_json_value
from bifocal.files.labels import MAX_CLASSES, LabelMap


def examples(rows: list[dict], **options) -> list:
    columns = Columns(**options)
    columns.check_columns([("a.csv", rows)])
    labels = columns.taxonomy(lambda: rows)
    found = [columns.example(row, f"a.csv:{i}", str(i), None, labels) for i, row in enumerate(rows, start=1)]
    for row in found:
        json.dumps(row.to_json(), allow_nan=False)
        if isinstance(row, Example):
            Taxonomy(labels).check(row.labels)
    return found


def classes_of(values: list, **spec) -> list:
    """Labels of rows with these raw values; the reason where one is rejected."""
    rows = examples(
        [{"bad": value} for value in values], labels={spec.pop("name", "abuse_hate"): {"column": "bad"} | spec}
    )
    return [next(iter(row.labels.values())) if isinstance(row, Example) else row.reason for row in rows]


# ---------------------------------------------------------------- roles


ROW = {
    "id": "7",
    "title": "A lamp",
    "body": "on a table",
    "img": "a/7.png",
    "age": "3",
    "kind": "x",
    "bad": "1",
    "by": "z",
}


def test_every_column_finds_its_place():
    (row,) = examples(
        [ROW | {"day": "dev", "secret": "s"}],
        id="id",
        text=["title", "body"],
        image="img",
        tabular=["age"],
        labels={"abuse_hate": "bad"},
        group="by",
        split="day",
        drop=["secret"],
    )
    assert row == Example(
        id="7",
        parts={"text": "A lamp\non a table", "image": "a/7.png", "tabular": {"age": "3"}},
        labels={"abuse_hate": 1},
        group="z",
        split="val",
        meta={"kind": "x"},
    )


def test_the_rest_is_what_has_no_other_role():
    row = ROW | {
        "day": "test",
        "column 1": "0",
        "list": [1],
        "blob": b"x",
        "secret": "s",
        "when": datetime.date(2020, 1, 2),
    }
    (found,) = examples(
        [row],
        id="id",
        text="title",
        image="img",
        tabular="rest",
        labels={"abuse_hate": "bad"},
        group="by",
        split="day",
        drop=["secret"],
    )
    assert found.parts["tabular"] == {"body": "on a table", "age": "3", "kind": "x", "when": "2020-01-02"}
    assert found.meta == {"column 1": "0", "list": [1], "blob": "<1 bytes>"}


def test_parts_that_are_not_there_have_no_key():
    rows = [
        {"title": None, "body": None, "img": "1.png", "age": None},
        {"title": " ", "body": "words", "img": None, "age": None},
        {"title": "words", "body": None, "img": "", "age": "3"},
    ]
    found = examples(rows, text=["title", "body"], image="img", tabular=["age"])
    assert [row.parts for row in found] == [
        {"image": "1.png"},
        {"text": "words"},
        {"text": "words", "tabular": {"age": "3"}},
    ]


def test_rows_without_an_id_column_are_numbered():
    assert [row.id for row in examples([{"text": "a"}, {"text": "b"}], text="text")] == ["1", "2"]


@pytest.mark.parametrize(
    ("value", "name"), [(7, "7"), (7.0, "7"), ("0042", "0042"), ("a.b/c 😀", "a.b/c 😀"), (7.5, "7.5")]
)
def test_an_id_is_text(value, name):
    assert [row.id for row in examples([{"id": value}], id="id")] == [name]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": None}, "column 'id' (id) is empty"),
        ({"id": " "}, "column 'id' (id) is empty"),
        ({"id": [1]}, "column 'id' holds a list; expected a text or a number"),
        ({"text": ["a", "b"]}, "column 'text' holds a list; expected a text or a number"),
        ({"text": b"a"}, "column 'text' holds a bytes; expected a text or a number"),
        ({"img": {"bytes": b"x"}}, "column 'img' (image) holds a dict, expected the path of a file; `kind: hub` reads"),
        ({"img": 3}, "column 'img' (image) holds a int, expected the path of a file"),
        ({"by": {}}, "column 'by' holds a dict; expected a text or a number"),
        ({"day": "later"}, "'later' in column 'day' (split) is unknown; allowed: train, training, val"),
        ({"bad": "perhaps"}, "label abuse_hate: 'perhaps' in column 'bad' is no class; allowed: 0, 1, or empty"),
    ],
)
def test_a_bad_cell_rejects_its_row_and_no_other(row, reason):
    good = {"id": "1", "text": "a lamp", "img": "1.png", "by": "x", "day": "train", "bad": "0"}
    options = {
        "id": "id",
        "text": "text",
        "image": "img",
        "group": "by",
        "split": "day",
        "labels": {"abuse_hate": "bad"},
    }
    bad, fine = examples([good | row, good], **options)
    assert isinstance(fine, Example)
    assert isinstance(bad, Rejected)
    assert bad.where == "a.csv:1"
    assert bad.reason.startswith(reason)
    assert bad.id == (None if "id" in row else "1")


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("train", "train"),
        (" Training", "train"),
        ("dev", "val"),
        ("VALIDATION", "val"),
        ("test", "test"),
        ("", None),
        ("A", "test"),
        ("3", "train"),
        ("extra", None),
        ("Test", "test"),
    ],
)
def test_splits_are_known_by_many_names(value, split):
    (row,) = examples([{"day": value}], split="day", split_map={"A": "test", 3: "train", "extra": None})
    assert row.split == split


def test_a_split_by_name():
    assert [split_named(name) for name in ("Dev", "training", "holdout")] == ["val", "train", None]


def test_values_become_json():
    when = datetime.datetime(2020, 1, 2, 3, 4)
    found = to_json_value(
        {"a": [math.nan, math.inf, 1.5], "b": decimal.Decimal("2.5"), "c": (when, datetime.time(1)), 5: b"xyz"}
    )
    assert found == {"a": [None, "inf", 1.5], "b": 2.5, "c": ["2020-01-02T03:04:00", "01:00:00"], "5": "<3 bytes>"}


# ---------------------------------------------------------------- mistakes in the options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tabular": ["price"]}, "tabular: column 'price' is the label dear, and would give it away"),
        ({"text": ["name", "price"]}, "text: column 'price' is the label dear, and would give it away"),
        ({"tabular": ["id"]}, "tabular: column 'id' is the id, which is never fed"),
        ({"tabular": ["host"]}, "tabular: column 'host' is the group, which is never fed"),
        ({"tabular": ["img"]}, "tabular: column 'img' is the image, which is never fed"),
        ({"tabular": ["age"], "drop": ["age"]}, "column 'age' is named both under tabular and under drop; choose one"),
        ({"txt": "name"}, "unknown key 'txt'; did you mean 'text'"),
        ({"split_map": {"a": "dev"}}, "split_map.a = 'dev'"),
        ({"labels": {"dear": 3}}, "labels.dear"),
        ({"labels": {"dear": {"colum": "price"}}}, "unknown key 'labels.dear.colum'"),
        ({"labels": {"dear": {"column": "p", "above": 3, "map": {"a": 1}}}}, "so map has no place beside it"),
        ({"labels": {"dear": {"column": "p", "above": 3, "min_rows": 3}}}, "so min_rows has no place beside it"),
        ({"labels": {"dear": {"column": "p", "above": "mean"}}}, "labels.dear.above"),
        ({"labels": {"dear": {"column": "p", "map": {"a": None}}}}, "the map names no class"),
        ({"labels": {"dear": {"column": "p", "classes": ["a", "a "]}}}, "names a class twice"),
        ({"labels": {"target_type": {"column": "p", "above": 3}}}, "target_type.above makes 0 and 1, but"),
        ({"labels": {"abuse_hate": {"column": "p", "map": {"a": "bad"}}}}, "abuse_hate.map leads to 'bad', but"),
        ({"labels": {"abuse_hate": {"column": "p", "classes": ["a", "b"]}}}, "abuse_hate has the classes 0, 1"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    given = {"id": "id", "group": "host", "image": "img", "labels": {"dear": "price"}} | options
    with pytest.raises(ValidationError) as raised:
        Columns(**given)
    assert message in explain(raised.value, Columns)


def test_a_label_column_may_stand_under_drop():
    assert examples([{"p": "1", "t": "x"}], text="t", labels={"abuse_hate": "p"}, drop=["p"])[0].labels == {
        "abuse_hate": 1
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "txet"}, r"a.csv has no column 'txet' \(text\); did you mean 'text'\? known: bad, id, text"),
        ({"id": "idd"}, r"a.csv has no column 'idd' \(id\); did you mean 'id'"),
        ({"image": "img"}, r"\(image\)"),
        ({"tabular": ["age"]}, r"\(tabular\)"),
        ({"labels": {"abuse_hate": "hateful"}}, r"there is no column 'hateful' \(labels.abuse_hate\); known: bad"),
        ({"group": "by"}, r"\(group\)"),
        ({"split": "day"}, r"\(split\)"),
        ({"drop": ["idd"]}, r"there is no column 'idd' \(drop\); did you mean 'id'"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_nearest(options, message):
    with pytest.raises(DataError, match=message):
        Columns(**options).check_columns([("a.csv", [{"id": 1, "text": "x", "bad": 0}])])


def test_a_label_may_stand_in_one_table_alone_but_a_part_in_each():
    train, test = ("train.csv", [{"text": "a", "bad": 1}]), ("test.csv", [{"text": "b"}])
    Columns(text="text", labels={"abuse_hate": "bad"}).check_columns([test, train])
    with pytest.raises(DataError, match="test.csv has no column 'text'"):
        Columns(text="text").check_columns([train, ("test.csv", [{"Text": "b"}])])


def test_a_key_may_come_late_in_json_lines():
    rows = [{"text": "a"}] * 3000 + [{"text": "b", "bad": 1}]
    Columns(labels={"abuse_hate": "bad"}).check_columns([("a.jsonl", rows)])


def test_a_table_is_read_no_further_than_needed():
    def rows():
        yield {"text": "a", "bad": 1}
        raise AssertionError("read on")

    Columns(text="text", labels={"abuse_hate": "bad"}).check_columns([("a.csv", rows())])


# ---------------------------------------------------------------- labels by a map


YAML = "map: {yes: 1, no: 0, maybe: null}"


def test_yes_and_no_of_yaml_match_the_words():
    import yaml

    given = yaml.safe_load(YAML)["map"]
    assert True in given  # what YAML makes of the word
    values = ["yes", "no", "Yes", " NO ", True, False, "true", "False", 1, 0, "1.0", "on", "maybe", "", None, math.nan]
    assert classes_of(values, map=given) == [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, None, None, None, None]
    assert classes_of(["yes", "maybe"], map=json.loads(json.dumps(given))) == [1, None]  # as run.json keeps it


@pytest.mark.parametrize(
    ("given", "values", "expected"),
    [
        ({"hateful": True, "fine": False}, ["hateful", " fine"], [1, 0]),
        ({1: "1", 0: "0"}, [1, "0", 1.0, "1.0", True], [1, 0, 1, 1, 1]),
        ({"1": 0, "2": 1, "3": 1}, [1, "2", 3.0], [0, 1, 1]),
        ({2.0: 1, 1.0: 0}, ["2", "1"], [1, 0]),
        ({"yes": 0, "no": 1}, ["yes", "no"], [0, 1]),
    ],
)
def test_raw_values_are_compared_as_they_are_written(given, values, expected):
    assert classes_of(values, map=given) == expected


@pytest.mark.parametrize("raw", ["perhaps", "yes", "2", 2, "HATEFUL"])
def test_a_value_outside_the_map_is_rejected(raw):
    (reason,) = classes_of([raw], map={"hateful": 1, "fine": 0})
    assert reason == f"label abuse_hate: {raw!r} in column 'bad' is not in the map; allowed: hateful, fine, or empty"


def test_no_spelling_of_yes_is_read_into_a_map_of_other_words():
    assert "is not in the map" in classes_of(["no"], map={"0": "none", "1": "some", "2": "many"}, name="amount")[0]


def test_a_cell_that_is_no_value_is_rejected():
    (reason,) = classes_of([["yes", "no"]], map={"yes": 1, "no": 0})
    assert reason == "label abuse_hate: column 'bad' holds a list; a label is a text, number or boolean"


def test_classes_of_a_map_stand_in_its_order():
    label = LabelMap(column="c", map={"x": "mild", "y": "harsh", "z": "mild", "w": None}).declared_label("tone")
    assert (label.classes, label.probability, label.description) == (("mild", "harsh"), "prob", "Column 'c'.")
    assert LabelMap(column="c", map={"a": 0, "b": 1, "c": 2}).declared_label("tone").classes == ("0", "1", "2")
    assert LabelMap(column="c", map={"a": "1", "b": "0"}).declared_label("tone").classes == (0, 1)
    assert LabelMap(column="c", map={"a": 1, "b": 0}).declared_label("tone").probability == "prob_tone"


# ---------------------------------------------------------------- labels without a map


def test_a_unified_label_has_its_classes():
    assert classes_of(["1", "1.0", 1, True, "true", "0", 0.0, ""]) == [1, 1, 1, 1, 1, 0, 0, None]
    assert classes_of(["none", " individual", None], name="target_type") == ["none", "individual", None]
    (reason,) = classes_of(["group"], name="target_type")
    assert "'group' in column 'bad' is no class; allowed: none, individual, organization" in reason
    columns = Columns(labels={"abuse_hate": "bad"})
    (label,) = columns.taxonomy(lambda: [{"bad": "1"}]).values()
    assert (label.classes, label.probability) == ((0, 1), LABELS["abuse_hate"].probability)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["1", "0", "1"], (0, 1)),
        ([True, False], (0, 1)),
        (["1.0", "0.0", ""], (0, 1)),
        (["b", "a", " b ", None], ("a", "b")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["1", "0", "2"], ("0", "1", "2")),
        (["yes", "no"], (0, 1)),
        ([3, 5], ("3", "5")),
    ],
)
def test_classes_are_found_in_the_column(values, classes):
    rows = [{"tone": value} for value in values]
    (label,) = Columns(labels={"tone": "tone"}).taxonomy(lambda: iter(rows)).values()
    assert label.classes == classes
    found = [row.labels["tone"] for row in examples(rows, labels={"tone": "tone"})]
    assert {value for value in found if value is not None} == set(classes)
    assert [value is None for value in found] == [raw in ("", None) for raw in values]


def test_rare_values_are_no_classes_and_their_rows_are_unlabelled():
    values = ["red"] * 5 + ["blue"] * 4 + ["teal"] * 2 + ["rose"]
    rows = [{"c": value} for value in values]
    columns = Columns(labels={"colour": {"column": "c", "min_rows": 4}})
    (label,) = columns.taxonomy(lambda: rows).values()
    assert label.classes == ("blue", "red")
    assert (
        label.description == "Column 'c'. Left out for fewer than 4 rows: teal (2), rose (1) (2 values, 3 rows in all)."
    )
    found = [columns.example(row, "", "1", None, {"colour": label}).labels["colour"] for row in rows]
    assert found == ["red"] * 5 + ["blue"] * 4 + [None] * 3


def test_rare_values_count_after_the_map_and_a_long_list_is_cut():
    spec = {"column": "c", "min_rows": 4, "map": {"a": "x", "b": "x", "c": "y", "d": "z", "e": None}}
    rows = [{"c": value} for value in "aabb" + "cccc" + "dd" + "eeeee"]
    columns = Columns(labels={"tone": spec})
    (label,) = columns.taxonomy(lambda: rows).values()
    assert label.classes == ("x", "y")
    assert columns.example({"c": "d"}, "", "1", None, {"tone": label}).labels == {"tone": None}
    assert isinstance(columns.example({"c": "f"}, "", "1", None, {"tone": label}), Rejected)
    many = [{"c": v} for v in [*"xxxxyyyy", *map(str, range(30))]]
    (label,) = Columns(labels={"tone": {"column": "c", "min_rows": 4}}).taxonomy(lambda: many).values()
    assert label.description.endswith("9 (1), … (30 values, 30 rows in all).")


def test_a_value_that_no_class_list_knows_is_rejected_even_beside_min_rows():
    values = ["individual"] * 3 + ["society"] * 3 + ["community", "group"]
    found = classes_of(values, name="target_type", min_rows=2)
    assert found[:7] == ["individual"] * 3 + ["society"] * 3 + [None]
    assert "'group' in column 'bad' is no class" in found[7]


@pytest.mark.parametrize(
    ("values", "spec", "message"),
    [
        (["a"] * 5, {}, r"column 'bad' has 1 values, and tone needs two classes; found: a \(5\)"),
        (["", None], {}, "has 0 values, and tone needs two classes; found: nothing"),
        (["a", "a", "b"], {"min_rows": 2}, "has 1 values with 2 rows or more"),
        (
            [str(i) for i in range(MAX_CLASSES + 1)],
            {},
            "over 1000 values, too many for the classes of tone.*above: median",
        ),
    ],
)
def test_a_column_that_is_no_label_is_refused(values, spec, message):
    with pytest.raises(DataError, match=message):
        classes_of(values, name="tone", **spec)


def test_given_classes_keep_their_order():
    assert classes_of(["low", "high", 3], name="tone", classes=["low", "mid", "high"])[:2] == ["low", "high"]
    assert "3 in column" in classes_of([3], name="tone", classes=["low", "high"])[0].replace("'", "")
    assert LabelMap(column="c", classes=[1, 0]).declared_label("tone").classes == (0, 1)
    assert classes_of([2, "3.0"], name="tone", classes=[3, 2, 1]) == ["2", "3"]


# ---------------------------------------------------------------- labels above a number


def test_a_number_stays_one_until_the_splits_are_known():
    assert classes_of(["149", 99.5, " 1e3", "", None, 0], name="dear", above="median") == [
        149,
        99.5,
        1000,
        None,
        None,
        0,
    ]
    label = LabelMap(column="price", above="median").declared_label("dear")
    assert (label.classes, label.above, label.description) == ((0, 1), "median", "Whether 'price' > median.")
    assert LabelMap(column="price", above=3).declared_label("dear").above == 3


@pytest.mark.parametrize("raw", ["$1,200", "cheap", True, "inf", math.inf])
def test_what_is_no_number_is_rejected(raw):
    (reason,) = classes_of([raw], name="dear", above=100)
    assert reason == f"label dear: {raw!r} in column 'bad' is no number, and the label is whether it is above one"


def test_a_quantity_is_no_set_of_classes():
    prices = [str(i / 7) for i in range(220)]
    with pytest.raises(DataError, match=r"column 'bad' has 220 values, numbers and most with one row.*`above: median`"):
        classes_of([*prices, prices[0]], name="dear")
    assert classes_of(prices, name="dear", above="median")[7] == 1
    assert set(classes_of([*prices, *"1122"], name="dear", min_rows=2)) == {None, "1", "2"}
    assert len(set(classes_of([*range(60)] * 2, name="dear"))) == 60  # each has its rows
    assert len(set(classes_of([f"w{i}" for i in range(60)], name="name"))) == 60
    assert len(set(classes_of([*range(20)], name="stars"))) == 20


@pytest.mark.parametrize("above", ["mean", True, "nan", [1], float("inf")])
def test_a_threshold_is_a_number_or_the_median(above):
    with pytest.raises(ValidationError) as raised:
        Columns(labels={"dear": {"column": "p", "above": above}})
    assert explain(raised.value, Columns) == (
        f"labels.dear.above: {above!r} is neither a number nor `median`, the two that it takes"
    )
    assert LabelMap(column="p", above="3.5").above == 3.5


def test_yes_and_no_of_yaml_stay_words_beside_others_and_in_messages():
    given = {True: "bad", False: "fine", "unsure": "unclear"}  # {yes: bad, no: fine, unsure: unclear}
    found = classes_of(["yes", "No", True, "unsure", "perhaps", "1"], name="tone", map=given)
    assert found[:4] == ["bad", "fine", "bad", "unclear"]
    assert found[4].endswith("'perhaps' in column 'bad' is not in the map; allowed: yes, no, unsure, or empty")
    assert found[5].startswith("label tone: '1' in column")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({True: 1, "true": 0}, "the keys True and 'true' mean the same: keep one"),
        ({"a": 1, " a": 0}, "the keys 'a' and ' a' mean the same"),
        ({"yes": 1, "on": 0}, "the keys 'yes' and 'on' mean the same, and lead to 1 and 0"),
        ({True: 1, "1": 0}, "the keys 'yes' and '1' mean the same, and lead to 1 and 0"),
    ],
)
def test_two_keys_of_one_meaning_are_refused(given, message):
    with pytest.raises(ValidationError) as raised:
        Columns(labels={"abuse_hate": {"column": "p", "map": given}})
    assert message in explain(raised.value, Columns)


def test_spellings_that_agree_may_stand_together():
    assert classes_of(["yes", "TRUE", "n"], map={"yes": 1, "true": 1, "no": 0}) == [1, 1, 0]


def test_options_without_a_part_are_refused_by_the_columns_there_are():
    with pytest.raises(DataError, match="no text, image or tabular column, and one is needed; columns: bad, words$"):
        Columns(id="words").check_parts({"words", "bad"})
    for options in ({"text": "words"}, {"image": "words"}, {"tabular": ["words"]}, {"tabular": "rest"}):
        Columns(**options).check_parts({"words", "bad"})
    Columns().check_parts(set())  # of no rows nothing can be said


def test_the_key_of_a_sample_is_never_fed():
    (row,) = examples([{"__key__": "7", "name": "x", "age": 3}], id="name", tabular="rest")
    assert row.parts == {"tabular": {"age": 3}} and row.meta == {"__key__": "7"}


@pytest.mark.parametrize(
    ("mapped", "names"),
    [
        ({"no": 0, "yes": 1}, ("no", "yes")),
        ({"hate": 1, "not hate": 0}, ("not hate", "hate")),
        ({"0": 0, "1": 1}, ()),  # numbers say no more than 0 and 1 do
        ({"fine": 0, "rude": 1, "cruel": 1}, ()),  # no one word for the class
    ],
)
def test_the_words_of_a_map_are_the_names_of_the_classes(mapped, names):
    label = LabelMap(column="c", map=mapped).declared_label("judged")
    assert label.names == names and label.shown == (names or ("0", "1"))
    kept = Taxonomy({"judged": label}).to_json()
    assert ("names" in kept["judged"]) == bool(names) and Taxonomy.from_json(kept)["judged"] == label
