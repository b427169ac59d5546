"""Step `calibrate`: calibrations and thresholds from the tuning rows, review bands from val."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import numpy as np

from ... import __version__
from ...assess.drift_reference import Reference
from ...assess.predictions import Predictions
from ...assess.related_labels import flagged_rows
from ...assess.run_data import RunData
from ...assess.tuning import tuned_on, tuning_predictions, tuning_rows, wants_train
from ...config import RunConfig
from ...decide.policy import POOLED, Policy
from ...decide.policy_fit import calibration_file, fit_policy, thresholds_file
from ...decide.thresholds import threshold_curve, write_curve
from ...decide.tuning_rows import PolicySettings
from ...example import UNLABELLED, Label
from ...system.system import model_versions
from ...workspace import read_json, write_json
from ..checks import base_rate
from ..context import Context, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PolicyCounts(TypedDict):
    tuned_on: str
    rows: int
    """Of the split ``tuned_on`` alone."""
    findings: list[str]
    rows_by_split: NotRequired[Mapping[str, int]]
    """Of the model that decides, as in ``tuned_rows``."""
    tuned_rows: NotRequired[Mapping[str, Mapping[str, int]]]
    """Model -> split -> annotated rows behind its calibration and threshold, where those are not of val alone."""


def calibrate(run: Context) -> PolicyCounts:
    """Fit the policy and write it, with the files that show what was fitted and what drift is measured from."""
    data, space = run.data, run.space
    predictions, more = tuning_predictions(data), wants_train(data)
    rows = tuned_on(data, predictions) if more else {}
    if more:
        run.reporter.note(f"temperature and thresholds rest on {told_rows(rows)}")
    tuned = tuning_rows(data, predictions)
    fitted = fit_policy(tuned, _settings(data, rows))
    if run.first is None and (kept := [path for path in sorted(space.policies.glob("*.json")) if _by_hand(path)]):
        run.reporter.note(f"kept in {space.policies}, and not used: policies changed by hand, {len(kept)} in all")
    findings = [*fitted.findings, *([told] if (told := _act(run.config, data.label)[1]) else [])]
    for finding in findings:
        run.reporter.note(finding)
    _write_by_model(space.calibration, calibration_file(fitted.policy), more=run.first is not None)
    _write_by_model(space.thresholds, thresholds_file(fitted), more=run.first is not None)
    if run.label.binary:
        for model in data.models:
            _write_curve(space.curve(model), predictions, fitted.policy, model, tuned.sampled(model, POOLED))
    policy = Policy.load(space.policy).with_label(fitted.policy) if run.first else fitted.policy
    policy.save(space.policy)
    texts, main, val = data.texts(data.tuned_on), data.models[-1], data.predictions(data.tuned_on)
    if data.label.requires is not None:  # posts that it will decide on are those that its parent flags
        flagged = flagged_rows(data, data.tuned_on)
        rows_asked = np.flatnonzero(flagged) if flagged.any() else val.annotated
        val, texts = val.take(rows_asked), [texts[row] for row in rows_asked]
    reference = Reference.gather(val, texts, fitted.policy, main, split=data.tuned_on, seed=run.config.seed)
    reference.save(space.reference)
    found: PolicyCounts = {"tuned_on": data.tuned_on, "rows": len(val.ids), "findings": findings}
    return {**found, "rows_by_split": rows[main], "tuned_rows": rows} if rows else found


def told_rows(rows: Mapping[str, Mapping[str, int]]) -> str:
    """Which rows tuned what; models of the same rows share a word."""
    models: dict[str, list[str]] = {}
    for model, counts in rows.items():
        unseen = {"train": ", each predicted by a model that had not seen it"}
        of = [f"{n:,} rows of {split}{unseen.get(split, '')}" for split, n in counts.items()]
        models.setdefault(" and ".join(of), []).append(model)
    return "; ".join(f"{told} ({', '.join(names)})" for told, names in models.items())


def _settings(data: RunData, rows: Mapping[str, Mapping[str, int]]) -> PolicySettings:
    config, decide = data.config, data.config.decide
    models = model_versions(data.space, list(data.expert_names.values()))
    return PolicySettings(
        run=config.run,
        label=config.label,
        classes=data.label.classes,
        probability_key=data.label.probability,
        in_sample=data.in_sample,
        versions={"bifocal": __version__, "run": config.run, **models},
        data={split: data.split(split).fingerprint for split in (data.tuned_on, *(["train"] if rows else []))},
        tuned_on=rows,
        method=decide.calibration,
        base_rate=base_rate(decide, config.label, data.label),
        rule=decide.threshold,
        review=decide.review,
        unread=decide.unread,
        truncated=decide.truncated,
        requires=data.label.requires,
        act=_act(config, data.label)[0],
        seed=config.seed,
    )


def _act(config: RunConfig, label: Label) -> tuple[Literal["block", "review", "none"], str | None]:
    """What may be done by a label, and what a person should know of it: of two classes with names none is known to mean
    that a post is to be blocked."""
    if (said := config.label_actions.get(config.label)) is not None:
        return said, None
    if label.binary or len(label.classes) != 2:
        return "block", None
    name, second = config.label, label.classes[1]
    if config.labels:
        return "none", (
            f"neither class of {name} is known to mean that a post is to be blocked, so nothing is done by it; "
            f"`{name}: {{act: block}}` blocks where it is {second!r}, its second class"
        )
    return "block", (
        f"posts are blocked where {name} is {second!r}, its second class; where that is not meant, "
        f"`labels: [{{{name}: {{act: none}}}}]` has it told only"
    )


def _by_hand(path: Path) -> bool:
    """Whether a policy was changed by hand, for any of its labels."""
    policy = read_json(path)
    return any(of.get("changes") for of in (policy, *policy.get("labels", {}).values()))


def _write_by_model(path: Path, content: Mapping[str, Mapping[str, object]], *, more: bool) -> None:
    """Model -> label -> what was fitted; ``more``: beside what the file holds of other labels."""
    found = read_json(path) if more else {}
    write_json(path, found | {model: {**found.get(model, {}), **of} for model, of in content.items()})


def _write_curve(
    path: Path, predictions: Predictions, policy: Policy, model: str, sampled: NDArray[np.float64] | None
) -> None:
    rows = predictions.has[model] & (predictions.labels != UNLABELLED)
    probabilities = policy.probabilities(model, predictions.logits[model][rows], POOLED)
    weights = policy.weights(model, predictions.labels[rows], sampled)
    write_curve(path, threshold_curve(predictions.labels[rows], probabilities[:, 1], weights))


def _files(run: Context) -> list[Path]:
    space = run.space
    curves = [path for path in map(space.curve, run.data.models) if path.is_file()]
    return [space.calibration, space.thresholds, space.policy, space.reference, *curves]


STEP = Step("calibrate", calibrate, settings=("decide", "label_actions"), outputs=_files, per_label=True)
