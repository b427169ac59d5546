"""How common each class is among posts without labels, and what another base rate makes of a probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..evaluate.intervals import LEVEL, Interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

ROUNDS = 2000
"""EM steps at most; near a share of 0 or 1 each gains less than the one before."""
CLOSE = 1e-7
"""EM ends where no share moves by more."""


def estimate_prior(probabilities: ArrayLike, training_prior: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Class shares of new posts by EM (Saerens, Latinne and Decaestecker 2002, Neural Computation 14(1), eq. 2.9).

    Each step adjusts every row's probabilities to the shares of the step before (`adjust_prior`), and takes their mean:
    ``prior(y) <- mean over x of p(y|x) prior(y) / training_prior(y) / sum over z of the same``. What it ends at are the
    shares of greatest likelihood, provided that only the shares have changed and not what posts of a class look like
    (label shift), and that the probabilities are calibrated: their mean on rows like the training rows is
    ``training_prior``.

    Parameters
    ----------
    probabilities : [n, C], or [..., n, C] for many sets at once
        Calibrated; 0 and 1 are taken at their word.
    training_prior : [C] or [..., C]
        Class shares on which they are calibrated. A class that had none keeps none.
    weights : [n] or [..., n], optional
        How often each row counts.

    Returns
    -------
    array, [C] or [..., C]
        ``training_prior`` where all rows hold its own shares: such rows say nothing.

    Raises
    ------
    DataError
        Without rows, where shapes disagree, what should be shares is not, or a row gives a probability to a class that
        had no share.
    """
    p, prior = _checked(probabilities, training_prior)
    w = np.ones(p.shape[:-1]) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape[-1:] != p.shape[-2:-1] or not (w >= 0).all() or not (total := w.sum(axis=-1, keepdims=True)).all():
        raise DataError("weights are one per row, none below 0 and not all of them 0")
    likelihood = np.divide(p, prior[..., None, :], out=np.zeros(p.shape), where=p > 0)  # p(x|y) / p(x)
    for _ in range(ROUNDS):
        evidence = (likelihood @ prior[..., None])[..., 0]
        per_row = np.divide(w, evidence, out=np.zeros(np.broadcast_shapes(w.shape, evidence.shape)), where=w > 0)
        after = prior * (per_row[..., None, :] @ likelihood)[..., 0, :] / total
        done = np.abs(after - prior).max() < CLOSE
        prior = after
        if done:
            break
    return prior


def at_least_jeffreys(interval: Interval, rows: float) -> Interval:
    """The interval of a share, widened to Jeffreys' of so many labelled rows: labels unseen cannot tell more."""
    from scipy.special import betaincinv

    value = min(max(interval.value, 0.0), 1.0)
    hits = value * rows
    low, high = (float(betaincinv(hits + 0.5, rows - hits + 0.5, end / 100)) for end in LEVEL)
    return Interval(interval.value, min(interval.low, low, value), max(interval.high, high, value))


def adjust_prior(probabilities: ArrayLike, old_prior: ArrayLike, new_prior: ArrayLike) -> Floats:
    """Probabilities as they are where classes have other shares: Bayes' rule (Saerens et al. 2002, eq. 2.4).

    ``p'(y|x) = p(y|x) new(y) / old(y) / sum over z of the same``: sound where posts of a class look as they did.

    Parameters
    ----------
    probabilities : [n, C]
        Calibrated under ``old_prior``.
    old_prior, new_prior : [C]

    Returns
    -------
    array, [n, C]
        0 and 1 stay what they are. A row that is sure of a class that the new shares rule out gets the new shares.

    Raises
    ------
    DataError
        As `estimate_prior`.
    """
    p, old = _checked(probabilities, old_prior)
    new = _shares(new_prior)
    if new.shape != old.shape:
        raise DataError(f"old and new prior name the same classes, found {list(old.shape)} and {list(new.shape)}")
    adjusted = np.divide(p, old, out=np.zeros(p.shape), where=p > 0) * new
    total = adjusted.sum(axis=-1, keepdims=True)
    return np.where(total > 0, np.divide(adjusted, total, out=np.zeros(p.shape), where=total > 0), new)


def _checked(probabilities: ArrayLike, prior: ArrayLike) -> tuple[Floats, Floats]:
    p, shares = _shares(probabilities), _shares(prior)
    if p.ndim < 2 or not p.shape[-2] or p.shape[-1] != shares.shape[-1]:
        raise DataError(
            f"probabilities are [n, C] with a row at least and the prior is [C], found shapes {list(p.shape)} and "
            f"{list(shares.shape)}"
        )
    if ((p > 0) & (shares[..., None, :] == 0)).any():
        raise DataError("a row gives a probability to a class that has no share in the prior: leave the class out")
    return p, shares


def _shares(values: ArrayLike) -> Floats:
    """Numbers that are shares of a whole along their last axis."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim and found.size and not (found.min() >= 0 and np.allclose(found.sum(axis=-1), 1, atol=1e-3)):
        raise DataError("probabilities and priors are shares of 0 to 1 that come to 1 together, found others, or nan")
    return found / found.sum(axis=-1, keepdims=True) if found.ndim and found.size else found
