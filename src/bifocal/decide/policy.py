"""The Policy: calibration and threshold per model and per presence pattern, which turn logits into decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, ValidationError

from ..config import ReviewConfig, Strict, ThresholdConfig, explain
from ..errors import DataError, RunError, nearest
from ..evaluate.metrics import predicted_classes
from ..example import UNLABELLED
from ..workspace import read_json, write_json
from .calibrators import Calibrated, Calibration, fit_calibration
from .conformal import alarm_threshold, least_rows, risk_threshold
from .prior import adjust_prior
from .thresholds import Chosen, best_f1_threshold, choose_threshold, described, expected_figures

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Scores = tuple[ArrayLike, ArrayLike]

POOLED = "pooled"
"""Key of the rows of all patterns together."""
MIN_PATTERN_ROWS = 200
"""A pattern with fewer labelled rows falls back to the pooled temperature and threshold."""

NEARLY_ALL = 0.95
"""From this share of posts on a threshold is said to flag nearly everything."""

Shares = tuple[Annotated[float, Field(gt=0, lt=1)], ...]
Threshold = Annotated[float, Field(ge=0, le=1)] | None


def pattern_of(present: Iterable[str]) -> str:
    """Name of a presence pattern.

    >>> pattern_of(["text", "image"])
    'image+text'
    """
    return "+".join(sorted(present))


def patterns(modalities: Iterable[str]) -> list[tuple[str, ...]]:
    """Every non-empty set of modalities that a row may bring, small sets first.

    >>> patterns(["text", "image"])
    [('image',), ('text',), ('image', 'text')]
    """
    names = sorted(modalities)
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


Action = Literal["allow", "review", "block"]


class Band(Strict):
    """The limits of the review band, and the val rows behind them."""

    allow_below: float | None
    """A post under it that is labelled 0 is allowed; None = none is, for want of positive rows."""
    block_from: float | None
    """A post on or over it that is labelled 1 is blocked; None = none is, for want of negative rows."""
    positives: Annotated[int, Field(ge=0)]
    negatives: Annotated[int, Field(ge=0)]


class PatternPolicy(Strict):
    """What holds for one presence pattern, and the labelled rows it was fitted on."""

    calibration: Calibration
    shares: Shares | None = None
    threshold: Threshold
    band: Band | None = None
    n: Annotated[int, Field(ge=0)]


class ModelPolicy(Strict):
    """What holds for one model; ``threshold`` None = the likeliest class."""

    calibration: Calibration
    shares: Shares | None = None
    """Of the classes among the rows it was fitted on, where the policy is for another base rate; else None."""
    threshold: Threshold
    band: Band | None = None
    """None = no review band: actions follow labels."""
    patterns: dict[str, PatternPolicy] = Field(default_factory=dict)
    """By pattern: the names of the present modalities, sorted, joined by ``+``."""


class Expected(Strict):
    """What a figure comes to on the next rows."""

    value: float
    low: float
    high: float
    """Ends of the 90% prediction interval."""


class Policy(Strict):
    """What ``policy_<run>.json`` holds and ``predict`` loads."""

    run: str
    label: str
    classes: tuple[int | str, ...]
    probability_key: str
    in_sample: bool
    """Tuned on the training rows, for want of a val split."""
    approximate: bool
    """One val served early stopping, temperature and threshold alike."""
    versions: dict[str, str]
    models: dict[str, ModelPolicy]
    base_rate: Shares | None = None
    """Share of each class where it is used, to which probabilities and thresholds are adjusted; None = as in val."""
    rule: ThresholdConfig = ThresholdConfig()
    """What the thresholds were chosen by."""
    expected: dict[str, Expected] = Field(default_factory=dict)
    """Figure -> what the model that decides comes to at its threshold, on as many rows to come."""
    review: ReviewConfig | None = None
    """What the review bands were fitted to."""

    def _of(self, model: str, pattern: str) -> ModelPolicy | PatternPolicy:
        if model not in self.models:
            raise RunError(f"the policy of run {self.run!r} has no model {model!r}; {nearest(model, self.models)}")
        pooled = self.models[model]
        return pooled.patterns.get(pattern, pooled)

    def threshold(self, model: str, pattern: str) -> float | None:
        """The threshold on calibrated probabilities; None = the likeliest class. Raises `RunError`: unknown model."""
        return self._of(model, pattern).threshold

    def probabilities(
        self, model: str, logits: ArrayLike, pattern: str, *, adjusted: bool = True
    ) -> NDArray[np.float64]:
        """Calibrated probabilities ``[n, C]`` of logits ``[n, C]``; unless ``adjusted``, at the base rate of val.

        Raises `RunError` on an unknown model.
        """
        fit = self._of(model, pattern)
        return _at_base_rate(fit.calibration(logits), fit.shares, self.base_rate if adjusted else None)

    def weights(self, model: str, labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """What each labelled row ``[n]`` of val counts for at the base rate of the policy; None = one."""
        return _weights(labels, self._of(model, POOLED).shares, self.base_rate)

    def predictions(self, model: str, probabilities: NDArray[np.float64], pattern: str) -> NDArray[np.int64]:
        """Class index ``[n]``: binary where P(class 1) >= the threshold, else the likeliest class.

        Raises `RunError` on an unknown model.
        """
        threshold = self.threshold(model, pattern)
        return predicted_classes(probabilities, 0.5 if threshold is None else threshold)

    def action(self, model: str, probability: float, label: int, pattern: str) -> Action:
        """What is done with a post of a binary label: where label and review band disagree, a person decides.

        Raises `RunError` on an unknown model.
        """
        band = self._of(model, pattern).band
        if band is not None:
            limit = band.block_from if label else band.allow_below
            if limit is None or (probability < limit if label else probability >= limit):
                return "review"
        return "block" if label else "allow"

    def save(self, path: Path) -> None:
        """Write the policy, whole or not at all."""
        write_json(Path(path), self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        RunError
            Naming the file, where it is missing, not JSON, or not a policy (an unknown key, a wrong type).
        """
        content = read_json(Path(path))
        if not isinstance(content, dict):
            raise RunError(f"{path} is not a policy: expected an object, found {type(content).__name__}; run again")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RunError(f"{path} is not a policy of this version: {explain(error, cls)}; run again") from None


class Fitted(NamedTuple):
    """A policy, and the content of the two files that show what was fitted."""

    policy: Policy
    calibration: dict[str, Any]
    """``calibration_<run>.json``"""
    thresholds: dict[str, Any]
    """``thresholds_<run>.json``: always the F1 maximum, whatever rule the policy may follow."""
    findings: list[str]
    """What a person should know of the thresholds before using them."""


def fit_policy(
    scores: Mapping[str, Mapping[str, Scores]],
    *,
    run: str,
    label: str,
    classes: tuple[int | str, ...],
    probability_key: str,
    in_sample: bool,
    approximate: bool,
    versions: Mapping[str, str],
    method: str = "temperature",
    base_rate: Sequence[float] | None = None,
    rule: ThresholdConfig | None = None,
    review: ReviewConfig | None = None,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit calibration, then threshold, for each model: on all rows together, then per presence pattern.

    The last model decides. A bound that it cannot keep to is an error; the other models, and patterns, then take the
    threshold that comes nearest, and a finding says so.

    Parameters
    ----------
    scores : model -> pattern -> (logits [n, C], labels [n])
        On val, only rows on which the model has an opinion. `POOLED` names all of them as posted and must be there;
        a pattern names the rows that have its parts, the other parts blanked. A pattern falls back to the pooled
        fit where it has under `MIN_PATTERN_ROWS` labelled rows, or one class only, or is the pooled set itself.
    run, label, classes, probability_key, in_sample, approximate, versions
        What `Policy` says of them.
    method : str
        Of calibration: a name of `calibrators.METHODS`, or ``auto``, which chooses one per model; its patterns follow.
    base_rate : [C], optional
        Share of each class where the policy will be used. Probabilities are adjusted to it (`adjust_prior`), and
        thresholds chosen on rows weighted to it; None = both as in val.
    rule : ThresholdConfig, optional
        How thresholds are chosen; None = the F1 maximum. Other rules are for binary labels.
    review : ReviewConfig, optional
        Of a binary label: the review bands to fit, class by class, on the rows that the thresholds are chosen on.
    groups : sequence, optional
        Of the last model's pooled rows: near-duplicates share one. None = no figures are expected.

    Raises
    ------
    DataError
        As `fit_temperature` and `choose_threshold`; where the last model cannot keep to the rule's bound.
    """
    rule = rule or ThresholdConfig()
    models, best, findings = {}, {}, []
    main = list(scores)[-1]
    for model, sets in scores.items():
        said = _annotated(sets[POOLED])
        calibrated = fit_calibration(*said, method, groups=_known(groups, sets[POOLED]) if model == main else None)
        pooled, best[model], chosen = _fit(said, calibrated.calibration, base_rate, rule, review)
        if calibrated.tried:
            findings.append(_compared(model, calibrated))
        findings += _told(model, chosen, rule, decides=model == main)
        findings += _unpromised(model, pooled.band, review)
        patterns = {}
        for pattern, scored in sorted(sets.items()):
            if _own_fit(scored, sets[POOLED]):
                said = _annotated(scored)
                own = fit_calibration(*said, pooled.calibration.method).calibration
                patterns[pattern], _, chosen = _fit(said, own, base_rate, rule, review)
                findings += _told(f"{model} on {pattern}", chosen, rule)
                findings += _unpromised(f"{model} on {pattern}", patterns[pattern].band, review)
        models[model] = ModelPolicy(**pooled.model_dump(exclude={"n"}), patterns=patterns)
    policy = Policy(
        run=run,
        label=label,
        classes=classes,
        probability_key=probability_key,
        in_sample=in_sample,
        approximate=approximate,
        versions=dict(versions),
        models=models,
        base_rate=None if base_rate is None else tuple(base_rate),
        rule=rule,
        expected=_expected(scores[main][POOLED], models[main], base_rate, groups, rule, seed),
        review=review,
    )
    calibration = {
        model: {
            label: {
                **fit.calibration.model_dump(mode="json"),
                "patterns": {
                    pattern: {**own.calibration.model_dump(mode="json"), "n": own.n}
                    for pattern, own in fit.patterns.items()
                },
            }
        }
        for model, fit in models.items()
    }
    return Fitted(policy, calibration, {model: {label: threshold} for model, threshold in best.items()}, findings)


def _annotated(said: Scores) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    logits, labels = np.asarray(said[0]), np.asarray(said[1])
    return logits[labels != UNLABELLED], labels[labels != UNLABELLED]


def _known(groups: Sequence[Any] | None, said: Scores) -> list[Any] | None:
    """The groups of the annotated rows."""
    return None if groups is None else np.asarray(groups)[np.asarray(said[1]) != UNLABELLED].tolist()


def _compared(model: str, chosen: Calibrated) -> str:
    """What `auto` found, in words."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in chosen.tried.items())
    return f"{model} is calibrated by {chosen.calibration.method}; cross-validated NLL: {figures}"


def _fit(
    said: tuple[NDArray[np.float32], NDArray[np.int64]],
    calibration: Calibration,
    base_rate: Sequence[float] | None,
    rule: ThresholdConfig,
    review: ReviewConfig | None,
) -> tuple[PatternPolicy, float | None, Chosen | None]:
    """The fit by the rule, the threshold with the best F1, and what was chosen, where there was a choice."""
    logits, labels = said
    classes = logits.shape[1]
    binary, shares = classes == 2, None if base_rate is None else _shares(labels, classes)
    best = threshold = 0.5 if binary else None
    chosen = band = None
    if binary and len(labels):
        probabilities = _at_base_rate(calibration(logits), shares, base_rate)
        weights = _weights(labels, shares, base_rate)
        best = best_f1_threshold(labels, probabilities, weights)
        chosen = choose_threshold(labels, probabilities, rule, weights)
        threshold = chosen.threshold
        band = _band(labels, probabilities[:, 1], threshold, review) if review else None
    fit = PatternPolicy(calibration=calibration, shares=shares, threshold=threshold, band=band, n=len(labels))
    return fit, best, chosen


def _shares(labels: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Of each class, by Jeffreys' prior: a class without rows is rare, not impossible."""
    counts = np.bincount(labels, minlength=classes) + 0.5
    return tuple((counts / counts.sum()).tolist())


def _at_base_rate(
    p: NDArray[np.float64], shares: Sequence[float] | None, base_rate: Sequence[float] | None
) -> NDArray[np.float64]:
    return p if shares is None or base_rate is None else adjust_prior(p, shares, base_rate)


def _weights(
    labels: NDArray[np.int64], shares: Sequence[float] | None, base_rate: Sequence[float] | None
) -> NDArray[np.float64] | None:
    """What each row counts for among as many rows of the base rate; None = one."""
    if shares is None or base_rate is None:
        return None
    weights = (np.array(base_rate) / np.array(shares))[labels]
    return np.asarray(weights / weights.mean())


def _band(labels: NDArray[np.int64], p: NDArray[np.float64], threshold: float, review: ReviewConfig) -> Band:
    positive, negative = p[labels == 1], p[labels == 0]
    return Band(
        allow_below=threshold if review.fnr is None else risk_threshold(positive, review.fnr),
        block_from=threshold if review.fpr is None else alarm_threshold(negative, review.fpr),
        positives=len(positive),
        negatives=len(negative),
    )


def _unpromised(what: str, band: Band | None, review: ReviewConfig | None) -> list[str]:
    """Where the rows are too few for a promise."""
    found = []
    if band is not None and review is not None:
        sides = (
            ("fnr", band.allow_below, band.positives, "allowed"),
            ("fpr", band.block_from, band.negatives, "blocked"),
        )
        for rate, limit, n, done in sides:
            if limit is None:
                alpha = getattr(review, rate)
                rows = f"{least_rows(alpha):,} {'positive' if rate == 'fnr' else 'negative'} rows"
                found.append(
                    f"{what}: no guarantee of {rate} {alpha:g}: it takes {rows}, found {n:,}; nothing is {done}"
                )
    return found


def _told(what: str, chosen: Chosen | None, rule: ThresholdConfig, *, decides: bool = False) -> list[str]:
    """Findings of one threshold. Raises `DataError` where the model that decides cannot keep to the bound."""
    if chosen is None:
        return []
    if not chosen.met:
        unmet = (
            f"{what}: no threshold keeps {described(rule)} on the rows it is chosen on; "
            f"the nearest is {chosen.nearest:.3f}, at {chosen.threshold:.3f}"
        )
        if decides:
            raise DataError(f"{unmet}: ask for less in `decide.threshold.bound`, or give more rows to val")
        return [f"{unmet}, which is taken"]
    if chosen.figures["flagged"] >= NEARLY_ALL:
        return [f"{what}: the threshold {chosen.threshold:.3f} flags {chosen.figures['flagged']:.0%} of posts"]
    return []


def _expected(
    said: Scores,
    fit: ModelPolicy,
    base_rate: Sequence[float] | None,
    groups: Sequence[Any] | None,
    rule: ThresholdConfig,
    seed: int,
) -> dict[str, Expected]:
    known = _known(groups, said)
    if known is None or fit.threshold is None:
        return {}
    logits, labels = _annotated(said)
    if len(np.unique(labels)) < 2:
        return {}
    probabilities = _at_base_rate(fit.calibration(logits), fit.shares, base_rate)
    weights = _weights(labels, fit.shares, base_rate)
    figures = expected_figures(labels, probabilities, known, rule, weights=weights, seed=seed)
    return {name: Expected(**interval._asdict()) for name, interval in figures.items()}


def _own_fit(said: Scores, pooled: Scores) -> bool:
    """Whether a pattern's rows suffice for a fit of their own, and are not the pooled rows over again."""
    labels = _annotated(said)[1]
    if len(labels) < MIN_PATTERN_ROWS or len(np.unique(labels)) < 2:
        return False
    return not all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(said, pooled, strict=True))
