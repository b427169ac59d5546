"""The figures of the lab's documents: SVG files that stand alone, drawn from a set's results."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...evaluate.intervals import OptionalFigure
from ...report.figures import PALETTE, drawing, legend, metric_intervals, svg_of
from ...report.words import METRICS
from ..results import LabResults
from ..results_schema import Figure
from .words import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("blue", "orange", "green", "ink", "purple")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 2, 2)))
LOSS_COLUMNS = 4
"""Panels of loss curves in a row."""
MOST_LOSSES = 16
"""Models whose loss curves are drawn; more are unreadable."""


def draw(results: LabResults) -> dict[str, str]:
    """File name -> SVG of one set; a part that was not run has no figure."""
    drawn = {name: figure(results) for name, figure in FIGURES.items()}
    return {f"{name}.svg": svg for name, svg in drawn.items() if svg is not None}


def standalone(svg: str) -> str:
    """A figure of a page as a file: plain colours, and paper behind it, since nobody knows what page shows it.

    Places are cut to hundredths of a point: small files, and a last digit that differs by machine is gone.
    """
    svg = re.sub(r"var\(--fig-\w+, (#[0-9a-f]{6})\)", r"\1", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), svg)
    end = svg.index(">") + 1
    paper = f'\n <rect width="100%" height="100%" fill="{PALETTE["paper"]}"/>'
    return f"{svg[:end]}{paper}{svg[end:]}\n"


def fusions(results: LabResults) -> str:
    """Every fusion with its interval on test, the best on val first, and B as the line to beat."""
    metric = results.metric
    rows = sorted(results.fusions, key=lambda trial: -(-1 if (val := trial.val.get(metric)) is None else val))
    figures = {trial.model: trial.test[metric] for trial in rows}
    figures[f"B: {results.best_baseline}"] = results.tested(results.best_baseline)
    shown: dict[str, OptionalFigure] = {
        name: {"value": found.value, "low": found.low, "high": found.high} for name, found in figures.items()
    }
    return standalone(metric_intervals(shown, f"{METRICS[metric]} on test", results.best_fusion).svg)


def missing(results: LabResults) -> str | None:
    """The fusion when a modality is gone from more and more rows, and when its features drown in noise."""
    if results.ablation is None:
        return None
    parts, intact = results.ablation.modalities, results.ablation.intact
    with drawing(height=2.9) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for i, (name, part) in enumerate(parts.items()):
            _line(left, [(point.rate, point) for point in part.dropped], name, i)
            _line(right, [(0, intact), *((point.deviations, point) for point in part.noise)], name, i)
        _floor(left, results)
        left.set(xlabel="share of rows without it", ylabel=f"{METRICS[results.metric]} on test")
        right.set(xlabel="noise on its features, in SD")
        legend(left, len(parts) + 1)
        return standalone(svg_of(figure, f"The fusion without a modality, and under noise, {results.name}"))


def _floor(axes: Axes, results: LabResults) -> None:
    value = results.tested(results.best_baseline).value
    if value is not None:
        axes.axhline(value, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)), label="B")


def _line(axes: Axes, points: Sequence[tuple[float, Figure]], label: str, i: int) -> None:
    """A curve with its interval as a band, where every point has one."""
    known = [(x, figure) for x, figure in points if figure.value is not None]
    at, colour, dashes = [x for x, _ in known], PALETTE[COLOURS[i % len(COLOURS)]], DASHES[i % len(DASHES)]
    ends = [(figure.low, figure.high) for _, figure in known if figure.low is not None and figure.high is not None]
    if known and len(ends) == len(known):
        low, high = zip(*ends, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    values = [figure.value for _, figure in known if figure.value is not None]
    axes.plot(at, values, color=colour, linestyle=dashes, marker="o", markersize=3.5, label=label)


def corruption(results: LabResults) -> str | None:
    """The fusion on corrupted inputs, a panel per modality."""
    parts = {name: found for name, found in results.corruption.items() if found and found.kinds}
    if not parts:
        return None
    most = max(len(found.kinds) for found in parts.values())
    with drawing(height=2.6 + 0.17 * most) as figure:
        panels = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
        for axes, (name, found) in zip(panels, parts.items(), strict=True):
            for i, (kind, levels) in enumerate(found.kinds.items()):
                points = [(0, found.intact), *((level.severity, level) for level in levels)]
                _line(axes, points, kind.replace("_", " "), i)
            axes.set(xlabel=f"severity of the change to the {name}")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if len(parts) > 1 else 4, borderaxespad=0.2)
        panels[0].set_ylabel(f"{METRICS[results.metric]} on test")
        return standalone(svg_of(figure, f"The fusion on corrupted inputs, {results.name}"))


def losses(results: LabResults) -> str | None:
    """Loss per epoch on train and val, a small panel per model."""
    models = {name: m for name, m in results.stability.models.items() if len(m.val_loss) > 1}
    chosen = list(models.items())[:MOST_LOSSES]
    if not chosen:
        return None
    rows = -(-len(chosen) // LOSS_COLUMNS)
    with drawing(height=0.5 + 1.25 * rows) as figure:
        panels = figure.subplots(rows, LOSS_COLUMNS, squeeze=False, sharey=True).ravel()
        for axes, (name, model) in zip(panels, chosen, strict=False):
            for split, loss, colour, dashes in (
                ("train", model.train_loss, "muted", (0, (4, 2))),
                ("val", model.val_loss, "blue", "-"),
            ):
                y = [float("nan") if v is None else v for v in loss]
                axes.plot(range(1, len(y) + 1), y, color=PALETTE[colour], linestyle=dashes, linewidth=1.4, label=split)
            axes.set_title(name, loc="left", fontsize=8.5, color=PALETTE["ink"])
            axes.tick_params(labelsize=8)
        for axes in panels[len(chosen) :]:
            axes.set_axis_off()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return standalone(svg_of(figure, f"Loss per epoch of each model, {results.name}"))


def parameters(results: LabResults) -> str | None:
    """Performance on test against the parameters that each fusion and each head brings."""
    trials = [t for t in (*results.baselines, *results.fusions) if t.kind in ("head", "fusion")]
    values = [(t, t.test[results.metric].value) for t in trials]
    points = [(t.parameters.own, value, t.model, t.kind) for t, value in values if value is not None]
    if not points:
        return None
    with drawing(height=3.3) as figure:
        axes = figure.subplots()
        for kind, colour, marker in (("head", "orange", "s"), ("fusion", "blue", "o")):
            own = [p for p in points if p[3] == kind]
            axes.plot(
                [p[0] for p in own], [p[1] for p in own], marker, color=PALETTE[colour], markersize=5.5,
                label={"head": "one modality, MLP head", "fusion": "fusion"}[kind],
            )  # fmt: skip
        axes.set_xscale("symlog", linthresh=10)
        axes.set(xlabel="parameters of its own, one seed", ylabel=f"{METRICS[results.metric]} on test")
        axes.xaxis.set_major_formatter(_counts)
        axes.set_xlim(-1, 12 * max(10, *(p[0] for p in points)))
        axes.margins(y=0.12)
        _names(axes, [(p[0], p[1], p[2]) for p in points])
        legend(axes, 2)
        return standalone(svg_of(figure, f"Performance against parameters, {results.name}"))


def growths(results: LabResults) -> str | None:
    """Parameters of each fusion against the width of the features it reads."""
    growths = results.stability.growth.items()
    known = {name: g for name, g in growths if len(g.columns) > 1 and max(g.parameters, default=0) > 0}
    if not known:
        return None
    with drawing(height=3.3) as figure:
        axes = figure.subplots()
        ends = []
        for name, g in known.items():
            colour = {"explosive": "orange", "linear": "blue"}.get(g.word, "muted")
            axes.plot(g.columns, g.parameters, color=PALETTE[colour], marker="o", markersize=3, linewidth=1.4)
            ends.append((g.columns[-1], g.parameters[-1], name))
        axes.set(xscale="log", yscale="log", xlabel="columns of features per modality", ylabel="parameters, one seed")
        columns = sorted({c for g in known.values() for c in g.columns})
        axes.set_xticks(columns, [f"{c:,}" for c in columns])
        axes.yaxis.set_major_formatter(_counts)
        axes.minorticks_off()
        axes.set_xlim(right=columns[-1] * (columns[-1] / columns[0]) ** 0.3)
        _names(axes, ends)
        return standalone(svg_of(figure, f"Parameters against the width of the features, {results.name}"))


def _names(axes: Axes, points: Sequence[tuple[float, float, str]], gap: float = 11.5) -> None:
    """A name right of each point, moved towards the middle where it would lie on another name or point."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # places are known once it is laid out
    to_points = 72 / axes.figure.dpi
    places = [tuple(float(v) * to_points for v in axes.transData.transform(p[:2])) for p in points]
    middle = axes.bbox.y0 * to_points + axes.bbox.height * to_points / 2
    taken = [(x - 4, x + 4, y) for x, y in places]
    for (x, y), (at_x, at_y, name) in sorted(
        zip(places, points, strict=True), key=lambda p: (-abs(p[0][1] - middle), -p[0][0])
    ):
        start, end, shift = x + 6, x + 6 + 4.9 * len(name), 0.0
        while any(a < end and start < b and abs(y + shift - h) < gap for a, b, h in taken):
            shift += 1.0 if y < middle else -1.0
        taken.append((start, end, y + shift))
        line = (
            {"arrowstyle": "-", "color": PALETTE["muted"], "linewidth": 0.5, "relpos": (0, 0.5)}
            if abs(shift) > gap
            else None
        )
        axes.annotate(
            name, (at_x, at_y), xytext=(6, shift), textcoords="offset points", va="center", fontsize=8.5,
            color=PALETTE["ink"], arrowprops=line,
        )  # fmt: skip


def _counts(value: float, _: float) -> str:
    """A tick of a count; an exponent would be mathematics, which the house style does not set."""
    return compact(value)


def gains(sets: Sequence[LabResults]) -> str:
    """The gain of F on every set with its interval, zero and the margin marked."""
    margins = {results.margin for results in sets}
    with drawing(height=0.9 + 0.42 * len(sets)) as figure:
        axes = figure.subplots()
        if len(margins) == 1:
            axes.axvspan(0, *margins, color=PALETTE["grid"], linewidth=0)
        axes.axvline(0, color=PALETTE["muted"], linewidth=1)
        for y, results in enumerate(sets):
            if len(margins) > 1:
                axes.fill_betweenx([y - 0.5, y + 0.5], 0, results.margin, color=PALETTE["grid"], linewidth=0)
            gain = results.gain
            colour = PALETTE[{"worth it": "blue", "gain shown": "green"}.get(results.verdict.word, "muted")]
            if gain.value is None:
                continue
            if gain.low is not None and gain.high is not None:
                axes.plot([gain.low, gain.high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot([gain.value], [y], marker="o", markersize=6.5, color=colour)
            text = f"{gain.value:+.3f}".replace("-", "−")
            axes.annotate(text, (gain.value, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set(xlabel="gain of the best fusion over a modality alone", yticks=range(len(sets)))
        axes.set_ylim(len(sets) - 0.5, -0.75)
        axes.locator_params(axis="x", nbins=6)
        axes.set_yticklabels([s.name for s in sets], color=PALETTE["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.06)
        return standalone(svg_of(figure, "The gain of the best fusion on every set with its 95% interval"))


FIGURES: dict[str, Callable[[LabResults], str | None]] = {
    "fusions": fusions,
    "missing": missing,
    "corruption": corruption,
    "losses": losses,
    "parameters": parameters,
    "growth": growths,
}
