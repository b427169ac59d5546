"""What each label decided on the posts that its policy was tuned on: what a service's figures are held against."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..assess.drift_reference import Reference
from ..decide.policy import Policy
from ..system.bundle import reference_path


@dataclass(frozen=True, slots=True)
class UsualDecisions:
    """Of the posts of the tuning split, a sample of them where there are many (`drift_reference.ROWS`)."""

    scores: list[float]
    """Calibrated probabilities."""
    classes: dict[str, int]
    """Class -> how many of them are decided to be of it."""


def usual_decisions(folder: Path, policy: Policy) -> dict[str, UsualDecisions | None]:
    """Those of each label of a run or bundle, as its policy decides them now; None where they are not kept.

    Raises
    ------
    RunError
        Naming a file that was damaged.
    """
    found: dict[str, UsualDecisions | None] = {}
    for label in policy.label_names:
        path = reference_path(folder, label, policy.label)
        if not path.is_file():
            found[label] = None
            continue
        reference, own = Reference.load(path), policy.of_label(label)
        if own.changes:
            reference = reference.with_policy(own)
        counts = Counter(str(reference.classes[index]) for index in reference.predicted)
        found[label] = UsualDecisions(reference.scores, dict(counts))
    return found
