"""All that the lab finds by running encoders again: corrupted inputs, truncated training, joint fusions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import FusionConfig, LabConfig
from ..evaluate.compare import Resampling
from .compare import PipelineComparison
from .corruption import corrupt_parts
from .experiment import Clock
from .imbalance import truncate
from .joint_trials import JointMaterial, compare_remedies, fit_joint_trials, joint_material, tunes
from .trials import describe, fit_trial, for_strategy
from .usable_rows import Splits, groups_of, labels_of

if TYPE_CHECKING:
    from ..contracts import Encoder, Modality
    from ..data.shards import Split


def encode_again(
    comparison: PipelineComparison,
    config: FusionConfig,
    settings: LabConfig,
    encoders: Mapping[str, Encoder],
    modalities: Mapping[str, Modality],
    splits: Mapping[str, Split],
    *,
    experts: Mapping[str, Mapping[str, int]],
    folder: Path,
    resamples: int,
    seed: int,
    clock: Clock,
) -> tuple[dict[str, Any], list[str]]:
    """Disturb F's inputs, truncate what it learns from, and train joint fusions beside it, on a sample of the rows.

    Parameters
    ----------
    comparison : PipelineComparison
        With F, fitted on Evidence.
    config : FusionConfig
        As the comparison's.
    settings : LabConfig
        ``corrupt``, ``weaken`` and ``joint`` turn the parts on; ``rows`` bounds them, for encoders run many times.
    encoders, modalities : mapping
        By modality.
    splits : mapping
        The packed train, val and test.
    experts : mapping
        Modality -> parameters of its expert.
    folder : Path
        Where tokens lie meanwhile.

    Returns
    -------
    dict, list of str
        ``corruption`` (modality -> what `corrupt_inputs` gives), ``truncated`` (what `truncate` gives) and ``joint``
        (``rows``, ``trials``: `describe` of each with ``gain`` over F refitted on the same rows, ``histories``,
        ``remedies``), each None where it is turned off; and findings.
    """
    resampling = Resampling(comparison.metric, resamples, seed)
    found: dict[str, Any] = {"corruption": None, "truncated": None, "joint": None}
    asked = {
        "corruption": ("corrupt", settings.corrupt),
        "imbalance": ("weaken", settings.weaken),
        "joint": ("joint", settings.joint),
    }
    findings = [f"{part}: turned off (lab.{key}: false)" for part, (key, on) in asked.items() if not on]
    if settings.corrupt:
        with clock("corruption"):
            test, tell = comparison.evidence["test"], clock.reporter.progress
            found["corruption"] = corrupt_parts(
                comparison.fusion,
                encoders,
                modalities,
                splits["test"],
                test,
                rows=settings.rows,
                metric=comparison.metric,
                resamples=resamples,
                seed=seed,
                progress=tell,
            )
    if settings.weaken:
        with clock("truncation"):
            found["truncated"] = truncate(
                comparison.fused,
                comparison.alone,
                comparison.evidence,
                config,
                encoders,
                modalities,
                splits,
                rule=settings.imbalance,
                rows=settings.rows,
                resampling=resampling,
            )
    if settings.joint:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".joint.", suffix=".part") as place:
            with clock("joint"):
                material = joint_material(
                    encoders, splits, comparison.evidence, folder=Path(place), rows=settings.rows, seed=seed
                )
                fitted = fit_joint_trials(material, seed=seed, progress=clock.reporter.progress)
                findings += fitted.findings
                found["joint"] = {
                    "rows": {split: len(rows) for split, rows in material.rows.items()},
                    **_beside_f(comparison, config, material, fitted.trials, experts, resampling),
                    "histories": fitted.histories,
                }
            with clock("remedies"):
                if tuned := [t.name for t in fitted.trials if tunes(t)]:
                    found["joint"]["remedies"] = compare_remedies(
                        material, strategy=tuned[0], resampling=resampling, progress=clock.reporter.progress
                    )
    return found, findings


def _beside_f(
    comparison: PipelineComparison,
    config: FusionConfig,
    material: JointMaterial,
    trials: list[Any],
    experts: Mapping[str, Mapping[str, int]],
    resampling: Resampling,
) -> dict[str, Any]:
    """The joint fusions beside F's strategy, which learns from the same rows, as they do."""
    evidence: Splits = material.evidence
    labels = {split: labels_of(evidence, split) for split in evidence}
    groups = groups_of(evidence, "test")
    name = comparison.fused.name
    same = fit_trial(name, "fusion", for_strategy(config, name), evidence, seed=resampling.seed, experts=experts)

    def row(t: Any) -> dict[str, Any]:
        gain = resampling.gain(labels["test"], same.probabilities("test"), t.probabilities("test"), groups)
        return {**describe(t, labels, groups, resampling), "gain": gain}

    return {"same_rows": describe(same, labels, groups, resampling), "trials": [row(t) for t in trials]}
