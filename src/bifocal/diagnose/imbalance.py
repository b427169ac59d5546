"""What a fusion makes of a modality that was weak in training: it adapts, collapses, or over-relies on another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import torch

from ..config import ImbalanceRule as Rule
from ..errors import DataError, nearest
from ..evaluate.compare import Resampling
from ..evaluate.intervals import Interval, MeasuredRows, OptionalFigure
from ..example import UNLABELLED, Evidence
from .ablation import checked_train, constant, noisy
from .scored_rows import Explaining, Score, ScoredRows, figure, interval_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Levels = Mapping[float, Mapping[str, Evidence]]
"""How much a modality was weakened -> training Evidence by modality; the first level is the reference, not weakened."""
Fit = Callable[[float, Mapping[str, Evidence]], Score]
"""Training Evidence -> a fitted score; one that has ``explain`` (every fusion) is asked for its weights."""
Outcome = Literal["adapts", "collapses", "over-relies", "none"]

KEPT = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of the training rows that keep their part."""
DEVIATIONS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Noise on the training features, in standard deviations of each."""


def outcome_of(
    gain: Interval, excess: Interval, left: Interval, moved: Interval | None, rule: Rule | None = None
) -> Outcome:
    """The outcome of one level; the first that matches, and ``none`` where nothing is shown.

    - ``collapses``: the fusion is below the stronger expert, interval included: it would be better not to fuse.
    - ``over-relies``: when the stronger expert's modality is disturbed, the fusion loses more than that expert does,
      and keeps no advantage over it. The second half spares fusions that had more to lose because they knew more:
      under XOR or AND a faultless one loses more, and is still the better.
    - ``adapts``: at least as good as the stronger expert, and weight moved away from what was weakened.

    Parameters
    ----------
    gain : Interval
        m(fusion) - m(expert) on the test rows as they are.
    excess : Interval
        What the fusion loses under the disturbance less what the expert loses.
    left : Interval
        m(fusion) - m(expert) under the disturbance.
    moved : Interval or None
        The weakened modality's weight at the reference level less that at this one; None = the method gives none, and
        adapting is judged by the score alone.
    rule : Rule, optional

    An end that is nan shows nothing.
    """
    rule = rule or Rule()
    if gain.high < -rule.collapse:
        return "collapses"
    if excess.low > rule.excess and left.low <= 0:
        return "over-relies"
    if gain.low >= -rule.margin and (moved is None or moved.low > rule.moved):
        return "adapts"
    return "none"


def with_fewer_rows(
    train: Mapping[str, Evidence], name: str, kept: Sequence[float] = KEPT, *, seed: int = 0
) -> dict[float, dict[str, Evidence]]:
    """Training Evidence in which only these shares of the rows that have a modality keep it.

    The subsets are nested: what 5% keep, 10% keep too, so that levels differ by what is taken and not by chance. At
    least one row keeps its part. Rows left without any part stay; a fusion leaves them out.

    Parameters
    ----------
    train : mapping
        Modality -> Evidence.
    name : str
    kept : falling from 1, above 0

    Raises
    ------
    DataError
        Where the modality is unknown or no row has it, or the shares make no sense.
    """
    if list(kept) != sorted(set(kept), reverse=True) or not kept or kept[0] != 1 or kept[-1] <= 0:
        raise DataError(f"shares of kept parts fall from 1, the reference, and are above 0, found {list(kept)}")
    part = checked_train(train, name)
    rows = part.present.nonzero().flatten()
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    levels = {}
    for share in kept:
        present = torch.zeros_like(part.present)
        present[order[: math.ceil(share * len(order))]] = True
        levels[share] = {**train, name: _replaced(part, present)}
    return levels


def corrupted(
    train: Mapping[str, Evidence], name: str, deviations: Sequence[float] = DEVIATIONS, *, seed: int = 0
) -> dict[float, dict[str, Evidence]]:
    """Training Evidence with noise of so many standard deviations on the features of a modality; the test stays clean.

    Parameters and errors as `with_fewer_rows`; ``deviations`` rise from 0.
    """
    if list(deviations) != sorted(set(deviations)) or not deviations or deviations[0] != 0:
        raise DataError(f"deviations of noise rise from 0, the reference, found {list(deviations)}")
    part = checked_train(train, name)
    return {d: {**train, name: noisy(part, part, d, seed=seed) if d else part} for d in deviations}


@dataclass(frozen=True, slots=True)
class Rivalry:
    """The modality that is weakened, and who stands beside the fusion.

    Attributes
    ----------
    weakened, stronger : str
        Two modalities; ``stronger`` is that of the best expert that does not read what is weakened.
    expert : callable, optional
        Its score, where it is not the logits of its Evidence, with train's class shares for rows without the part (an
        MLP or boosted trees on the same features). Noise on logits is drawn apart from that on features: the loss of
        an expert that is read from its logits compares with that of fusions on logits only.
    deviations : float
        The disturbance: noise of so many of train's standard deviations on the features of ``stronger``.
    rule : Rule
    """

    weakened: str
    stronger: str
    expert: Score | None = None
    deviations: float = 1.0
    rule: Rule = field(default_factory=Rule)


class Loss(TypedDict):
    """A model on the test rows as they are, and with the stronger modality disturbed."""

    intact: OptionalFigure
    disturbed: OptionalFigure
    loss: OptionalFigure


class Level(Loss):
    """The fusion at one level: ``gain``, ``excess``, ``left`` and ``moved`` as `outcome_of` takes them."""

    weight: OptionalFigure | None
    """Mean weight of the weakened modality where a row has a choice; None without weights, as ``moved``."""
    level: float
    gain: OptionalFigure
    excess: OptionalFigure
    left: OptionalFigure
    moved: OptionalFigure | None
    outcome: Outcome | None
    """None at the reference."""
    rows: int
    """Training rows that have the weakened part."""


class Imbalance(MeasuredRows):
    """What `measure_imbalance` finds."""

    weakened: str
    stronger: str
    deviations: float
    rule: dict[str, float]
    expert: Loss
    levels: list[Level]
    findings: list[str]


def measure_imbalance(
    fit: Fit, levels: Levels, test: Mapping[str, Evidence], rivalry: Rivalry, resampling: Resampling
) -> Imbalance:
    """Fit a fusion on a modality that is weaker and weaker, and judge each beside the expert of the stronger one.

    The expert learned from its own modality, which was never weakened: it is what one would use instead. To disturb
    that modality, both get the same features with the same noise. Intervals are over test rows: they do not hold the
    chance of fitting again, for which ``fit`` may average several seeds.

    Parameters
    ----------
    fit : callable
        A level and its training Evidence by modality -> a fitted score. Its val is best weakened to the same level.
    levels : mapping
        From `with_fewer_rows`, `corrupted`, or truncated inputs that were encoded again; the first is the reference.
    test : mapping
        Modality -> Evidence of the test rows, not weakened; those that are not annotated are left out.

    Raises
    ------
    DataError
        As `ablation.ScoredRows.of`; where there are not two modalities, no levels, or train lacks one of the two.
    """
    weakened, stronger, seed = rivalry.weakened, rivalry.stronger, resampling.seed
    _check_names(levels, test, weakened, stronger)
    bench = ScoredRows.of(test, resampling)
    reference = next(iter(levels.values()))
    known = checked_train(reference, stronger)
    noise = noisy(bench.evidence[stronger], known, rivalry.deviations, seed=seed)
    scores: dict[float | None, Score] = {level: fit(level, train) for level, train in levels.items()}
    scores[None] = rivalry.expert or _expert(known, stronger)
    drawn = _drawn(scores, bench, {stronger: noise})
    return {
        "weakened": weakened,
        "stronger": stronger,
        "deviations": rivalry.deviations,
        "rule": rivalry.rule.model_dump(),
        **bench.facts(),
        "expert": _loss(*drawn[None]),
        "levels": _levels(levels, weakened, drawn, _weights(scores, bench, weakened), rivalry.rule),
        "findings": [*bench.findings(), *(f for name in (weakened, stronger) for f in constant(reference[name], name))],
    }


def _expert(train: Evidence, name: str) -> Score:
    counts = torch.bincount(train.labels[train.labels != UNLABELLED], minlength=train.logits.shape[1]) + 1
    prior = (counts / counts.sum()).log()
    return lambda evidence: torch.where(evidence[name].present.unsqueeze(1), evidence[name].logits, prior)


def _drawn(
    scores: Mapping[float | None, Score], bench: ScoredRows, disturbed: Mapping[str, Evidence]
) -> dict[float | None, tuple[Floats, Floats]]:
    """Level (None = the expert) -> figures on the rows as they are, and disturbed."""
    probabilities: dict[tuple[float | None, bool], Floats] = {}
    for level, score in scores.items():
        probabilities[level, False], probabilities[level, True] = (
            bench.probabilities(score, changed) for changed in ({}, disturbed)
        )
    figures = bench.figures(probabilities)
    return {level: (figures[level, False], figures[level, True]) for level in scores}


def _loss(intact: Floats, disturbed: Floats) -> Loss:
    return {"intact": figure(intact), "disturbed": figure(disturbed), "loss": figure(intact - disturbed)}


def _levels(
    levels: Levels,
    weakened: str,
    drawn: Mapping[float | None, tuple[Floats, Floats]],
    weights: Mapping[float | None, Floats],
    rule: Rule,
) -> list[Level]:
    reference, rows = next(iter(levels)), []
    expert, its_disturbed = drawn[None]
    for level, train in levels.items():
        fusion, disturbed = drawn[level]
        gain, left = fusion - expert, disturbed - its_disturbed
        excess = (fusion - disturbed) - (expert - its_disturbed)
        moved = weights[reference] - weights[level] if {level, reference} <= weights.keys() else None
        shift = None if moved is None else interval_of(moved)
        outcome = outcome_of(interval_of(gain), interval_of(excess), interval_of(left), shift, rule)
        row: Level = {
            "level": level,
            **_loss(fusion, disturbed),
            "weight": figure(weights[level]) if level in weights else None,
            "gain": figure(gain),
            "excess": figure(excess),
            "left": figure(left),
            "moved": None if moved is None else figure(moved),
            "outcome": None if level == reference else outcome,
            "rows": int(train[weakened].present.sum()),
        }
        rows.append(row)
    return rows


def _weights(scores: Mapping[float | None, Score], bench: ScoredRows, name: str) -> dict[float | None, Floats]:
    """Level -> what its score gives to a modality in the mean; without those that do not say, or have no choice."""
    choosing = _choosing(bench, name)
    told: dict[float | None, Floats] = {}
    for level, score in scores.items():
        if level is not None and isinstance(score, Explaining) and choosing.any():
            weights = score.explain(bench.evidence)
            if name in weights:
                told[level] = np.asarray(weights[name].detach(), dtype=np.float64)
    return bench.means(told, choosing) if told else {}


def _choosing(bench: ScoredRows, name: str) -> NDArray[np.bool_]:
    """Rows ``[n]`` that have the modality and another one: only there a weight is a choice."""
    there = torch.stack([e.present for e in bench.evidence.values()]).sum(dim=0) > 1
    return (there & bench.evidence[name].present).numpy()


def _replaced(part: Evidence, present: torch.Tensor) -> Evidence:
    """The part on these rows only, zeros elsewhere."""
    there = present.unsqueeze(1)
    features, logits = (torch.where(there, x, 0.0) for x in (part.features, part.logits))
    return Evidence(part.ids, part.groups, features, logits, present, part.labels, part.seen)


def _check_names(levels: Levels, test: Mapping[str, Evidence], weakened: str, stronger: str) -> None:
    if not levels:
        raise DataError("there is no level to train on: give the Evidence of `with_fewer_rows` or `corrupted`")
    for name in (weakened, stronger):
        if name not in test:
            raise DataError(f"the test rows bring no Evidence of {name!r}; {nearest(name, test)}")
    if weakened == stronger:
        raise DataError(
            f"{weakened!r} is weakened, so the expert beside it must read another modality; {nearest('', test)}"
        )
