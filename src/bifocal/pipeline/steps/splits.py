"""Step `splits`: near-duplicates are grouped, and each group goes to train, val or test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...data import earlier_splits
from ...data.label_relations import told_of
from ...data.prepare import write_splits
from ...errors import ConfigError
from ...workspace import Workspace, file_sha256
from ..context import Context, Step


def assign_splits(run: Context) -> Mapping[str, object]:
    """Gives the counts of `write_splits`, and records whether the run is in-sample."""
    counts = write_splits(run.space, run.source, run.taxonomy, run.config, run.holdout)
    for of in (counts, *counts.get("labels", {}).values()):
        for told in of["few"]:
            run.reporter.note(told)
    for told in told_of(counts.get("contradictions", {}), counts.get("gaps", [])):
        run.reporter.note(told)
    if leaks := counts["leakage"]["rows"]:
        found = ", ".join(f"{n} in {split}" for split, n in sorted(leaks.items()))
        action = "dropped" if run.config.leakage == "drop" else "kept (leakage: drop removes them)"
        run.reporter.note(f"near-duplicates of earlier splits: {found}; {action}")
    for told in earlier_splits.told_of(counts["from"]) if "from" in counts else ():
        run.reporter.note(told)
    if untimed := counts.get("untimed"):
        run.reporter.note(f"{untimed} rows have nothing under {run.config.splits.time!r}, and are train")
    if counts["unread"]:
        parts = " or ".join(run.modalities)
        run.reporter.note(f"{counts['unread']} rows bring no {parts} (or no words) and are left out")
    for source, rows in counts["untested"].items():
        run.reporter.note(f"all {rows} rows of {source} are train: it brings no splits, and those of others stand")
    in_sample = "val" not in counts["rows"]
    run.record.update(in_sample=in_sample)
    if in_sample:
        run.reporter.note("no val split: temperatures and thresholds are tuned on train, marked in_sample")
    return counts


def _outputs(run: Context) -> list[Path]:
    found = [run.space.splits, run.space.groups, run.space.split_record, run.space.taxonomy]
    return found if run.config.splits.from_run is None else [*found, run.space.split_changes]


def _outside(run: Context) -> object:
    """The splits of the run that they are taken over from. Raises `BifocalError` where it is none."""
    if (folder := run.config.splits.from_run) is None:
        return None
    earlier = Workspace.of(folder)
    if earlier.folder.resolve() == run.space.folder.resolve():
        raise ConfigError(
            f"splits.from = {folder!r} is the folder of this very run: name an earlier run, or leave it out"
        )
    if not earlier.splits.is_file():
        raise ConfigError(f"splits.from = {folder!r} has no splits.json yet: finish that run first, or name another")
    return [earlier.run, file_sha256(earlier.splits)]


STEP = Step(
    "splits",
    assign_splits,
    settings=("modalities", "splits", "leakage", "seed"),
    outputs=_outputs,
    outside=_outside,
)
