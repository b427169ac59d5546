"""The story of `bifocal drift`: new posts are decided on, and held against those that the run was tuned on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from .. import __version__
from ..assess.drift_reference import DecidedPosts, Reference
from ..config import DriftConfig, explain, recorded_config
from ..decide.policy import Policy
from ..diagnose.drift import compare, independent_rows
from ..errors import ConfigError, DataError, RunError
from ..example import UNLABELLED
from ..system.score import FORMATS, score_file
from ..workspace import Workspace, check_replaceable, file_sha256, read_json, write_json
from .decisions import Decisions, is_scored
from .unlabelled import Labelled, ScoreBins, Unlabelled, estimate


def measure_drift(
    folder: str | Path,
    new: Path,
    *,
    output: Path | None = None,
    force: bool = False,
    psi: float | None = None,
    alpha: float | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int | None], None] | None = None,
    note: Callable[[str], None] | None = None,
    allow_plugins: Collection[str] = (),
) -> dict[str, Any]:
    """Compare new unlabelled posts with what a run was tuned on, and write what is found.

    Parameters
    ----------
    folder : path
        A run, finished up to `calibrate`.
    new : Path
        CSV, JSONL or Parquet: a table of posts as `score_file` takes it, which is scored first (the decisions are kept
        beside the output, ``<output>_decisions.jsonl``), or what `score_file` made of one, which runs no encoder.
    output : Path, optional
        ``.json``; None = ``drift_<run>.json`` in the run's folder.
    psi, alpha : float, optional
        In the place of the run's own `DriftConfig`.
    allow_plugins : as `System.load`

    Returns
    -------
    dict
        The content of the file, see ``docs/artifacts.md``; ``alarms`` names the properties that raised one, of a
        further label as ``<label>: score``. What was compared of further labels stands under ``labels``.

    Raises
    ------
    ConfigError
        Where a threshold is out of bounds.
    DataError
        Where the table cannot be read, holds no decision, lacks a column, or was scored by another run.
    RunError
        Where the run has not reached its policy, its policy or reference is of another run, or it kept no reference.
    """
    space = Workspace.of(folder)
    record = read_json(space.record)
    if "calibrate" not in record.get("steps", {}):
        raise RunError(f"the run in {folder} has not reached its policy: let `bifocal run CONFIG` end")
    config = recorded_config(record["config"], where=str(space.record))
    rule = _rule(config.drift, psi, alpha)
    policy = Policy.load(space.policy)
    references = {name: _reference(space, policy, name) for name in policy.label_names}
    reference = references.pop(policy.label)
    for path, run in ((space.policy, policy.run), (space.reference, reference.run)):
        if run != config.run:
            raise RunError(f"{path} is of the run {run!r}, and lies in the folder of {config.run!r}: put its own back")
    output = output or space.drift
    _check_paths(new, output)
    check_replaceable(output, lambda path: {"alarms", "reference", "rule"} <= read_json(path).keys(), force=force)
    binary = policy.classes == (0, 1)
    told: list[str] = []
    decisions = new
    if not is_scored(new, policy.probability_key):
        from ..system.system import System

        decisions = output.with_name(f"{output.stem}_decisions.jsonl")
        system = System.load(folder, allow_plugins=allow_plugins)
        score_file(system, new, decisions, batch_size=batch_size, progress=progress, note=note or told.append)
    table = Decisions(decisions, policy, list(config.parts))
    decided = table.read()
    found = {
        "run": reference.run,
        "label": reference.label,
        "model": reference.model,
        "new": {
            "path": str(new),
            "sha256": file_sha256(new),
            **({} if decisions == new else {"decisions": str(decisions)}),
            "rows": table.rows,
            "compared": len(decided),
            "failed": table.failed,
            "without_score": table.without_score,
            "distinct": round(independent_rows(decided.copies)),
        },
        "reference": _told(reference),
        "rule": rule.model_dump(),
        **_measure(reference, decided, policy, list(config.parts), rule, binary, config.seed),
        **({"labels": {}} if references else {}),
        "seed": config.seed,
        "versions": {**policy.versions, "bifocal": __version__},
    }
    found["findings"] = told + table.findings + _findings(found, binary)
    for name, own in references.items():
        of_label = _of_label(Decisions(decisions, policy, list(config.parts), name), own, rule, config.seed)
        found["labels"][name] = of_label
        found["alarms"] += [f"{name}: {alarm}" for alarm in of_label["alarms"]]
        found["findings"] += [f"{name}: {finding}" for finding in of_label["findings"]]
    write_json(output, found)
    return {**found, "output": str(output)}


def _reference(space: Workspace, policy: Policy, label: str) -> Reference:
    """What a label was tuned on, as its policy decides it now."""
    own = policy.of_label(label)
    reference = Reference.load(space.for_label(label, policy.label).reference)
    return reference.with_policy(own) if own.changes else reference


def _told(reference: Reference) -> dict[str, Any]:
    """Which rows the new ones are compared with."""
    return {
        "split": reference.split,
        "in_sample": reference.in_sample,
        "rows": reference.rows,
        "compared": len(reference.scores),
    }


def _of_label(table: Decisions, reference: Reference, rule: DriftConfig, seed: int) -> dict[str, Any]:
    """What has moved in the scores of a further label, over the posts that it was asked of.

    Languages, lengths and parts are those of the first label's posts, and are told there.
    """
    decided, policy = table.read(), table.policy.of_label(table.label)
    new = {"compared": len(decided), "not_asked": table.not_asked, "without_score": table.without_score}
    if not len(decided):
        return {"new": new, "alarms": [], "findings": ["asked of none of the new posts, and not compared"]}
    binary = policy.classes == (0, 1)
    found = {
        "model": reference.model,
        "new": {**new, "distinct": round(independent_rows(decided.copies))},
        "reference": _told(reference),
        "rule": rule.model_dump(),
        **_measure(reference, decided, policy, [], rule, binary, seed),
    }
    return {**found, "findings": _findings(found, binary)}


def _rule(configured: DriftConfig, psi: float | None, alpha: float | None) -> DriftConfig:
    given = {name: value for name, value in (("psi", psi), ("alpha", alpha)) if value is not None}
    try:
        return DriftConfig.model_validate({**configured.model_dump(), **given})
    except ValidationError as error:
        raise ConfigError(explain(error, DriftConfig)) from None


def _check_paths(new: Path, output: Path) -> None:
    if new.suffix.lower() not in FORMATS:
        raise DataError(f"{new} should end in one of {', '.join(FORMATS)}")
    if not new.is_file():
        raise DataError(f"there is no input file {str(new)!r}")
    if output.suffix.lower() != ".json":
        raise DataError(f"{output} should end in .json")


def _measure(
    reference: Reference,
    decided: DecidedPosts,
    policy: Policy,
    modalities: list[str],
    rule: DriftConfig,
    binary: bool,
    seed: int,
) -> dict[str, Any]:
    before = reference.decided_posts
    sides = [side.properties(modalities, policy.classes, binary=binary) for side in (before, decided)]
    compared = compare(*sides, psi=rule.psi, alpha=rule.alpha, seed=seed)
    for name, entry in compared.items():
        if sides[0][name].values.dtype.kind in "if":
            medians = [float(np.median(side[name].values)) if len(side[name].values) else None for side in sides]
            entry["median"] = dict(zip(("reference", "new"), medians, strict=True))
    classes = len(policy.classes)
    counts = [np.bincount(side.predicted, minlength=classes) / len(side) for side in (before, decided)]
    return {
        "alarms": [name for name, entry in compared.items() if entry["state"] == "alarm"],
        "compared": compared,
        "decisions": {
            str(name): {"reference": a, "new": b} for name, a, b in zip(policy.classes, *counts, strict=True)
        },
        **_estimates(reference, decided, policy, rule, binary, seed),
    }


def _estimates(
    reference: Reference, decided: DecidedPosts, policy: Policy, rule: DriftConfig, binary: bool, seed: int
) -> dict[str, Any]:
    labels, before = np.array(reference.labels), reference.decided_posts
    known = labels != UNLABELLED
    if not known.any():
        return {"estimated_accuracy": None, "estimated_base_rate": None, "label_shift": None}
    predicted = [None if binary else side.predicted for side in (before, decided)]
    cells = ScoreBins.fit(before.scores, predicted[0], len(policy.classes))
    found = estimate(
        Labelled(
            labels[known],
            (before.predicted == labels)[known],
            before.confidence(binary=binary)[known],
            cells.of(before.scores, predicted[0])[known],
            before.copies[known],
        ),
        Unlabelled(decided.confidence(binary=binary), cells.of(decided.scores, predicted[1]), decided.copies),
        classes=len(policy.classes),
        cells=len(cells),
        alpha=rule.alpha,
        seed=seed,
    )
    base_rate = found["base_rate"]
    return {
        "estimated_accuracy": found["accuracy"],
        "estimated_base_rate": base_rate and dict(zip(map(str, policy.classes), base_rate, strict=True)),
        "label_shift": found["label_shift"],
    }


def _findings(found: Mapping[str, Any], binary: bool) -> list[str]:
    """What a person should know, the alarms first."""
    told = []
    for state in ("alarm", "moved"):
        for name, entry in found["compared"].items():
            if entry["state"] == state:
                word = "alarm" if state == "alarm" else "moved, but little"
                told.append(f"{word}: {name} ({_movement(entry)}; PSI {entry['psi']:.2f}, p {entry['p_holm']:.2g})")
    few = [name for name, entry in found["compared"].items() if entry["state"] == "too few rows"]
    if few:
        told.append(f"too few rows to see a movement of PSI {found['rule']['psi']:g} in: {', '.join(few)}")
    if none := [name for name, entry in found["compared"].items() if entry["state"] == "not compared"]:
        told.append(f"not compared, as one side has none: {', '.join(none)}")
    if found["new"]["distinct"] < found["new"]["compared"] / 2:
        new = found["new"]
        told.append(
            f"the {new['compared']:,} new rows are copies to a large part: they tell as much as {new['distinct']:,}"
        )
    if found["reference"]["in_sample"]:
        told.append("the run has no val split: compared with its own training posts, on which scores are surer")
    return told + _estimate_findings(found, binary)


def _movement(entry: Mapping[str, Any]) -> str:
    """Where a property went: by its median, or by the value whose share has changed most."""
    if "median" in entry:
        return f"median {entry['median']['reference']:.3g} → {entry['median']['new']:.3g}"
    most = max(entry["bins"], key=lambda one: abs(one["new"] - one["reference"]))
    return f"{most['value']} {most['reference']:.0%} → {most['new']:.0%}"


def _estimate_findings(found: Mapping[str, Any], binary: bool) -> list[str]:
    told: list[str] = []
    if found["estimated_accuracy"] is None:
        return ["no post of the reference bears a label: accuracy and base rate cannot be estimated"]
    if found["estimated_base_rate"] is None:
        return ["the reference's scores do not tell classes apart, or it has one only: no base rate can be estimated"]
    shift = found["label_shift"]
    for name, share in found["estimated_base_rate"].items():
        moved = not share["low"] <= share["reference"] <= share["high"]
        if moved and shift["holds"] is not False and not (binary and name == "0"):
            told.append(
                f"base rate of {name}: estimated at {share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}], "
                f"was {share['reference']:.1%}, if nothing else has changed"
            )
    if told and shift["holds"]:
        told.append(
            "scores that were calibrated at the old base rate are not at the new one: of the estimated accuracies, go "
            "by `label_shift`"
        )
    if shift["holds"] is False:
        told.append(
            f"{shift['misfit']:.0%} of the new posts have scores like no mixture of the classes (p {shift['p']:.2g}): "
            "not only the base rate has changed, so do not rely on its estimate, nor on the accuracy by `label_shift`"
        )
    elif shift["holds"] is None:
        told.append("too few rows to test whether only the base rate has changed")
    accuracy = found["estimated_accuracy"]
    before = accuracy["reference"]["value"]
    unsound = {"reference", *(["label_shift"] if shift["holds"] is False else [])}
    estimates = [entry for name, entry in accuracy.items() if name not in unsound]
    if all(entry["high"] < before for entry in estimates):
        told.append(f"what estimates of the accuracy are left all lie below the {before:.1%} of the reference")
    return told
