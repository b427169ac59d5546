"""What a fusion makes of a modality that was weak in training: it adapts, collapses, or over-relies on another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..config import ImbalanceRule as Rule
from ..errors import DataError, nearest
from ..evaluate.intervals import RESAMPLES, Interval, percentile_interval
from ..example import UNLABELLED, Evidence
from .ablation import Head, checked_train, constant, noisy
from .scored_rows import Score, ScoredRows, interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Levels = Mapping[float, Mapping[str, Evidence]]
"""How much a modality was weakened -> training Evidence by modality; the first level is the reference, not weakened."""
Fit = Callable[[float, Mapping[str, Evidence]], Score]
"""Training Evidence -> a fitted score; one that has ``explain`` (every fusion) is asked for its weights."""
Outcome = Literal["adapts", "collapses", "over-relies", "none"]

KEPT = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of the training rows that keep their part."""
DEVIATIONS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Noise on the training features, in standard deviations of each."""


def outcome_of(
    gain: Interval, excess: Interval, left: Interval, moved: Interval | None, rule: Rule | None = None
) -> Outcome:
    """The outcome of one level; the first that matches, and ``none`` where nothing is shown.

    - ``collapses``: the fusion is below the stronger expert, interval included: it would be better not to fuse.
    - ``over-relies``: when the stronger expert's modality is disturbed, the fusion loses more than that expert does,
      and keeps no advantage over it. The second half spares fusions that had more to lose because they knew more:
      under XOR or AND a faultless one loses more, and is still the better.
    - ``adapts``: at least as good as the stronger expert, and weight moved away from what was weakened.

    Parameters
    ----------
    gain : Interval
        m(fusion) - m(expert) on the test rows as they are.
    excess : Interval
        What the fusion loses under the disturbance less what the expert loses.
    left : Interval
        m(fusion) - m(expert) under the disturbance.
    moved : Interval or None
        The weakened modality's weight at the reference level less that at this one; None = the method gives none, and
        adapting is judged by the score alone.
    rule : Rule, optional

    An end that is nan shows nothing.
    """
    rule = rule or Rule()
    if gain.high < -rule.collapse:
        return "collapses"
    if excess.low > rule.excess and left.low <= 0:
        return "over-relies"
    if gain.low >= -rule.margin and (moved is None or moved.low > rule.moved):
        return "adapts"
    return "none"


def with_fewer_rows(
    train: Mapping[str, Evidence], name: str, kept: Sequence[float] = KEPT, *, seed: int = 0
) -> dict[float, dict[str, Evidence]]:
    """Training Evidence in which only these shares of the rows that have a modality keep it.

    The subsets are nested: what 5% keep, 10% keep too, so that levels differ by what is taken and not by chance. At
    least one row keeps its part. Rows left without any part stay; a fusion leaves them out.

    Parameters
    ----------
    train : mapping
        Modality -> Evidence.
    name : str
    kept : falling from 1, above 0

    Raises
    ------
    DataError
        Where the modality is unknown or no row has it, or the shares make no sense.
    """
    if list(kept) != sorted(set(kept), reverse=True) or not kept or kept[0] != 1 or kept[-1] <= 0:
        raise DataError(f"shares of kept parts fall from 1, the reference, and are above 0, found {list(kept)}")
    part = checked_train(train, name)
    rows = part.present.nonzero().flatten()
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    levels = {}
    for share in kept:
        present = torch.zeros_like(part.present)
        present[order[: math.ceil(share * len(order))]] = True
        levels[share] = {**train, name: _replaced(part, present)}
    return levels


def corrupted(
    train: Mapping[str, Evidence],
    name: str,
    deviations: Sequence[float] = DEVIATIONS,
    *,
    head: Head | None = None,
    seed: int = 0,
) -> dict[float, dict[str, Evidence]]:
    """Training Evidence with noise of so many standard deviations on the features of a modality; the test stays clean.

    Parameters and errors as `with_fewer_rows`; ``deviations`` rise from 0. ``head`` as in `ablation.noisy`.
    """
    if list(deviations) != sorted(set(deviations)) or not deviations or deviations[0] != 0:
        raise DataError(f"deviations of noise rise from 0, the reference, found {list(deviations)}")
    part = checked_train(train, name)
    return {d: {**train, name: noisy(part, part, d, seed=seed, head=head) if d else part} for d in deviations}


def measure_imbalance(
    fit: Fit,
    levels: Levels,
    test: Mapping[str, Evidence],
    *,
    weakened: str,
    stronger: str,
    expert: Score | None = None,
    head: Head | None = None,
    deviations: float = 1.0,
    rule: Rule | None = None,
    metric: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a fusion on a modality that is weaker and weaker, and judge each beside the expert of the stronger one.

    The expert learned from its own modality, which was never weakened: it is what one would use instead. To disturb
    that modality, both get the same features with the same noise. Intervals are over test rows: they do not hold the
    chance of fitting again, for which ``fit`` may average several seeds.

    Parameters
    ----------
    fit : callable
        A level and its training Evidence by modality -> a fitted score. Its val is best weakened to the same level.
    levels : mapping
        From `with_fewer_rows`, `corrupted`, or truncated inputs that were encoded again; the first is the reference.
    test : mapping
        Modality -> Evidence of the test rows, not weakened; those that are not annotated are left out.
    weakened, stronger : str
        Two modalities; ``stronger`` is that of the best expert that does not read what is weakened.
    expert : callable, optional
        Its score, where it is not the logits of its Evidence, with train's class shares for rows without the part (an
        MLP or boosted trees on the same features).
    head : callable, optional
        Features to the logits of ``stronger``; without it, noise on logits is drawn apart from that on features, and
        the loss of an expert that is read from its logits compares with that of fusions on logits only.
    deviations : float
        The disturbance: noise of so many of train's standard deviations on the features of ``stronger``.
    rule : Rule, optional

    Returns
    -------
    dict
        ``weakened``, ``stronger``, ``deviations``, ``rule``, ``metric``, ``n``, ``positives``; ``expert``
        (``intact``, ``disturbed``, ``loss``); ``levels``: a list with ``level``, ``rows`` (training rows that have the
        weakened part), the fusion's ``intact``, ``disturbed``, ``loss``, and ``gain``, ``excess``, ``left``, ``moved``
        as `outcome_of` takes them, ``weight`` (mean weight of the weakened modality where a row has a choice), each
        ``value``, ``low``, ``high``, the last two None without weights; ``outcome`` (None at the reference);
        ``findings``.

    Raises
    ------
    DataError
        As `ablation.ScoredRows.of`; where there are not two modalities, no levels, or train lacks one of the two.
    """
    _check_names(levels, test, weakened, stronger)
    rule = rule or Rule()
    bench = ScoredRows.of(test, metric=metric, resamples=resamples, seed=seed)
    reference = next(iter(levels.values()))
    known = checked_train(reference, stronger)
    expert = expert or _expert(known, stronger)
    noise = {stronger: noisy(bench.evidence[stronger], known, deviations, seed=seed, head=head)}
    probabilities: dict[tuple[Any, str], Floats] = {}
    weights: dict[float, Floats] = {}
    for level, train in levels.items():
        score = fit(level, train)
        probabilities[level, "intact"], probabilities[level, "disturbed"] = (
            bench.probabilities(score, c) for c in ({}, noise)
        )
        if (weight := _weight(score, bench, weakened)) is not None:
            weights[level] = weight
    probabilities["expert", "intact"], probabilities["expert", "disturbed"] = (
        bench.probabilities(expert, c) for c in ({}, noise)
    )
    drawn = bench.figures(probabilities)
    shares = bench.means(weights, _choosing(bench, weakened)) if weights else {}
    rows = [_level(level, drawn, shares, next(iter(levels)), rule) for level in levels]
    for row, train in zip(rows, levels.values(), strict=True):
        row["rows"] = int(train[weakened].present.sum())
    own = drawn["expert", "intact"], drawn["expert", "disturbed"]
    return {
        "weakened": weakened,
        "stronger": stronger,
        "deviations": deviations,
        "rule": rule.model_dump(),
        **bench.facts(),
        "expert": {"intact": interval(own[0]), "disturbed": interval(own[1]), "loss": interval(own[0] - own[1])},
        "levels": rows,
        "findings": [
            *bench.findings(),
            *(line for name in (weakened, stronger) for line in constant(reference[name], name)),
        ],
    }


def _expert(train: Evidence, name: str) -> Score:
    counts = torch.bincount(train.labels[train.labels != UNLABELLED], minlength=train.logits.shape[1]) + 1
    prior = (counts / counts.sum()).log()
    return lambda evidence: torch.where(evidence[name].present.unsqueeze(1), evidence[name].logits, prior)


def _level(
    level: float, drawn: Mapping[Any, Floats], shares: Mapping[float, Floats], reference: float, rule: Rule
) -> dict[str, Any]:
    fusion, disturbed = drawn[level, "intact"], drawn[level, "disturbed"]
    expert, its_disturbed = drawn["expert", "intact"], drawn["expert", "disturbed"]
    figures = {
        "gain": fusion - expert,
        "excess": (fusion - disturbed) - (expert - its_disturbed),
        "left": disturbed - its_disturbed,
        "moved": shares[reference] - shares[level] if level in shares and reference in shares else None,
    }
    ends = {k: None if x is None else percentile_interval(float(x[0]), x[1:]) for k, x in figures.items()}
    return {
        "level": level,
        "intact": interval(fusion),
        "disturbed": interval(disturbed),
        "loss": interval(fusion - disturbed),
        "weight": interval(shares[level]) if level in shares else None,
        **{k: None if x is None else interval(x) for k, x in figures.items()},
        "outcome": None if level == reference else outcome_of(**ends, rule=rule),  # type: ignore[arg-type]
    }


def _weight(score: Score, bench: ScoredRows, name: str) -> Floats | None:
    """What the score gives to a modality, ``[n]``; None where it does not say, or no row has a choice."""
    explain = getattr(score, "explain", None)
    weights = explain(bench.evidence) if explain else {}
    if name not in weights or not _choosing(bench, name).any():
        return None
    return np.asarray(weights[name].detach(), dtype=np.float64)


def _choosing(bench: ScoredRows, name: str) -> NDArray[np.bool_]:
    """Rows ``[n]`` that have the modality and another one: only there a weight is a choice."""
    there = torch.stack([e.present for e in bench.evidence.values()]).sum(dim=0) > 1
    return (there & bench.evidence[name].present).numpy()


def _replaced(part: Evidence, present: torch.Tensor) -> Evidence:
    """The part on these rows only, zeros elsewhere."""
    there = present.unsqueeze(1)
    features, logits = (torch.where(there, x, 0.0) for x in (part.features, part.logits))
    return Evidence(part.ids, part.groups, features, logits, present, part.labels, part.seen)


def _check_names(levels: Levels, test: Mapping[str, Evidence], weakened: str, stronger: str) -> None:
    if not levels:
        raise DataError("there is no level to train on: give the Evidence of `with_fewer_rows` or `corrupted`")
    for name in (weakened, stronger):
        if name not in test:
            raise DataError(f"the test rows bring no Evidence of {name!r}; {nearest(name, test)}")
    if weakened == stronger:
        raise DataError(
            f"{weakened!r} is weakened, so the expert beside it must read another modality; {nearest('', test)}"
        )
