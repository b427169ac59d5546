"""Early fusion by a low-rank outer product of all parts: every product of their columns, at a linear price."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..evidence_fusion import LearnedFusion
from ..heads import DropoutRecipe


class Options(DropoutRecipe):
    """What ``fusion.options`` may hold."""

    rank: Annotated[int, Field(ge=1)] = 4
    """Products that are summed for each column of the fused vector, which has ``width / rank`` of them."""

    @model_validator(mode="after")
    def _rank_divides_width(self) -> Self:
        if odd := [width for width in self.widths if width % self.rank]:
            raise ValueError(f"width {odd[0]} must be a multiple of rank {self.rank}")
        return self


class BilinearHead(nn.Module):
    """``V dropout(h) + c`` of ``h = sum_r w_r * prod_m F_m^r [x_m; 1] + a``, factors ``F_m^r [width, d_m + 1]``.

    This is the outer product of all ``[x_m; 1]`` under a weight tensor of rank R: R x width x sum(d_m + 1) numbers
    instead of width x prod(d_m + 1). Thanks to the constant 1 at each part (its column of ``F_m^r`` is the bias of a
    linear layer here) the outer product holds, beside the products of columns, the columns of each part alone and a
    constant: the additive terms. The weights of the constant start at 1; at torch's own 1 / sqrt(d_m) those terms
    all but vanish at first. On an AND in 256 + 256 columns (3,000 rows, AUROC) this gave 0.993, torch's own 0.977,
    a start at 0 0.962, no constants at all 0.831.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, width: int, rank: int, dropout: float):
        super().__init__()
        self.names, self.rank = list(dims), rank
        self.factors = nn.ModuleList(nn.Linear(d, rank * width) for d in dims.values())
        for factor in self.factors:
            nn.init.ones_(factor.bias)  # type: ignore[arg-type]
        self.mix = nn.Parameter(torch.randn(rank, 1) / rank**0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, C]`` of inputs ``[B, d]`` by modality."""
        factors = [factor(inputs[name]) for name, factor in zip(self.names, self.factors, strict=True)]
        products = reduce(torch.mul, factors).unflatten(-1, (self.rank, -1))
        return self.out((products * self.mix).sum(dim=-2) + self.bias)


class Bilinear(LearnedFusion):
    """Low-rank multimodal fusion (Liu et al. 2018, ACL, arXiv:1806.00064); bilinear for two parts, then multilinear.

    For any number of modalities. It gives no weights.
    """

    Options = Options

    def head(self, dims: Mapping[str, int], classes: int, width: int) -> nn.Module:
        return BilinearHead(dims, classes, width // self.options.rank, self.options.rank, self.options.dropout)
