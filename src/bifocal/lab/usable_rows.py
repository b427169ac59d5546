"""The rows an experiment stands on: which of them may be used, and what they cannot show."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ..diagnose.scored_rows import FEW
from ..errors import DataError
from ..example import UNLABELLED, Evidence, Label
from ..models.linear import FLAT

Splits = Mapping[str, Mapping[str, Evidence]]
"""Split -> modality -> Evidence, of the same rows in the same order within a split."""
JUDGED = ("val", "test")


def usable(evidence: Splits) -> dict[str, dict[str, Evidence]]:
    """The annotated rows of each split; of train only those on which no expert was trained.

    Raises `DataError` where a split is missing, or none of its rows is left.
    """
    check_splits(evidence)
    result = {}
    for split in ("train", *JUDGED):
        parts = evidence[split]
        keep = next(iter(parts.values())).labels != UNLABELLED
        if split == "train":
            for e in parts.values():
                keep = keep & ~e.seen
        rows = keep.nonzero().flatten().tolist()
        if not rows:
            raise DataError(
                f"split {split!r} has no annotated row that the experts were not trained on: give more rows, raise "
                "fusion.holdout, or take tune: head"
            )
        result[split] = {name: e.take(rows) for name, e in parts.items()}
    return result


def labels_of(evidence: Splits, split: str) -> np.ndarray:
    """Class indices ``[n]``."""
    return next(iter(evidence[split].values())).labels.numpy()


def groups_of(evidence: Splits, split: str) -> tuple[str, ...]:
    """Near-duplicate groups ``[n]``."""
    return next(iter(evidence[split].values())).groups


def log_prior(evidence: Splits) -> np.ndarray:
    """Log class shares of train, ``[C]``, by Laplace's rule: what is said of a row of which nothing is known."""
    classes = next(iter(evidence["train"].values())).logits.shape[1]
    counts = np.bincount(labels_of(evidence, "train"), minlength=classes) + 1
    return np.log(counts / counts.sum())


def check_splits(found: Collection[str]) -> None:
    """Raise `DataError` where train, val or test is missing."""
    for split in ("train", *JUDGED):
        if split not in found:
            raise DataError(
                f"the lab learns on train, chooses on val and compares on test; there is {', '.join(found)}: set "
                f"splits.{split}"
            )


def check_classes(labels: np.ndarray, split: str, label: Label) -> None:
    """Raise `DataError` where the annotated rows of a split bear fewer than two classes."""
    found = np.unique(labels[labels >= 0])
    if len(found) < 2:
        what = f"only {label.classes[found[0]]!r}" if len(found) else "no label at all"
        raise DataError(
            f"the annotated rows of {split} bear {what}, and no model can be told from another there: give more rows, "
            "change the splits shares, or check how the label is mapped"
        )


def findings_about(evidence: Splits, label: Label) -> list[str]:
    """What the rows cannot show: classes without rows or with few, parts that are never there or always the same."""
    found = []
    for split, parts in evidence.items():
        counts = count_labels(labels_of(evidence, split), label)
        if none := [name for name, n in counts.items() if not n]:
            found.append(f"{split} has no row of {', '.join(none)}")
        few = {name: n for name, n in counts.items() if 0 < n < FEW}
        if split == "test" and few:
            rows = ", ".join(f"{n} of {name}" for name, n in few.items())
            found.append(f"test has {rows}, fewer than {FEW}: its intervals say little")
        for name, e in parts.items():
            if not bool(e.present.any()):
                found.append(f"no row of {split} has {name}")
            elif split == "train" and float(e.features[e.present].std(dim=0, correction=0).max()) < FLAT:
                found.append(f"{name} is the same in every row of train: nothing can be learned of it")
    return found


def count_labels(labels: np.ndarray, label: Label) -> dict[str, int]:
    """Class -> how many rows ``[n]`` bear it."""
    counts = np.bincount(labels, minlength=len(label.classes)).tolist()
    return {str(name): n for name, n in zip(label.classes, counts, strict=True)}
