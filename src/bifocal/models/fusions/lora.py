"""Token-level cross-attention over encoders with low-rank adapters that learn with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from ...errors import ConfigError
from ..classifier import ATTENTION
from ..joint_fusion import TunedFusion
from ..joint_tokens import Limit
from ..joint_trainer import TuningOptions


class Options(TuningOptions):
    """What ``fusion.options`` may hold."""

    r: Annotated[int, Field(ge=1)] = 8
    """Rank of the adapters."""
    alpha: Annotated[int, Field(ge=1)] = 16
    """They are scaled by ``alpha / r``."""
    adapter_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    encoder_learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Of the adapters, which start at zero."""


class Lora(TunedFusion):
    """Adapts every backbone by ``W + (alpha / r) B A`` (Hu et al. 2022, LoRA, arXiv:2106.09685, eq. 3) under the
    co-attention of `bifocal.models.joint_head.CoAttention`.

    ``A [r, in]`` and ``B [out, r]`` learn, ``W [out, in]`` stays. ``W`` are the query and value projections of
    attention (section 4.2 there); in a backbone without attention the pointwise convolutions, which are linear layers
    over the channels of a map.
    """

    Options = Options

    def limit(self, backbone: nn.Module) -> Limit:
        """Raises `ConfigError` where the backbone has neither."""
        import peft

        named = list(backbone.named_modules())
        targets = [name for name, m in named if isinstance(m, nn.Linear) and name.rpartition(".")[2] in ATTENTION]
        targets = targets or [name for name, m in named if _pointwise(m)]
        if not targets:
            raise ConfigError(
                f"lora adapts attention projections or pointwise convolutions, and a {type(backbone).__name__} has "
                "neither: take last_layers"
            )
        o = self.options
        settings = peft.LoraConfig(r=o.r, lora_alpha=o.alpha, lora_dropout=o.adapter_dropout, target_modules=targets)
        backbone.requires_grad_(False)
        peft.inject_adapter_in_model(settings, backbone)
        for adapted in map(backbone.get_submodule, targets):
            if isinstance(layer := adapted.base_layer, nn.Conv2d):  # models that pad by themselves ask for its shape
                for shape in ("kernel_size", "stride", "padding", "dilation", "groups"):
                    setattr(adapted, shape, getattr(layer, shape))
        return Limit(learning=[backbone], passed=[])


def _pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
