"""The figures that a run's findings call for, each with the sentence below it and the numbers behind it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..spreadsheet import guarded
from ..workspace import atomic
from . import figures as draw
from . import words
from .schema import RunFacts

Rows = Sequence[Mapping[str, Any]]
SLICES = 12
"""That are drawn, the least likely differences first."""


class Figure(NamedTuple):
    """A figure of the page."""

    drawn: draw.Drawn
    caption: str
    rows: Rows
    """The numbers behind it, for its CSV."""


def draw_figures(facts: RunFacts) -> dict[str, Figure]:
    """Name -> figure, of those that this run has."""
    makers: dict[str, Callable[[RunFacts], Figure | None]] = {
        "intervals": _intervals,
        "scores": _scores,
        "ranking": _ranking,
        "reliability": _reliability,
        "curve": _curve,
        "confusion": _confusion,
        "risk": _risk,
        "slices": _slices,
        "robustness": _robustness,
        "training": _training,
    }
    made = {name: make(facts) for name, make in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write each as ``<name>.png`` and its numbers as ``<name>.csv``; figures of a former report go."""
    for path in folder.glob("*"):
        if path.suffix in (".png", ".csv") and path.stem not in figures:
            path.unlink()
    for name, figure in figures.items():
        with atomic(folder / f"{name}.png", "wb") as f:
            f.write(figure.drawn.png)
        columns = list(dict.fromkeys(column for row in figure.rows for column in row))
        with atomic(folder / f"{name}.csv") as f:
            table = csv.writer(f, lineterminator="\n")
            table.writerow(map(guarded, columns))
            table.writerows([guarded(row.get(column, "")) for column in columns] for row in figure.rows)


def _intervals(facts: RunFacts) -> Figure:
    headline = facts["headline"]
    metric, title = headline["metric"], words.METRICS[headline["metric"]]
    found = {name: model["calibrated"][metric] for name, model in facts["models"].items()}
    found["majority"] = facts["baseline"]["metrics"][metric]
    compare = " Two of them may overlap where the paired difference is clear: compare by the gain."
    return Figure(
        draw.metric_intervals(found, title, headline["model"]),
        f"{title} on {headline['n']:,} {words.posts(headline['split'])}, with 95% intervals."
        f"{compare if facts['gain'] else ''}",
        [{"model": name, "metric": metric, **figure} for name, figure in found.items()],
    )


def _scores(facts: RunFacts) -> Figure | None:
    """Rows of each class by their calibrated probability, read off what each threshold flags."""
    explorer = facts["explorer"]
    if explorer is None:
        return None
    split, rows = explorer["split"], explorer["rows"]
    if "tested" in explorer:
        split, rows = explorer["tested"]["split"], explorer["tested"]["rows"]
    steps = rows[:: max(1, (len(rows) - 1) // draw.SCORE_BINS)]
    bins = [
        {
            "from": low["threshold"],
            "to": high["threshold"],
            "negative": low["fp"] - (high["fp"] if i < len(steps) - 2 else 0),
            "positive": low["tp"] - (high["tp"] if i < len(steps) - 2 else 0),
        }
        for i, (low, high) in enumerate(pairwise(steps))
    ]
    main, names = facts["headline"]["model"], facts["label"]["names"]
    named = tuple(f"{facts['label']['name']}: {name}" for name in names)
    return Figure(
        draw.score_histogram(bins, facts["models"][main]["threshold"], named),
        f"Calibrated probabilities of {main} on {words.posts(split)}, by true class. The upright line is "
        "its threshold; what overlaps, no threshold can part.",
        bins,
    )


def _ranking(facts: RunFacts) -> Figure | None:
    headline, positives = facts["headline"], facts["headline"]["positives"]
    if isinstance(positives, list) or headline["model"] not in facts["roc"]:
        return None
    base_rate = positives / headline["n"]

    def points(kind: str, curves: Mapping[str, Any], x: str, y: str) -> Iterator[dict[str, Any]]:
        for model, curve in curves.items():
            yield from ({"curve": kind, "model": model, x: a, y: b} for a, b in curve)

    return Figure(
        draw.ranking_curves(facts["roc"], facts["precision_recall"], headline["model"], base_rate),
        f"How the models rank {words.posts(headline['split'])}, whatever the threshold. Dashed thin lines: guessing; "
        f"{words.share(base_rate, 1)} of the posts are positive.",
        [
            *points("roc", facts["roc"], "fpr", "recall"),
            *points("precision_recall", facts["precision_recall"], "recall", "precision"),
        ],
    )


def _reliability(facts: RunFacts) -> Figure | None:
    before, after = (facts["reliability"][side] for side in ("before", "after"))
    if not after:
        return None
    binary, headline = facts["label"]["binary"], facts["headline"]
    names = ("predicted probability", "share positive") if binary else ("confidence", "share right")
    return Figure(
        draw.reliability_diagram(before, after, predicted=names[0], observed=names[1]),
        f"{headline['model']} on {words.posts(headline['split'])}: on the dashed line its probabilities can be taken "
        "at their word. Lines are 95% Wilson intervals; below, the rows of each bin after calibration.",
        [{"calibration": side, **row} for side, rows in (("before", before), ("after", after)) for row in rows],
    )


def _curve(facts: RunFacts) -> Figure | None:
    main = facts["headline"]["model"]
    if not facts["curve"]:
        return None
    threshold = ", where its threshold was chosen" if facts["marks"]["rule"] else "; its threshold was set by hand"
    return Figure(
        draw.threshold_curves(facts["curve"], facts["models"][main]["threshold"]),
        f"{main} on {words.tuned_rows(facts)}{threshold}: the upright line marks it.",
        facts["curve"],
    )


def _confusion(facts: RunFacts) -> Figure | None:
    classes, counts = facts["label"]["classes"], facts["confusion"]
    if len(classes) > draw.MATRIX_CLASSES or not any(map(any, counts)):
        return None
    headline = facts["headline"]
    return Figure(
        draw.confusion_matrix(counts, facts["label"]["names"]),
        f"What {headline['model']} calls the {words.posts(headline['split'])} of each class; darker: more of the row.",
        [{"truth": a, "named": b, "rows": counts[i][j]} for i, a in enumerate(classes) for j, b in enumerate(classes)],
    )


def _risk(facts: RunFacts) -> Figure | None:
    curves, main = facts["risk_coverage"], facts["headline"]["model"]
    if main not in curves:
        return None
    areas = ", ".join(f"{name} {words.number(area)}" for name, area in facts["aurc"].items() if area is not None)
    return Figure(
        draw.risk_coverage_curves(curves, main),
        f"If each model decided only on its surest {words.posts(facts['headline']['split'])}: the share of them that "
        f"it gets wrong. Area under the curve, lower is better: {areas}.",
        [{"model": model, "coverage": a, "risk": b} for model, curve in curves.items() for a, b in curve],
    )


def _slices(facts: RunFacts) -> Figure | None:
    figure, measured = facts["headline"]["metric"], facts["slices"] or {"slices": [], "comparisons": 0}
    rows = []
    for found in measured["slices"]:
        gap = found["differences"].get(figure)
        if gap and gap["value"] is not None:
            name = f"{found['column']}: {found['slice']} ({found['n']:,})"
            rows.append({"name": name, **gap, "sure": gap.get("p_adjusted", 1) <= 0.05})
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: (row.get("p") if row.get("p") is not None else 1, row["value"]))[:SLICES]
    return Figure(
        draw.forest(rows, f"{words.METRICS[figure]}: slice less the rest"),
        "Slices of the tested posts whose figure differs most surely from that of the rest (in brackets: rows). "
        f"Filled: more than chance with all {measured['comparisons']} comparisons counted (Holm). Lines: 95% "
        "intervals of each by itself.",
        rows,
    )


def _robustness(facts: RunFacts) -> Figure | None:
    found = facts["robustness"]
    rows = _flips(found) if found else []
    if not found or not rows:
        return None
    return Figure(
        draw.flip_bars(rows),
        f"Attacks at their strongest on {found['rows']:,} {words.posts(found['split'])}: the share of decisions that "
        "become others, with 95% intervals. Open diamonds: had the words not been cleaned first.",
        rows,
    )


def _flips(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each attack at its strongest, the most harmful first: ``name, severity, value, low, high, uncleaned, review,
    change`` (of AUROC or macro-F1)."""
    strongest: dict[tuple[str, str], dict[str, Any]] = {}
    uncleaned = {}
    for row in found["attacks"]:
        key = (row["modality"], row["attack"])
        if row["normaliser"] is False:
            uncleaned[*key, row["severity"]] = row["flips"]["value"]
        elif key not in strongest or row["severity"] > strongest[key]["severity"]:
            strongest[key] = row
    rows = [
        {
            "name": f"{row['modality']}: {row['attack'].replace('_', ' ')}",
            "severity": row["severity"],
            **{end: row["flips"][end] for end in ("value", "low", "high")},
            "uncleaned": uncleaned.get((*key, row["severity"])),
            "auroc_change": row["auroc"]["change"]["value"],
            "macro_f1_change": row["macro_f1"]["change"]["value"],
            "review_change": row["review"]["change"]["value"] if row["review"] else None,
        }
        for key, row in strongest.items()
        if row["flips"]["value"] is not None
    ]
    return sorted(rows, key=lambda row: -row["value"])


def _training(facts: RunFacts) -> Figure | None:
    drawn = draw.training_curves(facts["history"])
    if drawn is None:
        return None
    rows = [{"expert": expert, **epoch} for expert, epochs in facts["history"].items() for epoch in epochs]
    return Figure(drawn, "Fine-tuning of the experts, epoch by epoch.", rows)
