"""Cross-fitting of fusions: what models that never saw a row's fold say of it, and the settings that suit all folds.

A row's Prediction owes nothing to its own fold: weights, scaling and components are those of the other folds, and its
epoch and grid point are the best by the held-out losses of the other folds (`FoldCurves`). For this all folds train in
step, and of every grid point only what is best so far is kept, so that memory does not grow with the epochs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..config import Reads, Strict
from ..errors import DataError
from ..example import Evidence
from .comparison import Candidate
from .heads import Parts, Program, Recipe, Scaling, losses, mean_of, prepare


@dataclass(frozen=True, slots=True)
class FoldPredictions:
    """What `CrossFittable.fit_folds` gives.

    Attributes
    ----------
    logits : Tensor, [P, n, C]
        Of each set of parts, the others blanked, by models that never saw the row's fold.
    settings : Strict
        The strategy's options with what all folds together chose: with them `Fusion.fit` without val gives the model
        to deploy.
    trained : int
        Numbers learned, of one seed.
    strategy : str, optional
        Whose options ``settings`` are, where a strategy chose another one; None = its own.
    candidates : tuple of Candidate
        What it chose from.
    """

    logits: Tensor
    settings: Strict
    trained: int
    strategy: str | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class FoldRows:
    """Rows to cross-fit on.

    Attributes
    ----------
    evidence : mapping
        Modality -> Evidence of the same rows.
    labels : Tensor, [n]
        Class indices, all annotated.
    fold : Tensor, [n] int64
        The fold of each row, 0 .. K - 1; groups stay whole.
    patterns : sequence of modality names
        Sets of parts; with each, every row is predicted once with its other parts blanked.
    """

    evidence: Mapping[str, Evidence]
    labels: Tensor
    fold: Tensor
    patterns: Sequence[Sequence[str]]
    _scalings: dict[Any, list[Scaling]] = field(default_factory=dict, repr=False, compare=False)
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    def others(self, number: int) -> Tensor:
        """All rows but those of a fold. Raises `DataError` where they bear fewer than two classes."""
        rows = (self.fold != number).nonzero().flatten()
        if len(self.labels[rows].unique()) < 2:
            raise DataError(
                f"without fold {number} of {self.folds} the {len(rows)} rows that are left bear one class: "
                "cross-fitting needs each class in at least two groups; give more rows, or tune on val"
            )
        return rows

    def scalings(self, train: Parts, fold: Tensor, read: Mapping[str, Reads], columns: int | None) -> list[Scaling]:
        """Of each fold, fitted on the others; all have as few components as the least, or none.

        Strategies that read the same share them: components of wide features cost more than a small head's training.

        Parameters
        ----------
        train : Parts
            What a strategy reads of all rows with a part.
        fold : Tensor
            Their folds.
        read : mapping
            Modality -> what of its Evidence ``train`` holds.
        columns : int, optional
            As `Recipe` has them.
        """
        key = (tuple(read.items()), columns)
        with self._counting:
            if key not in self._scalings:
                self._scalings[key] = self._scaled(train, fold, columns)
        return self._scalings[key]

    def _scaled(self, train: Parts, fold: Tensor, columns: int | None) -> list[Scaling]:
        found = [Scaling.of(train.take((fold != k).nonzero().flatten()), columns) for k in range(self.folds)]
        reduced = set.intersection(*(set(s.basis) for s in found))
        widths = {name: min(s.basis[name].shape[1] for s in found) for name in found[0].basis if name in reduced}
        return [replace(s, basis={name: s.basis[name][:, :width] for name, width in widths.items()}) for s in found]

    def without_fold(self, number: int) -> tuple[dict[str, Evidence], Tensor]:
        """Evidence and labels of all `others`."""
        rows = self.others(number)
        return {name: e.take(rows.tolist()) for name, e in self.evidence.items()}, self.labels[rows]

    def held_out(self, number: int) -> tuple[Tensor, list[dict[str, Evidence]]]:
        """The rows of a fold, and for each pattern their Evidence with the other parts blanked."""
        rows = (self.fold == number).nonzero().flatten()
        own = {name: e.take(rows.tolist()) for name, e in self.evidence.items()}
        return rows, [{m: e if m in keep else e.without() for m, e in own.items()} for keep in self.patterns]


@runtime_checkable
class CrossFittable(Protocol):
    """A fusion that can be cross-fitted: seconds to fit, not minutes, and no encoder of its own."""

    def fit_folds(self, rows: FoldRows, *, seeds: Sequence[int], read: Mapping[str, Reads]) -> FoldPredictions:
        """Fit without each fold in turn, and predict it. Raises `DataError` and `ConfigError` as `Fusion.fit`."""


def fold_logits(members: Sequence[Callable[[Mapping[str, Evidence]], Tensor]], rows: FoldRows) -> Tensor:
    """Logits ``[P, n, C]``: each row's of the member that learned without its fold, in the order of the folds."""
    found = []
    for number, member in enumerate(members):
        held, views = rows.held_out(number)
        found.append((held, torch.stack([member(view) for view in views])))
    order = torch.cat([held for held, _ in found]).argsort()
    return torch.cat([said for _, said in found], dim=1)[:, order]


class FoldCurves:
    """The best epoch of each candidate: for every fold by the losses of the other folds alone, and for all by all.

    A curve ends where it has not improved for ``patience`` epochs, whatever comes later: what is taken for a fold
    cannot depend on how long that fold itself would have trained on.

    Attributes
    ----------
    best : Tensor, [K + 1, G]
        Least mean negative log-likelihood of each candidate: in row k of all folds but k, in the last of all.
    epochs : Tensor, [K + 1, G]
        The epoch of it, from 1.
    """

    def __init__(self, rows: Sequence[int], candidates: int, patience: int):
        """``rows``: how many each fold has."""
        self.rows, self.patience = torch.tensor(rows, dtype=torch.double), patience
        shape = (len(rows) + 1, candidates)
        self.best = torch.full(shape, torch.inf, dtype=torch.double)
        self.epochs = torch.zeros(shape, dtype=torch.long)
        self.running = torch.ones(shape, dtype=torch.bool)

    def add(self, epoch: int, sums: Tensor) -> Tensor:
        """Take the losses of an epoch, summed over the rows of each fold ``[K, G]``; whether it is the best so far for
        a fold, ``[K, G]``."""
        total, rows = sums.double().sum(dim=0), self.rows.unsqueeze(1)
        others = (total - sums) / (rows.sum() - rows).clamp(min=1)
        means = torch.cat([others, (total / rows.sum()).unsqueeze(0)])
        better = self.running & (means < self.best)
        self.best, self.epochs = torch.where(better, means, self.best), torch.where(better, epoch, self.epochs)
        self.running &= epoch - self.epochs < self.patience
        return better[:-1]

    @property
    def done(self) -> bool:
        return not bool(self.running.any())


@dataclass(frozen=True, slots=True)
class FoldedHeads:
    """What `fold_heads` gives of one architecture.

    Attributes
    ----------
    best, epochs : Tensor, [K + 1, G]
        As `FoldCurves` has them, by grid point.
    logits : Tensor, [G, P, n, C]
        Of every grid point at the epoch that the other folds found best; of rows without any part they mean nothing.
    trained : tuple of int, [G]
        Numbers that one model learns.
    """

    best: Tensor
    epochs: Tensor
    logits: Tensor
    trained: tuple[int, ...]

    @classmethod
    def of_points(cls, found: Sequence[FoldedHeads]) -> FoldedHeads:
        """Those of several grid points or architectures, one after another."""
        return cls(
            torch.cat([heads.best for heads in found], dim=1),
            torch.cat([heads.epochs for heads in found], dim=1),
            torch.cat([heads.logits for heads in found]),
            tuple(count for heads in found for count in heads.trained),
        )

    def predictions(self, fold: Tensor) -> Tensor:
        """Logits ``[P, n, C]``: each row's of the grid point that the other folds found best."""
        points = self.best[:-1].argmin(dim=1)[fold]
        return self.logits.permute(2, 0, 1, 3)[torch.arange(len(fold)), points].transpose(0, 1)

    @property
    def chosen(self) -> tuple[int, int]:
        """The grid point that all folds together found best, and its epoch."""
        point = int(self.best[-1].argmin())
        return point, max(1, int(self.epochs[-1, point]))


def fold_heads(
    build: Callable[[Scaling], nn.Module],
    train: Parts,
    fold: Tensor,
    scalings: Sequence[Scaling],
    *,
    seeds: Sequence[int],
    recipe: Recipe,
    patterns: Sequence[Sequence[str]],
) -> FoldedHeads:
    """Train K folds x S seeds x G grid points of a head together, in step.

    The probabilities of the seeds are averaged, and the loss that epochs are chosen by is that of the mean, as the
    mean is what is deployed.

    Parameters
    ----------
    build : callable
        A new head for inputs scaled as given; otherwise as `fit_heads` takes it.
    train : Parts
        Rows ``[n]`` of all folds.
    fold : Tensor, [n]
    scalings : sequence of Scaling, [K]
        As `FoldRows.scalings` gives them.
    seeds : sequence of int
    recipe : Recipe
        All but ``widths`` and ``columns``, which ``build`` and ``scalings`` know.
    patterns : sequence of modality names
        As `FoldRows` has them.
    """
    program = _FoldProgram(build, train, fold, scalings, seeds, recipe)
    grid, held = recipe.grid(), program.held
    curves, logits = FoldCurves([len(rows) for rows in held], len(grid), recipe.patience), None
    for epoch in range(1, recipe.epochs + 1):
        found = program.epoch()
        if logits is None:
            logits = torch.zeros(len(grid), len(patterns), len(train), found[0].shape[-1])
        sums = [losses(said, train.labels[rows]).sum(dim=-1) for said, rows in zip(found, held, strict=True)]
        for k, better in enumerate(curves.add(epoch, torch.stack(sums))):
            points = better.nonzero()
            for p, keep in enumerate(patterns if len(points) else ()):
                said = found[k] if set(keep) == set(train.present) else program.said(k, keep)
                logits[points, p, held[k]] = said[better]
        if curves.done:
            break
    assert logits is not None  # there is one epoch at least
    trained = sum(w.numel() for w in program.module.parameters())
    return FoldedHeads(curves.best, curves.epochs, logits, (trained,) * len(grid))


class _FoldProgram:
    """All folds of a head in training: the rows of each stand one after another, prepared by its own scaling."""

    def __init__(
        self,
        build: Callable[[Scaling], nn.Module],
        train: Parts,
        fold: Tensor,
        scalings: Sequence[Scaling],
        seeds: Sequence[int],
        recipe: Recipe,
    ):
        n, self.seeds, folds = len(train), len(seeds), len(scalings)
        self.rows = _stacked(train, fold, scalings)
        self.held = [(fold == k).nonzero().flatten() for k in range(folds)]
        self.heard = [self.rows.take(k * n + rows) for k, rows in enumerate(self.held)]
        learned = [k * n + (fold != k).nonzero().flatten() for k in range(folds)]
        self.program = Program(
            partial(build, scalings[0]),
            self.rows,
            [seed for _ in learned for seed in seeds],
            recipe.grid(),
            recipe,
            [rows for rows in learned for _ in seeds],
        )
        self.module = self.program.module

    def epoch(self) -> list[Tensor]:
        """Train for one, and say of each fold what its members now think of it, ``[G, n_k, C]``."""
        self.program.train(self.rows)
        return [self.said(k, list(self.rows.present)) for k in range(len(self.held))]

    def said(self, k: int, keep: Sequence[str]) -> Tensor:
        """The log of the mean over seeds of the probabilities, ``[G, n_k, C]``, with all parts but some blanked."""
        rows = self.heard[k]
        there = {name: p if name in keep else torch.zeros_like(p) for name, p in rows.present.items()}
        seeds = slice(k * self.seeds, (k + 1) * self.seeds)
        return mean_of(self.program.logits(replace(rows, present=there), seeds), dim=1)


def _stacked(train: Parts, fold: Tensor, scalings: Sequence[Scaling]) -> Parts:
    """All rows once for each fold, one after another, ``[K * n]``, as the scaling of that fold prepares them.

    A part that the other folds never have is absent: nothing can be learned of it.
    """
    prepared = [prepare(train, scaling).inputs for scaling in scalings]
    known = [{name: p & p[fold != k].any() for name, p in train.present.items()} for k in range(len(scalings))]
    return Parts(
        {name: torch.cat([inputs[name] for inputs in prepared]) for name in train.inputs},
        {name: torch.cat([present[name] for present in known]) for name in train.present},
        train.labels.repeat(len(scalings)),
    )
