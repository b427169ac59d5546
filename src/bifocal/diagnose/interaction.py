"""Whether modalities interact: a fusion's additive part, the decomposition of information, and confounder pairs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from ..errors import DataError
from ..evaluate.intervals import RESAMPLES, Figure, Interval, bootstrap_weights, percentile_interval
from ..evaluate.metrics import SUM_TOLERANCE, checked
from .pid_solver import MarginalProgram

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

LN2 = log(2)
TOLERANCE = 1e-6
"""Bits that `pid` may be off by; certified for each answer, not hoped for."""
ESTIMATED = 1e-4
"""The same for an estimate, whose rows leave far more in doubt."""
AIM = 100
"""By how much the solver tries to stay under the tolerance."""
EMPTY = 1e-12
"""Probabilities up to this count as zero: they carry less than a tenth of the tolerance."""


def emap(logits: ArrayLike) -> Floats:
    """What is left of a fusion when text and picture may only add up: its empirical multimodally additive projection.

    ``emap[i] = mean_j f(t_i, v_j) + mean_i' f(t_i', v_i) - mean f``: of all ``g(t) + h(v)`` the one nearest to f on
    all n x n pairs. If a metric of it ties with that of f, the interactions in f do not earn anything. Hessel and Lee
    2020, "Does my multimodal model learn cross-modal interactions? It's harder to tell than you might think!"
    (arXiv:2010.06572).

    Parameters
    ----------
    logits : [n, n] or [n, n, C]
        Row = text i, column = picture j; the rows of the test set stand on the diagonal.

    Returns
    -------
    array, [n] or [n, C]
        In the unit of the logits.

    Raises
    ------
    DataError
        Where the pairs are not all there, none, or not finite.
    """
    f = np.asarray(logits, dtype=np.float64)
    if f.ndim not in (2, 3) or f.shape[0] != f.shape[1] or not f.size:
        raise DataError(f"emap takes logits [n, n] or [n, n, C] of all pairs, n >= 1, found shape {list(f.shape)}")
    return emap_in_blocks(lambda texts, pictures: f[texts, pictures], len(f), block=len(f))


def emap_in_blocks(score: Callable[[slice, slice], ArrayLike], n: int, *, block: int = 250) -> Floats:
    """`emap` of n x n pairs that are never held whole: the means run along as ``score`` gives block after block.

    Parameters
    ----------
    score : callable
        (texts, pictures), two slices of 0..n -> logits ``[r, c]`` or ``[r, c, C]`` of all their pairs; an array or a
        tensor on the CPU without gradient.
    n : int
        Rows of the test set.
    block : int
        Texts and pictures in a block; ``block * block * C`` numbers live at a time.

    Returns and errors as `emap`.
    """
    if n < 1 or block < 1:
        raise DataError(f"emap needs rows and blocks of at least 1, found n = {n} and block = {block}")
    by_text, by_picture = np.empty(0), np.empty(0)
    parts = [slice(start, min(start + block, n)) for start in range(0, n, block)]
    for texts in parts:
        for pictures in parts:
            f = np.asarray(score(texts, pictures))
            shape = (texts.stop - texts.start, pictures.stop - pictures.start)
            if not by_text.size:
                by_text, by_picture = np.zeros((n, *f.shape[2:])), np.zeros((n, *f.shape[2:]))
            if f.ndim not in (2, 3) or f.shape != shape + by_text.shape[1:] or not f.size:
                raise DataError(f"the score of {shape[0]} x {shape[1]} pairs has shape {list(f.shape)}; see emap")
            if not np.isfinite(f).all():
                raise DataError(f"logits are finite, found {f[~np.isfinite(f)][0]} among texts from {texts.start}")
            by_text[texts] += f.sum(axis=1, dtype=np.float64)
            by_picture[pictures] += f.sum(axis=0, dtype=np.float64)
    return (by_text + by_picture - by_text.mean(axis=0)) / n


class PID(NamedTuple):
    """What two sources tell of a target, in bits; the four sum to I(X1, X2; Y)."""

    redundancy: float
    unique_1: float
    unique_2: float
    synergy: float


def pid(joint: ArrayLike, *, tolerance: float = TOLERANCE) -> PID:
    """Which information on y both sources hold, which only one, and which only both together: BROJA, in bits.

    Among all joints q with the same marginals (x1, y) and (x2, y), the least ``I_q(X1, X2; Y)`` is the union
    information U that one gets without knowing how the sources go together. Then unique_1 = U - I(X2; Y),
    unique_2 = U - I(X1; Y), redundancy = I(X1; Y) + I(X2; Y) - U, synergy = I(X1, X2; Y) - U. Bertschinger, Rauh,
    Olbrich, Jost and Ay 2014, "Quantifying unique information" (arXiv:1311.2852). The convex programme
    is that of Makkeh, Theis and Vicente 2018, "BROJA-2PID" (Entropy 20:271), whose dual certifies the answer; it is
    solved here by a barrier method instead of their cone solver.

    Parameters
    ----------
    joint : [x1, x2, y]
        Probabilities that sum to 1, or counts. Cells may be zero; any alphabet, hundreds of cells take tens of ms.
    tolerance : float
        Bits that each term may be off by.

    Returns
    -------
    PID
        Each at least 0. All 0 where y is constant.

    Raises
    ------
    DataError
        Where the joint is not one, or the tolerance was not reached. On 6,000 random joints, many far more uneven
        than data are, the certified error was at most 4e-7 bits, and under 1e-8 on 96%.
    """
    p = _checked_joint(joint)
    union, alone_1, alone_2 = _union_information(p.sum(axis=1), p.sum(axis=0), tolerance)
    total = max(information(p.reshape(-1, p.shape[2])), alone_1, alone_2)
    return _decomposition(total, min(union, total), alone_1, alone_2)


def information(joint: Floats) -> float:
    """Mutual information of a joint ``[x, y]`` of probabilities, in bits; never below 0."""
    x, y = np.nonzero(joint)
    p = joint[x, y]
    logs = np.log2(p) - np.log2(joint.sum(axis=1)[x]) - np.log2(joint.sum(axis=0)[y])
    return max(0.0, float((p * logs).sum()))


class Information(TypedDict):
    """A `PID` of ``n`` rows with its intervals.

    Ends are nan, and the bias stays in, where all rows are one group or there are no resamples.
    """

    n: int
    redundancy: Figure
    unique_1: Figure
    unique_2: Figure
    synergy: Figure


def estimate_pid(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    both: ArrayLike,
    groups: Sequence[Any],
    *,
    cells: int = 10,
    resamples: int = 200,
    seed: int = 0,
) -> Information:
    """`pid` of inputs too rich to count, from what three models predict of rows that none of them was trained on.

    Redundancy and unique information depend on P(x1, y) and P(x2, y) alone (Bertschinger et al. 2014, their
    assumption (*)), and of each source on no more than p(y | x): predictions of the unimodal models stand for the
    sources. Synergy is what the fused model knows beyond the union information. Predictions are put into cells by
    k-means, as Liang et al. 2023 (arXiv:2302.12247) do with features; but they decompose the joint of the cells, which
    knows nothing of XOR when the unimodal models do not. The answer is of the models: weak ones give less than the
    data hold.

    Counts over cells inflate information, by about (cells - 1)(C - 1) / (2 n ln 2) bits. A bootstrap inflates it once
    more, so its mean excess is subtracted, and the interval is the basic one (Davison and Hinkley 1997, section 5.2);
    both end at 0.

    Parameters
    ----------
    labels : [n]
        Class indices.
    first, second, both : [n, C], or [n] of class 1
        Probabilities by the model of source 1, of source 2, and of both.
    groups : [n]
        Near-duplicate group of each row.
    cells : int
        For each model; less where it says fewer different things.

    Raises
    ------
    DataError
        As `metrics.checked`, or where cells < 1 or groups are not one per row.
    """
    y, p = checked(labels, both)
    classes = p.shape[1]
    if cells < 1 or len(groups) != len(y):
        raise DataError(
            f"cells are 1 or more and groups one per row, found {cells} and {len(groups)} for {len(y)} rows"
        )
    cells_of = [_in_cells(checked(labels, p)[1], cells, seed) * classes + y for p in (first, second, both)]

    def terms(weights: Floats) -> Floats:
        counts = (np.bincount(at, weights, (at.max() // classes + 1) * classes) for at in cells_of)
        one, two, joint = (table.reshape(-1, classes) / weights.sum() for table in counts)
        return np.array(_decomposition(information(joint), *_union_information(one, two, ESTIMATED)))

    values = terms(np.ones(len(y)))
    drawn = np.empty((0, 4))
    if len(set(groups)) > 1 and resamples > 0:
        drawn = np.array([terms(w) for chunk in bootstrap_weights(groups, resamples, seed) for w in chunk])
        drawn = 2 * values - drawn  # of the basic interval; its mean is the value less the bootstrap's bias
        values = drawn.mean(axis=0)
    intervals = (percentile_interval(v, drawn[:, i]) for i, v in enumerate(values))
    known = (Interval(*(max(0.0, float(v)) if v == v else v for v in interval)).figure() for interval in intervals)
    redundancy, unique_1, unique_2, synergy = known
    return {"n": len(y), "redundancy": redundancy, "unique_1": unique_1, "unique_2": unique_2, "synergy": synergy}


class ConfounderAccuracy(NamedTuple):
    """Share of confounder pairs with both rows right, its 95% interval, and how many pairs there are."""

    value: float
    low: float
    high: float
    pairs: int


def confounder_accuracy(
    labels: ArrayLike,
    predictions: ArrayLike,
    shared: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ConfounderAccuracy:
    """How often a model tells two rows apart that share a modality and differ in label: both must be right.

    A scorer of the shared modality alone says the same of both and gets 0, whatever its accuracy; chance of
    independent fair coins is 0.25. Such rows are the benign confounders of Kiela et al. 2020, "The hateful memes
    challenge" (arXiv:2005.04790); scores of pairs that count only when both rows are right are those of Thrush et al.
    2022, "Winoground" (arXiv:2204.03162).

    Parameters
    ----------
    labels, predictions : [n]
        Class indices.
    shared : [n]
        What names the shared modality's value (a text, the hash of a picture); None where it is absent: in no pair.

    Returns
    -------
    ConfounderAccuracy
        The interval resamples shared values with all their pairs; its ends are nan where there is one.

    Raises
    ------
    DataError
        Where the three are not of one length, or there is no pair.
    """
    y, guess = np.asarray(labels), np.asarray(predictions)
    if y.ndim != 1 or guess.shape != y.shape or len(shared) != len(y):
        raise DataError(
            "labels, predictions (class indices) and shared are one per row, found "
            f"{list(y.shape)}, {list(guess.shape)} and {len(shared)}"
        )
    numbers: dict[Hashable, int] = {}
    there = np.array([value is not None for value in shared], dtype=bool)
    value_of = np.array([numbers.setdefault(v, len(numbers)) for v in shared if v is not None], dtype=np.int64)
    classes, class_of = np.unique(y[there], return_inverse=True)
    at = value_of * len(classes) + class_of
    rows = np.bincount(at, minlength=len(numbers) * len(classes)).reshape(len(numbers), len(classes))
    right = np.bincount(at, guess[there] == y[there], rows.size).reshape(rows.shape)
    pairs, solved = ((m.sum(axis=1) ** 2 - (m**2).sum(axis=1)) / 2 for m in (rows, right))
    if not pairs.sum():
        raise DataError(
            f"no two of {len(y)} rows share this modality and differ in label: there is nothing to tell apart"
        )
    solved, pairs = solved[pairs > 0], pairs[pairs > 0]
    chunks = bootstrap_weights(range(len(pairs)), resamples, seed) if len(pairs) > 1 else ()
    drawn = np.concatenate([np.empty(0), *((w @ solved) / (w @ pairs) for w in chunks)])
    return ConfounderAccuracy(*percentile_interval(float(solved.sum() / pairs.sum()), drawn), int(pairs.sum()))


def _in_cells(p: Floats, cells: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    distinct, inverse = np.unique(p, axis=0, return_inverse=True)
    if len(distinct) <= cells:
        return inverse.ravel()
    return KMeans(cells, n_init=1, random_state=seed).fit_predict(p).astype(np.int64)


def _checked_joint(joint: ArrayLike) -> Floats:
    p = np.asarray(joint, dtype=np.float64)
    if p.ndim != 3 or not p.size:
        raise DataError(f"a joint is [x1, x2, y] with at least one value of each, found shape {list(p.shape)}")
    total = p.sum()
    if not np.isfinite(total) or (p < 0).any():
        raise DataError("a joint holds probabilities or counts, all finite and from 0; found a value that is not")
    if abs(total - 1) > SUM_TOLERANCE and not (total > 0 and (p == np.round(p)).all()):
        raise DataError(f"a joint sums to 1, or holds whole counts above 0 in all, found the sum {total:g}")
    p = p / total
    return p / p.sum()


def _decomposition(total: float, union: float, alone_1: float, alone_2: float) -> PID:
    return PID(alone_1 + alone_2 - union, union - alone_2, union - alone_1, total - union)


def _union_information(p1: Floats, p2: Floats, tolerance: float) -> tuple[float, float, float]:
    """The least ``I(X1, X2; Y)`` of all joints with marginals ``[x1, y]`` and ``[x2, y]``, and theirs alone; bits.

    It is held between the bounds that theory sets it, so that no rounding makes a term negative.
    """
    alone_1, alone_2 = information(p1), information(p2)
    first, second = (np.where(m > EMPTY, m, 0) for m in (p1, p2))
    classes = (first.sum(axis=0) > 0) & (second.sum(axis=0) > 0)
    first, second = (m[m[:, classes].sum(axis=1) > 0][:, classes] for m in (first, second))
    first = first / first.sum()
    second = second * (first.sum(axis=0) / second.sum(axis=0))
    negentropy, gap = MarginalProgram(first, second).solve(tolerance * LN2 / AIM)
    if gap > tolerance * LN2:
        raise DataError(
            f"pid came within {gap / LN2:.1g} bits of the answer, asked were {tolerance:g}: pool rare values, "
            "or raise the tolerance"
        )
    y = first.sum(axis=0)
    union = (negentropy - float((y * np.log(y)).sum())) / LN2
    return min(max(union, alone_1, alone_2), alone_1 + alone_2), alone_1, alone_2
