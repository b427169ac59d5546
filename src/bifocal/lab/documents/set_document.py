"""The document of one set, ``lab/<set>/README.md``: what was expected, found and concluded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from statistics import fmean

from ...report.words import METRICS
from ..results import LabResults
from ..results_schema import Disturbed, Training, Trial, Weakened, WeakenedFit
from . import rules
from .significance import signs
from .words import number, render

DOCUMENT = "README.md"
PARTS = {
    "experts": "pipelines",
    "ablation": "ablation",
    "corruption": "corruption of inputs",
    "imbalance": "weakening a modality in training",
    "stability": "stability",
    "joint": "joint training",
}
"""Parts that a lab may leave out, and what they are called."""
WAYS = {
    "starved": "share of the training rows that keep the part",
    "corrupted": "noise on the training features, in standard deviations",
    "truncated": "training inputs cut shorter, by severity; 0 is the whole",
}
"""In which a modality is weakened in training, and what their levels are."""
LEADS = {
    "clearly dominant": "{ours} is clearly dominant, by more than the margin of {margin:g}",
    "ahead": "{ours} is ahead, though not surely by more than the margin",
    "level": "the rows do not tell the two apart",
    "behind": "here {other} is ahead, although validation data said otherwise",
    "unknown": "their order on test is not known",
}
CHANGED = {1: "worsens", 0: "no change shown", -1: "improves", None: "not known"}
REMEDIED = {1: "helps", 0: "no change shown", -1: "harms", None: "unknown"}


@dataclass(frozen=True)
class Corrupted:
    """The corruption of a modality that costs most at the highest severity."""

    modality: str
    kind: str
    level: Disturbed
    n: int


@dataclass(frozen=True)
class WeakenedTable:
    """What fusions make of modalities weakened in one way: a row each, a column per level."""

    title: str
    levels: list[str]
    rows: list[tuple[str, Weakened, list[str]]]
    """Modality, what it was judged beside, and a cell per level."""


@dataclass(frozen=True)
class TrainingRow:
    """One model's training."""

    model: str
    grid_point: str
    epochs: str
    gradient_norm: str
    spread: float | None
    gap: float | None
    diverged: str


def set_document(results: LabResults, index: str, figures: Collection[str]) -> str:
    """The document.

    Parameters
    ----------
    results : LabResults
    index : str
        Path of ``experiments.md``, as seen from the document.
    figures : collection of str
        Names of the files that are drawn beside it; those are shown.
    """
    return render(
        "set.md.j2",
        s=results,
        index=index,
        postmortem=index.replace("experiments", "postmortem"),
        figures=figures,
        metric=METRICS[results.metric],
        B=results.model(results.best_baseline),
        F=results.model(results.best_fusion),
        tie=results.tie,
        fusions=sorted(results.fusions, key=lambda trial: -_or(trial.val.get(results.metric), -1)),
        stronger=rules.stronger(results),
        leads=LEADS,
        changed=CHANGED,
        remedied=REMEDIED,
        signs=signs,
        seconds_of=lambda trial: seconds_of(results, trial),
        corrupted=list(corrupted(results)),
        weakened=[weakened(results, way) for way in results.imbalance.ways],
        settings_tuned=grid_settings(results),
        training=[training(name, model, grid_settings(results)) for name, model in results.stability.models.items()],
        steady=rules.steadiness(results),
        worst=next(absence for absence in rules.absences(results) if absence.modality == results.most_missed),
        limits=limits(results),
    )


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def seconds_of(results: LabResults, trial: Trial) -> float | None:
    """Those of fitting on cached features, or of the whole expert where the model is one."""
    if trial.seconds is None and trial.kind == "expert" and trial.reads[0] in results.experts:
        return results.experts[trial.reads[0]].seconds
    return trial.seconds


def corrupted(results: LabResults) -> Iterator[Corrupted]:
    """Per modality whose corruptions were measured."""
    for name, measured in results.corruption.items():
        last = {kind: levels[-1] for kind, levels in (measured.kinds if measured else {}).items() if levels}
        known = {kind: level.change.value for kind, level in last.items() if level.change.value is not None}
        if measured and known:
            kind = min(known, key=lambda kind: known[kind])
            yield Corrupted(name, kind.replace("_", " "), last[kind], measured.n)


def weakened(results: LabResults, way: str) -> WeakenedTable:
    """What fusions make of a modality that was weakened in one way."""
    parts = results.imbalance.ways[way]
    levels = list(dict.fromkeys(fit.level for part in parts.values() for fit in part.levels))
    rows, became = [], rules.outcomes_of(results)
    for name, part in parts.items():
        cells = {fit.level: _outcome(fit, became.get((way, name, fit.level))) for fit in part.levels}
        rows.append((name, part, [cells.get(level, "") for level in levels]))
    spell = {"starved": "{:.0%}", "corrupted": "{:g} SD", "truncated": "{:g}"}[way].format
    return WeakenedTable(f"{way.capitalize()}: {WAYS[way]}", [spell(level) for level in levels], rows)


def _outcome(fit: WeakenedFit, word: str | None) -> str:
    value = number(fit.intact.value)
    return value if word is None else f"{value} {'–' if word == 'none' else word}"


def grid_settings(results: LabResults) -> list[str]:
    """The settings of a grid point, as the first model that has one names them."""
    return next((list(model.grid_point) for model in results.stability.models.values() if model.grid_point), [])


def training(name: str, model: Training, settings: list[str]) -> TrainingRow:
    """One model's line of the table; empty where it has no epochs, seeds or grid."""
    best = [epoch for epoch in model.epochs_to_best if epoch is not None]
    norms = [norm for norm in model.gradient_norm if norm is not None]
    ends = f" ({min(best)} to {max(best)})" if len(set(best)) > 1 else ""
    point = (model.grid_point.get(key) for key in settings)
    return TrainingRow(
        name,
        " / ".join(f"{value:g}" for value in point if value is not None),
        f"{fmean(best):.1f}{ends}" if best else "",
        f"{number(norms[0], 2)} → {number(norms[-1], 2)}" if norms else "",
        model.spread,
        model.gap,
        f"{model.diverged} of {model.models}" if model.models else "",
    )


def limits(results: LabResults) -> list[str]:
    """What was not run and why, and what the rows cannot tell: the findings of all parts, each once."""
    told = [*results.findings, *(results.ablation.findings if results.ablation else ())]
    parts = [*results.corruption.values(), *(p for ways in results.imbalance.ways.values() for p in ways.values())]
    told += [finding for part in parts if part for finding in part.findings]
    left = {key: name for key, name in PARTS.items() if key not in results.measured}
    lines = {key: next((f for f in told if f.startswith(f"{key}: ")), None) for key in left}
    unexplained = [left[key] for key, reason in lines.items() if reason is None]
    lacking = [f"not run for this set: {', '.join(unexplained)}"] if unexplained else []
    lacking += [f"not run for this set: {left[key]} ({line.partition(': ')[2]})" for key, line in lines.items() if line]
    return lacking + [finding for finding in dict.fromkeys(told) if finding not in lines.values()]
