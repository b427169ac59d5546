"""Early fusion by attention: every part is a token, and learned queries gather what they need from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..evidence_fusion import LearnedFusion, shares
from ..heads import DropoutRecipe


class Options(DropoutRecipe):
    """What ``fusion.options`` may hold."""

    heads: Annotated[int, Field(ge=1)] = 4
    """Queries, each over its own ``width / heads`` columns."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if odd := [width for width in self.widths if width % self.heads]:
            raise ValueError(f"width {odd[0]} must be a multiple of heads {self.heads}")
        return self


class AttentionHead(nn.Module):
    """Learned queries attend to one token per modality; a layer over what they gathered gives the logits.

    Tokens ``t_m = E_m x_m + e_m``, ``E_m [width, d_m]``. The query ``q_h [width]`` of head h weighs them by
    ``a = softmax_m(q_h . t_m / sqrt(width))``, absent parts left out, and gathers ``sum_m a_m t_m`` in its own
    ``width / heads`` columns. Of what all heads gathered, the logits are ``W dropout(gelu(F norm(g))) + c``, with
    ``F [width, width]``.

    Matrices for keys and values would add nothing: a query that is the same for all rows absorbs that of the keys
    (``q . K t = (K'q) . t``), ``E_m`` that of the values. The attention is written out, for the weights are wanted.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, width: int, heads: int, dropout: float):
        super().__init__()
        self.names = list(dims)
        self.tokens = nn.ModuleList(nn.Linear(d, width) for d in dims.values())
        self.queries = nn.Parameter(torch.randn(heads, width))
        self.out = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, classes)
        )

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, C]`` of inputs ``[B, d]`` and present ``[B]`` by modality."""
        tokens = self.embed(inputs)
        weights = self.attend(tokens, present).unsqueeze(-1).unbind(dim=-3)
        heads = (token.unflatten(-1, (len(self.queries), -1)) for token in tokens)
        return self.out(reduce(torch.add, map(torch.mul, weights, heads)).flatten(-2))

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The mean attention over heads, ``[B, M]``."""
        return self.attend(self.embed(inputs), present).mean(dim=-1)

    def embed(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """A token ``[B, width]`` per modality."""
        return [layer(inputs[name]) for name, layer in zip(self.names, self.tokens, strict=True)]

    def attend(self, tokens: Sequence[Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Weights ``[B, M, heads]``, of sum 1 over the present parts."""
        scores = [token @ self.queries.transpose(-1, -2) / token.shape[-1] ** 0.5 for token in tokens]
        there = torch.broadcast_tensors(*(present[name].unsqueeze(-1) for name in self.names))
        return shares(torch.stack(torch.broadcast_tensors(*scores), dim=-2), torch.stack(there, dim=-2), dim=-2)


class Attention(LearnedFusion):
    """Attention pooling (Lee et al. 2019, arXiv:1810.00825, eq. 11; Vaswani et al. 2017, arXiv:1706.03762).

    For any number of modalities. Its weights are the attention, averaged over heads and seeds.
    """

    Options = Options

    def head(self, dims: Mapping[str, int], classes: int, width: int) -> nn.Module:
        return AttentionHead(dims, classes, width, self.options.heads, self.options.dropout)
