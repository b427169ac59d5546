"""The figures of a report as SVG: text stays text, colours follow the page, equal numbers give equal bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Series colours after Okabe and Ito, told apart with every kind of colour vision. A page may override each through
# the CSS variable of the same name (`--fig-blue`), which is how one drawing serves light and dark.
PALETTE = {
    "ink": "#1c2125",
    "muted": "#59636b",
    "grid": "#dde2e6",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#00845f",
    "purple": "#a1487f",
    "paper": "#fefefd",
}
WIDTH = 5.6
"""Inches; a figure fills half of a wide page."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.labelcolor": PALETTE["muted"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "text.color": PALETTE["ink"],
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """A figure in the house style; `matplotlib.figure.Figure`, so that no global state is left behind."""
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(WIDTH, height))


def svg_of(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element that names itself to screen readers."""
    out = StringIO()
    # None leaves each of these out: a date would differ from drawing to drawing.
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": title}):  # ids that no other figure of a page has, every time the same
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    svg = re.sub(r" id=\"[\w.]+_\d+\"", "", svg)  # figure_1, axes_1, …: another figure has them too
    svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
    for name, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--fig-{name}, {colour})")
    return svg


def reliability_diagram(bins: Sequence[Mapping[str, Any]], *, predicted: str, observed: str) -> str:
    """Observed against predicted, and how many rows each bin has.

    Parameters
    ----------
    bins : sequence
        As `bifocal.report.findings.reliability` gives them.
    predicted, observed : str
        Names of the axes.
    """
    with drawing(height=3.9) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        x = [b["predicted"] for b in bins]
        y = [b["observed"] for b in bins]
        spans = [[b["observed"] - b["low"] for b in bins], [b["high"] - b["observed"] for b in bins]]
        top.plot([0, 1], [0, 1], color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
        top.errorbar(x, y, yerr=spans, fmt="o", color=PALETTE["blue"], markersize=5.5, linewidth=1.4)
        top.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), ylabel=observed)
        counts = [b["n"] for b in bins]
        bottom.bar(x, counts, width=0.05, color=PALETTE["blue"])
        for at, n in zip(x, counts, strict=True):
            bottom.annotate(
                f"{n:,}",
                (at, n),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=PALETTE["muted"],
            )
        bottom.set(xlabel=predicted, ylabel="rows", ylim=(0, 1.35 * max(counts, default=1)), yticks=[])
        bottom.grid(visible=False)
        return svg_of(figure, f"Reliability diagram: {observed} against {predicted}")


def threshold_curves(rows: Sequence[Mapping[str, float]], chosen: float | None) -> str:
    """Precision, recall and F1 against the threshold, the chosen one marked.

    Parameters
    ----------
    rows : sequence
        Of ``thresholds_curve_<model>_<run>.csv``.
    chosen : float or None
    """
    x = [row["threshold"] for row in rows]
    # The file gives precision as 0 where nothing is flagged, and a line that falls to it would be a lie.
    precision = [row["precision"] if row["flagged"] else float("nan") for row in rows]
    series: tuple[tuple[str, list[float], str, Any], ...] = (
        ("precision", precision, "blue", "-"),
        ("recall", [row["recall"] for row in rows], "orange", (0, (5, 2))),
        ("F1", [row["f1"] for row in rows], "ink", (0, (1, 1.2))),
    )
    with drawing(height=3.9) as figure:
        axes = figure.subplots()
        for name, y, colour, dashes in series:
            axes.plot(x, y, color=PALETTE[colour], linestyle=dashes, label=name)
        if chosen is not None:
            axes.axvline(chosen, color=PALETTE["muted"], linewidth=1)
            axes.annotate(
                f"{chosen:.2f}", (chosen, 0), xytext=(4, 4), textcoords="offset points", color=PALETTE["muted"]
            )
        axes.set(xlabel="threshold", ylim=(0, 1.03), xlim=(min(x) - 0.02, max(x) + 0.02))
        legend(axes, len(series))
        return svg_of(figure, "Precision, recall and F1 against the threshold")


def metric_intervals(figures: Mapping[str, Mapping[str, float | None]], metric: str, main: str) -> str:
    """One figure of every model with its interval, the main model marked; the last entry is the line to beat.

    Parameters
    ----------
    figures : mapping
        Model -> ``value, low, high`` (None where undefined), the baseline last.
    metric : str
        Its name, for people.
    main : str
        The model whose word counts.
    """
    with drawing(height=0.9 + 0.45 * len(figures)) as figure:
        axes = figure.subplots()
        for y, (name, found) in enumerate(figures.items()):
            value, low, high = (found[k] for k in ("value", "low", "high"))
            colour = PALETTE["blue"] if name == main else PALETTE["muted"]
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot([value], [y], marker="o", markersize=7, color=colour)
            axes.annotate(
                f"{value:.3f}", (value, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8.5
            )
        floor = list(figures.values())[-1]["value"]
        if floor is not None:
            axes.axvline(floor, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel=metric, ylim=(len(figures) - 0.5, -0.7), yticks=range(len(figures)))
        axes.set_yticklabels(list(figures), color=PALETTE["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.08)
        return svg_of(figure, f"{metric} of every model with its 95% interval")


def training_curves(history: Mapping[str, Sequence[Mapping[str, float]]]) -> str | None:
    """Loss and macro-F1 per epoch on train and val, a row of panels per expert.

    Experts with fewer than two epochs (a frozen encoder's head is fitted at one go) have no curve; None where that is
    all of them.
    """
    learning = {name: epochs for name, epochs in history.items() if len(epochs) > 1}
    if not learning:
        return None
    with drawing(height=0.35 + 2.0 * len(learning)) as figure:
        panels = figure.subplots(len(learning), 2, squeeze=False, sharex="row")
        for row, (name, epochs) in zip(panels, learning.items(), strict=True):
            for axes, key, title in zip(row, ("loss", "macro_f1"), ("loss", "macro-F1"), strict=True):
                for split, colour, dashes in (("train", PALETTE["muted"], (0, (4, 2))), ("val", PALETTE["blue"], "-")):
                    points = [(e["epoch"], e[f"{split}_{key}"]) for e in epochs if e.get(f"{split}_{key}") is not None]
                    if points:
                        axes.plot(
                            *zip(*points, strict=True),
                            color=colour,
                            linestyle=dashes,
                            marker="o",
                            markersize=3,
                            label=split,
                        )
                axes.set_title(f"{name}: {title}", loc="left", fontsize=9.5, color=PALETTE["ink"])
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
        panels[0][0].legend()
        return svg_of(figure, "Loss and macro-F1 of each expert per epoch")


def legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.6)
