"""A comparison of models as files: one self-contained page, and all figures as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workspace import atomic, check_replaceable, read_json, write_json
from . import words
from .tables import Table
from .templates import environment

if TYPE_CHECKING:
    from ..assess.comparison import ModelComparison, PairComparison
    from ..assess.label_comparison import LabelComparison
    from ..evaluate.intervals import Figure

TEMPLATE = "comparison.html"
PAGE, FACTS = "index.html", "comparison.json"


def write_comparison(found: ModelComparison, folder: Path, *, force: bool = False) -> dict[str, Path]:
    """Write page and JSON, each whole or not at all.

    Raises
    ------
    RunError
        Where the folder holds files of these names that are none of a comparison.
    MissingExtra
        Without the packages of ``bifocal[report]``.
    """
    written = {"page": folder / PAGE, "json": folder / FACTS}
    for path in written.values():
        check_replaceable(path, lambda _: "pairs" in read_json(written["json"]), force=force)
    page = to_html(found)
    with atomic(written["page"]) as f:
        f.write(page)
    write_json(written["json"], found.to_dict())
    return written


def to_html(found: ModelComparison) -> str:
    """The page; whatever comes from posts is escaped, and nothing is asked of any server. Raises `MissingExtra`."""
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            found=found,
            models=models_table(found),
            pairs=[{"pair": pair, "labels": list(_labels(pair))} for pair in found.pairs],
            verdict=verdict_words(found.verdict),
            number=words.number,
        )
    )


def _labels(pair: PairComparison) -> Iterator[dict[str, Any]]:
    for name, of in pair["labels"].items():
        yield {
            "name": name,
            "of": of,
            "sentences": sentences(name, of),
            "figures": figures_table(of),
            "moves": moves_table(of),
            "slices": slices_table(of),
            "verdict": verdict_words(of["verdict"]),
        }


def verdict_words(verdict: str | None) -> str:
    """A verdict for people."""
    told = {"no worse": "no worse, within the margin", None: "no verdict: no post bears the label"}
    return told.get(verdict, str(verdict))


def models_table(found: ModelComparison) -> Table:
    """What is compared: kind, policy, size on disk, and time per post."""
    rows = [
        [
            model["name"],
            model["kind"],
            model["policy"] or "not known",
            "known and left out" if model["vouched"] else "not vouched for",
            "n/a" if model["size_bytes"] is None else f"{model['size_bytes'] / 2**20:,.1f} MB",
            "n/a" if model["ms_per_post"] is None else f"{model['ms_per_post']:,.1f} ms",
        ]
        for model in found.models
    ]
    return Table(["model", "kind", "policy", "posts it learned from", "size", "a post"], rows, texts=4)


def figures_table(of: LabelComparison) -> Table:
    """Every figure of both models, and the difference; the judged ones first."""
    rows = [
        [
            words.FIGURES.get(name, name),
            figure["better"],
            figure["verdict"] or "shown",
            _number(figure["old"]["value"]),
            _number(figure["new"]["value"]),
            _difference(figure["difference"]),
        ]
        for name, figure in of["figures"].items()
    ]
    return Table(["figure", "better", "verdict", "old", "new", "new less old (95%)"], rows, texts=3)


def _number(value: float | None) -> str:
    return words.number(None if value is None or isnan(value) else value)


def _difference(figure: Figure | None) -> str:
    if figure is None:
        return "too few"
    if isnan(figure["low"]):
        return words.signed(None if isnan(figure["value"]) else figure["value"])
    value, low, high = (words.signed(figure[end]) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def moves_table(of: LabelComparison) -> Table:
    """Decisions that turn over, both ways."""
    rows = [[a, b, f"{n:,}"] for a, after in of["turned"]["moves"].items() for b, n in after.items()]
    return Table(["old", "new", "posts"], rows, texts=2)


def slices_table(of: LabelComparison) -> Table:
    """The leading figure on slices; those of too few rows are named alone."""
    rows = []
    for one in of["slices"]:
        sure = one["difference"] is not None and one["p_adjusted"] is not None and one["p_adjusted"] <= 0.05
        found = "" if not sure else "better" if _is_better(of, one["difference"]) else "worse"
        shown = _number(one["old"]), _number(one["new"]), _difference(one["difference"])
        rows.append([f"{one['column']}: {one['value']}", found, one["n"], *shown])
    return Table(["posts", "not chance", "n", "old", "new", "new less old (95%)"], rows, texts=2)


def _is_better(of: LabelComparison, difference: Figure | None) -> bool:
    leading = next(iter(of["figures"].values()))
    return difference is not None and (difference["value"] > 0) == (leading["better"] == "higher")


def sentences(name: str, of: LabelComparison) -> list[str]:
    """What is to be known of one label."""
    classes = ", ".join(f"{kind}: {n:,}" for kind, n in of["by_class"].items())
    told = [f"{of['n']:,} posts; {of['labelled']:,} bear {name}{f' ({classes})' if of['labelled'] else ''}."]
    if of["effective"] is not None:
        clipped = f"; {of['clipped']:,} weights were clipped" if of["clipped"] else ""
        told.append(f"Rows count by their weights, and tell as much as {of['effective']:,.0f} equal ones{clipped}.")
    if flagged := of["flagged"]:
        change = "none were before" if flagged["change"] is None else f"{flagged['change']:+.1%} of the old share"
        moved = ", more than may be" if flagged["moved"] else ""
        told.append(f"Flagged: {flagged['old']:.2%} by the old, {flagged['new']:.2%} by the new ({change}{moved}).")
    turned, ways = of["turned"], ""
    if turned["put_right"] is not None:
        ways = (
            f"; the new one puts {turned['put_right']:,} right that were wrong, and {turned['put_wrong']:,} wrong that "
            "were right"
        )
    told.append(f"{turned['n']:,} decisions turn over{ways}.")
    if of["verdict"] == "cannot tell" and of["rows_needed"]:
        told.append(
            f"It would take about {of['rows_needed']:,} labelled posts like these to show, with 80% power, that an "
            "equal model is no worse."
        )
    return told
