"""All that the lab finds by running encoders again: corrupted inputs, truncated training, joint fusions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NotRequired, TypedDict

from ..config import LabConfig
from ..diagnose.ablation import Corruption
from ..evaluate.compare import Gain
from .compare import PipelineComparison
from .corruption import PackedInputs, corrupt_parts
from .experiment import Clock
from .imbalance import Truncated, truncate
from .joint_trials import JointMaterial, Remedies, compare_remedies, fit_joint_trials, joint_material, tunes
from .trials import Trial, TrialRow, describe, fit_trial
from .usable_rows import groups_of, labels_of


class JointRow(TrialRow):
    """A joint fusion, and its gain over F refitted on the same rows."""

    gain: Gain


class JointResults(TypedDict):
    """Joint fusions beside F's strategy, which learns from the ``same_rows``; ``rows``: split -> number."""

    rows: dict[str, int]
    same_rows: TrialRow
    trials: list[JointRow]
    histories: dict[str, list[dict[str, float]]]
    remedies: NotRequired[Remedies]


class EncodedAgain(TypedDict):
    """What was found by running encoders again, by modality but for the joint fusions; None where it is turned off."""

    corruption: dict[str, Corruption | None] | None
    joint: JointResults | None


def encode_again(
    comparison: PipelineComparison, inputs: PackedInputs, settings: LabConfig, folder: Path, clock: Clock
) -> tuple[EncodedAgain, dict[str, Truncated] | None, list[str]]:
    """Disturb F's inputs, truncate what it learns from, and train joint fusions beside it, on a sample of the rows.

    Parameters
    ----------
    settings : LabConfig
        ``corrupt``, ``weaken`` and ``joint`` turn the parts on; ``rows`` bounds them, for encoders run many times.
    folder : Path
        Where tokens lie meanwhile.

    Returns
    -------
    EncodedAgain, dict or None, list of str
        And what `truncate` gives, which belongs to imbalance; and findings.
    """
    study, rows = comparison.study, settings.rows
    found: EncodedAgain = {"corruption": None, "joint": None}
    truncated = None
    asked = {
        "corruption": ("corrupt", settings.corrupt),
        "imbalance": ("weaken", settings.weaken),
        "joint": ("joint", settings.joint),
    }
    findings = [f"{part}: turned off (lab.{key}: false)" for part, (key, on) in asked.items() if not on]
    if settings.corrupt:
        with clock("corruption"):
            test, tell = study.evidence["test"], clock.reporter.progress
            found["corruption"] = corrupt_parts(
                comparison.fusion, inputs, test, study.resampling, rows=rows, progress=tell
            )
    if settings.weaken:
        with clock("truncation"):
            truncated = truncate(comparison, inputs, settings.imbalance, rows=rows)
    if settings.joint:
        found["joint"], more = _joint(comparison, inputs, rows, folder, clock)
        findings += more
    return found, truncated, findings


def _joint(
    comparison: PipelineComparison, inputs: PackedInputs, rows: int, folder: Path, clock: Clock
) -> tuple[JointResults, list[str]]:
    tell = clock.reporter.progress
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".joint.", suffix=".part") as place:
        with clock("joint"):
            material = joint_material(comparison.study, inputs, Path(place), rows=rows)
            fitted = fit_joint_trials(material, progress=tell)
            same_rows, trials = _beside_f(comparison.fused.name, material, fitted.trials)
            found: JointResults = {
                "rows": {split: len(numbers) for split, numbers in material.rows.items()},
                "same_rows": same_rows,
                "trials": trials,
                "histories": fitted.histories,
            }
        with clock("remedies"):
            if tuned := [t.name for t in fitted.trials if tunes(t)]:
                found["remedies"] = compare_remedies(material, tuned[0], progress=tell)
    return found, fitted.findings


def _beside_f(strategy: str, material: JointMaterial, trials: list[Trial]) -> tuple[TrialRow, list[JointRow]]:
    """F's strategy, which learns from the same rows, and the joint fusions."""
    evidence, resampling = material.study.evidence, material.study.resampling
    labels = {split: labels_of(evidence, split) for split in evidence}
    groups = groups_of(evidence, "test")
    same = fit_trial(material.study, strategy, "fusion", strategy)

    def row(t: Trial) -> JointRow:
        gain = resampling.gain(labels["test"], same.probabilities("test"), t.probabilities("test"), groups)
        return {**describe(t, labels, groups, resampling), "gain": gain}

    return describe(same, labels, groups, resampling), [row(t) for t in trials]
