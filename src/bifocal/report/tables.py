"""The tables of a run, the same for the page, for Markdown and for model cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..evaluate.intervals import Figure, OptionalFigure
from .schema import LabelsFacts, LabelSummary, MainGain, RunFacts
from .words import FIGURES, LEADING, LOWER_IS_BETTER, METRICS, interval, number, p_value, share, signed

SLICES_SHOWN = 10
MAY = {"block": "block", "review": "review", "none": "only tell"}
"""What a decision by a label may come to."""


class Cell(NamedTuple):
    """A figure, and in small print its interval."""

    value: str
    small: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.small}".rstrip()


@dataclass(frozen=True)
class Table:
    """Rows of cells for people.

    Attributes
    ----------
    head : sequence of str
    rows : sequence
        Per row a cell a column: a text, a whole number, or a figure with its interval.
    texts : int
        The first so many columns are texts, flush left; the others figures, flush right.
    main : str
        First cell of the row that is set off.
    title : str
    links : mapping
        First cell of a row -> the page that it leads to.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    texts: int = 1
    main: str = ""
    title: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[list[Cell]]:
        """Whole numbers with their thousands set off."""
        return [[cell_of(value) for value in row] for row in self.rows]


def cell_of(value: object) -> Cell:
    return value if isinstance(value, Cell) else Cell(f"{value:,}" if isinstance(value, int) else str(value))


def figure(raw: Mapping[str, Any], calibrated: Mapping[str, Any] | None = None) -> Cell:
    """The figure (raw → calibrated where they differ) and the interval of the last one named."""
    if calibrated is None:
        return Cell(number(raw["value"]), interval(raw))
    before, after = number(raw["value"]), number(calibrated["value"])
    return Cell(after if before == after else f"{before} → {after}", interval(calibrated))


def calibrated_by(calibration: Mapping[str, Any]) -> str:
    """The map of a model in a table: its method, and the temperature where it has one.

    >>> calibrated_by({"method": "temperature", "temperature": 1.25})
    'temperature 1.25'
    """
    name = calibration["method"].replace("_", " + ")
    return f"{name} {number(calibration['temperature'], 2)}" if "temperature" in calibration else name


def metric_title(name: str) -> str:
    """The name of a metric, and which way is better."""
    return f"{METRICS[name]} {'↓' if name in LOWER_IS_BETTER else '↑'}"


def labels(found: LabelsFacts, page: str, shown: str) -> Table:
    """Every label of a run of several: figure, gain, threshold, what may be done by it, and its annotated rows.

    ``page`` is the file of a label's report that a row leads to, ``shown`` the label whose report this is.
    """
    every = found["each"]
    columns: dict[str, list[object]] = {"label": [of["name"] for of in every]}
    if any(of["requires"] for of in every):
        columns["posts asked of"] = [f"positive by {of['requires']}" if of["requires"] else "all" for of in every]
    texts = len(columns)
    columns[every[0]["headline"]["model"]] = [_named(of["headline"]["metric"], of["headline"]) for of in every]
    if any(of["end_to_end"] for of in every):
        judged = [of["end_to_end"] for of in every]
        columns["end to end"] = [_named("macro_f1", of["macro_f1"]) if of else "" for of in judged]
    columns["gain, least over"] = [_gain(of["gain"]) if of["gain"] else "one modality" for of in every]
    columns["threshold"] = [_threshold(of) for of in every]
    columns["may"] = [MAY[of["act"]] for of in every]
    columns |= {f"{split} rows": [of["rows"].get(split, 0) for of in every] for split in every[0]["rows"]}
    links = {of["name"]: of["folder"] + page for of in every if of["name"] != shown}
    return Table([*columns], [*zip(*columns.values(), strict=True)], texts=texts, main=shown, links=links)


def _gain(found: MainGain) -> Cell:
    return Cell(signed(found["value"]), f"[{signed(found['low'])}, {signed(found['high'])}], {found['over']}")


def _threshold(found: LabelSummary) -> str:
    if found["threshold"] is not None:
        return number(found["threshold"], 2)
    return "one a class" if found["class_thresholds"] else "likeliest class"


def _named(metric: str, found: Figure | OptionalFigure) -> Cell:
    return Cell(f"{METRICS[metric]} {number(found['value'])}", interval(found))


def models(facts: RunFacts) -> Table:
    """The leading metrics of every model and of always naming the commonest class, raw → calibrated."""
    rows = [
        [name, *(figure(model["raw"][m], model["calibrated"][m]) for m in LEADING)]
        for name, model in facts["models"].items()
    ]
    rows.append(["majority", *(figure(facts["baseline"]["metrics"][m]) for m in LEADING)])
    return Table(["model", *map(metric_title, LEADING)], rows, main=facts["headline"]["model"])


def metrics(facts: RunFacts) -> Table:
    """Every metric of every model, before and after calibration."""
    head = [title for name in facts["models"] for title in (f"{name}, raw", "calibrated")]
    stages = [model[stage] for model in facts["models"].values() for stage in ("raw", "calibrated")]
    return Table(["metric", *head], [[metric_title(m), *(figure(found[m]) for found in stages)] for m in METRICS])


def model(facts: RunFacts, name: str) -> Table:
    """The leading metrics of one model, before and after calibration."""
    model, baseline = facts["models"][name], facts["baseline"]["metrics"]
    rows = [
        [METRICS[m], figure(model["raw"][m]), figure(model["calibrated"][m]), number(baseline[m]["value"])]
        for m in LEADING
    ]
    return Table(["metric", "uncalibrated", "calibrated, at its threshold", "majority"], rows)


def decisions(facts: RunFacts) -> Table:
    """At its threshold, what each model flags; with several classes, what the deciding one calls each class."""
    if not facts["label"]["binary"]:
        rows = [
            [c["class"], c["rows"], c["named"], c["right"], share(c["right"], c["named"]), share(c["right"], c["rows"])]
            for c in facts["classes"]
        ]
        return Table(["class", "rows", "predicted", "rightly", "precision", "recall"], rows)
    rows = []
    for name, model in facts["models"].items():
        c = model["confusion"] or {}
        rates = share(c["tp"], c["tp"] + c["fp"]), share(c["tp"], c["tp"] + c["fn"])
        counts = [c[kind] for kind in ("tp", "fp", "fn", "tn")]
        rows.append([name, calibrated_by(model["calibration"]), number(model["threshold"], 2), *counts, *rates])
    kinds = ("true positives", "false positives", "false negatives", "true negatives")
    head = ["model", "calibration", "threshold", *kinds, "precision", "recall"]
    return Table(head, rows, main=facts["headline"]["model"])


def patterns(facts: RunFacts) -> Table:
    """How the deciding model decides on posts that bring only some parts."""
    rows = [
        [
            name,
            calibrated_by(p["calibration"]),
            "likeliest" if p["threshold"] is None else number(p["threshold"], 2),
            p["n"],
        ]
        for name, p in facts["models"][facts["headline"]["model"]]["patterns"].items()
    ]
    return Table(["parts", "calibration", "threshold", "rows"], rows)


def counts(title: str, found: Mapping[str, Any], unit: str = "rows") -> Table:
    """A count, or another figure, by name."""
    return Table([title, unit], [[str(name), n] for name, n in found.items()])


def data(facts: RunFacts) -> list[Table]:
    """Rows of each split, class and language, and of each reason for quarantine."""
    found = facts["data"]
    tables = [
        counts("split", found["rows"]),
        counts(f"class of {facts['label']['name']}", _by_name(facts)),
        counts(f"language, {facts['headline']['split']}", found["languages"]),
        counts("quarantined for", found["reasons"]),
    ]
    return [table for table in tables if table.rows]


def _by_name(facts: RunFacts) -> dict[str, int]:
    """Rows of each class, under the name that people call it by."""
    names = dict(zip(map(str, facts["label"]["classes"]), facts["label"]["names"], strict=True))
    return {names.get(kind, kind): n for kind, n in facts["data"]["by_class"].items()}


def making(facts: RunFacts) -> list[Table]:
    """Seconds of each step, and versions."""
    took = {step: number(seconds, 1) for step, seconds in facts["made"]["seconds"].items()}
    return [counts("step", took, "seconds"), counts("package", facts["made"]["versions"], "version")]


def slices(found: Mapping[str, Any]) -> Table:
    """The slices with the least likely differences for the worse, at most ten."""
    compared = [
        (gap["p"], row, name, gap)
        for row in found["slices"]
        for name, gap in row["differences"].items()
        if gap and "p" in gap and (gap["value"] > 0 if name in ("fpr", "fnr") else gap["value"] < 0)
    ]
    rows = [
        [
            f"{row['column']}: {row['slice']}",
            row["n"],
            FIGURES[name],
            figure(row["figures"][name]),
            number(gap["rest"]),
            Cell(signed(gap["value"]), interval(gap)),
            p_value(gap["p_adjusted"]),
        ]
        for _, row, name, gap in sorted(compared, key=lambda gap: gap[0])[:SLICES_SHOWN]
    ]
    return Table(["worse on", "n", "figure", "there", "rest", "difference", "p"], rows)


def groups(found: Mapping[str, Any]) -> Table:
    """Error rates on posts that speak of each group, those that speak of none first."""
    reference = {"group": "no group", "differences": {}, **found["reference"]}
    rows = [
        [row["group"], row["n"], row["negatives"], *(cell for name in ("fpr", "fnr") for cell in _rate(row, name))]
        for row in (reference, *found["groups"])
    ]
    return Table(["group", "n", "negatives", "false-positive rate", "gap", "false-negative rate", "gap"], rows)


def _rate(row: Mapping[str, Any], name: str) -> Iterable[str | Cell]:
    """An error rate on a group's posts, and its gap to those of no group."""
    found, gap = row["figures"][name], row["differences"].get(name)
    yield figure(found) if found else "too few rows"
    yield Cell(signed(gap["value"]), f"{interval(gap)}, p {p_value(gap['p_adjusted'])}") if gap else ""
