"""Fitting a Policy: calibration, threshold and review band per model and pattern, on rows that no model has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..config import ReviewConfig, ThresholdConfig
from ..example import UNLABELLED
from .calibration_methods import Calibration, few_rows, fit_calibration
from .conformal import alarm_threshold, risk_threshold
from .policy import (
    POOLED,
    Band,
    Expected,
    Fit,
    ModelPolicy,
    PatternPolicy,
    Policy,
    at_base_rate,
    class_shares,
    now,
    row_weights,
)
from .policy_findings import (
    compared,
    few_for_bound,
    threshold_findings,
    uncalibrated,
    unpromised,
    unpromised_band,
    weighed,
)
from .thresholds import ChosenThreshold, best_f1_threshold, choose_threshold, class_thresholds, expected_figures
from .tuning_rows import PolicySettings, TuningRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .tuning_rows import Scores

    Rows = tuple[NDArray[np.float32], NDArray[np.int64]]

FitT = TypeVar("FitT", bound=Fit)

MIN_PATTERN_ROWS = 200
"""A pattern with fewer labelled rows falls back to the pooled calibration and threshold."""


class Fitted(NamedTuple):
    """A policy, and what its fit found beside it."""

    policy: Policy
    best_f1: dict[str, float | None]
    """Model -> the threshold with the best F1, whatever rule the policy may follow; None: several classes."""
    findings: list[str]
    """What a person should know of the thresholds before using them."""


def fit_policy(rows: TuningRows, settings: PolicySettings) -> Fitted:
    """Fit calibration, then threshold, for each model: on all rows together, then per presence pattern.

    The last model decides. A bound that it cannot keep to is an error; the other models, and patterns, then take the
    threshold that comes nearest, and a finding says so. A pattern falls back to the pooled fit where it has under
    `MIN_PATTERN_ROWS` labelled rows, or under `LEAST_ROWS` of a class, or is the pooled set itself. Where that has
    under `LEAST_ROWS` of a class the temperature is 1, unless ``in_sample``.

    Raises
    ------
    DataError
        As `fit_temperature` and `choose_threshold`; where the last model cannot keep to the rule's bound.
    """
    main = list(rows.scores)[-1]
    fits = {m: _fit_model(m, rows, settings, decides=m == main) for m in rows.scores}
    models = {model: fit.policy for model, fit in fits.items()}
    policy = Policy(
        run=settings.run,
        label=settings.label,
        classes=settings.classes,
        probability_key=settings.probability_key,
        in_sample=settings.in_sample,
        approximate=True,
        versions=dict(settings.versions),
        models=models,
        base_rate=None if settings.base_rate is None else tuple(settings.base_rate),
        rule=settings.rule,
        expected=_expected(
            rows.scores[main][POOLED],
            models[main],
            rows.groups,
            settings.rule,
            settings.base_rate,
            settings.seed,
            rows.sampled(main, POOLED),
        ),
        review=settings.review,
        truncated=settings.truncated,
        unread=settings.unread,
        data=dict(settings.data),
        tuned_on={model: dict(rows) for model, rows in settings.tuned_on.items()},
        date=now(),
        requires=settings.requires,
        act=settings.act,
    )
    findings = [finding for fit in fits.values() for finding in fit.findings]
    return Fitted(policy, {model: fit.best_f1 for model, fit in fits.items()}, findings)


def calibration_file(policy: Policy) -> dict[str, Any]:
    """What ``calibration_<run>.json`` holds: model -> label -> method and parameters, and those of its patterns."""
    return {
        model: {
            policy.label: {
                **fit.calibration.model_dump(mode="json"),
                "patterns": {
                    pattern: {**own.calibration.model_dump(mode="json"), "n": own.n}
                    for pattern, own in fit.patterns.items()
                },
            }
        }
        for model, fit in policy.models.items()
    }


def thresholds_file(fitted: Fitted) -> dict[str, Any]:
    """What ``thresholds_<run>.json`` holds: model -> label -> the F1 maximum; of several classes null or by class."""
    policy = fitted.policy
    thresholds: dict[str, Any] = {model: {policy.label: threshold} for model, threshold in fitted.best_f1.items()}
    for model, fit in policy.models.items():
        if fit.class_thresholds is not None:
            thresholds[model][policy.label] = dict(zip(map(str, policy.classes), fit.class_thresholds, strict=True))
    return thresholds


class _ModelFit(NamedTuple):
    policy: ModelPolicy
    best_f1: float | None
    findings: list[str]


def _fit_model(model: str, rows: TuningRows, settings: PolicySettings, *, decides: bool) -> _ModelFit:
    """One model, pooled and by pattern; ``decides``: the last one, whose groups and languages are known."""
    sets, promised = rows.scores[model], (rows.promised or rows.scores)[model]
    scores = _annotated(sets[POOLED])
    groups = _known(rows.groups, sets[POOLED]) if decides else None
    weights = rows.annotated_weights(model, POOLED)
    calibrated = fit_calibration(*scores, settings.method, groups=groups, from_few=settings.in_sample, weights=weights)
    few = _few(scores, settings)
    pooled, best, chosen = _fit(
        scores, _annotated(promised[POOLED]), calibrated.calibration, settings, rows.sampled(model, POOLED)
    )
    findings = uncalibrated(model, few, "the temperature is 1: scores are taken as they are")
    if calibrated.tried:
        findings.append(compared(model, calibrated))
    met, two = chosen is not None and chosen.met, len(settings.classes) == 2
    lacking = few_for_bound(model, scores[1], settings.rule, met=met) if decides and two else []
    findings += [*lacking, *threshold_findings(model, chosen, settings.rule, decides=decides, lacking=lacking)]
    findings += unpromised(model, pooled, settings.classes, settings.review)
    if decides and weights is not None:
        findings.append(weighed(model, weights))
    patterns, found = _fit_patterns(model, rows, promised, pooled, settings, told=bool(few))
    findings += found
    bands: dict[str, Band] = {}
    review = settings.review
    if decides and rows.languages is not None and review is not None and review.per_language:
        bands, lacking = _language_bands(promised[POOLED], rows.languages, pooled, settings.base_rate, review)
        findings += [f"{model}: {finding}" for finding in lacking]
    fit = ModelPolicy(**pooled.model_dump(exclude={"n"}), few_rows=few, patterns=patterns, languages=bands)
    return _ModelFit(fit, best, findings)


def _fit_patterns(
    model: str,
    rows: TuningRows,
    promised: Mapping[str, Scores],
    pooled: PatternPolicy,
    settings: PolicySettings,
    *,
    told: bool,
) -> tuple[dict[str, PatternPolicy], list[str]]:
    """The patterns with rows enough for a fit of their own, and the findings; ``told``: of few rows in all of them."""
    patterns: dict[str, PatternPolicy] = {}
    findings: list[str] = []
    sets = rows.scores[model]
    for pattern, scored in sorted(sets.items()):
        if not _own_fit(scored, sets[POOLED]):
            continue
        scores, name = _annotated(scored), f"{model} on {pattern}"
        if few := _few(scores, settings):
            findings += uncalibrated(name, {} if told else few, "decided as all posts are")
            continue
        weights, method = rows.annotated_weights(model, pattern), pooled.calibration.method
        own = fit_calibration(*scores, method, from_few=settings.in_sample, weights=weights).calibration
        patterns[pattern], _, chosen = _fit(
            scores, _annotated(promised[pattern]), own, settings, rows.sampled(model, pattern)
        )
        findings += threshold_findings(name, chosen, settings.rule)
        findings += unpromised(name, patterns[pattern], settings.classes, settings.review)
    return patterns, findings


def _annotated(scores: Scores) -> Rows:
    logits, labels = np.asarray(scores[0]), np.asarray(scores[1])
    return logits[labels != UNLABELLED], labels[labels != UNLABELLED]


def _known(groups: Sequence[Any] | None, scores: Scores) -> list[Any] | None:
    """The groups of the annotated rows."""
    return None if groups is None else np.asarray(groups)[np.asarray(scores[1]) != UNLABELLED].tolist()


def _few(scores: Rows, settings: PolicySettings) -> dict[str, int]:
    """Class -> its rows, of the classes that have too few for a calibration."""
    names = settings.classes
    return {} if settings.in_sample else {str(names[c]): n for c, n in few_rows(scores[1], len(names)).items()}


def _fit(
    scores: Rows,
    promised: Rows,
    calibration: Calibration,
    settings: PolicySettings,
    sampled: NDArray[np.float64] | None,
) -> tuple[PatternPolicy, float | None, ChosenThreshold | None]:
    """The fit by the rule, the threshold with the best F1, and what was chosen, where there was a choice.

    ``promised``: the rows that bands and prediction sets rest on; ``sampled``: what each row of ``scores`` counts for.
    """
    base_rate, rule, review = settings.base_rate, settings.rule, settings.review
    logits, labels = scores
    classes = logits.shape[1]
    binary, shares = classes == 2, None if base_rate is None else class_shares(labels, classes, sampled)
    best = threshold = 0.5 if binary else None
    chosen = lines = None
    probabilities = at_base_rate(calibration(logits), shares, base_rate)
    weights = row_weights(labels, shares, base_rate, sampled)
    if binary and len(labels):
        best = best_f1_threshold(labels, probabilities, weights)
        chosen = choose_threshold(labels, probabilities, rule, weights)
        threshold = chosen.threshold
    if not binary and rule.per_class:
        lines = tuple(class_thresholds(labels, probabilities, weights)) if len(labels) else (0.5,) * classes
    fit = PatternPolicy(
        calibration=calibration, shares=shares, threshold=threshold, class_thresholds=lines, n=len(labels)
    )
    if review is not None and (len(labels) or not binary):
        fit = _reviewed(fit, promised, base_rate, review)
    return fit, best, chosen


def _reviewed(fit: FitT, promised: Rows, base_rate: Sequence[float] | None, review: ReviewConfig) -> FitT:
    """The fit with the review band, or prediction sets, that its rows allow."""
    sure, truth = fit.probabilities(promised[0], base_rate), promised[1]
    if fit.threshold is not None:
        return fit.model_copy(update={"band": _band(truth, sure[:, 1], fit.threshold, review)})
    if review.alpha is None:
        return fit
    least = tuple(risk_threshold(sure[truth == c, c], review.alpha) for c in range(sure.shape[1]))
    return fit.model_copy(update={"least": least})


def find_threshold(
    policy: Policy, rows: TuningRows, rule: ThresholdConfig, *, model: str, pattern: str = POOLED, seed: int = 0
) -> tuple[ChosenThreshold, dict[str, Expected], list[str]]:
    """What `fit_policy` would choose by another rule, at the calibration that the policy has.

    Returns
    -------
    tuple
        The threshold; what is expected of it, where it is the pooled one of the model that decides; and findings.

    Raises
    ------
    RunError
        As `Policy.own_fit`.
    DataError
        Where the bound cannot be kept to, with how many rows are missing; as `choose_threshold`.
    """
    fit, scores = policy.own_fit(model, pattern), rows.scores[model][pattern]
    logits, labels = _annotated(scores)
    name = model if pattern == POOLED else f"{model} on {pattern}"
    sampled = rows.sampled(model, pattern)
    weights = row_weights(labels, fit.shares, policy.base_rate, sampled)
    chosen = choose_threshold(labels, fit.probabilities(logits, policy.base_rate), rule, weights)
    lacking = few_for_bound(name, labels, rule, met=chosen.met)
    findings = [*lacking, *threshold_findings(name, chosen, rule, decides=True, lacking=lacking, by_hand=True)]
    decides = model == list(rows.scores)[-1] and pattern == POOLED
    expected = _expected(scores, fit, rows.groups, rule, policy.base_rate, seed, sampled) if decides else {}
    return chosen, expected, findings


def with_review(policy: Policy, rows: TuningRows, review: ReviewConfig) -> tuple[Policy, list[str]]:
    """The policy with other review bands (several classes: prediction sets), fitted as `fit_policy` does; findings.

    Thresholds stay; the change is not recorded.
    """
    promised, findings = rows.promised or rows.scores, list[str]()
    main, models = list(rows.scores)[-1], {}
    for model, fit in policy.models.items():
        patterns = {
            pattern: _reviewed(own, _annotated(promised[model][pattern]), policy.base_rate, review)
            for pattern, own in fit.patterns.items()
        }
        pooled = _reviewed(fit, _annotated(promised[model][POOLED]), policy.base_rate, review)
        findings += unpromised(model, pooled, policy.classes, review)
        for pattern, own in patterns.items():
            findings += unpromised(f"{model} on {pattern}", own, policy.classes, review)
        bands: dict[str, Band] = {}
        if review.per_language and model == main and rows.languages is not None:
            bands, few = _language_bands(promised[model][POOLED], rows.languages, pooled, policy.base_rate, review)
            findings += [f"{model}: {finding}" for finding in few]
        models[model] = pooled.model_copy(update={"patterns": patterns, "languages": bands})
    return policy.model_copy(update={"models": models, "review": review}), findings


def _band(labels: NDArray[np.int64], p: NDArray[np.float64], threshold: float, review: ReviewConfig) -> Band:
    positive, negative = p[labels == 1], p[labels == 0]
    return Band(
        allow_below=threshold if review.fnr is None else risk_threshold(positive, review.fnr),
        block_from=threshold if review.fpr is None else alarm_threshold(negative, review.fpr),
        positives=len(positive),
        negatives=len(negative),
    )


def _language_bands(
    scores: Scores,
    languages: Sequence[str],
    fit: Fit,
    base_rate: Sequence[float] | None,
    review: ReviewConfig,
) -> tuple[dict[str, Band], list[str]]:
    """A band for each language that has `MIN_PATTERN_ROWS` annotated rows, and where it promises nothing."""
    logits, labels = _annotated(scores)
    p = fit.probabilities(logits, base_rate)[:, 1]
    known = np.array(languages, dtype=object)[np.asarray(scores[1]) != UNLABELLED]
    bands, findings = {}, []
    for language in sorted(set(known.tolist()) - {""}):
        rows = known == language
        if rows.sum() >= MIN_PATTERN_ROWS and fit.threshold is not None:
            bands[language] = _band(labels[rows], p[rows], fit.threshold, review)
            findings += unpromised_band(f"posts in {language}", bands[language], review)
    return bands, findings


def _expected(
    scores: Scores,
    fit: Fit,
    groups: Sequence[Any] | None,
    rule: ThresholdConfig,
    base_rate: Sequence[float] | None,
    seed: int,
    sampled: NDArray[np.float64] | None,
) -> dict[str, Expected]:
    known = _known(groups, scores)
    if known is None or fit.threshold is None:
        return {}
    logits, labels = _annotated(scores)
    if len(np.unique(labels)) < 2:
        return {}
    probabilities = fit.probabilities(logits, base_rate)
    weights = row_weights(labels, fit.shares, base_rate, sampled)
    figures = expected_figures(labels, probabilities, known, rule, weights=weights, seed=seed)
    return {name: Expected(**interval._asdict()) for name, interval in figures.items()}


def _own_fit(scores: Scores, pooled: Scores) -> bool:
    """Whether a pattern's rows suffice for a fit of their own, and are not the pooled rows over again."""
    labels = _annotated(scores)[1]
    if len(labels) < MIN_PATTERN_ROWS or len(np.unique(labels)) < 2:
        return False
    return not all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(scores, pooled, strict=True))
