"""Step `calibrate`: calibrations, thresholds and review bands, from the tuning split alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ... import __version__
from ...assess.drift_reference import Reference
from ...assess.predictions import Predictions, pattern_predictions
from ...assess.run_data import RunData
from ...decide.policy import POOLED, Policy
from ...decide.policy_fit import calibration_file, fit_policy, thresholds_file
from ...decide.thresholds import threshold_curve, write_curve
from ...decide.tuning_rows import PolicySettings, TuningRows
from ...fit.fusion import MODEL
from ...system.system import model_versions
from ...workspace import write_json
from ..checks import base_rate
from ..context import Context, Step

if TYPE_CHECKING:
    from ...decide.tuning_rows import Scores


class PolicyCounts(TypedDict):
    tuned_on: str
    rows: int
    findings: list[str]


def calibrate(run: Context) -> PolicyCounts:
    """Fit the policy and write it, with the files that show what was fitted and what drift is measured from."""
    data, space = run.data, run.space
    said = data.predictions(data.tuned_on)
    fitted = fit_policy(_tuning_rows(data, said), _settings(data))
    if kept := sorted(space.policies.glob("*.json")):
        run.reporter.note(f"{len(kept)} policies changed by hand are kept in {space.policies}, and not used")
    for finding in fitted.findings:
        run.reporter.note(finding)
    write_json(space.calibration, calibration_file(fitted.policy))
    write_json(space.thresholds, thresholds_file(fitted))
    if run.label.binary:
        for model in data.models:
            _write_curve(space.curve(model), said, fitted.policy, model)
    fitted.policy.save(space.policy)
    texts, main = data.texts(data.tuned_on), data.models[-1]
    reference = Reference.gather(said, texts, fitted.policy, main, split=data.tuned_on, seed=run.config.seed)
    reference.save(space.reference)
    return {"tuned_on": data.tuned_on, "rows": len(said.ids), "findings": fitted.findings}


def _tuning_rows(data: RunData, said: Predictions) -> TuningRows:
    scores: dict[str, dict[str, Scores]] = {
        model: {POOLED: (said.logits[model][said.has[model]], said.labels[said.has[model]])} for model in data.models
    }
    if data.fused is not None:
        scores[MODEL] |= pattern_predictions(data.fused_evidence(data.tuned_on), data.expert_names, data.fused, MODEL)
    decided = said.has[data.models[-1]]
    return TuningRows(
        scores,
        groups=None if data.in_sample else list(np.array(said.groups)[decided]),
        languages=np.array(said.languages, dtype=object)[decided].tolist(),
    )


def _settings(data: RunData) -> PolicySettings:
    config, decide = data.config, data.config.decide
    models = model_versions(data.space, list(data.expert_names.values()))
    return PolicySettings(
        run=config.run,
        label=config.label,
        classes=data.label.classes,
        probability_key=data.label.probability,
        in_sample=data.in_sample,
        versions={"bifocal": __version__, "run": config.run, **models},
        data={data.tuned_on: data.split(data.tuned_on).fingerprint},
        method=decide.calibration,
        base_rate=base_rate(decide, config.label, data.label),
        rule=decide.threshold,
        review=decide.review,
        unread=decide.unread,
        truncated=decide.truncated,
        seed=config.seed,
    )


def _write_curve(path: Path, said: Predictions, policy: Policy, model: str) -> None:
    rows = said.has[model]
    probabilities = policy.probabilities(model, said.logits[model][rows], POOLED)
    weights = policy.weights(model, said.labels[rows])
    write_curve(path, threshold_curve(said.labels[rows], probabilities[:, 1], weights))


def _files(run: Context) -> list[Path]:
    space = run.space
    curves = [path for path in map(space.curve, run.data.models) if path.is_file()]
    return [space.calibration, space.thresholds, space.policy, space.reference, *curves]


STEP = Step("calibrate", calibrate, settings=("decide",), outputs=_files)
