"""The rules by which the lab's documents choose their words: figures with their intervals in, a word out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import NamedTuple

from ...config import ImbalanceRule
from ...evaluate.differences import Rate, difference
from ...evaluate.intervals import Interval
from ..results import LabResults
from ..results_schema import Dominance, Figure, WeakenedFit
from ..verdict import too_few
from .significance import p_above, p_below, shown, signs

DIVERGED = 0.1
"""More of all trainings (seeds x grid points) that diverge than among the heads. One learning rate of a grid that is
too high for one architecture is no more than what a grid is for."""
NEW_BITS = 0.01
"""Of information that the best modality alone does not hold: less than a hundredth of a bit is called none."""
NOT_SHOWN = "not shown"
SEVERITY = ("robust", "graceful", NOT_SHOWN, "fragile")


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
    if low > results.margin:
        return "clearly dominant"
    if low > 0:
        return "ahead"
    return "behind" if high < 0 else "level"


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


class Absence(NamedTuple):
    """What becomes of a fusion without a modality: its paired change, what is left, and the best model on val of the
    rest, with what is left over it."""

    modality: str
    change: Figure
    left: float | None
    alone: float | None
    over_alone: Figure
    word: str


def absences(results: LabResults) -> list[Absence]:
    """One per modality; ``robust``, ``graceful``, ``fragile``, the first that its interval shows, or `NOT_SHOWN`.

    All these comparisons of a set are one family (Holm).
    """
    names, values, margin = results.modalities, left_by(results.dominance[results.metric]), results.margin
    found, claims = {}, dict[str, float]()
    for name in names:
        others = [results.model(results.best_of_modality[other]) for other in names if other != name]
        rest = max(others, key=lambda trial: -1.0 if (val := trial.val.get(results.metric)) is None else val)
        alone, over = rest.test[results.metric], _over_rest(results, name, rest.test[results.metric])
        found[name] = (results.without[name], values.get(frozenset(names) - {name}), alone.value, over)
        loss, kept = (_telling(figure, results) for figure in (results.without[name], over))
        claims |= {f"robust {name}": p_above(loss, -margin), f"graceful {name}": p_above(kept, -margin)}
        claims[f"fragile {name}"] = p_below(kept, -margin)
    proven = shown(claims)
    words = {name: next((w for w in SEVERITY if f"{w} {name}" in proven), NOT_SHOWN) for name in names}
    return [Absence(name, *figures, words[name]) for name, figures in found.items()]


def _over_rest(results: LabResults, name: str, alone: Figure) -> Figure:
    """F without a modality over the best model of the rest: the paired gain, or in results of an earlier version the
    difference of two intervals as of two sets of rows, which is wider where both models find the same rows hard."""
    ablated = results.ablation.modalities.get(name) if results.ablation else None
    if name in results.over_rest or ablated is None:
        return results.over_rest.get(name, Figure())
    ends = []
    for figure in (ablated.removed["absent"], alone):
        if figure.value is None or figure.low is None or figure.high is None:
            return Figure()
        ends.append(Interval(figure.value, figure.low, figure.high))
    return Figure(**difference(*ends)._asdict())


def _telling(figure: Figure, results: LabResults) -> Figure:
    """The figure, or nothing where it has no width because the rows are too few to show a difference."""
    return Figure() if figure.low == figure.high and too_few(results.rows["test"], results.margin) else figure


def left_by(dominance: Dominance) -> dict[frozenset[str], float | None]:
    """What F achieves with some modalities alone."""
    return {coalition.modalities: coalition.value for coalition in dominance.values}


def robustness(results: LabResults) -> str:
    """The worst word of `absences`."""
    return max((absence.word for absence in absences(results)), key=SEVERITY.index)


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
    claims = dict[str, float]()
    for name in fusions:
        claims[f"spread {name}"] = _wider(results, name)
        lost = (trained[name].diverged, trained[name].models) if name in trained else (0, 0)
        claims[f"diverged {name}"] = _more_often(lost, diverged.get("head", (0, 0)))
    proven = shown(claims)
    unsteady = [name for name in fusions if {f"spread {name}", f"diverged {name}"} & proven]
    return Steadiness(heads, fusions, unsteady, diverged, gaps)


def _wider(results: LabResults, name: str) -> float:
    """Two-sided p-value of a spread over seeds as the widest of the heads', by the F test of two variances.

    1 for a spread below half the margin, which moves no verdict, whatever its ratio.
    """
    from scipy.stats import f

    heads = [trial for trial in results.baselines if trial.kind == "head" and trial.spread is not None]
    widest, fusion = max(heads, key=lambda trial: trial.spread or 0.0, default=None), results.model(name)
    if widest is None or widest.spread is None or not (fusion.spread or 0) > max(widest.spread, results.margin / 2):
        return 1.0
    ratio = ((fusion.spread or 0) / widest.spread) ** 2 if widest.spread else float("inf")
    return 2 * float(f.sf(ratio, fusion.seeds - 1, widest.seeds - 1))


def _more_often(lost: tuple[int, int], usual: tuple[int, int]) -> float:
    """P-value of trainings (some, of all) that diverge as often as usual; 1 unless they do so `DIVERGED` more often."""
    if not lost[1] or not usual[1] or lost[0] / lost[1] <= usual[0] / usual[1] + DIVERGED:
        return 1.0
    first, second = (Rate(some, every, every, 1.0) for some, every in (lost, usual))
    return first.p_value(second)


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


def judged_remedies(results: LabResults) -> list[tuple[Remedy, int | None]]:
    """Each with what its gain shows, all of a set as one family (`signs`)."""
    tried = remedies(results)
    return list(zip(tried, signs(remedy.gain for remedy in tried), strict=True))


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
        ties = sum(b <= s.margin for b, s in zip(behind, sets, strict=True))
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


OUTCOMES = ("collapses", "over-relies", "adapts")


def outcomes_of(results: LabResults) -> dict[tuple[str, str, float], str]:
    """Way, modality and level -> what became of a fusion trained so: the first of `OUTCOMES` shown, or ``none``.

    As `bifocal.diagnose.imbalance.outcome_of` by the thresholds stored with the results, all fits of a set being one
    family (Holm).
    """
    fits, claims = {}, dict[str, float]()
    for way, parts in results.imbalance.ways.items():
        for name, part in parts.items():
            for fit in part.levels[1:]:  # the first is not weakened
                fits[way, name, fit.level] = fit
                p_values = _outcome_p_values(fit, part.rule)
                claims |= {f"{word} {way} {name} {fit.level}": p for word, p in zip(OUTCOMES, p_values, strict=True)}
    proven = shown(claims)
    return {
        key: next((word for word in OUTCOMES if f"{word} {key[0]} {key[1]} {key[2]}" in proven), "none") for key in fits
    }


def _outcome_p_values(fit: WeakenedFit, rule: ImbalanceRule) -> tuple[float, float, float]:
    """Of each of `OUTCOMES`; a claim of two parts has the larger of theirs."""
    leads = fit.left.low is not None and fit.left.low > 0
    follows = p_above(fit.moved, rule.moved) if fit.moved else 0.0  # a fusion without weights is judged by its score
    return (
        p_below(fit.gain, -rule.collapse),
        1.0 if leads or fit.left.low is None else p_above(fit.excess, rule.excess),
        max(p_above(fit.gain, -rule.margin), follows),
    )


def outcomes(sets: Iterable[LabResults]) -> dict[str, int]:
    """How many fits with a modality weakened in training came to each outcome; empty where there are none."""
    every = [word for results in sets for word in outcomes_of(results).values()]
    return {word: every.count(word) for word in ("adapts", "collapses", "over-relies", "none")} if every else {}
