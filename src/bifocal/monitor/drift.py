"""The story of `bifocal drift`: new posts are decided on, and held against those that the run was tuned on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from .. import __version__
from ..assess.drift_reference import DecidedPosts, Reference
from ..config import DriftConfig, RunConfig, explain, recorded_config
from ..contracts import Reporter
from ..decide.policy import Policy
from ..diagnose.drift import alpha_of_each, compare, independent_rows
from ..errors import ConfigError, DataError, RunError
from ..example import UNLABELLED
from ..system.score import FORMATS, score_file
from ..workspace import Workspace, check_replaceable, file_sha256, read_json, write_json
from .decisions import Decisions, is_scored
from .drift_findings import drift_findings
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
    reporter: Reporter | None = None,
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
        In the place of the run's own `DriftConfig`. Of several labels ``alpha`` holds over all of them
        (`alpha_of_each`).
    reporter : Reporter, optional
        Told of the scoring; None = its notes are findings.
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
    run = _Tuned.load(folder, psi, alpha)
    output = output or run.space.drift
    _check_paths(new, output)
    check_replaceable(output, lambda path: {"alarms", "reference", "rule"} <= read_json(path).keys(), force=force)
    told: list[str] = []
    decisions = new
    if not is_scored(new, run.policy.probability_key):
        from ..system.system import System

        decisions = output.with_name(f"{output.stem}_decisions.jsonl")
        system = System.load(folder, allow_plugins=allow_plugins)
        note, progress = (reporter.note, reporter.progress) if reporter else (told.append, None)
        score_file(system, new, decisions, batch_size=batch_size, progress=progress, note=note)
    found = _compared(run, new, decisions, told)
    write_json(output, found)
    return {**found, "output": str(output)}


@dataclass(frozen=True)
class _Tuned:
    """A run, what its labels were tuned on, and the rule by which each of them is compared."""

    config: RunConfig
    space: Workspace
    policy: Policy
    references: Mapping[str, Reference]
    """Of every label, the first one first."""
    rule: DriftConfig
    """As it was asked for, over all labels."""

    @classmethod
    def load(cls, folder: str | Path, psi: float | None, alpha: float | None) -> _Tuned:
        """Raises as `measure_drift`."""
        space = Workspace.of(folder)
        record = read_json(space.record)
        if "calibrate" not in record.get("steps", {}):
            raise RunError(f"the run in {folder} has not reached its policy: let `bifocal run CONFIG` end")
        config = recorded_config(record["config"], where=str(space.record))
        rule, policy = _rule(config.drift, psi, alpha), Policy.load(space.policy)
        references = {name: _reference(space, policy, name) for name in policy.label_names}
        for path, run in ((space.policy, policy.run), (space.reference, references[policy.label].run)):
            if run != config.run:
                raise RunError(
                    f"{path} is of the run {run!r}, and lies in the folder of {config.run!r}: put its own back"
                )
        return cls(config, space, policy, references, rule)

    @property
    def rule_of_each(self) -> DriftConfig:
        """The rule for one label."""
        return self.rule.model_copy(update={"alpha": alpha_of_each(self.rule.alpha, len(self.references))})

    def decisions(self, path: Path, label: str = "") -> Decisions:
        """A table of decisions, by one of the labels."""
        return Decisions(path, self.policy, list(self.config.parts), label)


def _compared(run: _Tuned, new: Path, decisions: Path, told: Sequence[str]) -> dict[str, Any]:
    """The content of the file; ``told`` is what was noted while the posts were scored."""
    (_, reference), *further = run.references.items()
    table = run.decisions(decisions)
    decided, policy, rule = table.read(), run.policy, run.rule_of_each
    binary = policy.classes == (0, 1)
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
        "rule": {**run.rule.model_dump(), **({"alpha_of_each": rule.alpha} if further else {})},
        **_measure(reference, decided, policy, list(run.config.parts), rule, binary, run.config.seed),
        **({"labels": {}} if further else {}),
        "seed": run.config.seed,
        "versions": {**policy.versions, "bifocal": __version__},
    }
    found["findings"] = [*told, *table.findings, *drift_findings(found, binary)]
    for name, own in further:
        of_label = _of_label(run.decisions(decisions, name), own, rule, run.config.seed)
        found["labels"][name] = of_label
        found["alarms"] += [f"{name}: {alarm}" for alarm in of_label["alarms"]]
        found["findings"] += [f"{name}: {finding}" for finding in of_label["findings"]]
    if (whole := rule.alpha * len(run.references)) > run.rule.alpha * 1.0001:
        found["findings"].append(
            f"each of {len(run.references)} labels is compared at an alpha of {rule.alpha:g}, the least that "
            f"permutation tests tell: any alarm at all comes up by chance in at most {whole:.2g} of looks, and not "
            f"{run.rule.alpha:g}"
        )
    return found


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
    return {**found, "findings": drift_findings(found, binary)}


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
