"""What holds between the labels of a run: one asked where another is flagged, rows that bear some of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ..evaluate.differences import class_shares_p_value
from ..evaluate.intervals import Figure, measure
from ..example import UNLABELLED
from .predictions import SHARES_DIFFER, calibrated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..decide.policy import Policy
    from .predictions import Predictions
    from .run_data import RunData

    Classes = NDArray[np.int64]


class EndToEnd(TypedDict):
    """A label that requires another, its own decisions and those on what it requires taken together."""

    n: int
    accuracy: Figure
    macro_f1: Figure
    """That it is not asked counts as a class."""


class Contradiction(TypedDict):
    """How often a label of two classes, were it asked everywhere, would be flagged where its parent is not."""

    flagged_without_parent: int
    of: int
    """Posts whose parent is not flagged."""


class AnnotationGap(TypedDict):
    """What the model that decides makes of rows that bear the label, and of those on which it is not annotated."""

    annotated: int
    unannotated: int
    shares: dict[str, list[float]]
    """``annotated`` and ``unannotated``: the share of each class among their predicted classes."""
    p: float
    """Of equal shares."""
    differ: bool


def named_classes(data: RunData, split: str) -> tuple[Classes, Classes]:
    """True and decided class index ``[n]`` of each row of a split.

    Where a label is not asked, as the one that it requires is not positive, both are one more than its last class; what
    is not annotated is `UNLABELLED`. In-sample rows are of train.
    """
    predictions, policy = data.predictions(split), data.policy()
    truth, named = predictions.labels, calibrated(predictions, policy, data.models[-1])[1]
    if data.parent is None:
        return truth, named
    of_parent, nowhere = data.parent.predictions(split).labels, len(data.label.classes)
    known = np.where(of_parent == 1, truth, np.where(of_parent == UNLABELLED, UNLABELLED, nowhere))
    return known, np.where(flagged_rows(data, split), named, nowhere)


def flagged_rows(data: RunData, split: str) -> NDArray[np.bool_]:
    """The rows ``[n]`` of which a label is asked in use: those that the policy flags by the one it requires, or all."""
    if data.parent is None:
        return np.ones(len(data.split(split)), dtype=bool)
    named = calibrated(data.parent.predictions(split), data.parent.policy(), data.parent.models[-1])[1]
    return np.asarray(named == 1)


def asked_rows(data: RunData, split: str) -> NDArray[np.bool_]:
    """The rows ``[n]`` that a label is about: those that are positive by the one it requires, or all."""
    if data.parent is None:
        return np.ones(len(data.split(split)), dtype=bool)
    return np.asarray(data.parent.predictions(split).labels == 1)


def measure_end_to_end(data: RunData) -> EndToEnd | None:
    """On the tested split; None for a label that requires none, and where no row tells."""
    if data.label.requires is None:
        return None
    truth, named = named_classes(data, data.tested_on)
    rows = np.flatnonzero(truth != UNLABELLED)
    if not len(rows):
        return None
    groups = [data.predictions(data.tested_on).groups[row] for row in rows]
    sure = np.eye(len(data.label.classes) + 1)[named[rows]]  # only decisions are judged
    found = measure(
        truth[rows], sure, groups, predictions=named[rows], resamples=data.config.bootstrap, seed=data.config.seed
    )["metrics"]
    return {"n": len(rows), "accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}


def measure_contradiction(data: RunData) -> Contradiction | None:
    """On the tested split; None for a label that requires none, or has other classes than 0 and 1."""
    if data.label.requires is None or not data.label.binary:
        return None
    predictions = data.predictions(data.tested_on)
    alone = calibrated(predictions, data.policy(), data.models[-1])[1]
    elsewhere = ~flagged_rows(data, data.tested_on)
    return {"flagged_without_parent": int(np.sum(alone[elsewhere] == 1)), "of": int(elsewhere.sum())}


def measure_annotation_gap(predictions: Predictions, policy: Policy, asked: NDArray[np.bool_]) -> AnnotationGap | None:
    """Whether a label is missing more often in one class; None where it is missing nowhere.

    The class of a row that is not annotated is not known: what the deployed model makes of it stands in. It says
    something on rows alone that the model was not trained on.

    Parameters
    ----------
    asked : [n]
        Rows on which the label might be annotated: of one that requires another, those that are positive by that.
    """
    model = list(policy.models)[-1]
    named = calibrated(predictions, policy, model)[1]
    heard = asked & predictions.has[model]
    sides = {
        "annotated": np.flatnonzero(heard & (predictions.labels != UNLABELLED)),
        "unannotated": np.flatnonzero(heard & (predictions.labels == UNLABELLED)),
    }
    if not all(len(rows) for rows in sides.values()):
        return None
    classes = len(policy.classes)
    found = [(named[rows], [predictions.groups[row] for row in rows]) for rows in sides.values()]
    p = class_shares_p_value(found, classes)
    shares = {side: (np.bincount(named[rows], minlength=classes) / len(rows)).tolist() for side, rows in sides.items()}
    return {
        "annotated": len(sides["annotated"]),
        "unannotated": len(sides["unannotated"]),
        "shares": shares,
        "p": p,
        "differ": p < SHARES_DIFFER,
    }


def told_annotation_gap(gap: AnnotationGap, label: str, policy: Policy) -> str:
    """A sentence for people, where the shares differ."""
    of = " or ".join(
        f"{kind!r} {with_label:.0%} and {without:.0%}"
        for kind, with_label, without in zip(
            policy.classes, gap["shares"]["annotated"], gap["shares"]["unannotated"], strict=True
        )
        if kind != 0 or len(policy.classes) > 2
    )
    return (
        f"{label} seems to be annotated more often in some classes: of {gap['annotated']:,} rows that bear it and "
        f"{gap['unannotated']:,} that do not, the model finds {of}; calibration, threshold and figures hold for rows "
        "like the annotated ones: annotate some of the others, drawn at random"
    )
