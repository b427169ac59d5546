"""Token-level cross-attention over encoders whose last blocks learn with it; the others run once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from ...errors import ConfigError
from ..joint_fusion import TunedFusion, deepest
from ..joint_tokens import Limit
from ..joint_trainer import TuningOptions


class Options(TuningOptions):
    """What ``fusion.options`` may hold."""

    layers: Annotated[int, Field(ge=1)] = 2
    """Last blocks of each encoder that learn; all of them where it has no more."""


class LastLayers(TunedFusion):
    """Unfreezes the last blocks of every backbone (Yosinski et al. 2014, arXiv:1411.1792: late layers are the specific
    ones) under the co-attention of `bifocal.models.joint_head.CoAttention`.

    Blocks are those of its longest list of modules: the layers of a transformer, the stages or residual blocks of a
    convolutional network. What comes before them, and single layers after them, stays frozen. What leaves the last
    frozen block is computed once per row, so that an epoch costs the last blocks and the head only; pictures are not
    varied in training for that reason.
    """

    Options = Options

    def limit(self, backbone: nn.Module) -> Limit:
        """Raises `ConfigError` where the backbone has no list of blocks."""
        blocks = deepest(backbone)
        if not blocks:
            raise ConfigError(
                f"last_layers unfreezes the last of a list of blocks, and a {type(backbone).__name__} has no such "
                "list: take lora"
            )
        backbone.requires_grad_(False)
        first = max(0, len(blocks) - self.options.layers)
        for block in blocks[first:]:
            block.requires_grad_(True)
        return Limit(learning=list(blocks[first:]), passed=list(blocks[:first]))
