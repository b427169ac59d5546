"""Linear probes: whether what is asked of a modality's features can be read off them by a linear head at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..decide.calibration import softmax
from ..errors import DataError
from ..evaluate.intervals import Figure, measure
from ..models.linear import fit_linear
from .usable_rows import Splits, groups_of

Probes = dict[str, dict[str, Figure]]
"""Modality -> metric -> figure."""


def probe(
    evidence: Splits, classes: Mapping[str, Sequence[int]], *, resamples: int, seed: int
) -> tuple[Probes, list[str]]:
    """How well a linear head on each modality's features tells a label that no model of the lab is trained on.

    A fusion that stays at chance where the probes do not has failed at fusing; where they do too, the encoders never
    saw it (Alain & Bengio 2017, arXiv:1610.01644).

    Parameters
    ----------
    evidence : Splits
        ``train`` and ``test``.
    classes : mapping
        Split -> class index ``[n]`` of each row; below 0 = not annotated.

    Returns
    -------
    Probes, list of str
        Accuracy on test; and findings: which could not be probed.
    """
    found: Probes = {}
    findings = []
    for name in evidence["train"]:
        rows = {}
        for split in ("train", "test"):
            known = np.asarray(classes[split]) >= 0
            rows[split] = np.flatnonzero(known & evidence[split][name].present.numpy()).tolist()
        labels = {split: np.asarray(classes[split])[taken] for split, taken in rows.items()}
        width = 1 + max(int(max(c, default=0)) for c in classes.values())
        try:
            if not rows["test"] or len(np.unique(labels["train"])) < 2:
                raise DataError("train shows fewer than two classes of it, or test no row")
            x = {split: evidence[split][name].features[taken] for split, taken in rows.items()}
            groups = {split: [groups_of(evidence, split)[i] for i in taken] for split, taken in rows.items()}
            head = fit_linear(x["train"], torch.from_numpy(labels["train"]), groups["train"], classes=width)
            probabilities = softmax(head(x["test"]).double().numpy())
            figures = measure(labels["test"], probabilities, groups["test"], resamples=resamples, seed=seed)
            found[name] = {"accuracy": figures["metrics"]["accuracy"]}
        except DataError as error:
            findings.append(f"{name} is not probed: {error}")
    return found, findings
