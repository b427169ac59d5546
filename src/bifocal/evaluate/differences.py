"""Whether two sets of rows are judged differently: intervals and p-values that hold for few rows; Holm's correction.

A resample cannot tell a p-value below one in the number of resamples, and of a rate of 0 it knows nothing. What is
compared dozens of times needs both, so the comparisons here are exact or in closed form, groups of rows included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from .intervals import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.bool_]
    Codes = NDArray[np.intp]

Name = TypeVar("Name", str, bytes)

CONFIDENCE = 0.95
FAR = 0.9995
"""Quantile at which few groups are allowed for: p-values that survive dozens of comparisons lie out there."""


class Rate(NamedTuple):
    """A share of rows, and how much the groups among them cost.

    ``effect`` is the design effect, at least 1: the variance of the share with whole groups drawn, over that of single
    rows. Divided by it, the counts may be read as if all rows were independent (Rao and Scott 1992, Biometrics 48:577).
    """

    part: int
    whole: int
    groups: int
    effect: float

    @property
    def value(self) -> float:
        return self.part / self.whole

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Jeffreys' interval of the counts that are left after the design effect, never empty at 0 or 1."""
        return jeffreys(self.value, self.whole / self.effect, confidence)

    def p_value(self, other: Rate) -> float:
        """Of the same share in both, two-sided: Fisher's exact test of the counts after the design effect.

        It keeps its level for any number of rows, which a normal approximation to a rare event does not.
        """
        from scipy.stats import fisher_exact

        table = [[part, whole - part] for part, whole in (self._counts(), other._counts())]
        return min(1.0, float(fisher_exact(table).pvalue))

    def _counts(self) -> tuple[int, int]:
        whole = max(1, round(self.whole / self.effect))
        return min(whole, round(self.part / self.effect)), whole


def class_shares_p_value(splits: Sequence[tuple[NDArray[np.int64], Sequence[Hashable]]], classes: int) -> float:
    """Of the same class shares in every split, by the chi-squared test of homogeneity; 1 where there is one class.

    Parameters
    ----------
    splits : sequence of (labels [n], groups [n])
        Of each split, annotated rows only. Its counts are divided by the design effect of groups whose rows all are of
        one class (Rao and Scott 1992), so that copies of a post count once: at most too cautious.
    classes : int
    """
    from scipy.stats import chi2_contingency

    table = []
    for labels, groups in splits:
        sizes = np.array(list(Counter(groups).values()), dtype=float)
        effect = (sizes**2).sum() / sizes.sum() if len(sizes) else 1.0
        table.append(np.bincount(labels, minlength=classes) / effect)
    counts = np.array(table)
    counts = counts[counts.sum(axis=1) > 0]
    counts = counts[:, counts.sum(axis=0) > 0]
    return float(chi2_contingency(counts).pvalue) if min(counts.shape) > 1 else 1.0


def rate(happened: Rows, group: Codes) -> Rate:
    """The share of rows ``[n]`` on which something happened; ``group [n]`` are codes from 0.

    The design effect is made larger for the few groups that it is estimated from, as Korn and Graubard (1998, Survey
    Methodology 24:193) do, and is at most what it would be if all rows of a group were copies of one.
    """
    from scipy.special import ndtri, stdtrit

    n, part = len(happened), int(happened.sum())
    sizes = np.bincount(group)
    found = int((sizes > 0).sum())
    value, effect = part / n, float(sizes @ sizes) / n
    if 0 < part < n and 1 < found < n:
        off = np.bincount(group, happened - value)
        estimate = found / (found - 1) * float(off @ off) / (n * n / (n - 1) * value * (1 - value))
        for_few = stdtrit(found - 1, FAR) / ndtri(FAR)
        effect = max(1.0, min(effect, estimate * float(for_few) ** 2))
    return Rate(part, n, found, effect)


def jeffreys(value: float, rows: float, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share by Jeffreys' prior, its ends 0 and 1 where that is the value (Brown et al. 2001)."""
    from scipy.special import betaincinv

    part, tail = value * rows, (1 - confidence) / 2
    low = 0.0 if part <= 0 else float(betaincinv(part + 0.5, rows - part + 0.5, tail))
    high = 1.0 if part >= rows else float(betaincinv(part + 0.5, rows - part + 0.5, 1 - tail))
    return Interval(value, min(low, value), max(high, value))


class Area(NamedTuple):
    """An AUROC and its variance: DeLong's (1988), with whole groups as Obuchowski (1997, Biometrics 53:567) has it.

    ``parts`` are what positives and negatives add to the variance, ``rows`` and ``groups`` how many of each there are,
    ``shared`` what they add together where a group has both.
    """

    value: float
    parts: tuple[float, float]
    shared: float
    rows: tuple[int, int]
    groups: tuple[int, int]

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """On the logit scale, so that it stays between 0 and 1, by Student's t.

        Where no pair is out of order there is no variance to go by, and the area counts as a share of the rarer class
        (its variance is at most that: Birnbaum and Klose 1957).
        """
        from scipy.special import expit, logit
        from scipy.stats import t

        if not self._spread:
            return jeffreys(self.value, min(self.groups), confidence)
        half = t.ppf((1 + confidence) / 2, _freedom(self.parts, self.groups)) * np.sqrt(sum(self.parts) + self.shared)
        ends = expit(logit(self.value) + np.array([-1, 1]) * half / self._slope)
        return Interval(self.value, float(ends[0]), float(ends[1]))

    def p_value(self, other: Area) -> float:
        """Of the same area in both, two-sided, on the logit scale: Student's t with Welch's degrees of freedom, as
        Brunner and Munzel (2000) have it.

        Each class's part of the variance is its own or, if that is more, what the other set's would be with as many
        rows: few rows may show too little spread by chance.
        """
        from scipy.special import logit
        from scipy.stats import t

        if not (self._spread and other._spread):
            counts = ((area.value, min(area.groups)) for area in (self, other))
            first, second = (Rate(round(value * n), n, n, 1.0) for value, n in counts)
            return first.p_value(second)
        parts = []
        for own, there in ((self, other), (other, self)):
            for k in (0, 1):
                borrowed = there.parts[k] * there.rows[k] / own.rows[k] / there._slope**2
                parts.append(max(own.parts[k] / own._slope**2, borrowed))
        spread = sum(parts) + sum(area.shared / area._slope**2 for area in (self, other))
        gap = abs(logit(self.value) - logit(other.value))
        return float(2 * t.sf(gap / np.sqrt(spread), _freedom(parts, (*self.groups, *other.groups))))

    @property
    def _slope(self) -> float:
        """Of the area in its logit."""
        return self.value * (1 - self.value)

    @property
    def _spread(self) -> bool:
        """Whether there is a variance to go by."""
        return sum(self.parts) > 0 and 0 < self.value < 1


def area(scores: Codes, happened: Rows, group: Codes) -> Area:
    """The AUROC of rows ``[n]`` of both classes.

    Parameters
    ----------
    scores : [n]
        Ranks from 0, equal where probabilities are.
    happened : [n]
        Whether the row is of class 1.
    group : [n]
        Codes from 0.
    """
    up, down = scores[happened], scores[~happened]
    of_up, of_down = (np.bincount(s, minlength=int(scores.max()) + 1) for s in (up, down))
    won_up = ((np.cumsum(of_down) - of_down / 2)[up]) / len(down)
    won_down = 1 - ((np.cumsum(of_up) - of_up / 2)[down]) / len(up)
    value = float(won_up.mean())
    size, off, groups = int(group.max()) + 1, [], []
    for won, inside in ((won_up, happened), (won_down, ~happened)):
        found = int((np.bincount(group[inside]) > 0).sum())
        correction = np.sqrt(found / (found - 1)) if found > 1 else 1.0
        off.append(correction * np.bincount(group[inside], won - value, size) / len(won))
        groups.append(found)
    parts = (float(off[0] @ off[0]), float(off[1] @ off[1]))
    # A shared group makes the area steadier if anything; that is not relied on.
    shared = max(0.0, 2 * float(off[0] @ off[1]))
    return Area(value, parts, shared, (len(up), len(down)), (groups[0], groups[1]))


def _freedom(parts: tuple[float, ...] | list[float], groups: tuple[int, ...]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, at least 1."""
    below = sum(part**2 / max(1, n - 1) for part, n in zip(parts, groups, strict=True))
    return max(1.0, sum(parts) ** 2 / below) if below else 1.0


def difference(first: Interval, second: Interval) -> Interval:
    """``first - second`` of two sets of rows that share none, from the ends of their intervals.

    Newcombe's hybrid method (1998, Statistics in Medicine 17:873, method 10), for any figure: Zou and Donner 2008. Rows
    of one group on both sides make it too wide rather than too narrow.
    """
    value = first.value - second.value
    down = np.hypot(first.value - first.low, second.high - second.value)
    up = np.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, float(value - down), float(value + up))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """P-values after Holm's step-down correction (1979, Scandinavian Journal of Statistics 6:65), by name.

    Rejecting what is at most 0.05 names one wrong difference or more in at most 5% of data sets without any, however
    the comparisons depend on each other, and slices of the same rows do.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[Name, float] = {}
    least = 0.0
    for done, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(p_values) - done)))
        adjusted[name] = least
    return adjusted
