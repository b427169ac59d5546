"""Step `splits`: near-duplicates are grouped, and each group goes to train, val or test."""

from __future__ import annotations

from collections.abc import Mapping

from ...data.label_relations import told_of
from ...data.prepare import write_splits
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


STEP = Step(
    "splits",
    assign_splits,
    settings=("modalities", "splits", "leakage", "seed"),
    outputs=lambda run: [run.space.splits, run.space.groups, run.space.taxonomy],
)
