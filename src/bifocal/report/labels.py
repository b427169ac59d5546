"""The labels of a run side by side, as they stand at the top of each one's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..assess.predictions import MAJORITY
from ..assess.related_labels import told_annotation_gap
from ..data.label_relations import told_of
from ..decide.policy import Policy
from ..evaluate.metrics import headline_metric
from ..example import SPLITS
from ..workspace import Workspace, read_json
from .schema import Headline, LabelsFacts, LabelSummary


def labels_of(folder: str | Path) -> LabelsFacts | None:
    """What a run of several labels came to by each of them; None for a run of one.

    Raises
    ------
    RunError
        Naming the artifact that is missing or broken.
    """
    space = Workspace.of(folder)
    results, steps = read_json(space.results), read_json(space.record)["steps"]
    if not results.get("labels"):
        return None
    policy = Policy.load(space.policy)
    first, odd = results["label"], results.get("contradictions", {})
    splits, each = steps["splits"], list[LabelSummary]()
    told = told_of(splits.get("contradictions", {}), splits.get("gaps", []))
    for name, of in {first: results, **results["labels"]}.items():
        place = space.for_label(name, first).report.name
        decides = policy.of_label(name)
        main, baseline = of["models"][of["main"]], of["models"][MAJORITY]
        each.append(
            {
                "name": name,
                "folder": f"../{quote(place)}/",
                "headline": headline(of["main"], len(decides.classes), of["tested_on"], main[of["tested_on"]]),
                "gain": of.get("gain"),
                "threshold": main["threshold"],
                "class_thresholds": main.get("class_thresholds"),
                "act": decides.act,
                "requires": decides.requires,
                "rows": {split: baseline[split]["n"] for split in SPLITS if split in baseline},
                "end_to_end": of.get("end_to_end"),
                "contradictions": odd.get(name),
            }
        )
        if (gap := of.get("annotation")) and gap["differ"]:
            told.append(told_annotation_gap(gap, name, decides))
    return {"each": each, "told": told}


def headline(model: str, classes: int, split: str, measured: Mapping[str, Any]) -> Headline:
    """The figure that stands for a label: of its deciding model on the tested split."""
    metric = headline_metric(classes)
    figure = measured["calibrated"][metric]
    return {
        "model": model,
        "metric": metric,
        "split": split,
        "value": figure["value"],
        "low": figure["low"],
        "high": figure["high"],
        "n": measured["n"],
        "positives": measured["positives"],
    }
