"""All that the lab finds on Evidence: the comparison, the verdict, the diagnostics, weak modalities, stability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NotRequired, TypedDict

from .. import plugins
from ..config import FusionConfig, ImbalanceRule
from ..contracts import Reporter
from ..diagnose.ablation import Ablation, ablate
from ..example import Label
from ..models.heads import Recipe
from .compare import ComparisonResults, PipelineComparison, compare, fit_pipelines
from .diagnostics import Diagnosis, diagnose_fusion
from .imbalance import Remedy, Truncated, WeakenedModalities, compare_dropout, weaken
from .stability import Growth, Steadiness, Typical, compare_stability, growth, steadiness
from .trials import Study, Trial, reads_evidence
from .usable_rows import check_classes, count_labels, findings_about, labels_of


class ImbalanceResults(WeakenedModalities):
    """F with a modality weakened in training, and what helps."""

    remedies: list[Remedy]
    truncated: NotRequired[dict[str, Truncated]]


class StabilityResults(TypedDict):
    """Training of each model, heads against fusions, and the growth of each strategy."""

    models: dict[str, Steadiness]
    compared: dict[str, Typical]
    growth: dict[str, Growth]


class ExperimentResults(ComparisonResults, Diagnosis):
    """All that is found on Evidence alone."""

    metric: str
    modalities: list[str]
    rows: dict[str, int]
    classes: dict[str, dict[str, int]]
    """Split -> class -> rows."""
    settings: dict[str, Any]
    """What all heads have in common, as `Recipe` has it."""
    ablation: Ablation
    imbalance: ImbalanceResults | None
    stability: StabilityResults
    seconds_lab: dict[str, float]
    """By part."""
    findings: list[str]
    """What these rows cannot show."""


def experiment(
    study: Study,
    label: Label,
    others: Sequence[Trial] = (),
    *,
    strategies: Sequence[str] | None = None,
    rule: ImbalanceRule | None = None,
    clock: Clock | None = None,
) -> tuple[PipelineComparison, ExperimentResults]:
    """All that is found on Evidence alone: baselines, fusions, the three comparisons, the dissection, the verdict.

    Parameters
    ----------
    others : sequence of Trial
        Baselines with encoders of their own.
    strategies : sequence of str, optional
        Fusions to compare; None = all that read features or logits.
    rule : ImbalanceRule, optional
        None = no fusion is fitted again on weakened modalities.
    clock : Clock, optional
        One that has begun to count.

    Raises
    ------
    DataError
        Where a split bears fewer than two classes.
    """
    clock, evidence = clock or Clock(Reporter()), study.evidence
    labels = {split: labels_of(evidence, split) for split in evidence}
    for split, classes in labels.items():
        check_classes(classes, split, label)
    strategies = strategies or [name for name in plugins.names("fusions") if reads_evidence(name)]
    with clock("fusions"):
        comparison = fit_pipelines(study, strategies, others, clock.reporter.progress)
    with clock("verdict"):
        compared = compare(comparison)
    with clock("dissection"):
        diagnosis, findings = diagnose_fusion(study, comparison.fused, comparison.alone)
    with clock("ablation"):
        ablated = ablate(comparison.fusion, evidence["test"], evidence["train"], study.resampling)
    results: ExperimentResults = {
        "metric": study.resampling.metric,
        "modalities": list(evidence["train"]),
        "rows": {split: len(rows) for split, rows in labels.items()},
        "classes": {split: count_labels(rows, label) for split, rows in labels.items()},
        "settings": _settings(study.config),
        **compared,
        **diagnosis,
        "ablation": ablated,
        "imbalance": _imbalance(comparison, rule, clock) if rule else None,
        "stability": _stability(comparison, strategies, len(label.classes), clock),
        "seconds_lab": clock.seconds,
        "findings": [*findings_about(evidence, label), *findings],
    }
    return comparison, results


def _imbalance(comparison: PipelineComparison, rule: ImbalanceRule, clock: Clock) -> ImbalanceResults:
    with clock("imbalance"):
        weakened = weaken(comparison, rule, progress=clock.reporter.progress)
        return {**weakened, "remedies": compare_dropout(comparison)}


def _stability(
    comparison: PipelineComparison, strategies: Sequence[str], classes: int, clock: Clock
) -> StabilityResults:
    evidence, metric = comparison.study.evidence, comparison.study.resampling.metric
    with clock("stability"):
        learned = [t for t in (*comparison.baselines, *comparison.fusions) if t.fusion is not None]
        models = {t.name: steadiness(t, evidence, metric=metric) for t in learned}
        grown = growth(strategies, modalities=len(evidence["train"]), classes=classes)
    return {"models": models, "compared": compare_stability(models), "growth": grown}


def _settings(config: FusionConfig) -> dict[str, Any]:
    """What all heads have in common; a strategy with options of its own says so in its file."""
    known = {name: value for name, value in config.options.items() if name in Recipe.model_fields}
    recipe = Recipe(**known).model_dump(mode="json")
    grid = {name: recipe.pop(name) for name in ("learning_rates", "weight_decays", "widths")}
    return {"seeds": config.seeds, "grid": grid, **recipe}


class Clock:
    """Tells a reporter of each part, and keeps what it took.

    Attributes
    ----------
    seconds : dict
        Part -> seconds.
    """

    def __init__(self, reporter: Reporter):
        self.reporter = reporter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.reporter.step(name, False)
        start = perf_counter()
        yield
        self.seconds[name] = perf_counter() - start
