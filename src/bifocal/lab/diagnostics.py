"""Diagnostics of a fitted fusion on rows it was not trained on: parts left out, exchanged and paired anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..decide.calibration import softmax
from ..diagnose.dominance import measure_dominance, perceptual_score, subsets
from ..diagnose.interaction import confounder_accuracy, emap_in_blocks, estimate_pid
from ..diagnose.scored_rows import Score
from ..errors import DataError
from ..evaluate.compare import Resampling
from ..example import Evidence
from ..models.evidence_fusion import Pairs
from .trials import Trial

if TYPE_CHECKING:
    from ..contracts import Fusion

ROWS = 2000
"""Rows at most for what looks at pairs of rows: EMAP scores ``ROWS * ROWS`` of them."""
BLOCK = 50
"""Rows and columns of an EMAP block: 2,500 pairs with all their features live at a time; larger ones are slower."""
PERMUTATIONS = 20
"""Of the perceptual score; its error from them is far below that from the rows."""
PID_RESAMPLES = 200
"""At most, since each solves a convex programme."""
ALIKE = 1e-4
"""Of logits by two ways of computing them."""
SAME = 1e-4
"""Two parts whose features differ by no more than this, in units of their spread, are one and the same value."""


def rearranged(evidence: Mapping[str, Evidence], rows: Mapping[str, np.ndarray]) -> dict[str, Evidence]:
    """Rows put together anew: row i has modality ``m`` of row ``rows[m][i]``; ids, groups and labels mean nothing."""
    ids = ("",) * len(next(iter(rows.values())))
    result = {}
    for name, e in evidence.items():
        index = torch.from_numpy(rows[name])
        features, logits, present = e.features[index], e.logits[index], e.present[index]
        result[name] = Evidence(ids, ids, features, logits, present, e.labels[index], e.seen[index])
    return result


def additive_part(score: Score, evidence: Mapping[str, Evidence], first: str, *, block: int = BLOCK) -> np.ndarray:
    """EMAP of a fusion or any score, ``[n, C]``: ``first`` against all other modalities, which stay together."""
    n = len(next(iter(evidence.values())))

    def every(rows: slice, columns: slice) -> Any:
        r, c = np.arange(n)[rows], np.arange(n)[columns]
        one, other = np.repeat(r, len(c)), np.tile(c, len(r))
        logits = score(rearranged(evidence, {m: one if m == first else other for m in evidence}))
        return logits.unflatten(0, (len(r), len(c)))

    return emap_in_blocks(_quick(score, evidence, first, every) or every, n, block=block)


def _quick(score: Score, evidence: Mapping[str, Evidence], first: str, every: Pairs) -> Pairs | None:
    """The fusion's own way to score pairs, where it has one that gives the same."""
    if (pairs := getattr(score, "pairs", None)) is None:
        return None
    found, some = pairs(evidence, first), (slice(0, 2), slice(0, 3))
    try:
        return found if torch.allclose(found(*some), every(*some), atol=ALIKE) else None
    except RuntimeError:  # its layers do not broadcast
        return None


def sample_rows(groups: Sequence[str], limit: int, seed: int) -> list[int]:
    """Row numbers of whole groups drawn at random, at most ``limit`` of them; all where they are no more."""
    if len(groups) <= limit:
        return list(range(len(groups)))
    names, of_row, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = np.zeros(len(names), dtype=bool)
    taken[order[np.cumsum(sizes[order]) <= limit]] = True
    return np.flatnonzero(taken[of_row]).tolist()


def with_only(fusion: Fusion, evidence: Mapping[str, Evidence], keep: frozenset[str]) -> np.ndarray:
    """Logits ``[n, C]`` of the same rows with every part outside ``keep`` blanked."""
    left = {name: e if name in keep else e.without() for name, e in evidence.items()}
    return fusion(left).double().numpy()


def absence(
    said: Mapping[frozenset[str], np.ndarray], labels: np.ndarray, groups: Sequence[str], resampling: Resampling
) -> dict[str, Any]:
    """What is lost when a modality is absent from every row.

    Parameters
    ----------
    said : {frozenset of modality names: [n, C]}
        Probabilities with only these parts.

    Returns
    -------
    dict
        ``worst`` (a name) and ``drops``: name -> paired gain of being without it (below 0: a loss).
    """
    everything = max(said, key=len)
    drops = {m: resampling.gain(labels, said[everything], said[everything - {m}], groups) for m in everything}
    return {"worst": min(sorted(drops), key=lambda m: drops[m]["value"]), "drops": dict(sorted(drops.items()))}


def values_of(e: Evidence) -> list[int | None]:
    """A number for each distinct value of a part, by its features; None where absent.

    Rows are put in the order of one projection of their features, in which equal values are neighbours.
    """
    there = np.flatnonzero(e.present.numpy())
    numbers: list[int | None] = [None] * len(e)
    if not len(there):
        return numbers
    x = e.features.double().numpy()[there]
    x = (x - x.mean(axis=0)) / max(float(x.std()), np.finfo(float).tiny)
    order = np.argsort(x @ np.random.default_rng(0).normal(size=x.shape[1]), kind="stable")
    another = np.abs(np.diff(x[order], axis=0)).max(axis=1) > SAME
    for row, number in zip(there[order].tolist(), [0, *np.cumsum(another).tolist()], strict=True):
        numbers[row] = number
    return numbers


def diagnose_fusion(
    fused: Trial,
    alone: Mapping[str, Trial],
    evidence: Mapping[str, Evidence],
    labels: np.ndarray,
    groups: Sequence[str],
    resampling: Resampling,
) -> tuple[dict[str, Any], list[str]]:
    """Who dominates a fusion, whether its modalities interact, and what it loses without one of them, on test.

    Parameters
    ----------
    fused : Trial
        With its fusion.
    alone : mapping
        Modality -> the best model of it alone, on val.
    evidence : mapping
        Modality -> Evidence of the test rows.
    labels, groups : [n]

    Returns
    -------
    dict, list of str
        ``risk``, ``dominance`` (by accuracy, and by the metric), ``perceptual``, ``pid``, ``confounders``; and
        findings: what these rows cannot define. Such a figure is None.
    """
    fusion = fused.fusion
    if fusion is None:
        raise DataError(f"{fused.name} is no fusion: there is nothing to take apart")
    findings: list[str] = []
    names = list(evidence)
    resamples, seed = resampling.resamples, resampling.seed
    said = {kept: softmax(with_only(fusion, evidence, kept), fused.temperature) for kept in subsets(names)}
    rows = sample_rows(groups, ROWS, seed)
    some = {name: e.take(rows) for name, e in evidence.items()}

    def classes(taken: Mapping[str, np.ndarray]) -> np.ndarray:
        return fusion(rearranged(some, taken)).numpy().argmax(axis=1)

    result: dict[str, Any] = {"risk": absence(said, labels, groups, resampling)}
    # Accuracy is what the known answers are in; where most rows are of one class it hardly moves.
    result["dominance"] = {
        m: measure_dominance(labels, said, groups, metric=m, resamples=resamples, seed=seed)
        for m in ("accuracy", resampling.metric)
    }
    try:
        chosen = [groups[i] for i in rows]
        scores = perceptual_score(
            classes, labels[rows], names, groups=chosen, permutations=PERMUTATIONS, resamples=resamples, seed=seed
        )
        result["perceptual"] = {name: found._asdict() for name, found in scores.items()}
    except DataError as error:
        result["perceptual"] = None
        findings.append(str(error))
    result["pid"] = None
    if len(names) == 2:
        # Rounded, since models sure of themselves say thousands of things that differ in the tenth digit.
        first, second, both = (t.probabilities("test").round(4) for t in (alone[names[0]], alone[names[1]], fused))
        drawn = min(resamples, PID_RESAMPLES)
        decomposed = estimate_pid(labels, first, second, both, groups, resamples=drawn, seed=seed)
        result["pid"] = {"first": names[0], "second": names[1], **decomposed}
    else:
        findings.append(f"information is decomposed for two sources; here are {len(names)}")
    guesses = said[frozenset(names)].argmax(axis=1)
    result["confounders"] = dict.fromkeys(names)
    for name, e in evidence.items():
        values = values_of(e)
        try:
            if len(set(values) - {None}) < 2:
                raise DataError(f"all test rows have the same {name}: no pairs are made of that")
            pairs = confounder_accuracy(labels, guesses, values, resamples=resamples, seed=seed)
            result["confounders"][name] = pairs._asdict()
        except DataError as error:
            findings.append(f"no confounder pairs by {name}: {error}")
    return result, findings
