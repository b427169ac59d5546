"""Limits with a guarantee: below one a post is allowed, from another on it is blocked, between them it is reviewed."""

from __future__ import annotations

from math import ceil, floor, inf, nextafter
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def least_rows(alpha: float) -> int:
    """Rows from which on a risk of ``alpha`` can be promised: with fewer, one error more is a larger share.

    >>> least_rows(0.1)
    9
    """
    return ceil(1 / _share(alpha) - 1e-9) - 1


def split_quantile(scores: ArrayLike, alpha: float) -> float:
    """The score that the next one exceeds with probability at most ``alpha``: split conformal prediction.

    The ``ceil((n + 1)(1 - alpha))``-th smallest of n exchangeable scores (Vovk et al. 2005; Angelopoulos and Bates
    2023, arXiv:2107.07511, section 1). Infinite where there are fewer than `least_rows`.

    Parameters
    ----------
    scores : [n]
        How badly each calibration row conforms, such as 1 minus the probability of its class.
    alpha : float
        Between 0 and 1.

    Raises
    ------
    DataError
        Where a score is not finite, or ``alpha`` is no share.

    >>> split_quantile([i / 100 for i in range(1, 100)], 0.1)
    0.9
    """
    ordered = _sorted(scores)
    place = ceil((len(ordered) + 1) * (1 - _share(alpha)) - 1e-9)
    return float(ordered[place - 1]) if place <= len(ordered) else inf


def risk_threshold(scores: ArrayLike, alpha: float) -> float | None:
    """The highest threshold under which the next positive falls with probability at most ``alpha``.

    Conformal risk control of the false-negative rate (Angelopoulos et al. 2022, arXiv:2208.02814, equation 4, with a
    loss of 0 or 1): of n positives at most ``floor(alpha (n + 1)) - 1`` may lie below. A row is flagged where its
    score >= the threshold.

    Parameters
    ----------
    scores : [n]
        Of positives that nothing was fitted to.
    alpha : float
        Between 0 and 1.

    Returns
    -------
    float or None
        None = no guarantee: there are fewer than `least_rows`.

    Raises
    ------
    DataError
        As `split_quantile`.

    >>> risk_threshold([i / 100 for i in range(1, 100)], 0.1)
    0.1
    """
    ordered = _sorted(scores)
    missed = floor(_share(alpha) * (len(ordered) + 1) + 1e-9) - 1
    return float(ordered[missed]) if missed >= 0 else None


def alarm_threshold(scores: ArrayLike, alpha: float) -> float | None:
    """The lowest threshold that the next negative reaches with probability at most ``alpha``.

    `risk_threshold` from the other side, for the false-positive rate; ``scores [n]`` are those of negatives. It lies
    just above one of them, since a score that equals a threshold reaches it.
    """
    mirrored = risk_threshold(-np.asarray(scores, dtype=np.float64), alpha)
    return None if mirrored is None else nextafter(-mirrored, inf)


def _sorted(scores: ArrayLike) -> NDArray[np.float64]:
    found = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not np.isfinite(found).all():
        raise DataError("conformal scores must be finite, found nan or infinity: leave out rows without a score")
    return found


def _share(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise DataError(f"alpha is a share between 0 and 1, found {alpha:g}")
    return alpha
