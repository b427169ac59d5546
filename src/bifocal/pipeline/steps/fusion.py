"""Step `fusion`: the configured strategy learns from the Evidence of rows that no expert saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ...assess.run_data import RunData
from ...config import FusionConfig
from ...fit.fusion import MODEL, fit_fusion, save_fusion
from ..context import Context, Step

if TYPE_CHECKING:
    from ...contracts import Fusion


def train_fusion(run: Context) -> Mapping[str, object]:
    """Gives ``rows``, those it learned from, or ``skipped``: why there is nothing to fuse."""
    asked = run.config.fusion
    if len(run.modalities) == 1:
        if "fusion" in run.config.model_fields_set:
            run.reporter.note("one modality: its expert decides alone, and what stands under `fusion` is not used")
        return {"skipped": "one modality: the expert decides alone"}
    fusion = fusion_of(run.data, asked, partial(run.reporter.epoch, MODEL))
    if fusion.reads == "tokens" and asked.seeds > 1 and "seeds" in asked.model_fields_set:
        run.reporter.note(f"{asked.strategy} trains one model: of fusion.seeds = {asked.seeds} the first is taken")
    save_fusion(fusion, asked, run.space.fusion)
    return {"rows": len(next(iter(run.data.fusion_rows.values())))}


def fusion_of(
    data: RunData, config: FusionConfig, on_epoch: Callable[[dict[str, float]], None] | None = None
) -> Fusion:
    """A fusion fitted on a run's Evidence, be it the run's own or another; nothing is written.

    Raises `BifocalError` as `bifocal.fit.fusion.fit_fusion`.
    """
    val = None if data.in_sample else data.evidence_of("val")
    return fit_fusion(
        config,
        data.fusion_rows,
        val=val,
        seed=data.config.seed,
        in_sample=data.in_sample,
        encoders=data.encoders,
        on_epoch=on_epoch,
    )


STEP = Step(
    "fusion",
    train_fusion,
    settings=("fusion",),
    outputs=lambda run: [path for path in run.space.fusion.glob("*") if path.name != "README.md"],
)
