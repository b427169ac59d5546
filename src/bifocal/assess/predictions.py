"""What every model says of every split, measured: the content of ``results_<run>.json`` and the error table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decide.calibration import softmax
from ..decide.policy import Policy, pattern_of, patterns
from ..evaluate.compare import gains_over_each, measure_change
from ..evaluate.curves import precision_recall, reliability, reliability_target, risk_coverage, roc, threshold_counts
from ..evaluate.differences import class_shares_p_value
from ..evaluate.error_table import write_errors
from ..evaluate.intervals import measure
from ..evaluate.metrics import METRICS, headline_metric
from ..example import UNLABELLED, Evidence, Label

if TYPE_CHECKING:
    from ..contracts import Fusion

MAJORITY = "majority"
ECE = {"bins": 15, "kind": "equal width"}
SHARES_DIFFER = 0.01
"""Splits whose class shares would differ as much by chance less often than this are told of."""


@dataclass(frozen=True)
class Predictions:
    """What each model says of the rows of one split.

    Attributes
    ----------
    labels : array, [n]
        Class indices.
    logits : dict of array, [n, C]
        By model.
    has : dict of bool array, [n]
        Whether the model has an opinion: an expert needs its part, the fusion any part.
    patterns : list of str, [n]
        Which modalities each row brings.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: np.ndarray
    logits: dict[str, np.ndarray]
    has: dict[str, np.ndarray]
    patterns: list[str]
    languages: list[str] | None = None
    """As they were detected, empty without text; None = not known here."""

    @classmethod
    def gather(
        cls, evidence: Mapping[str, Evidence], experts: Mapping[str, str], fusion: Fusion | None, fusion_name: str
    ) -> Predictions:
        """From Evidence by modality; ``experts`` maps a modality to the name of its expert."""
        first = next(iter(evidence.values()))
        present = {name: e.present.numpy() for name, e in evidence.items()}
        logits = {experts[name]: e.logits.numpy() for name, e in evidence.items()}
        has = {experts[name]: rows for name, rows in present.items()}
        if fusion is not None:
            logits[fusion_name] = fusion(evidence).numpy()
            has[fusion_name] = np.any(list(present.values()), axis=0)
        rows = [pattern_of(name for name in evidence if present[name][i]) for i in range(len(first))]
        return cls(first.ids, first.groups, first.labels.numpy(), logits, has, rows)


def blanked(evidence: Mapping[str, Evidence], keep: Sequence[str]) -> dict[str, Evidence]:
    """Evidence of the rows that have all the parts in ``keep``, with every other part blanked."""
    rows = np.all([evidence[name].present.numpy() for name in keep], axis=0).nonzero()[0].tolist()
    taken = {name: e.take(rows) for name, e in evidence.items()}
    return {name: e if name in keep else e.without() for name, e in taken.items()}


def pattern_predictions(
    evidence: Mapping[str, Evidence], experts: Mapping[str, str], fusion: Fusion, fusion_name: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pattern -> (logits, labels) of the fusion where only these parts are left."""
    result = {}
    for keep in patterns(evidence):
        said = Predictions.gather(blanked(evidence, keep), experts, fusion, fusion_name)
        result[pattern_of(keep)] = (said.logits[fusion_name], said.labels)
    return result


def calibrated(
    said: Predictions, policy: Policy, model: str, *, adjusted: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities ``[n, C]`` and predicted classes ``[n]``, each row by its presence pattern.

    Rows on which the model has no opinion are nan. Unless ``adjusted``, probabilities are those at the base rate of
    val, which is that of test, whatever base rate the policy is for; the predicted classes are the policy's.
    """
    probabilities = np.empty_like(said.logits[model], dtype=float)
    predictions = np.empty(len(said.ids), dtype=int)
    as_it_is = adjusted or policy.base_rate is None
    for pattern, rows in _by_pattern(said):
        logits = said.logits[model][rows]
        deployed = policy.probabilities(model, logits, pattern)
        predictions[rows] = policy.predictions(model, deployed, pattern)
        probabilities[rows] = deployed if as_it_is else policy.probabilities(model, logits, pattern, adjusted=False)
    probabilities[~said.has[model]] = np.nan
    return probabilities, predictions


def _by_pattern(said: Predictions) -> Iterator[tuple[str, np.ndarray]]:
    """Each presence pattern, and whether a row bears it ``[n]``."""
    row_patterns = np.array(said.patterns)
    for pattern in set(said.patterns):
        yield pattern, row_patterns == pattern


def actions(said: Predictions, policy: Policy, model: str) -> np.ndarray:
    """What the policy does with each row ``[n]``: allow, review or block; of several classes review, or its name.

    Rows on which the model has no opinion are empty.
    """
    probabilities, predictions = calibrated(said, policy, model)
    done = np.array([str(name) for name in policy.classes], dtype=object)[predictions]
    languages = None if said.languages is None else np.array(said.languages, dtype=object)
    for pattern, rows in _by_pattern(said):
        own = None if languages is None else languages[rows].tolist()
        found = policy.actions(model, probabilities[rows], predictions[rows], pattern, own)
        done[rows] = np.where(found == "", done[rows], found)
    return np.where(said.has[model], done, "")


def measure_actions(said: Predictions, policy: Policy, model: str) -> dict[str, Any]:
    """What the policy does with a split, by class of the post; posts without a label under ``none``.

    Returns
    -------
    dict
        ``allow``, ``review``, ``block``: counts by ``negative``, ``positive``, ``none``. Of several classes ``n``,
        ``review`` (posts whose prediction set is not their label alone), ``size`` (classes of a set, mean),
        ``labelled`` and ``missed`` (posts whose set leaves their class out) in all and ``by_class``.
    """
    done, kinds = actions(said, policy, model), {"negative": 0, "positive": 1, "none": UNLABELLED}
    if len(policy.classes) > 2:
        return _measure_sets(said, policy, model, done)
    return {
        action: {kind: int(np.sum((done == action) & (said.labels == y))) for kind, y in kinds.items()}
        for action in ("allow", "review", "block")
    }


def _measure_sets(said: Predictions, policy: Policy, model: str, done: np.ndarray) -> dict[str, Any]:
    probabilities, _ = calibrated(said, policy, model)
    sets = np.ones_like(probabilities, dtype=bool)
    for pattern, rows in _by_pattern(said):
        found = policy.candidates(model, probabilities[rows], pattern)
        sets[rows] = True if found is None else found
    there = said.has[model]
    known = there & (said.labels != UNLABELLED)
    missed = ~sets[known, said.labels[known]]
    return {
        "n": int(there.sum()),
        "review": int(np.sum(done[there] == "review")),
        "size": float(sets[there].sum(axis=1).mean()) if there.any() else None,
        "labelled": int(known.sum()),
        "missed": int(missed.sum()),
        "by_class": {
            str(name): {"labelled": int(of.sum()), "missed": int(missed[of].sum())}
            for name, of in ((name, said.labels[known] == c) for c, name in enumerate(policy.classes))
        },
    }


def prior(labels: np.ndarray, classes: int) -> np.ndarray:
    """Class shares of train, ``[C]``: the majority baseline, and the stand-in where a model has no opinion."""
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    return counts / counts.sum()


def confusion(labels: np.ndarray, predictions: np.ndarray) -> dict[str, int]:
    """Counts ``tp, fp, fn, tn`` of a binary label."""
    return {
        "tp": int(np.sum((labels == 1) & (predictions == 1))),
        "fp": int(np.sum((labels == 0) & (predictions == 1))),
        "fn": int(np.sum((labels == 1) & (predictions == 0))),
        "tn": int(np.sum((labels == 0) & (predictions == 0))),
    }


def measure_model(
    said: Predictions, model: str, policy: Policy, label: Label, *, resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One model on one split: uncalibrated at 0.5, calibrated at the policy's thresholds, and the confusion counts.

    And what calibration did to its NLL and Brier, as `paired_gain`: below 0 is better.
    """
    rows = said.has[model]
    groups = [g for g, keep in zip(said.groups, rows, strict=True) if keep]
    labels = said.labels[rows]
    probabilities, predictions = (a[rows] for a in calibrated(said, policy, model, adjusted=False))
    raw, after, change = measure_change(
        labels,
        softmax(said.logits[model][rows]),
        probabilities,
        groups,
        predictions=predictions,
        resamples=resamples,
        seed=seed,
    )
    result = {**raw, "calibrated": after["metrics"]}
    if label.binary:
        result["confusion"] = confusion(labels, predictions)
    return result, change


def measure_majority(said: Predictions, shares: np.ndarray, *, resamples: int, seed: int) -> dict[str, Any]:
    """The baseline that always names the commonest class of train, with train's class shares as probabilities."""
    probabilities = np.tile(shares, (len(said.ids), 1))
    predictions = np.full(len(said.ids), int(shares.argmax()))
    return measure(said.labels, probabilities, said.groups, predictions=predictions, resamples=resamples, seed=seed)


def measure_models(
    said: Mapping[str, Predictions],
    policy: Policy,
    label: Label,
    parameters: Mapping[str, Any],
    shares: np.ndarray,
    *,
    tested_on: str,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Every model, and the majority baseline, on every split (``said``: split -> `Predictions`).

    What calibration did to NLL and Brier (``calibration``) is told of the split ``tested_on``.
    """
    settings = {"resamples": resamples, "seed": seed}
    models: dict[str, Any] = {}
    for model, weights in parameters.items():
        found = {split: measure_model(opinions, model, policy, label, **settings) for split, opinions in said.items()}
        models[model] = {
            "parameters": weights,
            "threshold": policy.models[model].threshold,
            "class_thresholds": policy.models[model].class_thresholds,
            **{split: figures for split, (figures, _) in found.items()},
            "calibration": found[tested_on][1],
        }
    models[MAJORITY] = {
        "parameters": {"total": 0, "trained": 0},
        **{split: measure_majority(opinions, shares, **settings) for split, opinions in said.items()},
    }
    return models


def seed_spread(fusion: Fusion, evidence: Mapping[str, Evidence], labels: np.ndarray, label: Label) -> dict[str, Any]:
    """Mean and standard deviation of the headline metric over the fusion's seeds; empty where it has one or none."""
    members = getattr(fusion, "member_logits", None)
    if members is None:
        return {}
    name = headline_metric(len(label.classes))
    values = [METRICS[name](labels, softmax(logits), None) for logits in members(evidence).numpy()]
    if len(values) < 2:
        return {}
    return {"n": len(values), name: {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}}


def gains_over_experts(
    tuned: Predictions,
    tested: Predictions,
    policy: Policy,
    label: Label,
    *,
    fusion: str,
    shares: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The fusion against every expert on the tested split: what ``results_<run>.json`` holds of it.

    A row on which an expert has no opinion counts with train's class shares: that is what it would say.

    Returns
    -------
    dict
        ``gain``: the least of them (`bifocal.evaluate.compare.Gains`), ``over`` which expert, and ``chosen_on``, what
        each expert reaches on the tuning split; ``gains``: expert -> the gain over it.
    """
    experts = [model for model in tuned.logits if model != fusion]
    metric = headline_metric(len(label.classes))

    def probabilities(said: Predictions, model: str) -> np.ndarray:
        return np.where(said.has[model][:, None], calibrated(said, policy, model, adjusted=False)[0], shares)

    found = gains_over_each(
        tested.labels,
        {model: probabilities(tested, model) for model in experts},
        probabilities(tested, fusion),
        tested.groups,
        metric=metric,
        resamples=resamples,
        seed=seed,
    )
    scores = {model: METRICS[metric](tuned.labels, probabilities(tuned, model), None) for model in experts}
    return {"gain": {"over": found.over, "chosen_on": scores, **found.least}, "gains": found.each}


def measure_class_shares(said: Mapping[str, Predictions], label: Label) -> dict[str, Any]:
    """Whether the splits (``said``: split -> `Predictions`) hold the classes in the same shares.

    A threshold chosen where positives are more frequent than where it is used flags too much there.

    Returns
    -------
    dict
        ``shares``: split -> the share of each class among its annotated rows; ``p``: of equal shares
        (`class_shares_p_value`); ``differ``: whether that is below `SHARES_DIFFER`.
    """
    classes, annotated = len(label.classes), {}
    for split, found in said.items():
        rows = np.flatnonzero(found.labels != UNLABELLED)
        if len(rows):
            annotated[split] = (found.labels[rows], [found.groups[row] for row in rows])
    counts = {split: np.bincount(labels, minlength=classes) for split, (labels, _) in annotated.items()}
    p = class_shares_p_value(list(annotated.values()), classes)
    return {
        "shares": {split: (count / count.sum()).tolist() for split, count in counts.items()},
        "p": p,
        "differ": p < SHARES_DIFFER,
    }


def draw_curves(
    tested: Predictions, tuned: Predictions, policy: Policy, models: Sequence[str], *, tuned_on: str
) -> dict[str, Any]:
    """What ``curves_<run>.json`` holds.

    Returns
    -------
    dict
        ``models``: of each, on the tested split, ``roc`` and ``precision_recall`` (points of a binary label) and
        ``reliability`` ``before`` and ``after`` calibration, at the split's own base rate, ``risk_coverage`` of
        decisions and its area ``aurc``; ``explorer``: the split that thresholds are chosen on and what each would do
        there, of the model that decides (null: several classes).
    """
    drawn: dict[str, Any] = {}
    for model in models:
        rows = tested.has[model] & (tested.labels != UNLABELLED)
        if not rows.any():
            nothing: dict[str, list[Any]] = {"before": [], "after": []}
            curves: dict[str, Any] = {"roc": [], "precision_recall": [], "risk_coverage": [], "aurc": None}
            drawn[model] = {**curves, "reliability": nothing}
            continue
        y, binary = tested.labels[rows], len(policy.classes) == 2
        after, named = (part[rows] for part in calibrated(tested, policy, model, adjusted=False))
        before = softmax(tested.logits[model][rows])
        risks, area = risk_coverage(y, after, named)
        drawn[model] = {
            "roc": roc(y, after) if binary else [],
            "precision_recall": precision_recall(y, after) if binary else [],
            "reliability": {
                "before": reliability(*reliability_target(y, before)),
                "after": reliability(*reliability_target(y, after)),
            },
            "risk_coverage": risks,
            "aurc": area,
        }
    return {"models": drawn, "explorer": _explorer(tuned, policy, models[-1], tuned_on)}


def _explorer(said: Predictions, policy: Policy, model: str, split: str) -> dict[str, Any] | None:
    rows = np.flatnonzero(said.has[model] & (said.labels != UNLABELLED))
    if len(policy.classes) > 2 or not len(rows):
        return None
    limits: dict[str, Any] = {}
    if policy.review is not None:
        bands = [policy.band(model, said.patterns[row]) for row in rows]
        # A side without a promise does nothing without a person.
        limits["allow_below"] = [0.0 if b is None or b.allow_below is None else b.allow_below for b in bands]
        limits["block_from"] = [2.0 if b is None or b.block_from is None else b.block_from for b in bands]
    p = calibrated(said, policy, model)[0][rows]
    return {"split": split, "model": model, "rows": threshold_counts(said.labels[rows], p, **limits)}


def column(model: str) -> str:
    """Prefix of a model's columns in the error table.

    >>> column("text_expert"), column("mm_fusion")
    ('text', 'fusion')
    """
    return model.removesuffix("_expert").removeprefix("mm_")


def write_error_table(
    path: Path, said: Predictions, texts: Sequence[str], policy: Policy, label: Label, split: str, models: Sequence[str]
) -> None:
    """``errors_<run>.csv`` of one split; a model without an opinion on a row leaves its cells empty."""
    write_errors(
        path,
        ids=said.ids,
        splits=[split] * len(said.ids),
        texts=texts,
        labels=said.labels,
        label_name=policy.label,
        label=label,
        models={column(model): calibrated(said, policy, model) for model in models},
        fused=column(models[-1]),
    )


def example_row(said: Predictions, policy: Policy, model: str) -> int:
    """A row worth showing: the first that the model flags rightly, else the first of all."""
    _, predictions = calibrated(said, policy, model)
    right = np.flatnonzero((predictions == said.labels) & (said.labels == 1))
    return int(right[0]) if len(right) else 0
