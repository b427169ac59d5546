"""A record is checked, spelt one way and disturbed on purpose."""

import math
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifocal.contracts import Piece
from bifocal.errors import ConfigError, DataError
from bifocal.modalities.tabular import MAX_CHARACTERS, MAX_COLUMNS, Tabular, as_number

TABULAR = Tabular()
RECORD = {
    "rooms": 3,
    "price": 0,
    "size": 52.5,
    "floor": "4",
    "town": "Bree",
    "lift": False,
    "pets": None,
    "since": "2019-05-21",
}
CELLS = st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_infinity=False) | st.text()


def test_facts_count_cells_and_empty_ones():
    assert TABULAR.facts(RECORD) == {"columns": 8, "missing": 1}
    assert TABULAR.facts({"a": " ", "b": math.nan, "c": 0, "d": False}) == {"columns": 4, "missing": 2}
    assert TABULAR.facts({}) == {"columns": 0, "missing": 0}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("rooms=3", "must be a mapping of column names to values, found str"),
        ([("rooms", 3)], "found list"),
        ({3: "rooms"}, "must have a name, found '3'"),
        ({" ": 1}, "must have a name, found ' '"),
        ({"a": {"b": 1}}, "'a' holds a dict; allowed: a string, a number, true, false, null"),
        ({"a": [1]}, "holds a list"),
        ({"a": np.int64(1)}, "holds a int64"),
        ({"a": math.inf}, "not finite: give null"),
        ({"a": -math.inf}, "not finite"),
        ({"a": 10**309}, "not finite"),
        ({"a": "x" * (MAX_CHARACTERS + 1)}, "holds 10,001 characters; at most 10,000"),
        ({"x" * (MAX_CHARACTERS + 1): 1}, "name has 10,001 characters"),
        ({str(i): i for i in range(MAX_COLUMNS + 1)}, "has 1,001 columns; at most 1,000"),
        ({"a": 1, "a ": 2}, "same name but for spaces"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(raw, words):
    with pytest.raises(DataError, match=words) as error:
        TABULAR.facts(raw)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_reading_strips_and_empties():
    raw = {" town ": " Bree\n", "a": "", "b": " \t", "c": math.nan, "d": 0, "e": False, "f": "0012", "g": "a\ud800"}
    value = {"town": "Bree", "a": None, "b": None, "c": None, "d": 0, "e": False, "f": "0012", "g": "a\ufffd"}
    assert TABULAR.read(raw) == value
    assert TABULAR.read(raw)["e"] is False


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), CELLS, max_size=8))
def test_what_passes_the_checks_survives_packing(raw):
    try:
        TABULAR.facts(raw)
    except DataError:
        return
    value = TABULAR.read(raw)
    again = TABULAR.unpack(TABULAR.pack(value))
    assert again == value
    assert {name: type(cell) for name, cell in again.items()} == {name: type(cell) for name, cell in value.items()}
    assert TABULAR.read(value) == value
    TABULAR.facts(value)


def test_the_order_of_columns_does_not_show():
    assert TABULAR.pack(RECORD) == TABULAR.pack(dict(reversed(RECORD.items())))


@pytest.mark.parametrize("cell", ["1", "-1.5", "+.5", "2.", "1e3", "1E-3", 7, 7.5])
def test_numbers_are_also_read_from_words(cell):
    assert as_number(cell) == float(cell)


@pytest.mark.parametrize("cell", ["", "nan", "inf", "1_000", "1,000", "0x10", "12 m", "1e999", "٣", ".", True, None])
def test_other_words_are_no_numbers(cell):
    assert as_number(cell) is None


def test_a_hostile_cell_costs_no_more_than_its_length():
    begun = process_time()
    for _ in range(20):
        assert as_number("1" * (MAX_CHARACTERS - 1) + "x") is None
    assert process_time() - begun < 1  # quadratic: some 10 s


def changed(value, kind, severity, seed=0):
    disturbed = TABULAR.corrupt(value, kind, severity, np.random.default_rng(seed))
    assert disturbed.keys() == value.keys()
    TABULAR.facts(disturbed)
    return {name for name, cell in disturbed.items() if cell != value[name]}, disturbed


@pytest.mark.parametrize(("severity", "touched"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4)])
def test_missing_empties_a_share_of_the_cells(severity, touched):
    names, disturbed = changed(RECORD, "missing", severity)
    assert len(names) == touched
    assert {disturbed[name] for name in names} == {None}


def test_noise_changes_numbers_only_and_keeps_their_type():
    seen = set()
    for seed in range(50):
        names, disturbed = changed(RECORD, "noise", 5, seed)
        assert len(names) == 2  # 60% of 4
        assert {type(disturbed[name]) for name in names} == {type(RECORD[name]) for name in names}
        seen |= names
        if "size" in names:
            assert 52.5 / 2 <= disturbed["size"] <= 52.5 * 2
        if "price" in names:
            assert disturbed["price"] in (1, -1)
    assert seen == {"rooms", "price", "size", "floor"}


def test_unseen_replaces_words_and_booleans_only():
    seen = set()
    for seed in range(50):
        names, disturbed = changed(RECORD, "unseen", 1, seed)
        assert len(names) == 1
        assert disturbed[next(iter(names))].startswith("unseen ")
        seen |= names
    assert seen == {"town", "lift", "since"}


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(min_size=1), CELLS, max_size=8), st.sampled_from(Tabular.corruptions))
def test_any_record_can_be_disturbed_and_stays_one(raw, kind):
    try:
        TABULAR.facts(raw)
    except DataError:
        return
    changed(TABULAR.read(raw), kind, 5)


@pytest.mark.parametrize("kind", Tabular.corruptions)
def test_nothing_to_disturb_is_given_back(kind):
    for value in ({}, {"pets": None}):
        assert TABULAR.corrupt(value, kind, 5, np.random.default_rng(0)) == value


def test_unknown_corruptions_are_named():
    with pytest.raises(ConfigError, match="'noize'; did you mean 'noise'"):
        TABULAR.corrupt(RECORD, "noize", 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="severity 6 is not among 1, 2, 3, 4, 5"):
        TABULAR.corrupt(RECORD, "noise", 6, np.random.default_rng(0))


def test_each_cell_that_holds_something_is_emptied_once():
    record = {"price": 3.5, "pets": None, "lift": False}
    assert Tabular().occlusions(record) == [
        (Piece("price"), {"price": None, "pets": None, "lift": False}),
        (Piece("lift"), {"price": 3.5, "pets": None, "lift": None}),
    ]
    assert Tabular().occlusions({"price": 3.5, "pets": None}) == []
