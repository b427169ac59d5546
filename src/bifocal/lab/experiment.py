"""All that the lab finds on Evidence: the comparison, the verdict, the diagnostics, weak modalities, stability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from .. import plugins
from ..config import FusionConfig, ImbalanceRule
from ..contracts import Reporter
from ..diagnose.ablation import ablate
from ..evaluate.compare import Resampling
from ..evaluate.metrics import headline_metric
from ..example import Label
from ..models.heads import Recipe
from .compare import PipelineComparison, compare, fit_pipelines
from .diagnostics import diagnose_fusion
from .imbalance import compare_dropout, weaken
from .stability import compare_stability, growth, steadiness
from .trials import ExpertFacts, Trial, reads_evidence
from .usable_rows import Splits, check_classes, count_labels, findings_about, groups_of, labels_of


@dataclass(frozen=True, slots=True)
class Experiment:
    """What `experiment` gives.

    Attributes
    ----------
    comparison : PipelineComparison
        The fitted models.
    results : dict
        For JSON: what `compare` and `diagnose_fusion` give, with ``metric``, ``modalities``, ``rows``, ``classes``
        (split -> class -> rows), ``settings``, ``ablation``, ``imbalance``, ``stability``, ``seconds_lab`` (by part)
        and ``findings`` (list of str: what these rows cannot show).
    """

    comparison: PipelineComparison
    results: dict[str, Any]


def experiment(
    evidence: Splits,
    label: Label,
    config: FusionConfig,
    *,
    experts: Mapping[str, ExpertFacts],
    others: Sequence[Trial] = (),
    strategies: Sequence[str] | None = None,
    rule: ImbalanceRule | None = None,
    resamples: int = 1000,
    seed: int = 0,
    clock: Clock | None = None,
) -> Experiment:
    """All that is found on Evidence alone: baselines, fusions, the three comparisons, the diagnostics, the verdict.

    Parameters
    ----------
    evidence : Splits
        ``train``, ``val`` and ``test``: annotated rows, those of train unseen by the experts (`usable`).
    config : FusionConfig
        Seeds and options for all strategies.
    experts : mapping
        By modality.
    others : sequence of Trial
        Baselines with encoders of their own.
    strategies : sequence of str, optional
        Fusions to compare; None = all that read features or logits.
    rule : ImbalanceRule, optional
        None = no fusion is fitted again on weakened modalities.
    clock : Clock, optional
        One that has begun to count.

    Returns
    -------
    Experiment

    Raises
    ------
    DataError
        Where a split bears fewer than two classes.
    """
    clock = clock or Clock(Reporter())
    metric = headline_metric(len(label.classes))
    labels = {split: labels_of(evidence, split) for split in evidence}
    for split, classes in labels.items():
        check_classes(classes, split, label)
    resampling = Resampling(metric, resamples, seed)
    strategies = strategies or [name for name in plugins.names("fusions") if reads_evidence(name)]
    with clock("fusions"):
        comparison = fit_pipelines(
            evidence,
            config,
            strategies,
            metric=metric,
            experts=experts,
            others=others,
            seed=seed,
            progress=clock.reporter.progress,
        )
    with clock("verdict"):
        compared = compare(comparison, resampling)
    fused, test = comparison.fused, evidence["test"]
    with clock("dissection"):
        taken_apart, findings = diagnose_fusion(
            fused, comparison.alone, test, labels["test"], groups_of(evidence, "test"), resampling
        )
    with clock("ablation"):
        ablated = ablate(comparison.fusion, test, evidence["train"], metric=metric, resamples=resamples, seed=seed)
    weak: dict[str, Any] | None = None
    if rule:
        with clock("imbalance"):
            weakened = weaken(
                fused,
                comparison.alone,
                evidence,
                config,
                rule=rule,
                resampling=resampling,
                progress=clock.reporter.progress,
            )
            weak = {**weakened, "remedies": compare_dropout(fused, evidence, config, resampling)}
    with clock("stability"):
        learned = [t for t in (*comparison.baselines, *comparison.fusions) if t.fusion is not None]
        models = {t.name: steadiness(t, evidence, metric=metric) for t in learned}
        grown = growth(strategies, modalities=len(evidence["train"]), classes=len(label.classes))
    results = {
        "metric": metric,
        "modalities": list(evidence["train"]),
        "rows": {split: len(rows) for split, rows in labels.items()},
        "classes": {split: count_labels(rows, label) for split, rows in labels.items()},
        "settings": _settings(config),
        **compared,
        **taken_apart,
        "ablation": ablated,
        "imbalance": weak,
        "stability": {"models": models, "compared": compare_stability(models), "growth": grown},
        "seconds_lab": clock.seconds,
        "findings": [*findings_about(evidence, label), *findings],
    }
    return Experiment(comparison, results)


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
