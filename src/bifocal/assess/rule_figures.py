"""What the rule behind a threshold, and the review band, come to on tested rows, beside what was asked and expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, NotRequired

import numpy as np

from ..config import ThresholdConfig
from ..decide.policy import POOLED, Policy, class_shares, row_weights
from ..decide.thresholds import LEAST, Counts, figure_of, rule_figure
from ..evaluate.compare import Resampling
from ..evaluate.differences import rate
from ..evaluate.intervals import Figure, Interval, over_resamples, percentile_interval
from ..example import UNLABELLED
from .predictions import Predictions, actions, calibrated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.bool_]


class RuleFigure(Figure):
    """The very figure that was asked for, on tested rows, at the policy's thresholds."""

    of: Literal["threshold", "review"]
    figure: str
    """As `figure_of` names it; of a review band ``fnr``, the share of positive posts that are allowed without a person,
    or ``fpr``, that of negative ones that are blocked so."""
    at_least: float | None
    at_most: float | None
    """The bound that was asked for; both None where the rule takes the best."""
    expected: Figure | None
    """A prediction interval of 90%, from the rows that the threshold was chosen on."""
    rows: NotRequired[int]
    """Tested rows that the pooled threshold decides, where others have one by another rule; absent = it is of all."""


class _Question(NamedTuple):
    """A figure of sums over rows."""

    columns: Floats
    """What is summed, ``[n, k]``."""
    figure: Callable[[Floats], Floats]
    """Sums ``[k, b]`` -> figures ``[b]``."""
    share: tuple[Rows, Rows] | None = None
    """Where it is a share of rows that count alike: those that it counts, and those that it is a share of, ``[n]``."""


def measure_rule(tested: Predictions, policy: Policy, model: str, resampling: Resampling) -> list[RuleFigure]:
    """What the rule of a model's pooled threshold, and the review band, come to; at the base rate of the policy.

    Where a presence pattern has a threshold that was chosen by another rule, or set by hand, the pooled one is measured
    on the rows that it decides, and nothing is expected. Nothing is asked of a threshold that was set by hand, nor of
    several classes. Intervals are of 95%, groups resampled; of shares at least Jeffreys'.
    """
    known = tested.has[model] & (tested.labels != UNLABELLED)
    if len(policy.classes) != 2 or not known.any():
        return []
    rule, one_rule = policy.rule_of(model), policy.has_one_rule(model)
    rows = known if one_rule else known & ~np.isin(tested.patterns, list(policy.models[model].patterns))
    found: list[RuleFigure] = []
    if rule is not None and rows.any():
        y, flags = tested.labels[rows], calibrated(tested, policy, model)[1][rows] == 1
        weights = row_weights(y, class_shares(y, 2), policy.base_rate)
        expected = policy.expected.get(figure_of(rule)) if one_rule else None
        told = _told("threshold", figure_of(rule), rule.bound, least=rule.by in LEAST)
        told["expected"] = None if expected is None else Interval(expected.value, expected.low, expected.high).figure()
        if not one_rule:
            told["rows"] = len(y)
        question = _of_rule(rule, y, flags, np.ones(len(y)) if weights is None else weights)
        found += _measured([(told, question)], _groups(tested, rows), resampling)
    if policy.review is not None and policy.band(model, POOLED) is not None:
        y, done = tested.labels[known], actions(tested, policy, model)[known]
        asked = (
            ("fnr", policy.review.fnr, done == "allow", y == 1),
            ("fpr", policy.review.fpr, done == "block", y == 0),
        )
        questions = [
            (_told("review", name, bound), _share(event, among, np.ones(len(y))))
            for name, bound, event, among in asked
            if bound is not None
        ]
        found += _measured(questions, _groups(tested, known), resampling)
    return found


def _groups(tested: Predictions, rows: Rows) -> NDArray[np.intp]:
    """The groups of the rows, numbered."""
    return np.unique(np.array(tested.groups)[rows], return_inverse=True)[1]


def _told(of: Literal["threshold", "review"], figure: str, bound: float | None, *, least: bool = False) -> RuleFigure:
    low, high = (bound, None) if least else (None, bound)
    unknown = Interval(*[float("nan")] * 3).figure()
    return {**unknown, "of": of, "figure": figure, "at_least": low, "at_most": high, "expected": None}


def _of_rule(rule: ThresholdConfig, y: NDArray[np.int64], flags: Rows, weights: Floats) -> _Question:
    shares = {
        "precision": (y == 1, flags),
        "recall": (flags, y == 1),
        "fpr": (flags, y == 0),
        "capacity": (flags, np.ones(len(y), dtype=bool)),
    }
    if rule.by in shares:
        return _share(*shares[rule.by], weights)
    columns = np.stack([flags, flags * y, y, np.ones(len(y))], axis=1) * weights[:, None]
    return _Question(columns, lambda sums: rule_figure(Counts(*sums), rule))


def _share(event: Rows, among: Rows, weights: Floats) -> _Question:
    def share(sums: Floats) -> Floats:
        part, whole = sums
        return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)

    alike = len(np.unique(weights[among])) < 2
    columns = np.stack([event & among, among], axis=1) * weights[:, None]
    return _Question(columns, share, (event, among) if alike else None)


def _measured(
    asked_for: list[tuple[RuleFigure, _Question]], codes: NDArray[np.intp], resampling: Resampling
) -> Iterator[RuleFigure]:
    """Each figure with its interval; ``codes [n]`` number the groups of the rows."""
    questions = [question for _, question in asked_for]
    sums = [np.stack([np.bincount(codes, column) for column in asked.columns.T]) for asked in questions]

    def figures(weights: Floats) -> dict[int, Floats]:
        return {i: asked.figure(sums[i] @ weights.T) for i, asked in enumerate(questions)}

    found = over_resamples(figures, range(int(codes.max()) + 1), resampling.resamples, resampling.seed)
    for i, (told, asked) in enumerate(asked_for):
        interval = percentile_interval(float(found[i][0]), found[i][1:])
        if asked.share is not None and asked.share[1].any():
            event, among = asked.share
            _, low, high = rate(event[among], codes[among]).interval()
            low, high = float(np.fmin(interval.low, low)), float(np.fmax(interval.high, high))
            interval = Interval(interval.value, low, high)
        yield {**told, **interval.figure()}
