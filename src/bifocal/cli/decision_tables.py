"""What the command line shows of decisions: one and its reasons, drift, attacks, engines and policies compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modalities import TEXT
from ..report import words
from ..report.tables import Table
from ..workspace import read_json
from .console import drawn, emit_json, plain, print_counts

if TYPE_CHECKING:
    from ..deploy.anchors import AnchorResult
    from ..system.decision import Decision, LabelDecision
    from ..system.explain import Explanation

STRONGEST = 5
"""Pieces of a part that an explanation names."""


def print_decision(decision: Decision, as_json: bool) -> None:
    """One decision: the answer first, then each model's opinion."""
    content = decision.to_dict()
    if as_json:
        emit_json(content)
        return
    console = plain()
    console.print(str(decision.action or decision.label), style="bold")
    console.print(decision.why)
    for label, answer in decision.labels.items():
        if answer is None:
            console.print(f"{label}: not asked, as the label that it requires is not flagged")
        elif label != next(iter(decision.labels)):
            console.print(f"{label}: {_answer(answer)}", soft_wrap=True)
    if decision.truncated:
        console.print("not all of the post's words were read: it has more of them than the text expert takes")
    rows = [[model, f"{opinion.probability:.3f}", str(opinion.label)] for model, opinion in decision.models.items()]
    console.print(drawn(Table(["model", "probability", "label"], rows)))
    console.print(f"text used: {decision.text_used or '(none)'}  language: {decision.language}")


def _answer(answer: LabelDecision) -> str:
    """The answer by a further label, in a line."""
    line = "the likeliest class" if answer.threshold is None else f"threshold {answer.threshold:.2f}"
    return f"{answer.action or 'no action'}, {answer.label} with {answer.probability:.3f} ({line})"


def print_explanation(explanation: Explanation, written: Mapping[str, Path], as_json: bool) -> None:
    """The decision, the shares of its parts, the strongest pieces of each, and the files written."""
    if as_json:
        emit_json({**explanation.to_dict(), "files": {name: str(path) for name, path in written.items()}})
        return
    print_decision(explanation.decision, as_json)
    console = plain()
    shares = "".join(f" {share:+.2f} {name}" for name, share in explanation.contributions.items())
    explains = f"{explanation.label} {explanation.explains}" if explanation.label else explanation.explains
    console.print(
        f"log-odds of {explains}: {explanation.baseline:+.2f} baseline{shares} = {explanation.score:+.2f}",
        soft_wrap=True,
    )
    for name, pieces in explanation.pieces.items():
        strongest = ", ".join(f"{w.piece.name} {w.effect:+.2f}" for w in pieces[:STRONGEST])
        console.print(f"{name}: {strongest or 'no second piece to compare with'}", soft_wrap=True)
    for name, windows in explanation.windows.items():
        decided = explanation.deciding_window(name)
        console.print(
            f"{name}: read in {len(windows)} windows, of which number {windows.index(decided) + 1} (characters "
            f"{decided.place[0]} to {decided.place[1]}) speaks most for it: {decided.score:+.2f} alone",
            soft_wrap=True,
        )
    for path in written.values():
        console.print(f"written: {path}", soft_wrap=True)


def print_drift(found: Mapping[str, Any], as_json: bool) -> None:
    """A line per property, the estimates with what they take for granted, and the findings."""
    if as_json:
        emit_json(found)
        return
    console, new, reference = plain(), found["new"], found["reference"]
    console.print(
        f"{found['run']}: {new['compared']:,} new posts against {reference['compared']:,} of {reference['split']}; "
        f"an alarm is a PSI of {found['rule']['psi']:g} beyond chance with p at most "
        f"{found['rule'].get('alpha_of_each', found['rule']['alpha']):.3g}",
        soft_wrap=True,
    )
    compared = dict(found["compared"])
    for label, of in found.get("labels", {}).items():
        compared |= {f"{label}: {name}": entry for name, entry in of.get("compared", {}).items()}
    rows = [
        [
            name,
            words.number(entry["psi"]),
            words.number(entry["psi_by_chance"]),
            "n/a" if entry["p_holm"] is None else f"{entry['p_holm']:.2g}",
            entry["state"].upper() if entry["state"] == "alarm" else entry["state"],
        ]
        for name, entry in compared.items()
    ]
    console.print(drawn(Table(["property", "PSI", "by chance", "p (Holm)", "state"], rows)))
    for name, share in (found["estimated_base_rate"] or {}).items():
        if name != "0" or len(found["estimated_base_rate"]) > 2:
            was = words.number(share["reference"])
            console.print(
                f"base rate of {name}, estimated: {words.number(share['value'])} {words.interval(share)}, was {was}"
            )
    for name, figure in (found["estimated_accuracy"] or {}).items():
        if name == "reference":
            console.print(f"accuracy on {reference['split']}: {words.number(figure['value'])} {words.interval(figure)}")
        else:
            estimated = f"{words.number(figure['value'])} {words.interval(figure)}"
            console.print(f"  on the new posts, estimated: {estimated} if {figure['assumes']}", soft_wrap=True)
    for finding in found["findings"]:
        console.print(f"finding: {finding}", soft_wrap=True)
    console.print(f"all of it: {found['output']}", soft_wrap=True)


def print_robustness(path: Path, as_json: bool) -> None:
    """A line per attack at its strongest, and where that differs what it does to words that are not cleaned.

    ``flips`` is the share of decisions turned over, the other columns are changes.
    """
    results = read_json(path)
    if as_json:
        emit_json({"file": str(path), **results})
        return
    console = plain()
    title = f"{results['run']}: {results['model']} on {results['rows']:,} of {results['of']:,} {results['split']} posts"
    console.print(title)
    strongest: dict[str, dict[tuple[str, bool], dict[str, Any]]] = {}
    for row in results["attacks"]:
        strongest.setdefault(row["modality"], {})[row["attack"], row["normaliser"] is False] = row
    for part, rows in strongest.items():
        console.print(drawn(_attacks(part, rows)))
    if suite := results["functional"]:
        console.print(drawn(_functional(suite)))
    for finding in results["findings"]:
        console.print(f"finding: {finding}", soft_wrap=True)
    console.print(f"every severity: {path}", soft_wrap=True)


def _attacks(part: str, found: Mapping[tuple[str, bool], Mapping[str, Any]]) -> Table:
    """A row per attack on a part, and one more where it does something else to words that are not cleaned."""
    review = any(row["review"] for row in found.values())
    rows = []
    for (attack, uncleaned), row in found.items():
        cleaned = found[attack, False] if uncleaned else {}
        if uncleaned and all(row[name] == cleaned[name] for name in ("reached", "flips")):
            continue
        loss = row["auroc"]["change"]
        ends = "" if loss["low"] is None else f"{words.signed(loss['low'], 2)} {words.signed(loss['high'], 2)}"
        rows.append(
            [
                "  not cleaned" if uncleaned else attack,
                str(row["severity"]),
                words.number(row["flips"]["value"]),
                words.interval(row["flips"]),
                words.signed(loss["value"], 2),
                ends,
                words.signed(row["macro_f1"]["change"]["value"], 2),
                *([words.signed(row["review"]["change"]["value"], 2)] if review else []),
            ]
        )
    head = [part, "severity", "flips", "95%", "AUROC", "95%", "macro-F1"]
    return Table([*head, *(["review"] if review else [])], rows)


def _functional(suite: Mapping[str, Any]) -> Table:
    failed = f", {suite['failed']:,} could not be decided on" if suite["failed"] else ""
    rows = [
        [row["functionality"], row["n"], words.number(row["accuracy"]["value"]), words.interval(row["accuracy"])]
        for row in (*suite["functionalities"], {"functionality": "all", **suite})
    ]
    title = f"{suite['file']}: {suite['n']:,} texts{failed}"
    return Table(["functionality", "texts", "accuracy", "95% interval"], rows, title=title)


def print_export(report: Mapping[str, Any], as_json: bool) -> None:
    """Where the bundle lies, and how far its engine decides as the run does."""
    if as_json:
        emit_json(report)
        return
    console, flips, took = plain(), report["flips"], report["seconds_per_post"]
    console.print(f"{report['engine']} of {report['run']} lies in {report['bundle']}", soft_wrap=True)
    console.print(
        f"decisions that flip: {flips['count']} of {report['n']} {report['split']} posts, {flips['rate']:.2%} "
        f"[{flips['low']:.2%}, {flips['high']:.2%}]; largest difference of a probability {report['largest']:.4f}",
        soft_wrap=True,
    )
    for label, of in report.get("labels", {}).items():
        console.print(f"{label}: {of['flips']['count']} of {of['n']} flip; largest difference {of['largest']:.4f}")
    losses = ", ".join(f"{who} {value:.4f}" for who, value in report["nll"].items() if value is not None)
    console.print(f"NLL: {losses or 'no labels'}; {took['run'] / took['engine']:.2f} times as fast", soft_wrap=True)


def print_policy_diff(found: Mapping[str, Any], as_json: bool) -> None:
    """Settings that differ, decisions that change, and some of the posts behind them."""
    if as_json:
        emit_json(found)
        return
    console = plain()
    settings = [
        [name, *("none" if value is None else str(value) for value in values)]
        for name, values in found["settings"].items()
    ]
    head = ["setting", f"A {found['a']}", f"B {found['b']}"]
    same = "the policies decide alike: no setting differs"
    console.print(drawn(Table(head, settings, texts=3)) if settings else same)
    if others := found.get("others"):
        console.print(f"other labels whose policies differ: {', '.join(others)} (--label NAME)", soft_wrap=True)
    right, of = found["right"], f"{found['label']}: " if "label" in found else ""
    console.print(
        f"{of}{found['model']} on {found['n']:,} {words.posts(found['on'])}: {found['changed']:,} decisions change "
        f"({words.share(found['changed'], found['n'])}); labels right: {right['a']:,} in A, {right['b']:,} in B, "
        f"of {right['of']:,}"
    )
    for before, after in found["moves"].items():
        console.print("  " + "; ".join(f"{before} to {name}: {n:,}" for name, n in after.items()))
    if found["examples"]:
        examples = []
        for post in found["examples"]:
            sides = (f"{post[side]['probability']:.3f} {post[side]['action']}" for side in ("a", "b"))
            examples.append([post["id"], str(post["label"]), *sides, post[TEXT]])
        console.print(drawn(Table(["id", "label", "A", "B", TEXT], examples, texts=5)))


def print_anchor(found: AnchorResult, as_json: bool) -> None:
    """What every threshold was set to, and how near it comes."""
    if as_json:
        emit_json(found)
        return
    console = plain()
    console.print(f"{found['label']} on {found['on']:,} posts, {found['keep']} as of {found['to']}", soft_wrap=True)
    for why, n in found["left_out"].items():
        console.print(f"  left out {n:,}: {why}", soft_wrap=True)
    rows = []
    for one in found["thresholds"]:
        band = "none" if one["band"] is None else f"{one['band'][0]:.2f} to {one['band'][1]:.2f}"
        told = f"{one['wanted']:.1%}", f"{one['reached']:.1%}", one["tied"]
        rows.append([one["pattern"], one["posts"], f"{one['before']:.2f}", f"{one['after']:.3f}", *told, band])
    head = ["posts", "n", "was", "now", "wanted", "reached", "tied", "band"]
    console.print(drawn(Table(head, rows)))
    if found["figures"]:
        figures = [
            [words.FIGURES.get(name, name), f"{of['old']['value']:.3f}", f"{of['new']['value']:.3f}",
             f"{words.signed(of['difference']['value'])} {words.interval(of['difference'])}"]
            for name, of in found["figures"].items()
        ]  # fmt: skip
        console.print(drawn(Table(["figure", "old", "new", "new less old (95%)"], figures)))
    for note in found["notes"]:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    for folder, mend in found["bundles"].items():
        console.print(f"{folder} still decides as before: {mend}", soft_wrap=True)
    console.print(f"policy {found['policy']}")


def print_policy(found: Mapping[str, Any], as_json: bool) -> None:
    """A row per label, model and pattern, and what each label may do."""
    if as_json:
        emit_json(found)
        return
    console = plain()
    console.print(f"policy {found['policy']}")
    rows = []
    for label, of in found["labels"].items():
        asked = f", asked where {of['requires']} is flagged" if of["requires"] else ""
        console.print(f"{label}: act {of['act']}{asked}; {of['by_hand']} changes by hand")
        for model, patterns in of["models"].items():
            rows += [[label, model, pattern, "likeliest" if t is None else f"{t:g}"] for pattern, t in patterns.items()]
    console.print(drawn(Table(["label", "model", "posts", "threshold"], rows, texts=3)))


def print_policy_set(folder: Path, change: Mapping[str, Any], as_json: bool) -> None:
    """The change; the thresholds that it leaves as they are, and the bundles that it does not reach."""
    told = {"others", "bundles"} | ({"model", "pattern", "before", "after"} if "review" in change else set())
    print_counts(change if as_json else {k: v for k, v in change.items() if k not in told}, as_json)
    if as_json:
        return
    console = plain()
    label = f"--label {change['label']} " if "label" in change else ""
    for pattern, threshold in change["others"].items():
        posts = "all other posts" if pattern == "pooled" else f"posts with {pattern} only"
        console.print(
            f"unchanged: {threshold:g} for {posts}; `bifocal policy set {folder} {label}--model {change['model']} "
            f"--pattern {pattern} …` sets it",
            soft_wrap=True,
        )
    for bundle, command in change["bundles"].items():
        console.print(f"{bundle} still decides by its own policy; this mends it: {command}", soft_wrap=True)
