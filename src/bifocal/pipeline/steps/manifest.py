"""Step `manifest`: every row of the source becomes a line of the manifest, or of the quarantine with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...data.class_checks import check_classes
from ...data.manifest import write_manifest
from ...modalities import every_modality
from ..context import Context, Step


def build_manifest(run: Context) -> Mapping[str, object]:
    """Gives the counts of `write_manifest`; what a person should know of them is noted."""
    counts = write_manifest(
        run.source,
        # Every modality, not only the run's: a text run too reads pictures (OCR) and groups their near-duplicates.
        every_modality(run.config),
        run.space.manifest,
        run.space.quarantine,
        run.space.stamps,
        taxonomy=run.taxonomy,
        label=run.config.label,
        limit=run.config.limit,
        strict=run.config.strict,
        progress=run.reporter.progress,
    )
    for finding in _findings(run, counts):
        run.reporter.note(finding)
    found = {split: Counter(classes) for split, classes in counts["by_class"].items()}
    for finding in check_classes(found, run.config.label, run.config.splits):
        run.reporter.note(finding)
    return counts


def _findings(run: Context, counts: Mapping[str, Any]) -> list[str]:
    found = []
    if counts["quarantined"]:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in counts["reasons"].items())
        found.append(f"{counts['quarantined']} rows quarantined ({reasons}): see {run.space.quarantine}")
    if counts["unlabelled"]:
        found.append(f"{counts['unlabelled']} rows bear no {run.config.label}: for scoring, not for training")
    found += counts["notes"]
    if spelled := counts["spelled_otherwise"]["files"]:
        ((named, there),) = counts["spelled_otherwise"]["for_example"].items()
        found.append(f"{spelled} files are spelled otherwise than the rows have them, as {named!r}: {there!r}")
    if counts["animated"]:
        found.append(f"{counts['animated']} animated pictures: only their first frame is read")
    return found


STEP = Step(
    "manifest",
    build_manifest,
    settings=("source", "label", "limit"),
    outputs=lambda run: [run.space.manifest, run.space.quarantine, run.space.stamps],
    outside=lambda run: run.source.fingerprint(),
)
