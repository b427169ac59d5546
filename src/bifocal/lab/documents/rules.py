"""The rules by which the lab's documents choose their words: figures in, a word out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import NamedTuple

from ..results import LabResults
from ..results_schema import Dominance, Figure
from ..verdict import MARGIN

UNSTEADY = 2.0
"""Times the widest seed spread of the set's unimodal heads. With five seeds chance alone gives a ratio above 2.5 once
in twenty, so a single set proves little: the sentence counts them over all sets."""
NOTICEABLE = MARGIN / 2
"""A seed spread below this moves no verdict, whatever its ratio."""
DIVERGED = 0.1
"""More of all trainings (seeds x grid points) that diverge than among the heads. One learning rate of a grid that is
too high for one architecture is no more than what a grid is for."""
NEW_BITS = 0.01
"""Of information that the best modality alone does not hold: less than a hundredth of a bit is called none."""
SEVERITY = ("robust", "graceful", "fragile")


def stronger(results: LabResults) -> str:
    """The modality of B: the one whose best model is best on val."""
    return results.model(results.best_baseline).reads[0]


def lead(results: LabResults, other: str) -> str:
    """How B's modality stands to another one, each by its best model on val, on test.

    With ``over_others`` (paired gains of B over the best model of each other modality) by that interval; without it
    by the two intervals apart, which asks for more.
    """
    ours, theirs = (results.tested(results.best_of_modality[name]) for name in (stronger(results), other))
    paired = results.over_others.get(other)
    low, high = (paired.low, paired.high) if paired else (_minus(ours.low, theirs.high), _minus(ours.high, theirs.low))
    if low is None or high is None:
        return "unknown"
    if low > MARGIN:
        return "clearly dominant"
    if low > 0:
        return "ahead"
    return "behind" if high < 0 else "level"


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


class Absence(NamedTuple):
    """What becomes of a fusion without a modality: its paired change, what is left, and the best model of the rest."""

    modality: str
    change: Figure
    left: float | None
    alone: float | None
    word: str


def absences(results: LabResults) -> list[Absence]:
    """One per modality; ``robust``, ``graceful`` or ``fragile``, or ``unknown``."""
    names, values = results.modalities, left_by(results.dominance[results.metric])
    found = []
    for name in names:
        others = [results.tested(results.best_of_modality[other]).value for other in names if other != name]
        alone = max((value for value in others if value is not None), default=None)
        left, change = values.get(frozenset(names) - {name}), results.without[name]
        found.append(Absence(name, change, left, alone, _absence(change.value, left, alone)))
    return found


def left_by(dominance: Dominance) -> dict[frozenset[str], float | None]:
    """What F achieves with some modalities alone."""
    return {coalition.modalities: coalition.value for coalition in dominance.values}


def _absence(change: float | None, left: float | None, alone: float | None) -> str:
    if change is None or left is None or alone is None:
        return "unknown"
    if change > -MARGIN:
        return "robust"
    return "graceful" if left >= alone - MARGIN else "fragile"


def robustness(results: LabResults) -> str:
    """The worst word of `absences`."""
    words = [absence.word for absence in absences(results)]
    return "unknown" if "unknown" in words else max(words, key=SEVERITY.index)


class Steadiness(NamedTuple):
    """Training over seeds: spreads on test of unimodal heads and of fusions, who is less stable, and who diverged."""

    heads: list[float]
    fusions: dict[str, float]
    unsteady: list[str]
    diverged: dict[str, tuple[int, int]]
    """``head`` and ``fusion`` -> trainings that diverged, of how many."""
    gaps: dict[str, list[float]]
    """``head`` and ``fusion`` -> train minus test of each model."""


def steadiness(results: LabResults) -> Steadiness:
    """Fusions that are less stable than the heads of single modalities, by divergence or by spread over seeds."""
    heads = [trial.spread for trial in results.baselines if trial.kind == "head" and trial.spread is not None]
    fusions = {trial.model: trial.spread for trial in results.fusions if trial.spread is not None}
    trained = {name: training for name, training in results.stability.models.items() if training.models}
    diverged, gaps = {}, {}
    for kind in ("head", "fusion"):
        of = [training for training in trained.values() if training.kind == kind]
        if of:
            diverged[kind] = (sum(t.diverged for t in of), sum(t.models for t in of))
        every = [t.gap for t in results.stability.models.values() if t.kind == kind and t.gap is not None]
        gaps[kind] = every
    usual = diverged["head"][0] / diverged["head"][1] if "head" in diverged else 1.0
    widest = max(UNSTEADY * max(heads), NOTICEABLE) if heads else float("inf")
    unsteady = [
        name
        for name, spread in fusions.items()
        if spread > widest or (name in trained and trained[name].diverged / trained[name].models > usual + DIVERGED)
    ]
    return Steadiness(heads, fusions, unsteady, diverged, gaps)


class Remedy(NamedTuple):
    """What was tried against a weak modality, where, on which parts of the test rows, and its gain over none."""

    name: str
    where: str
    condition: str
    gain: Figure | None


def remedies(results: LabResults) -> list[Remedy]:
    """Those for fusions on a starved modality, then those in joint training."""
    found = [Remedy(r.remedy, f"{r.weakened}, {r.level:.0%}", r.condition, r.gain) for r in results.imbalance.remedies]
    joint = results.joint
    for tried in joint.remedies:
        if tried.gain:
            gone = {f"{name} absent": absent.gain for name, absent in tried.absent.items() if absent and absent.gain}
            gains = {"all parts": tried.gain, **gone}
            found += [Remedy(tried.name, joint.strategy, condition, gain) for condition, gain in gains.items()]
    return found


class Standing(NamedTuple):
    """A strategy over several sets, on test."""

    strategy: str
    chosen: int
    wins: int
    ties: int
    rank: float
    behind: float
    worst: float
    own: float


def standings(sets: Sequence[LabResults]) -> list[Standing]:
    """Strategies that were fitted on every set, the best first: most often within the margin of the best, then rank."""
    scores = [{t.model: value for t in s.fusions if (value := t.test[s.metric].value) is not None} for s in sets]
    common = [name for name in (scores[0] if scores else ()) if all(name in s for s in scores)]
    rows = []
    for name in common:
        behind = [max(s[n] for n in common) - s[name] for s in scores]
        ranks = [
            1 + sum(s[n] > s[name] for n in common) + (sum(s[n] == s[name] for n in common) - 1) / 2 for s in scores
        ]
        own = median(s.model(name).parameters.own for s in sets)
        chosen, wins = sum(s.best_fusion == name for s in sets), sum(b == 0 for b in behind)
        ties = sum(b <= MARGIN for b in behind)
        rows.append(Standing(name, chosen, wins, ties, fmean(ranks), fmean(behind), max(behind), own))
    return sorted(rows, key=lambda r: (-r.ties, r.rank, r.own))


class News(NamedTuple):
    """What the modalities other than B's tell that B's does not, in bits, and whether that is more than none."""

    unique: Figure
    synergy: Figure
    word: str


def news(results: LabResults) -> News | None:
    """``new`` where the interval of the weaker one's unique information or of synergy lies above `NEW_BITS`."""
    pid = results.pid
    if pid is None:
        return None
    unique = pid.unique_2 if pid.first == stronger(results) else pid.unique_1
    known = [part.low for part in (unique, pid.synergy) if part.low is not None]
    if not known:
        return None
    return News(unique, pid.synergy, "new" if max(known) > NEW_BITS else "none")


def outcomes(sets: Iterable[LabResults]) -> dict[str, int]:
    """How many fits with a modality weakened in training came to each outcome; empty where there are none."""
    every = [
        fit.outcome
        for results in sets
        for parts in results.imbalance.ways.values()
        for part in parts.values()
        for fit in part.levels
        if fit.outcome
    ]
    return {word: every.count(word) for word in ("adapts", "collapses", "over-relies", "none")} if every else {}
