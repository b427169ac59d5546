"""The maps from logits to probabilities that a few hundred held-out rows can fit, and the choice among them.

Each is small enough to lie in a JSON file, and is applied with NumPy alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, TypeAdapter

from ..config import Strict
from ..evaluate.sampling_weights import SamplingWeights
from ..example import UNLABELLED
from .calibration import checked_logits, fit_temperature, log_softmax, prior_precision, softmax

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Classes = NDArray[np.int64]

FOLDS = 5
"""Of the cross-validation that chooses a method."""
LEAST_ROWS = 20
"""Of each class; with fewer nothing is fitted."""
LOOSE = 3.0
"""Standard deviation, in nats, of the normal prior on a bias: a class without rows keeps a finite one."""
STEEP = 0.6
"""Of the normal prior on a slope, whose mean is 1: at a slope of 1 / 0.3 it weighs what the prior on a temperature of
0.3 does, so that `vector` and `beta` make no certainty either of rows that a model happens to sort without fault."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Temperature(Strict):
    """``softmax(z / T)``: cannot change which class is likeliest (Guo et al. 2017, arXiv:1706.04599, section 4.2)."""

    method: Literal["temperature"] = "temperature"
    temperature: Positive = 1.0

    def __call__(self, logits: ArrayLike) -> Floats:
        return softmax(logits, self.temperature)

    @property
    def formula(self) -> str:
        return f"softmax(logits / {self.temperature:.3f})"

    @classmethod
    def fit(cls, z: Floats, y: Classes, w: Floats | None = None) -> Self:
        return cls(temperature=fit_temperature(z, y, weights=w))


class TemperatureBias(Strict):
    """``softmax(z / T + b)``: undoes class weights and other shifts of the prior (bias-corrected temperature scaling:
    Alexandari, Kundaje and Shrikumar 2020, arXiv:1901.06852, section 3)."""

    method: Literal["temperature_bias"] = "temperature_bias"
    temperature: Positive
    bias: tuple[Finite, ...]

    def __call__(self, logits: ArrayLike) -> Floats:
        return softmax(np.asarray(logits, dtype=np.float64) / self.temperature + np.array(self.bias))

    @property
    def formula(self) -> str:
        return f"softmax(logits / {self.temperature:.3f} + {_numbers(self.bias)})"

    @classmethod
    def fit(cls, z: Floats, y: Classes, w: Floats | None = None) -> Self:
        classes = z.shape[1]
        one, precision = np.eye(classes)[y], prior_precision(classes)

        def loss(theta: Floats) -> tuple[float, Floats]:
            scaled = z / np.exp(theta[0])
            value, residual = _cross_entropy(scaled + theta[1:], one, w)
            gradient = np.append(-(residual * scaled).sum(), residual.sum(axis=0))
            away = theta * np.append(precision, np.full(classes, LOOSE**-2))
            return value + float(away @ theta) / 2, gradient + away

        theta = _least(loss, [0.0] * (classes + 1), [(None, None)] * (classes + 1), len(y))
        return cls(temperature=float(np.exp(theta[0])), bias=_centred(theta[1:]))


class Vector(Strict):
    """``softmax(w * z + b)`` with a weight per class (Guo et al. 2017, section 4.2); of a binary label Platt scaling,
    ``w * (z1 - z0) + b``, with Platt's smoothed targets (Platt 1999, equation 5; as scikit-learn's ``sigmoid``)."""

    method: Literal["vector"] = "vector"
    weight: tuple[Finite, ...]
    bias: tuple[Finite, ...]

    def __call__(self, logits: ArrayLike) -> Floats:
        return softmax(np.asarray(logits, dtype=np.float64) * np.array(self.weight) + np.array(self.bias))

    @property
    def formula(self) -> str:
        return f"softmax({_numbers(self.weight)} * logits + {_numbers(self.bias)})"

    @classmethod
    def fit(cls, z: Floats, y: Classes, w: Floats | None = None) -> Self:
        if z.shape[1] == 2:
            return cls._platt(z[:, 1] - z[:, 0], y, w)
        classes = z.shape[1]
        one = np.eye(classes)[y]

        def loss(theta: Floats) -> tuple[float, Floats]:
            value, residual = _cross_entropy(theta[:classes] * z + theta[classes:], one, w)
            gradient = np.append((residual * z).sum(axis=0), residual.sum(axis=0))
            added, slope = _pull(theta, np.repeat([1.0, 0.0], classes))
            return value + added, gradient + slope

        theta = _least(loss, [1.0] * classes + [0.0] * classes, [(None, None)] * 2 * classes, len(y))
        return cls(weight=tuple(theta[:classes].tolist()), bias=_centred(theta[classes:]))

    @classmethod
    def _platt(cls, margin: Floats, y: Classes, w: Floats | None) -> Self:
        rows, positives = (float(len(y)), float(y.sum())) if w is None else (float(w.sum()), float(w @ y))
        target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (rows - positives + 2))
        two = np.stack([1 - target, target], axis=1)

        def loss(theta: Floats) -> tuple[float, Floats]:
            scores = np.stack([np.zeros(len(y)), theta[0] * margin + theta[1]], axis=1)
            value, residual = _cross_entropy(scores, two, w)
            return value, np.array([residual[:, 1] @ margin, residual[:, 1].sum()])

        slope, bias = _least(loss, [1.0, 0.0], [(None, None)] * 2, len(y)).tolist()
        return cls(weight=(slope, slope), bias=(-bias / 2, bias / 2))


class Isotonic(Strict):
    """A rising step function of each class's probability, one class against the rest, then made to sum to 1 (Zadrozny
    and Elkan 2002). Kept off 0 and 1 by a row's worth, 1 / (n + 2): n rows without a case do not prove there is none.
    """

    method: Literal["isotonic"] = "isotonic"
    curves: tuple[tuple[tuple[Finite, ...], tuple[Finite, ...]], ...]
    """Per class the log-odds at which its curve bends, and its height there; a binary label has the one of class 1."""

    def __call__(self, logits: ArrayLike) -> Floats:
        odds = _log_odds(np.asarray(logits, dtype=np.float64))
        return _together([np.interp(o, *curve) for o, curve in zip(_asked(odds), self.curves, strict=True)])

    @property
    def formula(self) -> str:
        return "a step function of each class's log-odds (isotonic), in calibration_<run>.json"

    @classmethod
    def fit(cls, z: Floats, y: Classes, w: Floats | None = None) -> Self:
        from sklearn.isotonic import IsotonicRegression

        edge, curves = 1 / ((len(y) if w is None else float(w.sum())) + 2), []
        for odds, happened in zip(_asked(_log_odds(z)), _asked(np.eye(z.shape[1])[y]), strict=True):
            fitted = IsotonicRegression(y_min=edge, y_max=1 - edge).fit(odds, happened, w)
            curves.append((tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())))
        return cls(curves=tuple(curves))


class Beta(Strict):
    """``sigmoid(a ln p - b ln(1 - p) + c)`` with a, b >= 0, one class against the rest, then made to sum to 1 (Kull,
    Silva Filho and Flach 2017, Electronic Journal of Statistics 11, equation 4)."""

    method: Literal["beta"] = "beta"
    curves: tuple[tuple[Finite, Finite, Finite], ...]
    """Per class a, b and c; a binary label has those of class 1."""

    def __call__(self, logits: ArrayLike) -> Floats:
        odds = _log_odds(np.asarray(logits, dtype=np.float64))
        curves = zip(_asked(odds), self.curves, strict=True)
        return _together([_sigmoid(_two_logs(o) @ np.array(curve[:2]) + curve[2]) for o, curve in curves])

    @property
    def formula(self) -> str:
        terms = (f"sigmoid({a:.3f} ln p - {b:.3f} ln(1 - p) {c:+.3f})" for a, b, c in self.curves)
        return "; ".join(terms) + (", made to sum to 1" if len(self.curves) > 1 else ", p = softmax(logits)")

    @classmethod
    def fit(cls, z: Floats, y: Classes, w: Floats | None = None) -> Self:
        questions = zip(_asked(_log_odds(z)), _asked(np.eye(z.shape[1])[y]), strict=True)
        return cls(curves=tuple(cls._curve(_two_logs(odds), happened, w) for odds, happened in questions))

    @staticmethod
    def _curve(logs: Floats, happened: Floats, w: Floats | None) -> tuple[float, float, float]:
        two = np.stack([1 - happened, happened], axis=1)

        def loss(theta: Floats) -> tuple[float, Floats]:
            scores = np.stack([np.zeros(len(logs)), logs @ theta[:2] + theta[2]], axis=1)
            value, residual = _cross_entropy(scores, two, w)
            gradient = np.append(logs.T @ residual[:, 1], residual[:, 1].sum())
            added, slope = _pull(theta, np.array([1.0, 1.0, 0.0]))
            return value + added, gradient + slope

        a, b, c = _least(loss, [1.0, 1.0, 0.0], [(0, None), (0, None), (None, None)], len(logs)).tolist()
        return a, b, c


Calibration = Annotated[Temperature | TemperatureBias | Vector | Isotonic | Beta, Field(discriminator="method")]
METHODS: dict[str, type[Any]] = {
    "temperature": Temperature,
    "temperature_bias": TemperatureBias,
    "vector": Vector,
    "beta": Beta,
    "isotonic": Isotonic,
}
"""By name, the simplest first."""


class Calibrated(NamedTuple):
    """A fitted map, and what each method that was tried came to."""

    calibration: Temperature | TemperatureBias | Vector | Isotonic | Beta
    tried: dict[str, float]
    """Method -> negative log-likelihood of rows it was not fitted on, in nats; empty where nothing was compared."""


def formula(calibration: Mapping[str, Any]) -> str:
    """What a fitted map, as `Policy` and ``calibration_<run>.json`` hold it, does to logits, in one line."""
    fitted: Any = TypeAdapter(Calibration).validate_python(calibration)
    return str(fitted.formula)


def few_rows(labels: ArrayLike, classes: int) -> dict[int, int]:
    """Class index -> annotated rows, of the classes with under `LEAST_ROWS` of them."""
    y = np.asarray(labels)
    counts = np.bincount(y[y != UNLABELLED].astype(np.int64), minlength=classes)
    return {c: int(n) for c, n in enumerate(counts) if n < LEAST_ROWS}


def fit_calibration(
    logits: ArrayLike,
    labels: ArrayLike,
    method: str = "temperature",
    *,
    groups: Sequence[Any] | None = None,
    from_few: bool = False,
    weights: ArrayLike | None = None,
) -> Calibrated:
    """Fit one map, or with ``auto`` the one that cross-validation would have chosen.

    ``auto`` takes the simplest method whose cross-validated log-likelihood lies within one standard error of the best
    one's (Breiman et al. 1984, section 3.4.3; the error is that of the paired difference): on few rows that is the
    temperature. Folds keep groups whole and are the same for every method.

    Parameters
    ----------
    logits : [n, C]
    labels : [n]
        Class indices; rows that are not annotated (-1) are left out.
    method : str
        A name of `METHODS`, or ``auto``.
    groups : [n], optional
        Near-duplicates share one; None = each row is its own.
    from_few : bool
        Fit also where a class has under `LEAST_ROWS` rows.
    weights : [n], optional
        How many posts each row stands for, where they were sampled; None = one. Clipped, and scaled so that they sum to
        the effective rows (`SamplingWeights`): a prior counts beside what they tell.

    Returns
    -------
    Calibrated
        Temperature 1 where a class has under `LEAST_ROWS` rows, or all bear one: there is too little to learn from.

    Raises
    ------
    DataError
        As `fit_temperature`.
    """
    z, y = checked_logits(logits, labels)
    if len(np.unique(y)) < 2 or (few_rows(y, z.shape[1]) and not from_few):
        return Calibrated(Temperature(), {})
    known = np.asarray(labels) != UNLABELLED
    w = None if weights is None else _effective(np.asarray(weights, dtype=np.float64)[known])
    if method != "auto":
        return Calibrated(METHODS[method].fit(z, y, w), {})
    of = np.arange(len(y)) if groups is None else np.unique(np.asarray(groups)[known], return_inverse=True)[1]
    losses = _held_out(z, y, of, w)
    if not losses:
        return Calibrated(Temperature.fit(z, y, w), {})
    tried = {name: float(loss.mean()) for name, loss in losses.items()}
    best = losses[min(tried, key=tried.__getitem__)]
    worse = {name: loss - best for name, loss in losses.items()}
    simplest = next(name for name, w in worse.items() if w.mean() <= w.std(ddof=1) / np.sqrt(len(y)))
    return Calibrated(METHODS[simplest].fit(z, y, w), tried)


def _effective(weights: Floats) -> Floats:
    found = SamplingWeights.of(weights)
    return found.values * found.effective / len(weights)


def _held_out(z: Floats, y: Classes, groups: NDArray[np.intp], w: Floats | None) -> dict[str, Floats]:
    """Method -> negative log-likelihood ``[n]`` of each row, times its weight (mean 1), by the map of the other folds;
    empty where there are too few rows."""
    from sklearn.model_selection import StratifiedKFold

    first, of = np.unique(groups, return_index=True, return_inverse=True)[1:]  # a group stands for its first row
    folds = min(FOLDS, int(np.sort(np.bincount(y[first], minlength=2))[-2]))  # two classes at least in every lesson
    if folds < 2:
        return {}
    fold_of = np.empty(len(first), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer rows than folds
        for fold, (_, test) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=0).split(first, y[first])):
            fold_of[test] = fold
    splits = [(np.flatnonzero(fold_of[of] != fold), np.flatnonzero(fold_of[of] == fold)) for fold in range(folds)]
    losses = {name: np.empty(len(y)) for name in METHODS}
    for lesson, test in splits:
        for name, method in METHODS.items():
            learned = method.fit(z[lesson], y[lesson], None if w is None else w[lesson])
            p = learned(z[test])[np.arange(len(test)), y[test]]
            losses[name][test] = -np.log(np.maximum(p, np.finfo(float).tiny))
            if w is not None:
                losses[name][test] *= w[test] / w.mean()
    return losses


def _cross_entropy(scores: Floats, target: Floats, w: Floats | None = None) -> tuple[float, Floats]:
    """Summed over rows, and its slope in the scores ``[n, C]``; ``target [n, C]`` are probabilities, ``w [n]`` what
    each row counts for."""
    logs = log_softmax(scores)
    if w is None:
        return -float((target * logs).sum()), np.exp(logs) - target
    return -float(w @ (target * logs).sum(axis=1)), w[:, None] * (np.exp(logs) - target)


def _pull(theta: Floats, mean: Floats) -> tuple[float, Floats]:
    """What normal priors add to the summed loss, and its slope: `STEEP` for slopes (mean 1), `LOOSE` for biases."""
    away = (theta - mean) / np.where(mean == 1, STEEP, LOOSE) ** 2
    return float(away @ (theta - mean)) / 2, away


def _least(loss: Any, start: list[float], bounds: list[tuple[Any, Any]], rows: int) -> Floats:
    """Where a smooth convex loss is least; divided by the rows, so that one tolerance fits any number of them."""
    from scipy.optimize import minimize

    def mean(theta: Floats) -> tuple[float, Floats]:
        value, slope = loss(theta)
        return value / rows, slope / rows

    options = {"ftol": 1e-12, "gtol": 1e-8, "maxiter": 1000}
    found: Floats = minimize(mean, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return found


def _centred(bias: Floats) -> tuple[float, ...]:
    """The same map with biases that sum to 0."""
    return tuple((bias - bias.mean()).tolist())


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values) + "]"


def _asked(columns: Floats) -> list[Floats]:
    """The columns ``[n]`` whose questions are asked: class 1 of a binary label, every class of others."""
    return [columns[:, 1]] if columns.shape[1] == 2 else list(columns.T)


def _log_odds(z: Floats) -> Floats:
    """Of each class against the others, ``[n, C]``."""
    if z.shape[1] == 2:
        return np.stack([z[:, 0] - z[:, 1], z[:, 1] - z[:, 0]], axis=1)
    others = [np.logaddexp.reduce(np.delete(z, c, axis=1), axis=1) for c in range(z.shape[1])]
    return z - np.stack(others, axis=1)


def _sigmoid(x: Floats) -> Floats:
    """Without scipy, which a bundle that decides does without."""
    return np.exp(-np.logaddexp(0, -x))


def _two_logs(odds: Floats) -> Floats:
    """ln p and -ln(1 - p) of log-odds ``[n]``, as columns."""
    return np.stack([-np.logaddexp(0, -odds), np.logaddexp(0, odds)], axis=1)


def _together(columns: list[Floats]) -> Floats:
    """Probabilities ``[n, C]`` that sum to 1."""
    if len(columns) == 1:
        return np.stack([1 - columns[0], columns[0]], axis=1)
    p = np.maximum(np.stack(columns, axis=1), np.finfo(float).tiny)
    return np.asarray(p / p.sum(axis=1, keepdims=True))
