"""Step `fusion`: the configured strategy learns from the Evidence of rows that no expert saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ... import plugins
from ...assess.run_data import RunData
from ...assess.tuning import wants_train
from ...config import FusionConfig
from ...contracts import DecidesAlone
from ...errors import DataError, ModelError
from ...fit.cross_fit import CrossFitted, cross_fit_fusion, cross_fits
from ...fit.fusion import MODEL, ClassSharesLoss, FusionChoice, fit_fusion, save_fusion
from ...models.composite_fusion import CompositeFusion
from ...models.exportable import traced_fusion
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
    data, found = run.data, _cross_fitted(run, asked)
    if found is None:
        fusion = fusion_of(data, asked, partial(run.reporter.epoch, MODEL))
    else:
        fusion = fit_fusion(found.config, data.fusion_rows, val=None, seed=run.config.seed, in_sample=data.in_sample)
    if found is not None and wants_train(data):
        found.save(run.space.evidence(MODEL, "train"), data.split("train").fingerprint)
    else:
        run.space.evidence(MODEL, "train").unlink(missing_ok=True)
    if fusion.reads == "tokens" and asked.seeds > 1 and "seeds" in asked.model_fields_set:
        run.reporter.note(f"{asked.strategy} trains one model: of fusion.seeds = {asked.seeds} the first is taken")
    shares = _class_shares(found) if found is not None else None
    choice = _choice(asked, found, fusion, shares) if found is not None and shares and _chooses(run) else None
    save_fusion(fusion, found.config if found else asked, run.space.fusion, choice)
    lines = told_choice(choice) if choice else [] if shares is None or shares["beaten"] else [told_nothing(shares)]
    for line in (*lines, *_told_reading(asked, choice), *_told_export(fusion)):
        run.reporter.note(line)
    rows = {"rows": len(next(iter(data.fusion_rows.values())))}
    if found is None:
        return rows
    told = {**rows, "cross_fitted": len(found.ids), "options": found.config.options, "class_shares": shares}
    return {**told, "choice": choice} if choice else told


def _chooses(run: Context) -> bool:
    """Whether the strategy is to be found by cross-fitting others, however large val is."""
    return issubclass(run.data.strategy, CompositeFusion)


def _cross_fitted(run: Context, asked: FusionConfig) -> CrossFitted | None:
    """None where val alone is tuned on: it is large, the strategy cannot be cross-fitted, or the rows are too few."""
    if not wants_train(run.data) and not _chooses(run):
        return None
    if isinstance(strategy := run.data.strategy(**asked.options), CompositeFusion):
        for name in strategy.left_out(run.data.fusion_rows, asked.read):
            run.reporter.note(
                f"{name} is not compared, as it would take long on inputs this wide: name it under "
                "fusion.options.candidates to try it"
            )
    if not cross_fits(asked):
        run.reporter.note(
            f"{asked.strategy} is not cross-fitted: its calibration and threshold are fitted on val alone"
        )
        return None
    try:
        return cross_fit_fusion(
            asked,
            run.data.fusion_rows,
            seed=run.config.seed,
            in_sample=run.data.in_sample,
            progress=run.reporter.progress,
        )
    except DataError as error:
        if run.config.decide.on == "cross_fit" or _chooses(run):
            raise
        run.reporter.note(f"the fusion is tuned on val alone: {error}")
        return None


def _class_shares(found: CrossFitted) -> ClassSharesLoss:
    """Two standard errors: the fusion may be the best of many, and has a temperature that suits these rows."""
    shares = found.class_shares()
    beaten = shares.behind > 1.96 * shares.error
    return {"loss": shares.loss, "behind": shares.behind, "error": shares.error, "beaten": beaten}


def _choice(asked: FusionConfig, found: CrossFitted, fusion: Fusion, shares: ClassSharesLoss) -> FusionChoice:
    """What was compared, and what came of it."""
    return {
        "asked": asked.strategy,
        "strategy": found.config.strategy,
        "alone": fusion.decides_alone if isinstance(fusion, DecidesAlone) else None,
        "members": found.config.options["members"] if found.config.strategy == asked.strategy else {},
        "candidates": [asdict(candidate) for candidate in found.candidates],
        "class_shares": shares,
    }


def told_choice(choice: FusionChoice) -> list[str]:
    """How a fusion was chosen, a line for each thing to know."""
    lines = [
        f"{c['name']}: cross-fitted loss {c['loss']:.4f}, {c['behind']:.4f} +- {c['error']:.4f} behind the best, "
        f"{c['trained']:,} numbers learned"
        for c in choice["candidates"]
    ]
    shares = choice["class_shares"]
    lines.append(
        f"class shares of train: cross-fitted loss {shares['loss']:.4f}, {shares['behind']:.4f} +- "
        f"{shares['error']:.4f} behind {choice['strategy']}"
    )
    if choice["members"]:
        picks = sum(choice["members"].values())
        told = ", ".join(f"{name} {count} of {picks}" for name, count in choice["members"].items())
        lines.append(f"{choice['strategy']}: {told}")
    elif shares["beaten"] and choice["alone"]:
        lines.append(f"{choice['alone']} alone is enough")
    else:
        lines.append(
            f"{choice['strategy']} is taken: it learned fewest numbers of those within one standard error of the best"
        )
    return lines if shares["beaten"] else [*lines, told_nothing(shares)]


def told_nothing(shares: ClassSharesLoss) -> str:
    """That the fusion is not shown to be better than what has learned nothing."""
    return (
        "the fusion is not shown to tell the classes apart: on cross-fitted rows of train its loss is not below that "
        f"of the class shares by more than chance ({shares['behind']:.4f} +- {shares['error']:.4f}); an expert alone "
        "may, else more rows, other encoders or clearer labels are needed"
    )


def _told_reading(asked: FusionConfig, choice: FusionChoice | None) -> Iterator[str]:
    """Which candidates cannot read what was asked for, and read what they do by default."""
    names = [str(candidate["name"]) for candidate in choice["candidates"]] if choice else []
    for part, what in asked.read.items():
        if lacking := [name for name in names if what not in plugins.load("fusions", name).readable]:
            yield f"fusion.read.{part} = {what}: not read by {', '.join(lacking)}, which read what they do by default"


def _told_export(fusion: Fusion) -> Iterator[str]:
    """Why a fusion cannot be exported to ONNX, which is better known now than after the run."""
    try:
        traced_fusion(fusion)
    except ModelError as error:
        yield str(error)


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
    evidence = run.space.evidence(MODEL, "train")
    return [*written, evidence] if evidence.is_file() else written


STEP = Step(
    "fusion",
    train_fusion,
    settings=("fusion",),
    outputs=_files,
    # A run that tunes on val is the one that it was before there was a choice.
    outside=lambda run: None if run.config.decide.on == "val" else run.config.decide.on,
    per_label=True,
)
