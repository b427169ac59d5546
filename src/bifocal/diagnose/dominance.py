"""Which modality carries a model: shares of its performance, from values per subset of modalities or by permutation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..errors import DataError, nearest
from ..evaluate.intervals import (
    RESAMPLES,
    Figure,
    Interval,
    Weighted,
    count_classes,
    over_resamples,
    percentile_interval,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Subset = frozenset[str]
    Values = Mapping[Subset, Any]
    """Modalities that were there -> how well the model did: a number, or an array with one value per resample."""

PERMUTATIONS = 100
GAINS = ("accuracy", "auprc", "auroc", "macro_f1")
"""Metrics of which more is better and 0 the least."""


def shapley(values: Values) -> dict[str, Any]:
    """How much of the performance each modality deserves: its mean gain over all orders in which modalities come in.

    ``share(m) = sum over S without m of |S|! (k - |S| - 1)! / k! * (v(S + m) - v(S))``. The shares sum to
    ``v(all) - v(none)`` (efficiency); modalities that can stand for each other get the same (symmetry); one that
    never changes the value gets 0. Shapley 1953, "A value for n-person games"; for modalities Hu, Li and Zhou 2022,
    "SHAPE: an unified approach to evaluate the contribution and cooperation of individual modalities"
    (arXiv:2205.00302).

    Parameters
    ----------
    values : {frozenset of modality names: value}
        One for each of the 2^k subsets of any number k of modalities, the empty one (chance) included, in any unit.
        Arrays of one shape (resamples of each value) are taken element by element.

    Returns
    -------
    {name: share}
        In the unit of the values.

    Raises
    ------
    DataError
        Where there is no modality, a subset is missing (named), or a value is not a finite number.
    """
    names, known = _checked("shapley", values, subsets)
    k = len(names)
    shares: dict[str, Any] = {}
    for name in names:
        without = [subset for subset in subsets(names) if name not in subset]
        weights = [factorial(len(s)) * factorial(k - len(s) - 1) / factorial(k) for s in without]
        gains = [known[s | {name}] - known[s] for s in without]
        shares[name] = _plain(sum(w * gain for w, gain in zip(weights, gains, strict=True)))
    return shares


def cooperation(values: Values) -> Any:
    """What the modalities are worth together beyond what their smaller coalitions are worth, in the values' unit.

    For two ``v(12) - v(1) - v(2) + v(none)``: above 0 they need each other (XOR: +0.5 of accuracy), below 0 one
    stands for the other (redundant: -0.5), 0 means that their gains add up. For k modalities the Harsanyi dividend of
    all of them, ``sum over S of (-1)^(k - |S|) v(S)`` (Harsanyi 1963); of two among three, give those subsets only.

    Parameters, return and errors as `shapley`, but for one number instead of a share per name.
    """
    names, known = _checked("cooperation", values, subsets)
    return _plain(sum((-1) ** (len(names) - len(subset)) * known[subset] for subset in subsets(names)))


def conditional_utilization(values: Values) -> dict[str, Any]:
    """Which part of the model's accuracy would be gone without a modality, the others being there.

    ``u(m | rest) = (v(all) - v(all but m)) / v(all)``: the conditional utilization rate of Wu, Jastrzębski, Cho and
    Geras 2022, "Characterizing and overcoming the greedy nature of learning in multi-modal deep neural networks"
    (arXiv:2202.05306), written for any number of modalities. A large difference between modalities is
    their sign of a greedy model. Below 0: the modality does harm.

    Parameters
    ----------
    values : {frozenset of modality names: value}
        Of all modalities together and of all but each one; other subsets may be there. Arrays as in `shapley`.

    Returns
    -------
    {name: rate}
        At most 1, no unit; nan only where an element of an array of totals is 0.

    Raises
    ------
    DataError
        As `shapley`, and where the value of all modalities together is not above 0.
    """
    names, known = _checked("conditional_utilization", values, _all_or_all_but_one)
    total = known[frozenset(names)]
    if total.ndim == 0 and total <= 0:
        raise DataError(f"utilization is a part of the value of all modalities, which must be above 0, found {total:g}")
    total = np.where(total > 0, total, np.nan)
    return {name: _plain((total - known[frozenset(names) - {name}]) / total) for name in names}


class Coalition(TypedDict):
    """How well a model does with these modalities alone."""

    modalities: list[str]
    value: float


class Dominance(TypedDict):
    """What `measure_dominance` finds, by modality; ends of intervals are nan where all rows are one group."""

    metric: str
    n: int
    values: list[Coalition]
    shapley: dict[str, Figure]
    conditional_utilization: dict[str, Figure]
    cooperation: Figure


def measure_dominance(
    labels: ArrayLike,
    probabilities: Mapping[Subset, ArrayLike],
    groups: Sequence[Any],
    *,
    metric: str = "accuracy",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Dominance:
    """Shapley shares, cooperation and conditional utilization of one model with 95% intervals, on shared resamples.

    Parameters
    ----------
    labels : [n]
        Class indices.
    probabilities : {frozenset of modality names: [n, C]}
        What the model says when only these modalities are there; for the empty set its prior.
    groups : [n]
        Near-duplicate group of each row.
    metric : str
        One of `GAINS`.

    Raises
    ------
    DataError
        As `shapley` and `metrics.checked`, on another metric, and where these rows cannot define it (AUROC of one
        class).
    """
    if metric not in GAINS:
        raise DataError(
            f"dominance is measured by a metric of which more is better, found {metric!r}; {nearest(metric, GAINS)}"
        )
    names, _ = _checked("measure_dominance", dict.fromkeys(probabilities, 0.0), subsets)
    n = sum(count_classes(labels, probabilities[frozenset(names)], groups))
    scorers = {subset: Weighted(labels, p) for subset, p in probabilities.items()}
    drawn = over_resamples(
        lambda w: {subset: scorer(w, [metric])[metric] for subset, scorer in scorers.items()}, groups, resamples, seed
    )
    plain = {subset: float(found[0]) for subset, found in drawn.items()}
    if not np.isfinite(list(plain.values())).all():
        raise DataError(f"{metric} is not defined on these {n} rows, since they are of one class; ask for accuracy")
    drawn = {subset: found[1:] for subset, found in drawn.items()}

    def per_name(figure: Callable[[Values], dict[str, Any]]) -> dict[str, Figure]:
        values, replicates = figure(plain), figure(drawn)
        return {name: percentile_interval(values[name], replicates[name]).figure() for name in names}

    return {
        "metric": metric,
        "n": n,
        "values": [{"modalities": sorted(subset), "value": plain[subset]} for subset in subsets(names)],
        "shapley": per_name(shapley),
        "conditional_utilization": per_name(conditional_utilization),
        "cooperation": percentile_interval(cooperation(plain), cooperation(drawn)).figure(),
    }


def perceptual_score(
    predict: Callable[[Mapping[str, NDArray[np.int64]]], ArrayLike],
    labels: ArrayLike,
    modalities: Collection[str],
    *,
    groups: Sequence[Any] | None = None,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Which part of the model's accuracy is lost when a modality is taken from another row: what the model relies on.

    ``(A - A_m) / A`` with A the accuracy and A_m its expectation over permutations of modality m across the rows:
    Gat, Schwartz and Schwing 2021, "Perceptual score: what data modalities does your model perceive?"
    (arXiv:2110.14375, equation 2), in its model-normalised form. Times A it is the plain drop. Nothing is blanked, so
    that the model sees only inputs of the kind it was trained on.

    Row i meets the row that stands s places after it in a random order, each permutation another s: every pair is as
    likely as under free permutations, none comes twice, and from ``permutations = n`` on the expectation is exact.

    Parameters
    ----------
    predict : callable
        ``{name: [n] row numbers}`` -> predicted classes ``[n]`` (class indices) of rows put together so: modality
        ``name`` of row i is taken from row ``rows[name][i]``.
    labels : [n]
        Class indices.
    modalities : names
    groups : [n], optional
        Near-duplicate group of each row; without them each row is its own. The interval resamples groups, not the
        permutations.
    permutations : int
        From 1; more than n are not needed.

    Returns
    -------
    {name: Interval}
        At most 1, no unit; ends are nan where all rows are one group.

    Raises
    ------
    DataError
        Where rows, modalities or permutations are none, predictions are not n class indices, groups are not one per
        row, or no prediction is right.
    """
    y = np.asarray(labels)
    n = len(y) if y.ndim == 1 else 0
    names = sorted(set(modalities)) if not isinstance(modalities, str) else []
    if not n or not names or permutations < 1:
        raise DataError(
            "a perceptual score needs labels [n], n >= 1, a collection of names and permutations >= 1, found labels "
            f"{list(y.shape)}, modalities {modalities!r}, permutations {permutations}"
        )
    if groups is not None and len(groups) != n:
        raise DataError(f"groups are one per row, found {len(groups)} for {n} labels")
    rows = np.arange(n)
    right = _right(predict(dict.fromkeys(names, rows)), y)
    if not right.any():
        raise DataError(f"a perceptual score is a part of the accuracy, but none of {n} rows is predicted right")
    drops = np.zeros((n, len(names)))
    partners = list(_partners(n, permutations, seed))
    for column, name in enumerate(names):
        for partner in partners:
            drops[:, column] += right - _right(predict(dict.fromkeys(names, rows) | {name: partner}), y)
    drops /= len(partners)
    units: Sequence[Any] = range(n) if groups is None else groups

    def lost(weights: Floats) -> dict[str, Floats]:
        accuracy = weights @ right
        shares = (weights @ drops) / np.where(accuracy > 0, accuracy, np.nan)[:, None]
        return dict(zip(names, shares.T, strict=True))

    drawn = over_resamples(lost, units, resamples, seed)
    return {name: percentile_interval(float(found[0]), found[1:]) for name, found in drawn.items()}


def _right(predictions: ArrayLike, y: NDArray[Any]) -> Floats:
    chosen = np.asarray(predictions)
    if chosen.shape != y.shape:
        raise DataError(f"predictions are class indices [{len(y)}], found shape {list(chosen.shape)}: take the argmax")
    return (chosen == y).astype(np.float64)


def _partners(n: int, permutations: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    for shift in rng.permutation(n)[:permutations]:
        partner = np.empty(n, dtype=np.int64)
        partner[order] = np.roll(order, -shift)
        yield partner


def subsets(names: Sequence[str]) -> list[Subset]:
    """All of them, the empty one included."""
    return [frozenset(chosen) for size in range(len(names) + 1) for chosen in combinations(names, size)]


def _all_or_all_but_one(names: Sequence[str]) -> list[Subset]:
    everything = frozenset(names)
    return [everything, *(everything - {name} for name in names)]


def _checked(
    what: str, values: Values, needed: Callable[[Sequence[str]], list[Subset]]
) -> tuple[list[str], dict[Subset, Floats]]:
    """Names in order, and the values as arrays, or one line that says which is missing or of no use."""
    for key in values:
        if not isinstance(key, frozenset):
            raise DataError(f"{what} takes frozensets of modality names as keys, found {key!r}: frozenset({{'text'}})")
    names = sorted(frozenset().union(*values))
    if not names:
        raise DataError(f"{what} needs at least one modality, found the subsets {_spell(values)}")
    wanted = needed(names)
    if missing := [subset for subset in wanted if subset not in values]:
        raise DataError(
            f"{what} misses the value of {_spell(missing)}; of the modalities {', '.join(names)} it needs "
            f"{_spell(wanted)}, where {{}} is chance: add the missing"
        )
    known = {subset: np.asarray(values[subset], dtype=np.float64) for subset in wanted}
    for subset, value in known.items():
        if value.ndim == 0 and not np.isfinite(value):
            raise DataError(
                f"{what} needs finite values, found {value} for {_spell([subset])}: leave such a metric out"
            )
    return names, known


def _spell(subsets: Collection[Subset]) -> str:
    return ", ".join("{" + ", ".join(sorted(subset)) + "}" for subset in subsets) or "none"


def _plain(value: Any) -> Any:
    """A number as a float, an array as it is."""
    return float(value) if np.ndim(value) == 0 else value
