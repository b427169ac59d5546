"""Where to draw the line on calibrated probabilities of a binary label: by F1, by a bound that is to hold, by cost."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import ThresholdConfig
from ..errors import DataError
from ..evaluate.intervals import Interval
from ..evaluate.metrics import checked
from ..evaluate.ranking import Ranking
from ..workspace import atomic
from .smoothing import expected_positives

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

GRID = tuple(step / 20 for step in range(2, 19))
"""0.10 to 0.90 by 0.05."""
COLUMNS = ("threshold", "precision", "recall", "f1", "fpr", "flagged")
ON_GRID = ("f1", "macro_f1")
"""Rules whose threshold is of `GRID`, so that it is not that of a single row."""
LEAST = ("precision", "recall")
"""Rules whose bound is a lower one; of the others it is an upper one."""
NAMES = {"fpr": "false-positive rate", "capacity": "share of posts flagged"}
LOOKS = 20
"""Thresholds that a confident precision is looked for at; each look has its share of the risk."""
FEW = 10
"""Under so many rows for or against a figure, halves show too little of its chance."""
SWEEPS = 10
"""Over the classes, at most; two or three are enough."""
SMOOTHED = 500
"""Under so many rows macro-F1 is made best as it is expected, not as these rows happen to have it. From there on a
regression that does not fit may cost what the chance of single rows does (docs/decisions.md has the figures)."""
CANDIDATES = 500
"""Thresholds at most of a half: bounds the time of intervals on large splits."""


def threshold_curve(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> list[dict[str, float]]:
    """What each threshold of `GRID` would do; a row is flagged where its probability >= the threshold.

    Parameters
    ----------
    labels : [n]
        0 or 1.
    probabilities : [n] or [n, 2]
        Calibrated.
    weights : [n], optional
        What a row counts for, where classes are to have other shares than here; None = one.

    Returns
    -------
    list of dict
        ``threshold``, ``precision``, ``recall``, ``f1``, ``fpr`` and ``flagged`` (rows, a count). What has no rows to
        go by (precision with nothing flagged, recall without positives, fpr without negatives) is 0, as scikit-learn's
        ``zero_division=0`` has it.

    Raises
    ------
    DataError
        Where there are more than two classes, or as `evaluate.metrics.checked`.
    """
    y, p = _binary(labels, probabilities)
    w = _counted(weights, y)
    return [_at(threshold, y, p >= threshold, w) for threshold in GRID]


def _binary(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Labels and probabilities of class 1, ``[n]`` each."""
    y, p = checked(labels, probabilities)
    if p.shape[1] != 2:
        raise DataError(f"a threshold is for binary labels, found {p.shape[1]} classes: take the likeliest class")
    return y, p[:, 1]


def _counted(weights: ArrayLike | None, y: NDArray[np.int64]) -> Floats:
    return np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)


def _at(threshold: float, y: np.ndarray, flags: np.ndarray, w: Floats) -> dict[str, float]:
    flagged, hits = float(w[flags].sum()), float((w * y)[flags].sum())
    rates = _rates(hits, flagged, float(w @ y), float(w.sum()))
    return {"threshold": threshold, **rates, "flagged": round(flagged)}


def _rates(hits: float, flagged: float, positives: float, rows: float) -> dict[str, float]:
    """The shares behind four counts of rows; 0 where there is nothing to go by."""
    return {
        "precision": hits / (flagged or 1),
        "recall": hits / (positives or 1),
        "f1": 2 * hits / (flagged + positives or 1),  # one division of whole numbers, so that ties are exact
        "fpr": (flagged - hits) / (rows - positives or 1),
    }


def best_f1_threshold(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The threshold of `GRID` with the highest F1; of equals the nearest to 0.5, then the lower.

    Input and errors as `threshold_curve`.
    """
    curve = threshold_curve(labels, probabilities, weights)
    best = max(curve, key=lambda row: (row["f1"], -round(abs(row["threshold"] - 0.5), 2), -row["threshold"]))
    return best["threshold"]


def best_macro_f1_threshold(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, smoothed: bool = False
) -> float:
    """The threshold of `GRID` with the highest mean of both classes' F1; of equals the nearest to 0.5, then the lower.

    ``smoothed``: of the F1 that `expected_positives` expects. Input and errors as `threshold_curve`.
    """
    y, p = _binary(labels, probabilities)
    w = _counted(weights, y)
    positives = expected_positives(p, w * y, w) if smoothed else w * y
    found = _both_f1(Counts.of(p >= np.array(GRID)[:, None], positives, w)).tolist()
    return max(zip(found, GRID, strict=True), key=lambda pair: (pair[0], -round(abs(pair[1] - 0.5), 2), -pair[1]))[1]


def described(rule: ThresholdConfig) -> str:
    """A rule in words.

    >>> described(ThresholdConfig(by="precision", bound=0.9, confidence=0.95))
    'precision at least 0.9, with confidence 0.95'
    """
    if rule.bound is not None:
        side = "at least" if rule.by in LEAST else "at most"
        sure = f", with confidence {rule.confidence:g}" if rule.confidence else ""
        return f"{NAMES.get(rule.by, rule.by)} {side} {rule.bound:g}{sure}"
    if rule.by == "cost":
        costs = rule.costs
        return f"least cost, {costs.false_positive:g} a false positive and {costs.false_negative:g} a false negative"
    best = {"f1": "the best F1", "macro_f1": "the best macro-F1"}
    return best.get(rule.by, f"the best F at beta {rule.beta:g}")


class ChosenThreshold(NamedTuple):
    """A threshold, and what it does on the rows it was chosen on."""

    threshold: float
    met: bool
    """Whether it keeps to the rule's bound there, with the confidence asked for; True for rules without one."""
    figures: dict[str, float]
    """A row of `threshold_curve`, but ``flagged`` is a share; and the figure that the rule is about (`figure_of`)."""
    nearest: float
    """The bound that could be kept to at this threshold; nan for rules without one."""


def class_thresholds(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> list[float]:
    """Of several classes, thresholds on `GRID` with the best macro-F1, where the class is named whose probability
    exceeds its own by the largest factor.

    From 0.5 for all, which is the likeliest class, one class after another takes the threshold that serves macro-F1
    best until none can do better (cyclic optimisation: Fan and Lin 2007, "A study on threshold selection for
    multi-label classification"): on these rows never worse than the likeliest. Thresholds with the best F1 of each
    class against the rest, one by one, halved the macro-F1 of a model that cannot tell two classes apart.

    Parameters
    ----------
    labels : [n]
    probabilities : [n, C]
    weights : [n], optional
        As `threshold_curve`.

    Raises
    ------
    DataError
        As `evaluate.metrics.checked`.
    """
    y, p = checked(labels, probabilities)
    w, classes = _counted(weights, y), p.shape[1]
    lines = np.full(classes, 0.5)
    best = _macro_f1(y, p, lines, w)
    for _ in range(SWEEPS):
        before = best
        for c in range(classes):
            for threshold in GRID:
                tried = np.where(np.arange(classes) == c, threshold, lines)
                if (found := _macro_f1(y, p, tried, w)) > best + 1e-9:
                    best, lines = found, tried
        if best == before:
            break
    return [float(line) for line in lines]


def _macro_f1(y: NDArray[np.int64], p: Floats, lines: Floats, w: Floats) -> float:
    classes = p.shape[1]
    named = (p / lines).argmax(axis=1)
    hits = np.bincount(y[named == y], w[named == y], classes)
    both = np.bincount(y, w, classes) + np.bincount(named, w, classes)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def choose_threshold(
    labels: ArrayLike, probabilities: ArrayLike, rule: ThresholdConfig, weights: ArrayLike | None = None
) -> ChosenThreshold:
    """The threshold that a rule asks for.

    A bounded rule takes the lowest threshold that keeps to the bound (``recall``: the highest), so that precision is
    not bought with more recall than it costs. With ``confidence`` it is not the figure on these rows that keeps to it
    but the end of its exact one-sided binomial interval (Clopper and Pearson 1934). Recall, false-positive rate and
    share flagged only ever move one way along thresholds, so that the walk from the safe side to the first failure
    needs no correction (fixed sequence testing: Angelopoulos et al. 2021, arXiv:2110.01052, section 4.2); precision is
    looked at in `LOOKS` places, and the risk is divided by them (Bonferroni).

    Where no threshold keeps to the bound, the one that comes nearest is given, and ``met`` is False. Of under
    `SMOOTHED` rows ``macro_f1`` takes the best that is expected (`expected_positives`).

    Parameters
    ----------
    labels : [n]
        0 or 1.
    probabilities : [n] or [n, 2]
        Calibrated.
    rule : ThresholdConfig
    weights : [n], optional
        As `threshold_curve`; with ``confidence`` rows count as they are, and the rule's figure must be of one class.

    Raises
    ------
    DataError
        As `threshold_curve`; where a rule needs a class that no row bears.
    """
    y, p = _binary(labels, probabilities)
    needed = {"recall": 1, "precision": 1, "f_beta": 1, "fpr": 0}.get(rule.by)
    if needed is not None and not (y == needed).any():
        raise DataError(f"a threshold by {rule.by} needs rows of class {needed}, found none: give more, or take f1")
    w = _counted(weights, y)
    met, nearest = True, float("nan")
    if rule.by in ON_GRID:
        smoothed = _is_smoothed(rule, len(y))
        threshold = (
            best_f1_threshold(y, p, w) if rule.by == "f1" else best_macro_f1_threshold(y, p, w, smoothed=smoothed)
        )
    else:
        ranked = _Ranked(y, p)
        # Within a class all weights are equal, and its own rows are what a confident figure of it counts.
        counts = ranked.counts(w if rule.confidence is None else np.ones(len(y)))
        at = ranked.choose(counts, rule)
        threshold = float(ranked.thresholds[at])
        if rule.bound is not None:
            nearest = float(_kept(counts, rule)[at])
            met = nearest >= rule.bound if rule.by in LEAST else nearest <= rule.bound
    flags = p >= threshold
    counts = Counts.of(flags, w * y, w)
    return ChosenThreshold(threshold, met, {**_at(threshold, y, flags, w), **counts.figures(0, rule)}, nearest)


def expected_figures(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[Any],
    rule: ThresholdConfig,
    *,
    weights: ArrayLike | None = None,
    size: float = 1.0,
    splits: int = 500,
    seed: int = 0,
    level: float = 0.9,
) -> dict[str, Interval]:
    """What to expect of the rule's threshold on the next rows: prediction intervals, not confidence intervals.

    By half-samples, with the choice inside them: a threshold is chosen on one half of the groups, and what it does
    there is compared with what it does on the other half. The differences hold the chance of both sets and the optimism
    of a threshold that is measured where it was chosen; scaled to the rows at hand and to come, they are added to the
    figures on the rows at hand (subsampling: Politis and Romano 1994, Annals of Statistics 22, which needs no smooth
    rule). Bootstrap resamples, which share rows, told too little of the optimism: with 400 rows the next F1 was 0.006
    below what they expected of the F1 maximum, and 0.001 below what half-samples do. Where fewer than `FEW` rows
    speak for or against a figure, the interval is at least Jeffreys' predictive one.

    Parameters
    ----------
    labels, probabilities, rule, weights : as `choose_threshold`
    groups : [n]
        Halved, with all their rows.
    size : float
        Rows to come, relative to these.
    level : float
        Share of sets to come whose figure lies inside.

    Returns
    -------
    dict of Interval
        By figure, as in `ChosenThreshold`; the value is the mean. Halves that lack a class are left out.
    """
    y, p = _binary(labels, probabilities)
    w = _counted(weights, y)
    ranked = _Ranked(y, p, most=CANDIDATES)
    smoothed = _is_smoothed(rule, len(y))  # of halves as of the whole
    differences: dict[str, list[float]] = {}
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        lesson = (rng.permutation(len(names)) < len(names) / 2)[group_of].astype(np.float64)
        test = 1 - lesson
        if not (0 < lesson @ y < lesson.sum() and 0 < test @ y < test.sum()):
            continue
        here, next_one = ranked.counts(lesson * w), ranked.counts(test * w)
        chosen_by = ranked.smoothed(here) if smoothed else here
        at = ranked.choose(chosen_by if rule.confidence is None else ranked.counts(lesson), rule)
        before, after = here.figures(at, rule), next_one.figures(at, rule)
        for name in before:
            differences.setdefault(name, []).append(after[name] - before[name])
    chosen = choose_threshold(y, p, rule, w)
    figures, rare = chosen.figures, _rare(y, p >= chosen.threshold, size, level)
    if weights is not None:  # the others are no shares of the rows that were counted
        rare = {name: ends for name, ends in rare.items() if name in ("recall", "fpr")}
    # A difference of two halves has the variance 4 v / n, one of these rows and new ones (1 + 1 / size) v / n.
    scale = np.sqrt((1 + 1 / size) / 4)
    ends = (50 * (1 - level), 50 * (1 + level))
    result = {}
    for name, found in differences.items():
        middle = figures[name] + scale * np.mean(found)
        low, high = figures[name] + scale * np.percentile(found, ends)
        if name in rare:
            low, high = min(low, rare[name][0]), max(high, rare[name][1])
        most = None if name == "cost" else 1
        result[name] = Interval(*(float(np.clip(end, 0, most)) for end in (middle, low, high)))
    return result


def _rare(y: NDArray[np.int64], flags: NDArray[np.bool_], size: float, level: float) -> dict[str, tuple[float, float]]:
    """Prediction intervals of the figures that few rows speak for or against, by Jeffreys' prior.

    Of rows that are all right, every half is, and their differences show no chance at all. F1 is the share h of hits
    among all rows that are flagged or positive, as 2 h / (1 + h); macro-F1 that of both classes, half each.
    """
    from scipy.stats import betabinom

    n, positives, flagged, hits = len(y), int(y.sum()), int(flags.sum()), int(y[flags].sum())
    right = n - flagged - positives + hits
    shares = {
        "precision": (hits, flagged),
        "recall": (hits, positives),
        "f1": (hits, n - right),
        "f1 of 0": (right, n - hits),
        "fpr": (flagged - hits, n - positives),
        "flagged": (flagged, n),
    }
    found = {}
    for name, (part, whole) in shares.items():
        if min(part, whole - part) < FEW:
            rows = max(1, round(whole * size))
            law = betabinom(rows, part + 0.5, whole - part + 0.5)
            low, high = (float(law.ppf(end)) / rows for end in ((1 - level) / 2, (1 + level) / 2))
            found[name] = (2 * low / (1 + low), 2 * high / (1 + high)) if name.startswith("f1") else (low, high)
    other = found.pop("f1 of 0", None)
    if other and "f1" in found:
        found["macro_f1"] = (found["f1"][0] + other[0]) / 2, (found["f1"][1] + other[1]) / 2
    return found


class Counts(NamedTuple):
    """Per threshold, or resample, ``[k]``: rows flagged, positives among them, all positives, and all rows."""

    flagged: Floats
    hits: Floats
    positives: Floats | float
    rows: Floats | float

    @classmethod
    def of(cls, flags: NDArray[np.bool_], positives: Floats, rows: Floats) -> Counts:
        """Of flags ``[..., n]`` on rows ``[n]`` that count for so many positives and rows."""
        flags = np.atleast_2d(flags)
        return cls(flags @ rows, flags @ positives, float(positives.sum()), float(rows.sum()))

    def figures(self, at: int, rule: ThresholdConfig) -> dict[str, float]:
        """By name, at one threshold, that of the rule among them; 0 where there is nothing to go by."""
        flagged, hits = float(self.flagged[at]), float(self.hits[at])
        positives, rows = float(self.positives), float(self.rows)
        found = {**_rates(hits, flagged, positives, rows), "flagged": flagged / rows}
        if figure_of(rule) not in found:
            found[figure_of(rule)] = float(rule_figure(self, rule)[at])
        return found


def _share(part: Floats, whole: Floats | float) -> Floats:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


class _Ranked(Ranking):
    """What every threshold would do to the rows, whichever of them count."""

    def __init__(self, y: NDArray[np.int64], p: Floats, most: int | None = None):
        super().__init__(p, most)
        self.y = y.astype(np.float64)

    def counts(self, weights: Floats) -> Counts:
        """Of weights ``[n]`` in the order of the rows."""
        flagged, hits = self.cumulative(weights), self.cumulative(weights * self.y)
        return Counts(flagged, hits, float(hits[-1]), float(flagged[-1]))

    def smoothed(self, counts: Counts) -> Counts:
        """The same with the positives that `expected_positives` expects."""
        rows, positives = (np.diff(part, prepend=0) for part in (counts.flagged, counts.hits))
        hits = expected_positives(self.thresholds, positives, rows).cumsum()
        return counts._replace(hits=hits, positives=float(hits[-1]))

    def choose(self, counts: Counts, rule: ThresholdConfig) -> int:
        """The index of the candidate that the rule takes."""
        if rule.by in ON_GRID:  # what the grid comes down to; a threshold that flags nothing is as good as the first
            places = (np.searchsorted(-self.thresholds, -np.array(GRID), side="right") - 1).clip(0)
            found = rule_figure(counts, rule)[places]
            return int(places[(found - 1e-9 * np.abs(np.array(GRID) - 0.5)).argmax()])
        if rule.bound is None:
            return int(_gain(counts, rule).argmax())
        kept = _kept(counts, rule)
        signed = kept - rule.bound if rule.by in LEAST else rule.bound - kept
        met = np.flatnonzero(signed >= 0)
        if not len(met):
            return int(signed.argmax())
        return int(met[0] if rule.by == "recall" else met[-1])


def _positive_f1(counts: Counts) -> Floats:
    """F1 of class 1, ``[k]``."""
    return _share(2 * counts.hits, counts.flagged + counts.positives)


def _both_f1(counts: Counts) -> Floats:
    """The mean of both classes' F1, ``[k]``."""
    passed, negatives = counts.rows - counts.flagged, counts.rows - counts.positives
    right = passed - (counts.positives - counts.hits)
    return (_positive_f1(counts) + _share(2 * right, passed + negatives)) / 2


def _is_smoothed(rule: ThresholdConfig, n: int) -> bool:
    return rule.by == "macro_f1" and n < SMOOTHED


def figure_of(rule: ThresholdConfig) -> str:
    """The name of the figure that a rule makes best or keeps within a bound: what its threshold is to be judged by."""
    return "flagged" if rule.by == "capacity" else rule.by


def rule_figure(counts: Counts, rule: ThresholdConfig) -> Floats:
    """That figure, ``[k]``; of costs the mean of a row. 0 where there is nothing to go by."""
    if rule.bound is not None:
        return _share(*_bounded(counts, rule))
    if rule.by in ON_GRID:
        return (_positive_f1 if rule.by == "f1" else _both_f1)(counts)
    return _gain(counts, rule) if rule.by == "f_beta" else -_gain(counts, rule) / counts.rows


def _gain(counts: Counts, rule: ThresholdConfig) -> Floats:
    """What a rule without a bound makes as large as it can, ``[k]``."""
    if rule.by == "f_beta":
        square = rule.beta**2
        return _share((1 + square) * counts.hits, counts.flagged + square * counts.positives)
    wrong = rule.costs.false_positive * (counts.flagged - counts.hits)
    return -(wrong + rule.costs.false_negative * (counts.positives - counts.hits))


def _bounded(counts: Counts, rule: ThresholdConfig) -> tuple[Floats, Floats | float]:
    """The rows that a bounded rule counts, and those that they are a share of, ``[k]``."""
    shares: dict[str, tuple[Floats, Floats | float]] = {
        "precision": (counts.hits, counts.flagged),
        "recall": (counts.hits, counts.positives),
        "fpr": (counts.flagged - counts.hits, counts.rows - counts.positives),
        "capacity": (counts.flagged, counts.rows),
    }
    return shares[rule.by]


def _kept(counts: Counts, rule: ThresholdConfig) -> Floats:
    """The bound that each threshold keeps to, ``[k]``: its figure, or the end of the figure's interval."""
    part, whole = _bounded(counts, rule)
    if rule.confidence is None:
        return _share(part, whole)

    from scipy.special import betaincinv

    risk = 1 - rule.confidence
    part, whole = np.broadcast_arrays(part, whole)
    if rule.by == "precision":
        # Looks lie at fixed shares of the ranks; elsewhere nothing is known.
        looks = np.unique(np.linspace(0, len(part) - 1, LOOKS + 1).round().astype(int)[1:])
        kept = np.full(part.shape, -np.inf)
        kept[looks] = betaincinv(part[looks], whole[looks] - part[looks] + 1, risk / len(looks))
        return np.where(part > 0, kept, np.where(np.isinf(kept), kept, 0.0))
    if rule.by == "recall":
        return np.where(part > 0, betaincinv(part.clip(1), whole - part + 1, risk), 0.0)
    return np.where(part < whole, betaincinv(part + 1, (whole - part).clip(1), 1 - risk), 1.0)


def write_curve(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write ``thresholds_curve_<model>_<run>.csv``, whole or not at all."""
    with atomic(Path(path)) as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "threshold": f"{row['threshold']:.2f}"} for row in rows)
