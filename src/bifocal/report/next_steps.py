"""What to do next, said from a run's facts: whether its data are enough and for what, what to set, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from .. import plugins
from ..data.class_checks import FEW
from ..decide.calibration_methods import LEAST_ROWS
from ..modalities import inputs
from .schema import RunFacts
from .words import METRICS, interval, number, posts, share, signed

MARGIN = 0.01
"""A gain of AUROC or macro-F1 that is surely smaller is not worth a second part; the lab's default margin."""
WIDE = 0.05
"""Half an interval's width, from which on a figure is called rough."""
_UNSEEN = 1.5
"""Posts of the rarest class that a figure without an error may have been lucky with: the rule of three, halved."""
FOLLOWED = 0.02
"""Share of rows that cannot be used, from which on somebody should look why."""
_WELL_TUNED = 1000
"""Rows on which a threshold rests, from which on nothing is said of them (as `decide.on: auto` has it)."""


def next_steps(facts: RunFacts, folder: str = "") -> list[str]:
    """What a person should know and do now, the heaviest first; each a sentence or two with the option to set.

    Parameters
    ----------
    facts : mapping
        As `bifocal.report.findings.findings` gives them.
    folder : str
        Of the run, as commands name it; by default below ``runs/``.
    """
    folder = folder or f"runs/{facts['run']}"
    known = [] if _is_in_sample(facts) else [*_tuning(facts), *_parts(facts), *_decisions(facts, folder)]
    return [*_data(facts), *known, *_use(facts, folder)]


def _is_in_sample(facts: RunFacts) -> bool:
    """Whether the figures are of rows that were learned from, which say nothing of what to set."""
    return facts["marks"]["in_sample"] and facts["headline"]["split"] == facts["marks"]["tuned_on"]


def _data(facts: RunFacts) -> Iterator[str]:
    """Are the tested posts enough to say how good it is?"""
    headline = facts["headline"]
    metric = METRICS[headline["metric"]]
    if _is_in_sample(facts):
        yield (
            "How good it is on new posts is not known: nothing was kept aside to test on. Give some "
            f"{10 * FEW} posts of each class and set splits: {{val: 0.2, test: 0.2}}."
        )
    elif headline["low"] is not None and headline["high"] is not None:
        n, rarest = headline["n"], _rarest(facts)
        half = max((headline["high"] - headline["low"]) / 2, _UNSEEN / max(rarest, 1))
        if half > WIDE:
            wanted = ceil(n * (half / WIDE) ** 2 / 100) * 100
            yield (
                f"Too few tested posts to say how good it is: {metric} {number(headline['value'])} "
                f"{interval(headline)} on {n:,}, {rarest:,} of the rarest class. "
                f"Within ±{WIDE:g} takes about {wanted:,} of them."
            )
        elif rarest < FEW:
            yield (
                f"Only {rarest:,} of the {n:,} {posts(headline['split'])} are of the rarest class, and the interval "
                "rests on them: label more of that class before its figures are relied on."
            )
        else:
            yield (
                f"Enough tested posts to say how good it is: {metric} {number(headline['value'])} {interval(headline)} "
                f"on {n:,}."
            )
    data = facts["data"]
    rows = data["examples"] + data["quarantined"]
    if data["quarantined"] > FOLLOWED * rows:
        yield (
            f"{data['quarantined']:,} of {rows:,} rows could not be read ({share(data['quarantined'], rows)}): "
            "`bifocal inspect CONFIG` names each and why."
        )


def _rarest(facts: RunFacts) -> int:
    positives, n = facts["headline"]["positives"], facts["headline"]["n"]
    return min(positives) if isinstance(positives, list) else min(positives, n - positives)


def _tuning(facts: RunFacts) -> Iterator[str]:
    """Are the rows that decisions rest on enough?"""
    marks, main = facts["marks"], facts["headline"]["model"]
    if few := facts["models"][main]["few_rows"]:
        held = ", ".join(f"{n:,} of class {name}" for name, n in few.items())
        yield (
            f"Too few posts for probabilities that mean what they say: {marks['tuned_on']} holds {held}, and "
            f"{LEAST_ROWS} of each class are the least. Label more, or raise splits.val."
        )
    rows = marks["tuned_rows"] + marks["cross_fitted"]
    expected = marks["expected"].get("precision")
    if expected and rows < _WELL_TUNED and expected["high"] - expected["low"] > 2 * WIDE:
        yield (
            f"The threshold rests on {rows:,} posts: on as many new ones, precision may come to anything from "
            f"{number(expected['low'], 2)} to {number(expected['high'], 2)}. More labelled posts narrow that."
        )


def _parts(facts: RunFacts) -> Iterator[str]:
    """Is each part worth reading?"""
    gain, metric = facts["gain"], facts["headline"]["metric"]
    if metric == "auroc":
        for name, model in facts["models"].items():
            found = model["calibrated"][metric]
            if name != facts["headline"]["model"] and found["low"] is not None and found["low"] <= 0.5:
                part = next((m for m, expert in _experts(facts).items() if expert == name), "")
                given = facts["made"]["config"].get("experts", {}).get(part, {}).get("model")
                hint = f"name a pretrained model (experts.{part}.model) for tiny, " if given == "tiny" else ""
                yield (
                    f"{name} is not shown to know more than guessing does (AUROC {number(found['value'])} "
                    f"{interval(found)}): {hint}label more posts, or leave the part out of modalities."
                )
    if gain is None or gain["value"] is None or gain["low"] is None or gain["high"] is None:
        return
    between = f"{METRICS[gain['metric']]} {signed(gain['value'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
    if gain["high"] < MARGIN:
        yield (
            f"The gain over {gain['over']} alone is below {MARGIN:g} with its whole interval ({between}): "
            "a run of that part alone, under modalities, costs less; `bifocal lab CONFIG` has the verdict."
        )
    elif gain["low"] <= 0:
        wanted = ceil(gain["n"] * (gain["detectable"] / (2 * MARGIN)) ** 2 / 100) * 100 if gain["detectable"] else 0
        more = f" About {wanted:,} tested posts would show a gain of {2 * MARGIN:g}." if wanted > gain["n"] else ""
        yield (
            f"The interval of the gain over {gain['over']} alone holds 0 ({between}): whether "
            f"there is one is open.{more} `bifocal lab CONFIG` compares every way to fuse, with controls."
        )


def _experts(facts: RunFacts) -> dict[str, str]:
    """Modality -> its expert, of those that come with Bifocal."""
    return {part: plugins.load("modalities", part).expert_name for part in facts["modalities"] if part in inputs()}


def _decisions(facts: RunFacts, folder: str) -> Iterator[str]:
    """What to set."""
    main = facts["models"][facts["headline"]["model"]]
    if (c := main["confusion"]) and (flagged := c["tp"] + c["fp"]):
        missed = share(c["fn"], c["tp"] + c["fn"])
        yield (
            f"At its threshold {share(c['fp'], flagged)} of what it flags is flagged wrongly and {missed} of the "
            "positive posts are missed. To have it otherwise: decide.threshold: {by: precision, bound: 0.9} in the "
            f"configuration, or `bifocal policy set {folder} --threshold T`."
        )
        if facts["actions"] is None and "labels" not in facts:
            yield (
                "Everything flagged is blocked. For a band of unsure posts that people look at: "
                "decide.review: {fnr: 0.1, fpr: 0.02}."
            )


def _use(facts: RunFacts, folder: str) -> Iterator[str]:
    if facts["robustness"] is None:
        yield f"How it holds against misspelt words and altered pictures: `bifocal robustness {folder}`."
    yield f"Decide on a table of posts: `bifocal score {folder} NEW.csv -o decisions.csv`; over HTTP: `bifocal serve`."
