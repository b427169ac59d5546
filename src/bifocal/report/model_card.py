"""The README of a saved model, as the Hugging Face hub reads it: what it is, how good on what, and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RunError, nearest
from ..evaluate.metrics import headline_metric
from ..modalities import PARTS, argument_of, inputs
from ..workspace import Workspace, atomic, read_json
from . import tables, words
from .findings import findings
from .markdown import plain, table_lines
from .schema import RunFacts


class Use(NamedTuple):
    """How a transformers Auto class is used without Bifocal."""

    pipeline: str
    processor: str
    load: str
    reads: str


USES = {
    "AutoModelForSequenceClassification": Use(
        "text-classification",
        "AutoTokenizer",
        "",
        "It was trained on texts of the form `[OCR] words of the picture [/OCR] [CAP] the post's own words [/CAP] "
        "<lang=en>`, cleaned (ftfy, NFKC, no invisible characters): give it the same, both blocks there even if empty.",
    ),
    "AutoModelForImageClassification": Use(
        "image-classification",
        "AutoImageProcessor",
        ', backend="pil"',
        "It was trained on upright RGB pictures fitted to 384x384, transparency on white.",
    ),
}
HUB_METRICS = {"auroc": "roc_auc", "macro_f1": "f1", "accuracy": "accuracy", "brier": "brier_score"}
"""Our names -> those of the hub's metrics, where it has one of the same meaning."""
HUB_ID = re.compile(r"^\w[\w.-]*/[\w.-]+$")


def write_model_card(folder: Path, model: str, facts: RunFacts | None = None, label: str = "") -> Path:
    """Write ``models/<model>/README.md`` from the run's artifacts, so that a model never travels without its figures.

    Parameters
    ----------
    folder : Path
        The run's folder, evaluated.
    model : str
        An expert or the fusion, as named in the results.
    facts : mapping, optional
        As `findings` gives them, for who has them already.
    label : str
        A label after the run's first, of which the model is; "" = the first.

    Returns
    -------
    Path
        Of the card.

    Raises
    ------
    RunError
        Where the run has no such model, or an artifact is missing or broken.
    """
    facts = findings(folder, label) if facts is None else facts
    if model not in facts["models"]:
        raise RunError(f"run {facts['run']!r} has no model {model!r}; {nearest(model, facts['models'])}")
    space = Workspace.of(folder).for_label(label)
    place = space.expert(model)
    if place == space.fusion:
        card: Mapping[str, Any] = {}
        body = _fusion(facts, model, place.name, read_json(place / "config.json"))
    else:
        card = read_json(place / "bifocal.json")
        body = _expert(facts, model, place.name, card)
    figures = [*_figures(facts, model), *_further_heads(space, model, card)]
    sections = [*body, *_decides(facts, model), *figures, *_data(facts), *_limits(facts, model)]
    title = f"# {plain(model)} of {plain(facts['run'])}{f': {plain(label)}' if label else ''}"
    with atomic(place / "README.md") as f:
        f.write("\n".join(["---", _front(facts, model, place.name, card), "---", "", title, "", *sections]))
    return place / "README.md"


def _on_the_hub(base: str) -> bool:
    """Whether a starting point may be named in public: a hub id, not a folder of this machine, not one built here."""
    return bool(HUB_ID.match(base)) and not Path(base).is_dir()


def _front(facts: RunFacts, model: str, folder: str, card: Mapping[str, Any]) -> str:
    """The YAML front matter of a model in ``models/<folder>``.

    In-sample figures stay out of it, since there they would lose their mark.

    A fusion has no card: transformers cannot load it, and the hub knows no task of classifying posts of several parts.
    """
    from huggingface_hub import EvalResult, ModelCardData

    use = USES.get(card.get("auto_class", ""))
    base = card.get("base_model", card.get("encoder", ""))
    found = [] if facts["marks"]["in_sample"] else facts["models"][model]["calibrated"].items()
    results = [
        EvalResult(
            task_type=use.pipeline if use else "other",
            dataset_type=facts["source"],
            dataset_name=f"{facts['source']} ({facts['label']['name']})",
            dataset_split=facts["headline"]["split"],
            metric_type=HUB_METRICS[name],
            metric_name=words.METRICS[name],
            metric_value=round(figure["value"], 4),
        )
        for name, figure in found
        if name in HUB_METRICS and figure["value"] is not None
    ]
    data = ModelCardData(
        model_name=f"{facts['run']}/{folder}" if results else None,
        library_name="transformers" if use else "bifocal",
        pipeline_tag=use.pipeline if use else None,
        base_model=base if _on_the_hub(base) else None,
        tags=["bifocal", facts["label"]["name"]],
        metrics=list(HUB_METRICS.values()),
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _expert(facts: RunFacts, model: str, folder: str, card: Mapping[str, Any]) -> list[str]:
    label, size = facts["label"], facts["models"][model]["parameters"]
    base = card.get("base_model", card["encoder"])
    base = base if _on_the_hub(base) else Path(base).name
    lines = [
        f"One expert of a Bifocal run: it reads one part of a post and gives its {_label(label)}. Starting point: "
        f"{plain(base)} (tune: {plain(card['expert']['tune'])}); {size['total']:,} parameters, {size['trained']:,} of "
        "them trained.",
        "",
        f"Classes, in the order of the logits: {plain(', '.join(map(str, label['classes'])))}.",
        "",
        *_with_bifocal(facts),
    ]
    if use := USES.get(card.get("auto_class", "")):
        lines += _without_bifocal(use, card["auto_class"], folder)
    if "auto_class" in card and card["expert"]["pooling"] == "mean":
        lines += [
            "**Two heads.** In Bifocal this expert averages the last hidden states, and the head in `head.safetensors` "
            "(`weight [C, d]`, `bias [C]`) makes its logits. The Auto class pools differently and brings a head of its "
            "own, fitted on the same rows: its logits differ. The figures below are of `head.safetensors`.",
            "",
        ]
    return lines


def _label(label: Mapping[str, Any]) -> str:
    description = f" (“{plain(label['description'].rstrip('.'))}”)" if label["description"] else ""
    asked = f", asked of posts that are positive by {plain(label['requires'])}" if "requires" in label else ""
    return f"label {plain(label['name'])}{description}{asked}"


def _with_bifocal(facts: RunFacts) -> list[str]:
    known = [m for m in facts["modalities"] if m in inputs()]
    others = [repr(m) for m in facts["modalities"] if m not in known]
    parts = [f"{argument_of(m)}=…" for m in known]
    parts += [f"{PARTS}={{{', '.join(f'{m}: …' for m in others)}}}"] if others else []
    return [
        "```python",
        "import bifocal",
        "",
        f'system = bifocal.load("runs/{facts["run"]}")  # experts, fusion, calibration and thresholds together',
        f"system.predict({', '.join(parts)})",
        "```",
        "",
    ]


def _without_bifocal(use: Use, auto_class: str, folder: str) -> list[str]:
    return [
        "Without Bifocal, from the run's folder:",
        "",
        "```python",
        f"from transformers import {auto_class}, {use.processor}",
        "",
        f'model = {auto_class}.from_pretrained("models/{folder}")',
        f'processor = {use.processor}.from_pretrained("models/{folder}"{use.load})',
        "```",
        "",
        use.reads,
        "",
    ]


def _fusion(facts: RunFacts, model: str, folder: str, card: Mapping[str, Any]) -> list[str]:
    experts = " and ".join(name for name in facts["models"] if name != model)
    read = ", ".join(f"{name}: {what}" for name, what in card["read"].items())
    what = " or ".join(sorted(set(card["read"].values())))
    seeds = facts["models"][model]["seeds"]
    members = f" The answers of {seeds['n']} seeds are averaged." if seeds else ""
    return [
        f"The fusion of a Bifocal run: it turns what {plain(experts)} say of a post into one answer, its "
        f"{_label(facts['label'])}. Strategy: {plain(card['strategy'])} (reads {plain(read)}); "
        f"{card['parameters']['total']:,} parameters.{members} A part may be absent.",
        "",
        *([plain(" ".join(chosen)), ""] if (chosen := words.chosen(facts)) else []),
        *_with_bifocal(facts),
        f"It is no model by itself: it reads the {what} of exactly these experts. Its weights open without Bifocal:",
        "",
        "```python",
        "import torch",
        "",
        f'state = torch.load("models/{folder}/fusion_model.pt", weights_only=True)',
        "```",
        "",
    ]


def _decides(facts: RunFacts, model: str) -> list[str]:
    model_facts = facts["models"][model]
    if model_facts["threshold"] is None:
        wins = "exceeds its threshold by the largest factor" if model_facts["class_thresholds"] else "is likeliest"
        rule, chosen = f"the class that {wins} is named", "It was chosen"
    else:
        rule = f"the label applies where the probability of class 1 is {model_facts['threshold']:.2f} or more"
        by_hand = model == facts["headline"]["model"] and facts["marks"]["rule"] is None
        chosen = "The threshold was set by hand, the calibration chosen" if by_hand else "Both were chosen"
    lines = f"Calibrated probabilities are `{model_facts['formula']}`; {rule}. {chosen} on {words.tuned_rows(facts)}."
    if model_facts["patterns"]:
        lines += (
            f" Posts that bring only {' or only '.join(map(plain, model_facts['patterns']))} have values of their own."
        )
    return ["## From logits to a decision", "", lines, ""]


def _figures(facts: RunFacts, model: str) -> list[str]:
    model_facts, split = facts["models"][model], facts["headline"]["split"]
    mark = words.in_sample(facts)
    measured = f"On {model_facts['n']:,} {words.posts(split)} ({words.balance(facts['label'], model_facts)})"
    lines = ["## Figures", "", *([f"> **{plain(mark)}**", ""] if mark else [])]
    lines += [f"{measured}, with 95% intervals bootstrapped over groups:", ""]
    return [*lines, *table_lines(tables.model(facts, model))]


def _further_heads(space: Workspace, model: str, card: Mapping[str, Any]) -> list[str]:
    """A row for each further label that an expert answers, from the one pass that the first label is answered from."""
    if not (heads := card.get("heads")):
        return []
    rows = []
    for name, head in heads.items():
        of = space.for_label(name).read_section(space.results)
        measured = of["models"][model][of["tested_on"]]
        metric = headline_metric(len(head["classes"]))
        reached = tables.Cell(
            f"{words.METRICS[metric]} {words.number((found := measured['calibrated'][metric])['value'])}"
        )
        reached = reached._replace(small=words.interval(found))
        rows.append([name, ", ".join(map(str, head["classes"])), head["learned_from"], reached, measured["n"]])
    auto = "the Auto class knows the first label alone, and " if "auto_class" in card else ""
    told = (
        f"It answers {len(heads) + 1} labels from one pass. The heads of the further ones lie in `heads.safetensors`, "
        f"which `bifocal.load` reads; {auto}all else in this card is of the first."
    )
    head = ["label", "classes", "rows learned from", f"calibrated, {of['tested_on']}", "rows"]
    return ["## Further labels", "", told, "", *table_lines(tables.Table(head, rows, texts=2))]


def _data(facts: RunFacts) -> list[str]:
    rows = ", ".join(f"{n:,} {split}" for split, n in facts["data"]["rows"].items())
    return ["## Data", "", f"{plain(' '.join(words.about_the_data(facts)))} Rows: {plain(rows)}.", ""]


def _limits(facts: RunFacts, model: str) -> list[str]:
    fused = model == facts["headline"]["model"]
    found = [
        *(words.limitations(facts) if fused else words.limits(facts)),
        "It serves people who decide, and should not act against anyone by itself. What annotators called "
        f"{facts['label']['name']} is what it learned, their blind spots included.",
        "The weights it started from and the data it learned from have licences of their own: see to them before "
        "passing it on.",
    ]
    return ["## Limits", "", *(f"- {plain(sentence)}" for sentence in found), ""]
