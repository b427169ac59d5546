"""Early fusion by gradient-boosted trees, which take columns of any scale and cross them without being told which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...config import Strict
from ..evidence_fusion import WEIGHTS, EvidenceFusion
from ..heads import Parts, leave_out
from ..trees import Trees, grow, least_rows

TREES = WEIGHTS + "trees"
ROWS_AT_ONCE = 2**15
"""Rows side by side at a time: bounds the memory of the many pairs that EMAP asks for."""


class Options(Strict):
    """What ``fusion.options`` may hold."""

    rounds: Annotated[int, Field(ge=1)] = 500
    """Trees (per class) at most; with a val split the round with the least loss on it is the last one kept."""
    rounds_without_val: Annotated[int, Field(ge=1)] = 50
    patience: Annotated[int, Field(ge=1)] = 20
    """Rounds without a smaller val loss before training stops."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    leaves: Annotated[int, Field(ge=2, le=1024)] = 31
    """Of a tree, at most."""
    columns_per_tree: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the columns that a tree is grown from: wide features are quicker so, and the trees differ more."""
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Chance that a part is left out of a training row; the last part of a row never is."""


class Boosted(EvidenceFusion):
    """``logits = sum_k f_k([x_1; ...; x_M])`` of inputs ``x_m [n, d_m]`` side by side, trees ``f_k`` one after another.

    Friedman 2001 (Annals of Statistics 29), as LightGBM grows them (Ke et al. 2017, NeurIPS). A tree that splits by two
    modalities makes them interact. An absent part is missing values, which every split sends to the side that
    training chose; parts are left out of training rows so that it has something to choose by.

    One ensemble, drawn with the first seed, however many seeds are given: it is an average of many trees already.
    """

    reads = "features"
    Options = Options

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        draw = torch.Generator().manual_seed(seeds[0])
        names = list(train.present)
        there = torch.stack([train.present[name] for name in names], dim=-1)
        left = leave_out(there, torch.rand(there.shape, generator=draw), self.options.modality_dropout)
        present = dict(zip(names, left.unbind(dim=-1), strict=True))
        counts = torch.bincount(train.labels, minlength=self.classes)
        text = grow(
            (_table(train.inputs, present), train.labels.tolist()),
            (_table(val.inputs, val.present), val.labels.tolist()) if val else None,
            classes=self.classes,
            rounds=self.options.rounds if val else self.options.rounds_without_val,
            patience=self.options.patience,
            learning_rate=self.options.learning_rate,
            num_leaves=self.options.leaves,
            min_data_in_leaf=min(least_rows(len(train)), max(1, int(counts[counts > 0].min()))),
            feature_fraction=self.options.columns_per_tree,
            max_bin=63,  # as good as 255 here, and twice as quick
            force_col_wise=True,
            seed=seeds[0],
        )
        self.trees = Trees(text, self.classes)

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]``: the sum of what the trees say."""
        n = len(next(iter(present.values())))
        pieces = []
        for start in range(0, max(1, n), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            table = _table({m: x[rows] for m, x in inputs.items()}, {m: p[rows] for m, p in present.items()})
            pieces.append(self.trees.logits(table))
        return torch.cat(pieces)

    def parameters(self) -> dict[str, int]:
        """``total`` and ``trained``: the text of the trees is no number."""
        return self.trees.parameters()

    def tensors(self) -> dict[str, Tensor]:
        return {TREES: torch.frombuffer(bytearray(self.trees.text.encode()), dtype=torch.uint8)}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        self.trees = Trees(tensors[TREES].numpy().tobytes().decode(), self.classes)


def _table(inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> np.ndarray:
    """All inputs side by side ``[n, sum d]``, NaN where absent."""
    columns = [torch.where(present[name].unsqueeze(1), x, torch.nan) for name, x in inputs.items()]
    return torch.cat(columns, dim=1).numpy()
