"""The figures of a report as SVG and PNG: text stays text, colours follow the page, equal numbers give equal bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..evaluate.intervals import OptionalFigure

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


class Drawn(NamedTuple):
    """One figure for the page and for other documents."""

    svg: str
    png: bytes

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """How a notebook shows it: on white paper, as wide as on the page, whatever the notebook's theme."""
        return self.png, {"width": round(96 * WIDTH)}


def drawn_of(figure: Figure, title: str) -> Drawn:
    """The figure as `svg_of` gives it, and as PNG on white paper."""
    svg, out = svg_of(figure, title), BytesIO()  # in this order: ids in the SVG come from where things lie
    figure.set_layout_engine("none")  # where they lie is found out once
    figure.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None, "Title": title})
    return Drawn(svg, out.getvalue())


def reliability_diagram(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], *, predicted: str, observed: str
) -> Drawn:
    """Observed against predicted before and after calibration, and how many rows each bin has after it.

    Parameters
    ----------
    before, after : sequence
        As `evaluate.curves.reliability` gives them.
    predicted, observed : str
        Names of the axes.
    """
    with drawing(height=3.9) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        top.plot([0, 1], [0, 1], color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
        top.plot(
            [b["predicted"] for b in before],
            [b["observed"] for b in before],
            "D",
            markerfacecolor="none",
            markeredgecolor=PALETTE["muted"],
            markersize=4.5,
            label="before",
        )
        x = [b["predicted"] for b in after]
        y = [b["observed"] for b in after]
        spans = [[b["observed"] - b["low"] for b in after], [b["high"] - b["observed"] for b in after]]
        top.errorbar(
            x, y, yerr=spans, fmt="o", color=PALETTE["blue"], markersize=5.5, linewidth=1.4, label="after calibration"
        )
        top.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), ylabel=observed)
        legend(top, 2)
        counts = [b["n"] for b in after]
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
        return drawn_of(figure, f"Reliability diagram: {observed} against {predicted}")


LINES: tuple[tuple[str, Any], ...] = (
    ("muted", (0, (5, 2))),
    ("orange", (0, (1, 1.2))),
    ("green", (0, (3, 1, 1, 1))),
    ("purple", (0, (7, 2))),
)
"""Colour and dashes of models beside the main one, which is blue and whole."""


def ranking_curves(
    roc: Mapping[str, Sequence[Sequence[float]]],
    precision_recall: Mapping[str, Sequence[Sequence[float]]],
    main: str,
    base_rate: float,
) -> Drawn:
    """ROC beside precision and recall, a line per model; dashed thin lines are what guessing gives.

    Parameters
    ----------
    roc, precision_recall : mapping
        Model -> points, as `evaluate.curves` gives them.
    main : str
        The model whose word counts.
    base_rate : float
        Share of positive rows: the precision of guessing.
    """
    with drawing(height=3.2) as figure:
        left, right = figure.subplots(1, 2)
        others = iter(LINES * len(roc))
        styles = {name: ("blue", "-") if name == main else next(others) for name in roc}
        for axes, curves in ((left, roc), (right, precision_recall)):
            for name, points in curves.items():
                colour, dashes = styles[name]
                axes.plot(*zip(*points, strict=True), color=PALETTE[colour], linestyle=dashes, label=name)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
        guess = {"color": PALETTE["muted"], "linewidth": 0.8, "linestyle": (0, (4, 3))}
        left.plot([0, 1], [0, 1], **guess)
        right.axhline(base_rate, **guess)
        left.set(xlabel="false-positive rate", ylabel="recall")
        right.set(xlabel="recall", ylabel="precision")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3, columnspacing=1.6)
        return drawn_of(figure, "ROC curves, and precision against recall")


def risk_coverage_curves(curves: Mapping[str, Sequence[Sequence[float]]], main: str) -> Drawn:
    """Error rate on the surest posts against their share, a line per model; input as `ranking_curves`."""
    with drawing(height=3.4) as figure:
        axes = figure.subplots()
        others = iter(LINES * len(curves))
        for name, points in curves.items():
            colour, dashes = ("blue", "-") if name == main else next(others)
            axes.plot(*zip(*points, strict=True), color=PALETTE[colour], linestyle=dashes, label=name)
        axes.set(xlim=(-0.02, 1.02), xlabel="share of posts decided on, the surest first", ylabel="share wrong")
        axes.set_ylim(bottom=0)
        legend(axes, 3)
        return drawn_of(figure, "Risk against coverage")


MATRIX_CLASSES = 20
"""More classes than this make a matrix that nobody can read."""


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[object]) -> Drawn:
    """Rows of each class by the class they were given; shaded by the share of the row.

    Parameters
    ----------
    counts : [C, C]
        Rows: truth.
    classes : [C]
    """
    names = [str(name) if len(str(name)) <= 18 else f"{str(name)[:17]}…" for name in classes]
    few = len(names) <= 6
    with drawing(height=2.6 if few else 1.2 + 0.24 * len(names)) as figure:
        axes = figure.subplots()
        for y, row in enumerate(counts):
            for x, n in enumerate(row):
                share = n / max(sum(row), 1)
                colour = PALETTE["blue"] if x == y else PALETTE["orange"]
                box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, alpha=0.75 * share, linewidth=0)
                axes.add_patch(box)
                if n:
                    axes.annotate(f"{n:,}", (x, y), ha="center", va="center", fontsize=11 if few else 7)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="predicted", ylabel="truth")
        axes.set_xticks(range(len(names)), names, rotation=0 if few else 60, ha="center" if few else "right")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        return drawn_of(figure, "Confusion matrix")


def forest(rows: Sequence[Mapping[str, Any]], axis: str) -> Drawn:
    """Differences with their intervals, one below the other; those that are more than chance are filled.

    Parameters
    ----------
    rows : sequence
        ``name``, ``value``, ``low``, ``high`` and ``sure``.
    axis : str
    """
    with drawing(height=0.8 + 0.3 * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=PALETTE["muted"], linewidth=1)
        for y, row in enumerate(rows):
            colour = PALETTE["orange"] if row["sure"] else PALETTE["muted"]
            if row["low"] is not None and row["high"] is not None:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.8, solid_capstyle="round")
            face = colour if row["sure"] else PALETTE["paper"]
            axes.plot([row["value"]], [y], "o", markersize=6, markeredgecolor=colour, markerfacecolor=face)
        axes.set(xlabel=axis, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows], color=PALETTE["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        return drawn_of(figure, axis)


def flip_bars(rows: Sequence[Mapping[str, Any]]) -> Drawn:
    """Share of decisions that each attack turns over; open marks: the same without cleaning the words first.

    Parameters
    ----------
    rows : sequence
        ``name``, ``value``, ``low``, ``high``, and ``uncleaned`` (or None).
    """
    with drawing(height=0.9 + 0.27 * len(rows)) as figure:
        axes = figure.subplots()
        for y, row in enumerate(rows):
            axes.barh(y, row["value"], height=0.6, color=PALETTE["blue"], alpha=0.75)
            if row["low"] is not None and row["high"] is not None:
                axes.plot([row["low"], row["high"]], [y, y], color=PALETTE["ink"], linewidth=1.2)
            if row["uncleaned"] is not None:
                axes.plot(
                    [row["uncleaned"]],
                    [y],
                    "D",
                    markersize=5,
                    markeredgecolor=PALETTE["orange"],
                    markerfacecolor="none",
                )
        most = max((row[key] or 0) for row in rows for key in ("value", "high", "uncleaned"))
        axes.set(xlabel="share of decisions that flip", ylim=(len(rows) - 0.5, -0.5), xlim=(0, max(0.05, 1.05 * most)))
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows], color=PALETTE["ink"])
        axes.grid(visible=False, axis="y")
        return drawn_of(figure, "Share of decisions that each attack turns over")


def threshold_curves(rows: Sequence[Mapping[str, float]], chosen: float | None) -> Drawn:
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
        return drawn_of(figure, "Precision, recall and F1 against the threshold")


SCORE_BINS = 20


def score_histogram(bins: Sequence[Mapping[str, float]], chosen: float | None, names: Sequence[str]) -> Drawn:
    """Rows of each class by probability: the positive ones above the line, the negative ones below it.

    Parameters
    ----------
    bins : sequence
        ``from``, ``to``, ``negative``, ``positive``.
    chosen : float or None
        The threshold, to be marked.
    names : (negative, positive)
    """
    with drawing(height=2.9) as figure:
        axes = figure.subplots()
        at, width = [b["from"] for b in bins], [0.92 * (b["to"] - b["from"]) for b in bins]
        axes.bar(at, [b["positive"] for b in bins], width, align="edge", color=PALETTE["orange"], label=names[1])
        axes.bar(at, [-b["negative"] for b in bins], width, align="edge", color=PALETTE["blue"], label=names[0])
        axes.axhline(0, color=PALETTE["muted"], linewidth=0.8)
        if chosen is not None:
            axes.axvline(chosen, color=PALETTE["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlim=(-0.01, 1.01), xlabel="probability of the positive class", ylabel="posts")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
        legend(axes, 2)
        return drawn_of(figure, "Posts of each class by their probability")


def metric_intervals(figures: Mapping[str, OptionalFigure], metric: str, main: str) -> Drawn:
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
        return drawn_of(figure, f"{metric} of every model with its 95% interval")


def training_curves(history: Mapping[str, Sequence[Mapping[str, float]]]) -> Drawn | None:
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
        return drawn_of(figure, "Loss and macro-F1 of each expert per epoch")


def legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.6)
