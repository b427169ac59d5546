"""`postmortem.md`: six questions on fusion, answered by the figures of all sets together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ..results import LabResults
from ..results_schema import Growth
from . import rules
from .significance import signs
from .words import listing, part_of, range_of, render

KNOWN = ("set whose right verdict is known beforehand", "sets whose right verdict is known beforehand")
OPEN = ("set whose answer was open", "sets whose answer was open")
CAPTION = (
    "The gain of F that the verdict goes by, on test, with its 95% interval; blue is worth it, green a gain shown, the "
    "grey band the margin"
)


@dataclass(frozen=True)
class Group:
    """On how many of some sets fusion is worth it, and the other verdicts with their counts."""

    nouns: tuple[str, str]
    sets: int
    worth: int
    others: list[str]


@dataclass(frozen=True)
class Rival:
    """F beside AutoGluon on a set, on test."""

    title: str
    ours: float
    theirs: float

    @property
    def ahead(self) -> bool:
        return self.ours > self.theirs


@dataclass(frozen=True)
class RemedyCount:
    """In how many comparisons a remedy helps and harms."""

    name: str
    of: int
    helps: int
    harms: int


@dataclass(frozen=True)
class StrategyGrowth:
    """How a strategy's parameters grow with the width of the features, over all sets."""

    strategy: str
    word: str
    exponents: str
    own: tuple[int | None, int | None]
    """The fewest and most parameters of its own."""

    @property
    def explosive(self) -> bool:
        return "explosive" in self.word


def postmortem(sets: Sequence[LabResults], folder: str) -> str:
    """The document; ``folder`` is where the results lie, as seen from it."""
    from ..stability import LINEAR  # needs torch

    known = [s for s in sets if s.as_expected is not None]
    steady = [(s, rules.steadiness(s)) for s in sets]
    worth = [s for s in sets if s.verdict.word == "worth it"]
    above = [s for s in sets if s.gain.sign == 1]
    lost = [(s, a) for s in sets for a in rules.absences(s) if a.change.value is not None]
    words = Counter(rules.robustness(s) for s in sets)
    return render(
        "postmortem.md.j2",
        sets=sets,
        n=len(sets),
        margin=range_of(s.margin for s in sets),
        noticeable=range_of(s.margin / 2 for s in sets),
        folder=folder,
        caption=CAPTION,
        KNOWN=KNOWN,
        LINEAR=LINEAR,
        median=median,
        known=known,
        missed=[s for s in known if not s.as_expected],
        groups=[g for some, nouns in ((_other(sets, known), OPEN), (known, KNOWN)) if (g := _group(some, nouns)).sets],
        above=above,
        below=sum(s.gain.sign == -1 for s in sets),
        spoiled=[s for s in above if s not in worth],
        rivals=_rivals(sets),
        standings=rules.standings(sets),
        trials=[(s, trial) for s in sets for trial in s.joint.trials],
        trial_signs=[sign for s in sets for sign in signs(trial.gain for trial in s.joint.trials)],
        remedies=_remedies(sets),
        robust={word: words[word] for word in rules.SEVERITY if words[word]},
        lost=min(lost, key=lambda pair: pair[1].change.value or 0.0, default=None),
        steady=steady,
        unsteady=_counted(name for _, t in steady if t.heads for name in t.unsteady),
        compared=_counted(name for _, t in steady if t.heads for name in t.fusions),
        growths=_growths(sets),
        smaller=[s for s in sets if s.tie.model != s.best_fusion],
        condition=_condition(sets),
        worth=worth,
        kinds=Counter(s.verdict.kind or "kind unknown" for s in worth),
    )


def _other(sets: Sequence[LabResults], known: Sequence[LabResults]) -> list[LabResults]:
    return [s for s in sets if s not in known]


def _group(sets: Sequence[LabResults], nouns: tuple[str, str]) -> Group:
    words = Counter(s.verdict.word for s in sets)
    worth = words.pop("worth it", 0)
    return Group(nouns, len(sets), worth, [f"{n} {word}" for word, n in sorted(words.items())])


def _rivals(sets: Sequence[LabResults]) -> list[Rival]:
    rivals = []
    for s in sets:
        theirs = s.autogluon.test.get(s.metric) if s.autogluon else None
        ours = s.tested(s.best_fusion).value
        if theirs is not None and theirs.value is not None and ours is not None:
            rivals.append(Rival(s.title, round(ours, 3), round(theirs.value, 3)))
    return rivals


def _remedies(sets: Sequence[LabResults]) -> list[RemedyCount]:
    found: dict[str, list[int | None]] = {}
    for s in sets:
        for remedy, sign in rules.judged_remedies(s):
            found.setdefault(remedy.name, []).append(sign)
    return [RemedyCount(name, len(of), of.count(1), of.count(-1)) for name, of in found.items()]


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _growths(sets: Sequence[LabResults]) -> list[StrategyGrowth]:
    measured: dict[str, list[Growth]] = {}
    for s in sets:
        for name, growth in s.stability.growth.items():
            measured.setdefault(name, []).append(growth)
    rows = []
    for name, fits in measured.items():
        known = sorted(growth.exponent for growth in fits if growth.exponent is not None)
        exponents = dict.fromkeys(f"{exponent:.2f}" for exponent in (*known[:1], *known[-1:]))
        own = [trial.parameters.own for s in sets for trial in s.fusions if trial.model == name]
        word = listing(dict.fromkeys(growth.word for growth in fits), "or")
        rows.append(
            StrategyGrowth(name, word, " to ".join(exponents), (min(own, default=None), max(own, default=None)))
        )
    return rows


def _condition(sets: Sequence[LabResults]) -> str:
    """Whether new information is what tells the sets where fusion is worth it from the others."""
    judged = [(s.verdict.word == "worth it", news.word == "new") for s in sets if (news := rules.news(s)) is not None]
    if not judged:
        return "**No set has its information decomposed, so no condition can be named.**"
    worth, other = ([new for is_worth, new in judged if is_worth is which] for which in (True, False))
    found = [
        f"on {part_of(sum(some), len(some), f'set {where}', f'sets {where}')}"
        for some, where in ((worth, "where fusion is worth it"), (other, "where it is not shown to be"))
        if some
    ]
    told = f"new information beside the strongest modality (unique to another, or synergy) is found {listing(found)}"
    if not worth or not other:
        return f"**These sets cannot tell: all have one kind of outcome.** For what it is worth, {told}."
    if all(worth) and not any(other):
        return f"**Where the weaker modality tells what the stronger does not, alone or with it.** Here {told}."
    return f"**No single condition tells these sets apart.** Here {told}."
