"""Early fusion: a small network over all parts side by side, which can learn how they interact."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..evidence_fusion import LearnedFusion, PartsLinear
from ..heads import DropoutRecipe


class ConcatHead(nn.Module):
    """Linear, GELU, Dropout, Linear over ``[t; v; ...]``."""

    def __init__(self, dims: Mapping[str, int], classes: int, width: int, dropout: float):
        super().__init__()
        self.first = PartsLinear(dims, width)
        self.out = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, C]`` of inputs ``[B, d]`` by modality."""
        return self.out(self.first(inputs))


class Concat(LearnedFusion):
    """Reads features (or logits, by modality) and learns any interaction between them; gives no weights."""

    Options = DropoutRecipe

    def head(self, dims: Mapping[str, int], classes: int, width: int) -> nn.Module:
        return ConcatHead(dims, classes, width, self.options.dropout)
