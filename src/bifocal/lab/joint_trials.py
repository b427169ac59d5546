"""Joint fusions beside those on Evidence: trained on a sample of the rows, and the remedies for imbalance in them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plugins
from ..decide.calibration import softmax
from ..errors import ConfigError, DataError
from ..evaluate.compare import Resampling
from .dissection import sample_rows
from .rows import JUDGED, Splits, groups_of, labels_of
from .trials import Trial, describe, trial

if TYPE_CHECKING:
    from ..contracts import Encoder
    from ..data.shards import Split
    from ..models.joint_tokens import JointFusion, JointRows

    Progress = Callable[[int, int | None], None]

ROWS = 2000
"""Of each split at most."""
PLAIN = "plain"
REMEDIES: Mapping[str, Mapping[str, Any]] = {
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
    """The rows that joint fusions are trained and judged on, and what they and the experts know of them.

    Attributes
    ----------
    rows : dict
        Split -> row numbers within the Evidence it was drawn from.
    evidence : dict
        Split -> modality -> Evidence of these rows. A comparison with fusions on Evidence is fair where those are
        fitted and judged on this; on all of train they have more to learn from.
    posts : dict
        Split -> the same rows as a joint fusion reads them. What frozen layers make of them is kept.
    """

    rows: dict[str, list[int]]
    evidence: Splits
    posts: dict[str, JointRows]


@dataclass(frozen=True, slots=True)
class JointTrials:
    """Fitted joint fusions.

    Attributes
    ----------
    trials : list of Trial
        Of kind ``joint``, on ``material.evidence``; of one seed each, where fusions on Evidence average several.
    histories : dict
        Name -> what `JointFusion.history` holds.
    findings : list of str
        A strategy that cannot adapt one of the encoders, and why; two that come to the same.
    """

    material: JointMaterial
    trials: list[Trial]
    histories: dict[str, list[dict[str, float]]]
    findings: list[str]


def joint_material(splits: Mapping[str, Split], evidence: Splits, *, rows: int = ROWS, seed: int = 0) -> JointMaterial:
    """Draw at most ``rows`` of each split, by whole groups.

    Parameters
    ----------
    splits : mapping
        The packed train, val and test.
    evidence : Splits
        The rows that may be used (`usable`): in train none that an expert was trained on, so that what a joint fusion
        starts from has not seen them either (rule 3 of the design).

    Raises
    ------
    DataError
        Where a row of the Evidence is not in the split, or a group is larger than ``rows``.
    """
    from ..models.joint_tokens import JointRows

    taken: dict[str, list[int]] = {}
    some, posts = {}, {}
    for split, parts in evidence.items():
        taken[split] = sample_rows(groups_of(evidence, split), rows, seed)
        some[split] = {name: e.take(taken[split]) for name, e in parts.items()}
        first = next(iter(some[split].values()))
        if not len(first):
            raise DataError(f"no group of {split} has {rows} rows or fewer: raise the rows of the joint fusions")
        place = {name: i for i, name in enumerate(splits[split].ids)}
        if unknown := [name for name in first.ids if name not in place]:
            raise DataError(f"row {unknown[0]!r} of the Evidence is not among the packed rows of {split}: encode again")
        packed = splits[split].take(place[name] for name in first.ids)
        posts[split] = JointRows(
            values={name: packed.values(name) for name in parts},
            present={name: e.present for name, e in some[split].items()},
            labels=first.labels,
            keep=True,
        )
    return JointMaterial(taken, some, posts)


def fit_joint_trials(
    encoders: Mapping[str, Encoder],
    splits: Mapping[str, Split],
    evidence: Splits,
    *,
    experts: Mapping[str, Mapping[str, int]],
    folder: Path,
    strategies: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    seed: int = 0,
    material: JointMaterial | None = None,
    progress: Progress | None = None,
) -> JointTrials:
    """Train every strategy from the experts' encoders on the same sample, its epoch chosen on val.

    Parameters
    ----------
    encoders : mapping
        Modality -> the run's expert; left as it is.
    splits, evidence, rows, seed
        As `joint_material`.
    experts : mapping
        Modality -> parameters of its expert, as `Encoder.parameters` counts them.
    folder : Path
        Where checkpoints lie meanwhile.
    strategies : sequence of str, optional
        Files in ``models/joint/``; None = all.
    options : mapping, optional
        For all strategies; only those that one knows are passed to it.
    material : JointMaterial, optional
        One drawn before; ``splits``, ``evidence`` and ``rows`` are then not looked at.
    progress : callable, optional
        Takes the strategies done and their number.

    Raises
    ------
    DataError, ModelError
        As `JointFusion.fit`.
    """
    material = material or joint_material(splits, evidence, rows=rows, seed=seed)
    names = list(strategies or plugins.names("joint"))
    trials, histories, findings = [], {}, []
    for done, name in enumerate(names, start=1):
        known = plugins.load("joint", name).Options.model_fields
        chosen = {key: value for key, value in (options or {}).items() if key in known}
        try:
            fusion, seconds = _fit(name, chosen, encoders, material, seed=seed, folder=folder)
        except ConfigError as error:
            findings.append(f"{name} is not among the fusions: {error}")
            continue
        trials.append(_trial(name, fusion, material, experts, seconds))
        histories[name] = fusion.history
        if progress:
            progress(done, len(names))
    findings += [
        f"{t.name} and {trials[0].name} are the same model here: no encoder has hidden states to learn along"
        for t in trials[1:]
        if np.array_equal(t.logits["test"], trials[0].logits["test"])
    ]
    return JointTrials(material, trials, histories, findings)


def compare_remedies(
    encoders: Mapping[str, Encoder],
    material: JointMaterial,
    *,
    experts: Mapping[str, Mapping[str, int]],
    folder: Path,
    metric: str,
    strategy: str = "last_layers",
    remedies: Mapping[str, Mapping[str, Any]] = REMEDIES,
    options: Mapping[str, Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the same joint fusion with each remedy for imbalance, and hold it against the one without any, on test.

    A remedy is there for two things: to be better with all parts, and to lose less where one is absent. Both are
    asked, and answered by the interval alone: one that does not help is told so.

    Parameters
    ----------
    material : JointMaterial
        From `joint_material`.
    metric : str
        Of `paired_gain`.
    remedies : mapping
        Name -> options added to a training without modality dropout, auxiliary losses and modulation; the first is
        the plain one.
    options : mapping, optional
        For all trainings alike.

    Returns
    -------
    dict
        ``strategy``, ``metric``, ``rows`` (split -> number), ``plain`` (name) and ``remedies``, a list with ``name``,
        ``options``, the figures of `describe`, ``history``, ``gain`` over the plain one (`paired_gain`; None at the
        plain one), ``helps`` (its interval lies above 0), ``harms`` (below), and ``absent``: modality -> the same three
        on test rows without that part.
    """
    labels = {split: labels_of(material.evidence, split) for split in JUDGED}
    groups = groups_of(material.evidence, "test")
    resampling = Resampling(metric, resamples, seed)
    plain, table, said = next(iter(remedies)), [], {}
    for done, (name, added) in enumerate(remedies.items(), start=1):
        chosen = {**NOTHING, **(options or {}), **added}
        fusion, seconds = _fit(strategy, chosen, encoders, material, seed=seed, folder=folder)
        t = _trial(name, fusion, material, experts, seconds)
        said[name] = _with_and_without(fusion, t, material.posts["test"])
        against = {
            left: None if name == plain else _judged(resampling.gain(labels["test"], said[plain][left], p, groups))
            for left, p in said[name].items()
        }
        table.append(
            {
                "name": name,
                "options": dict(added),
                **describe(t, labels, groups, resampling),
                "history": fusion.history,
                **(against[None] or _judged(None)),
                "absent": {m: against[m] for m in said[name] if m is not None},
            }
        )
        if progress:
            progress(done, len(remedies))
    return {
        "strategy": strategy,
        "metric": metric,
        "rows": {split: len(rows) for split, rows in material.rows.items()},
        "plain": plain,
        "remedies": table,
    }


def _judged(gain: dict[str, Any] | None) -> dict[str, Any]:
    """The gain, nan made None, and what its interval says."""
    if gain is None:
        return {"gain": None, "helps": None, "harms": None}
    told = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in gain.items()}
    return {"gain": told, "helps": bool(gain["low"] > 0), "harms": bool(gain["high"] < 0)}


def _with_and_without(fusion: JointFusion, t: Trial, posts: JointRows) -> dict[str | None, np.ndarray]:
    """Test probabilities ``[n, C]`` with all parts (None), and without each modality."""
    said: dict[str | None, np.ndarray] = {None: t.probabilities("test")}
    for name in posts.present:
        said[name] = softmax(fusion(posts.without(name)).double().numpy(), t.temperature)
    return said


def _fit(
    strategy: str,
    options: Mapping[str, Any],
    encoders: Mapping[str, Encoder],
    material: JointMaterial,
    *,
    seed: int,
    folder: Path,
) -> tuple[JointFusion, float]:
    """A fitted joint fusion, and the seconds it took."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = next(iter(material.evidence["train"].values())).logits.shape[1]
    posts = material.posts
    read = {name: encoders[name] for name in posts["train"].present}
    fusion: JointFusion = plugins.load("joint", strategy)(**options)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".joint.", suffix=".part") as place:
        start = perf_counter()
        fusion.fit(read, posts["train"], classes=classes, seed=seed, checkpoints=Path(place), val=posts["val"])
        return fusion, perf_counter() - start


def _trial(
    name: str,
    fusion: JointFusion,
    material: JointMaterial,
    experts: Mapping[str, Mapping[str, int]],
    seconds: float,
) -> Trial:
    """What a fitted one says of val and test; what learned in it is its own, its copies of encoders included."""
    logits = {split: fusion(material.posts[split]).double().numpy() for split in JUDGED}
    counted = fusion.parameters()
    reads = list(material.posts["train"].present)
    # Layers that a fine-tuned expert learned and the fusion learned on count once.
    trained = min(counted["total"], counted["trained"] + sum(experts[m]["trained"] for m in reads))
    parameters = {"total": counted["total"], "trained": trained, "own": counted["trained"]}
    labels = labels_of(material.evidence, "val")
    return trial(name, "joint", reads, logits, labels, parameters=parameters, seconds=seconds)
