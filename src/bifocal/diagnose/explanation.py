"""Why one post scored as it did: what each of its parts adds, and what each piece of a part does when it is hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from .dominance import shapley

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Versions = Mapping[str, NDArray[np.int64]]

ABSENT, POSTED = -1, 0
"""Versions of a part: left out, and as it was posted. Version i from 1 on has its i-th piece hidden."""
LEAST = 1e-300
"""Stands for a probability of exactly 0, which a calibration by steps may give. Models that are sure of generated posts
reach 1e-30 in earnest: a higher floor would hide what their pieces do."""


class Effects(NamedTuple):
    """What `measure_effects` found, all in the unit of the score."""

    score: float
    """Of the post as it is."""
    baseline: float
    """Of a post of which nothing is known."""
    contributions: dict[str, float]
    """Part -> its Shapley share; their sum is ``score - baseline``."""
    subsets: dict[frozenset[str], float]
    """Score where these parts only are there; from none to all."""
    pieces: dict[str, Floats]
    """Part -> ``[m]``: the score less that without the piece. Above 0 the piece speaks for the class, below against."""


def measure_effects(score: Callable[[Versions], ArrayLike], pieces: Mapping[str, int]) -> Effects:
    """Shares of the parts by `shapley` over their presence, and effects of their pieces by occlusion.

    All versions of the post are scored in one call. Parts: for each set of them the others are left out, as if never
    posted, so that the shares sum to ``score - baseline`` (efficiency) and parts that only work together share what
    they bring. Pieces: one at a time is hidden, everything else as posted (occlusion; Zeiler and Fergus 2014,
    "Visualizing and understanding convolutional networks", arXiv:1311.2901; for words Li, Monroe and Jurafsky 2016,
    "Understanding neural networks through representation erasure", arXiv:1612.08220). Their effects sum to nothing in
    particular: of two words that say the same neither is missed.

    Parameters
    ----------
    score : callable
        ``{part: [r] versions}`` -> ``[r]`` scores of r versions of one post, the first with no part at all. A version
        is `ABSENT`, `POSTED`, or i from 1 on: the part with its i-th piece hidden.
    pieces : {part: m}
        The parts that the post has, and how many pieces of each can be hidden.

    Raises
    ------
    DataError
        Where there is no part, or the scores are not r finite numbers.
    """
    if not pieces:
        raise DataError("an explanation needs a post with at least one part, found none")
    subsets = list(product((ABSENT, POSTED), repeat=len(pieces)))
    hidden = [(name, i) for name, m in pieces.items() for i in range(1, m + 1)]
    rows = {
        name: np.array([*(subset[part] for subset in subsets), *(i * (name == other) for other, i in hidden)])
        for part, name in enumerate(pieces)
    }
    scores = np.asarray(score(rows), dtype=np.float64)
    if scores.shape != (len(subsets) + len(hidden),) or not np.isfinite(scores).all():
        raise DataError(
            f"an explanation needs {len(subsets) + len(hidden)} finite scores, one for each version of the post, found "
            f"shape {list(scores.shape)}, {int(np.sum(~np.isfinite(scores)))} not finite"
        )
    values = {
        frozenset(name for name, there in zip(pieces, subset, strict=True) if there == POSTED): float(value)
        for subset, value in zip(subsets, scores, strict=False)
    }
    whole = values[frozenset(pieces)]
    ends = len(subsets) + np.cumsum(list(pieces.values()))
    return Effects(
        score=whole,
        baseline=values[frozenset()],
        contributions={name: shapley(values)[name] for name in pieces},
        subsets=values,
        pieces={name: whole - scores[end - m : end] for (name, m), end in zip(pieces.items(), ends, strict=True)},
    )


def log_odds(probabilities: ArrayLike, index: int) -> Floats:
    """Log-odds ``[n]`` of one class against the others, natural logarithm, of probabilities ``[n, C]``.

    Where probabilities are near 0 or 1, and those of a trained model are, equal evidence moves them less and less and
    log-odds still alike: what adds up in the model adds up here. They end at ±691 (`LEAST`).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    rest = np.delete(p, index, axis=1).sum(axis=1)  # 1 - p would lose what is left of a probability near 1
    result: Any = np.log(np.maximum(p[:, index], LEAST)) - np.log(np.maximum(rest, LEAST))
    return result


def probability(log_odds: ArrayLike) -> Floats:
    """The probabilities behind log-odds, elementwise."""
    z = np.asarray(log_odds, dtype=np.float64)
    return np.exp(-np.logaddexp(0, -z))  # exp(-z) itself would overflow
