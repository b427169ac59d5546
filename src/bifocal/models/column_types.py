"""What a column holds, told by its own cells: numbers as people write them, dates, yes and no, or categories.

What two readings of a column differ in (is "1,234" a thousand or one and a bit?) is settled by cells that only one of
them can read. Where none settles it, nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ..config import Strict
from ..modalities.tabular import Cell, as_number

Kind = Literal["number", "category", "date"]
Mark = Literal[".", ","]

ODD = 0.02
"""Share of a column's cells up to which those that are not of its kind count as missing."""
EXAMPLES = 3
"""Odd cells that are named."""
LONGEST = 50
"""Characters of a number with all its marks and signs."""
MOST_VALUES = 1000
"""Distinct cells of a column that are counted apart."""

_SPELLED = str.maketrans(
    {**dict.fromkeys("\u00a0\u2007\u2009\u202f", " "), **dict.fromkeys("’‘ʼ`´", "'"), **dict.fromkeys("−–", "-")}
)
_SIGN = r"(?:US|CA|AU|NZ|HK|NT|MX|[ACRS])?\$|[¢£¤¥\u20a0-\u20cf]"
_CODE = (
    "AED|ARS|AUD|BGN|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|ISK|JPY|KES|KRW|KZT|MAD|MXN|MYR|NGN|"
    r"NOK|NZD|PEN|PHP|PKR|PLN|QAR|RMB|RON|RSD|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR|Fr\.?|kr\.?|Kč|zł|Ft|Rs\.?|lei"
)
_PLAIN = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_CELL = re.compile(
    rf"(?P<before>[-+]?)\s*(?P<open>\(?)\s*(?P<inside>[-+]?)\s*(?P<first>{_SIGN}|{_CODE})?\s*(?P<open2>\(?)"
    rf"(?P<sign>[-+]?)\s*(?P<core>[\d.,' ]*\d[\d.,' ]*?(?:e[-+]?\d+)?)\s*(?P<close2>\)?)\s*"
    rf"(?P<last>{_SIGN}|{_CODE}|%)?\s*(?P<after>-?)(?P<close>\)?)",
    re.ASCII | re.IGNORECASE,
)
_ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T\s].*)?", re.ASCII)
_DAY_OR_MONTH_FIRST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:[T\s].*)?", re.ASCII)
_TRUE, _FALSE = frozenset(("yes", "y", "true", "t", "on")), frozenset(("no", "n", "false", "f", "off"))


class Form(Strict):
    """How the cells of a column are written; what stands at its default was not needed to read them."""

    decimal: Mark | None = None
    """The mark before the decimals; None = no cell told, and what two marks would read differently is no number."""
    percent: bool = False
    """Every number is written with a percent sign: one without is not read."""
    day_first: bool | None = None
    """Of dates that do not begin with the year; None = none do not."""
    boolean: bool = False
    """A category of yes and no, true and false, in any spelling."""


class ColumnSummary(Strict):
    """What a column was found to hold."""

    kind: Kind
    form: Form = Form()
    rows: Annotated[int, Field(ge=0)]
    missing: Annotated[int, Field(ge=0)] = 0
    """Cells with nothing in them."""
    odd: Annotated[int, Field(ge=0)] = 0
    """Cells that are not of its kind, which count as missing."""
    remarks: tuple[str, ...] = ()
    """What a person should know of it; no cell is named here."""
    examples: tuple[str, ...] = ()
    """Of the odd cells, the most frequent first."""
    two_readings: str = ""
    """Why it cannot be read, where it cannot, and what to set."""


class CellCounts:
    """The cells of one column, counted by what they could be, in constant memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.money: Counter[str] = Counter()
        self.strange: dict[str, Counter[str]] = {kind: Counter() for kind in ("number", "date", "boolean")}
        self.shown: dict[str, str] = {}
        self.whole: set[int] | None = set()

    def add(self, cell: Any) -> None:
        """One more cell; None and an empty string are missing."""
        self.counts["rows"] += 1
        if cell is None or cell == "":
            self.counts["missing"] += 1
            return
        for kind, found in (
            ("number", self._number(cell)),
            ("date", self._date(cell)),
            ("boolean", self._boolean(cell)),
        ):
            self.counts[found] += 1
            if found == f"no {kind}" and (
                str(cell)[:50] in self.strange[kind] or len(self.strange[kind]) < MOST_VALUES
            ):
                self.strange[kind][str(cell)[:50]] += 1

    def _number(self, cell: Any) -> str:
        if isinstance(cell, int | float) and not isinstance(cell, bool):
            self._count_whole(cell)
            return "typed"
        if not isinstance(cell, str) or (read := _readings(cell)) is None:
            return "no number"
        found, unit, core, value = read
        if unit:
            self.money[unit.upper()] += 1
        else:
            self.counts["bare"] += 1
        if core[0] == "0" and core[1:].isdecimal():
            self.counts["leading zero"] += 1
        if value is not None:
            self._count_whole(value)
            self.counts["short" if len(core) < 4 else "long"] += 1
        else:
            self.shown.setdefault(found, cell)
        return found

    def _count_whole(self, number: float) -> None:
        """Whole numbers that never repeat are likely an id."""
        if self.whole is not None:
            if number in self.whole or int(number) != number:
                self.whole = None
            elif len(self.whole) < MOST_VALUES:
                self.whole.add(int(number))

    def _date(self, cell: Any) -> str:
        if not isinstance(cell, str) or not cell[:1].isdecimal():
            return "no date"
        days = [parse_date(cell, day_first) for day_first in (True, False)]
        if days[0] == days[1]:
            return "no date" if days[0] is None else "any date"
        found = "month first" if days[0] is None else "day first" if days[1] is None else "1/2/2020"
        self.shown.setdefault(found, str(cell)[:50])
        return found

    def _boolean(self, cell: Any) -> str:
        if isinstance(cell, bool):
            return "typed boolean"
        if str(cell).lower() in _TRUE | _FALSE:
            return "boolean"
        return "bit" if cell in ("0", "1", 0, 1) else "no boolean"

    # Summary ----------------------------------------------------------------------------------------

    @property
    def present(self) -> int:
        return self.counts["rows"] - self.counts["missing"]

    def summarize(
        self, kind: Kind | None = None, decimal: Mark | None = None, day_first: bool | None = None
    ) -> ColumnSummary:
        """What the column holds, or what it holds as a ``kind`` that somebody named."""
        if kind is None:
            kind, boolean = self._kind()
        else:
            boolean = False
        n = self.counts
        if kind == "number":
            return self._numbers(decimal)
        if kind == "date":
            return self._dates(day_first)
        remarks = []
        mostly = self._readable()
        if not boolean and n["no number"] and mostly > self.present / 2:
            odd = self.present - mostly
            remarks.append(
                f"{mostly:,} of {self.present:,} cells are numbers, and {odd:,} are not, more than {ODD:.0%}: read as "
                "categories; list it under experts.tabular.options.numbers to take the others as missing"
            )
        elif not boolean and n["typed"] and n["typed"] < self.present - n["either"]:
            remarks.append(f"mixed: {n['typed']:,} numbers among {self.present:,} cells, all read as categories")
        odd = n["no boolean"] if boolean else 0
        return ColumnSummary(
            kind="category",
            form=Form(boolean=boolean),
            odd=odd,
            examples=self._examples("boolean") if odd else self._examples("number") if remarks else (),
            remarks=tuple(remarks),
            rows=n["rows"],
            missing=n["missing"],
        )

    def _kind(self) -> tuple[Kind, bool]:
        n, most = self.counts, ODD * self.present
        if n["no number"] <= most:
            return "number", False
        if n["no date"] <= most:
            return "date", False
        words = n["boolean"] > 0 and n["no boolean"] <= most
        return "category", words

    def _readable(self) -> int:
        return self.present - self.counts["no number"]

    def _numbers(self, decimal: Mark | None) -> ColumnSummary:
        n, two_readings = self.counts, ""
        if decimal is None:
            point, comma = n["point"], n["comma"]
            if point and comma and min(point, comma) > ODD * self.present:
                two_readings = (
                    f"{self.shown['point']!r} has a decimal point, and {self.shown['comma']!r} a decimal comma"
                )
            elif point or comma:
                decimal = "." if point >= comma else ","
            elif n["1,234"]:
                two_readings = f"{self.shown['1,234']!r} reads two ways, and no cell settles it"
            elif n["1.234"] and n["short"] and not n["long"]:
                # 3 decimals throughout are a computer's; 950 beside 1.234 may be thousands as Europe writes them.
                two_readings = f"{self.shown['1.234']!r} reads two ways, and no cell settles it"
            elif n["1.234"]:
                decimal = "."
        odd = n["no number"] + (0 if two_readings else n["comma"] if decimal == "." else n["point"] if decimal else 0)
        percent = self.money["%"] > 0 and not n["bare"] and not n["typed"]
        return ColumnSummary(
            kind="number",
            form=Form(decimal=decimal, percent=percent),
            odd=odd,
            remarks=tuple(self._number_remarks(decimal)),
            examples=self._examples("number"),
            two_readings=two_readings
            and f"{two_readings}: say which mark stands before the decimals, as in "
            'experts.tabular.options.decimal: {NAME: "."} or {NAME: ","}, list it under options.categories, or drop it',
            rows=n["rows"],
            missing=n["missing"],
        )

    def _number_remarks(self, decimal: Mark | None) -> list[str]:
        remarks = []
        if decimal == ",":
            remarks.append("written with a decimal comma")
        elif decimal == "." and (grouped := self.counts["1,234"]):
            remarks.append(f"commas are between thousands ({grouped:,} cells)")
        if decimal == "," and (grouped := self.counts["1.234"]):
            remarks.append(f"points are between thousands ({grouped:,} cells)")
        if decimal == "." and self.counts["1.234"] and not self.counts["point"]:
            remarks.append(f"points such as that in {self.shown['1.234'][:1]}.… are read as decimal points")
        units = self.money.most_common(4)
        if units:
            bare = self.counts["bare"] + self.counts["typed"]
            without = f", and {bare:,} without a sign" if bare else ""
            signs = ", ".join(f"{unit} {count:,}" for unit, count in units)
            differ = len(units) > 1 and "%" not in self.money
            remarks.append(
                f"signs: {signs}{without}" + (", read as they stand: nothing is converted" if differ else "")
            )
        if "%" in self.money:
            remarks.append("5% is read as 0.05")
        if zeros := self.counts["leading zero"]:
            remarks.append(f"{zeros:,} cells begin with 0: if they are codes, list it under options.categories")
        whole = self.whole
        if (
            whole
            and len(whole) == min(self._readable(), MOST_VALUES) >= 50
            and max(whole) - min(whole) < 2 * len(whole)
        ):
            remarks.append("counts up, no number twice: if it is an id, leave it out by drop")
        return remarks

    def _dates(self, day_first: bool | None) -> ColumnSummary:
        n, two_readings = self.counts, ""
        if day_first is None:
            day, month = n["day first"], n["month first"]
            if day and month and min(day, month) > ODD * self.present:
                two_readings = (
                    f"{self.shown['day first']!r} begins with the day, {self.shown['month first']!r} with the month"
                )
            elif day or month:
                day_first = day >= month
            elif n["1/2/2020"]:
                two_readings = f"{self.shown['1/2/2020']!r} reads two ways, and no cell settles it"
        lost = 0 if day_first is None else n["month first"] if day_first else n["day first"]
        order = "the day first" if day_first else "the month first"
        return ColumnSummary(
            kind="date",
            form=Form(day_first=day_first),
            odd=n["no date"] + lost,
            remarks=() if day_first is None else (f"written with {order}",),
            examples=self._examples("date"),
            two_readings=two_readings
            and f"{two_readings}: set experts.tabular.options.day_first: {{NAME: true}} or "
            "{NAME: false}, or list it under options.categories or drop it",
            rows=n["rows"],
            missing=n["missing"],
        )

    def _examples(self, kind: str) -> tuple[str, ...]:
        return tuple(name for name, _ in self.strange[kind].most_common(EXAMPLES))


@lru_cache(maxsize=4096)
def _readings(cell: str) -> tuple[str, str, str, float | None] | None:
    """How a cell may be read (``either`` mark, only a decimal ``point``, only a ``comma``, or two ways: ``1,234`` and
    ``1.234``), its unit, its digits and marks, and its value where that is one; None where it is no number."""
    if (read := _parts(cell)) is None:
        return None
    point, comma = (_value(read.core, mark) for mark in (".", ","))
    if point is None and comma is None:
        return None
    if point == comma:
        return "either", read.unit, read.core, point
    found = "point" if comma is None else "comma" if point is None else "1,234" if "," in read.core else "1.234"
    return found, read.unit, read.core, None


class _Written(NamedTuple):
    core: str
    negative: bool
    unit: str


def _parts(cell: str) -> _Written | None:
    """The digits and marks of a number, its sign, and the currency or percent sign beside it."""
    if len(cell) > LONGEST or not any(map(str.isdecimal, cell)):
        return None
    if _PLAIN.fullmatch(cell):  # most cells; the long pattern takes ten times as long
        return _Written(core=cell.lstrip("+-"), negative=cell[0] == "-", unit="")
    match = _CELL.fullmatch(cell.translate(_SPELLED).strip())
    if match is None:
        return None
    found = match.groupdict()
    opened, closed = (found["open"] or "") + found["open2"], found["close2"] + found["close"]
    signs = found["before"] + found["inside"] + found["sign"] + found["after"]
    units = [found[name] for name in ("first", "last") if found[name]]
    if len(opened) != len(closed) or len(opened) > 1 or len(signs) > 1 or len(units) > 1:
        return None
    return _Written(core=found["core"], negative=bool(opened) or signs == "-", unit=units[0] if units else "")


@cache
def _pattern(decimal: Mark) -> re.Pattern[str]:
    """Numbers with this mark before the decimals; the other one, a space or an apostrophe is between thousands."""
    other = "," if decimal == "." else r"\."
    grouped = rf"[1-9]\d{{0,2}}(?P<group>[{other}' ])\d{{3}}(?:(?P=group)\d{{3}})*"
    indian = r"|[1-9]\d?(?:,\d{2})+,\d{3}" if decimal == "." else ""
    mark = re.escape(decimal)
    return re.compile(rf"(?:(?:\d+|{grouped}{indian})(?:{mark}\d*)?|{mark}\d+)(?:[eE][-+]?\d+)?", re.ASCII)


def _value(core: str, decimal: Mark) -> float | None:
    if not _pattern(decimal).fullmatch(core):
        return None
    other = "," if decimal == "." else "."
    return as_number(core.translate({ord(c): None for c in f"{other}' "}).replace(decimal, "."))


def parse_number(cell: Cell, form: Form) -> float | None:
    """A cell as a number, as its column writes them; None where it is none, or would read two ways.

    >>> [parse_number(cell, Form(decimal=",")) for cell in ("1.234,50 €", "(12)", 3, "1.5")]
    [1234.5, -12.0, 3.0, None]
    >>> [parse_number(cell, Form(decimal=".")) for cell in ("$1,234.50", "12%", "1 234", "1'234")]
    [1234.5, 0.12, 1234.0, 1234.0]
    """
    if not isinstance(cell, str):
        return None if form.percent else as_number(cell)
    if form.decimal != "," and not form.percent and (plain := as_number(cell)) is not None:
        return plain
    if (read := _parts(cell)) is None or (form.percent and read.unit != "%"):
        return None
    if form.decimal is None:
        point, comma = _value(read.core, "."), _value(read.core, ",")
        number = as_number(read.core) if point is None or comma is None or point != comma else point
    else:
        number = _value(read.core, form.decimal)
    if number is None:
        return None
    return (-number if read.negative else number) / (100 if read.unit == "%" else 1)


def parse_date(cell: Cell, day_first: bool | None = None) -> date | None:
    """A cell as a day: ISO 8601 (``2019-05-21``, also with ``/`` or ``.``), and where it is told what stands first
    also ``21.05.2019`` or ``05/21/2019``; a time of day behind it is not read."""
    if not isinstance(cell, str):
        return None
    if match := _ISO.fullmatch(cell):
        year, month, day = match.groups()
    elif day_first is not None and (match := _DAY_OR_MONTH_FIRST.fullmatch(cell)):
        first, mark, second, year = match.groups()
        # With points the day stands first wherever dates are written so.
        day, month = (first, second) if day_first or mark == "." else (second, first)
    else:
        return None
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def parse_boolean(cell: Cell) -> str | None:
    """``true`` or ``false``, as it is spelled; None where it is neither."""
    word = str(cell).lower()
    if word in _TRUE or cell in ("1", 1):
        return "true"
    return "false" if word in _FALSE or cell in ("0", 0) else None


def described(name: str, column: ColumnSummary, dropped: str = "") -> str:
    """A column in one line: its kind, gaps, odd cells, and whether it is dropped."""
    kind = "yes or no" if column.form.boolean else {"number": "numbers", "date": "dates"}.get(column.kind, "categories")
    parts = [f"{column.missing:,} missing"] if column.missing else []
    if column.odd:
        named = ", ".join(map(repr, column.examples))
        parts.append(
            f"{column.odd:,} of {column.rows:,} cells are none{f' ({named})' if named else ''}, taken as missing"
        )
    parts += column.remarks
    told = f"column {name}: {kind}" + ("; " if parts else "") + "; ".join(parts)
    return f"{told}; NOT READ: {dropped}" if dropped else told
