"""Temperature scaling: one number that turns logits into probabilities that can be taken at their word."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..example import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LOWEST, HIGHEST = 1e-3, 1e3
"""Where a temperature is looked for; only without a prior does a set that a model sorts without fault end there."""
WIDTH = 0.32
"""Standard deviation of the normal prior on ln T for two classes (`benchmarks/temperature_prior.py`): about the widest
under which 40 rows that a model sorts without fault never bring T below 0.3."""


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities ``[n, C]`` of logits ``[n, C]`` at a temperature."""
    return np.exp(log_softmax(np.asarray(logits, dtype=np.float64) / temperature))


def log_softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities ``[n, C]`` of logits ``[n, C]``."""
    # Column by column: along an axis of two, NumPy's own maximum and sum take ten times as long.
    shifted = z - reduce(np.maximum, np.moveaxis(z, -1, 0))[..., None]
    return np.asarray(shifted - np.log(np.exp(shifted) @ np.ones(z.shape[-1]))[..., None])


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, *, width: float | None = WIDTH, weights: ArrayLike | None = None
) -> float:
    """The temperature of greatest posterior probability under a normal prior on ln T; without it, of least negative
    log-likelihood (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    On few rows that a model happens to sort without fault the likelihood asks for T = 0, and so for probabilities of 0
    and 1. The prior is worth a few dozen rows: on thousands the two agree, and without it T is that of scikit-learn's
    ``CalibratedClassifierCV(method="temperature")``.

    Parameters
    ----------
    logits : [n, C]
    labels : [n]
        Class indices; rows that are not annotated (-1) are left out.
    width : float or None
        As `prior_precision`; None = no prior, T between `LOWEST` and `HIGHEST`.
    weights : [n], optional
        What each annotated row counts for; None = one.

    Returns
    -------
    float
        1.0 where there is nothing to learn from: no rows, one class only, or logits that no temperature improves.

    Raises
    ------
    DataError
        Where shapes disagree, a logit is not finite, or a label names no class.
    """
    z, y = checked_logits(logits, labels)
    if len(np.unique(y)) < 2:
        return 1.0

    from scipy.optimize import minimize_scalar

    w = None if weights is None else np.asarray(weights, dtype=np.float64)
    precision = 0.0 if width is None else prior_precision(z.shape[1], width)

    def loss(log_temperature: float) -> float:
        logs = log_softmax(z / np.exp(log_temperature))[np.arange(len(y)), y]
        likelihood = float(logs.sum() if w is None else w @ logs)
        return (precision * log_temperature**2 / 2 - likelihood) / len(y)

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def prior_precision(classes: int, width: float = WIDTH) -> float:
    """Of the normal prior on ln T, whose mean is 0: ``1 / width**2`` for two classes.

    A row of C classes pulls at ln T with W((C - 1) / e) at most (Lambert's W: the greatest x p of the others, over all
    margins x). The precision grows by the same factor, so that the prior is worth as many rows whatever C is, and n
    rows that a model sorts without fault never bring T below ``exp(-0.2785 n width**2)``.
    """
    from scipy.special import lambertw

    pull, of_two = (float(lambertw(others / np.e).real) for others in (classes - 1, 1))
    return pull / of_two / width**2


def checked_logits(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The annotated rows as float64 ``[n, C]`` and int64 ``[n]``. Raises `DataError`, as `fit_temperature`."""
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise DataError(f"logits are [n, C] and labels [n], found shapes {list(z.shape)} and {list(y.shape)}")
    annotated = y != UNLABELLED
    z, y = z[annotated], y[annotated]
    if not np.isfinite(z).all():
        raise DataError(
            "logits must be finite, found nan or infinity: leave out rows on which the model has no opinion"
        )
    if not np.isin(y, np.arange(z.shape[1])).all():
        raise DataError(f"labels are class indices 0..{z.shape[1] - 1}, or -1 for none, found {np.unique(y).tolist()}")
    return z, y.astype(np.int64)
