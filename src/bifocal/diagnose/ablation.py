"""What a fitted model loses when one modality is taken away, thinned out, shuffled, drowned in noise or corrupted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, nearest
from ..evaluate.compare import Resampling
from ..evaluate.intervals import MeasuredRows, OptionalFigure
from ..example import UNLABELLED, Evidence
from .scored_rows import Disturbed, Score, ScoredRows, compared, figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Corrupt = Callable[[Any, str, int, np.random.Generator], Any]
"""``Modality.corrupt``: value, kind, severity, generator -> the value disturbed."""

RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of the rows that lose their part."""
DEVIATIONS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Severities of noise, in standard deviations of each feature in train."""
SEVERITIES = (1, 2, 3, 4, 5)
ROWS = 2000
"""Rows on which inputs are corrupted at most: for each kind and severity the encoder runs again."""
INTACT = ("", 0)
"""Stands for inputs as they are among kinds and severities."""
ALIKE, COMPARED = 0.05, 16
"""How far encoding again may stray from the Evidence (relative norm, batching and precision), and on how many rows."""


# ------------------------------------------------------------------ disturbances of one modality


def averaged(part: Evidence, train: Evidence) -> Evidence:
    """Every part replaced by the mean of train: it is there, and says nothing."""
    seen = train.present
    return _saying(part, train.features[seen].mean(dim=0), train.logits[seen].mean(dim=0))


def zeroed(part: Evidence) -> Evidence:
    """Zeros in every part's place with ``present`` kept: what a careless pipeline feeds for a missing part."""
    return _saying(part, torch.zeros(()), torch.zeros(()))


def noisy(part: Evidence, train: Evidence, deviations: float, *, seed: int) -> Evidence:
    """Gaussian noise of so many of train's standard deviations on each feature; one seed draws one noise, scaled.

    Logits are disturbed likewise, in their own deviations: harder on them than the same noise on the features, which
    averages out, so that fusions that read one do not compare with those that read the other.
    """
    generator = torch.Generator().manual_seed(seed)

    def drowned(x: Tensor, seen: Tensor) -> Tensor:
        spread = seen[train.present].double().std(dim=0, correction=0).to(x.dtype)
        return x + deviations * spread * torch.randn(x.shape, generator=generator)

    return _saying(part, drowned(part.features, train.features), drowned(part.logits, train.logits))


def permuted(part: Evidence, *, seed: int) -> Evidence:
    """Every row that has the part gets that of another such row: inputs of the known kind, without their meaning."""
    rows = part.present.nonzero().flatten()
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    partner = torch.arange(len(part))
    partner[order] = order.roll(1)  # one round through all of them: no row keeps its own
    moved = part.take(partner.tolist())
    return replace(moved, ids=part.ids, groups=part.groups, present=part.present, labels=part.labels, seen=part.seen)


def dropped(part: Evidence, rate: float, *, seed: int) -> Evidence:
    """The part gone from about this share of the rows; of one seed, what a lower rate drops a higher one drops too."""
    stays = torch.rand(len(part), generator=torch.Generator().manual_seed(seed)) >= rate
    return replace(part, present=part.present & stays)


def _saying(part: Evidence, features: Tensor, logits: Tensor) -> Evidence:
    there = part.present.unsqueeze(1)
    features, logits = (torch.where(there, x, 0.0) for x in (features, logits))
    return replace(part, features=features.expand_as(part.features), logits=logits.expand_as(part.logits))


# ------------------------------------------------------------------ ablation


class Noise(Disturbed):
    """The figure under noise of so many standard deviations."""

    deviations: float


class Dropped(Disturbed):
    """The figure where this share of the rows lost the part."""

    rate: float


class DroppedParts(TypedDict):
    """The figure over all rates, and ``area``, its mean over them by trapezia."""

    curve: list[Dropped]
    area: Disturbed


class AblatedModality(TypedDict):
    """A model with one modality taken away; ``present``: share of the rows that have it."""

    present: float
    removed: dict[str, Disturbed]
    """``absent``, ``mean``, ``zeros``: see `ablate`."""
    permuted: Disturbed
    noise: list[Noise]
    dropped: DroppedParts


class Ablation(MeasuredRows):
    """What `ablate` finds; ``findings``: sentences on what these rows cannot tell."""

    intact: OptionalFigure
    modalities: dict[str, AblatedModality]
    findings: list[str]


def ablate(
    score: Score,
    evidence: Mapping[str, Evidence],
    train: Mapping[str, Evidence],
    resampling: Resampling,
    *,
    rates: Sequence[float] = RATES,
    deviations: Sequence[float] = DEVIATIONS,
) -> Ablation:
    """Take a fitted model apart, one modality at a time, without running an encoder again.

    A modality is removed in three ways that differ: ``absent`` is what the model learned for a part that was never
    posted, ``mean`` an uninformative part that claims to be there, ``zeros`` a careless stand-in far from any data.
    Random disturbances are drawn once; each row has its own draw, so that the intervals over groups hold its chance.

    Parameters
    ----------
    score : callable
        Evidence by modality -> logits ``[n, C]``.
    evidence, train : mapping
        Modality -> Evidence of the test rows, and of the training rows, whose means and deviations are the measure.
        Test rows that are not annotated are left out.
    resampling : Resampling
        Its metric is one of `dominance.GAINS`.
    rates : ascending from 0 to 1
    deviations : above 0

    Raises
    ------
    DataError
        As `ScoredRows.of`; where train lacks a modality or any row with it, rates or deviations make no sense, or the
        score gives no logits.
    """
    if list(rates) != sorted({0.0, 1.0, *rates}) or rates[0] < 0 or rates[-1] > 1 or min(deviations, default=1) <= 0:
        raise DataError(
            f"rates ascend from 0 to 1 and deviations are above 0, found {list(rates)} and {list(deviations)}"
        )
    bench = ScoredRows.of(evidence, resampling)
    probabilities: dict[tuple[str | float, ...], Floats] = {(): bench.probabilities(score, {})}
    for name, part in bench.evidence.items():
        for key, changed in _disturbances(part, checked_train(train, name), rates, deviations, resampling.seed):
            probabilities[name, *key] = bench.probabilities(score, {name: changed})
    drawn = bench.figures(probabilities)

    def row(*key: str | float) -> Disturbed:
        return compared(drawn[key], drawn[()])

    def table(name: str, part: Evidence) -> AblatedModality:
        curve = np.stack([drawn[name, "dropped", rate] for rate in rates])
        area = np.diff(rates) @ (curve[1:] + curve[:-1]) / 2
        return {
            "present": float(part.present.float().mean()),
            "removed": {way: row(name, "removed", way) for way in ("absent", "mean", "zeros")},
            "permuted": row(name, "permuted"),
            "noise": [{"deviations": d, **row(name, "noise", d)} for d in deviations],
            "dropped": {
                "curve": [{"rate": rate, **row(name, "dropped", rate)} for rate in rates],
                "area": compared(area, drawn[()]),
            },
        }

    return {
        **bench.facts(),
        "intact": figure(drawn[()]),
        "modalities": {name: table(name, part) for name, part in bench.evidence.items()},
        "findings": [*bench.findings(), *(line for name in bench.evidence for line in constant(train[name], name))],
    }


def _disturbances(
    part: Evidence,
    train: Evidence,
    rates: Sequence[float],
    deviations: Sequence[float],
    seed: int,
) -> Iterator[tuple[tuple[str | float, ...], Evidence]]:
    yield ("removed", "absent"), part.without()
    yield ("removed", "mean"), averaged(part, train)
    yield ("removed", "zeros"), zeroed(part)
    yield ("permuted",), permuted(part, seed=seed)
    for size in deviations:
        yield ("noise", size), noisy(part, train, size, seed=seed)
    for rate in rates:
        yield ("dropped", rate), dropped(part, rate, seed=seed)


def checked_train(train: Mapping[str, Evidence], name: str) -> Evidence:
    """The training rows' Evidence of a modality. Raises `DataError` where there is none, or no row has the part."""
    if name not in train:
        raise DataError(f"the training rows bring no Evidence of {name!r}; {nearest(name, train)}")
    if not train[name].present.any():
        raise DataError(f"no training row has {name}, so nothing is known of it: leave the modality out")
    return train[name]


def constant(train: Evidence, name: str) -> list[str]:
    """A finding where a modality is the same in every training row that has it."""
    features = train.features[train.present]
    if bool((features != features[:1]).any()):
        return []
    return [f"{name} is the same in every training row: it cannot tell rows apart, and noise cannot be scaled to it"]


# ------------------------------------------------------------------ corruption of inputs


class Corrupting(NamedTuple):
    """How the values of a modality are corrupted and encoded again.

    Attributes
    ----------
    corrupt, kinds : callable, sequence of str
        ``Modality.corrupt`` and kinds that it knows; each row has its own seeded generator.
    encode : callable
        ``Encoder.encode`` of the encoder that gave the Evidence; it runs once per kind and severity.
    rows : int
        Of the annotated rows that have the part, at most so many, drawn by the seed.
    """

    corrupt: Corrupt
    kinds: Collection[str]
    encode: Callable[[Sequence[Any]], Mapping[str, Tensor]]
    severities: Sequence[int] = SEVERITIES
    rows: int = ROWS


class CorruptedInputs(Disturbed):
    """The figure at a severity, and which share of the values the corruption altered."""

    severity: int
    changed: float


class Corruption(MeasuredRows):
    """What `corrupt_inputs` finds."""

    modality: str
    intact: OptionalFigure
    kinds: dict[str, list[CorruptedInputs]]
    findings: list[str]


def corrupt_inputs(
    score: Score,
    evidence: Mapping[str, Evidence],
    name: str,
    values: Sequence[Any],
    corrupting: Corrupting,
    resampling: Resampling,
) -> Corruption:
    """What a model loses when pictures are blurred, texts misspelt, cells emptied, before the encoder sees them.

    Parameters
    ----------
    score, evidence, resampling : as `ablate`
    name : str
        The modality.
    values : sequence
        Its values (not packed), one per row of ``evidence``, read one by one and only where they are needed.

    Raises
    ------
    DataError
        As `ablate`; where values are not one per row, or encoding them again does not give the Evidence.
    ConfigError
        Where the modality does not know a kind or severity.
    """
    how = corrupting
    chosen = _drawn_rows(evidence, name, len(values), how.rows, resampling.seed)
    bench = ScoredRows.of({m: e.take(chosen) for m, e in evidence.items()}, resampling)
    part = bench.evidence[name]
    _check_encoding(how.encode([values[i] for i in chosen[:COMPARED]]), part, name)
    probabilities: dict[tuple[str, int], Floats] = {INTACT: bench.probabilities(score, {})}
    changed: dict[tuple[str, int], float] = {}
    for key in product(how.kinds, how.severities):
        inputs = Corrupted(values, chosen, how.corrupt, *key, resampling.seed)
        encoded = how.encode(inputs)
        disturbed = replace(part, features=encoded["features"], logits=encoded["logits"])
        probabilities[key] = bench.probabilities(score, {name: disturbed})
        changed[key] = len(inputs.changed) / len(chosen)
    drawn = bench.figures(probabilities)
    found: Corruption = {
        **bench.facts(),
        "modality": name,
        "intact": figure(drawn[INTACT]),
        "kinds": {kind: [] for kind in how.kinds},
        "findings": bench.findings(),
    }
    for (kind, severity), share in changed.items():
        against = compared(drawn[kind, severity], drawn[INTACT])
        found["kinds"][kind].append({"severity": severity, "changed": share, **against})
    idle = [kind for kind, rows in found["kinds"].items() if not any(row["changed"] for row in rows)]
    found["findings"] += [f"{kind} alters no {name} of these rows" for kind in idle]
    return found


def _drawn_rows(evidence: Mapping[str, Evidence], name: str, values: int, rows: int, seed: int) -> list[int]:
    """At most so many of the annotated rows that have the part. Raises `DataError`."""
    part = evidence.get(name)
    if part is None:
        raise DataError(f"there is no Evidence of {name!r} to corrupt; {nearest(name, evidence)}")
    if values != len(part) or rows < 1:
        raise DataError(f"values are one per row, found {values} for {len(part)}, and rows {rows}")
    usable = (part.present & (part.labels != UNLABELLED)).nonzero().flatten().numpy()
    return np.sort(np.random.default_rng(seed).permutation(usable)[:rows]).tolist()


@dataclass
class Corrupted(Sequence[Any]):
    """Values corrupted as they are read, so that thousands of pictures never lie in memory at once.

    Each by a seeded generator of its own; severity 0 leaves them as they are.
    """

    values: Sequence[Any]
    rows: Sequence[int]
    corrupt: Corrupt
    kind: str
    severity: int
    seed: int
    changed: set[int] = field(default_factory=set)
    """Rows whose value is another one now."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        row = self.rows[place]
        value = self.values[row]
        if not self.severity:
            return value
        corrupted = self.corrupt(value, self.kind, self.severity, np.random.default_rng((self.seed, row)))
        if corrupted != value:
            self.changed.add(row)
        return corrupted


def _check_encoding(encoded: Mapping[str, Tensor], part: Evidence, name: str) -> None:
    known, again = part.features[:COMPARED], encoded["features"]
    if again.shape != known.shape or float((again - known).norm()) > ALIKE * float(known.norm()):
        raise DataError(
            f"encoding the first {len(known)} values of {name} again does not give their Evidence: pass the values of "
            "the same split in the same order, and the encoder that gave the Evidence"
        )
