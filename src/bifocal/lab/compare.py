"""Every model of an experiment side by side: fitted, the best chosen on val, compared on test by the verdict rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch

from ..decide.calibration import softmax
from ..evaluate.compare import Gain, Resampling
from ..models.composite_fusion import mean_of_picks
from ..models.fusions.ensemble import greedy_picks
from .diagnostics import ROWS, additive_part, sample_rows
from .trials import (
    Price,
    Study,
    Trial,
    TrialRow,
    best,
    describe,
    fit_head_trial,
    fit_trial,
    hear_expert,
    price,
    smallest_tie,
    trial,
)
from .usable_rows import JUDGED, groups_of, labels_of
from .verdict import VerdictResult, interval_of, judge, least_gain, sentence

if TYPE_CHECKING:
    from ..contracts import Fusion

CHANGES = ("nll", "brier")
"""Reported beside the gain; below 0 is better."""


@dataclass(frozen=True, slots=True)
class PipelineComparison:
    """The models of one experiment.

    Attributes
    ----------
    study : Study
    baselines, fusions : list of Trial
    alone : dict
        Modality -> B: the best of its baselines on val.
    over, fused : Trial
        The strongest of those, and F: the best fusion on val.
    control : Trial
        F's architecture trained and tested with every modality but that of ``over`` blanked.
    ensemble : Trial
        The mean of several fusions, as description: F, control and additive part are of one.
    """

    study: Study
    baselines: list[Trial]
    fusions: list[Trial]
    alone: dict[str, Trial]
    over: Trial
    fused: Trial
    control: Trial
    ensemble: Trial

    @property
    def fusion(self) -> Fusion:
        """That of F."""
        assert self.fused.fusion is not None  # of all trials those of fusions have one
        return self.fused.fusion


def fit_pipelines(
    study: Study,
    strategies: Sequence[str],
    others: Sequence[Trial],
    progress: Callable[[int, int | None], None] | None = None,
) -> PipelineComparison:
    """Fit a head per modality, every strategy, and the control of the best one; see `experiment.experiment`."""
    evidence, metric = study.evidence, study.resampling.metric
    modalities, baselines, fusions = list(evidence["train"]), list(others), []
    for m in modalities:
        name, parameters, seconds = study.experts[m].name, study.experts[m].parameters, study.experts[m].seconds
        baselines.append(hear_expert(name, "expert", m, evidence, parameters=parameters, seconds=seconds))
        baselines.append(fit_head_trial(study, m))
    baselines.sort(key=lambda t: (modalities.index(t.reads[0]), t.kind != "expert", t.name))
    for strategy in strategies:
        fusions.append(fit_trial(study, strategy, "fusion", strategy))
        if progress:
            progress(len(fusions), len(strategies))
    labels = labels_of(evidence, "val")
    alone = {m: best([t for t in baselines if m in t.reads], labels, metric) for m in modalities}
    over, fused = best(baselines, labels, metric), best(fusions, labels, metric)
    kept = over.reads[0]
    control = fit_trial(study, f"{fused.name}, {kept} only", "control", fused.name, keep=kept)
    return PipelineComparison(study, baselines, fusions, alone, over, fused, control, mean_of(study, fusions))


def mean_of(study: Study, fusions: Sequence[Trial]) -> Trial:
    """The mean of those fusions' calibrated probabilities that are picked greedily on val, as `Ensemble` picks them."""
    labels, experts = labels_of(study.evidence, "val"), [expert.parameters for expert in study.experts.values()]
    said = {s: torch.from_numpy(np.stack([t.logits[s] / t.temperature for t in fusions])) for s in JUDGED}
    picks = greedy_picks(said["val"], torch.from_numpy(labels))
    chosen = [t for t, count in zip(fusions, picks, strict=True) if count]
    below = {kind: sum(p[kind] for p in experts) for kind in ("total", "trained")} | {"own": 0}
    parameters = {kind: n + sum(t.parameters[kind] - n for t in chosen) for kind, n in below.items()}
    logits = {s: mean_of_picks(z, picks).numpy() for s, z in said.items()}
    seconds = sum(t.seconds or 0.0 for t in chosen)
    reads = list(study.evidence["train"])
    return trial("ensemble", "fusion", reads, logits, labels, parameters=parameters, seconds=seconds)


class LeastGain(Gain):
    """The least of the gains over the modalities (`bifocal.evaluate.compare.Gains`)."""

    over: str
    """The modality."""


class ComparisonResults(TypedDict):
    """The paired comparisons on test, the verdict, and the table of all models."""

    margin: float
    baselines: list[TrialRow]
    fusions: list[TrialRow]
    control: TrialRow
    ensemble: TrialRow
    best_baseline: str
    best_of_modality: dict[str, str]
    over_others: dict[str, Gain]
    """Modality -> gain of the best baseline over the best of this one."""
    best_fusion: str
    smallest_tie: str
    gains: dict[str, Gain]
    """Modality -> gain over the best of its models."""
    gain: LeastGain
    over_control: Gain
    over_additive: Gain
    change: dict[str, Gain]
    """Of other metrics, over the model of the least gain, as ``price``."""
    verdict: VerdictResult
    price: Price


def compare(comparison: PipelineComparison) -> ComparisonResults:
    """Hold F against the best model of each modality, the control and its additive part on test, and judge."""
    over, fused, study, resampling = comparison.over, comparison.fused, comparison.study, comparison.study.resampling
    evidence, margin, alone = study.evidence, study.margin, comparison.alone
    labels = {split: labels_of(evidence, split) for split in evidence}
    groups = groups_of(evidence, "test")

    def gain(other: Trial, model: Trial = fused, by: Resampling = resampling) -> Gain:
        return by.gain(labels["test"], other.probabilities("test"), model.probabilities("test"), groups)

    def table(trials: Sequence[Trial]) -> list[TrialRow]:
        return [describe(t, labels, groups, resampling) for t in trials]

    theirs = {m: t.probabilities("test") for m, t in alone.items()}
    gains = resampling.gains(labels["test"], theirs, fused.probabilities("test"), groups)
    least, over_control, over_additive = alone[gains.over], gain(comparison.control), _over_additive(comparison)
    beside, n = map(interval_of, (over_control, over_additive)), gains.least["n"]
    verdict = judge(least_gain(gains, margin), *beside, n=n, margin=margin)
    told = sentence(verdict, fusion=fused.name, over=least.name, metric=resampling.metric, n=n)
    on_val = labels["val"], groups_of(evidence, "val")
    return {
        "margin": margin,
        "baselines": table(comparison.baselines),
        "fusions": table(comparison.fusions),
        "control": describe(comparison.control, labels, groups, resampling),
        "ensemble": describe(comparison.ensemble, labels, groups, resampling),
        "best_baseline": over.name,
        "best_of_modality": {m: t.name for m, t in alone.items()},
        "over_others": {m: gain(t, over) for m, t in alone.items() if t is not over},
        "best_fusion": fused.name,
        "smallest_tie": smallest_tie(fused, comparison.fusions, *on_val, resampling, margin).name,
        "gains": gains.each,
        "gain": {"over": gains.over, **gains.least},
        "over_control": over_control,
        "over_additive": over_additive,
        "change": {name: gain(least, by=replace(resampling, metric=name)) for name in CHANGES},
        "verdict": verdict.to_dict(told),
        "price": price(fused, least, gains.least["value"]),
    }


def _over_additive(comparison: PipelineComparison) -> Gain:
    """m(F) - m(EMAP(F)) on the same rows, `ROWS` of them at most; that of the strongest B against all others."""
    fused, evidence, resampling = comparison.fused, comparison.study.evidence, comparison.study.resampling
    test, groups = evidence["test"], groups_of(evidence, "test")
    rows = sample_rows(groups, ROWS, resampling.seed)
    some = {name: e.take(rows) for name, e in test.items()}
    additive = softmax(additive_part(comparison.fusion, some, comparison.over.reads[0]), fused.temperature)
    labels: np.ndarray = labels_of(evidence, "test")[rows]
    return resampling.gain(labels, additive, fused.probabilities("test")[rows], [groups[i] for i in rows])
