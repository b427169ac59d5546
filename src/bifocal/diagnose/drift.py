"""Do new posts look like those that a model was tuned on: how far each property has moved, and whether by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..evaluate.differences import holm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

BINS = 10
"""Bins of a number, and values of a category that are told apart in a PSI, at most."""
ROWS_PER_BIN = 20
"""Reference rows that a bin should hold: with fewer rows there are fewer bins."""
PERMUTATIONS = 9_999
LEAST_ALPHA = 0.001
POWER = 0.8
"""Chance with which a movement that counts as detectable is found."""
REST = "(other)"


class Property(NamedTuple):
    """One property of some posts."""

    values: NDArray[Any]
    """``[n]`` numbers or strings, of the posts that have the property."""
    copies: NDArray[Any]
    """``[n]``: rows that share a value here are copies, or near-duplicates, of one post."""


def compare(
    reference: Mapping[str, Property], new: Mapping[str, Property], *, psi: float, alpha: float, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Each property of new posts against the reference: how far it has moved, whether by chance, and what to call it.

    How far is the population stability index (`stability_index`), less what it comes to by chance. Whether by chance is
    a two-sample test: Kolmogorov-Smirnov of numbers, a permutation G-test of categories, which holds however rare they
    are; p-values are Holm's over all properties. An **alarm** needs both: of 100,000 posts the least movement is
    significant, of 50 a large one may be chance.

    Copies are not independent rows. They count as posted in every share; the tests take a group of copies for one row
    (the design effect of Kish 1965 and Rao and Scott 1981, at its worst case), which errs towards fewer alarms.

    Parameters
    ----------
    reference, new : name -> Property
        The same names.
    psi : float
        Movement beyond chance from which on a significant one is an alarm.
    alpha : float
        Chance of any alarm where nothing has changed, at most.

    Returns
    -------
    dict
        Name -> ``state``: ``alarm``; ``moved`` (significant, and less than ``psi``); ``steady``; ``too few rows`` (not
        significant, and a movement of ``psi`` might not have been); ``not compared`` (one side has none of it).
        ``n``, ``new``: rows; ``psi``, ``psi_by_chance``, ``psi_beyond_chance``; ``test``, ``statistic``, ``p``,
        ``p_holm``; ``detectable``: the PSI beyond chance that is found with 80% power; ``design_effect``; ``bins``:
        shares, by ``low`` and ``high`` (the bin holds ``low < x <= high``; None = open) or by ``value``.
    """
    found = {name: _compared(reference[name], new[name], seed) for name in reference}
    adjusted = holm({name: entry["p"] for name, entry in found.items() if entry["p"] is not None})
    for name, p in adjusted.items():
        entry = found[name]
        entry["p_holm"] = p
        entry["detectable"] = _detectable(entry, alpha / len(adjusted))
        if p <= alpha:
            entry["state"] = "alarm" if entry["psi_beyond_chance"] >= psi else "moved"
        else:
            entry["state"] = "too few rows" if (entry["detectable"] or 0) > psi else "steady"
    return found


def alpha_of_each(alpha: float, labels: int) -> float:
    """What each of several labels is compared at, so that ``alpha`` holds over all of them (Bonferroni).

    Never less than `LEAST_ALPHA`, at which a permutation test still tells of a movement after Holm's correction.

    >>> alpha_of_each(0.01, 1), alpha_of_each(0.02, 4), alpha_of_each(0.01, 20)
    (0.01, 0.005, 0.001)
    """
    return alpha if labels == 1 else max(alpha / labels, LEAST_ALPHA)


def stability_index(reference: ArrayLike, new: ArrayLike) -> float:
    """Population stability index of counts ``[B]`` in the same bins: ``sum of (q - p) ln(q / p)`` (Siddiqi 2006).

    Symmetric, 0 where shares agree. Half a row is added to each bin, lest an empty one make it infinite. Of two samples
    of one population it is not 0 but about `by_chance`.
    """
    p, q = (_shares(np.asarray(counts, dtype=np.float64)) for counts in (reference, new))
    return float(np.sum((q - p) * np.log(q / p)))


def _shares(counts: Floats) -> Floats:
    return (counts + 0.5) / (counts.sum() + 0.5 * len(counts))


def by_chance(bins: int, n: float, m: float) -> float:
    """What a PSI comes to on average where nothing has changed: ``(B - 1)(1/n + 1/m)`` (Yurdakul 2018)."""
    return (bins - 1) * (1 / n + 1 / m)


def independent_rows(copies: NDArray[Any]) -> float:
    """As many independent rows as tell as much, where copies tell nothing new: ``n^2 / sum of (group size)^2``."""
    sizes = np.unique(copies, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def quantile_edges(values: ArrayLike, bins: int = BINS) -> Floats:
    """Inner edges of bins that hold about as many of the values each: ``low < x <= high``; `bin_of` reads them.

    Fewer than ``bins`` where values are few (`ROWS_PER_BIN`) or alike. Of one value alone: below, at and above it.
    """
    x = np.asarray(values, dtype=np.float64)
    wanted = int(np.clip(len(x) // ROWS_PER_BIN, 2, bins))
    edges = np.unique(np.quantile(x, np.arange(1, wanted) / wanted, method="inverted_cdf"))
    edges = edges[edges < x.max()]
    if not len(edges):
        return np.array([np.nextafter(x.max(), -np.inf), x.max()])
    return edges


def bin_of(values: ArrayLike, edges: Floats) -> NDArray[np.int64]:
    """Index of the bin of each value, 0 to the number of edges."""
    return np.searchsorted(edges, np.asarray(values, dtype=np.float64), side="left")


def _compared(reference: Property, new: Property, seed: int) -> dict[str, Any]:
    n, m = len(reference.values), len(new.values)
    found: dict[str, Any] = {"state": "not compared", "n": n, "new": m}
    found |= dict.fromkeys(("psi", "psi_by_chance", "psi_beyond_chance", "test", "statistic", "p", "p_holm"))
    found |= {"detectable": None, "design_effect": None, "bins": []}
    if not n or not m:
        return found
    effect = (1 / independent_rows(reference.copies) + 1 / independent_rows(new.copies)) / (1 / n + 1 / m)
    numeric = reference.values.dtype.kind in "biuf"
    counts, found["bins"] = (_numbers if numeric else _categories)(reference.values, new.values)
    if numeric:
        test, statistic, p = "Kolmogorov-Smirnov", *_kolmogorov_smirnov(reference.values, new.values, effect)
    else:
        test, statistic, p = "G, by permutation", *_g_test(reference.values, new.values, effect, seed)
    index, chance = stability_index(*counts), by_chance(counts.shape[1], n, m) * effect
    return found | {
        "psi": index,
        "psi_by_chance": chance,
        "psi_beyond_chance": index - chance,
        "test": test,
        "statistic": statistic,
        "p": p,
        "design_effect": effect,
    }


def _numbers(reference: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    edges = quantile_edges(reference)
    counts = np.stack([np.bincount(bin_of(x, edges), minlength=len(edges) + 1) for x in (reference, new)])
    low, high = [None, *edges.tolist()], [*edges.tolist(), None]
    return counts, [
        {"low": a, "high": b, "reference": p, "new": q}
        for a, b, p, q in zip(low, high, *(counts / counts.sum(axis=1, keepdims=True)).tolist(), strict=True)
    ]


def _categories(reference: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Those with the largest shares on either side by name, the others together."""
    names, counts = _table(reference, new)
    shares = counts / counts.sum(axis=1, keepdims=True)
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    if len(order) > BINS:
        kept, rest = order[: BINS - 1], order[BINS - 1 :]
        counts = np.column_stack([counts[:, kept], counts[:, rest].sum(axis=1)])
        labels = [*names[kept].tolist(), REST]
    else:
        counts, labels = counts[:, order], names[order].tolist()
    shares = counts / counts.sum(axis=1, keepdims=True)
    return counts, [
        {"value": name, "reference": p, "new": q} for name, p, q in zip(labels, *shares.tolist(), strict=True)
    ]


def _table(reference: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    names, index = np.unique(np.concatenate([reference, new]), return_inverse=True)
    rows = (index[: len(reference)], index[len(reference) :])
    return names, np.stack([np.bincount(row, minlength=len(names)) for row in rows])


def _kolmogorov_smirnov(reference: NDArray[Any], new: NDArray[Any], effect: float) -> tuple[float, float]:
    """The largest gap between the two distribution functions, and its p-value; with ties that is at most too large."""
    from scipy.stats import kstwo

    places = np.sort(np.concatenate([reference, new]))
    below = (np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (reference, new))
    gap = float(np.abs(np.subtract(*below)).max())
    rows = 1 / (1 / len(reference) + 1 / len(new)) / effect
    return gap, float(kstwo.sf(gap, max(1, round(rows))))


def _g_test(reference: NDArray[Any], new: NDArray[Any], effect: float, seed: int) -> tuple[float, float]:
    """G over the design effect, and the share of tables with the same margins that reach it."""
    _, counts = _table(reference, new)
    rng = np.random.default_rng(seed)
    smaller = int(counts.sum(axis=1).argmin())  # a table is what this side gets of each category
    drawn = rng.multivariate_hypergeometric(counts.sum(axis=0), int(counts[smaller].sum()), size=PERMUTATIONS)
    found = _g(counts[smaller], counts) / effect
    chance = _g(drawn, counts)
    return float(found), float((1 + np.sum(chance >= found - 1e-9)) / (1 + PERMUTATIONS))


def _g(side: NDArray[np.int64], counts: NDArray[np.int64]) -> Floats:
    """Likelihood ratio statistic ``[...]`` of tables that give ``side [..., K]`` to one sample and the rest to the
    other."""
    whole = counts.sum(axis=0)
    total = whole.sum()
    result = np.zeros(side.shape[:-1])
    for part in (side, whole - side):
        expected = whole * (part.sum(axis=-1, keepdims=True) / total)
        ratio = np.divide(part, expected, out=np.ones(part.shape), where=part > 0)
        result += 2 * (part * np.log(ratio)).sum(axis=-1)
    return result


def _detectable(entry: Mapping[str, Any], level: float) -> float | None:
    """The PSI that a chi-squared test on the bins finds with `POWER`; None where there is one bin only."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, ncx2

    degrees = len(entry["bins"]) - 1
    if not degrees:
        return None
    limit = chi2.isf(level, degrees)
    needed = brentq(lambda shift: ncx2.sf(limit, degrees, shift) - POWER, 1e-6, 1e4)
    return float(needed * (1 / entry["n"] + 1 / entry["new"]) * entry["design_effect"])
