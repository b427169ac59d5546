"""Early fusion by penalised logistic regression: what all parts say side by side, and nothing of how they interact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from ...config import Reads, Strict
from ..evidence_fusion import (
    WEIGHTS,
    EvidenceFusion,
    scaling_of,
    scaling_tensors,
    shares_by_length,
    side_by_side,
)
from ..folds import FoldPredictions, FoldRows, fold_logits
from ..heads import Parts, Scaling
from ..linear import FOLDS, PENALTIES, LinearHead, fit_linear, held_out_path


class Options(Strict):
    """What ``fusion.options`` may hold."""

    penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = PENALTIES
    """scikit-learn's C, the smaller the stronger; chosen across groups of train."""
    folds: Annotated[int, Field(ge=2)] = FOLDS
    """Of that choice, at most."""
    columns: Annotated[int, Field(ge=0)] | None = None
    """As of every learned fusion (`bifocal.models.heads.Recipe`)."""
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the training rows of several parts that stand there a second time without one of them."""


class Linear(EvidenceFusion):
    """``logits = b + sum_m W_m [x_m; a_m]``: inputs ``x_m [n, d]`` standardised, ``a_m`` 1 where a part is absent.

    Logistic regression under one L2 penalty (`bifocal.models.linear.fit_linear`). Convex: it cannot overlook what is
    there, has but one thing to tune, and is what an interaction has to beat. An absent part is zero, its mean over
    train, and its flag has weights of its own, learned where a part is absent and from copies of rows with a part left
    out. Deterministic under the first seed, which draws the copies; val changes nothing.
    """

    reads = "features"
    Options = Options

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        (columns, labels), rows = self._augmented(train, Scaling.of(train, self.options.columns), seeds[0])
        groups = [train.groups[i] for i in rows.tolist()]
        self.linear = fit_linear(
            columns,
            labels,
            groups,
            classes=self.classes,
            penalties=self.options.penalties,
            folds=self.options.folds,
        )

    def fit_folds(self, rows: FoldRows, *, seeds: Sequence[int], read: Mapping[str, Reads]) -> FoldPredictions:
        """As `CrossFittable` has it: a row's penalty is the best of the folds that it is not in."""
        members, paths, sums = [], [], []
        train = self._train_parts(rows.evidence, rows.labels, read)
        usable = self._usable(rows.evidence, rows.labels)
        scalings = rows.scalings(train, rows.fold[usable], self.read, self.options.columns)
        for number, scaling in enumerate(scalings):
            member = type(self)(**self.options.model_dump())
            table, _ = member._augmented(member._train_parts(*rows.without_fold(number), read), scaling, seeds[0])
            held = (rows.fold == number).nonzero().flatten()
            inputs, present = member._inputs({name: e.take(held.tolist()) for name, e in rows.evidence.items()})
            held_out = member._side_by_side(inputs, present), rows.labels[held]
            # The whole path: where it might end early is for the fold's own labels to say.
            heads, losses = held_out_path(table, held_out, member.classes, self.options.penalties, overfitted=math.inf)
            members.append(member)
            paths.append(heads)
            sums.append(losses)
        fold_losses = torch.tensor(sums, dtype=torch.double)
        total = fold_losses.sum(dim=0)
        for member, heads, own in zip(members, paths, fold_losses, strict=True):
            member.linear = heads[int((total - own).argmin())]
        penalty = paths[0][int(total.argmin())].penalty
        settings = self.options.model_copy(update={"penalties": (penalty,)})
        return FoldPredictions(fold_logits(members, rows), settings, members[-1].parameters()["trained"])

    def _augmented(self, train: Parts, scaling: Scaling, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Columns ``[r, d]`` and labels ``[r]`` to learn from, copies without a part included, and whose rows."""
        self.scaling = scaling
        rows, present = self._copied(train.present, seed)
        columns = self._side_by_side({name: x[rows] for name, x in train.inputs.items()}, present)
        return (columns, train.labels[rows]), rows

    def _copied(self, present: Mapping[str, Tensor], seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Row numbers and what is present of each: all rows, and after them the copies."""
        there = side_by_side(present)
        draws = torch.rand(len(there), 1 + there.shape[1], generator=torch.Generator().manual_seed(seed))
        chosen = (there.sum(dim=1) > 1) & (draws[:, 0] < self.options.modality_dropout)
        copied = chosen.nonzero().flatten()
        left = there[copied]
        left[torch.arange(len(left)), draws[copied, 1:].masked_fill(~left, -1.0).argmax(dim=1)] = False
        parts = torch.cat([there, left]).unbind(dim=1)
        return torch.cat([torch.arange(len(there)), copied]), dict(zip(present, parts, strict=True))

    def _side_by_side(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``[n, sum (d + 1)]``."""
        return torch.cat(list(self.scaling(inputs, present).values()), dim=1)

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        return self.linear(self._side_by_side(inputs, present))

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each present part's share of the length of all contributions to the logits."""
        blocks = self.linear.weight.split([self.scaling.width(name) for name in inputs], dim=1)
        scaled = self.scaling(inputs, present).values()
        contributions = [x @ block.T for x, block in zip(scaled, blocks, strict=True)]
        return dict(zip(inputs, shares_by_length(contributions, side_by_side(present)).unbind(dim=1), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        learned = {WEIGHTS + "weight": self.linear.weight, WEIGHTS + "bias": self.linear.bias}
        return learned | scaling_tensors(self.scaling)

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        self.scaling = scaling_of(tensors)
        self.linear = LinearHead(tensors[WEIGHTS + "weight"], tensors[WEIGHTS + "bias"], float("nan"))
