"""The story of an experiment: baselines -> fusions -> gain, control, additive part -> dissection -> verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import plugins
from .config import FusionConfig, RunConfig, load_config
from .contracts import Reporter
from .diagnose.ablation import ablate
from .diagnose.baselines import fit_rivals
from .diagnose.contest import compare, contend
from .diagnose.dissection import dissect
from .diagnose.material import (
    JUDGED,
    Splits,
    check_classes,
    check_splits,
    count_labels,
    findings_about,
    groups_of,
    labels_of,
    usable,
)
from .diagnose.trials import Trial
from .errors import ConfigError
from .example import Label
from .models.saved import read_card
from .results import headline_name
from .steps import Run
from .train import run
from .workspace import Workspace, sweep, versions, write_json

FOLDER, RESULTS = "lab", "results.json"


def lab(config: RunConfig | str | Path, *, root: str | Path = "runs", reporter: Reporter | None = None) -> Path:
    """Find out whether fusion is worth it on a data set, and why: ``<run>/lab/results.json``.

    The run is performed up to its Evidence, or what is finished of it is taken; from there on everything but the
    baselines with encoders of their own reads Evidence alone. Every choice is made on val; test is read once.

    Parameters
    ----------
    config : RunConfig or path of a YAML file
        ``fusion.seeds`` and those of ``fusion.options`` that a strategy knows go for all strategies.
    root : path
        The run lies at ``root/<config.run>/``.
    reporter : Reporter, optional

    Returns
    -------
    Path
        The folder of the lab's results.

    Raises
    ------
    ConfigError
        Where the run has one modality.
    DataError
        Where train, val or test is missing, or one of them bears a single class.
    BifocalError
        Whatever a run raises.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config = config if isinstance(config, RunConfig) else load_config(config)
    reporter = reporter or Reporter()
    if len(config.modalities) < 2:
        raise ConfigError(
            f"the lab compares a fusion with its modalities alone, and modalities = {config.modalities} has one; "
            "name two or more"
        )
    # First the splits alone: what is wrong with them is told before experts are trained for hours.
    run(config, root=root, until="shards", reporter=reporter)
    work = Run(config, Workspace(Path(root) / config.run, config.run), reporter)
    check_splits(work.packed)
    for split in ("train", *JUDGED):
        check_classes(np.array(work.packed[split].classes(config.label, work.label)), split, work.label)
    run(config, root=root, until="evidence", reporter=_Onward(reporter))
    work = Run(config, work.space, reporter)
    folder = work.space.folder / FOLDER
    with work.space.lock():
        sweep(folder)
        evidence = {split: work.evidence_of(split) for split in ("train", *JUDGED)}
        experts = {name: encoder.parameters() for name, encoder in work.encoders.items()}
        reporter.step("baselines", False)
        rivals = [_rivals(work, name, evidence, folder) for name in work.modalities]
        results = experiment(
            usable(evidence),
            work.label,
            config.fusion,
            experts=experts,
            names=work.expert_names,
            others=[trial for trials, _ in rivals for trial in trials],
            resamples=config.bootstrap,
            seed=config.seed,
            reporter=reporter,
        )
        write_json(
            folder / RESULTS,
            {
                "run": config.run,
                "label": config.label,
                "config": config.model_dump(mode="json"),
                "versions": versions(),
                "seconds": {step: entry["seconds"] for step, entry in work.record.steps().items()},
                **results,
                "findings": [*(line for _, lines in rivals for line in lines), *results["findings"]],
            },
        )
    return folder


class _Onward(Reporter):
    """Passes on what a run tells, but for the steps that it skips: they were told of before."""

    def __init__(self, other: Reporter):
        self.progress, self.epoch, self.note = other.progress, other.epoch, other.note  # type: ignore[method-assign]
        self._step = other.step

    def step(self, name: str, skipped: bool) -> None:
        if not skipped:
            self._step(name, skipped)


def _rivals(work: Run, name: str, evidence: Splits, folder: Path) -> tuple[list[Trial], list[str]]:
    modality, config = work.modalities[name], work.config
    taken = read_card(work.space.expert(modality.expert_name))["encoder"]
    return fit_rivals(
        name, modality, taken, work.packed, evidence, config.label, work.label, seed=config.seed, folder=folder
    )


def experiment(
    evidence: Splits,
    label: Label,
    config: FusionConfig,
    *,
    experts: Mapping[str, Mapping[str, int]],
    names: Mapping[str, str],
    others: Sequence[Trial] = (),
    strategies: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """All that is found on Evidence alone: baselines, fusions, the three comparisons, the dissection, the verdict.

    Parameters
    ----------
    evidence : Splits
        ``train``, ``val`` and ``test``: annotated rows, those of train unseen by the experts (`usable`).
    config : FusionConfig
        Seeds and options for all strategies.
    experts, names : mapping
        Modality -> parameters (``total``, ``trained``), and the name of its expert.
    others : sequence of Trial
        Baselines with encoders of their own.
    strategies : sequence of str, optional
        Fusions to compare; None = all there are.

    Returns
    -------
    dict
        What `compare` and `dissect` give, with ``metric``, ``modalities``, ``rows``, ``classes`` (split -> class ->
        rows) and ``findings`` (list of str: what these rows cannot show).

    Raises
    ------
    DataError
        Where a split bears fewer than two classes.
    """
    reporter = reporter or Reporter()
    metric = headline_name(label)
    for split in evidence:
        check_classes(labels_of(evidence, split), split, label)
    reporter.step("fusions", False)
    contest = contend(
        evidence,
        config,
        strategies or plugins.names("fusions"),
        metric=metric,
        experts=experts,
        names=names,
        others=others,
        seed=seed,
        progress=reporter.progress,
    )
    reporter.step("verdict", False)
    compared = compare(contest, resamples=resamples, seed=seed)
    reporter.step("dissection", False)
    taken_apart, findings = dissect(
        contest.fused,
        contest.alone,
        evidence["test"],
        labels_of(evidence, "test"),
        groups_of(evidence, "test"),
        metric=metric,
        resamples=resamples,
        seed=seed,
    )
    reporter.step("ablation", False)
    fusion = contest.fused.fusion
    assert fusion is not None  # of all trials those of fusions have one
    ablated = ablate(fusion, evidence["test"], evidence["train"], metric=metric, resamples=resamples, seed=seed)
    return {
        "metric": metric,
        "modalities": list(evidence["train"]),
        "rows": {split: len(labels_of(evidence, split)) for split in evidence},
        "classes": {split: count_labels(labels_of(evidence, split), label) for split in evidence},
        **compared,
        **taken_apart,
        "ablation": ablated,
        "findings": [*findings_about(evidence, label), *findings],
    }
