"""The words of a report: figures for people, what was asked, the answer, and what cannot be known.

Every sentence is plain text: the page escapes it for HTML, `bifocal.report.markdown` for Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..decide.calibrators import LEAST_ROWS
from .findings import ECE_ROWS

METRICS = {
    "auroc": "AUROC",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "auprc": "AUPRC",
    "brier": "Brier",
    "nll": "NLL",
    "ece_top_label": "ECE, top label",
    "ece_top_label_debiased": "ECE, debiased",
    "ece_positive": "ECE, positive",
    "ece_positive_debiased": "ECE, positive, debiased",
}
LEADING = ("auroc", "macro_f1", "accuracy", "brier", "nll", "ece_top_label_debiased")
"""The metrics of the first table; NLL and Brier lead among those of calibration."""
LOWER_IS_BETTER = frozenset(METRICS) - {"auroc", "macro_f1", "accuracy", "auprc"}
ERROR_TYPES = {"FP": "False positives", "FN": "False negatives", "wrong": "Taken for another class"}
FIGURES = {**METRICS, "fpr": "false-positive rate", "fnr": "false-negative rate"}
NONE_WORSE = "None that could be compared is worse than the rest."
SHIFT = 0.10
"""A larger difference in base rate between the tuning and the tested split is worth a line."""


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people; what the rows cannot define is "n/a"."""
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference for people, its sign always there."""
    return "n/a" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def chance(p: float) -> str:
    """A p-value for people, which is never 0."""
    return "< 0.001" if p < 0.001 else number(p)


def interval(found: Mapping[str, float | None]) -> str:
    """The ends of a 95% interval in brackets; empty where there is none."""
    low, high = found["low"], found["high"]
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def share(part: float, whole: float) -> str:
    """A share of a count in percent."""
    return f"{100 * part / whole:.0f}%" if whole else "n/a"


def posts(split: str) -> str:
    return {"train": "training posts", "val": "validation posts"}.get(split, f"{split} posts")


def balance(label: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How the rows behind a figure divide: its positives, or the number of classes."""
    return f"{found['positives']:,} positive" if label["binary"] else f"{len(label['classes'])} classes"


def asked(facts: Mapping[str, Any]) -> list[str]:
    """What was asked of the run."""
    label, names = facts["label"], facts["modalities"]
    description = f" (“{label['description'].rstrip('.')}”)" if label["description"] else ""
    parts = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    if label["binary"]:
        question = f"does the label {label['name']}{description} apply?"
    else:
        question = f"which of the {len(label['classes'])} classes of {label['name']}{description} applies?"
    sentences = [f"Given a post ({parts}), {question}"]
    if facts["gain"]:
        sentences.append(f"And what does reading {parts} together add to the best of them alone?")
    return sentences


def answer(facts: Mapping[str, Any]) -> list[str]:
    """The answer in a few sentences, each with its numbers; facts without a verdict, which is the lab's to give."""
    parts = [_headline(facts), _gain(facts), _concluded(facts), _decision(facts), _calibration(facts)]
    return [sentence for sentence in parts if sentence]


def _headline(facts: Mapping[str, Any]) -> str:
    found, label = facts["headline"], facts["label"]
    model, value = found["model"], found["value"]
    rows = f"On {found['n']:,} {posts(found['split'])} ({balance(label, found)}), {model}"
    if value is None:
        return f"{rows} has no {METRICS[found['metric']]}: the rows cannot define it (one class only)."
    ends = f"95% interval {found['low']:.3f} to {found['high']:.3f}" if interval(found) else "no interval"
    if label["binary"]:
        meaning = f"ranks a positive post above a negative one {share(value, 1)} of the time: AUROC"
    elif found["metric"] == "auroc":  # two classes with names of their own
        meaning = "tells the classes apart with an AUROC of"
    else:
        meaning = "names classes with a macro-F1 of"
    return f"{rows} {meaning} {value:.3f} ({ends})."


def _gain(facts: Mapping[str, Any]) -> str:
    gain, model = facts["gain"], facts["headline"]["model"]
    if not gain:
        return f"There is one modality, so {model} decides alone: nothing is fused, and there is no gain to report."
    best = f"{gain['over']}, the best single model on {facts['marks']['tuned_on']}"
    if gain["value"] is None:
        return f"The gain of {model} over {best}, cannot be measured on these rows."
    return (
        f"Its gain over {best}, is {signed(gain['value'])} {METRICS[gain['metric']]} (95% interval "
        f"{signed(gain['low'])} to {signed(gain['high'])}); a gain of {number(gain['detectable'])} or more had an 80% "
        "chance of showing on these rows."
    )


def _concluded(facts: Mapping[str, Any]) -> str:
    return f"The lab's verdict on this Evidence: {facts['verdict']}." if facts["verdict"] else ""


def _decision(facts: Mapping[str, Any]) -> str:
    said = facts["models"][facts["headline"]["model"]]
    right, common = said["calibrated"]["accuracy"]["value"], facts["baseline"]["metrics"]["accuracy"]["value"]
    if right is None or common is None:
        return ""
    against = f"always naming the commonest class of train would be right on {share(common, 1)}"
    counts = said["confusion"]
    if not counts:
        return f"It is right on {share(right, 1)} of the posts; {against}.{_reviewed(facts['actions'])}"
    flagged, positives = counts["tp"] + counts["fp"], counts["tp"] + counts["fn"]
    flags = f"{flagged:,} posts, {counts['tp']:,} of them rightly ({share(counts['tp'], flagged)})"
    others = " (posts that lack a part have their own)" if said["patterns"] else ""
    chosen = f"chosen on {facts['marks']['tuned_on']} by {facts['marks']['rule']}"
    expected = facts["marks"]["expected"]
    ahead = ""
    if expected:
        precision, recall = (
            f"{name} of {number(expected[name]['low'], 2)} to {number(expected[name]['high'], 2)}"
            for name in ("precision", "recall")
        )
        ahead = f" Of as many posts to come as it was chosen on, {precision} and {recall} are expected (90% intervals)."
    return (
        f"At its threshold of {said['threshold']:.2f}, {chosen}{others}, it flags {flags}, and misses "
        f"{counts['fn']:,} of the {positives:,} positive ones "
        f"({share(counts['fn'], positives)}). It is right on {share(right, 1)} of all; {against}."
        f"{ahead}{_reviewed(facts['actions'])}"
    )


def _reviewed(actions: Mapping[str, Any] | None) -> str:
    """What the review band does with the posts, as a further sentence."""
    if not actions:
        return ""
    if "size" in actions:
        return (
            f" Its prediction sets hold {number(actions['size'], 2)} classes on average and leave out the right one of "
            f"{share(actions['missed'], actions['labelled'])} of the posts; {share(actions['review'], actions['n'])}, "
            "whose set is not their label alone, go to a person."
        )
    total = sum(sum(by_class.values()) for by_class in actions.values())
    positives, negatives = (sum(by_class[kind] for by_class in actions.values()) for kind in ("positive", "negative"))
    return (
        f" By its review band {share(sum(actions['review'].values()), total)} of the posts go to a person; of the "
        f"positive ones {share(actions['allow']['positive'], positives)} are allowed and of the negative ones "
        f"{share(actions['block']['negative'], negatives)} blocked without one."
    )


def _calibration(facts: Mapping[str, Any]) -> str:
    said = facts["models"][facts["headline"]["model"]]
    pairs = [(name, said["raw"][name]["value"], said["calibrated"][name]["value"]) for name in ("brier", "nll")]
    if any(value is None for _, *values in pairs for value in values):
        return ""
    moves = " and ".join(
        f"{METRICS[name]} from {before:.3f} to {after:.3f}{_moved(said['gains'].get(name))}"
        for name, before, after in pairs
    )
    return f"Calibration took {moves} (lower is better)."


def _moved(gain: Mapping[str, Any] | None) -> str:
    """The interval of a paired difference, in brackets."""
    return f" ({signed(gain['value'])} {interval(gain)})" if gain and interval(gain) else ""


def about_the_data(facts: Mapping[str, Any]) -> list[str]:
    """Where the rows came from, and what became of those that are not among the figures."""
    data, kept = facts["data"], facts["made"]["kept_for_fusion"]
    sentences = [
        f"{data['examples']:,} examples from {facts['source']}; {sum(data['rows'].values()):,} of them, in "
        f"{data['groups']:,} groups, are used, and {data['near_duplicates']:,} have a near-duplicate.",
        f"{data['quarantined']:,} rows were quarantined, {data['unlabelled']:,} bear no label.",
        _leakage(data["leakage"]) or "No near-duplicates cross the splits.",
    ]
    if data["ocr"].get("read"):
        sentences.append(
            f"OCR read {data['ocr']['read']:,} pictures and found words in {data['ocr']['with_text']:,} of them."
        )
    if unread := data["ocr"].get("unread"):
        sentences.append(f"On {unread:,} pictures half or more of the lines could not be read (another script, say).")
    if kept:
        sentences.append(f"The fusion learned from {kept['n']:,} training rows that the experts never saw.")
    return sentences


def _leakage(leakage: Mapping[str, Any]) -> str:
    leaks = {split: n for split, n in leakage["rows"].items() if n}
    if not leaks:
        return ""
    rows = ", ".join(f"{n:,} in {split}" for split, n in sorted(leaks.items()))
    fate = "they were dropped" if leakage["action"] == "drop" else "they were kept, and may flatter the figures"
    return f"Rows with near-duplicates in an earlier split: {rows}; {fate}."


def unknowns(facts: Mapping[str, Any]) -> list[str]:
    """What the page cannot know, and what limits its figures; the heaviest first."""
    return [*limits(facts), *_of_the_fusion(facts)]


def limits(facts: Mapping[str, Any]) -> list[str]:
    """What limits the figures of every model of the run, fused or not."""
    return [sentence for sentence in (in_sample(facts), *_limits(facts)) if sentence]


def in_sample(facts: Mapping[str, Any]) -> str:
    """The mark of a run without a val split; empty for any other."""
    if not facts["marks"]["in_sample"]:
        return ""
    tested = facts["headline"]["split"]
    if tested == facts["marks"]["tuned_on"]:
        return (
            "In-sample: there is no val split, so the run was tuned and evaluated on the rows it learned from. "
            "These figures say nothing about new posts."
        )
    return (
        "There is no val split: temperatures and thresholds were tuned on the rows the models learned from. "
        f"The figures are of {posts(tested)}, but the decisions behind them are tuned in-sample."
    )


def _limits(facts: Mapping[str, Any]) -> Iterable[str]:
    marks, found, data = facts["marks"], facts["headline"], facts["data"]
    tuned, tested = marks["tuned_on"], found["split"]
    yield (
        f"Intervals are bootstrapped over groups of near-duplicates among the {found['n']:,} {posts(tested)}. They do "
        "not cover another training, other annotators, or posts of another platform, language or year."
    )
    yield weakest_slice(facts)
    yield largest_gap(facts)
    if tested == tuned and not marks["in_sample"]:
        yield f"There is no test split: the figures are of {tuned}, on which the run was tuned, and flatter it."
    if marks["approximate"] and not marks["in_sample"]:
        yield (
            f"One {tuned} split of {marks['tuned_rows']:,} rows ({marks['tuned_rarest']:,} of its rarest class) served "
            "every choice: early stopping, the best single model, temperature and threshold. What rests on it is "
            "approximate."
        )
    for expert, tried in facts["tried"].items():
        figures = ", ".join(f"{encoder} {number(value)}" for encoder, value in tried.items())
        yield f"The encoder of {expert} is the best of {len(tried)} on {tuned} ({METRICS[found['metric']]} {figures})."
    yield _uncalibrated(facts)
    yield _base_rates(facts)
    yield _deployed(facts)
    if marks["ece_is_chance"]:
        yield (
            f"ECE is no target under {ECE_ROWS:,} rows, and here are {found['n']:,} (at 200 a perfectly calibrated "
            "model shows about 0.07): read NLL and Brier."
        )
    yield _leakage(data["leakage"])
    if data["quarantined"] or data["unlabelled"]:
        yield (
            f"{data['quarantined']:,} rows could not be read and {data['unlabelled']:,} bear no label; nothing here "
            "speaks for them."
        )
    yield "The labels are taken for the truth: where annotators erred, a model that disagrees is counted as wrong."


def weakest_slice(facts: Mapping[str, Any]) -> str:
    """Where the model is worse than on the rest by more than chance, all comparisons counted; else empty."""
    worst = facts["slices"] and facts["slices"]["worst"]
    if not worst or not worst["significant"]:
        return ""
    rows = f"the {worst['n']:,} {posts(facts['headline']['split'])} with {worst['column']} “{worst['slice']}”"
    return (
        f"The figures do not hold everywhere: on {rows} the {FIGURES[worst['figure']]} is {number(worst['here'])}, on "
        f"the others {number(worst['rest'])} (difference {signed(worst['value'])}, interval {signed(worst['low'])} to "
        f"{signed(worst['high'])} with all {facts['slices']['comparisons']} comparisons counted)."
    )


def largest_gap(facts: Mapping[str, Any]) -> str:
    """The widest gap in false-positive rate between groups, where it is more than chance; else empty."""
    gap = facts["fairness"] and facts["fairness"]["largest"]
    if not gap or not gap["significant"]:
        return ""
    return (
        f"Negative posts that speak of {gap['slice']} are flagged {share(gap['here'], 1)} of the time, those that "
        f"speak of no group {share(gap['rest'], 1)} (difference {signed(gap['value'])}, interval "
        f"{signed(gap['low'])} to {signed(gap['high'])} with all {facts['fairness']['comparisons']} comparisons "
        "counted)."
    )


def _uncalibrated(facts: Mapping[str, Any]) -> str:
    """A line where the tuning rows were too few to calibrate a model."""
    found = {name: said["few_rows"] for name, said in facts["models"].items() if said["few_rows"]}
    if not found:
        return ""
    rarest = {c: n for few in found.values() for c, n in few.items()}
    counts = ", ".join(f"{n:,} of class {c}" for c, n in rarest.items())
    return (
        f"Not calibrated, for want of rows: {', '.join(found)} (temperature 1). {facts['marks']['tuned_on']} holds "
        f"{counts}; {LEAST_ROWS} of each class are the least. Their probabilities are the models' own, often too sure."
    )


def _base_rates(facts: Mapping[str, Any]) -> str:
    """A line where the tuning split has another share of positives than the tested one."""
    if not facts["label"]["binary"]:
        return ""
    tuned, tested = (facts["splits"][s] for s in (facts["marks"]["tuned_on"], facts["headline"]["split"]))
    rates = [split["positives"] / split["n"] if split["n"] else 0.0 for split in (tuned, tested)]
    if abs(rates[0] - rates[1]) <= SHIFT:
        return ""
    return (
        f"The base rate shifts: {share(rates[0], 1)} of {facts['marks']['tuned_on']} is positive, "
        f"{share(rates[1], 1)} of {facts['headline']['split']}. Temperature and threshold were tuned at the former."
    )


def _deployed(facts: Mapping[str, Any]) -> str:
    """A line where decisions are made for another base rate than that of the rows at hand."""
    rate = facts["marks"]["base_rate"]
    if rate is None:
        return ""
    classes = facts["label"]["classes"]
    of = (
        f"{number(rate[1])} of positive posts"
        if facts["label"]["binary"]
        else ", ".join(f"{name} {number(share)}" for name, share in zip(classes, rate, strict=True))
    )
    return (
        f"Decisions are for a base rate of {of}, which was given, not measured: probabilities and thresholds of the "
        "policy are adjusted to it, provided that only the shares of the classes differ there. Calibrated figures here "
        f"are of probabilities at the base rate of {facts['marks']['tuned_on']}."
    )


def _of_the_fusion(facts: Mapping[str, Any]) -> Iterable[str]:
    found = facts["headline"]
    spread = facts["models"][found["model"]]["seeds"]
    if spread:
        over = spread[found["metric"]]
        yield (
            f"Over {spread['n']} seeds the {METRICS[found['metric']]} of {found['model']} is {number(over['mean'])} ± "
            f"{number(over['std'])}; the tables show their averaged answer. The experts were trained with one seed."
        )
    if facts["gain"] and not facts["verdict"]:
        yield (
            "Gain and interval stand here without a verdict: one run has no controls of equal capacity, and only its "
            "own experts to compare with."
        )


def about_slices(facts: Mapping[str, Any]) -> str:
    """How many slices there are, and what could be said of them."""
    measured = facts["slices"]
    few = sum(not any(row["figures"].values()) for row in measured["slices"])
    return (
        f"{len(measured['slices'])} slices, {few} of them under {measured['min_rows']} rows and not measured; "
        f"{measured['comparisons']} comparisons with the rest of the posts, p after Holm's correction over all of them."
    )


def about_groups(facts: Mapping[str, Any]) -> str:
    """What the table of groups compares."""
    found = facts["fairness"]
    return (
        f"False positives and negatives on posts that speak of a group (by {found['by']}), beside those that speak of "
        f"none; p after Holm's correction, comparisons: {found['comparisons']}."
    )


def about_robustness(facts: Mapping[str, Any]) -> str:
    """Whose decisions were attacked, and what the suite of functionalities came to."""
    found = facts["robustness"]
    told = f"{found['model']} decided again on {found['rows']:,} of {found['of']:,} {posts(found['split'])}, attacked."
    if suite := found["functional"]:
        accuracy = suite["accuracy"]
        told += (
            f" Of {suite['n']:,} texts of the functional suite {suite['file']} it decides "
            f"{share(accuracy['value'], 1)} rightly {interval(accuracy)}."
        )
    return told
