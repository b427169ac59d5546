"""What `experiments.md` says of a fusion taken apart: dominance, ablation, weakened modalities, stability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ...report.markdown import METRICS
from . import rules
from .tables import (
    Results,
    change,
    code,
    counted,
    found,
    listing,
    metric_name,
    number,
    percent,
    prose,
    table,
)


def dominance(results: Results) -> list[str]:
    """Who dominates F, and whether its modalities interact."""
    metric, names = results["metric"], results["modalities"]
    measured, perceptual = results["dominance"], results.get("perceptual") or {}
    by = [m for m in ("accuracy", metric) if m in measured]
    rows = []
    for name in names:
        pairs = (results.get("confounders") or {}).get(name)
        pairs_said = f"{found(pairs)} ({pairs['pairs']:,})" if pairs else "no pairs"
        rows.append(
            [
                prose(name),
                *(change(measured[m]["shapley"][name]) for m in by),
                change(measured[metric]["conditional_utilization"][name]),
                change(perceptual.get(name)),
                pairs_said,
            ]
        )
    head = ["modality", *(f"Shapley, {METRICS[m]}" for m in by), "conditional utilisation", "perceptual score"]
    lines = ["### Dominance and interaction", "", *table([*head, "confounder pairs (n) sharing it"], rows)]
    together = listing([f"{change(measured[m]['cooperation'])} in {METRICS[m]}" for m in by])
    said = [f"Cooperation, what the modalities bring together beyond the sum of each alone: {together}."]
    said.append(f"F's gain over its own additive part (EMAP): {change(results['over_additive'])}.")
    if pid := results.get("pid"):
        first, second = prose(pid["first"]), prose(pid["second"])
        bits = {
            "redundant": pid["redundancy"], f"unique to {first}": pid["unique_1"],
            f"unique to {second}": pid["unique_2"], "synergy": pid["synergy"],
        }  # fmt: skip
        said.append(f"Information on the label, in bits: {', '.join(f'{k} {found(v)}' for k, v in bits.items())}.")
    return [*lines, " ".join(said), ""]


def ablation(results: Results, figure: Callable[[str, str], list[str]]) -> list[str]:
    """F with a modality removed, shuffled, thinned out and disturbed."""
    measured = results.get("ablation")
    if not measured:
        return []
    rows = []
    for name, part in measured["modalities"].items():
        ways = [part["removed"][way]["change"] for way in ("absent", "mean", "zeros")]
        cells = [change(c) for c in (*ways, part["permuted"]["change"], part["dropped"]["area"]["change"])]
        rows.append([prose(name), percent(part["present"]), *cells])
    head = ["modality", "present", "absent", "mean", "zeros", "permuted", "dropped, area"]
    lines = [
        "### Ablation and robustness",
        "",
        f"F as it is has {found(measured['intact'])}. The change of its {metric_name(results)} when one modality is "
        "taken away:",
        "",
        *table(head, rows),
    ]
    lines += figure(
        "missing", "F without one modality on a share of the rows (left), and with noise on its features (right)"
    )
    lines += _corruption(results)
    return lines + figure("corruption", "F on corrupted inputs, encoded again; bands are 95% intervals")


def _corruption(results: Results) -> list[str]:
    said = []
    for name, measured in (results.get("corruption") or {}).items():
        if not measured or not measured.get("kinds"):
            continue
        last = {kind: levels[-1] for kind, levels in measured["kinds"].items() if levels}
        worst = {kind: level for kind, level in last.items() if level["change"]["value"] is not None}
        if worst:
            kind = min(worst, key=lambda k: worst[k]["change"]["value"])
            level = worst[kind]
            said.append(
                f"Of the corruptions of the {prose(name)} at severity {level['severity']}, "
                f"{prose(kind.replace('_', ' '))} costs most: {change(level['change'])} on {measured['n']:,} rows."
            )
    return [" ".join(said), ""] if said else []


LEVELS: dict[str, tuple[str, Callable[[float], str]]] = {
    "starved": ("share of the training rows that keep the part", percent),
    "corrupted": ("noise on the training features, in standard deviations", lambda d: f"{d:g} SD"),
    "truncated": ("training inputs cut shorter, by severity; 0 is the whole", lambda d: f"{d:g}"),
}


def imbalance(results: Results) -> list[str]:
    """What fusions make of a modality that was weakened in training."""
    measured = results.get("imbalance") or {}
    lines, outcomes = [], Counter[str]()
    for how, (title, spell) in LEVELS.items():
        parts = {m: part for m, part in (measured.get(how) or {}).items() if part}
        if not parts:
            continue
        levels = list(dict.fromkeys(row["level"] for part in parts.values() for row in part["levels"]))
        rows = []
        for name, part in parts.items():
            cells = {row["level"]: _outcome(row) for row in part["levels"]}
            outcomes.update(row["outcome"] for row in part["levels"] if row["outcome"])
            beside = f"{prose(part.get('beside') or part['stronger'])} {number(part['expert']['intact']['value'])}"
            rows.append([prose(name), beside, *(cells.get(level, "") for level in levels)])
        head = ["weakened", "beside it", *map(spell, levels)]
        lines += [f"{how.capitalize()}: {title}.", "", *table(head, rows, texts=2)]
    remedied = remedies(results)
    if not lines and not remedied:
        return []
    if outcomes:
        lines += [f"Of {counted(outcomes.total(), 'weakened fit')}: {said_of(outcomes)}.", ""]
    return ["### A modality weakened in training", "", *lines, *remedied]


def said_of(outcomes: Mapping[str, int]) -> str:
    """How many weakened fits came to which outcome, in words."""
    verbs = {
        "adapts": ("adapts", "adapt"),
        "collapses": ("collapses", "collapse"),
        "over-relies": ("over-relies", "over-rely"),
        "none": ("shows none of these", "show none of these"),
    }
    return listing(
        [f"{outcomes.get(o, 0)} {one if outcomes.get(o) == 1 else many}" for o, (one, many) in verbs.items()]
    )


def _outcome(row: Mapping[str, Any]) -> str:
    value, outcome = number(row["intact"]["value"]), row["outcome"]
    return value if outcome is None else f"{value} {'–' if outcome == 'none' else outcome}"


REMEDY = {1: "helps", 0: "no change shown", -1: "harms", None: "unknown"}


def remedies(results: Results) -> list[str]:
    """What was tried against imbalance, each beside the same training without it."""
    rows = [[*map(prose, r[:3]), change(r.gain), REMEDY[rules.sign(r.gain)]] for r in rules.remedies(results)]
    if not rows:
        return []
    head = ["remedy", "weakened modality and share kept, or joint fusion", "tested on", "gain", "word"]
    return ["Remedies, each against the same training without any:", "", *table(head, rows, texts=3)]


def stability(results: Results, figure: Callable[[str, str], list[str]]) -> list[str]:
    """Training: epochs, spread over seeds, gap, divergences; and what parameters buy."""
    models = (results.get("stability") or {}).get("models") or {}
    if not models:
        return []
    keys = next((list(m["grid_point"]) for m in models.values() if m.get("grid_point")), [])
    rows = [[prose(name), *_training(m, keys)] for name, m in models.items()]
    point = f"grid point ({', '.join(prose(k.replace('_', ' ')) for k in keys)})" if keys else "grid point"
    head = ["model", point, "epochs to best", "gradient norm", "± seeds", "train − test", "diverged"]
    return [
        "### Stability",
        "",
        *table(head, rows),
        _steadiness(results),
        "",
        *figure("losses", "Loss per epoch, mean over seeds, of each model at its grid point"),
        *figure("parameters", "Performance against the parameters a model brings of its own"),
        *figure("growth", "Parameters against the width of the features"),
    ]


def _training(m: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """One model's line of the table; empty where it has no epochs, seeds or grid."""
    point, curves = m.get("grid_point") or {}, m.get("curves") or {}
    best = [e for e in m.get("epochs_to_best") or [] if e is not None]
    norms = [x for x in curves.get("gradient_norm") or [] if x is not None]
    spread, gap = (m.get("spread") or {}).get("test"), (m.get("gap") or {}).get("gap")
    ends = f" ({min(best)} to {max(best)})" if len(set(best)) > 1 else ""
    return [
        " / ".join(f"{point[k]:g}" for k in keys if point.get(k) is not None),
        f"{fmean(best):.1f}{ends}" if best else "",
        f"{number(norms[0], 2)} → {number(norms[-1], 2)}" if norms else "",
        number(spread) if spread is not None else "",
        number(gap) if gap is not None else "",
        f"{m['diverged']} of {m['models']}" if m.get("models") else "",
    ]


def _steadiness(results: Results) -> str:
    s = rules.steadiness(results)
    if not s.heads or not s.fusions:
        return "There is no spread over seeds of both heads and fusions to compare."
    unsteady = listing([code(n) for n in s.unsteady])
    less = (
        f"{unsteady} {'trains' if len(s.unsteady) == 1 else 'train'} less stably than the heads of single modalities"
        if s.unsteady
        else "no fusion trains less stably than the heads of single modalities"
    )
    return (
        f"Over seeds the test {metric_name(results)} of those heads has a standard deviation of at most "
        f"{number(max(s.heads))}, that of the fusions of at most {number(max(s.fusions.values()))}: {less}."
    )
