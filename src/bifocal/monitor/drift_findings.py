"""What a person should know of a comparison of new posts with those that a run was tuned on, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def drift_findings(found: Mapping[str, Any], binary: bool) -> list[str]:
    """What a person should know, the alarms first."""
    told = []
    for state in ("alarm", "moved"):
        for name, entry in found["compared"].items():
            if entry["state"] == state:
                word = "alarm" if state == "alarm" else "moved, but little"
                told.append(f"{word}: {name} ({_movement(entry)}; PSI {entry['psi']:.2f}, p {entry['p_holm']:.2g})")
    few = [name for name, entry in found["compared"].items() if entry["state"] == "too few rows"]
    if few:
        told.append(f"too few rows to see a movement of PSI {found['rule']['psi']:g} in: {', '.join(few)}")
    if none := [name for name, entry in found["compared"].items() if entry["state"] == "not compared"]:
        told.append(f"not compared, as one side has none: {', '.join(none)}")
    if found["new"]["distinct"] < found["new"]["compared"] / 2:
        new = found["new"]
        told.append(
            f"the {new['compared']:,} new rows are copies to a large part: they tell as much as {new['distinct']:,}"
        )
    if found["reference"]["in_sample"]:
        told.append("the run has no val split: compared with its own training posts, on which scores are surer")
    return told + _estimate_findings(found, binary)


def _movement(entry: Mapping[str, Any]) -> str:
    """Where a property went: by its median, or by the value whose share has changed most."""
    if "median" in entry:
        return f"median {entry['median']['reference']:.3g} → {entry['median']['new']:.3g}"
    most = max(entry["bins"], key=lambda one: abs(one["new"] - one["reference"]))
    return f"{most['value']} {most['reference']:.0%} → {most['new']:.0%}"


def _estimate_findings(found: Mapping[str, Any], binary: bool) -> list[str]:
    told: list[str] = []
    if found["estimated_accuracy"] is None:
        return ["no post of the reference bears a label: accuracy and base rate cannot be estimated"]
    if found["estimated_base_rate"] is None:
        return ["the reference's scores do not tell classes apart, or it has one only: no base rate can be estimated"]
    shift = found["label_shift"]
    for name, share in found["estimated_base_rate"].items():
        moved = not share["low"] <= share["reference"] <= share["high"]
        if moved and shift["holds"] is not False and not (binary and name == "0"):
            told.append(
                f"base rate of {name}: estimated at {share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}], "
                f"was {share['reference']:.1%}, if nothing else has changed"
            )
    if told and shift["holds"]:
        told.append(
            "scores that were calibrated at the old base rate are not at the new one: of the estimated accuracies, go "
            "by `label_shift`"
        )
    if shift["holds"] is False:
        told.append(
            f"{shift['misfit']:.0%} of the new posts have scores like no mixture of the classes (p {shift['p']:.2g}): "
            "not only the base rate has changed, so do not rely on its estimate, nor on the accuracy by `label_shift`"
        )
    elif shift["holds"] is None:
        told.append("too few rows to test whether only the base rate has changed")
    accuracy = found["estimated_accuracy"]
    before = accuracy["reference"]["value"]
    unsound = {"reference", *(["label_shift"] if shift["holds"] is False else [])}
    estimates = [entry for name, entry in accuracy.items() if name not in unsound]
    if all(entry["high"] < before for entry in estimates):
        told.append(f"what estimates of the accuracy are left all lie below the {before:.1%} of the reference")
    return told
