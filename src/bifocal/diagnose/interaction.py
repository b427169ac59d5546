"""Whether modalities interact: a fusion's additive part, the decomposition of information, and confounder pairs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..evaluate.intervals import RESAMPLES, bootstrap_weights, percentile_interval
from ..evaluate.metrics import SUM_TOLERANCE, checked

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
EXACT = 1e-13
"""How far the marginals of an answer may be from those asked for."""
STAGES, STEPS, REPAIRS, GROWTH, LEAST_GROWTH = 24, 60, 6, 20.0, 1.2
"""Of the barrier method: values of its weight t, Newton steps at each, steps of a repair, how fast t grows."""


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
) -> dict[str, Any]:
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

    Returns
    -------
    dict
        ``n`` and, in bits with ``value``, ``low``, ``high``: ``redundancy``, ``unique_1``, ``unique_2``, ``synergy``.
        Ends are nan, and the bias stays in, where all rows are one group or there are no resamples.

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
    cells_of = [_in_cells(checked(labels, said)[1], cells, seed) * classes + y for said in (first, second, both)]

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
    intervals = [percentile_interval(v, drawn[:, i]) for i, v in enumerate(values)]
    return {"n": len(y)} | {
        name: {end: max(0.0, float(v)) if v == v else v for end, v in interval._asdict().items()}
        for name, interval in zip(PID._fields, intervals, strict=True)
    }


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
    negentropy, gap = _Program(first, second).solve(tolerance * LN2 / AIM)
    if gap > tolerance * LN2:
        raise DataError(
            f"pid came within {gap / LN2:.1g} bits of the answer, asked were {tolerance:g}: pool rare values, "
            "or raise the tolerance"
        )
    y = first.sum(axis=0)
    union = (negentropy - float((y * np.log(y)).sum())) / LN2
    return min(max(union, alone_1, alone_2), alone_1 + alone_2), alone_1, alone_2


class _Program:
    """min ``sum q ln(q / sum_y q)`` over q >= 0 with given marginals, by a log barrier and Newton's method.

    With t times the objective less ``sum ln q`` (Boyd and Vandenberghe 2004, chapter 11), all in q-relative units: the
    Hessian is then ``I + t (diag q - q qᵀ / sum_y q)`` in each pair (x1, x2), inverted in closed form, and only the
    multipliers of the marginals need a linear system, of (x1 + x2) y unknowns. Divided by t they are a point of the
    dual, max ``<P1, a> + <P2, b>`` with ``sum_y exp(a + b) <= 1`` in each pair: a lower bound of the answer.
    """

    def __init__(self, first: Floats, second: Floats):
        self.first, self.second = first, second
        self.allowed = (first[:, None] > 0) & (second[None] > 0)
        self.shape = self.allowed.shape
        self.size = first.size
        self._wanted = np.concatenate([first.ravel(), second.ravel()])
        bound = self._wanted > 0
        for y, x2 in enumerate(second.argmax(axis=0)):  # both marginals hold P(y): one equation of each y is idle
            bound[self.size + x2 * second.shape[1] + y] = False
        self.kept = np.flatnonzero(bound)

    def solve(self, gap: float) -> tuple[float, float]:
        """The least value found and how far it is from the answer at most, in nats."""
        q = np.where(self.allowed, self.first[:, None] * self.second[None] / self.first.sum(axis=0), 0)
        t, growth = float(self.allowed.sum()), GROWTH
        best = (np.inf, np.inf)
        for _ in range(STAGES):
            try:
                centre, multipliers = self._centre(q, t)
            except np.linalg.LinAlgError:  # t has outgrown the precision of the numbers
                t, growth = t / growth**0.5, growth**0.5
                if growth < LEAST_GROWTH:
                    break
                continue
            value = self._value(centre)
            best = min(best, (value - self._bound(-multipliers / t), value))
            if best[0] <= gap:
                break
            q, t = centre, t * growth
        return best[1], best[0]

    def _centre(self, q: Floats, t: float) -> tuple[Floats, Floats]:
        for _ in range(STEPS):
            step, multipliers, decrement = self._newton(q, t)
            size = min(1.0, 0.95 / max(-step.min(), 1e-300))
            while size > 1e-9 and self._climb(q, step, size, t) > decrement / 3:
                size /= 2
            q = q * (1 + size * step)
            if decrement < 1e-2:
                break
        return self._repaired(q), multipliers

    def _repaired(self, q: Floats) -> Floats:
        """q with its marginals made exact again: the larger t, the more do rounding errors in the steps move them.

        Newton's method for the joint nearest to q in relative entropy. Raises `LinAlgError` where it fails.
        """
        for _ in range(REPAIRS):
            drift = self._marginals(q) - self._wanted
            if np.abs(drift).max() < EXACT:
                return q
            cells = np.zeros((*self.shape, self.shape[2]))
            cells[..., np.arange(self.shape[2]), np.arange(self.shape[2])] = q
            a, b = self._split(self._solved(cells, drift))
            q = q * (1 - a[:, None] - b[None])
            if q.min() < 0:
                break
        raise np.linalg.LinAlgError("rounding errors have moved the marginals")

    def _slope(self, q: Floats, t: float) -> Floats:
        """Derivative of the barrier function along each ln q."""
        sums = q.sum(axis=2, keepdims=True)
        ratio = np.divide(q, sums, out=np.ones_like(q), where=self.allowed)
        return np.where(self.allowed, t * q * np.log(ratio) - 1, 0)

    def _climb(self, q: Floats, step: Floats, size: float, t: float) -> float:
        """How steeply the barrier function rises again at the end of a step: by it one sees that it was too long."""
        reached = 1 + size * step
        return float((self._slope(q * reached, t) * step / reached).sum())

    def _newton(self, q: Floats, t: float) -> tuple[Floats, Floats, float]:
        """Newton's step in units of q, the multipliers ``[(x1 + x2) y]``, and the decrease it promises (twice)."""
        slope = self._slope(q, t)
        shrunk = self.allowed / (1 + t * q)
        u = shrunk * q
        sums = u.sum(axis=2, keepdims=True)
        sums[sums == 0] = 1  # pairs in which no y is possible
        lean = np.sqrt(t / sums) * u  # Sherman and Morrison

        def inverse(v: Floats) -> Floats:
            return shrunk * v + lean * (lean * v).sum(axis=2, keepdims=True)

        blocks = (q * lean)[..., :, None] * (q * lean)[..., None, :]
        blocks[..., np.arange(q.shape[2]), np.arange(q.shape[2])] += q * u
        drift = self._marginals(q) - self._wanted
        multipliers = self._solved(blocks, drift - self._marginals(q * inverse(slope)))
        a, b = self._split(multipliers)
        step = -inverse(slope + q * (a[:, None] + b[None]))
        return step, multipliers, -float((slope * step).sum())

    def _solved(self, blocks: Floats, target: Floats) -> Floats:
        """Multipliers of the marginals that answer ``target``, from what each pair says of them, ``[x1, x2, y, y]``."""
        x1, x2, c = self.shape
        system = np.zeros((x1 + x2, c, x1 + x2, c))
        system[np.arange(x1), :, np.arange(x1)] = blocks.sum(axis=1)
        system[np.arange(x1, x1 + x2), :, np.arange(x1, x1 + x2)] = blocks.sum(axis=0)
        system[:x1, :, x1:] = blocks.transpose(0, 2, 1, 3)
        system[x1:, :, :x1] = blocks.transpose(1, 3, 0, 2)
        system = system.reshape(2 * ((x1 + x2) * c,))[np.ix_(self.kept, self.kept)]
        scale = 1 / np.sqrt(np.diag(system))
        multipliers = np.zeros(len(target))
        multipliers[self.kept] = scale * np.linalg.solve(system * scale * scale[:, None], scale * target[self.kept])
        return multipliers

    def _marginals(self, q: Floats) -> Floats:
        return np.concatenate([q.sum(axis=1).ravel(), q.sum(axis=0).ravel()])

    def _split(self, multipliers: Floats) -> tuple[Floats, Floats]:
        return multipliers[: self.size].reshape(self.first.shape), multipliers[self.size :].reshape(self.second.shape)

    def _value(self, q: Floats) -> float:
        sums = np.broadcast_to(q.sum(axis=2, keepdims=True), q.shape)
        seen = q > 0
        return float((q[seen] * np.log(q[seen] / sums[seen])).sum())

    def _bound(self, multipliers: Floats) -> float:
        """Value of the dual at these multipliers, moved until they are feasible and touch the border."""
        a, b = self._split(multipliers)
        for axis in (1, 0):
            with np.errstate(divide="ignore"):
                excess = np.logaddexp.reduce(np.where(self.allowed, a[:, None] + b[None], -np.inf), axis=2)
            shift = excess.max(axis=axis)[:, None]
            a, b = (a - shift, b) if axis == 1 else (a, b - shift)
        return float((self.first * a).sum() + (self.second * b).sum())
