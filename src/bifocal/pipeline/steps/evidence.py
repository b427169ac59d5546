"""Step `evidence`: each encoder runs once per example here, or has done so already; all that follows reads arrays."""

from __future__ import annotations

from typing import TypedDict

from ...fit.evidence import evidence_of
from ..context import Context, Step


class EvidenceCounts(TypedDict):
    present: dict[str, int]
    """``<expert>/<split>`` -> rows that have the part."""


def write_evidence(run: Context) -> EvidenceCounts:
    """Write what the caches do not hold yet of the experts and splits of the run, and remove those of others."""
    splits = run.data.packed
    for path in run.space.evidence_folder.glob("*/*.safetensors"):
        if path.stem not in splits:  # of a run with other splits
            path.unlink()
    present = {}
    for split, rows in splits.items():
        for name, encoder in run.data.encoders.items():
            expert = run.data.expert_names[name]
            evidence = evidence_of(
                encoder,
                rows,
                name,
                run.config.label,
                run.label,
                run.space.evidence(expert, split),
                folds=run.config.fusion.folds,
                seed=run.config.seed,
                progress=run.reporter.progress,
            )
            present[f"{expert}/{split}"] = int(evidence.present.sum())
    return {"present": present}


STEP = Step(
    "evidence",
    write_evidence,
    settings=("fusion.folds",),
    outputs=lambda run: [run.space.evidence(e, s) for e in run.data.expert_names.values() for s in run.data.packed],
)
