"""Token-level cross-attention over frozen encoders: words look at patches, and patches at words."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..joint_fusion import TokenFusion
from ..joint_trainer import JointOptions


class Options(JointOptions):
    """What ``fusion.options`` may hold."""

    epochs: Annotated[int, Field(ge=1)] = 20
    """At most; they cost the head alone."""
    patience: Annotated[int, Field(ge=1)] = 3


class CrossAttention(TokenFusion):
    """`bifocal.models.joint_head.CoAttention` on the tokens that each encoder gave in its one pass."""

    Options = Options
