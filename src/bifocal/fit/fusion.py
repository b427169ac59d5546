"""Fits, saves and loads any fusion, and refuses Evidence that would teach it to trust experts where they cheat."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import torch
from torch import Tensor

from .. import plugins
from ..config import FusionConfig
from ..contracts import EncoderTuner, EpochFusion, Fusion, ParameterCounter
from ..errors import DataError, ModelError, RunError
from ..example import UNLABELLED, Evidence
from ..models.evidence_fusion import count_parameters
from ..workspace import atomic, file_sha256, read_json, write_json
from .token_cache import spread

if TYPE_CHECKING:
    from ..contracts import Encoder

MODEL = "mm_fusion"
"""The name of the fused model in every artifact."""
WEIGHTS, CARD = "fusion_model.pt", "config.json"
FORMAT = 1


class ClassSharesLoss(TypedDict):
    """The cross-fitted loss of the class shares of train, which every fusion has to beat."""

    loss: float
    behind: float
    """By how much it exceeds the fusion's."""
    error: float
    """Standard error of ``behind``, rows summed by group."""
    beaten: bool
    """Whether ``behind`` is above 0 by more than chance (its 95% interval)."""


class FusionChoice(TypedDict):
    """How a run came to its fusion, where its configuration left the choice to cross-fitting."""

    asked: str
    """The strategy that chose."""
    strategy: str
    """The one that was taken."""
    alone: str | None
    """The modality whose expert decides, where no fusion was worth its numbers."""
    members: dict[str, int]
    """Of several that are averaged: strategy -> picks."""
    candidates: list[dict[str, float | int | str]]
    """As `bifocal.models.comparison.Candidate`, the least loss first."""
    class_shares: NotRequired[ClassSharesLoss]
    """Not in runs of earlier versions."""


def fit_fusion(
    config: FusionConfig,
    evidence: Mapping[str, Evidence],
    *,
    val: Mapping[str, Evidence] | None,
    seed: int,
    in_sample: bool = False,
    encoders: Mapping[str, Encoder] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Fusion:
    """Fit the configured strategy on rows that no expert was trained on.

    An expert looks better on its own training rows than it is; a fusion that learns there learns to trust whoever
    memorised most.

    Parameters
    ----------
    config : FusionConfig
    evidence : mapping
        Modality -> Evidence of the training rows; rows that are not annotated are left out.
    val : mapping or None
        Evidence for early stopping and the grid; None = the first grid point, all epochs.
    seed : int
        First of ``config.seeds`` seeds in a row.
    in_sample : bool
        Take rows that the experts have seen: only for runs that are marked so (the pilot).
    encoders : mapping, optional
        Modality -> expert, for strategies that tune encoders (`EncoderTuner`); they stay as they are.
    on_epoch : callable, optional
        Takes each finished epoch of a strategy that tells of them.

    Raises
    ------
    DataError
        Where an expert was trained on a row, no row is annotated, or the Evidences do not belong together.
    ConfigError
        Where ``config.options`` or ``config.read`` do not fit the strategy.
    UnknownPlugin
        Where there is no such strategy.
    """
    fusion: Fusion = plugins.load("fusions", config.strategy)(**config.options)
    learned, labels = learnable(evidence, in_sample=in_sample)
    if val and not in_sample:
        _refuse_seen(val)
    if isinstance(fusion, EncoderTuner):
        fusion.attach(encoders or {})
    if isinstance(fusion, EpochFusion):
        fusion.on_epoch = on_epoch
    return fusion.fit(
        learned,
        labels,
        seeds=range(seed, seed + config.seeds),
        read=config.read,
        val=_take(val, (_labels(val) != UNLABELLED).nonzero().flatten()) if val else None,
    )


def learnable(evidence: Mapping[str, Evidence], *, in_sample: bool = False) -> tuple[dict[str, Evidence], Tensor]:
    """The annotated rows, and their labels. Raises `DataError` as `fit_fusion`."""
    if not in_sample:
        _refuse_seen(evidence)
    labels = _labels(evidence)
    annotated = (labels != UNLABELLED).nonzero().flatten()
    if not len(annotated):
        raise DataError(f"a fusion needs annotated rows to learn from; none of {len(labels)} is: check `label`")
    return _take(evidence, annotated), labels[annotated]


def with_tokens(fusion: Fusion, evidence: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """The Evidence with the tokens that a fusion's own encoders make of its values; as it is for any other fusion."""
    if not isinstance(fusion, EncoderTuner):
        return dict(evidence)
    made = {}
    for name, part in evidence.items():
        rows = part.present.nonzero().flatten().tolist()
        found = fusion.tokens(name, part.take(rows).values or ())
        made[name] = replace(part, tokens=None if found is None else spread(found, rows, len(part)))
    return made


def _refuse_seen(evidence: Mapping[str, Evidence]) -> None:
    seen = {name: int(e.seen.sum()) for name, e in evidence.items() if bool(e.seen.any())}
    if seen:
        n = len(next(iter(evidence.values())))
        found = ", ".join(f"{name} on {count}" for name, count in seen.items())
        raise DataError(
            f"experts were trained on rows that the fusion would learn from ({found} of {n}): use cross-fitted logits "
            "(tune: head) or rows held out from the experts (fusion.holdout), or mark the run in_sample"
        )


def _labels(evidence: Mapping[str, Evidence]) -> Tensor:
    if not evidence:
        raise DataError("a fusion needs the Evidence of at least one modality, found none")
    (first, reference), *others = evidence.items()
    for name, other in others:
        if not torch.equal(reference.labels, other.labels):
            raise DataError(
                f"the Evidence of {first} and {name} bear different labels: encode the same split with both"
            )
    return reference.labels


def _take(evidence: Mapping[str, Evidence], rows: Tensor) -> dict[str, Evidence]:
    return {name: e.take(rows.tolist()) for name, e in evidence.items()}


def fusion_parameters(fusion: Fusion) -> dict[str, int]:
    """``{"total", "trained"}``: numbers in its state dict (of all seeds), and those of them that were learned.

    A fusion whose tensors are not numbers that it learned (trees written out) counts by itself.
    """
    if isinstance(fusion, ParameterCounter):
        return fusion.parameters()
    return count_parameters(fusion.state()[1])


def save_fusion(fusion: Fusion, config: FusionConfig, folder: Path, choice: FusionChoice | None = None) -> None:
    """Write ``fusion_model.pt`` (a flat state dict for ``torch.load(weights_only=True)``) and ``config.json``.

    Each appears whole or not at all; as the card is written last and holds the weights' SHA-256, a crash between the
    two is found by `load_fusion`. A ``choice`` between strategies is noted in the card.
    """
    settings, tensors = fusion.state()
    with atomic(folder / WEIGHTS, "wb") as f:
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, f)
    read = settings.get("read", config.read)
    card = {
        "format": FORMAT,
        "strategy": config.strategy,
        "modalities": list(read),
        "read": read,
        "classes": settings.get("classes"),
        "seeds": settings.get("seeds", config.seeds),
        "parameters": fusion_parameters(fusion),
        "sha256": file_sha256(folder / WEIGHTS),
        "state": settings,
        **({"choice": choice} if choice else {}),
    }
    write_json(folder / CARD, card)


def load_fusion(
    folder: Path, allow_plugins: Collection[str] | None = None, *, encoders: Mapping[str, Encoder] | None = None
) -> Fusion:
    """What `save_fusion` wrote, verified before it is opened; `plugins.restrict` says what may come from outside.

    Parameters
    ----------
    encoders : mapping, optional
        Modality -> expert, on top of which a strategy that tunes encoders has learned.

    Raises
    ------
    ModelError
        Where a file is missing, altered, of another format, or holds more than tensors.
    UnknownPlugin
        Where its strategy is not installed, or comes from outside and is not allowed (`PluginRefused`).
    """
    try:
        card: dict[str, Any] = read_json(folder / CARD)
    except RunError as error:
        raise ModelError(f"there is no fusion in {folder}: {error}") from None
    if card.get("format") != FORMAT:
        raise ModelError(
            f"{folder / CARD} is of format {card.get('format')!r}; this Bifocal reads {FORMAT}: fit it again"
        )
    weights = folder / WEIGHTS
    if not weights.is_file() or file_sha256(weights) != card["sha256"]:
        found = "is not the one that config.json describes" if weights.is_file() else "is missing"
        raise ModelError(f"{weights} {found}: copy the whole folder again, or run the step `fusion` again")
    with plugins.restrict(folder / CARD, allow_plugins):
        kind = plugins.load("fusions", card.get("strategy", ""))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's words on a pickle that it refuses just after
            tensors = torch.load(weights, weights_only=True, map_location="cpu")
        with plugins.restrict(folder / CARD, allow_plugins):  # one that is made of others names them in its state
            fusion: Fusion = kind.restore(card["state"], tensors)
        if isinstance(fusion, EncoderTuner):
            fusion.attach(encoders or {})
        return fusion
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder} holds no usable fusion ({reason}): run the step `fusion` again") from error
