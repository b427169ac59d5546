"""The rules by which the lab's documents choose their words: figures in, a word out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from ..verdict import MARGIN
from .tables import Results, row_of, tested

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


def verdict_of(results: Results) -> str:
    """The verdict in words: ``worth it, interacting``, ``not worth it``, ``undecided``."""
    word, kind = results["verdict"]["word"], results["verdict"]["kind"]
    return word if kind is None else f"{word}, {kind}"


def as_expected(results: Results) -> bool | None:
    """Whether the verdict is the known answer; None where none is known."""
    expected = (results.get("about") or {}).get("expected")
    return None if expected is None else expected == verdict_of(results)


def stronger(results: Results) -> str:
    """The modality of B: the one whose best model is best on val."""
    modality: str = row_of(results, results["best_baseline"])["reads"][0]
    return modality


def lead(results: Results, other: str) -> str:
    """How B's modality stands to another one, each by its best model on val, on test.

    With ``over_others`` (paired gains of B over the best model of each other modality) by that interval; without it
    by the two intervals apart, which asks for more.
    """
    paired = (results.get("over_others") or {}).get(other)
    ours, theirs = (tested(results, results["best_of_modality"][m]) for m in (stronger(results), other))
    if paired:
        low, high = paired.get("low"), paired.get("high")
    else:
        low, high = _gap(ours, theirs), _minus(_gap(theirs, ours))
    if low is None or high is None:
        return "unknown"
    if low > MARGIN:
        return "clearly dominant"
    if low > 0:
        return "ahead"
    return "behind" if high < 0 else "level"


def _gap(a: Mapping[str, Any], b: Mapping[str, Any]) -> float | None:
    """How far the interval of a lies above that of b; below 0 where they overlap."""
    return None if a.get("low") is None or b.get("high") is None else a["low"] - b["high"]


def _minus(x: float | None) -> float | None:
    return None if x is None else -x


def sign(found: Mapping[str, Any] | None) -> int | None:
    """1 where a difference lies above 0 with its interval, -1 where below, 0 where it includes 0; None = unknown."""
    if found is None or found.get("low") is None or found.get("high") is None:
        return None
    return 1 if found["low"] > 0 else -1 if found["high"] < 0 else 0


class Absence(NamedTuple):
    """What becomes of a fusion without a modality: its paired change, what is left, and the best model of the rest."""

    modality: str
    change: Mapping[str, Any]
    left: float | None
    alone: float | None
    word: str


def absences(results: Results) -> list[Absence]:
    """One per modality; ``robust``, ``graceful`` or ``fragile``, or ``unknown``."""
    names = results["modalities"]
    values = {frozenset(v["modalities"]): v["value"] for v in results["dominance"][results["metric"]]["values"]}
    found = []
    for m in names:
        others = [results["best_of_modality"][o] for o in names if o != m]
        alone = max((v for v in (tested(results, o)["value"] for o in others) if v is not None), default=None)
        left, change = values.get(frozenset(names) - {m}), results["risk"]["drops"][m]
        found.append(Absence(m, change, left, alone, _absence(change.get("value"), left, alone)))
    return found


def _absence(change: float | None, left: float | None, alone: float | None) -> str:
    if change is None or left is None or alone is None:
        return "unknown"
    if change > -MARGIN:
        return "robust"
    return "graceful" if left >= alone - MARGIN else "fragile"


SEVERITY = ("robust", "graceful", "fragile")


def robustness(results: Results) -> str:
    """The worst word of `absences`."""
    words = [a.word for a in absences(results)]
    return "unknown" if "unknown" in words else max(words, key=SEVERITY.index)


class Steadiness(NamedTuple):
    """Training over seeds: spreads on test of unimodal heads and of fusions, who is less stable, and who diverged."""

    heads: list[float]
    fusions: dict[str, float]
    unsteady: list[str]
    diverged: dict[str, tuple[int, int]]
    """``head`` and ``fusion`` -> trainings that diverged, of how many."""


def steadiness(results: Results) -> Steadiness:
    """Fusions that are less stable than the heads of single modalities, by divergence or by spread over seeds."""
    spreads = {r["model"]: _spread(r) for r in (*results["baselines"], *results["fusions"])}
    heads = [s for r in results["baselines"] if r["kind"] == "head" and (s := spreads[r["model"]]) is not None]
    fusions = {r["model"]: s for r in results["fusions"] if (s := spreads[r["model"]]) is not None}
    models = (results.get("stability") or {}).get("models") or {}
    lost = {n: (m["diverged"], m["models"]) for n, m in models.items() if m.get("models")}
    by = {kind: [lost[n] for n in lost if models[n]["kind"] == kind] for kind in ("head", "fusion")}
    diverged = {kind: (sum(d for d, _ in of), sum(n for _, n in of)) for kind, of in by.items() if of}
    usual = diverged["head"][0] / diverged["head"][1] if "head" in diverged else None
    wide = [name for name, s in fusions.items() if heads and s > max(UNSTEADY * max(heads), NOTICEABLE)]
    often = [n for n in fusions if n in lost and usual is not None and lost[n][0] / lost[n][1] > usual + DIVERGED]
    return Steadiness(heads, fusions, [name for name in fusions if name in wide or name in often], diverged)


def _spread(row: Mapping[str, Any]) -> float | None:
    std: float | None = (row["seeds"].get("test") or {}).get("std")
    return std


class Remedy(NamedTuple):
    """What was tried against a weak modality, where, on which parts of the test rows, and its gain over none."""

    name: str
    where: str
    condition: str
    gain: Mapping[str, Any] | None


def remedies(results: Results) -> list[Remedy]:
    """Those for fusions on a starved modality, then those in joint training."""
    of_fusions = (results.get("imbalance") or {}).get("remedies") or []
    found = [Remedy(r["remedy"], f"{r['weakened']}, {r['level']:.0%}", r["condition"], r["gain"]) for r in of_fusions]
    joint = (results.get("joint") or {}).get("remedies") or {}
    for r in joint.get("remedies") or []:
        if r.get("gain"):
            found.append(Remedy(r["name"], joint["strategy"], "all parts", r["gain"]))
            gone = {m: (a or {}).get("gain") for m, a in (r.get("absent") or {}).items()}
            found += [Remedy(r["name"], joint["strategy"], f"{m} absent", gain) for m, gain in gone.items() if gain]
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


def standings(sets: Sequence[Results]) -> list[Standing]:
    """Strategies that were fitted on every set, the best first: most often within the margin of the best, then rank."""
    scores = [{r["model"]: v for r in s["fusions"] if (v := r["test"][s["metric"]]["value"]) is not None} for s in sets]
    common = [name for name in (scores[0] if scores else ()) if all(name in s for s in scores)]
    rows = []
    for name in common:
        behind = [max(s[n] for n in common) - s[name] for s in scores]
        ranks = [
            1 + sum(s[n] > s[name] for n in common) + (sum(s[n] == s[name] for n in common) - 1) / 2 for s in scores
        ]
        own = median(row_of(s, name)["parameters"]["own"] for s in sets)
        chosen, wins = sum(s["best_fusion"] == name for s in sets), sum(b == 0 for b in behind)
        ties = sum(b <= MARGIN for b in behind)
        rows.append(Standing(name, chosen, wins, ties, fmean(ranks), fmean(behind), max(behind), own))
    return sorted(rows, key=lambda r: (-r.ties, r.rank, r.own))


class News(NamedTuple):
    """What the modalities other than B's tell that B's does not, in bits, and whether that is more than none."""

    unique: Mapping[str, Any]
    synergy: Mapping[str, Any]
    word: str


def news(results: Results) -> News | None:
    """``new`` where the interval of the weaker one's unique information or of synergy lies above `NEW_BITS`."""
    pid = results.get("pid")
    if not pid:
        return None
    unique = pid["unique_2"] if pid["first"] == stronger(results) else pid["unique_1"]
    lows = [part.get("low") for part in (unique, pid["synergy"])]
    known = [low for low in lows if low is not None]
    if not known:
        return None
    return News(unique, pid["synergy"], "new" if max(known) > NEW_BITS else "none")


def rules() -> list[str]:
    """Every rule in a sentence of Markdown, with its thresholds; the documents print them."""
    from ..stability import LINEAR  # needs torch

    return [
        f"**worth it**, **not worth it**, **undecided**: the verdict, by the rule at the head of `experiments.md`; its "
        f"margin is {MARGIN:g}.",
        "**stronger modality**: that of B, the best single-modality model on validation data.",
        f"**clearly dominant**: the interval of its lead on test over the best model of the other modality lies above "
        f"{MARGIN:g}; **ahead**: above 0; **behind**: below 0; **level**: it includes 0. The lead is the paired gain "
        "where the results have it, else the distance between the two intervals.",
        "**improves**, **worsens** (NLL, Brier; lower is better), **helps**, **harms** (remedies): the interval of the "
        "paired change excludes 0; otherwise **no change shown**.",
        f"**robust** to a missing modality: F loses less than {MARGIN:g} without it; **graceful**: it loses more, but "
        f"stays within {MARGIN:g} of the best single-modality model of what is left, or above it; **fragile**: it "
        "falls below that. A set takes its worst word.",
        f"**less stable** than unimodal training: of all trainings (seeds x grid points) more diverged than among the "
        f"set's unimodal MLP heads, by over {DIVERGED:.0%} of them; or the standard deviation over seeds of the test "
        f"metric is more than {UNSTEADY:g} times the widest of those heads' and above {NOTICEABLE:g}.",
        f"**constant**, **less than linear**, **linear**, **explosive** growth: by the exponent of parameters against "
        f"feature width, fitted on log-log axes; {LINEAR[0]:g} to {LINEAR[1]:g} is linear, more is explosive.",
        f"**ties**: a fusion within {MARGIN:g} of the best fusion's test value of that set. **Best strategy**: ties "
        "most often, then has the lowest mean rank, then the fewest parameters. Only strategies fitted on every set "
        "are ranked. This describes test values; no model was chosen by them.",
        f"**new information**: the interval of the weaker modality's unique information, or that of the synergy, lies "
        f"above {NEW_BITS:g} bits.",
        "**adapts**, **collapses**, **over-relies** (a modality weakened in training): by the thresholds stored with "
        "the results; *collapses*: the fusion is below the stronger expert, interval included; *over-relies*: when "
        "that expert's modality is disturbed, it loses more than the expert does and keeps no advantage; *adapts*: as "
        "good as the expert, its weight moved away from what was weakened.",
    ]
