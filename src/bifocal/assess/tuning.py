"""The Predictions that calibration and thresholds are fitted on: those of val and, where val is small, of train too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..decide.policy import POOLED, pattern_of, patterns
from ..decide.tuning_rows import TuningRows
from ..example import UNLABELLED, Evidence
from ..fit.cross_fit import CrossFitted
from ..fit.fusion import MODEL
from ..sources.feedback import SAMPLES
from .predictions import Predictions, pattern_predictions
from .run_data import RunData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..decide.tuning_rows import Scores

VAL_ROWS, VAL_RAREST = 1000, 200
"""Annotated val rows, in all and of the rarest class, from which on val is enough (`decide.on: auto`)."""


def wants_train(data: RunData) -> bool:
    """Whether training rows are to be tuned on beside val, as `decide.on` has it; never in-sample."""
    on = data.config.decide.on
    if data.in_sample or on == "val":
        return False
    labels = np.array(data.split(data.tuned_on).classes(data.config.label, data.label))
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(data.label.classes))
    return on == "cross_fit" or int(counts.sum()) < VAL_ROWS or int(counts.min()) < VAL_RAREST


def cross_fitted(data: RunData) -> CrossFitted | None:
    """What the step `fusion` found by cross-fitting; None where it tuned on val, or one modality decides alone."""
    if data.fused is None:
        return None
    return CrossFitted.load(data.space.evidence(MODEL, "train"), data.split("train").fingerprint)


def training_predictions(data: RunData) -> Predictions:
    """What models that never saw a training row's group say of it.

    A frozen expert's logits of train are cross-fitted. A fine-tuned expert has an opinion on the rows alone that were
    kept from it; a fusion on those that it was cross-fitted on.
    """
    evidence = data.evidence_of("train")
    predictions = Predictions.gather(evidence, data.expert_names, None, MODEL)
    has = {
        data.expert_names[name]: (e.present & ~e.seen & (e.labels != UNLABELLED)).numpy()
        for name, e in evidence.items()
    }
    logits, found = dict(predictions.logits), cross_fitted(data)
    if data.fused is not None:
        place = {} if found is None else {row: i for i, row in enumerate(found.ids)}
        rows = np.array(
            [i for i, row in enumerate(predictions.ids) if row in place and predictions.patterns[i]], dtype=int
        )
        logits[MODEL] = np.zeros_like(next(iter(logits.values())))
        has[MODEL] = np.zeros(len(predictions.ids), dtype=bool)
        if found is not None and len(rows):
            logits[MODEL][rows] = found.logits.numpy()[[place[predictions.ids[i]] for i in rows]]
            has[MODEL][rows] = True
    return replace(predictions, logits=logits, has=has, languages=data.languages("train"))


def tuning_predictions(data: RunData) -> Predictions:
    """All rows that a policy is fitted on, of which each model has an opinion on its own."""
    predictions = data.predictions(data.tuned_on)
    return predictions.and_more(training_predictions(data)) if wants_train(data) else predictions


def tuning_rows(data: RunData, predictions: Predictions) -> TuningRows:
    """The same by model and presence pattern, with val apart for what promises rest on."""
    val = data.predictions(data.tuned_on)
    promised, scores = _pooled(data, val), _pooled(data, predictions)
    if data.fused is not None:
        own = pattern_predictions(data.fused_evidence(data.tuned_on), data.expert_names, data.fused, MODEL)
        more = _blanked_scores(data) if len(predictions.ids) > len(val.ids) else {}
        promised[MODEL] |= own
        scores[MODEL] |= {pattern: joined(found, more.get(pattern)) for pattern, found in own.items()}
    decided = predictions.has[data.models[-1]]
    return TuningRows(
        scores,
        weights=tuning_weights(data, predictions),
        groups=None if data.in_sample else list(np.array(predictions.groups)[decided]),
        languages=np.array(val.languages, dtype=object)[val.has[data.models[-1]]].tolist(),
        promised=promised,
    )


def stands_for(data: RunData, ids: Sequence[str]) -> NDArray[np.float64] | None:
    """How many decisions each row of val or train stands for, where a judged one was sampled; None = one each.

    `sources.feedback` knows it; any other column of that name is not looked at.
    """
    source = data.config.source
    kinds = [source.kind, *(one.get("kind") for one in source.options.get("sources", []))]
    if "feedback" not in kinds:
        return None
    known: dict[str, float] = {}
    for split in dict.fromkeys((data.tuned_on, "train")):
        rows = data.split(split)
        for row, name in enumerate(rows.ids):
            meta = rows.meta(row)
            if meta.get("sample") in SAMPLES and "decided" in meta:
                known[name] = float(meta["weight"])
    found = np.array([known.get(name, 1.0) for name in ids])
    return None if (found == 1).all() else found


def tuning_weights(data: RunData, predictions: Predictions) -> dict[str, dict[str, NDArray[np.float64]]] | None:
    """The same by model and presence pattern, of the rows that `tuning_rows` has; None = one each."""
    every = stands_for(data, predictions.ids)
    if every is None:
        return None
    weights = {model: {POOLED: every[predictions.has[model]]} for model in data.models}
    if data.fused is not None:
        of = dict(zip(predictions.ids, every.tolist(), strict=True))
        sets: list[tuple[Mapping[str, Evidence], Sequence[str] | None]] = [(data.fused_evidence(data.tuned_on), None)]
        if (found := cross_fitted(data)) is not None and len(predictions.ids) > len(data.split(data.tuned_on).ids):
            sets.append((data.evidence_of("train"), found.ids))
        for keep in patterns(sets[0][0]):
            names = [name for evidence, ids in sets for name in _rows_with(evidence, keep, ids)]
            weights[MODEL][pattern_of(keep)] = np.array([of[name] for name in names])
    return weights


def _rows_with(evidence: Mapping[str, Evidence], keep: Sequence[str], ids: Sequence[str] | None) -> list[str]:
    """The rows, of all or of some in their order, that have all parts in ``keep``."""
    every = next(iter(evidence.values())).ids
    there = np.all([evidence[name].present.numpy() for name in keep], axis=0)
    has = {name for name, one in zip(every, there.tolist(), strict=True) if one}
    return [name for name in (every if ids is None else ids) if name in has]


def training_scores(data: RunData) -> dict[str, dict[str, Scores]]:
    """Model -> pattern -> logits and labels of `training_predictions`; of the fusion also with other parts blanked."""
    scores = _pooled(data, training_predictions(data))
    if data.fused is not None:
        scores[MODEL] |= _blanked_scores(data)
    return scores


def _blanked_scores(data: RunData) -> dict[str, Scores]:
    """Pattern -> logits and labels of the training rows that have its parts, by a fusion that heard no other part."""
    found = cross_fitted(data)
    if found is None:
        return {}
    scores: dict[str, Scores] = {}
    evidence = data.evidence_of("train")
    place = {row: i for i, row in enumerate(data.split("train").ids)}
    rows = [place[row] for row in found.ids]
    for keep in patterns(evidence):
        there = np.all([evidence[name].present.numpy()[rows] for name in keep], axis=0)
        logits = found.patterns[pattern_of(keep)].numpy()
        scores[pattern_of(keep)] = logits[there], found.labels.numpy()[there]
    return scores


def tuned_on(data: RunData, predictions: Predictions) -> dict[str, dict[str, int]]:
    """Model -> split -> annotated rows that its calibration and threshold are fitted on."""
    val = len(data.predictions(data.tuned_on).ids)
    counts = {}
    for model in data.models:
        known = predictions.has[model] & (predictions.labels != UNLABELLED)
        counts[model] = {data.tuned_on: int(known[:val].sum()), "train": int(known[val:].sum())}
    return {model: {split: n for split, n in of.items() if n} for model, of in counts.items()}


def _pooled(data: RunData, predictions: Predictions) -> dict[str, dict[str, Scores]]:
    return {
        m: {POOLED: (predictions.logits[m][predictions.has[m]], predictions.labels[predictions.has[m]])}
        for m in data.models
    }


def joined(first: Scores, second: Scores | None) -> Scores:
    """The rows of both."""
    if second is None:
        return first
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
