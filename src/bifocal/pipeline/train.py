"""The story of a run: source -> shards -> experts -> Evidence -> fusion -> calibration -> evaluation -> report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from .. import __version__
from ..config import RunConfig, differing_settings, load_config
from ..contracts import Reporter
from ..data.file_stamps import KINDS, changes
from ..data.transcribers import ActiveTranscriber, active_transcribers
from ..errors import ConfigError, nearest
from ..fit.fusion import MODEL
from ..workspace import RunRecord, Workspace, disk_errors, fingerprint, remove_leftovers, versions
from .checks import reach_models
from .context import Context, Step
from .steps import (
    calibrate,
    evaluate,
    evidence,
    experts,
    fusion,
    manifest,
    report,
    robustness,
    shards,
    splits,
    transcribe,
)

SHOWN = 5
"""Settings at most that a message names."""
STEPS = {
    step.name: step
    for step in (
        manifest.STEP,
        transcribe.OCR,
        splits.STEP,
        shards.STEP,
        experts.STEP,
        evidence.STEP,
        fusion.STEP,
        calibrate.STEP,
        evaluate.STEP,
        robustness.STEP,
        report.STEP,
    )
}
"""In their order: each reads what those before it left. A run with further transcribers has more: see `steps_of`."""

CACHED = ("shards", "evidence")
"""Steps whose files stay when they are to run again: they are keyed by their own hashes, and often still hold."""


def steps_of(transcribers: Sequence[ActiveTranscriber]) -> dict[str, Step]:
    """The steps of a run: `STEPS`, and one behind OCR's for each further transcriber."""
    further = [transcribe.step_of(used) for used in transcribers if used.name != transcribe.OCR.name]
    order = list(STEPS.values())
    at = order.index(splits.STEP)
    if taken := [step.name for step in further if step.name in STEPS]:
        raise ConfigError(
            f"{', '.join(taken)} is a step of every run: a transcriber's block has to be called otherwise"
        )
    return {step.name: step for step in (*order[:at], *further, *order[at:])}


def run(
    config: RunConfig | str | Path,
    *,
    root: str | Path = "runs",
    start: str | None = None,
    until: str | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Run a configuration from its source to its report; finished steps with unchanged inputs are skipped.

    Parameters
    ----------
    config : RunConfig or path of a YAML file
    root : path
        The run goes to ``root/<config.run>/``.
    start : str, optional
        Redo this step and all after it, even where nothing changed; the finished steps before it stay as they are.
    until : str, optional
        Stop after this step.
    reporter : Reporter, optional

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    BifocalError
        Any of its kinds, each saying what to do next; run again and the finished steps are skipped. `ConfigError`
        where the settings are others than those that a finished step before ``start`` was made with.
    """
    config = config if isinstance(config, RunConfig) else load_config(config)
    order = list(steps_of(active_transcribers(config)))
    for step in (start, until):
        if step is not None and step not in order:
            raise ConfigError(f"there is no step {step!r}; {nearest(step, order)}")
    if start and until and order.index(start) > order.index(until):
        raise ConfigError(f"--from {start} comes after --until {until}; the order is {', '.join(order)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    space = Workspace(Path(root) / config.run, config.run)
    context = Context.of(config, space, reporter or Reporter())
    with space.lock():
        execute(context, start, until)
    return space.folder


def execute(run: Context, start: str | None, until: str | None) -> None:
    """Perform the steps in order, skipping those whose inputs have not changed.

    The caller holds the run's lock: only then is its record what it will be, and what a killed run left nobody's.
    """
    run.record = RunRecord(run.space.record)
    remove_leftovers(run.space.folder)
    steps = steps_of(run.transcribers)
    order = list(steps)
    forced = False
    asked = keys(run)
    if start:
        _check_earlier_steps(run, asked, start)
    read = files_read(run, asked, refresh=True)
    if read:
        run.reporter.note(f"since they were read, {_told(read)}: the manifest is made again, and what rests on it")
    if (until is None or order.index(until) >= order.index("experts")) and (
        read or not run.record.done("experts", asked["experts"])
    ):
        reach_models(run.candidates)
    for used in run.transcribers:
        if used.reads and not run.record.done(used.name, asked[used.name]):
            used.transcriber.reach()
    for name, key in asked.items():
        forced = forced or name == start or (name == "manifest" and bool(read))
        skip = not forced and run.record.done(name, key) and not _must_be_strict(run, name)
        run.reporter.step(name, skip)
        if not skip:
            run.record.forget(order[order.index(name) :], keep=CACHED)
            _remove_labels(run)
            run.record.update(
                run=run.config.run,
                config=run.config.model_dump(mode="json"),
                seed=run.config.seed,
                versions=versions(),
                text_role=run.source.text_role,
            )
            with disk_errors(run.space.folder):
                run.record.perform(name, key, partial(steps[name].perform, run), partial(steps[name].files, run))
        if name == until:
            return


def _remove_labels(run: Context) -> None:
    """Delete what the run that was here had of further labels that are none of this one's."""
    before = list(run.record.content.get("config", {}).get("labels") or {})[1:]
    models = [*(modality.expert_name for modality in run.modalities.values()), MODEL]
    for label in before:
        if label not in run.further:
            run.space.for_label(label).remove_label(models)


def _must_be_strict(run: Context, step: str) -> bool:
    """Whether a finished manifest holds rejected rows that ``strict`` now forbids."""
    return step == "manifest" and run.config.strict and run.record.steps()[step]["quarantined"] > 0


def files_read(run: Context, asked: Mapping[str, str], *, refresh: bool = False) -> Counter[str]:
    """What became of the files that a finished manifest read, as `data.file_stamps.changes` has it; else empty."""
    if not run.record.done("manifest", asked["manifest"]) or not run.space.stamps.exists():
        return Counter()  # a run from before these were noted has no such file, and is done all the same
    found = changes(run.space.stamps, run.source, refresh=refresh)
    if refresh and not found:
        run.record.rewritten("manifest", run.space.stamps)
    return found


def _told(found: Counter[str]) -> str:
    return ", ".join(f"{n} files {KINDS[kind]}" for kind, n in sorted(found.items()))


def keys(run: Context) -> dict[str, str]:
    """Step -> fingerprint of the settings it depends on, of what it reads from outside, and of the steps before."""
    key = fingerprint(__version__)
    result = {}
    for name, step in steps_of(run.transcribers).items():
        key = result[name] = fingerprint(name, key, *step.reads(run))
    return result


def _check_earlier_steps(run: Context, asked: Mapping[str, str], start: str) -> None:
    """Raise `ConfigError` where going on from ``start`` would redo a finished step before it, as other settings do."""
    finished = run.record.steps()
    before = list(asked)[: list(asked).index(start)]
    redone = [name for name in before if name in finished and finished[name]["fingerprint"] != asked[name]]
    if redone:
        settings = run.config.model_dump(mode="json")
        changed = sorted(differing_settings(run.record.content["config"], settings).items())
        shown = ", ".join(f"{name} = {wanted!r} (was {made!r})" for name, (made, wanted) in changed[:SHOWN])
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ConfigError(
            f"{run.space.folder} was made otherwise ({shown or 'the source, a model or Bifocal has changed'}{more}): "
            f"{', '.join(redone)} would be done anew, and all that rests on it. Give the settings it was made with; or "
            f"keep it and run again under another name, `bifocal run CONFIG --set run={run.config.run}-2` with these "
            f"settings; or let `bifocal run CONFIG` with them do {', '.join(redone)} anew in this folder"
        )


def states(run: Context) -> dict[str, str]:
    """Step -> ``done`` or ``to do``."""
    asked = keys(run)
    stale = bool(files_read(run, asked))
    return {name: "done" if not stale and run.record.done(name, key) else "to do" for name, key in asked.items()}
