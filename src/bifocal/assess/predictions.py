"""What every model says of every split, measured: the content of ``results_<run>.json`` and the error table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import numpy as np

from ..contracts import SeedEnsemble
from ..decide.calibration import softmax
from ..decide.policy import Policy, pattern_of, patterns
from ..evaluate.compare import Gain, Resampling, measure_change
from ..evaluate.curves import precision_recall, reliability, reliability_target, risk_coverage, roc, threshold_counts
from ..evaluate.differences import class_shares_p_value
from ..evaluate.error_table import write_errors
from ..evaluate.intervals import Figure, Measured, measure
from ..evaluate.metrics import METRICS
from ..example import UNLABELLED, Evidence, Label
from ..models.threads import in_threads

if TYPE_CHECKING:
    from ..contracts import Fusion

MAJORITY = "majority"
SPLITS: tuple[Literal["train"], Literal["val"], Literal["test"]] = ("train", "val", "test")
ECE: dict[str, int | str] = {"bins": 15, "kind": "equal width"}
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

    def take(self, rows: np.ndarray) -> Predictions:
        """The same for some rows, in the order given."""
        index = rows.tolist()
        return Predictions(
            tuple(self.ids[i] for i in index),
            tuple(self.groups[i] for i in index),
            self.labels[index],
            {model: logits[index] for model, logits in self.logits.items()},
            {model: has[index] for model, has in self.has.items()},
            [self.patterns[i] for i in index],
            None if self.languages is None else [self.languages[i] for i in index],
        )

    @property
    def annotated(self) -> np.ndarray:
        """The rows that bear the label; of several labels, some rows bear others alone."""
        return np.flatnonzero(self.labels != UNLABELLED)

    def and_more(self, other: Predictions) -> Predictions:
        """The same, and after them those of other rows, by the same models."""
        both = None
        if self.languages is not None and other.languages is not None:
            both = self.languages + other.languages
        return Predictions(
            self.ids + other.ids,
            self.groups + other.groups,
            np.concatenate([self.labels, other.labels]),
            {model: np.concatenate([logits, other.logits[model]]) for model, logits in self.logits.items()},
            {model: np.concatenate([has, other.has[model]]) for model, has in self.has.items()},
            self.patterns + other.patterns,
            both,
        )


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
        predictions = Predictions.gather(blanked(evidence, keep), experts, fusion, fusion_name)
        result[pattern_of(keep)] = (predictions.logits[fusion_name], predictions.labels)
    return result


def calibrated(
    predictions: Predictions, policy: Policy, model: str, *, adjusted: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities ``[n, C]`` and predicted classes ``[n]``, each row by its presence pattern.

    Rows on which the model has no opinion are nan. Unless ``adjusted``, probabilities are those at the base rate of
    val, which is that of test, whatever base rate the policy is for; the predicted classes are the policy's.
    """
    probabilities = np.empty_like(predictions.logits[model], dtype=float)
    classes = np.empty(len(predictions.ids), dtype=int)
    as_it_is = adjusted or policy.base_rate is None
    for pattern, rows in _by_pattern(predictions):
        logits = predictions.logits[model][rows]
        deployed = policy.probabilities(model, logits, pattern)
        classes[rows] = policy.predictions(model, deployed, pattern)
        probabilities[rows] = deployed if as_it_is else policy.probabilities(model, logits, pattern, adjusted=False)
    probabilities[~predictions.has[model]] = np.nan
    return probabilities, classes


def _by_pattern(predictions: Predictions) -> Iterator[tuple[str, np.ndarray]]:
    """Each presence pattern, and whether a row bears it ``[n]``."""
    row_patterns = np.array(predictions.patterns)
    for pattern in set(predictions.patterns):
        yield pattern, row_patterns == pattern


def actions(predictions: Predictions, policy: Policy, model: str) -> np.ndarray:
    """What the policy does with each row ``[n]``: allow, review or block; of several classes review, or its name.

    Its name, too, where nothing is done by the label (`Policy.act`). Rows on which the model has no opinion are empty.
    """
    probabilities, classes = calibrated(predictions, policy, model)
    done = np.array([str(name) for name in policy.classes], dtype=object)[classes]
    languages = None if predictions.languages is None else np.array(predictions.languages, dtype=object)
    for pattern, rows in _by_pattern(predictions):
        own = None if languages is None else languages[rows].tolist()
        acted = policy.actions(model, probabilities[rows], classes[rows], pattern, own)
        found = np.array([policy.allowed(action or None) or "" for action in acted], dtype=object)
        done[rows] = np.where(found == "", done[rows], found)
    return np.where(predictions.has[model], done, "")


class MissedClass(TypedDict):
    """Posts of a class, and those whose prediction set leaves it out."""

    labelled: int
    missed: int


class SetActions(MissedClass):
    """What a policy of several classes does with ``n`` posts."""

    n: int
    review: int
    """Posts whose prediction set is not their label alone."""
    size: float | None
    """Classes of a set, mean."""
    by_class: dict[str, MissedClass]


def measure_actions(predictions: Predictions, policy: Policy, model: str) -> dict[str, dict[str, int]] | SetActions:
    """What the policy does with a split, by class of the post; posts without a label under ``none``.

    ``allow``, ``review``, ``block``: counts by ``negative``, ``positive``, ``none``. Of several classes `SetActions`.
    """
    done, kinds = actions(predictions, policy, model), {"negative": 0, "positive": 1, "none": UNLABELLED}
    if len(policy.classes) > 2:
        return _measure_sets(predictions, policy, model, done)
    return {
        action: {kind: int(np.sum((done == action) & (predictions.labels == y))) for kind, y in kinds.items()}
        for action in ("allow", "review", "block")
    }


def _measure_sets(predictions: Predictions, policy: Policy, model: str, done: np.ndarray) -> SetActions:
    probabilities, _ = calibrated(predictions, policy, model)
    sets = np.ones_like(probabilities, dtype=bool)
    for pattern, rows in _by_pattern(predictions):
        found = policy.candidates(model, probabilities[rows], pattern)
        sets[rows] = True if found is None else found
    there = predictions.has[model]
    known = there & (predictions.labels != UNLABELLED)
    missed = ~sets[known, predictions.labels[known]]
    return {
        "n": int(there.sum()),
        "review": int(np.sum(done[there] == "review")),
        "size": float(sets[there].sum(axis=1).mean()) if there.any() else None,
        "labelled": int(known.sum()),
        "missed": int(missed.sum()),
        "by_class": {
            str(name): {"labelled": int(of.sum()), "missed": int(missed[of].sum())}
            for name, of in ((name, predictions.labels[known] == c) for c, name in enumerate(policy.classes))
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


class SplitResults(Measured):
    """A model on a split: uncalibrated at 0.5, calibrated at the policy's thresholds, and counts of a binary label."""

    calibrated: NotRequired[dict[str, Figure]]
    """The majority baseline has none."""
    confusion: NotRequired[dict[str, int]]


class ModelResults(TypedDict):
    """A model on every split."""

    parameters: Mapping[str, int]
    threshold: NotRequired[float | None]
    class_thresholds: NotRequired[tuple[float, ...] | None]
    train: NotRequired[SplitResults]
    val: NotRequired[SplitResults]
    test: NotRequired[SplitResults]
    calibration: NotRequired[dict[str, Gain]]
    """What calibration did to NLL and Brier on the tested split; below 0 is better."""
    seeds: NotRequired[dict[str, int | dict[str, float]]]


def measure_model(
    predictions: Predictions, model: str, policy: Policy, resampling: Resampling
) -> tuple[SplitResults, dict[str, Gain]]:
    """One model on one split, and what calibration did to its NLL and Brier there."""
    rows = predictions.has[model]
    groups = [g for g, keep in zip(predictions.groups, rows, strict=True) if keep]
    labels = predictions.labels[rows]
    probabilities, classes = (a[rows] for a in calibrated(predictions, policy, model, adjusted=False))
    raw, after, change = measure_change(
        labels,
        softmax(predictions.logits[model][rows]),
        probabilities,
        groups,
        predictions=classes,
        resamples=resampling.resamples,
        seed=resampling.seed,
    )
    result: SplitResults = {**raw, "calibrated": after["metrics"]}
    if len(policy.classes) == 2:
        result["confusion"] = confusion(labels, classes)
    return result, change


def measure_majority(predictions: Predictions, shares: np.ndarray, resampling: Resampling) -> Measured:
    """The baseline that always names the commonest class of train, with train's class shares as probabilities."""
    probabilities, n, seed = np.tile(shares, (len(predictions.ids), 1)), resampling.resamples, resampling.seed
    classes = np.full(len(predictions.ids), int(shares.argmax()))
    return measure(predictions.labels, probabilities, predictions.groups, predictions=classes, resamples=n, seed=seed)


def measure_models(
    predictions: Mapping[str, Predictions],
    policy: Policy,
    parameters: Mapping[str, Mapping[str, int]],
    shares: np.ndarray,
    tested_on: str,
    resampling: Resampling,
) -> dict[str, ModelResults]:
    """Every model, and the majority baseline, on every split (split -> `Predictions`)."""
    models: dict[str, ModelResults] = {}
    splits = [split for split in SPLITS if split in predictions]
    pairs = [(model, split) for model in parameters for split in splits]
    measured = in_threads(lambda pair: measure_model(predictions[pair[1]], pair[0], policy, resampling), pairs)
    found = dict(zip(pairs, measured, strict=True))
    for model, weights in parameters.items():
        own, results = policy.models[model], models.setdefault(model, {"parameters": weights})
        results["threshold"], results["class_thresholds"] = own.threshold, own.class_thresholds
        for split in splits:
            results[split] = found[model, split][0]
        results["calibration"] = {str(split): found[model, split][1] for split in splits}[tested_on]
    majority = models.setdefault(MAJORITY, {"parameters": {"total": 0, "trained": 0}})
    for split in splits:
        majority[split] = {**measure_majority(predictions[split], shares, resampling)}
    return models


def seed_spread(
    fusion: Fusion, evidence: Mapping[str, Evidence], labels: np.ndarray, metric: str
) -> dict[str, int | dict[str, float]]:
    """Mean and standard deviation of the metric over the fusion's seeds; empty where it has one or none."""
    if not isinstance(fusion, SeedEnsemble):
        return {}
    values = [METRICS[metric](labels, softmax(logits), None) for logits in fusion.member_logits(evidence).numpy()]
    if len(values) < 2:
        return {}
    return {"n": len(values), metric: {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}}


class MainGain(Gain):
    """The least gain over an expert (`bifocal.evaluate.compare.Gains`)."""

    over: str
    chosen_on: dict[str, float]
    """What each expert reaches on val (in-sample: train); nothing is chosen by it, as ``over`` has the least gain."""


def gains_over_experts(
    tuned: Predictions, tested: Predictions, policy: Policy, fusion: str, shares: np.ndarray, resampling: Resampling
) -> tuple[MainGain, dict[str, Gain]]:
    """The fusion against every expert on the tested split: the least gain, and by expert the gain over it.

    A row on which an expert has no opinion counts with train's class shares: that is what it would say.
    """
    experts, metric = [model for model in tuned.logits if model != fusion], METRICS[resampling.metric]

    def probabilities(predictions: Predictions, model: str) -> np.ndarray:
        return np.where(
            predictions.has[model][:, None], calibrated(predictions, policy, model, adjusted=False)[0], shares
        )

    others = {model: probabilities(tested, model) for model in experts}
    found = resampling.gains(tested.labels, others, probabilities(tested, fusion), tested.groups)
    scores = {model: metric(tuned.labels, probabilities(tuned, model), None) for model in experts}
    return {"over": found.over, "chosen_on": scores, **found.least}, found.each


class ClassShares(TypedDict):
    """Whether splits hold the classes in the same shares."""

    shares: dict[str, list[float]]
    """Split -> the share of each class among its annotated rows."""
    p: float
    """Of equal shares (`class_shares_p_value`)."""
    differ: bool
    """Whether that is below `SHARES_DIFFER`."""


def measure_class_shares(predictions: Mapping[str, Predictions], label: Label) -> ClassShares:
    """Compare the class shares of the splits (split -> `Predictions`).

    A threshold chosen where positives are more frequent than where it is used flags too much there.
    """
    classes, annotated = len(label.classes), {}
    for split, found in predictions.items():
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


class Reliability(TypedDict):
    """Bins before and after calibration, at the split's own base rate; see `evaluate.curves.reliability`."""

    before: list[dict[str, float]]
    after: list[dict[str, float]]


class ModelCurves(TypedDict):
    """Curves of a model on the tested split; points of a binary label for the first two."""

    roc: list[tuple[float, float]]
    precision_recall: list[tuple[float, float]]
    reliability: Reliability
    risk_coverage: list[tuple[float, float]]
    aurc: float | None
    """The area under it."""


class Explorer(TypedDict):
    """What each threshold would do on the split that thresholds are chosen on, of the model that decides."""

    split: str
    model: str
    rows: list[dict[str, float]]
    tested: NotRequired[ExploredSplit]
    """The same of the tested split, where that is another; runs of an earlier version have none."""


class ExploredSplit(TypedDict):
    """What each threshold does on one split."""

    split: str
    rows: list[dict[str, float]]


class Curves(TypedDict):
    """What ``curves_<run>.json`` holds; of several classes there is nothing to explore."""

    models: dict[str, ModelCurves]
    explorer: Explorer | None


def draw_curves(
    tested: Predictions, tuned: Predictions, policy: Policy, models: Sequence[str], *, tuned_on: str, tested_on: str
) -> Curves:
    """Curves of every model on the tested split, and what thresholds would do on the tuning split and on that."""
    drawn = {model: _curves(tested, policy, model) for model in models}
    explorer = _explorer(tuned, policy, models[-1], tuned_on)
    if explorer and tested_on != tuned_on:
        found = _explorer(tested, policy, models[-1], tested_on)
        if found:
            explorer["tested"] = {"split": tested_on, "rows": found["rows"]}
    return {"models": drawn, "explorer": explorer}


def _curves(tested: Predictions, policy: Policy, model: str) -> ModelCurves:
    rows = tested.has[model] & (tested.labels != UNLABELLED)
    if not rows.any():
        nothing: Reliability = {"before": [], "after": []}
        return {"roc": [], "precision_recall": [], "risk_coverage": [], "aurc": None, "reliability": nothing}
    y, binary = tested.labels[rows], len(policy.classes) == 2
    after, named = (part[rows] for part in calibrated(tested, policy, model, adjusted=False))
    before = softmax(tested.logits[model][rows])
    risks, area = risk_coverage(y, after, named)
    return {
        "roc": roc(y, after) if binary else [],
        "precision_recall": precision_recall(y, after) if binary else [],
        "reliability": {
            "before": reliability(*reliability_target(y, before)),
            "after": reliability(*reliability_target(y, after)),
        },
        "risk_coverage": risks,
        "aurc": area,
    }


def _explorer(predictions: Predictions, policy: Policy, model: str, split: str) -> Explorer | None:
    rows = np.flatnonzero(predictions.has[model] & (predictions.labels != UNLABELLED))
    if len(policy.classes) > 2 or not len(rows):
        return None
    allow_below = block_from = None
    if policy.review is not None:
        bands = [policy.band(model, predictions.patterns[row]) for row in rows]
        # A side without a promise does nothing without a person.
        allow_below = [0.0 if b is None or b.allow_below is None else b.allow_below for b in bands]
        block_from = [2.0 if b is None or b.block_from is None else b.block_from for b in bands]
    p = calibrated(predictions, policy, model)[0][rows]
    return {
        "split": split,
        "model": model,
        "rows": threshold_counts(predictions.labels[rows], p, allow_below, block_from),
    }


def column(model: str) -> str:
    """Prefix of a model's columns in the error table.

    >>> column("text_expert"), column("mm_fusion")
    ('text', 'fusion')
    """
    return model.removesuffix("_expert").removeprefix("mm_")


def write_error_table(
    path: Path,
    predictions: Predictions,
    texts: Sequence[str],
    policy: Policy,
    label: Label,
    split: str,
    models: Sequence[str],
) -> None:
    """``errors_<run>.csv`` of one split; a model without an opinion on a row leaves its cells empty."""
    write_errors(
        path,
        ids=predictions.ids,
        splits=[split] * len(predictions.ids),
        texts=texts,
        labels=predictions.labels,
        label_name=policy.label,
        label=label,
        models={column(model): calibrated(predictions, policy, model) for model in models},
        fused=column(models[-1]),
    )


def example_row(predictions: Predictions, policy: Policy, model: str) -> int:
    """A row worth showing: the first that the model flags rightly, else the first of all."""
    _, classes = calibrated(predictions, policy, model)
    right = np.flatnonzero((classes == predictions.labels) & (predictions.labels == 1))
    return int(right[0]) if len(right) else 0
