"""Figures, names and tables as the lab's documents print them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...report import markdown
from ...report.markdown import METRICS, plain, signed

UNKNOWN = "n/a"
"""What the rows cannot define."""
Results = Mapping[str, Any]
"""One set's ``results.json``."""


def prose(text: object) -> str:
    """A name or sentence from a result as Markdown that shows as it is; intervals keep their bare brackets."""
    line = re.sub(r"\\\[([-+−\d.,; ]*)\\\]", r"[\1]", plain(text))
    return re.sub(r"(?<![\w.])-(?=\d)", "−", line)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> list[str]:
    """Lines of a Markdown table, its cells Markdown already; the first ``texts`` columns are flush left."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)] + [""]


def code(name: object) -> str:
    """The name of a model in a sentence, where a bare ``mean`` would be taken for a word."""
    return f"`{' '.join(str(name).replace('`', '').split())}`"


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people; no -0.000."""
    return markdown.number(None if value is None else round(value, digits) + 0.0, digits)


def found(figure: Mapping[str, Any] | None) -> str:
    """A figure with its interval, ``0.912 [0.903, 0.921]``."""
    return _with_ends(figure, number)


def change(figure: Mapping[str, Any] | None) -> str:
    """A difference with its interval, ``+0.012 [+0.004, +0.020]``."""
    return _with_ends(figure, lambda x: signed(round(x, 3) + 0.0))


def _with_ends(figure: Mapping[str, Any] | None, spell: Callable[[float], str]) -> str:
    if figure is None or figure.get("value") is None:
        return UNKNOWN
    low, high = figure.get("low"), figure.get("high")
    return spell(figure["value"]) + ("" if low is None or high is None else f" [{spell(low)}, {spell(high)}]")


def listing(names: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``; ``none`` where there are none.

    >>> listing(["a", "b", "c"], "or")
    'a, b or c'
    """
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


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


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f}%"


def spread(values: Iterable[Any]) -> str:
    """One value, or from the least to the greatest of several: ``5``, ``3 to 5``."""
    known = sorted({v for v in values if v is not None})
    if not known:
        return UNKNOWN
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def metric_name(results: Results) -> str:
    return METRICS[results["metric"]]


def title_of(results: Results) -> str:
    return prose((results.get("about") or {}).get("title") or results["name"])


def row_of(results: Results, model: str) -> Mapping[str, Any]:
    """The line of a model in the tables of a set."""
    return next(row for row in (*results["baselines"], *results["fusions"]) if row["model"] == model)


def tested(results: Results, model: str) -> Mapping[str, Any]:
    """The set's metric of a model on test: ``value``, ``low``, ``high``."""
    figure: Mapping[str, Any] = row_of(results, model)["test"][results["metric"]]
    return figure
