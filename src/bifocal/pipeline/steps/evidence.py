"""Step `evidence`: each encoder runs once per example here, or has done so already; all that follows reads arrays."""

from __future__ import annotations

from typing import TypedDict

from ..context import Context, Step


class EvidenceCounts(TypedDict):
    present: dict[str, int]
    """``<expert>/<split>`` -> rows that have the part."""


def write_evidence(run: Context) -> EvidenceCounts:
    """Write what the caches do not hold yet of the experts and splits of the run, and remove those of other splits."""
    splits = run.data.packed
    for path in run.space.evidence_folder.glob("*/*.safetensors"):
        if path.name.partition(".")[0] not in splits:  # of a run with other splits
            path.unlink()
    found = {split: run.data.evidence_of(split) for split in splits}
    for of in run.further.values():
        for split in splits:
            of.data.evidence_of(split)
    names = run.data.expert_names
    return {"present": {f"{names[m]}/{s}": int(e.present.sum()) for s, of in found.items() for m, e in of.items()}}


STEP = Step(
    "evidence",
    write_evidence,
    settings=("fusion.folds",),
    outputs=lambda run: [
        space.evidence(expert, split)
        for space in run.spaces
        for expert in run.data.expert_names.values()
        for split in run.data.packed
    ],
)
