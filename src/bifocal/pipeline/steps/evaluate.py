"""Step `evaluate`: every model is measured on every split; the test split is read here, once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import NotRequired, TypedDict

import numpy as np

from ...assess.predictions import (
    ECE,
    ClassShares,
    MainGain,
    ModelResults,
    Predictions,
    SetActions,
    draw_curves,
    gains_over_experts,
    measure_actions,
    measure_class_shares,
    measure_models,
    prior,
    seed_spread,
    write_error_table,
)
from ...assess.related_labels import (
    asked_rows,
    measure_annotation_gap,
    measure_contradiction,
    measure_end_to_end,
    told_annotation_gap,
)
from ...assess.rule_figures import RuleFigure, measure_rule
from ...assess.run_data import RunData
from ...assess.slices import MeasuredParts, evaluated_rows, measure_parts
from ...assess.tuning import tuning_predictions
from ...config import expand_home
from ...decide.policy import Policy
from ...evaluate.compare import Gain, Resampling
from ...evaluate.metrics import headline_metric
from ...evaluate.slices import write_slices
from ...fit.fusion import MODEL
from ...workspace import file_sha256, read_json, write_json
from ..context import Context, Step


class Results(TypedDict):
    """What ``results_<run>.json`` holds beside slices."""

    run: str
    label: str
    in_sample: bool
    tuned_on: str
    tested_on: str
    main: str
    ece: dict[str, int | str]
    class_shares: ClassShares
    models: dict[str, ModelResults]
    rule_figures: list[RuleFigure]
    """Of the model that decides."""
    actions: NotRequired[dict[str, dict[str, int]] | SetActions]
    gain: NotRequired[MainGain]
    gains: NotRequired[dict[str, Gain]]
    """Expert -> the gain over it."""


class EvaluationCounts(TypedDict):
    tested_on: str
    rows: int


def evaluate(run: Context) -> EvaluationCounts:
    """Write the results, the slices, the curves and the table of errors."""
    data, space = run.data, run.space
    policy = data.policy()
    every = {split: data.predictions(split) for split in data.packed}
    said = {split: found.take(found.annotated) for split, found in every.items()}
    tuned, tested = said[data.tuned_on], said[data.tested_on]
    parts = _parts(data, policy)
    results = {**_measured(data, policy, said), **parts.to_dict(), **_related(run, policy, every)}
    space.write_section(space.results, results)
    if contradiction := measure_contradiction(data):
        whole = read_json(space.results)
        contradictions = {**whole.get("contradictions", {}), run.config.label: contradiction}
        write_json(space.results, {**whole, "contradictions": contradictions})
    write_slices(space.slices, parts.slices)
    chosen = tuning_predictions(data) if policy.tuned_on else tuned
    on = f"{data.tuned_on} and cross-fitted train" if policy.tuned_on else data.tuned_on
    write_json(space.curves, draw_curves(tested, chosen, policy, data.models, tuned_on=on, tested_on=data.tested_on))
    texts = [data.texts(data.tested_on)[row] for row in every[data.tested_on].annotated]
    write_error_table(space.errors, tested, texts, policy, data.label, data.tested_on, data.models)
    return {"tested_on": data.tested_on, "rows": len(tested.ids)}


def _measured(data: RunData, policy: Policy, said: Mapping[str, Predictions]) -> Results:
    """Each model on each split (``said``: split -> opinions), the actions, and the fusion beside the best expert."""
    config, label, tuned_on, tested_on = data.config, data.label, data.tuned_on, data.tested_on
    resampling = Resampling(headline_metric(len(label.classes)), config.bootstrap, config.seed)
    tested, shares = said[tested_on], prior(said["train"].labels, len(label.classes))
    models = measure_models(said, policy, data.parameters(), shares, tested_on, resampling)
    results: Results = {
        "run": config.run,
        "label": config.label,
        "in_sample": data.in_sample,
        "tuned_on": tuned_on,
        "tested_on": tested_on,
        "main": data.models[-1],
        "ece": ECE,
        "class_shares": measure_class_shares(said, label),
        "models": models,
        "rule_figures": measure_rule(tested, policy, data.models[-1], resampling),
    }
    if policy.review is not None:
        results["actions"] = measure_actions(tested, policy, data.models[-1])
    if data.fused is not None:
        gains = gains_over_experts(said[tuned_on], tested, policy, MODEL, shares, resampling)
        results["gain"], results["gains"] = gains
        rows = data.predictions(tested_on).annotated.tolist()
        evidence = {name: part.take(rows) for name, part in data.fused_evidence(tested_on).items()}
        models[MODEL]["seeds"] = seed_spread(data.fused, evidence, tested.labels, resampling.metric)
    return results


def _related(run: Context, policy: Policy, every: Mapping[str, Predictions]) -> dict[str, object]:
    """What is to be known of a label among others."""
    data, found = run.data, dict[str, object]()
    if end_to_end := measure_end_to_end(data):
        found["end_to_end"] = end_to_end
    clean = [split for split in every if split != "train"] or ["train"]
    asked = [asked_rows(data, split) for split in clean]
    rows = reduce(Predictions.and_more, (every[split] for split in clean))
    if gap := measure_annotation_gap(rows, policy, np.concatenate(asked)):
        found["annotation"] = gap
        if gap["differ"]:
            run.reporter.note(told_annotation_gap(gap, run.config.label, policy))
    return found


def _parts(data: RunData, policy: Policy) -> MeasuredParts:
    rows, settings = evaluated_rows(data, data.tested_on), data.config.slices
    return measure_parts(rows, policy, data.models, settings, resamples=data.config.bootstrap, seed=data.config.seed)


def _terms(run: Context) -> str | None:
    terms = run.config.slices.terms
    return file_sha256(expand_home(terms)) if terms else None


STEP = Step(
    "evaluate",
    evaluate,
    settings=("bootstrap", "slices"),
    outputs=lambda run: [run.space.results, run.space.errors, run.space.slices, run.space.curves],
    outside=_terms,
    per_label=True,
)
