"""Early fusion by gates: from all parts together it is decided, unit by unit, whose word counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from ..evidence_fusion import LearnedFusion, PartsLinear, shares
from ..heads import DropoutRecipe


class GatedHead(nn.Module):
    """``W dropout(h) + c`` of ``h = sum_m g_m * tanh(H_m x_m + b_m)``, gates ``g = softmax_m(G [x_1; ...; x_M] + a)``.

    ``H_m [width, d_m]``, ``G [M * width, d_1 + ... + d_M]``. Of two modalities the softmax is the bimodal unit's
    sigmoid, ``g`` and ``1 - g``; of more it keeps the gates shares of one. The gate of an absent part is 0.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, width: int, dropout: float):
        super().__init__()
        self.names = list(dims)
        self.hidden = nn.ModuleList(nn.Linear(d, width) for d in dims.values())
        self.gate = PartsLinear(dims, len(dims) * width)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, C]`` of inputs ``[B, d]`` and present ``[B]`` by modality."""
        gates = self.gates(inputs, present).unbind(dim=-2)
        hidden = (layer(inputs[name]).tanh() for name, layer in zip(self.names, self.hidden, strict=True))
        return self.out(reduce(torch.add, map(torch.mul, gates, hidden)))

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The mean gate over units, ``[B, M]``."""
        return self.gates(inputs, present).mean(dim=-1)

    def gates(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """``[B, M, width]``, of sum 1 over the present parts."""
        there = torch.stack(torch.broadcast_tensors(*(present[name] for name in self.names)), dim=-1).unsqueeze(-1)
        return shares(self.gate(inputs).unflatten(-1, (len(self.names), -1)), there, dim=-2)


class Gated(LearnedFusion):
    """The gated multimodal unit (Arevalo et al. 2017, arXiv:1702.01992), for any number of modalities.

    Its weights are the gates, averaged over units and seeds: how open the way was, not how much came through it.
    """

    Options = DropoutRecipe

    def head(self, dims: Mapping[str, int], classes: int, width: int) -> nn.Module:
        return GatedHead(dims, classes, width, self.options.dropout)
