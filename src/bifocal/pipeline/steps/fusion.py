"""Step `fusion`: the configured strategy learns from the Evidence of rows that no expert saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...assess.run_data import RunData
from ...assess.tuning import wants_train
from ...config import FusionConfig
from ...errors import DataError
from ...fit.cross_fit import CrossFitted, cross_fit_fusion, cross_fits
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
    found = _cross_fitted(run, asked)
    if found is not None:
        found.save(run.space.evidence(MODEL, "train"), run.data.split("train").fingerprint)
        fusion = fit_fusion(found.config, run.data.fusion_rows, val=None, seed=run.config.seed)
    else:
        run.space.evidence(MODEL, "train").unlink(missing_ok=True)
        fusion = fusion_of(run.data, asked, partial(run.reporter.epoch, MODEL))
    if fusion.reads == "tokens" and asked.seeds > 1 and "seeds" in asked.model_fields_set:
        run.reporter.note(f"{asked.strategy} trains one model: of fusion.seeds = {asked.seeds} the first is taken")
    save_fusion(fusion, asked, run.space.fusion)
    rows = {"rows": len(next(iter(run.data.fusion_rows.values())))}
    return rows if found is None else {**rows, "cross_fitted": len(found.ids), "options": found.config.options}


def _cross_fitted(run: Context, asked: FusionConfig) -> CrossFitted | None:
    """None where val alone is tuned on: it is large, the strategy cannot be cross-fitted, or the rows are too few."""
    if not wants_train(run.data):
        return None
    if not cross_fits(asked):
        run.reporter.note(
            f"{asked.strategy} is not cross-fitted: its calibration and threshold are fitted on val alone"
        )
        return None
    try:
        return cross_fit_fusion(asked, run.data.fusion_rows, seed=run.config.seed)
    except DataError as error:
        if run.config.decide.on == "cross_fit":
            raise
        run.reporter.note(f"the fusion is tuned on val alone: {error}")
        return None


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


def _files(run: Context) -> list[Path]:
    written = [path for path in run.space.fusion.glob("*") if path.name != "README.md"]
    said = run.space.evidence(MODEL, "train")
    return [*written, said] if said.is_file() else written


STEP = Step(
    "fusion",
    train_fusion,
    settings=("fusion",),
    outputs=_files,
    # A run that tunes on val is the one that it was before there was a choice.
    outside=lambda run: None if run.config.decide.on == "val" else run.config.decide.on,
)
