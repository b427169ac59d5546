"""Where a new model's threshold lies if it is to flag as an old one does: the same share, precision or error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..errors import DataError
from .ranking import Ranking

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Anchored(NamedTuple):
    """A threshold, and how near it comes."""

    threshold: float
    wanted: float
    reached: float
    tied: int
    """Rows whose score is the lowest that is flagged: they are flagged together."""


def threshold_of_share(scores: Floats, flags: NDArray[np.bool_]) -> Anchored:
    """The threshold by which a new model flags the share that the old one flags.

    Parameters
    ----------
    scores : [n]
        The new model's, at least one.
    flags : [n]
        Whether the old model flags each row.

    Returns
    -------
    Anchored
        Of equal scores all or none are flagged: the nearest share that can be reached (of two, the lower). The
        threshold lies halfway to the next score, so that the last digits of a score decide nothing.
    """
    ranked = Ranking(scores)
    reachable = np.append(0, ranked.ends + 1) / len(scores)
    wanted = float(flags.mean())
    at = int(np.abs(reachable - wanted).argmin())
    return _at(ranked, at, wanted, float(reachable[at]))


def threshold_of_rate(
    labels: NDArray[np.int64],
    old_scores: Floats,
    old_flags: NDArray[np.bool_],
    new_scores: Floats,
    keep: Literal["precision", "fpr"],
) -> Anchored:
    """The lowest threshold by which a new model's precision is no less, or its false-positive rate no more, than the
    old one's.

    Both are read off isotonic regressions of the label on each model's score (Barlow et al. 1972): the share of
    positives rises with the score, so that precision never rises as a threshold falls, and no few rows make a step that
    is chance.

    Parameters
    ----------
    labels : [n]
        0 or 1, both of them there.
    old_scores, new_scores : [n]
    old_flags : [n]
        What the old model decides.

    Raises `DataError` where no threshold comes to it.
    """
    before, after = _isotonic(labels, old_scores), _isotonic(labels, new_scores)
    ranked = Ranking(new_scores)
    hits, rows = ranked.cumulative(after), ranked.cumulative(np.ones(len(labels)))
    if keep == "precision":
        wanted = float(before[old_flags].mean())
        curve = hits / rows
        good = np.flatnonzero(curve >= wanted - 1e-9)
    else:
        wanted = float((1 - before)[old_flags].sum() / (1 - before).sum())
        curve = (rows - hits) / (1 - after).sum()
        good = np.flatnonzero(curve <= wanted + 1e-9)
    if not len(good):
        raise DataError(
            f"the old model's {keep} is {wanted:.3f}, and no threshold of the new one comes to it (the nearest: "
            f"{float(curve.max() if keep == 'precision' else curve.min()):.3f}): keep flag_rate, or train a better one"
        )
    at = int(good[-1])
    return _at(ranked, at + 1, wanted, float(curve[at]))


def _isotonic(labels: NDArray[np.int64], scores: Floats) -> Floats:
    """Share of positives at each row's score, never falling as it rises."""
    from sklearn.isotonic import IsotonicRegression

    fitted: Floats = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, labels.astype(np.float64))
    return fitted


def _at(ranked: Ranking, runs: int, wanted: float, reached: float) -> Anchored:
    """The threshold that flags the first so many runs of equal scores."""
    above = float(ranked.thresholds[runs - 1]) if runs else None
    below = float(ranked.thresholds[runs]) if runs < len(ranked.thresholds) else None
    if above is None:
        threshold = min(1.0, float(np.nextafter(below if below is not None else 1.0, 2)))
    else:
        threshold = above if below is None else (above + below) / 2
    tied = int(ranked.ends[runs - 1] - ranked.starts[runs - 1] + 1) if runs else 0
    return Anchored(threshold, wanted, reached, tied)
