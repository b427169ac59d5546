"""Fusions on tokens beside those on Evidence: trained on a sample of the rows, and remedies for imbalance in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from .. import plugins
from ..config import FusionConfig
from ..contracts import EncoderTuner, EpochFusion, TokenEncoder
from ..decide.calibration import softmax
from ..errors import ConfigError, DataError
from ..evaluate.compare import Gain
from ..fit.token_cache import make_tokens
from .corruption import PackedInputs, Progress
from .diagnostics import sample_rows
from .trials import Study, Trial, TrialRow, describe, fit_trial, heard
from .usable_rows import JUDGED, groups_of, labels_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..contracts import Encoder
    from ..data.shards import Split
    from ..example import Evidence

ROWS = 2000
"""Of each split at most."""
PLAIN = "plain"
REMEDIES: Mapping[str, Mapping[str, float]] = {
    PLAIN: {},
    "modality dropout": {"modality_dropout": 0.15},
    "auxiliary losses, weight 0.5": {"auxiliary": 0.5},
    "auxiliary losses, weight 1": {"auxiliary": 1.0},
    "OGM-GE": {"modulation": 0.3},
}
"""What each adds to a training without any of them."""
NOTHING = {"modality_dropout": 0.0, "auxiliary": 0.0, "modulation": 0.0}


@dataclass(frozen=True, slots=True)
class JointMaterial:
    """The rows that fusions on tokens are trained and judged on.

    Attributes
    ----------
    rows : dict
        Split -> row numbers within the Evidence it was drawn from.
    study : Study
        Of these rows, whose Evidence has the experts' tokens and values. A comparison with fusions on Evidence is fair
        where those are fitted and judged on this; on all of train they have more to learn from.
    encoders : mapping
        Modality -> the run's expert, which stays as it is.
    """

    rows: dict[str, list[int]]
    study: Study
    encoders: Mapping[str, Encoder]


@dataclass(frozen=True, slots=True)
class JointTrials:
    """Fitted fusions on tokens.

    Attributes
    ----------
    trials : list of Trial
        Of kind ``joint``, on ``material.study.evidence``; of one seed each, where fusions on Evidence average several.
    histories : dict
        Name -> what `EpochFusion.history` holds.
    findings : list of str
        A strategy that cannot adapt one of the encoders, and why; one that finds no tokens here.
    """

    trials: list[Trial]
    histories: dict[str, list[dict[str, float]]]
    findings: list[str]


def joint_strategies() -> list[str]:
    """The fusions that read tokens."""
    return [name for name in plugins.names("fusions") if plugins.load("fusions", name).reads == "tokens"]


def joint_material(study: Study, inputs: PackedInputs, folder: Path, *, rows: int = ROWS) -> JointMaterial:
    """Draw at most ``rows`` of each split, by whole groups, and encode them once more where an encoder has tokens.

    Parameters
    ----------
    study : Study
        Of the rows that may be used (`usable`): in train none that an expert was trained on, so that what a fusion
        starts from has not seen them either.
    folder : Path
        Where tokens lie as long as they are used.

    Raises
    ------
    DataError
        Where a row of the Evidence is not in the split, or a group is larger than ``rows``.
    """
    evidence, seed = study.evidence, study.resampling.seed
    taken = {split: sample_rows(groups_of(evidence, split), rows, seed) for split in evidence}
    some: dict[str, dict[str, Evidence]] = {}
    for split, parts in evidence.items():
        drawn = {name: e.take(taken[split]) for name, e in parts.items()}
        ids = next(iter(drawn.values())).ids
        if not ids:
            raise DataError(f"no group of {split} has {rows} rows or fewer: raise the rows of the joint fusions")
        whole = inputs.splits[split]
        place = {name: i for i, name in enumerate(whole.ids)}
        if unknown := [name for name in ids if name not in place]:
            raise DataError(f"row {unknown[0]!r} of the Evidence is not among the packed rows of {split}: encode again")
        packed = whole.take(place[name] for name in ids)
        some[split] = {
            name: replace(
                e,
                values=packed.values(name),
                tokens=_tokens(inputs.encoders[name], packed, name, folder / f"{split}.{name}"),
            )
            for name, e in drawn.items()
        }
    return JointMaterial(taken, replace(study, evidence=some), inputs.encoders)


def _tokens(encoder: Encoder, packed: Split, name: str, path: Path) -> tuple[Tensor, ...] | None:
    if not isinstance(encoder, TokenEncoder):
        return None
    return make_tokens(lambda values, tell: encoder.encode_tokens(values, tell)[1], packed, name, path, {})


def fit_joint_trials(
    material: JointMaterial,
    *,
    options: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> JointTrials:
    """Train every strategy on the same sample as a run would, its epoch chosen on val.

    Parameters
    ----------
    options : mapping, optional
        For all strategies; only those that one knows are passed to it.
    progress : callable, optional
        Takes the strategies done and their number.

    Raises
    ------
    DataError, ModelError
        As `bifocal.fit.fusion.fit_fusion`.
    """
    names = joint_strategies()
    trials, histories, findings = [], {}, []
    for done, name in enumerate(names, start=1):
        try:
            t = _fit(material, name, name, options or {})
        except ConfigError as error:
            findings.append(f"{name} is not among the fusions: {error}")
            continue
        trials.append(t)
        histories[name] = _history(t)
        if all(part.tokens is None for part in material.study.evidence["train"].values()):
            findings.append(f"{name} learned on features: no encoder here has hidden states of words or patches")
        if progress:
            progress(done, len(names))
    return JointTrials(trials, histories, findings)


class JudgedGain(TypedDict):
    """The gain over the plain training, and whether its interval lies above 0, or below; None at the plain one."""

    gain: Gain | None
    helps: bool | None
    harms: bool | None


class RemedyRow(TrialRow, JudgedGain):
    """One training: what was added to the plain one, its figures, and by modality its gain on rows without that."""

    name: str
    options: dict[str, float]
    history: list[dict[str, float]]
    absent: dict[str, JudgedGain | None]


class Remedies(TypedDict):
    """What `compare_remedies` finds; ``plain`` is the name of the training without any remedy."""

    strategy: str
    metric: str
    rows: dict[str, int]
    plain: str
    remedies: list[RemedyRow]


def compare_remedies(
    material: JointMaterial,
    strategy: str,
    *,
    remedies: Mapping[str, Mapping[str, float]] = REMEDIES,
    options: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Remedies:
    """Train the same fusion with each remedy for imbalance, and hold it against the one without any, on test.

    A remedy is there for two things: to be better with all parts, and to lose less where one is absent. Both are
    asked, and answered by the interval alone: one that does not help is told so.

    Parameters
    ----------
    remedies : mapping
        Name -> options added to a training without modality dropout, auxiliary losses and modulation; the first is
        the plain one.
    options : mapping, optional
        For all trainings alike.

    """
    evidence, resampling = material.study.evidence, material.study.resampling
    labels, groups = {split: labels_of(evidence, split) for split in JUDGED}, groups_of(evidence, "test")
    plain, probabilities = next(iter(remedies)), {}
    table: list[RemedyRow] = []
    for done, (name, added) in enumerate(remedies.items(), start=1):
        t = _fit(material, name, strategy, {**NOTHING, **(options or {}), **added})
        probabilities[name] = _with_and_without(t, evidence["test"])
        gained = {
            left: _judged(
                resampling.gain(labels["test"], probabilities[plain][left], p, groups) if name != plain else None
            )
            for left, p in probabilities[name].items()
        }
        table.append(
            {
                "name": name,
                "options": dict(added),
                **describe(t, labels, groups, resampling),
                "history": _history(t),
                **gained[None],
                "absent": {m: None if name == plain else gain for m, gain in gained.items() if m is not None},
            }
        )
        if progress:
            progress(done, len(remedies))
    return {
        "strategy": strategy,
        "metric": resampling.metric,
        "rows": {split: len(rows) for split, rows in material.rows.items()},
        "plain": plain,
        "remedies": table,
    }


def tunes(t: Trial) -> bool:
    """Whether encoders learned with it."""
    return isinstance(t.fusion, EncoderTuner)


def _judged(gain: Gain | None) -> JudgedGain:
    if gain is None:
        return {"gain": None, "helps": None, "harms": None}
    return {"gain": gain, "helps": gain["low"] > 0, "harms": gain["high"] < 0}


def _with_and_without(t: Trial, test: Mapping[str, Evidence]) -> dict[str | None, np.ndarray]:
    """Test probabilities ``[n, C]`` with all parts (None), and without each modality."""
    assert t.fusion is not None  # it was fitted just now
    logits = heard(t.fusion, test, [None, *test])
    return {left: softmax(z, t.temperature) for left, z in logits.items()}


def _fit(material: JointMaterial, name: str, strategy: str, options: Mapping[str, float]) -> Trial:
    config = FusionConfig(strategy=strategy, options=dict(options), seeds=1)
    return fit_trial(replace(material.study, config=config), name, "joint", strategy, encoders=material.encoders)


def _history(t: Trial) -> list[dict[str, float]]:
    return t.fusion.history if isinstance(t.fusion, EpochFusion) else []
