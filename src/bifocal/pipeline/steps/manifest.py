"""Step `manifest`: every row of the source becomes a line of the manifest, or of the quarantine with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...data.class_checks import REMEDY, asked_of, check_classes, remedy_of
from ...data.manifest import write_manifest
from ...data.prepare import taxonomy_of_run
from ...modalities import every_modality
from ...scale.local import LocalPool
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
        taxonomy=taxonomy_of_run(run.taxonomy, run.config),
        label=run.config.label,
        further=run.config.label_names[1:],
        limit=run.config.limit,
        strict=run.config.strict,
        pool=LocalPool(),
        progress=run.reporter.progress,
    )
    for finding in _findings(run, counts):
        run.reporter.note(finding)
    for name, of in {run.config.label: counts, **counts.get("labels", {})}.items():
        found = {split: Counter(classes) for split, classes in of["by_class"].items()}
        asked = asked_of(name, own.requires) if (own := run.config.labels.get(name)) else name
        remedy = remedy_of(found, asked) if own else REMEDY
        for finding in check_classes(found, asked, run.config.splits, remedy):
            run.reporter.note(finding)
    return counts


def _findings(run: Context, counts: Mapping[str, Any]) -> list[str]:
    found = []
    if counts["quarantined"]:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in counts["reasons"].items())
        found.append(f"{counts['quarantined']} rows quarantined ({reasons}): see {run.space.quarantine}")
    found += _unlabelled(run, counts)
    found += counts["notes"]
    if spelled := counts["spelled_otherwise"]["files"]:
        ((named, there),) = counts["spelled_otherwise"]["for_example"].items()
        found.append(f"{spelled} files are spelled otherwise than the rows have them, as {named!r}: {there!r}")
    if counts["animated"]:
        found.append(f"{counts['animated']} animated pictures: only their first frame is read")
    return found


def _unlabelled(run: Context, counts: Mapping[str, Any]) -> list[str]:
    labels, first, n = run.config.labels, run.config.label, counts["unlabelled"]
    if len(run.config.label_names) == 1:
        return [f"{n} rows bear no {first}: for scoring, not for training"] if n else []
    found = []
    for name, of in {first: counts, **counts["labels"]}.items():
        rows = f"rows that are positive by {parent}" if (parent := labels[name].requires) else "rows"
        if of["unlabelled"]:
            found.append(f"{of['unlabelled']} {rows} bear no {name}: they teach and show nothing of it")
    if bare := counts["without_labels"]:
        found.append(f"{bare} rows bear none of the labels: for scoring, not for training")
    return found


def _outside(run: Context) -> object:
    rows = run.source.fingerprint()
    return [rows, {name: own.requires for name, own in run.config.labels.items()}] if run.config.labels else rows


STEP = Step(
    "manifest",
    build_manifest,
    settings=("source", "label", "limit"),
    outputs=lambda run: [run.space.manifest, run.space.quarantine, run.space.stamps],
    outside=_outside,
)
