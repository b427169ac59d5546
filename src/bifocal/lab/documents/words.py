"""Figures and names as the lab's documents print them, and the templates that print them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...report import words as report_words
from ...report.markdown import plain
from ...report.templates import environment
from ...report.words import METRICS, signed
from ..results_schema import Figure, Price
from . import rules

UNKNOWN = "n/a"
"""What the rows cannot define."""
NOTE = "*Written by `bifocal lab --write` from the results of each set; no number in it was typed by hand.*"
"""The mark of these documents."""


def render(template: str, /, **facts: Any) -> str:
    """A document: Markdown from a template beside this file; runs of empty lines become one."""
    env = environment(Path(__file__).parent, escape=False)
    env.filters |= FUNCTIONS
    env.globals |= {**FUNCTIONS, "rules": rules, "METRICS": METRICS, "NOTE": NOTE, "UNKNOWN": UNKNOWN}
    text = env.get_template(template).render(facts)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def prose(content: object) -> str:
    """A name or sentence from a result as Markdown that shows as it is; intervals keep their bare brackets."""
    line = re.sub(r"\\\[([-+−\d.,; ]*)\\\]", r"[\1]", plain(content))
    return re.sub(r"(?<![\w.])-(?=\d)", "−", line)


def code(name: object) -> str:
    """The name of a model in a sentence, where a bare ``mean`` would be taken for a word."""
    return f"`{' '.join(str(name).replace('`', '').split())}`"


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people; no -0.000."""
    return report_words.number(None if value is None else round(value, digits) + 0.0, digits)


def found(figure: Figure | None) -> str:
    """A figure with its interval, ``0.912 [0.903, 0.921]``."""
    return _with_ends(figure, number)


def change(figure: Figure | None) -> str:
    """A difference with its interval, ``+0.012 [+0.004, +0.020]``."""
    return _with_ends(figure, lambda x: signed(round(x, 3) + 0.0))


def _with_ends(figure: Figure | None, spell: Callable[[float], str]) -> str:
    if figure is None or figure.value is None:
        return UNKNOWN
    ends = "" if figure.low is None or figure.high is None else f" [{spell(figure.low)}, {spell(figure.high)}]"
    return spell(figure.value) + ends


def listing(names: Iterable[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``; ``none`` where there are none.

    >>> listing(["a", "b", "c"], "or")
    'a, b or c'
    """
    *most, end = [*names] or ["none"]
    return f"{', '.join(most)} {last} {end}" if most else end


def counted(n: int, noun: str, many: str | None = None) -> str:
    """A count with its noun in the right number.

    >>> counted(1, "set"), counted(2, "loss", "losses"), counted(0, "set")
    ('1 set', '2 losses', '0 sets')
    """
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def part_of(k: int, n: int, noun: str, many: str | None = None) -> str:
    """A count out of a whole.

    >>> part_of(2, 5, "set"), part_of(5, 5, "set"), part_of(0, 5, "set"), part_of(1, 1, "set"), part_of(0, 1, "set")
    ('2 of the 5 sets', 'all 5 sets', 'none of the 5 sets', 'the one set', 'no set')
    """
    many = many or noun + "s"
    if n <= 1:
        return f"the one {noun}" if k else f"no {noun}"
    if k == n:
        return f"both {many}" if n == 2 else f"all {n} {many}"
    return f"{k or 'none'} of the {n} {many}"


def compact(n: float | None) -> str:
    """A count of parameters, three digits of it.

    >>> compact(770), compact(12_345), compact(22_713_216), compact(None)
    ('770', '12.3k', '22.7M', 'n/a')
    """
    if n is None:
        return UNKNOWN
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if abs(n) >= size:
            return f"{n / (1e6 if unit == 'M' else 1e3):.1f}{unit}".replace("-", "−")
    return f"{n:,.0f}".replace("-", "−")


def seconds(s: float | None) -> str:
    """Seconds with one digit under ten; empty where they are not known."""
    return "" if s is None else f"{s:.1f}" if abs(s) < 10 else f"{s:,.0f}"


def difference(n: float | None) -> str:
    """A cost added, ``+22.7M`` or ``−1.7``; empty where it is not known."""
    if n is None:
        return ""
    size = compact(abs(n)) if isinstance(n, int) else seconds(abs(n))
    return f"{'−' if n < 0 else '+'}{size}"


def paid(price: Price) -> str:
    """What a point of gain costs; empty where there is no gain. A saving is no price."""
    per = price.per_point
    costs = [f"{compact(per.get('parameters'))} parameters"] if (per.get("parameters") or 0) > 0 else []
    costs += [f"{seconds(per.get('seconds'))} seconds"] if (per.get("seconds") or 0) > 0 else []
    return listing(costs) if costs else ""


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f}%"


def range_of(values: Iterable[Any]) -> str:
    """One value, or from the least to the greatest of several: ``5``, ``3 to 5``."""
    known = sorted({v for v in values if v is not None})
    if not known:
        return UNKNOWN
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


FUNCTIONS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        prose, code, number, found, change, listing, compact, seconds, difference, percent, paid, counted, part_of,
        range_of,
    )
}  # fmt: skip
"""What the templates may call."""
