"""Two models by one label: the figures of both, decisions that turn over, slices, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..config import ThresholdConfig
from ..decide.thresholds import Counts, described, figure_of, rule_figure
from ..errors import DataError
from ..evaluate.intervals import RESAMPLES
from ..evaluate.paired import (
    MARGIN,
    Answers,
    ComparedFigure,
    PairedFigure,
    PairedSettings,
    SliceDifference,
    Verdict,
    compare_answers,
    flagged_shares,
    slice_differences,
    verdict_of,
)
from ..evaluate.sampling_weights import SamplingWeights
from ..example import UNLABELLED
from ..modalities.text import without_tags
from .compared_rows import ComparedRows
from .scored_posts import ModelLabel, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 10
SHOWN = 160
"""Characters of an example's text."""
FLAG_CHANGE = 0.2
"""Relative change of the share of posts flagged from which on a gate does not pass, by default."""
F1 = ThresholdConfig(by="f1")
BESIDE = {"precision": "recall", "recall": "precision", "fpr": "recall", "capacity": "precision"}
"""Rule with a bound -> what is judged beside its figure: a bound is kept to by flagging nothing, or all, too."""


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """How models are compared.

    Attributes
    ----------
    margin : float
        How much worse a figure may be: of the policies' own figures, and of NLL in nats.
    flag_change : float or None
        How much the share of posts flagged may move, relative to the first model's; None = as much as it likes.
    every_label : bool
        The gate cannot tell where the posts bear nothing of a label; else such a label is left out of it.
    """

    margin: float = MARGIN
    flag_change: float | None = FLAG_CHANGE
    resamples: int = RESAMPLES
    seed: int = 0
    latency: bool = True
    every_label: bool = True


class FlaggedShares(TypedDict):
    """Shares of posts flagged; ``change`` is relative to the old one, None where that is 0."""

    old: float
    new: float
    change: float | None
    moved: bool
    """By more than may be."""


class TurnedOver(TypedDict):
    """Decisions that turn over."""

    n: int
    moves: dict[str, dict[str, int]]
    """What the old model does -> what the new one does -> posts."""
    put_right: int | None
    """Labelled posts that the old model decides wrongly and the new one rightly; None without labels."""
    put_wrong: int | None
    examples: list[TurnedExample]


class TurnedExample(TypedDict):
    id: str
    words: str
    label: str | None
    old: str
    new: str
    old_probability: float | None
    new_probability: float | None


class LabelComparison(TypedDict):
    """Two models by one label."""

    classes: list[int | str]
    n: int
    labelled: int
    by_class: dict[str, int]
    effective: float | None
    """Rows of equal weight that would tell as much; None = rows have no weights."""
    clipped: int
    figures: dict[str, PairedFigure]
    flagged: FlaggedShares | None
    """None of a label of several classes."""
    turned: TurnedOver
    slices: list[SliceDifference]
    verdict: Verdict | None
    """None = no post bears the label."""
    rows_needed: int | None


def judged_figures(label: ModelLabel, rules: Sequence[ThresholdConfig]) -> list[ComparedFigure]:
    """What models are compared by: each policy's own figure, NLL, and those that are shown."""
    if label.classes != (0, 1):
        shown = [ComparedFigure("accuracy"), ComparedFigure("auroc"), ComparedFigure("brier", lower_is_better=True)]
        nll = ComparedFigure("nll", "probabilities", lower_is_better=True)
        return [ComparedFigure("macro_f1", "policy"), nll, *shown]
    figures: dict[str, ComparedFigure] = {}
    settings = {(rule.by, rule.beta, rule.costs.model_dump_json()) for rule in rules}
    for rule in rules or [F1]:
        for asked in (rule, *([_shown_rule(BESIDE[rule.by])] if rule.by in BESIDE else [])):
            if asked.by != "capacity":
                alike = len([by for by, *_ in settings if by == asked.by]) < 2
                name = figure_of(asked) if alike else f"{figure_of(asked)} ({described(asked)})"
                figures.setdefault(name, ComparedFigure(name, "policy", _of(asked), asked.by in ("fpr", "cost")))
    figures["nll"] = ComparedFigure("nll", "probabilities", lower_is_better=True)
    figures["auroc"] = ComparedFigure("auroc")
    figures["brier"] = ComparedFigure("brier", lower_is_better=True)
    for name in ("precision", "recall", "fpr"):
        figures.setdefault(name, ComparedFigure(name, "shown", _of(_shown_rule(name)), name == "fpr"))
    return list(figures.values())


def _shown_rule(by: str) -> ThresholdConfig:
    return ThresholdConfig.model_validate({"by": by, "bound": 0.5})


def _of(rule: ThresholdConfig) -> Any:
    """The figure of a rule, of counts."""
    return lambda flagged, hits, positives, rows: rule_figure(Counts(flagged, hits, positives, rows), rule)


def compare_by_label(
    name: str,
    label: ModelLabel,
    figures: Sequence[ComparedFigure],
    rows: ComparedRows,
    old: Scored,
    new: Scored,
    settings: CompareSettings,
) -> LabelComparison:
    """Two models by one label, on the rows on which both say something."""
    classes = label.classes or (0, 1)
    both = np.flatnonzero((old.predicted != UNLABELLED) & (new.predicted != UNLABELLED))
    if not len(both):
        raise DataError(f"there is no post on which both models answer {name}: see their errors")
    truth = rows.labels.get(name, np.full(len(rows), UNLABELLED))
    every = SamplingWeights.of(np.ones(len(rows)) if rows.weights is None else rows.weights)
    known = both[truth[both] != UNLABELLED]
    weights = None if rows.weights is None else SamplingWeights.of(rows.weights[known])
    values = None if weights is None else weights.values
    paired = PairedSettings(settings.margin, settings.resamples, settings.seed)
    before, after = (Answers(side.predicted[known], _known(side, known)) for side in (old, new))
    groups = [rows.groups[i] for i in known.tolist()]
    told: dict[str, PairedFigure] = {}
    slices: list[SliceDifference] = []
    if len(known):
        told = compare_answers(truth[known], before, after, groups, figures, paired, values)
        inside = {at: of[known] for at, of in {**rows.slices.get("", {}), **rows.slices.get(name, {})}.items()}
        slices = slice_differences(truth[known], before, after, groups, figures[0], inside, paired, values)
    needed = [figure["rows_needed"] for figure in told.values() if figure["rows_needed"] is not None]
    counts = np.bincount(truth[known], minlength=len(classes))
    return {
        "classes": list(classes),
        "n": len(both),
        "labelled": len(known),
        "by_class": {str(kind): int(n) for kind, n in zip(classes, counts, strict=True)},
        "effective": None if weights is None else weights.effective,
        "clipped": 0 if weights is None else weights.clipped,
        "figures": told,
        "flagged": _flagged(old, new, both, every.values, settings) if classes == (0, 1) else None,
        "turned": _turned(rows, classes, truth, both, old, new),
        "slices": slices,
        "verdict": _verdict(told, counts, binary=classes == (0, 1)),
        "rows_needed": max(needed, default=None),
    }


def _verdict(told: Mapping[str, PairedFigure], counts: NDArray[np.int64], *, binary: bool) -> Verdict | None:
    """None without labelled rows. Of a binary label rows of one class tell nothing: flagging all, or none, is right."""
    if not told:
        return None
    return "cannot tell" if binary and not counts.all() else verdict_of(told.values())


def _known(side: Scored, rows: NDArray[Any]) -> NDArray[np.float64] | None:
    return None if side.probabilities is None else side.probabilities[rows]


def _flagged(
    old: Scored, new: Scored, rows: NDArray[Any], weights: NDArray[np.float64], settings: CompareSettings
) -> FlaggedShares:
    shares = flagged_shares(old.predicted[rows], new.predicted[rows], weights[rows])
    return {
        "old": shares.old,
        "new": shares.new,
        "change": shares.change if np.isfinite(shares.change) else None,
        "moved": settings.flag_change is not None and abs(shares.change) > settings.flag_change + 1e-9,
    }


def _turned(
    rows: ComparedRows,
    classes: Sequence[int | str],
    truth: NDArray[np.int64],
    both: NDArray[Any],
    old: Scored,
    new: Scored,
) -> TurnedOver:
    """Which decisions turn over; examples are those whose probability differs most, of both ways in turn."""
    done, redone = old.actions[both], new.actions[both]
    changed = both[(done != redone) | (old.predicted[both] != new.predicted[both])]
    moves: dict[str, Counter[str]] = {}
    for i in changed.tolist():
        moves.setdefault(str(old.actions[i]), Counter())[str(new.actions[i])] += 1
    known = changed[truth[changed] != UNLABELLED]
    right = [side.predicted[known] == truth[known] for side in (old, new)]
    gap = np.array([abs(_shown(new, i) - _shown(old, i)) for i in changed.tolist()])
    order = changed[np.argsort(-gap, kind="stable")].tolist()
    ways = [[i for i in order if new.predicted[i] > old.predicted[i]]]
    ways.append([i for i in order if new.predicted[i] <= old.predicted[i]])
    picked = [i for way in ways for i in way[: EXAMPLES // 2]]
    return {
        "n": len(changed),
        "moves": {before: dict(after) for before, after in sorted(moves.items())},
        "put_right": int((~right[0] & right[1]).sum()) if (truth[both] != UNLABELLED).any() else None,
        "put_wrong": int((right[0] & ~right[1]).sum()) if (truth[both] != UNLABELLED).any() else None,
        "examples": [
            {
                "id": rows.ids[i],
                "words": without_tags(rows.contents[i].words)[:SHOWN],
                "label": None if truth[i] == UNLABELLED else str(classes[truth[i]]),
                "old": str(old.actions[i]),
                "new": str(new.actions[i]),
                "old_probability": None if old.probabilities is None else _shown(old, i),
                "new_probability": None if new.probabilities is None else _shown(new, i),
            }
            for i in picked
        ],
    }


def _shown(scored: Scored, row: int) -> float:
    """Of class 1 of a binary label, else of the predicted one; 0 where only decisions are known."""
    if scored.probabilities is None:
        return 0.0
    p = scored.probabilities[row]
    return float(p[1] if len(p) == 2 else p[scored.predicted[row]])
