"""Columns are read as people write them where their cells settle it, and nothing is guessed where they do not."""

import random

import pytest

from bifocal.models.column_types import CellCounts, Form, described, parse_boolean, parse_date, parse_number

CHANCE = random.Random(0)
AMOUNTS = [CHANCE.uniform(1, 50_000) for _ in range(200)]
SWAPPED = str.maketrans(",.", ".,")


def column(cells, **said):
    counted = CellCounts()
    for cell in cells:
        counted.add(cell)
    return counted.summarize(**said)


WRITTEN = {
    "plain": lambda x: f"{x:.2f}",
    "US dollars": lambda x: f"${x:,.2f}",
    "a code behind": lambda x: f"{x:,.2f} USD",
    "decimal comma": lambda x: f"{x:.2f}".replace(".", ","),
    "German": lambda x: f"{x:,.2f} €".translate(SWAPPED),
    "French, with narrow spaces": lambda x: f"{x:,.2f} EUR".replace(",", "\u202f").replace(".", ","),
    "nbsp": lambda x: f"{x:,.2f}".replace(",", "\u00a0").replace(".", ","),
    "Swiss": lambda x: f"CHF {x:,.2f}".replace(",", "’"),
    "rupees": lambda x: f"Rs. {x:,.2f}",
    "crowns": lambda x: f"{x:.2f} kr".replace(".", ","),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_numbers_as_people_write_them(written):
    cells = [WRITTEN[written](amount) for amount in AMOUNTS]
    found = column(cells)
    assert (found.kind, found.odd, found.two_readings) == ("number", 0, "")
    assert [parse_number(cell, found.form) for cell in cells] == pytest.approx([round(x, 2) for x in AMOUNTS])


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        *(("(1,234.50)", -1234.5), ("$(5)", -5), ("($5)", -5), ("-$5", -5), ("$-5", -5), ("−5.5", -5.5), ("5-", -5)),
        *(("+3", 3), ("1e5", 1e5), (".5", 0.5), ("5.", 5), ("US$ 5", 5), ("₹1,23,456", 123456), ("12 %", 0.12), (7, 7)),
        *(
            (word, None)
            for word in ("12 m", "--5", "(5", "1,23", "1.2.3", "12  345", "$", ".", "1_000", "1e400", "€5 £6")
        ),
        *((True, None), (None, None)),
    ],
)
def test_a_number_with_a_decimal_point(cell, number):
    assert parse_number(cell, Form(decimal=".")) == number


def test_odd_cells_are_missing_up_to_two_in_a_hundred():
    prices = [f"{amount:.2f}" for amount in AMOUNTS[:98]]
    found = column([*prices, "unknown", "ask", None])
    assert (found.kind, found.odd, found.missing, set(found.examples)) == ("number", 2, 1, {"unknown", "ask"})
    many = column([*prices[:-1], "unknown", "unknown", "ask"])
    assert many.kind == "category" and "97 of 100 cells are numbers, and 3 are not" in described("price", many)
    assert column([*prices, "unknown", "unknown", "ask"], kind="number").odd == 3
    assert column(["2020-01-05"] * 98 + ["soon"] * 2).kind == "date"
    assert column([True] * 60 + [False] * 38 + ["maybe"] * 2).kind == "category"


@pytest.mark.parametrize(
    "cells",
    [
        ["1,234", "2,500", "950"],
        ["1,234"] * 3,
        ["1.234", "2.500", "950"],
        ["$1,234", "$950"],
        [1.5, "1,234"],
        ["1,50", "1.50"],
    ],
    ids=["thousands?", "all alike", "points between thousands?", "dollars", "typed numbers do not tell", "both marks"],
)
def test_what_reads_two_ways_is_refused_and_settled_by_the_option(cells):
    found = column(cells * 50)
    assert "options.decimal: {NAME:" in found.two_readings
    told = column(cells * 50, decimal=",")
    assert not told.two_readings and told.form.decimal == ","


@pytest.mark.parametrize(
    ("cells", "decimal"),
    [
        (["1,234", "2,500.5"], "."),
        (["1,234", "1,234,567"], "."),
        (["1,234", "0,5"], ","),
        (["1,234", "1234,5"], ","),
        (["1,234", "0,567"], ","),
        (["1.234", "1.234.567"], ","),
        (["1.234", "0.567"], "."),
        (["1.234", "2.345"], "."),  # three decimals throughout
        (["1.234", "1234"], "."),
    ],
)
def test_one_cell_settles_which_mark_is_which(cells, decimal):
    assert column(cells * 20).form.decimal == decimal


def test_a_stray_cell_in_the_other_convention_is_odd():
    found = column(["1,5"] * 99 + ["1.5"])
    assert (found.form.decimal, found.odd) == (",", 1)


def test_percent_signs_go_with_every_number_or_are_read_one_by_one():
    assert column(["12%", "5.5 %"] * 9).form.percent
    assert parse_number("12%", Form(percent=True)) == 0.12
    assert parse_number("12", Form(percent=True)) is parse_number(12, Form(percent=True)) is None
    mixed = column(["12%", "0.12"] * 9)
    assert not mixed.form.percent and "9 without a sign" in described("share", mixed)


@pytest.mark.parametrize(
    ("cells", "first", "day"),
    [
        (["21/05/2019", "03/04/2019"], True, 3),
        (["05/21/2019", "03/04/2019"], False, 4),
        (["21.05.2019", "03.04.2019"], None, 3),
        (["2019-05-21", "2019/04/03"], None, 3),
    ],
)
def test_dates_in_the_order_that_the_column_shows(cells, first, day):
    found = column(cells * 20)
    assert (found.kind, found.odd, found.form.day_first) == ("date", 0, first)
    assert parse_date(cells[1], first if "." not in cells[1] else True).day == day


def test_dates_that_read_two_ways_are_refused():
    found = column(["03/04/2019", "05/06/2020"] * 20)
    assert found.kind == "date" and "options.day_first: {NAME: true}" in found.two_readings
    assert column(["03/04/2019"] * 9, day_first=False).form.day_first is False
    assert not column(["04/04/2019"] * 9).two_readings


def test_yes_and_no_in_any_spelling():
    found = column(["yes", "No", "Y", "n", True, "false", 1, "0"] * 9)
    assert (found.kind, found.form.boolean, found.odd) == ("category", True, 0)
    assert {parse_boolean(cell) for cell in ("YES", "t", True, 1, 1.0)} == {"true"}
    assert {parse_boolean(cell) for cell in ("no", "F", False, 0)} == {"false"} and parse_boolean("maybe") is None
    assert not column(["0", "1"] * 9).form.boolean and column([0, 1] * 9).kind == "number"


def test_what_a_person_should_know_is_said():
    assert "is an id" in described("n", column(range(100)))
    assert "begin with 0" in described("postcode", column(["01234", "05678"] * 9))
    assert "nothing is converted" in described("price", column(["$5.00", "€5.00"] * 9))
    assert "mixed: 9 numbers among 90" in described("kind", column([1] * 9 + ["a"] * 81))
    line = described("price", column(["5.0"] * 99 + ["ask", None]), "the same in every training row")
    assert line == (
        "column price: numbers; 1 missing; 1 of 101 cells are none ('ask'), taken as missing; "
        "NOT READ: the same in every training row"
    )


@pytest.mark.parametrize("cell", ["1 " * 5000 + "x", "1," * 5000, "(" * 9999, "9" * 10_000, "$" + " " * 9998 + "1"])
def test_a_cell_too_long_for_a_number_is_none(cell):
    """Matching it would take a minute and more."""
    assert column([cell]).kind == "category" and parse_number(cell, Form(decimal=".")) is None
