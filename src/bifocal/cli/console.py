"""What the command line shows: progress while a run works, and its results as tables or JSON."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..contracts import Reporter
from ..report import markdown as words
from ..workspace import Workspace, read_json

if TYPE_CHECKING:
    from ..system.decision import Decision
    from ..system.explain import Explanation

IN_SAMPLE = {
    True: "tuned and evaluated on train; these figures say nothing about new posts",
    False: "temperatures and thresholds were tuned on train; only what is uncalibrated is free of that",
}
SHOWN = 30
"""Classes, formats or languages that are named before the rest is counted."""
STRONGEST = 5
"""Pieces of a part that an explanation names."""
HEADLINE = {
    "auroc": "AUROC",
    "macro_f1": "F1",
    "accuracy": "acc",
    "brier": "Brier",
    "ece_top_label": "ECE",
    "nll": "NLL",
}
"""Metrics shown on the screen, with names short enough for 80 columns."""


def plain(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that shows texts and paths as they are: a post may hold what looks like markup or an emoji code."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


class ConsoleReporter(Reporter):
    """Draws steps, a progress bar and epochs on stderr, so that stdout holds the result alone."""

    def __init__(self, silent: bool):
        self.silent = silent
        self.console = plain(stderr=True, quiet=silent)
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=silent or not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.name = ""
        self.begun = (0, 0.0)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, name: str, skipped: bool) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task, self.name = None, name
        self.console.print(name, "  done before, skipped" if skipped else "", style="dim" if skipped else "bold")

    def progress(self, done: int, total: int | None = None) -> None:
        now = perf_counter()
        if self.task is None:
            self.task = self.bar.add_task(self.name, total=total, rate="")
            self.begun = (done, now)
        elif done < self.begun[0]:  # another pass within the step
            self.begun = (done, now)
        rate = (done - self.begun[0]) / max(now - self.begun[1], 1e-9)
        self.bar.update(self.task, completed=done, total=total, rate=f"{rate:.1f}/s" if done > self.begun[0] else "")

    def epoch(self, model: str, figures: Mapping[str, float]) -> None:
        """One line: each figure on train and, where there is one, on val."""
        shown = []
        for name in ("loss", "accuracy", "macro_f1"):
            values = [figures[f"{split}_{name}"] for split in ("train", "val") if f"{split}_{name}" in figures]
            shown.append(f"{name} " + " / ".join(f"{value:.3f}" for value in values))
        self.console.print(f"  {model} {figures['epoch']:g}  " + "  ".join(shown))

    def note(self, text: str) -> None:
        self.console.print(f"  note: {text}", style="yellow")


def emit_json(content: Any) -> None:
    """Print JSON for machines on stdout; escaped where stdout cannot hold every sign."""
    is_ascii = not (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=is_ascii, default=str) + "\n")


def print_results(folder: Path, as_json: bool) -> None:
    """Results, thresholds and counts of a finished run, the path of what it wrote, and the next command to type."""
    space = Workspace.of(folder)
    steps = list(read_json(space.record).get("steps", {}))
    if "report" not in steps:
        if as_json:
            emit_json({"run": space.run, "folder": str(folder), "steps": steps})
        else:
            plain().print(f"finished up to {steps[-1] if steps else 'nothing'}: {folder}")
        return
    results = read_json(space.results)
    if as_json:
        emit_json({"folder": str(folder), **results})
        return
    console = plain()
    split = results["tested_on"]
    console.print(_results_table(results, split))
    for model, figures in results["models"].items():
        if "confusion" in figures[split]:
            counts = " ".join(f"{kind.upper()} {n}" for kind, n in figures[split]["confusion"].items())
            console.print(f"{model} at {figures['threshold']:.2f}: {counts}", soft_wrap=True)
    if actions := results.get("actions"):
        if "size" in actions:
            counts = (
                f"{words.number(actions['size'], 2)} classes a set, {actions['review']:,} of {actions['n']:,} to review"
            )
        else:
            counts = ", ".join(f"{action} {sum(by_class.values()):,}" for action, by_class in actions.items())
        console.print(f"{results['main']} by its review band: {counts}", soft_wrap=True)
    if results["in_sample"]:
        console.print("in-sample: " + IN_SAMPLE[split == results["tuned_on"]])
    gain = results.get("gain")
    if gain:
        low, high = (words.signed(gain[end]) for end in ("low", "high"))
        console.print(
            f"{results['main']} over {gain['over']} ({gain['metric']}, {split}): {words.signed(gain['value'])} "
            f"[{low}, {high}], detectable {words.number(gain['detectable'])}"
        )
    console.print(f"report: {space.report / 'index.html'}")
    example = read_json(space.record).get("example", {})
    command = [program(), "predict", str(folder)]
    if example.get("image"):
        command += ["--image", str(folder / example["image"])]
    if example.get("text"):
        command += ["--text", example["text"]]
    if example.get("tabular"):
        command += ["--tabular", json.dumps(example["tabular"], ensure_ascii=False)]
    if len(command) > 3:
        console.print("try it:", soft_wrap=True)
        console.print("  " + shlex.join(command), soft_wrap=True)


def program() -> str:
    """How to call this program again from here: by its name where the shell finds it, else by its path."""
    called = Path(sys.argv[0]).absolute()
    found = shutil.which("bifocal")
    if called.name != "bifocal" or (found and Path(found).absolute() == called):
        return "bifocal"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)


def _results_table(results: Mapping[str, Any], split: str) -> Table:
    """Two lines a model: uncalibrated at 0.5, then calibrated at its threshold."""
    title = f"{results['run']}: {results['label']}, {split}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("model", "at", *HEADLINE.values()):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for model, figures in results["models"].items():
        measured = figures[split]
        table.add_row(model, "0.50", *(words.number(measured["metrics"][name]["value"]) for name in HEADLINE))
        if "calibrated" in measured:
            threshold = figures["threshold"]
            table.add_row(
                "  calibrated",
                f"{threshold:.2f}" if threshold is not None else "each" if figures["class_thresholds"] else "argmax",
                *(words.number(measured["calibrated"][name]["value"]) for name in HEADLINE),
            )
    return table


def print_lab(folder: Path, as_json: bool) -> None:
    """What the lab found: a line per model, the verdict in a sentence, and what is behind it."""
    results = read_json(folder / "results.json")
    if as_json:
        emit_json({"folder": str(folder), **results})
        return
    console, metric = plain(), results["metric"]
    title = f"{results['run']}: {results['label']}, {HEADLINE[metric]} on {results['rows']['test']:,} test rows"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("model", "val", "test", "95%", "± seeds", "trained", "s"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for found in (*results["baselines"], *results["fusions"]):
        chosen = found["model"] in (results["best_baseline"], results["best_fusion"])
        test, seconds = found["test"], found["seconds"]
        table.add_row(
            found["model"] + (" *" if chosen else ""),
            words.number(found["val"][metric]),
            words.number(test[metric]["value"]),
            words.interval(test[metric]),
            words.number(found["seeds"]["test"]["std"]) if "test" in found["seeds"] else "",
            f"{found['parameters']['trained']:,}",
            "" if seconds is None else f"{seconds:.1f}",
        )
    console.print(table)
    console.print("* chosen on val", style="dim")
    console.print(results["verdict"]["sentence"], style="bold", soft_wrap=True)
    risk = results["risk"]
    lost = risk["drops"][risk["worst"]]
    console.print(f"worst without a part: {risk['worst']}, {words.signed(lost['value'])} {words.interval(lost)}")
    console.print(f"smallest gain detectable (80% power): {words.number(results['gain']['detectable'])}")
    shares = results["dominance"][metric]["shapley"]
    console.print(
        f"Shapley shares of {HEADLINE[metric]}: "
        + ", ".join(f"{m} {words.signed(s['value'])}" for m, s in shares.items())
    )
    if results["verdict"]["kind"] == "additive":
        console.print(f"smallest fusion that ties on val: {results['smallest_tie']}")
    for finding in results["findings"]:
        console.print(f"finding: {finding}", soft_wrap=True)
    console.print(f"all of it: {folder / 'results.json'}", soft_wrap=True)


def print_policy_diff(found: Mapping[str, Any], as_json: bool) -> None:
    """Settings that differ, decisions that change, and some of the posts behind them."""
    if as_json:
        emit_json(found)
        return
    console = plain()
    settings = Table("setting", f"A {found['a']}", f"B {found['b']}", box=SIMPLE_HEAD)
    for name, values in found["settings"].items():
        settings.add_row(name, *("none" if value is None else str(value) for value in values))
    console.print(settings if found["settings"] else "the policies decide alike: no setting differs")
    right = found["right"]
    console.print(
        f"{found['model']} on {found['n']:,} {words.posts(found['on'])}: {found['changed']:,} decisions change "
        f"({words.share(found['changed'], found['n'])}); labels right: {right['a']:,} in A, {right['b']:,} in B, "
        f"of {right['of']:,}"
    )
    for before, after in found["moves"].items():
        console.print("  " + "; ".join(f"{before} to {name}: {n:,}" for name, n in after.items()))
    if found["examples"]:
        examples = Table("id", "label", "A", "B", "text", box=SIMPLE_HEAD)
        for post in found["examples"]:
            sides = (f"{post[side]['probability']:.3f} {post[side]['action']}" for side in ("a", "b"))
            examples.add_row(post["id"], str(post["label"]), *sides, post["text"])
        console.print(examples)


def print_policy_set(folder: Path, change: Mapping[str, Any], as_json: bool) -> None:
    """The change; the thresholds that it leaves as they are, and the bundles that it does not reach."""
    print_counts(change if as_json else {k: v for k, v in change.items() if k not in ("others", "bundles")}, as_json)
    if as_json:
        return
    console = plain()
    for pattern, threshold in change["others"].items():
        posts = "all other posts" if pattern == "pooled" else f"posts with {pattern} only"
        console.print(
            f"unchanged: {threshold:g} for {posts}; `bifocal policy set {folder} --model {change['model']} "
            f"--pattern {pattern} …` sets it",
            soft_wrap=True,
        )
    for bundle, command in change["bundles"].items():
        console.print(f"{bundle} still decides by its own policy; this mends it: {command}", soft_wrap=True)


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
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        review = any(row["review"] for row in rows.values())
        for name in (part, "at", "flips", "95%", "AUROC", "95%", "F1", *(["review"] if review else [])):
            table.add_column(name, justify="left" if name == part else "right", no_wrap=True)
        for (attack, uncleaned), row in rows.items():
            cleaned = rows[attack, False] if uncleaned else {}
            if uncleaned and all(row[found] == cleaned[found] for found in ("reached", "flips")):
                continue
            loss = row["auroc"]["change"]
            table.add_row(
                "  not cleaned" if uncleaned else attack,
                str(row["severity"]),
                words.number(row["flips"]["value"]),
                words.interval(row["flips"]),
                words.signed(loss["value"], 2),
                "" if loss["low"] is None else f"{words.signed(loss['low'], 2)} {words.signed(loss['high'], 2)}",
                words.signed(row["macro_f1"]["change"]["value"], 2),
                *([words.signed(row["review"]["change"]["value"], 2)] if review else []),
            )
        console.print(table)
    if suite := results["functional"]:
        _print_functional(console, suite)
    for finding in results["findings"]:
        console.print(f"finding: {finding}", soft_wrap=True)
    console.print(f"every severity: {path}", soft_wrap=True)


def _print_functional(console: Console, suite: Mapping[str, Any]) -> None:
    failed = f", {suite['failed']:,} could not be decided on" if suite["failed"] else ""
    table = Table(title=f"{suite['file']}: {suite['n']:,} texts{failed}", title_justify="left", box=SIMPLE_HEAD)
    for name in ("functionality", "texts", "accuracy", "95%"):
        table.add_column(name, justify="left" if name == "functionality" else "right")
    for row in (*suite["functionalities"], {"functionality": "all", **suite}):
        accuracy = row["accuracy"]
        table.add_row(row["functionality"], f"{row['n']:,}", words.number(accuracy["value"]), words.interval(accuracy))
    console.print(table)


def print_decision(decision: Decision, as_json: bool) -> None:
    """One decision: the answer first, then each model's opinion."""
    content = decision.to_dict()
    if as_json:
        emit_json(content)
        return
    console = plain()
    console.print(str(decision.action or decision.label), style="bold")
    console.print(decision.why)
    if decision.truncated:
        console.print("not all of the post's words were read: it has more of them than the text expert takes")
    table = Table()
    for column in ("model", "probability", "label"):
        table.add_column(column)
    for model, opinion in decision.models.items():
        table.add_row(model, f"{opinion.probability:.3f}", str(opinion.label))
    console.print(table)
    console.print(f"text used: {decision.text_used or '(none)'}  language: {decision.language}")


def print_drift(found: Mapping[str, Any], as_json: bool) -> None:
    """A line per property, the estimates with what they take for granted, and the findings."""
    if as_json:
        emit_json(found)
        return
    console, new, reference = plain(), found["new"], found["reference"]
    console.print(
        f"{found['run']}: {new['compared']:,} new posts against {reference['compared']:,} of {reference['split']}; "
        f"an alarm is a PSI of {found['rule']['psi']:g} beyond chance with p at most {found['rule']['alpha']:g}",
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("", "PSI", "by chance", "p (Holm)", "state"):
        table.add_column(name, justify="left" if name in ("", "state") else "right", no_wrap=True)
    for name, entry in found["compared"].items():
        p = "n/a" if entry["p_holm"] is None else f"{entry['p_holm']:.2g}"
        loud = "bold" if entry["state"] == "alarm" else None
        table.add_row(
            name, words.number(entry["psi"]), words.number(entry["psi_by_chance"]), p, entry["state"], style=loud
        )
    console.print(table)
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


def print_explanation(explanation: Explanation, written: Mapping[str, Path], as_json: bool) -> None:
    """The decision, the shares of its parts, the strongest pieces of each, and the files written."""
    if as_json:
        emit_json({**explanation.to_dict(), "files": {name: str(path) for name, path in written.items()}})
        return
    print_decision(explanation.decision, as_json)
    console = plain()
    shares = "".join(f" {share:+.2f} {name}" for name, share in explanation.contributions.items())
    console.print(
        f"log-odds of {explanation.explains}: {explanation.baseline:+.2f} baseline{shares} = {explanation.score:+.2f}",
        soft_wrap=True,
    )
    for name, pieces in explanation.pieces.items():
        strongest = ", ".join(f"{w.piece.name} {w.effect:+.2f}" for w in pieces[:STRONGEST])
        console.print(f"{name}: {strongest or 'no second piece to compare with'}", soft_wrap=True)
    for path in written.values():
        console.print(f"written: {path}", soft_wrap=True)


def print_counts(content: Mapping[str, Any], as_json: bool) -> None:
    """Any flat result, a line each."""
    if as_json:
        emit_json(content)
        return
    console = plain()
    width = max(map(len, content), default=0)
    for key, value in content.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        console.print(f"{key:<{width}}  {value}", soft_wrap=True)


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
    losses = ", ".join(f"{who} {value:.4f}" for who, value in report["nll"].items() if value is not None)
    console.print(f"NLL: {losses or 'no labels'}; {took['run'] / took['engine']:.2f} times as fast", soft_wrap=True)


def print_inspection(found: Mapping[str, Any], as_json: bool) -> None:
    """What a source holds, a line or a table per question."""
    if as_json:
        emit_json(found)
        return
    console = plain()
    console.print(f"{found['rows']:,} rows: {found['usable']:,} usable, {found['quarantined']:,} to be quarantined")
    lines = {
        "official splits": _counts(found["splits"]),
        "parts": _counts(found["parts"]),
        "languages": _counts(found["languages"]),
        "words": _spread(found["words"]),
    }
    if pictures := found["pictures"]:
        lines["width"], lines["height"] = _spread(pictures["width"]), _spread(pictures["height"])
        lines["formats"] = _counts(pictures["formats"])
        lines["animated"] = f"{pictures['animated']:,} (only the first frame is read)"
    for name, counted in found["labels"].items():
        number = counted.get("number")
        lines[f"label {name}"] = (
            f"{_spread(number)}; 1 = above {counted['above']}; not annotated {counted['not annotated']:,}"
            if number
            else _counts(counted)
        )
    duplicates = found["duplicates"]
    leaking = f"; leaking from earlier splits: {_counts(duplicates['leaking'])}" if duplicates["leaking"] else ""
    lines["duplicates"] = f"{duplicates['near']:,} rows have a near-duplicate{leaking}"
    lines["groups"] = (
        f"{duplicates['groups']:,}; {duplicates['rows_in_shared_groups']:,} rows share theirs, the largest has "
        f"{duplicates['largest_group']:,}"
    )
    width = max(map(len, lines))
    for key, line in lines.items():
        console.print(f"{key:<{width}}  {line or 'none'}", soft_wrap=True)
    if found["columns"]:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in ("column", "numbers", "texts", "missing", "distinct"):
            table.add_column(column, justify="left" if column == "column" else "right")
        for name, cells in found["columns"].items():
            cells_of = [cells.get("number", 0), cells.get("text", 0), cells["missing"], cells["distinct"]]
            table.add_row(name, *(f"{n:,}" if isinstance(n, int) else n for n in cells_of))
        console.print(table)
        for read in found["records"].values():
            console.print(read["told"], soft_wrap=True)
    for text in found["notes"]:
        console.print(f"note: {text}", soft_wrap=True)
    for reason, n in found["reasons"].items():
        console.print(f"quarantine: {n:,} x {reason}", soft_wrap=True)
    for row in found["quarantine"]:
        console.print(f"  {row['where']}, id {row['id']!r}: {row['reason']}", soft_wrap=True)


def _counts(counted: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {n:,}" for name, n in islice(counted.items(), SHOWN))
    return f"{shown}, … {len(counted) - SHOWN} more" if len(counted) > SHOWN else shown


def _spread(quantiles: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,g}" for name, value in quantiles.items())


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    """What a run would do and cost."""
    if as_json:
        emit_json(plan)
        return
    console = plain()
    console.print(f"{plan['run']} -> {plan['folder']}", style="bold")
    console.print("steps: " + ", ".join(f"{name} ({state})" for name, state in plan["steps"].items()))
    console.print(f"rows: {plan['rows']['n']} ({plan['rows']['from']})")
    machine = plan["machine"]
    console.print(f"per expert, at {machine['gflops']:.0f} GFLOP/s measured here now ({machine['device']}):")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("expert", "model", "parameters", "GFLOP/example", "training", "Evidence", "memory"):
        table.add_column(column, justify="left" if column in ("expert", "model") else "right")
    for name, expert in plan["experts"].items():
        table.add_row(
            name,
            Path(expert["model"]).name,
            f"{expert['parameters'] / 1e6:.1f} M",
            f"{expert['gflop_per_example']:.2f}",
            _duration(expert["train_hours"]),
            _duration(expert["evidence_hours"]),
            f"{expert['memory_gib']:.2f} GiB",
        )
    console.print(table)
    console.print("memory: weights, gradients and optimizer; activations come on top")
    for note in plan["notes"]:
        console.print(f"note: {note}")
