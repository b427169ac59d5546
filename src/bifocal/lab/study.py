"""The story of an experiment: baselines -> fusions -> gain, control, additive part -> diagnostics -> verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from .. import plugins
from ..assess.run_data import RunData
from ..config import RunConfig, load_config
from ..contracts import Reporter
from ..errors import ConfigError
from ..evaluate.compare import Resampling
from ..evaluate.metrics import headline_metric
from ..example import Label
from ..fit.expert import ExpertData
from ..models.saved import CARD, read_card
from ..pipeline.train import run
from ..workspace import (
    Workspace,
    atomic,
    check_replaceable,
    dump_json,
    read_json,
    remove_leftovers,
    versions,
    write_json,
)
from .baselines import fit_rivals
from .corruption import PackedInputs
from .encoder_trials import EncodedAgain, encode_again
from .experiment import Clock, ExperimentResults, experiment
from .linear_probes import Probes, probe
from .results import RESULTS, results_files
from .trials import ExpertFacts, Study, Trial
from .usable_rows import JUDGED, Splits, check_classes, check_splits, usable


def lab(config: RunConfig | str | Path, *, root: str | Path = "runs", reporter: Reporter | None = None) -> Path:
    """Find out whether fusion is worth it on a data set, and why: ``<run>/lab/results.json``.

    Each label has a verdict of its own; those after the first are in ``results.<label>.json``.

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
    if len(config.parts) < 2:
        raise ConfigError(
            f"the lab compares a fusion with its modalities alone, and modalities = {list(config.parts)} has one; "
            "name two or more"
        )
    # First the splits alone: what is wrong with them is told before experts are trained for hours.
    run(config, root=root, until="shards", reporter=reporter)
    space = Workspace(Path(root) / config.run, config.run)
    data = RunData.configured(config, space)
    check_splits(data.packed)
    for of in (data, *data.further.values()):
        for split in ("train", *JUDGED):
            check_classes(np.array(data.packed[split].classes(of.config.label, of.label)), split, of.label)
    probed = {name: data.taxonomy[name] for name in config.lab.probes}
    run(config, root=root, until="evidence", reporter=_Onward(reporter))
    data = RunData.configured(config, space, progress=reporter.progress)
    folder = space.lab_results.parent
    with space.lock():
        remove_leftovers(folder)
        for of in (data, *data.further.values()):
            write_json(of.space.lab_results, _examine(of, probed, folder, reporter))
    return folder


class LabFile(ExperimentResults, EncodedAgain):
    """A lab's ``results.json``, which `results.LabResults` reads."""

    run: str
    label: str
    about: dict[str, Any]
    config: dict[str, Any]
    """As it was resolved."""
    versions: dict[str, str]
    seconds: dict[str, float]
    """By step of the run."""
    experts: dict[str, ExpertRow]
    probes: dict[str, Probes]
    """By label."""


class ExpertRow(TypedDict):
    """What made a modality's features."""

    expert: str
    encoder: str
    base_model: str
    tune: str
    pooling: str | None
    columns: int
    parameters: dict[str, int]
    seconds: float | None


def _examine(data: RunData, probed: Mapping[str, Label], folder: Path, reporter: Reporter) -> LabFile:
    config = data.config
    resampling = Resampling(headline_metric(len(data.label.classes)), config.bootstrap, config.seed)
    evidence = {split: data.evidence_of(split) for split in ("train", *JUDGED)}
    steps = data.record["steps"]
    each = steps["experts"].get("seconds_each", {})  # a run of an earlier version does not know
    experts = {
        name: ExpertFacts(data.expert_names[name], encoder.parameters(), each.get(data.expert_names[name]))
        for name, encoder in data.encoders.items()
    }
    clock = Clock(reporter)
    with clock("baselines"):
        rivals = [_rivals(data, name, evidence, folder) for name in data.modalities]
    fusion = config.fusion.model_copy(update={"options": {**config.lab.options, **config.fusion.options}})
    study = Study(usable(evidence), fusion, experts, resampling, config.lab.margin)
    rule = config.lab.imbalance if config.lab.weaken else None
    others = [trial for trials, _ in rivals for trial in trials]
    comparison, results = experiment(study, data.label, others, rule=rule, clock=clock)
    inputs = PackedInputs(data.encoders, data.modalities, data.packed)
    again, truncated, findings = encode_again(comparison, inputs, config.lab, folder, clock)
    if truncated is not None and results["imbalance"] is not None:
        results["imbalance"]["truncated"] = truncated
    probes = {}
    for name, label in probed.items():
        classes = {split: data.packed[split].classes(name, label) for split in evidence}
        probes[name], unprobed = probe(evidence, classes, resamples=config.bootstrap, seed=config.seed)
        findings += unprobed
    return {
        "run": config.run,
        "label": config.label,
        "about": _about(config),
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "seconds": {step: entry["seconds"] for step, entry in steps.items()},
        "experts": {name: _expert(data, name, evidence, experts[name].seconds) for name in data.modalities},
        **results,
        **again,
        "probes": probes,
        "findings": [*(line for _, lines in rivals for line in lines), *results["findings"], *findings],
    }


def _about(config: RunConfig) -> dict[str, Any]:
    """What was written of the set; of several labels with the one it is of, as a known answer is the first one's."""
    found = {**config.lab.about.model_dump(), "title": config.lab.about.title or config.run}
    if len(config.label_names) > 1:
        found["title"] += f", {config.label}"
        found["expected"] = found["expected"] if config.label == config.label_names[0] else None
    return found


def _expert(data: RunData, name: str, evidence: Splits, seconds: float | None) -> ExpertRow:
    card = read_card(data.space.expert(data.modalities[name].expert_name))
    with plugins.restrict(data.space.expert(data.modalities[name].expert_name) / CARD, data.allowed):
        settings, pretrained = card["expert"], len(plugins.load("encoders", card["encoder"]).tunes) > 1
    return {
        "expert": data.modalities[name].expert_name,
        "encoder": card["encoder"],
        "base_model": Path(card["base_model"]).name,
        "tune": settings["tune"],
        "pooling": settings["pooling"] if pretrained else None,
        "columns": evidence["train"][name].features.shape[1],
        "parameters": card["parameters"],
        "seconds": seconds,
    }


def keep(folder: Path, place: Path, *, force: bool = False) -> None:
    """Copy a lab's results to where those of all sets are kept, to be written of; each further label is a set beside.

    All of them or none: no file takes its name before the last one is written.

    Raises `RunError` where a file of that name holds something else, or one of the results is missing or broken.
    """
    with ExitStack() as written:
        for path in results_files(folder):
            kept = place.with_name(place.name + path.stem.removeprefix(Path(RESULTS).stem)) / RESULTS
            check_replaceable(kept, lambda path: "verdict" in read_json(path), force=force)
            dump_json(written.enter_context(atomic(kept)), read_json(path))


class _Onward(Reporter):
    """Passes on what a run tells, but for the steps that it skips: they were told of before."""

    def __init__(self, other: Reporter):
        self.progress, self.epoch, self.note = other.progress, other.epoch, other.note  # type: ignore[method-assign]
        self._step = other.step

    def step(self, name: str, skipped: bool) -> None:
        if not skipped:
            self._step(name, skipped)


def _rivals(data: RunData, name: str, evidence: Splits, folder: Path) -> tuple[list[Trial], list[str]]:
    modality, config = data.modalities[name], data.config
    taken = read_card(data.space.expert(modality.expert_name))["encoder"]
    rows = ExpertData(name, modality, data.packed, config.label, data.label)
    return fit_rivals(rows, taken, evidence, seed=config.seed, folder=folder)
