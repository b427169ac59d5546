"""The facts of a run that a person needs, gathered from its artifacts alone: no model, no shard, no prose."""

from __future__ import annotations

import csv
import heapq
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..assess.predictions import MAJORITY
from ..config import part_name
from ..decide.calibration_methods import formula
from ..decide.policy import Policy
from ..decide.thresholds import described
from ..errors import RunError
from ..example import SPLITS, Label, Taxonomy
from ..modalities import TEXT
from ..modalities.text import without_tags
from ..workspace import Workspace, read_json
from .labels import headline, labels_of
from .schema import CurveFacts, DataFacts, ErrorFacts, ModelFacts, Provenance, RunFacts

ECE_ROWS = 2000
"""Under so many rows a calibration error is mostly chance: no target, only a description."""
WORST = 6
"""Errors of each type that are shown, the most confident first."""
TEXT_LENGTH = 160


def findings(folder: str | Path, label_name: str = "") -> RunFacts:
    """Everything the page shows, as JSON: redrawn from the run's files at any time, whatever happened to its models.

    Parameters
    ----------
    folder : path
        A run folder in which the steps up to ``evaluate`` have ended.
    label_name : str
        A label after the run's first; "" = the first.

    Returns
    -------
    RunFacts
        ``verdict`` is the lab's sentence; ``slices``, ``fairness`` and ``robustness`` are as in the results; ``errors``
        are the most confident ones, texts cut to 160 characters; rows of ``confusion`` are the truth; ``tried`` holds
        per expert the loss of each encoder on the rows of `tried_on`. What the run does not have is null or empty.

    Raises
    ------
    RunError
        Naming the artifact that is missing or broken.
    """
    space = Workspace.of(folder).for_label(label_name)
    record, results, policy = read_json(space.record), *map(space.read_section, (space.results, space.policy))
    label = Taxonomy.from_json(read_json(space.taxonomy))[results["label"]]
    main, tested, tuned = results["main"], results["tested_on"], results["tuned_on"]
    models = {
        name: _model(entry, policy["models"][name], tested)
        for name, entry in results["models"].items()
        if name != MAJORITY
    }
    baseline = results["models"][MAJORITY]
    splits = {s: {k: baseline[s][k] for k in ("n", "positives")} for s in SPLITS if s in baseline}
    main_facts = models[main]
    decided_by = Policy.model_validate({name: value for name, value in policy.items() if name != "version"})
    steps, rule = steps_of_label(record["steps"], label_name), decided_by.rule_of(main)
    facts: RunFacts = {
        "run": results["run"],
        "label": {
            "name": results["label"],
            "description": label.description,
            "classes": list(label.classes),
            "names": list(label.shown),
            "binary": label.binary,
        },
        "source": record["config"]["source"]["kind"],
        "modalities": [part_name(plugin) for plugin in record["config"]["modalities"]],
        "headline": headline(main, len(label.classes), tested, results["models"][main][tested]),
        "gain": results.get("gain"),
        "gains": results.get("gains", {}),
        "class_shares": results.get("class_shares", {"shares": {}, "p": 1.0, "differ": False}),
        "verdict": _verdict(space.lab_results),
        "rule_figures": results.get("rule_figures", []),
        "actions": results.get("actions"),
        "robustness": read_json(space.robustness) if space.robustness.is_file() else None,
        "slices": results.get("slices"),
        "fairness": results.get("fairness"),
        "marks": {
            "in_sample": results["in_sample"],
            "approximate": policy["approximate"],
            "rule": None if rule is None else described(rule),
            "base_rate": policy.get("base_rate"),
            "expected": policy.get("expected", {}) if rule is not None and decided_by.has_one_rule(main) else {},
            "tuned_on": tuned,
            "tuned_rows": splits[tuned]["n"],
            "tuned_rarest": min(class_counts(splits[tuned])),
            "cross_fitted": policy.get("tuned_on", {}).get(main, {}).get("train", 0),
            "ece_is_chance": main_facts["n"] < ECE_ROWS,
        },
        "models": models,
        "baseline": {"metrics": baseline[tested]["metrics"]},
        "splits": splits,
        "data": _data(steps, results.get("slices")),
        **_errors(space.errors, results["label"], label),
        **_drawn(space.curves, main),
        "curve": _curve(space.curve(main)) if label.binary else [],
        "history": steps["experts"].get("history", {}),
        "tried": steps["experts"].get("tried", {}),
        "tried_on": steps["experts"].get("tried_on", {}),
        "choice": steps.get("fusion", {}).get("choice"),
        "made": _made(record, read_json(space.policy)),
    }
    if decided_by.requires:
        facts["label"]["requires"] = decided_by.requires
    if labels := labels_of(folder):
        facts["labels"] = labels
    return facts


def class_counts(split: Mapping[str, Any]) -> list[int]:
    """Rows of each class of a split, from ``n`` and ``positives`` (a number where binary, else one per class)."""
    positives = split["positives"]
    return list(positives) if isinstance(positives, list) else [split["n"] - positives, positives]


def steps_of_label(steps: Mapping[str, Any], label: str) -> dict[str, Any]:
    """What ``run.json`` notes of each step, as a label has it; "" = the first."""
    if not label:
        return dict(steps)
    found = {name: {**step, **step.get("labels", {}).get(label, {})} for name, step in steps.items()}
    heads = {expert: of[label] for expert, of in steps["experts"].get("heads", {}).items() if label in of}
    own = {
        "history": {e: of["history"] for e, of in heads.items()},
        "rows": {e: of["counts"] for e, of in heads.items()},
    }
    return {**found, "experts": {**found["experts"], **own}}


def _model(entry: Mapping[str, Any], policy: Mapping[str, Any], split: str) -> ModelFacts:
    measured = entry[split]
    return {
        "parameters": entry["parameters"],
        "threshold": entry["threshold"],
        "class_thresholds": entry.get("class_thresholds"),
        "calibration": policy["calibration"],
        "formula": formula(policy["calibration"]),
        "few_rows": policy.get("few_rows", {}),
        "patterns": policy["patterns"],
        "gains": entry.get("calibration", {}),
        "seeds": entry.get("seeds", {}),
        "n": measured["n"],
        "positives": measured["positives"],
        "raw": measured["metrics"],
        "calibrated": measured["calibrated"],
        "confusion": measured.get("confusion"),
    }


def _data(steps: Mapping[str, Any], slices: Mapping[str, Any] | None) -> DataFacts:
    manifest, splits, ocr = steps["manifest"], steps["splits"], steps.get("ocr", {})
    return {
        "examples": manifest["examples"],
        "quarantined": manifest["quarantined"],
        "unlabelled": manifest["unlabelled"],
        "reasons": manifest["reasons"],
        "rows": splits["rows"],
        "by_class": splits["by_class"],
        "groups": splits["groups"],
        "near_duplicates": splits["near_duplicates"],
        "leakage": splits["leakage"],
        "ocr": {k: ocr[k] for k in ("pictures", "read", "with_text", "unread") if k in ocr},
        "columns": steps["experts"].get("columns", {}),
        "languages": _languages(slices),
    }


def _verdict(path: Path) -> str | None:
    """What the lab concluded on this run's Evidence, where it was asked."""
    return str(read_json(path)["verdict"]["sentence"]) if path.is_file() else None


def _languages(slices: Mapping[str, Any] | None) -> dict[str, int]:
    """Tested rows in each language, as they were detected."""
    found = slices["slices"] if slices else []
    return {row["slice"]: row["n"] for row in found if row["column"] == "language"}


def _made(record: Mapping[str, Any], policy: Mapping[str, Any]) -> Provenance:
    fuse = record.get("fuse")
    return {
        "date": policy.get("date", ""),
        "policy": policy.get("version", ""),
        "versions": record["versions"],
        "seed": record["seed"],
        "seconds": {name: step["seconds"] for name, step in record["steps"].items()},
        "kept_for_fusion": {"share": fuse["share"], "n": fuse["n"]} if fuse else None,
        "text_role": record["text_role"],
        "config": record["config"],
    }


def _drawn(path: Path, main: str) -> CurveFacts:
    """What ``curves_<run>.json`` holds: curves of every model, reliability of the main one, thresholds to explore."""
    curves = read_json(path)
    models = curves["models"]
    return {
        "roc": {name: drawn["roc"] for name, drawn in models.items() if drawn["roc"]},
        "precision_recall": {name: drawn["precision_recall"] for name, drawn in models.items() if drawn["roc"]},
        "reliability": models[main]["reliability"],
        "risk_coverage": {name: drawn["risk_coverage"] for name, drawn in models.items() if drawn["risk_coverage"]},
        "aurc": {name: drawn["aurc"] for name, drawn in models.items()},
        "explorer": curves["explorer"],
    }


def _curve(path: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in _rows(path)]


def _errors(path: Path, label_name: str, label: Label) -> ErrorFacts:
    """What the error table tells, in one pass: the worst errors, and counts per class."""
    worst: dict[str, list[tuple[float, int, dict[str, str]]]] = {}
    named: Counter[tuple[str, str]] = Counter()
    models: list[str] = []
    for i, row in enumerate(_rows(path)):
        models = models or [column.removesuffix("_prob") for column in row if column.endswith("_prob")]
        main = models[-1]  # the error table puts the model whose word counts last
        if not row[f"{main}_prob"]:
            continue
        truth, guess, p = row[label_name], row[f"{main}_pred"], float(row[f"{main}_prob"])
        named[truth, guess] += 1
        if truth != guess:
            confidence = 1 - p if label.binary and guess == "0" else p
            # -i: of equals the earlier row, and heapq never gets to compare the rows themselves.
            extremes = worst.setdefault(row["error_type"], [])
            heapq.heappush(extremes, (confidence, -i, row))
            if len(extremes) > WORST:
                heapq.heappop(extremes)
    return {
        "errors": {
            "n": sum(n for (truth, guess), n in named.items() if truth != guess),
            "models": models,
            "worst": [
                _error(row, confidence, label_name, models)
                for extremes in worst.values()
                for confidence, _, row in sorted(extremes, reverse=True)
            ],
        },
        "classes": [_class(str(c), named) for c in label.classes],
        "confusion": [[named[str(a), str(b)] for b in label.classes] for a in label.classes],
    }


def _rows(path: Path) -> Iterable[dict[str, str]]:
    # NFKC can make 18 characters of one: a post within the limit may exceed csv's, and must not cost the report.
    csv.field_size_limit(sys.maxsize)
    try:
        with open(path, encoding="utf-8", newline="") as f:
            yield from csv.DictReader(f)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: let `bifocal run CONFIG` write it again") from None


def _error(row: Mapping[str, str], confidence: float, label_name: str, models: Iterable[str]) -> dict[str, Any]:
    text = without_tags(row[TEXT])
    return {
        "id": row["id"],
        TEXT: text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…",
        "truth": row[label_name],
        "type": row["error_type"],
        "confidence": confidence,
        "said": {
            model: {"pred": row[f"{model}_pred"], "prob": float(row[f"{model}_prob"])}
            for model in models
            if row[f"{model}_prob"]
        },
    }


def _class(name: str, named: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "class": name,
        "rows": sum(n for (truth, _), n in named.items() if truth == name),
        "named": sum(n for (_, guess), n in named.items() if guess == name),
        "right": named.get((name, name), 0),
    }
