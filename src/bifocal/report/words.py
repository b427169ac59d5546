"""The words of a report: figures for people, what was asked, the answer, and what cannot be known.

Every sentence is plain text: the page escapes it for HTML, `bifocal.report.markdown` for Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ..decide.calibration_methods import LEAST_ROWS
from ..evaluate.intervals import Figure, OptionalFigure
from .findings import ECE_ROWS
from .schema import RuleFigure, RunFacts
from .templates import environment

if TYPE_CHECKING:
    from jinja2 import Template

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
FIGURES = {
    **METRICS,
    "fpr": "false-positive rate",
    "fnr": "false-negative rate",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "f_beta": "F-beta",
    "flagged": "share of posts flagged",
    "cost": "cost of a post",
}
TERMS = {
    "AUROC": "how often a positive post is ranked above a negative one: 0.5 is guessing, 1 is perfect",
    "macro-F1": "the mean over the classes of F1, which is high only where precision and recall both are",
    "accuracy": "the share of posts decided rightly",
    "Brier, NLL": "how far probabilities are from what came true: 0 is perfect; NLL punishes sureness that was wrong",
    "ECE": "how far, on average, a probability is from the share of posts that it comes true on",
    "95% interval": "where the figure would lie for most other draws of as many posts",
    "gain": "how much better the model that decides is than one part alone",
    "calibrated": "mapped so that, of posts with probability 0.8, about 80% are positive",
    "threshold": "the probability from which on a post is flagged",
    "precision": "the share of the flagged posts that are positive",
    "recall": "the share of the positive posts that are flagged",
    "false-positive rate": "the share of the negative posts that are flagged",
    "TP, FP, FN, TN": "posts flagged rightly, flagged wrongly, missed, and left alone rightly",
}
"""What the words of tables mean, each said where it is met first."""
REVIEWED = {"fnr": "positive posts allowed without a person", "fpr": "negative posts blocked without a person"}
NONE_WORSE = "None that could be compared is worse than the rest."


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people; what the rows cannot define is "n/a"."""
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference for people, its sign always there."""
    return "n/a" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value for people, which is never 0."""
    return "< 0.001" if p < 0.001 else number(p)


def interval(found: Mapping[str, float | None] | Figure | OptionalFigure) -> str:
    """The ends of a 95% interval in brackets; empty where there is none."""
    low, high = found["low"], found["high"]
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def share(part: float, whole: float) -> str:
    """A share of a count in percent."""
    return f"{100 * part / whole:.0f}%" if whole else "n/a"


def terms(*names: str) -> str:
    """What some words mean, in one paragraph."""
    return "; ".join(f"{name}: {TERMS[name]}" for name in names) + "."


def terms_of_answer(facts: RunFacts) -> list[str]:
    """The terms that the answer uses."""
    found = [METRICS[facts["headline"]["metric"]], "95% interval"]
    return found + (["gain"] if facts["gain"] else []) + (["threshold"] if facts["label"]["binary"] else [])


def terms_of_models(facts: RunFacts) -> list[str]:
    """The terms that the table of models uses, and the answer did not."""
    every = ("AUROC", "macro-F1", "accuracy", "Brier, NLL", "ECE", "calibrated")
    return [name for name in every if name not in terms_of_answer(facts)]


def day(date: str) -> str:
    """The day and time of an ISO 8601 date, for people."""
    return date[:16].replace("T", " ") + (" UTC" if date.endswith("+00:00") else "")


def posts(split: str) -> str:
    return {"train": "training posts", "val": "validation posts"}.get(split, f"{split} posts")


def balance(label: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How the rows behind a figure divide: its positives, or the number of classes."""
    return f"{found['positives']:,} positive" if label["binary"] else f"{len(label['classes'])} classes"


def class_shares_differ(found: Mapping[str, Any]) -> str:
    """The class shares of the splits, where they differ; ``found`` as ``results_<run>.json`` holds it."""
    binary = all(len(shares) == 2 for shares in found["shares"].values())
    told = [
        f"{split} {share(shares[1], 1)} positive" if binary else f"{split} {' / '.join(share(s, 1) for s in shares)}"
        for split, shares in found["shares"].items()
    ]
    at_least = p_value(found["p"]) if found["p"] < 0.001 else f"= {p_value(found['p'])}"
    return f"The class shares of the splits differ by more than chance (p {at_least}): {', '.join(told)}."


def rule_figure(found: RuleFigure, split: str) -> str:
    """What a rule comes to, beside what was asked and expected: ``false-positive rate on test 0.031 [0.018, 0.047],
    asked at most 0.02, expected 0.022 [90%: 0.011, 0.036]``; the first interval is of 95%."""
    name = (FIGURES if found["of"] == "threshold" else REVIEWED)[found["figure"]]
    of = f" ({found['rows']:,} posts without a threshold of their own)" if "rows" in found else ""
    told = f"{name} on {split}{of} {number(found['value'])} {interval(found)}".rstrip()
    for side in ("at_least", "at_most"):
        if found[side] is not None:
            told += f", asked {side.replace('_', ' ')} {found[side]:g}"
    expected = found["expected"]
    if expected is None:
        return told
    between = interval(expected).replace("[", "[90%: ")
    return f"{told}, expected {number(expected['value'])} {between}".rstrip()


def asked(facts: RunFacts) -> list[str]:
    """What was asked of the run."""
    return _sentences("asked", facts)


def answer(facts: RunFacts) -> list[str]:
    """The answer in a few sentences, each with its numbers; facts without a verdict, which is the lab's to give."""
    return _sentences("answer", facts)


def chosen(facts: RunFacts) -> list[str]:
    """How the fusion's strategy was chosen, from what, and by how much; empty where it was named."""
    return _sentences("chosen", facts)


def about_labels(facts: RunFacts) -> list[str]:
    """What the table of a run's labels compares, and how they go together; of a run of several alone."""
    return _sentences("about_labels", facts)


def about_the_data(facts: RunFacts) -> list[str]:
    """Where the rows came from, and what became of those that are not among the figures."""
    return _sentences("about_the_data", facts)


def in_sample(facts: RunFacts) -> str:
    """The mark of a run without a val split; empty for any other."""
    return " ".join(_sentences("in_sample", facts))


def limits(facts: RunFacts) -> list[str]:
    """What limits the figures of every model of the run, fused or not."""
    return _sentences("limits", facts)


def limitations(facts: RunFacts) -> list[str]:
    """What the page cannot know, and what limits its figures; the heaviest first."""
    return [*limits(facts), *_sentences("fusion_limits", facts)]


def about_slices(facts: RunFacts) -> str:
    """How many slices there are, and what could be said of them."""
    return " ".join(_sentences("about_slices", facts))


def about_groups(facts: RunFacts) -> str:
    """What the table of groups compares."""
    return " ".join(_sentences("about_groups", facts))


def about_robustness(facts: RunFacts) -> str:
    """Whose decisions were attacked, and what the suite of functionalities came to."""
    return " ".join(_sentences("about_robustness", facts))


def _sentences(block: str, facts: RunFacts) -> list[str]:
    """The paragraphs of a block of ``sentences.j2``, each on one line."""
    template = _sentence_template()
    text = "".join(template.blocks[block](template.new_context({**facts, **_derived(facts)})))
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


@cache
def _sentence_template() -> Template:
    env = environment(escape=False, finalize=_on_one_line)
    env.filters |= {"number": number, "signed": signed, "posts": posts, "thousands": "{:,}".format}
    env.globals |= {"interval": interval, "share": share, "number": number, "signed": signed, "balance": balance}
    env.globals |= {
        "METRICS": METRICS,
        "FIGURES": FIGURES,
        "class_shares_differ": class_shares_differ,
        "rule_figure": rule_figure,
        "LEAST_ROWS": LEAST_ROWS,
        "ECE_ROWS": ECE_ROWS,
    }
    return env.get_template("sentences.j2")


def _on_one_line(value: object) -> object:
    """A name or text of the run: an empty line in it would end its sentence."""
    return re.sub(r"\s*\n\s*", " ", value) if isinstance(value, str) else value


def tuned_rows(facts: RunFacts) -> str:
    """What the deciding model's calibration and threshold are fitted on: ``val (50 rows)``, and more where it is."""
    marks = facts["marks"]
    more = f" and {marks['cross_fitted']:,} cross-fitted rows of train" if marks["cross_fitted"] else ""
    return f"{marks['tuned_on']} ({marks['tuned_rows']:,} rows){more}"


def _derived(facts: RunFacts) -> dict[str, Any]:
    """What several sentences name, and what a template cannot count."""
    names, models = facts["modalities"], facts["models"]
    tuned, actions = facts["marks"]["tuned_on"], facts["actions"] or {}
    few = {name: model["few_rows"] for name, model in models.items() if model["few_rows"]}
    return {
        "main": models[facts["headline"]["model"]],
        "tuned": tuned,
        "tuned_rows": tuned_rows(facts),
        "fused": " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names),
        "leakage": _leakage(facts["data"]["leakage"]),
        "few_rows": few,
        "rarest": {name: n for counts in few.values() for name, n in counts.items()},
        "decided": sum(sum(by_class.values()) for by_class in actions.values()) if "size" not in actions else 0,
        "unmeasured": sum(not any(row["figures"].values()) for row in (facts["slices"] or {"slices": []})["slices"]),
    }


def _leakage(leakage: Mapping[str, Any]) -> str:
    leaks = {split: n for split, n in leakage["rows"].items() if n}
    if not leaks:
        return ""
    rows = ", ".join(f"{n:,} in {split}" for split, n in sorted(leaks.items()))
    fate = "they were dropped" if leakage["action"] == "drop" else "they were kept, and may flatter the figures"
    return f"Rows with near-duplicates in an earlier split: {rows}; {fate}."
