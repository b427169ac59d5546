"""`experiments.md`: the rules, an overview of all sets, and set after set what was expected, found and concluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import experiment_dissection as dissected
from . import experiment_parts as parts
from . import rules
from .tables import (
    UNKNOWN,
    Results,
    change,
    code,
    found,
    listing,
    metric_name,
    part_of,
    percent,
    prose,
    seconds,
    spread,
    table,
    tested,
    title_of,
)

NOTE = "*Written by `bifocal lab --write` from the results of each set; no number in it was typed by hand.*"
PARTS = {
    "experts": "pipelines",
    "ablation": "ablation",
    "corruption": "corruption of inputs",
    "imbalance": "weakening a modality in training",
    "stability": "stability",
    "joint": "joint training",
}
"""Parts that a lab may leave out, and what they are called."""


def experiments(sets: Sequence[Results], folder: str, figures: Mapping[str, Mapping[str, str]]) -> str:
    """The document.

    Parameters
    ----------
    sets : sequence
        ``results.json`` of each set in order, with ``name``, that of its folder.
    folder : str
        Where the results lie, as seen from the document.
    figures : mapping
        Set -> file name -> SVG; those that are there are shown.
    """
    lines = ["# Experiments: is the second modality worth it, and why?", "", NOTE, "", *_introduction(sets)]
    lines += [*_rules(sets), READING, *_overview(sets)]
    for number, results in enumerate(sets, 1):
        lines += _set(number, results, folder, figures.get(results["name"], {}))
    return "\n".join(lines).rstrip() + "\n"


def _introduction(sets: Sequence[Results]) -> list[str]:
    asked = "One data set is asked" if len(sets) == 1 else f"{len(sets)} data sets are asked"
    known = sum(rules.as_expected(s) is not None for s in sets)
    which = part_of(known, len(sets), "set")
    checked = (
        f"\nFor {which} the right verdict is known beforehand; there the method itself is tested." if known else ""
    )
    return [INTRODUCTION.format(asked=asked, checked=checked)]


INTRODUCTION = """\
{asked} one question: does a model that reads several modalities beat the best model that reads one of
them, by enough to pay for it?{checked}
What follows from all of them together is in [postmortem.md](postmortem.md).

Each modality has an *expert*: an encoder, pretrained or fitted, with a head of its own. It runs once over every
row; its features and class scores are kept. All fusions, and the MLP heads of single modalities, learn from these,
with the same seeds and the same grid of settings. No encoder here was pretrained on several modalities together.
"""


def _rules(sets: Sequence[Results]) -> list[str]:
    seeds = spread((s.get("settings") or {}).get("seeds") for s in sets)
    drawn = spread((s.get("config") or {}).get("bootstrap") for s in sets)
    return [
        RULES.format(
            margin=spread(s["margin"] for s in sets),
            drawn=f" ({drawn} resamples)" if drawn != UNKNOWN else "",
            seeds=f"{seeds} seeds" if seeds != UNKNOWN else "several seeds",
        )
    ]


RULES = """\
## The rules, fixed before the numbers

- **Metric**: AUROC for two classes, macro-F1 for more.
- **B**: the best model of a single modality on validation data, among each expert, an MLP head on its features with
  the grid of the fusions, and boosted trees (tabular) or TF-IDF (text).
- **F**: the best fusion on validation data.
- **Gain**: the metric of F minus that of B on test. It is the one comparison that the verdict starts from.
- **Control**: F's architecture, trained and tested with every modality but B's blanked. A gain that the control has
  too comes from the architecture, not from the other modality.
- **Additive part** of F (EMAP, Hessel and Lee 2020): its projection on sums of one score per modality. What F gains
  over it is interaction.
- **Verdict**, the first that matches, with a margin of {margin}. *Not worth it*: the interval of the gain ends
  below the margin, or that of the gain over the control ends at or below 0. *Worth it*: both lie above 0; then
  *interacting* where the gain over the additive part lies above 0, *additive* where it lies inside ± the margin,
  else *kind unknown*. *Undecided*: anything else.
- **Intervals** are 95%, from a bootstrap over groups of near-duplicates{drawn}; those of differences are paired:
  both models are measured on the same resamples.
- **Validation chooses, test is read once**: settings, epochs, temperatures, B and F are chosen on validation data.
- **Seeds**: heads and fusions are fitted with {seeds} and their probabilities averaged; *± seeds* is the standard
  deviation of the single seeds' test metric. Encoders are fitted once.
"""

READING = """\
## How to read the tables

- *NLL*, *Brier* and *ECE* (top label, debiased) are of probabilities calibrated by one temperature from validation
  data; lower is better. ECE under 2,000 rows is mostly chance.
- *Parameters* is all it takes to score one row, encoders included; *trained* are those of them that learned; *own*
  is what a fusion adds on top of the experts. *Seconds* are those of fitting on cached features, or of the whole
  expert where the line is one.
- *Shapley*: a modality's share of what F achieves above chance, from F with parts blanked. *Cooperation*: what the
  modalities achieve together beyond the sum of each alone; below 0 they repeat each other.
- *Conditional utilisation* (Wu 2022): the share of F's performance that is lost without the modality. *Perceptual
  score* (Gat 2021): the share of its accuracy that is lost when the modality is taken from another row.
- *Confounder pairs*: two rows that share a modality's value and differ in label; the share of pairs with both
  right. A model that reads only the shared modality gets none.
- *Information in bits* (BROJA, estimated from what the models predict): *redundant* is known to both modalities,
  *unique* to one, *synergy* only to both together.
- *Absent*: the part is blanked and F is told so; *mean*: replaced by the mean features; *zeros*: by zeros;
  *permuted*: taken from another row; *dropped, area*: the mean over all shares of rows that lack the part.
- A modality *weakened in training* is compared with the expert of the other one, which was not: *adapts*,
  *collapses* and *over-relies* are defined at the end of [postmortem.md](postmortem.md); – shows none of these.
"""


def _overview(sets: Sequence[Results]) -> list[str]:
    known = any(rules.as_expected(s) is not None for s in sets)
    rows = []
    for i, s in enumerate(sets, 1):
        expected = (s.get("about") or {}).get("expected")
        rows.append(
            [
                f"{i}. {title_of(s)}",
                prose(" + ".join(s["modalities"])),
                f"**{rules.verdict_of(s)}**",
                f"{sum(s['rows'].values()):,}",
                f"{code(s['best_baseline'])} {found(tested(s, s['best_baseline']))}",
                f"{code(s['best_fusion'])} {found(tested(s, s['best_fusion']))}",
                *(change(s[k]) for k in ("gain", "over_control", "over_additive")),
                *([prose(expected) if expected else ""] if known else []),
            ]
        )
    head = ["set", "modalities", "verdict", "rows", "B, test", "F, test", "gain", "over control", "over additive part"]
    return ["## Overview", "", *table([*head, *(["known answer"] if known else [])], rows, texts=3)]


def _set(number: int, results: Results, folder: str, drawn: Mapping[str, str]) -> list[str]:
    def figure(name: str, caption: str) -> list[str]:
        file = f"{name}.svg"
        return [f"![{caption}]({folder}/{results['name']}/{file})", "", f"*{caption}.*", ""] if file in drawn else []

    return [
        f"## {number}. {title_of(results)}",
        "",
        *_about(results),
        *parts.pipelines(results),
        *parts.baselines(results),
        *parts.fusions(results, figure),
        *dissected.dominance(results),
        *dissected.ablation(results, figure),
        *dissected.imbalance(results),
        *dissected.stability(results, figure),
        *parts.joint(results),
        *parts.verdict(results),
        *_findings(results),
    ]


def _about(results: Results) -> list[str]:
    """Rows and classes, and what was thought of the modalities before the results."""
    about, rows, classes = results.get("about") or {}, results["rows"], results["classes"]
    split = listing([f"{n:,} {name}" for name, n in rows.items()])
    shares = {c: n / rows["test"] for c, n in classes["test"].items()}
    if len(shares) == 2:
        balance = listing([f"{percent(share)} {code(c)}" for c, share in shares.items()])
    else:
        balance = f"{len(shares)} classes, from {percent(min(shares.values()))} to {percent(max(shares.values()))}"
    lines = [
        f"Label *{prose(results.get('label') or 'label')}* ({balance} in test), judged by {metric_name(results)}. "
        f"Rows: {split}.",
        "",
    ]
    contributes, hypothesis = about.get("contributes") or {}, about.get("hypothesis")
    if contributes or hypothesis:
        lines += ["**Before the results.**", ""]
        lines += [f"- {prose(m)}: {prose(sentence)}" for m, sentence in contributes.items()]
        lines += [f"- Why fusion might help: {prose(hypothesis)}"] if hypothesis else []
        lines += [f"- Known answer: {prose(about['expected'])}."] if about.get("expected") else []
        lines.append("")
    return lines


def _findings(results: Results) -> list[str]:
    """What the rows cannot tell, those of all parts, each once; and what was not run."""
    told = list(results.get("findings") or [])
    told += (results.get("ablation") or {}).get("findings") or []
    for part in _nested(results.get("corruption")):
        told += part.get("findings") or []
    for how in dissected.LEVELS:
        for part in _nested((results.get("imbalance") or {}).get(how)):
            told += part.get("findings") or []
    reasons = {key: next((f for f in told if f.startswith(f"{key}: ")), None) for key in PARTS}
    left = [key for key in PARTS if not results.get(key)]
    lines = []
    if plain := [PARTS[key] for key in left if reasons[key] is None]:
        lines.append(f"- Not run for this set: {listing(plain)}.")
    lines += [
        f"- Not run for this set: {PARTS[key]} ({prose(str(reasons[key]).partition(': ')[2])})."
        for key in left
        if reasons[key] is not None
    ]
    rest = [f for f in dict.fromkeys(told) if f not in [reasons[key] for key in left]]
    lines += [f"- {prose(f[:1].upper() + f[1:].rstrip('.'))}." for f in rest]
    if took := results.get("seconds_lab"):
        spent = [f"{prose(part.replace('_', ' '))} {seconds(s)}" for part, s in took.items() if s is not None]
        lines.append(f"- Seconds that the lab took here: {listing(spent)}.")
    return ["### Limits and cost of this experiment", "", *lines, ""] if lines else []


def _nested(found: Any) -> list[Mapping[str, Any]]:
    return [part for part in (found or {}).values() if part]
