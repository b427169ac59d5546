"""What the command line shows of a run: what it would do, what its source holds, its results, and the lab's."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modalities import inputs
from ..plugins import outside_names
from ..report import words
from ..report.next_steps import next_steps
from ..report.tables import Table
from ..workspace import Workspace, read_json
from .console import drawn, emit_json, plain, say

if TYPE_CHECKING:
    from rich.console import Console

IN_SAMPLE = {
    True: "tuned and evaluated on train; these figures say nothing about new posts",
    False: "temperatures and thresholds were tuned on train; only what is uncalibrated is free of that",
}
SHOWN = 30
"""Classes, formats or languages that are named before the rest is counted."""
HEADLINE = {
    name: {**words.METRICS, "ece_top_label": "ECE"}[name]
    for name in ("auroc", "macro_f1", "accuracy", "brier", "ece_top_label", "nll")
}
"""Metrics shown on the screen, in 80 columns."""
END_TO_END = ("accuracy", "macro_f1")


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
    _print_label(console, results)
    for of in results.get("labels", {}).values():
        console.print()
        _print_label(console, of)
    _print_next_steps(console, space)
    console.print(f"report: {space.report / 'index.html'}", soft_wrap=True)
    example = read_json(space.record).get("example", {})
    command = [program(), "predict", str(folder)]
    known = inputs()
    for name in sorted(example.keys() - {"id"}, key=lambda name: (name not in known or not known[name].is_file, name)):
        if part := example[name]:
            told = part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
            told = str(folder / told) if name in known and known[name].is_file else told
            command += [f"--{name}", told] if name in known else ["--part", f"{name}={told}"]
    if len(command) > 3:
        for plugin in sorted(_plugins_of(space)):
            command += ["--allow-plugin", plugin.partition(":")[0]]
        console.print("try it:", soft_wrap=True)
        console.print("  " + shlex.join(command), soft_wrap=True)


def _print_next_steps(console: Console, space: Workspace) -> None:
    """What the words of the table mean, and what to do now; of several labels the first one's."""
    facts = read_json(space.report / "report.json")
    binary = facts["label"]["binary"]
    names = facts["label"].get("names", [])  # reports of an earlier version have none
    if binary and names and names != ["0", "1"]:
        negative, positive = names
        say(console, f"{facts['label']['name']}: positive (P) is {positive}, negative (N) is {negative}")
    told = [*words.terms_of_models(facts), *(["TP, FP, FN, TN"] if binary else [])]
    say(console, f"in words: {words.terms(words.METRICS[facts['headline']['metric']], *told)}")
    console.print("next:")
    for sentence in next_steps(facts, str(space.folder)):
        say(console, f"- {sentence}", "  ")


def _print_label(console: Console, results: Mapping[str, Any]) -> None:
    """The table of one label, the counts behind it, and the gains."""
    split = results["tested_on"]
    console.print(drawn(_results_table(results, split)))
    for model, figures in results["models"].items():
        if "confusion" in figures[split]:
            counts = " ".join(f"{kind.upper()} {n}" for kind, n in figures[split]["confusion"].items())
            say(console, f"{model} at {figures['threshold']:.2f}: {counts}")
    for found in results.get("rule_figures", []):
        what = "" if found["of"] == "threshold" else "share of "
        say(console, f"{results['main']}: {what}{words.rule_figure(found, split)}")
    if actions := results.get("actions"):
        if "size" in actions:
            counts = (
                f"{words.number(actions['size'], 2)} classes a set, {actions['review']:,} of {actions['n']:,} to review"
            )
        else:
            counts = ", ".join(f"{action} {sum(by_class.values()):,}" for action, by_class in actions.items())
        say(console, f"{results['main']} by its review band: {counts}")
    if results["in_sample"]:
        say(console, "in-sample: " + IN_SAMPLE[split == results["tuned_on"]])
    gain = results.get("gain")
    if gain:
        metric = f"({words.METRICS[gain['metric']]}, {split})"
        for expert, over in results.get("gains", {gain["over"]: gain}).items():
            say(console, f"gain of {results['main']} over {expert} {metric}: {_spelled(over)}")
        detectable = words.number(gain["detectable"])
        say(console, f"the least of its gains {metric}: {_spelled(gain)}, smallest detectable {detectable}")
    if results.get("class_shares", {}).get("differ"):  # results of an earlier version have none
        say(console, words.class_shares_differ(results["class_shares"]))
    if judged := results.get("end_to_end"):
        told = ", ".join(
            f"{words.METRICS[m]} {words.number(judged[m]['value'])} {words.interval(judged[m])}" for m in END_TO_END
        )
        say(
            console,
            f"the figures above are given the true parent; end to end, “not asked” being a class of its own, over "
            f"{judged['n']:,} rows: {told}",
        )


def _plugins_of(space: Workspace) -> frozenset[str]:
    """The outside plug-ins that a run's models are made of: what was only tried, or not used, need not be allowed."""
    from ..fit.fusion import CARD as FUSION
    from ..models.saved import CARD as EXPERT

    config = read_json(space.record)["config"]
    fusions = space.models.glob(f"{space.fusion.name}*/{FUSION}")
    cards = [read_json(path) for path in (*space.models.glob(f"*/{EXPERT}"), *fusions) if path.is_file()]
    made_of = [[c.get("encoder"), c.get("strategy"), c.get("state", {}).get("members")] for c in cards]
    return outside_names([config.get("modalities"), config.get("transcribe"), *made_of])


def _spelled(gain: Mapping[str, Any]) -> str:
    """A gain and its interval."""
    ends = ", ".join(words.signed(gain[end]) for end in ("low", "high"))
    return f"{words.signed(gain['value'])} [{ends}]"


def program() -> str:
    """How to call this program again from here: by its name where the shell finds it, else by its path."""
    called = Path(sys.argv[0]).absolute()
    found = shutil.which("bifocal")
    if called.name != "bifocal" or (found and Path(found).absolute() == called):
        return "bifocal"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)


def _results_table(results: Mapping[str, Any], split: str) -> Table:
    """Two lines a model: uncalibrated at 0.5, then calibrated at its threshold."""
    rows = []
    for model, figures in results["models"].items():
        measured = figures[split]
        rows.append([model, "0.50", *(words.number(measured["metrics"][name]["value"]) for name in HEADLINE)])
        if "calibrated" in measured:
            threshold = figures["threshold"]
            decided = "each" if figures["class_thresholds"] else "argmax"
            shown = (words.number(measured["calibrated"][name]["value"]) for name in HEADLINE)
            rows.append(["  calibrated", decided if threshold is None else f"{threshold:.2f}", *shown])
    title = f"{results['run']}: {results['label']}, {split}"
    return Table(["model", "at", *HEADLINE.values()], rows, title=title)


def print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    """What a run would do and cost."""
    if as_json:
        emit_json(plan)
        return
    console = plain()
    console.print(f"{plan['run']} -> {plan['folder']}", style="bold")
    console.print("steps: " + ", ".join(f"{name} ({state})" for name, state in plan["steps"].items()))
    console.print(f"rows: {plan['rows']['n']} ({plan['rows']['from']})")
    if of := plan["rows"].get("labels"):
        console.print("of each label: " + ", ".join(f"{name} {n}" for name, n in of.items()), soft_wrap=True)
    machine = plan["machine"]
    console.print(f"per expert, at {machine['gflops']:.0f} GFLOP/s measured here now ({machine['device']}):")
    rows = [
        [
            name,
            Path(expert["model"]).name,
            f"{expert['parameters'] / 1e6:.1f} M",
            f"{expert['gflop_per_example']:.2f}",
            _duration(expert["train_hours"]),
            _duration(expert["evidence_hours"]),
            f"{expert['memory_gib']:.2f} GiB",
        ]
        for name, expert in plan["experts"].items()
    ]
    head = ["expert", "model", "parameters", "GFLOP/example", "training", "Evidence", "memory"]
    console.print(drawn(Table(head, rows, texts=2)))
    console.print("memory: weights, gradients and optimizer; activations come on top")
    for note in plan["notes"]:
        console.print(f"note: {note}")


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def print_inspection(found: Mapping[str, Any], as_json: bool) -> None:
    """What a source holds, a line or a table per question."""
    if as_json:
        emit_json(found)
        return
    from ..pipeline.inspect import NUMBER, WORDS

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
        rows = [
            [name, cells.get(NUMBER, 0), cells.get(WORDS, 0), cells["missing"], cells["distinct"]]
            for name, cells in found["columns"].items()
        ]
        console.print(drawn(Table(["column", "numbers", "texts", "missing", "distinct"], rows)))
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


def print_lab(folder: Path, as_json: bool) -> None:
    """What the lab found of each label; as JSON that of the first, with ``labels`` for the others."""
    from ..lab.results import results_files

    first, *further = results_files(folder)
    if as_json:
        more = {found["label"]: found for found in map(read_json, further)}
        emit_json({"folder": str(folder), **read_json(first), **({"labels": more} if more else {})})
        return
    for path in (first, *further):
        _print_verdict(path)


def _print_verdict(path: Path) -> None:
    """A line per model, the verdict in a sentence, and what is behind it."""
    from ..lab.results import read_results

    results = read_results(path)
    console, metric, lost = plain(), HEADLINE[results.metric], results.without[results.most_missed]
    rows = [
        [
            trial.model + (" *" if trial.model in (results.best_baseline, results.best_fusion) else ""),
            words.number(trial.val[results.metric]),
            words.number(trial.test[results.metric].value),
            words.interval(trial.test[results.metric].model_dump()),
            "" if trial.spread is None else words.number(trial.spread),
            trial.parameters.trained or 0,
            "" if trial.seconds is None else f"{trial.seconds:.1f}",
        ]
        for trial in (*results.baselines, *results.fusions, *filter(None, [results.ensemble]))
    ]
    title = f"{results.run}: {results.label}, {metric} on {results.rows['test']:,} test rows"
    head = ["model", "val", "test", "95% interval", "± seeds", "trained", "seconds"]
    console.print(drawn(Table(head, rows, title=title)))
    console.print("* chosen on val", style="dim")
    on = f"({metric}, test)"
    for modality, over in results.each_gain.items():
        other = results.best_of_modality[modality]
        console.print(f"gain of {results.best_fusion} over {other} {on}: {_spelled(over.model_dump())}", soft_wrap=True)
    detectable = f"smallest detectable over {results.over} {words.number(results.detectable)}"
    console.print(f"the least of its gains {on}: {_spelled(results.gain.model_dump())}, {detectable}", soft_wrap=True)
    console.print(results.verdict.sentence, style="bold", soft_wrap=True)
    change = f"{words.signed(lost.value)} {words.interval(lost.model_dump())}"
    console.print(f"without {results.most_missed}, which the fusion misses most: {change}")
    shares = results.dominance[results.metric].shapley
    console.print(f"Shapley shares of {metric}: {', '.join(f'{m} {words.signed(s.value)}' for m, s in shares.items())}")
    if results.verdict.kind == "additive":
        console.print(f"smallest fusion that ties on val: {results.tie.model}")
    for finding in results.findings:
        console.print(f"finding: {finding}", soft_wrap=True)
    console.print(f"all of it: {path}", soft_wrap=True)
