"""What `experiments.md` says of one set, part by part: lines of Markdown, none where a part was not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...report.markdown import METRICS
from ..verdict import MARGIN
from . import rules
from .tables import (
    UNKNOWN,
    Results,
    change,
    code,
    compact,
    counted,
    found,
    listing,
    metric_name,
    number,
    prose,
    row_of,
    seconds,
    table,
    tested,
)


def pipelines(results: Results) -> list[str]:
    """How each modality becomes features, and what a linear probe finds in them."""
    experts, settings = results.get("experts") or {}, results.get("settings") or {}
    if not experts:
        return []
    rows = []
    for name, e in experts.items():
        counts = e.get("parameters") or {}
        how = ", ".join(prose(x) for x in (e.get("tune"), e.get("pooling") and f"{e['pooling']} pooling") if x)
        made = " ".join(prose(x) for x in (e.get("encoder"), e.get("base_model") and f"({e['base_model']})") if x)
        cost = [compact(counts.get("total")), compact(counts.get("trained")), seconds(e.get("seconds"))]
        rows.append([prose(name), made, how, f"{e['columns']:,}" if e.get("columns") else UNKNOWN, *cost])
    head = ["modality", "encoder", "tuned", "features", "parameters", "trained", "seconds"]
    lines = ["### Pipelines", "", *table(head, rows, texts=3)]
    if width := settings.get("columns"):
        wide = [prose(m) for m, e in experts.items() if (e.get("columns") or 0) > width]
        if wide:
            lines += [
                f"The features of {listing(wide)} are wider than {width:,} columns: they are standardised and reduced "
                f"to that number by a PCA fitted on train, without whitening.",
                "",
            ]
    if grid := settings.get("grid"):
        said = [
            f"{prose(k.replace('_', ' ').removesuffix('s'))} {listing([f'{v:g}' for v in vs], 'or')}"
            for k, vs in grid.items()
            if vs
        ]
        dropout = settings.get("modality_dropout")
        drop = f" In training a part is blanked with probability {dropout:g} (modality dropout)." if dropout else ""
        lines += [f"The grid of every head and fusion that has these settings: {'; '.join(said)}.{drop}", ""]
    return lines + probes(results)


def probes(results: Results) -> list[str]:
    found_by = results.get("probes") or {}
    if not found_by:
        return []
    names = results["modalities"]
    rows = [
        [prose(label), *(found((of.get(m) or {}).get("accuracy")) for m in names)] for label, of in found_by.items()
    ]
    return [
        "Accuracy of linear probes: what the features of a modality tell of the hidden cues that make the label.",
        "",
        *table(["cue", *(f"from {prose(m)}" for m in names)], rows),
    ]


def _models(rows: Sequence[Mapping[str, Any]], results: Results, *, own: bool) -> list[str]:
    metric, experts = results["metric"], results.get("experts") or {}
    bold = {results["best_baseline"], results["best_fusion"]}
    lines = []
    for r in rows:
        name = f"**{prose(r['model'])}**" if r["model"] in bold else prose(r["model"])
        fitted = r["seconds"]
        if r["kind"] == "expert" and fitted is None:
            fitted = (experts.get(r["reads"][0]) or {}).get("seconds")
        counts = r["parameters"]
        cost = [compact(counts["own"])] if own else [compact(counts["total"]), compact(counts["trained"])]
        lines.append(
            [
                name if r["model"] != results["smallest_tie"] else f"{name} †",
                number(r["val"].get(metric)),
                found(r["test"].get(metric)),
                *(number((r["test"].get(m) or {}).get("value")) for m in ("nll", "brier", "ece_top_label_debiased")),
                *cost,
                seconds(fitted),
                number(std) if (std := (r["seeds"].get("test") or {}).get("std")) is not None else "",
            ]
        )
    cost_head = ["own parameters"] if own else ["parameters", "trained"]
    return table(
        ["model", "val", f"test {metric_name(results)}", "NLL", "Brier", "ECE", *cost_head, "seconds", "± seeds"], lines
    )


def baselines(results: Results) -> list[str]:
    """One modality at a time, and which of them is the stronger."""
    over = results["best_baseline"]
    lines = ["### One modality at a time", "", *_models(results["baselines"], results, own=False)]
    ours = rules.stronger(results)
    said = [
        f"B is {code(over)}, with {found(tested(results, over))} on test, so {prose(ours)} is the stronger modality on "
        "validation data."
    ]
    for other in results["modalities"]:
        if other != ours:
            model = results["best_of_modality"][other]
            paired = (results.get("over_others") or {}).get(other)
            by = f" (B's lead: {change(paired)})" if paired else ""
            lead = LEADS[rules.lead(results, other)].format(ours=prose(ours), other=prose(other))
            figure = found(tested(results, model))
            said.append(f"The best model of {prose(other)} there, {code(model)}, has {figure} on test{by}: {lead}.")
    return [*lines, " ".join(said), *_autogluon(results), ""]


LEADS = {
    "clearly dominant": f"{{ours}} is clearly dominant, by more than the margin of {MARGIN:g}",
    "ahead": "{ours} is ahead, though not surely by more than the margin",
    "level": "the rows do not tell the two apart",
    "behind": "here {other} is ahead, although validation data said otherwise",
    "unknown": "their order on test is not known",
}


def _autogluon(results: Results) -> list[str]:
    other = results.get("autogluon")
    if not other or not (figure := other.get(results["metric"])):
        return []
    ours = tested(results, results["best_fusion"])
    if figure.get("value") is None or ours.get("value") is None:
        return []
    ends = [ours.get("low"), ours.get("high"), figure.get("low"), figure.get("high")]
    apart = "" if None in ends else ("; the intervals overlap" if ends[0] <= ends[3] and ends[2] <= ends[1] else "")
    ahead = round(ours["value"], 3) - round(figure["value"], 3)
    word = "level with it" if abs(ahead) < 5e-4 else "ahead of it" if ahead > 0 else "behind it"
    time = f", fitted in {seconds(other['seconds'])} seconds" if other.get("seconds") is not None else ""
    return [
        "",
        f"What a user might take instead, AutoGluon's tabular predictor (version {prose(other.get('version') or '?')}"
        f"{time} on the same split), reaches {found(figure)}. F is {word} with {found(ours)}{apart}.",
    ]


def fusions(results: Results, figure: Callable[[str, str], list[str]]) -> list[str]:
    """All of them, sorted by val."""
    metric = results["metric"]
    rows = sorted(results["fusions"], key=lambda r: -(-1 if r["val"].get(metric) is None else r["val"][metric]))
    tie, best = results["smallest_tie"], results["best_fusion"]
    if tie == best:
        smallest = "No smaller fusion ties with it on validation data."
    else:
        smallest = f"{code(tie)} (†) is the smallest fusion that ties with it on validation data."
    return [
        "### Fusions",
        "",
        *_models(rows, results, own=True),
        f"Sorted by validation data; F, in bold, is {code(best)}. {smallest} The test figures of the others are "
        "description, not tests.",
        "",
        *figure("fusions", "Every fusion on test with its 95% interval; F is blue, the dashed line is B"),
    ]


def joint(results: Results) -> list[str]:
    """Fusions trained together with their encoders."""
    measured = results.get("joint")
    if not measured or not measured.get("trials"):
        return []
    metric = results["metric"]
    rows = [
        [
            prose(t["model"]),
            number((t.get("val") or {}).get(metric)),
            found((t.get("test") or {}).get(metric)),
            change(t.get("gain")),
            compact((t.get("parameters") or {}).get("trained")),
            seconds(t.get("seconds")),
        ]
        for t in measured["trials"]
    ]
    head = ["model", "val", f"test {metric_name(results)}", "over the same rows' F", "trained", "seconds"]
    signs = Counter(rules.sign(t.get("gain")) for t in measured["trials"])
    return [
        "### Joint training",
        "",
        f"The encoders learn along, on {counted(measured['rows']['train'], 'training row')}, beside F fitted anew on",
        f"the cached features of the same rows. Over that F {signs[1]} of {counted(len(rows), 'trial')} gained and",
        f"{signs[-1]} lost.",
        "",
        *table(head, rows),
    ]


def verdict(results: Results) -> list[str]:
    """The verdict with its reason, price and risk."""
    expected, right = (results.get("about") or {}).get("expected"), rules.as_expected(results)
    word, over, best = rules.verdict_of(results), results["best_baseline"], results["best_fusion"]
    lines = [
        "### Verdict",
        "",
        f"**{word[:1].upper()}{word[1:]}.** {code(best)} over {code(over)} ({metric_name(results)}, "
        f"{results['gain']['n']:,} test rows): {prose(results['verdict']['reason'])}.",
    ]
    if expected is not None:
        lines[-1] += f" The known answer is *{prose(expected)}*: {'met' if right else 'not met'}."
    gain = results["gain"]
    if gain.get("detectable") is not None:
        lines[-1] += f" A gain of {number(gain['detectable'])} or more had an 80% chance of showing on these rows."
    return [*lines, "", *_cost(results), ""]


CHANGED = {1: "worsens", 0: "no change shown", -1: "improves", None: "not known"}


def _cost(results: Results) -> list[str]:
    over, best, tie = results["best_baseline"], results["best_fusion"], results["smallest_tie"]
    lines = [f"- **Price**: {_price(results['price'])}."]
    if tie != best:
        a, b = (compact(row_of(results, m)["parameters"]["own"]) for m in (tie, best))
        lines.append(f"- **Smaller**: {code(tie)} ties on validation data with {a} parameters of its own; F has {b}.")
    moved = [f"{METRICS[m]} {change(c)} ({CHANGED[rules.sign(c)]})" for m, c in (results.get("change") or {}).items()]
    lines.append(f"- **Calibrated probabilities**, against {code(over)}, lower is better: {'; '.join(moved)}.")
    worst = next(a for a in rules.absences(results) if a.modality == results["risk"]["worst"])
    lines.append(
        f"- **Risk**: without {prose(worst.modality)} F changes by {change(worst.change)} to {number(worst.left)}; the "
        f"best single-modality model of what is left has {number(worst.alone)} ({worst.word})."
    )
    return lines


def _price(cost: Mapping[str, Any]) -> str:
    n, time = cost["parameters"], cost["seconds"]
    said = f"{compact(abs(n))} parameters {'more' if n >= 0 else 'fewer'} than B"
    if time is not None:
        said += f" and {seconds(abs(time))} seconds {'more' if time >= 0 else 'less'} to fit"
    paid = points(cost)
    return f"{said}; per point (0.01) of gain {paid}" if paid else f"{said}; there is no gain to set this against"


def points(cost: Mapping[str, Any]) -> str:
    """What a point of gain costs; empty where there is no gain. A saving is no price."""
    per = cost["per_point"]
    paid = [f"{compact(per['parameters'])} parameters"] if (per["parameters"] or 0) > 0 else []
    paid += [f"{seconds(per['seconds'])} seconds"] if (per["seconds"] or 0) > 0 else []
    return listing(paid) if paid else ""
