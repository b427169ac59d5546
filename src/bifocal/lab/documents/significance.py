"""What intervals show where several are compared at once: p-values of their ends, and Holm's correction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import NormalDist

from ...evaluate.differences import holm
from ..results_schema import Figure
from ..verdict import HALF

LEVEL = 0.05
"""Of a family of comparisons by Holm: with this chance at most, one word or more of it is wrong."""


def shown(claims: Mapping[str, float]) -> set[str]:
    """Of the p-values of a family, by name, those that are small after Holm's correction."""
    return {claim for claim, p in holm(claims).items() if p <= LEVEL}


def p_above(figure: Figure, bound: float = 0.0) -> float:
    """Two-sided p-value of a figure being ``bound``, small where it lies above; 1 where that is not known.

    By the half of its 95% interval that faces the bound (Altman and Bland 2011, BMJ 343:d2304): it is 0.05 where the
    interval ends there.
    """
    if figure.value is None or figure.low is None or figure.value <= bound:
        return 1.0
    half = figure.value - figure.low
    return 2 * NormalDist().cdf(-HALF * (figure.value - bound) / half) if half > 0 else 0.0


def p_below(figure: Figure, bound: float = 0.0) -> float:
    """As `p_above`, where the figure lies below."""
    value, high = figure.value, figure.high
    return p_above(Figure(value=None if value is None else -value, low=None if high is None else -high), -bound)


def signs(figures: Iterable[Figure | None]) -> list[int | None]:
    """What differences of one family show after Holm's correction: 1 above 0, -1 below, 0 neither; None: unknown."""
    known = [figure or Figure() for figure in figures]
    found = shown({str(i): min(p_above(figure), p_below(figure)) for i, figure in enumerate(known)})
    return [None if figure.sign is None else figure.sign if str(i) in found else 0 for i, figure in enumerate(known)]
