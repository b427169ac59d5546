"""The findings of a run as Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re

from . import tables, words
from .next_steps import next_steps
from .schema import RunFacts
from .tables import Table


def plain(words: object) -> str:
    """Text that Markdown shows as it is, on one line: nothing in it becomes markup or a table cell."""
    line = " ".join(str(words).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word (text_expert) is no markup, and reads better bare.
    return re.sub(r"([\\`*{}\[\]|~#!]|(?<![^\W_])_|_(?![^\W_])|:(?=//))", r"\\\1", line)


def table_lines(table: Table) -> list[str]:
    """Lines of a Markdown table; none where it has no rows."""
    if not table.rows:
        return []
    rule = ["---"] * table.texts + ["---:"] * (len(table.head) - table.texts)
    rows = [[plain(cell) for cell in row] for row in (table.head, *table.cells)]
    for row, (name, *_) in zip(rows[1:], table.cells, strict=True):
        row[0] = f"[{row[0]}]({table.links[name.value]})" if name.value in table.links else row[0]
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return [head, "| " + " | ".join(rule) + " |", *body, ""]


def to_markdown(facts: RunFacts) -> str:
    """The findings as Markdown; posts themselves stay on the page."""
    lines = [f"# {plain(facts['run'])}: {plain(facts['label']['name'])}", ""]
    if "labels" in facts:
        lines += table_lines(tables.labels(facts["labels"], "report.md", facts["label"]["name"]))
        lines += [*(f"- {plain(sentence)}" for sentence in words.about_labels(facts)), ""]
    if facts["marks"]["in_sample"]:
        lines += [f"> **{plain(words.in_sample(facts))}**", ""]
    lines += [plain(" ".join(words.asked(facts))), "", "## Answer", ""]
    lines += [f"- {plain(sentence)}" for sentence in words.answer(facts)]
    lines += ["", "## What to do next", "", *(f"- {_with_commands(sentence)}" for sentence in next_steps(facts))]
    lines += [
        "",
        f"## Models on {facts['headline']['split']} (raw → calibrated)",
        "",
        *table_lines(tables.models(facts)),
    ]
    lines += ["## Decisions", "", *table_lines(tables.decisions(facts))]
    if facts["slices"]:
        shown = table_lines(tables.slices(facts["slices"]))
        about = words.about_slices(facts) if shown else f"{words.about_slices(facts)} {words.NONE_WORSE}"
        lines += ["## Slices", "", plain(about), "", *shown]
    if facts["fairness"]:
        lines += ["## Groups", "", plain(words.about_groups(facts)), "", *table_lines(tables.groups(facts["fairness"]))]
    lines += ["## Data", "", plain(" ".join(words.about_the_data(facts))), ""]
    for table in tables.data(facts):
        lines += table_lines(table)
    for expert, told in facts["data"]["columns"].items():
        lines += [f"How {plain(expert)} read its columns:", "", *(f"- {plain(line)}" for line in told), ""]
    lines += ["## What this report cannot know", "", *(f"- {plain(s)}" for s in words.limitations(facts)), ""]
    versions = ", ".join(f"{name} {version}" for name, version in facts["made"]["versions"].items())
    return "\n".join(
        [*lines, "## How it was made", "", _made(facts) + f"Seed {facts['made']['seed']}; {plain(versions)}.", ""]
    )


def _with_commands(sentence: str) -> str:
    """A sentence whose commands, between backticks, stay code; whatever else it holds is shown as it is."""
    return "".join(piece if piece[0] == "`" else _spaced(piece) for piece in re.split(r"(`[^`]*`)", sentence) if piece)


def _spaced(piece: str) -> str:
    return f"{' ' * piece.startswith(' ')}{plain(piece)}{' ' * piece.endswith(' ')}"


def _made(facts: RunFacts) -> str:
    made = facts["made"]
    return f"{words.day(made['date'])}, policy {plain(made['policy'])}. " if made["date"] else ""
