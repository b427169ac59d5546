"""Diagnostics of a fitted fusion on rows it was not trained on: parts left out, exchanged and paired anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor

from ..contracts import PairScorer
from ..decide.calibration import softmax
from ..diagnose.dominance import Dominance, measure_dominance, perceptual_score, subsets
from ..diagnose.interaction import Information, confounder_accuracy, emap_in_blocks, estimate_pid
from ..diagnose.scored_rows import Score
from ..errors import DataError
from ..evaluate.compare import Gain
from ..evaluate.intervals import Figure
from ..example import Evidence
from ..models.evidence_fusion import Pairs
from .trials import Study, Trial, best
from .usable_rows import groups_of, labels_of

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

    def every(rows: slice, columns: slice) -> Tensor:
        r, c = np.arange(n)[rows], np.arange(n)[columns]
        one, other = np.repeat(r, len(c)), np.tile(c, len(r))
        logits = score(rearranged(evidence, {m: one if m == first else other for m in evidence}))
        return logits.unflatten(0, (len(r), len(c)))

    return emap_in_blocks(_quick(score, evidence, first, every) or every, n, block=block)


def _quick(score: Score, evidence: Mapping[str, Evidence], first: str, every: Pairs) -> Pairs | None:
    """The fusion's own way to score pairs, where it has one that gives the same."""
    if not isinstance(score, PairScorer):
        return None
    found, some = score.pairs(evidence, first), (slice(0, 2), slice(0, 3))
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


class Risk(TypedDict):
    """The gain of being without a modality (below 0: a loss), by name, and the worst of them."""

    worst: str
    drops: dict[str, Gain]
    over_rest: dict[str, Gain]
    """The fusion without a modality over the best model on val of one of the others."""


class Pid(Information):
    """With the modalities that the sources are."""

    first: str
    second: str


class Confounders(Figure):
    """As `ConfounderAccuracy`."""

    pairs: int


class Diagnosis(TypedDict):
    """What `diagnose_fusion` finds; None where these rows cannot define it."""

    risk: Risk
    dominance: dict[str, Dominance]
    """By accuracy, and by the metric."""
    perceptual: dict[str, Figure] | None
    pid: Pid | None
    confounders: dict[str, Confounders | None]


def absence(study: Study, probabilities: Mapping[frozenset[str], np.ndarray], alone: Mapping[str, Trial]) -> Risk:
    """What is lost when a modality is absent from every test row, of probabilities with only these parts."""
    labels, on_val = (labels_of(study.evidence, split) for split in ("test", "val"))
    groups, resampling = groups_of(study.evidence, "test"), study.resampling
    everything = max(probabilities, key=len)
    drops, over_rest = {}, {}
    for m in sorted(everything):
        left = probabilities[everything - {m}]
        rest = best([alone[other] for other in alone if other != m], on_val, resampling.metric)
        drops[m] = resampling.gain(labels, probabilities[everything], left, groups)
        over_rest[m] = resampling.gain(labels, rest.probabilities("test"), left, groups)
    return {"worst": min(drops, key=lambda m: drops[m]["value"]), "drops": drops, "over_rest": over_rest}


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


def diagnose_fusion(study: Study, fused: Trial, alone: Mapping[str, Trial]) -> tuple[Diagnosis, list[str]]:
    """Who dominates a fusion, whether its modalities interact, and what it loses without one of them, on test.

    Parameters
    ----------
    fused : Trial
        With its fusion.
    alone : mapping
        Modality -> the best model of it alone, on val.

    Returns
    -------
    Diagnosis, list of str
        And findings: what these rows cannot define.
    """
    fusion, test = fused.fusion, study.evidence["test"]
    if fusion is None:
        raise DataError(f"{fused.name} is no fusion: there is nothing to take apart")
    probabilities = {kept: softmax(with_only(fusion, test, kept), fused.temperature) for kept in subsets(list(test))}
    perceptual, unknown = _perceptual(study, fusion)
    pid, undefined = _pid(study, fused, alone)
    confounders, unpaired = _confounders(study, probabilities[frozenset(test)].argmax(axis=1))
    found: Diagnosis = {
        "risk": absence(study, probabilities, alone),
        # Accuracy is what the known answers are in; where most rows are of one class it hardly moves.
        "dominance": {m: _dominance(study, probabilities, m) for m in ("accuracy", study.resampling.metric)},
        "perceptual": perceptual,
        "pid": pid,
        "confounders": confounders,
    }
    return found, [*unknown, *undefined, *unpaired]


def _dominance(study: Study, probabilities: Mapping[frozenset[str], np.ndarray], metric: str) -> Dominance:
    labels, groups, drawn = labels_of(study.evidence, "test"), groups_of(study.evidence, "test"), study.resampling
    return measure_dominance(labels, probabilities, groups, metric=metric, resamples=drawn.resamples, seed=drawn.seed)


def _perceptual(study: Study, fusion: Fusion) -> tuple[dict[str, Figure] | None, list[str]]:
    resamples, seed = study.resampling.resamples, study.resampling.seed
    rows = sample_rows(groups_of(study.evidence, "test"), ROWS, seed)
    some = {"test": {name: e.take(rows) for name, e in study.evidence["test"].items()}}
    labels, groups = labels_of(some, "test"), groups_of(some, "test")

    def classes(taken: Mapping[str, np.ndarray]) -> np.ndarray:
        return fusion(rearranged(some["test"], taken)).numpy().argmax(axis=1)

    try:
        scores = perceptual_score(
            classes,
            labels,
            list(some["test"]),
            groups=groups,
            permutations=PERMUTATIONS,
            resamples=resamples,
            seed=seed,
        )
    except DataError as error:
        return None, [str(error)]
    return {name: found.figure() for name, found in scores.items()}, []


def _pid(study: Study, fused: Trial, alone: Mapping[str, Trial]) -> tuple[Pid | None, list[str]]:
    names = list(study.evidence["test"])
    labels, groups = labels_of(study.evidence, "test"), groups_of(study.evidence, "test")
    if len(names) != 2:
        return None, [f"information is decomposed for two sources; here are {len(names)}"]
    # Rounded, since models sure of themselves say thousands of things that differ in the tenth digit.
    first, second, both = (t.probabilities("test").round(4) for t in (alone[names[0]], alone[names[1]], fused))
    drawn = min(study.resampling.resamples, PID_RESAMPLES)
    found = estimate_pid(labels, first, second, both, groups, resamples=drawn, seed=study.resampling.seed)
    return {"first": names[0], "second": names[1], **found}, []


def _confounders(study: Study, guesses: np.ndarray) -> tuple[dict[str, Confounders | None], list[str]]:
    labels, findings = labels_of(study.evidence, "test"), []
    resamples, seed = study.resampling.resamples, study.resampling.seed
    found: dict[str, Confounders | None] = dict.fromkeys(study.evidence["test"])
    for name, e in study.evidence["test"].items():
        values = values_of(e)
        try:
            if len(set(values) - {None}) < 2:
                raise DataError(f"all test rows have the same {name}: no pairs are made of that")
            pairs = confounder_accuracy(labels, guesses, values, resamples=resamples, seed=seed)
            found[name] = {"value": pairs.value, "low": pairs.low, "high": pairs.high, "pairs": pairs.pairs}
        except DataError as error:
            findings.append(f"no confounder pairs by {name}: {error}")
    return found, findings
