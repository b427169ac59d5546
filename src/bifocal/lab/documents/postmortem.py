"""`postmortem.md`: six questions on fusion, answered by the figures of all sets together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from . import rules
from .experiment_dissection import said_of
from .experiment_parts import points
from .experiments import NOTE
from .tables import (
    Results,
    change,
    code,
    compact,
    counted,
    difference,
    found,
    listing,
    number,
    part_of,
    prose,
    row_of,
    table,
    title_of,
)

KNOWN = ("set whose right verdict is known beforehand", "sets whose right verdict is known beforehand")
OPEN = ("set whose answer was open", "sets whose answer was open")


def postmortem(sets: Sequence[Results], folder: str) -> str:
    """The document; ``folder`` is where the results lie, as seen from it."""
    lines = ["# Post-mortem: when does the second modality pay?", "", NOTE, "", *_introduction(sets)]
    for i, (question, answer) in enumerate(QUESTIONS.items(), 1):
        lines += [f"## {i}. {question}", "", *answer(sets)]
        if answer is gained:
            caption = "Gain of F over B on test with its 95% interval; blue is worth it, the grey band is the margin"
            lines += [f"![{caption}]({folder}/gains.svg)", "", f"*{caption}.*", ""]
    lines += ["## How the words are chosen", "", "Every judgement above is made by one of these rules:", ""]
    lines += [f"- {rule}" for rule in rules.rules()]
    return "\n".join(lines).rstrip() + "\n"


def _introduction(sets: Sequence[Results]) -> list[str]:
    lines = [
        f"Six questions, answered from {counted(len(sets), 'data set')}. What each set is, how models were made, and",
        "all tables are in [experiments.md](experiments.md), with the rules behind the words B (the best model of a",
        "single modality), F (the best fusion), gain (F over B on test) and verdict.",
        "",
    ]
    known = [s for s in sets if rules.as_expected(s) is not None]
    if known:
        missed = [title_of(s) for s in known if not rules.as_expected(s)]
        but = f" It does not on {listing(missed)}." if missed else ""
        lines += [
            f"The lab gives the right verdict on {part_of(len(known) - len(missed), len(known), *KNOWN)}.{but}",
            "",
        ]
    return lines


# ------------------------------------------------------------------ 1


def gained(sets: Sequence[Results]) -> list[str]:
    """Did fusion meaningfully outperform?"""
    lines = [_worth(some, nouns) for nouns, some in ((OPEN, _known(sets, False)), (KNOWN, _known(sets, True))) if some]
    above, below = ([s for s in sets if rules.sign(s["gain"]) == which] for which in (1, -1))
    lines.append(
        f"The interval of the gain lies above 0 on {part_of(len(above), len(sets), 'set')} and below 0 on "
        f"{part_of(len(below), len(sets), 'set')}."
    )
    if spoiled := [title_of(s) for s in above if s["verdict"]["word"] != "worth it"]:
        lines.append(
            f"On {listing(spoiled)} the gain lies above 0 and is still not called worth it: it is under the margin, or "
            "it is not shown to be more than that of the control."
        )
    rows = [
        [
            title_of(s),
            code(s["best_baseline"]),
            code(s["best_fusion"]),
            f"**{rules.verdict_of(s)}**",
            *(change(s[key]) for key in ("gain", "over_control", "over_additive")),
            number(s["gain"].get("detectable")),
        ]
        for s in sets
    ]
    head = ["set", "B", "F", "verdict", "gain", "over control", "over additive part", "detectable"]
    return [" ".join(lines), "", *table(head, rows, texts=4), *_autogluon(sets)]


def _known(sets: Sequence[Results], known: bool) -> list[Results]:
    return [s for s in sets if (rules.as_expected(s) is not None) == known]


def _worth(some: Sequence[Results], nouns: tuple[str, str]) -> str:
    words = Counter(s["verdict"]["word"] for s in some)
    worth = words.pop("worth it", 0)
    rest = listing([f"{n} {'is' if n == 1 else 'are'} {word}" for word, n in sorted(words.items())]) if words else ""
    told = f"; {rest}" if rest and len(some) > 1 else ""
    return f"**Fusion is worth it on {part_of(worth, len(some), *nouns)}{told}.**"


def _autogluon(sets: Sequence[Results]) -> list[str]:
    rows = []
    for s in sets:
        theirs = (s.get("autogluon") or {}).get(s["metric"]) or {}
        ours = row_of(s, s["best_fusion"])["test"][s["metric"]]["value"]
        if theirs.get("value") is not None and ours is not None:
            rows.append((title_of(s), round(ours, 3), round(theirs["value"], 3)))
    if not rows:
        return []
    told = [f"{name} {number(ours)} against {number(other)}" for name, ours, other in rows]
    ahead = sum(ours > other for _, ours, other in rows)
    return [
        "Beside AutoGluon's tabular predictor on the same split, F has the higher test value on "
        f"{part_of(ahead, len(rows), 'set')}: {'; '.join(told)}. These are values, without a paired interval.",
        "",
    ]


# ------------------------------------------------------------------ 2


def strategies(sets: Sequence[Results]) -> list[str]:
    """Which strategy was best?"""
    ranked = rules.standings(sets)
    if len(ranked) < 2:
        return ["Fewer than two strategies were fitted on every set, so there is nothing to rank.", ""]
    first, n = ranked[0], len(sets)
    lines = [
        f"**{code(first.strategy)}: within {rules.MARGIN:g} of the best fusion on {part_of(first.ties, n, 'set')}, "
        f"mean rank {first.rank:.1f} of {len(ranked)}.**"
    ]
    if first.ties < n:
        lines.append("No strategy is within that margin on every set.")
    elif everywhere := [code(r.strategy) for r in ranked[1:] if r.ties == n]:
        lines.append(f"So {'is' if len(everywhere) == 1 else 'are'} {listing(everywhere)}, at a higher rank or size.")
    last = max(ranked, key=lambda r: r.worst)
    if last.worst > rules.MARGIN:
        lines.append(f"The largest shortfall on one set is that of {code(last.strategy)}, {number(last.worst)}.")
    rows = [
        [
            *(prose(r.strategy), f"{r.ties}", f"{r.rank:.1f}", f"{r.wins}", f"{r.chosen}"),
            *(number(r.behind), number(r.worst), compact(r.own)),
        ]
        for r in ranked
    ]
    head = ["strategy", "ties with the best", "mean rank", "best on test", "chosen on val"]
    costs = ["mean shortfall", "largest shortfall", "own parameters, median"]
    return [" ".join(lines), "", *table([*head, *costs], rows), *_joint(sets), *_remedies(sets)]


def _joint(sets: Sequence[Results]) -> list[str]:
    trials = [(s, t) for s in sets for t in (s.get("joint") or {}).get("trials") or []]
    if not trials:
        return []
    signs = Counter(rules.sign(t.get("gain")) for _, t in trials)
    told = [f"{title_of(s)}, {code(t['model'])}: {change(t.get('gain'))}" for s, t in trials]
    return [
        f"Training the encoders along (joint training), against F on cached features of the same rows: of "
        f"{counted(len(trials), 'trial')} {signs[1]} better, {signs[-1]} worse, {signs[0]} without a difference shown. "
        f"{'; '.join(told)}.",
        "",
    ]


def _remedies(sets: Sequence[Results]) -> list[str]:
    tried = [r for s in sets for r in rules.remedies(s)]
    told = []
    for name in dict.fromkeys(r.name for r in tried):
        signs = Counter(rules.sign(r.gain) for r in tried if r.name == name)
        harm = f", harms in {signs[-1]}" if signs[-1] else ""
        told.append(f"{prose(name)} helps in {signs[1]} of {counted(signs.total(), 'comparison')}{harm}")
    return [f"Remedies for a weak modality: {'; '.join(told)}.", ""] if told else []


# ------------------------------------------------------------------ 3


def robustness(sets: Sequence[Results]) -> list[str]:
    """Were fusions robust to missing modalities?"""
    words = Counter(rules.robustness(s) for s in sets)
    told = [f"{words[w]} {w}" for w in (*rules.SEVERITY, "unknown") if words[w]]
    lost = [(a, s) for s in sets for a in rules.absences(s) if a.change.get("value") is not None]
    lines = [f"**By the modality that F misses most, over {counted(len(sets), 'set')}: {listing(told)}.**"]
    if lost:
        worst, where = min(lost, key=lambda pair: pair[0].change["value"])
        lines.append(
            f"The largest loss is on {title_of(where)}: without {prose(worst.modality)} F changes by "
            f"{change(worst.change)}."
        )
    rows = [
        [
            title_of(s),
            prose(a.modality),
            a.word,
            change(a.change),
            number(a.left),
            number(a.alone),
            _area(s, a.modality),
        ]
        for s in sets
        for a in rules.absences(s)
    ]
    head = ["set", "without", "word", "change", "left of F", "best model of the rest", "mean change over drop rates"]
    return [" ".join(lines), "", *table(head, rows, texts=3), *_weakened(sets)]


def _area(results: Results, modality: str) -> str:
    part = ((results.get("ablation") or {}).get("modalities") or {}).get(modality)
    return change(part["dropped"]["area"]["change"]) if part else ""


def _weakened(sets: Sequence[Results]) -> list[str]:
    parts = [
        part
        for s in sets
        for how in (s.get("imbalance") or {}).values()
        if isinstance(how, Mapping)
        for part in how.values()
        if part
    ]
    outcomes = Counter(row["outcome"] for part in parts for row in part["levels"] if row["outcome"])
    if not outcomes:
        return []
    return [f"Of {counted(outcomes.total(), 'fit')} with a modality weakened in training, {said_of(outcomes)}.", ""]


# ------------------------------------------------------------------ 4


def stability(sets: Sequence[Results]) -> list[str]:
    """Was training less stable?"""
    rows, unsteady, compared = [], Counter[str](), Counter[str]()
    for s in sets:
        steady = rules.steadiness(s)
        if steady.heads:
            unsteady.update(steady.unsteady)
            compared.update(steady.fusions.keys())
        lost = [f"{d} of {n}" for d, n in steady.diverged.values()]
        models = ((s.get("stability") or {}).get("models") or {}).values()
        rows.append(
            [
                title_of(s),
                *_pair(steady.heads),
                *_pair(list(steady.fusions.values())),
                *(_gap([m for m in models if m.get("kind") == kind]) for kind in ("head", "fusion")),
                " / ".join(lost),
                f"{len(steady.unsteady)} of {len(steady.fusions)}",
            ]
        )
    if not compared:
        return ["No set has a spread over seeds of both heads and fusions, so this cannot be told.", ""]
    bad = unsteady.total()
    which = part_of(bad, compared.total(), "fusion fitted over several seeds", "fusions fitted over several seeds")
    verb = "is" if bad <= 1 else "are"
    lines = [f"**{which[:1].upper()}{which[1:]} {verb} less stable than the unimodal heads of the same set.**"]
    if bad:
        lines.append(
            f"By strategy: {listing([f'{code(n)} on {k} of {compared[n]}' for n, k in unsteady.most_common()])}."
        )
    head = ["set", "± seeds, heads: median", "heads: widest", "fusions: median", "fusions: widest"]
    more = ["train − test, heads: median", "fusions: median", "diverged, heads / fusions", "less stable"]
    return [" ".join(lines), "", *table([*head, *more], rows)]


def _pair(values: Sequence[float]) -> list[str]:
    return [number(median(values)), number(max(values))] if values else ["", ""]


def _gap(models: Sequence[Mapping[str, Any]]) -> str:
    gaps = [gap for m in models if (gap := (m.get("gap") or {}).get("gap")) is not None]
    return number(median(gaps)) if gaps else ""


# ------------------------------------------------------------------ 5


def growth(sets: Sequence[Results]) -> list[str]:
    """Did parameters scale linearly or explosively?"""
    measured: dict[str, list[Mapping[str, Any]]] = {}
    for s in sets:
        for name, g in ((s.get("stability") or {}).get("growth") or {}).items():
            measured.setdefault(name, []).append(g)
    if not measured:
        return [f"**The growth with feature width was not measured.** {_bought(sets)}", ""]
    rows = []
    for name, fits in measured.items():
        known = sorted({f"{g['exponent']:.2f}" for g in fits if g["exponent"] is not None}, key=float)
        own = [r["parameters"]["own"] for s in sets for r in s["fusions"] if r["model"] == name]
        ends = [compact(min(own)), compact(max(own))] if own else ["", ""]
        words = listing(list(dict.fromkeys(g["word"] for g in fits)), "or")
        rows.append([prose(name), words, " to ".join(dict.fromkeys([*known[:1], *known[-1:]])), *ends])
    bad, n = sum("explosive" in row[1] for row in rows), counted(len(rows), "strategy", "strategies")
    if bad:
        lines = [f"**Of {n} {bad} {'grows' if bad == 1 else 'grow'} explosively.**"]
    else:
        lines = [f"**Linearly at most: of {n} none grows explosively.**"]
    by = {word: [row[0] for row in rows if row[1] == word] for word in dict.fromkeys(row[1] for row in rows)}
    told = [f"{word}: {listing(names)}" for word, names in by.items()]
    lines.append(f"With the width of the features, {'; '.join(told)}.")
    head = ["strategy", "growth", "exponent", "own parameters, least", "most"]
    return [" ".join([*lines, _bought(sets)]), "", *table(head, rows, texts=2)]


def _bought(sets: Sequence[Results]) -> str:
    """Whether F needed its parameters: a smaller fusion that ties on val."""
    told = []
    for s in sets:
        tie, best = s["smallest_tie"], s["best_fusion"]
        if tie != best:
            own = [compact(row_of(s, m)["parameters"]["own"]) for m in (tie, best)]
            told.append(
                f"{title_of(s)}: {code(tie)} with {own[0]} parameters of its own for {code(best)} with {own[1]}"
            )
    listed = f": {'; '.join(told)}" if told else ""
    return f"A smaller fusion ties with F on validation data on {part_of(len(told), len(sets), 'set')}{listed}."


# ------------------------------------------------------------------ 6


def when(sets: Sequence[Results]) -> list[str]:
    """When is multimodal modelling worth it?"""
    rows = []
    for s in sets:
        ours, told, cost = rules.stronger(s), rules.news(s), s["price"]
        leads = listing([f"{prose(m)}: {rules.lead(s, m)}" for m in s["modalities"] if m != ours])
        bits = [found(told.unique), found(told.synergy), told.word] if told else ["", "", ""]
        added = [difference(cost["parameters"]), difference(cost["seconds"])]
        rows.append([title_of(s), f"**{rules.verdict_of(s)}**", prose(ours), leads, *bits, *added])
    head = ["set", "verdict", "stronger", "its lead over", "unique to the weaker, bits", "synergy, bits"]
    return [
        _condition(sets),
        "",
        *table([*head, "new information", "parameters added", "seconds added"], rows, texts=4),
        _advice(sets),
        "",
    ]


def _condition(sets: Sequence[Results]) -> str:
    """Whether new information is what tells the sets where fusion is worth it from the others."""
    judged = [(s["verdict"]["word"] == "worth it", n.word == "new") for s in sets if (n := rules.news(s)) is not None]
    if not judged:
        return "**No set has its information decomposed, so no condition can be named.**"
    worth, other = ([new for is_worth, new in judged if is_worth is which] for which in (True, False))
    parts = []
    for some, what in ((worth, "where fusion is worth it"), (other, "where it is not shown to be")):
        if some:
            parts.append(f"on {part_of(sum(some), len(some), f'set {what}', f'sets {what}')}")
    said = f"new information beside the strongest modality (unique to another, or synergy) is found {listing(parts)}"
    if not worth or not other:
        return f"**These sets cannot tell: all have one kind of outcome.** For what it is worth, {said}."
    if all(worth) and not any(other):
        return f"**Where the weaker modality tells what the stronger does not, alone or with it.** Here {said}."
    return f"**No single condition tells these sets apart.** Here {said}."


def _advice(sets: Sequence[Results]) -> str:
    worth = [s for s in sets if s["verdict"]["word"] == "worth it"]
    if not worth:
        return "On none of these sets is a fusion worth it, so there is no price to name."
    kinds = Counter(s["verdict"]["kind"] for s in worth)
    told = listing([f"{n} {prose(kind)}" for kind, n in kinds.items()])
    prices = [f"{title_of(s)} {paid}" for s in worth if (paid := points(s["price"]))]
    cost = f" Per point (0.01) of gain: {'; '.join(prices)}." if prices else ""
    tie = " Where it is additive, the smallest fusion that ties will do." if kinds["additive"] else ""
    return f"Of {counted(len(worth), 'fusion')} that {'is' if len(worth) == 1 else 'are'} worth it: {told}.{tie}{cost}"


QUESTIONS: dict[str, Callable[[Sequence[Results]], list[str]]] = {
    "Did fusion meaningfully outperform?": gained,
    "Which strategy was best?": strategies,
    "Were fusions robust to missing modalities?": robustness,
    "Was training less stable than that of one modality?": stability,
    "Did parameters scale linearly or explosively?": growth,
    "When is multimodal modelling worth it?": when,
}
