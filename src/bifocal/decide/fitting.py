"""Fitting a Policy: calibration, threshold and review band per model and per presence pattern, on val alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..config import ReviewConfig, ThresholdConfig
from ..errors import DataError
from ..example import UNLABELLED
from .calibrators import LEAST_ROWS, Calibrated, Calibration, few_rows, fit_calibration
from .conformal import alarm_threshold, least_rows, risk_threshold
from .policy import POOLED, Band, Expected, ModelPolicy, PatternPolicy, Policy, at_base_rate, now, row_weights
from .thresholds import Chosen, best_f1_threshold, choose_threshold, class_thresholds, described, expected_figures

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Scores = tuple[ArrayLike, ArrayLike]

MIN_PATTERN_ROWS = 200
"""A pattern with fewer labelled rows falls back to the pooled calibration and threshold."""
NEARLY_ALL = 0.95
"""From this share of posts on a threshold is said to flag nearly everything."""


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
    data: Mapping[str, str] | None = None,
    method: str = "temperature",
    base_rate: Sequence[float] | None = None,
    rule: ThresholdConfig | None = None,
    review: ReviewConfig | None = None,
    unread: Literal["review"] | None = None,
    groups: Sequence[Any] | None = None,
    languages: Sequence[str] | None = None,
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
        fit where it has under `MIN_PATTERN_ROWS` labelled rows, or under `LEAST_ROWS` of a class, or is the pooled set
        itself. Where that has under `LEAST_ROWS` of a class the temperature is 1, unless ``in_sample``.
    run, label, classes, probability_key, in_sample, approximate, versions, data
        What `Policy` says of them.
    method : str
        Of calibration: a name of `calibrators.METHODS`, or ``auto``, which chooses one per model; its patterns follow.
    base_rate : [C], optional
        Share of each class where the policy will be used. Probabilities are adjusted to it (`adjust_prior`), and
        thresholds chosen on rows weighted to it; None = both as in val.
    rule : ThresholdConfig, optional
        How thresholds are chosen; None = the F1 maximum. Other rules are for binary labels.
    review : ReviewConfig, optional
        The review bands (several classes: prediction sets) to fit, class by class, on the rows that the thresholds are
        chosen on.
    unread : "review", optional
        What is done with posts whose picture could not be read.
    groups : sequence, optional
        Of the last model's pooled rows: near-duplicates share one. None = no figures are expected.
    languages : sequence, optional
        Of the same rows, for bands ``per_language``.

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
        own_groups = _known(groups, sets[POOLED]) if model == main else None
        calibrated = fit_calibration(*said, method, groups=own_groups, from_few=in_sample)
        few = {} if in_sample else {str(classes[c]): n for c, n in few_rows(said[1], len(classes)).items()}
        findings += _uncalibrated(model, few, "the temperature is 1: scores are taken as they are")
        pooled, best[model], chosen = _fit(said, calibrated.calibration, base_rate, rule, review)
        if calibrated.tried:
            findings.append(_compared(model, calibrated))
        findings += _told(model, chosen, rule, decides=model == main)
        findings += _unpromised(model, pooled, classes, review)
        patterns = {}
        for pattern, scored in sorted(sets.items()):
            if _own_fit(scored, sets[POOLED]):
                said = _annotated(scored)
                if rare := {} if in_sample else few_rows(said[1], len(classes)):
                    rarest = {str(classes[c]): n for c, n in rare.items()}
                    findings += _uncalibrated(
                        f"{model} on {pattern}", {} if few else rarest, "decided as all posts are"
                    )
                    continue
                own = fit_calibration(*said, pooled.calibration.method, from_few=in_sample).calibration
                patterns[pattern], _, chosen = _fit(said, own, base_rate, rule, review)
                findings += _told(f"{model} on {pattern}", chosen, rule)
                findings += _unpromised(f"{model} on {pattern}", patterns[pattern], classes, review)
        bands: dict[str, Band] = {}
        if model == main and review is not None and review.per_language and languages is not None:
            bands, lacking = _language_bands(sets[POOLED], languages, pooled, base_rate, review)
            findings += [f"{model}: {finding}" for finding in lacking]
        models[model] = ModelPolicy(
            **pooled.model_dump(exclude={"n"}), few_rows=few, patterns=patterns, languages=bands
        )
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
        unread=unread,
        data=dict(data or {}),
        date=now(),
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
    thresholds: dict[str, Any] = {model: {label: threshold} for model, threshold in best.items()}
    for model, fit in models.items():
        if fit.class_thresholds is not None:
            thresholds[model][label] = dict(zip(map(str, classes), fit.class_thresholds, strict=True))
    return Fitted(policy, calibration, thresholds, findings)


def _annotated(said: Scores) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    logits, labels = np.asarray(said[0]), np.asarray(said[1])
    return logits[labels != UNLABELLED], labels[labels != UNLABELLED]


def _known(groups: Sequence[Any] | None, said: Scores) -> list[Any] | None:
    """The groups of the annotated rows."""
    return None if groups is None else np.asarray(groups)[np.asarray(said[1]) != UNLABELLED].tolist()


def _uncalibrated(what: str, few: Mapping[str, int], then: str) -> list[str]:
    """Where the rows are too few for a calibration."""
    if not few:
        return []
    counts = ", ".join(f"{n:,} of class {name}" for name, n in few.items())
    return [f"{what}: a calibration takes {LEAST_ROWS} tuning rows of each class, found {counts}; {then}"]


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
    chosen = band = lines = least = None
    probabilities = at_base_rate(calibration(logits), shares, base_rate)
    weights = row_weights(labels, shares, base_rate)
    if binary and len(labels):
        best = best_f1_threshold(labels, probabilities, weights)
        chosen = choose_threshold(labels, probabilities, rule, weights)
        threshold = chosen.threshold
        band = _band(labels, probabilities[:, 1], threshold, review) if review else None
    if not binary and rule.per_class:
        lines = tuple(class_thresholds(labels, probabilities, weights)) if len(labels) else (0.5,) * classes
    if not binary and review is not None and review.alpha is not None:
        least = tuple(risk_threshold(probabilities[labels == c, c], review.alpha) for c in range(classes))
    fit = PatternPolicy(
        calibration=calibration,
        shares=shares,
        threshold=threshold,
        class_thresholds=lines,
        band=band,
        least=least,
        n=len(labels),
    )
    return fit, best, chosen


def _shares(labels: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Of each class, by Jeffreys' prior: a class without rows is rare, not impossible."""
    counts = np.bincount(labels, minlength=classes) + 0.5
    return tuple((counts / counts.sum()).tolist())


def _band(labels: NDArray[np.int64], p: NDArray[np.float64], threshold: float, review: ReviewConfig) -> Band:
    positive, negative = p[labels == 1], p[labels == 0]
    return Band(
        allow_below=threshold if review.fnr is None else risk_threshold(positive, review.fnr),
        block_from=threshold if review.fpr is None else alarm_threshold(negative, review.fpr),
        positives=len(positive),
        negatives=len(negative),
    )


def _language_bands(
    said: Scores,
    languages: Sequence[str],
    fit: PatternPolicy,
    base_rate: Sequence[float] | None,
    review: ReviewConfig,
) -> tuple[dict[str, Band], list[str]]:
    """A band for each language that has `MIN_PATTERN_ROWS` annotated rows, and where it promises nothing."""
    logits, labels = _annotated(said)
    p = fit.probabilities(logits, base_rate)[:, 1]
    known = np.array(languages, dtype=object)[np.asarray(said[1]) != UNLABELLED]
    bands, findings = {}, []
    for language in sorted(set(known.tolist()) - {""}):
        rows = known == language
        if rows.sum() >= MIN_PATTERN_ROWS and fit.threshold is not None:
            bands[language] = _band(labels[rows], p[rows], fit.threshold, review)
            findings += _lacking(f"posts in {language}", bands[language], review)
    return bands, findings


def _unpromised(what: str, fit: PatternPolicy, classes: Sequence[int | str], review: ReviewConfig | None) -> list[str]:
    """Where the rows are too few for a promise."""
    if review is None:
        return []
    if fit.least is not None and review.alpha is not None:
        few = [str(name) for name, limit in zip(classes, fit.least, strict=True) if limit is None]
        rows = f"it takes {least_rows(review.alpha):,} rows of a class"
        return [
            f"{what}: no guarantee of alpha {review.alpha:g} for {', '.join(few)}: {rows}; always in the set"
        ] * bool(few)
    return _lacking(what, fit.band, review)


def _lacking(what: str, band: Band | None, review: ReviewConfig) -> list[str]:
    found = []
    if band is not None:
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
    probabilities = fit.probabilities(logits, base_rate)
    weights = row_weights(labels, fit.shares, base_rate)
    figures = expected_figures(labels, probabilities, known, rule, weights=weights, seed=seed)
    return {name: Expected(**interval._asdict()) for name, interval in figures.items()}


def _own_fit(said: Scores, pooled: Scores) -> bool:
    """Whether a pattern's rows suffice for a fit of their own, and are not the pooled rows over again."""
    labels = _annotated(said)[1]
    if len(labels) < MIN_PATTERN_ROWS or len(np.unique(labels)) < 2:
        return False
    return not all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(said, pooled, strict=True))
