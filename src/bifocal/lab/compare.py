"""Every model of an experiment side by side: fitted, the best chosen on val, compared on test by the verdict rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import FusionConfig
from ..decide.calibration import softmax
from ..evaluate.compare import Resampling
from .diagnostics import ROWS, additive_part, sample_rows
from .trials import (
    ExpertFacts,
    Trial,
    best,
    describe,
    fit_head_trial,
    fit_trial,
    for_strategy,
    hear_expert,
    price,
    smallest_tie,
)
from .usable_rows import Splits, groups_of, labels_of
from .verdict import MARGIN, interval_of, judge, sentence

if TYPE_CHECKING:
    from ..contracts import Fusion

CHANGES = ("nll", "brier")
"""Reported beside the gain; below 0 is better."""


@dataclass(frozen=True, slots=True)
class PipelineComparison:
    """The models of one experiment.

    Attributes
    ----------
    evidence : Splits
        What all of them read.
    metric : str
        By which they are chosen and compared.
    baselines, fusions : list of Trial
    alone : dict
        Modality -> the best of its baselines on val.
    over, fused : Trial
        B and F: the best baseline and the best fusion on val.
    control : Trial
        F's architecture trained and tested with every modality but B's blanked.
    """

    evidence: Splits
    metric: str
    baselines: list[Trial]
    fusions: list[Trial]
    alone: dict[str, Trial]
    over: Trial
    fused: Trial
    control: Trial

    @property
    def fusion(self) -> Fusion:
        """That of F."""
        assert self.fused.fusion is not None  # of all trials those of fusions have one
        return self.fused.fusion


def fit_pipelines(
    evidence: Splits,
    config: FusionConfig,
    strategies: Sequence[str],
    *,
    metric: str,
    experts: Mapping[str, ExpertFacts],
    others: Sequence[Trial],
    seed: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> PipelineComparison:
    """Fit a head per modality, every strategy, and the control of the best one; see `experiment.experiment`."""
    parameters = {m: expert.parameters for m, expert in experts.items()}
    modalities = list(evidence["train"])
    baselines = list(others)
    for m in modalities:
        expert = experts[m]
        baselines.append(
            hear_expert(expert.name, "expert", m, evidence, parameters=expert.parameters, seconds=expert.seconds)
        )
        baselines.append(fit_head_trial(m, config, evidence, seed=seed, experts=parameters))
    baselines.sort(key=lambda t: (modalities.index(t.reads[0]), t.kind != "expert", t.name))
    fusions = []
    for strategy in strategies:
        settings = for_strategy(config, strategy)
        fusions.append(fit_trial(strategy, "fusion", settings, evidence, seed=seed, experts=parameters))
        if progress:
            progress(len(fusions), len(strategies))
    labels = labels_of(evidence, "val")
    alone = {m: best([t for t in baselines if m in t.reads], labels, metric) for m in modalities}
    over, fused = best(baselines, labels, metric), best(fusions, labels, metric)
    kept = over.reads[0]
    settings = for_strategy(config, fused.name)
    control = fit_trial(
        f"{fused.name}, {kept} only", "control", settings, evidence, seed=seed, experts=parameters, keep=kept
    )
    return PipelineComparison(evidence, metric, baselines, fusions, alone, over, fused, control)


def compare(comparison: PipelineComparison, resampling: Resampling) -> dict[str, Any]:
    """The three paired comparisons on test, the verdict, and the table of all models.

    Returns
    -------
    dict
        ``baselines``, ``fusions``, ``control`` (`describe`), ``best_baseline``, ``best_of_modality``, ``over_others``
        (modality -> `paired_gain` of the best baseline over the best of this one), ``best_fusion``,
        ``smallest_tie``, ``gain``, ``over_control``, ``over_additive``, ``change`` (`paired_gain`), ``verdict``,
        ``price``.
    """
    over, fused, evidence = comparison.over, comparison.fused, comparison.evidence
    labels = {split: labels_of(evidence, split) for split in evidence}
    groups = groups_of(evidence, "test")

    def gain(other: Trial, model: Trial = fused, by: Resampling = resampling) -> dict[str, Any]:
        return by.gain(labels["test"], other.probabilities("test"), model.probabilities("test"), groups)

    def table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
        return [describe(t, labels, groups, resampling) for t in trials]

    gained, over_control = gain(over), gain(comparison.control)
    over_additive = _over_additive(comparison, resampling)
    verdict = judge(*map(interval_of, (gained, over_control, over_additive)), n=gained["n"])
    told = sentence(verdict, fusion=fused.name, over=over.name, metric=comparison.metric, n=gained["n"])
    return {
        "margin": MARGIN,
        "baselines": table(comparison.baselines),
        "fusions": table(comparison.fusions),
        "control": table([comparison.control])[0],
        "best_baseline": over.name,
        "best_of_modality": {m: t.name for m, t in comparison.alone.items()},
        "over_others": {m: gain(t, over) for m, t in comparison.alone.items() if t is not over},
        "best_fusion": fused.name,
        "smallest_tie": smallest_tie(
            fused, comparison.fusions, labels["val"], groups_of(evidence, "val"), resampling
        ).name,
        "gain": gained,
        "over_control": over_control,
        "over_additive": over_additive,
        "change": {name: gain(over, by=replace(resampling, metric=name)) for name in CHANGES},
        "verdict": {**asdict(verdict), "sentence": told},
        "price": price(fused, over, gained["value"]),
    }


def _over_additive(comparison: PipelineComparison, resampling: Resampling) -> dict[str, Any]:
    """m(F) - m(EMAP(F)) on the same rows, `ROWS` of them at most; B's modality against all others."""
    fused, test, groups = comparison.fused, comparison.evidence["test"], groups_of(comparison.evidence, "test")
    rows = sample_rows(groups, ROWS, resampling.seed)
    some = {name: e.take(rows) for name, e in test.items()}
    additive = softmax(additive_part(comparison.fusion, some, comparison.over.reads[0]), fused.temperature)
    labels: np.ndarray = labels_of(comparison.evidence, "test")[rows]
    return resampling.gain(labels, additive, fused.probabilities("test")[rows], [groups[i] for i in rows])
