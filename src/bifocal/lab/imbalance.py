"""Modalities weakened in training: starved, drowned in noise or truncated, what F makes of it, and what helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from ..config import FusionConfig, ImbalanceRule
from ..decide.calibration import softmax
from ..diagnose.ablation import ROWS, noisy
from ..diagnose.imbalance import (
    DEVIATIONS,
    KEPT,
    Fit,
    Imbalance,
    Levels,
    Rivalry,
    corrupted,
    measure_imbalance,
    with_fewer_rows,
)
from ..diagnose.scored_rows import Score
from ..evaluate.intervals import OptionalFigure
from ..example import Evidence
from ..fit.fusion import fit_fusion
from ..models.evidence_fusion import LearnedFusion
from .compare import PipelineComparison
from .corruption import PackedInputs, Progress, Truncation, truncated_levels, values_of
from .stability import as_fitted
from .trials import HEAD, Study, Trial, best, for_strategy, options_of
from .usable_rows import Splits, groups_of, labels_of
from .verdict import interval_of

if TYPE_CHECKING:
    from ..contracts import Fusion

DROPOUTS = (0.0, 0.15, 0.3)
"""Chances that a part is left out of a training row; the first is what the others are compared with."""
TRUNCATING = ("truncation",)
"""Corruptions that shorten a sequence."""
VAL_SHARE = 4
"""One val row is truncated for so many of train."""


class Weakened(Imbalance):
    """What became of F, and the name of the model ``beside`` it."""

    beside: str


class Truncated(Weakened):
    """The same where sequences were truncated, by this kind of corruption."""

    kind: str


class WeakenedModalities(TypedDict):
    """Modality -> what became of F; None where train or val has no such part, or no other one."""

    starved: dict[str, Weakened | None]
    corrupted: dict[str, Weakened | None]


def weaken(
    comparison: PipelineComparison,
    rule: ImbalanceRule,
    *,
    kept: Sequence[float] = KEPT,
    deviations: Sequence[float] = DEVIATIONS,
    progress: Progress | None = None,
) -> WeakenedModalities:
    """Refit F on each modality starved, and in noise, at the grid point and with the seeds that it was chosen with.

    Val is weakened as train is: a fusion would be chosen on the data there are. The reference is F itself. Beside F
    stands the best model on val of those that do not read what is weakened.

    Parameters
    ----------
    kept, deviations : sequence of float
        Levels, as `with_fewer_rows` and `corrupted` take them.
    """
    evidence = comparison.study.evidence
    train, val, seed = evidence["train"], evidence["val"], comparison.study.resampling.seed
    found: WeakenedModalities = {"starved": dict.fromkeys(train), "corrupted": dict.fromkeys(train)}
    weak = _weakenable(evidence)
    fit = _Refit(comparison, progress, len(weak) * (len(kept) + len(deviations) - 2))
    for name in weak if len(weak) > 1 else ():
        noise = corrupted(train, name, deviations, seed=seed)
        part = val[name]
        noisy_val = {d: {**val, name: noisy(part, train[name], d, seed=seed) if d else part} for d in noise}
        rival = _rival(comparison, name, [m for m in weak if m != name], rule)
        starving = with_fewer_rows(train, name, kept, seed=seed), with_fewer_rows(val, name, kept, seed=seed)
        found["starved"][name] = _measured(comparison, fit, *starving, rival)
        found["corrupted"][name] = _measured(comparison, fit, noise, noisy_val, rival)
    return found


def _measured(
    comparison: PipelineComparison, fit: _Refit, train: Levels, val: Levels, rival: tuple[Rivalry, str, list[str]]
) -> Weakened:
    rivalry, beside, findings = rival
    study = comparison.study
    fitted = fit.with_val(val, comparison.fusion)
    measured = measure_imbalance(fitted, train, study.evidence["test"], rivalry, study.resampling)
    measured["findings"] += findings
    return {"beside": beside, **measured}


def pinned(fused: Trial, config: FusionConfig) -> FusionConfig:
    """F's strategy with the one grid point that val chose for F; as configured where it has no grid."""
    settings, fusion = for_strategy(config, fused.name), fused.fusion
    if not isinstance(fusion, LearnedFusion) or fusion.trained is None:
        return settings
    rate, decay = fusion.trained.grid_point
    point = {"learning_rates": [rate], "weight_decays": [decay], "widths": [fusion.width]}
    return settings.model_copy(update={"options": {**settings.options, **point}})


class _Refit:
    """Fits F's strategy again and again, and tells how far it is."""

    def __init__(self, comparison: PipelineComparison, progress: Progress | None, total: int):
        self.config, self.seed = pinned(comparison.fused, comparison.study.config), comparison.study.resampling.seed
        self.progress, self.done, self.total = progress, 0, total

    def with_val(self, val_levels: Levels, reference: Score | None = None) -> Fit:
        """What `measure_imbalance` calls to fit: each level of train with the same level of val.

        ``reference`` stands for the first level, where it is fitted already.
        """
        first = next(iter(val_levels))

        def fit(level: float, train: Mapping[str, Evidence]) -> Score:
            if level == first and reference is not None:
                return reference
            return self(train, val_levels[level])

        return fit

    def __call__(
        self, train: Mapping[str, Evidence], val: Mapping[str, Evidence], options: Mapping[str, float] | None = None
    ) -> Fusion:
        config = self.config.model_copy(update={"options": {**self.config.options, **(options or {})}})
        fusion = fit_fusion(config, train, val=val, seed=self.seed)
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)
        return fusion


def _weakenable(evidence: Splits) -> list[str]:
    """The modalities that train and val have."""
    return [name for name in evidence["train"] if all(_there(evidence[split], name) for split in ("train", "val"))]


def _there(parts: Mapping[str, Evidence], name: str) -> bool:
    return bool(parts[name].present.any())


def _stronger(comparison: PipelineComparison, others: Sequence[str]) -> str:
    """The modality of the best model on val of those alone."""
    study = comparison.study
    trials = {name: comparison.alone[name] for name in others}
    chosen = best(list(trials.values()), labels_of(study.evidence, "val"), study.resampling.metric)
    return next(name for name, trial in trials.items() if trial is chosen)


def _rival(
    comparison: PipelineComparison, weakened: str, others: Sequence[str], rule: ImbalanceRule
) -> tuple[Rivalry, str, list[str]]:
    """The model beside F, its name, and what is to be said of it."""
    stronger = _stronger(comparison, others)
    trial = comparison.alone[stronger]
    fusion = trial.fusion
    if fusion is not None:
        return Rivalry(weakened, stronger, lambda parts: fusion(as_fitted(trial, parts)), rule=rule), trial.name, []
    if trial.kind == "expert":
        return Rivalry(weakened, stronger, rule=rule), trial.name, []
    said = f"{trial.name} reads inputs and cannot be asked about disturbed features: beside F stands the run's expert"
    return Rivalry(weakened, stronger, rule=rule), f"{stronger}: the run's expert", [said]


# ------------------------------------------------------------------ a remedy


class Remedy(TypedDict):
    """Modality dropout where one modality was starved, against none of it."""

    remedy: str
    weakened: str
    level: float
    condition: str
    """``all parts``, or ``<other> absent``."""
    gain: OptionalFigure
    helps: bool
    """The lower end of the gain is above 0."""


def compare_dropout(
    comparison: PipelineComparison, *, kept: float = KEPT[-1], rates: Sequence[float] = DROPOUTS
) -> list[Remedy]:
    """Does leaving parts out of training rows help F where one modality was starved? Against none left out.

    On test, once with all parts and once without each of the other modalities: there the starved one must do alone.
    Empty where F's strategy knows no modality dropout.

    Parameters
    ----------
    kept : float
        Share of the training rows that keep the starved part.
    rates : sequence of float
        Of modality dropout; the first is what the others are compared with.
    """
    if "modality_dropout" not in options_of(comparison.fused.name):
        return []
    evidence, resampling = comparison.study.evidence, comparison.study.resampling
    labels, groups = labels_of(evidence, "test"), groups_of(evidence, "test")
    fit, rows = _Refit(comparison, None, 0), []
    for name in _weakenable(evidence):
        train, val = (
            with_fewer_rows(evidence[s], name, (1.0, kept), seed=resampling.seed)[kept] for s in ("train", "val")
        )
        fusions = [fit(train, val, {"modality_dropout": rate}) for rate in rates]
        for condition, parts in _conditions(evidence["test"], name):
            plain, *remedied = (softmax(fusion(parts).double().numpy()) for fusion in fusions)
            for rate, dropped in zip(rates[1:], remedied, strict=True):
                gain = interval_of(resampling.gain(labels, plain, dropped, groups))
                row: Remedy = {
                    "remedy": f"modality dropout {rate:g}",
                    "weakened": name,
                    "level": kept,
                    "condition": condition,
                    "gain": gain.or_none(),
                    "helps": gain.low > 0,
                }
                rows.append(row)
    return rows


def _conditions(test: Mapping[str, Evidence], weakened: str) -> Iterator[tuple[str, dict[str, Evidence]]]:
    yield "all parts", dict(test)
    for other in test:
        if other != weakened:
            yield f"{other} absent", {**test, other: test[other].without()}


# ------------------------------------------------------------------ truncated sequences


def truncate(
    comparison: PipelineComparison, inputs: PackedInputs, rule: ImbalanceRule, *, rows: int = ROWS
) -> dict[str, Truncated]:
    """Refit F on training sequences cut shorter and shorter, val cut likewise; test is whole.

    Both F and the model beside it, an MLP head on the stronger modality, learn from the same drawn rows, so that what
    F loses is not the loss of rows. A modality is weakened by the first corruption of `TRUNCATING` that it knows.

    Parameters
    ----------
    rows : int
        Of train at most, and a `VAL_SHARE`-th of it of val; encoders run again once per level.

    Returns
    -------
    dict
        Modality -> what became of F; without those that no kind applies to.
    """
    study = comparison.study
    found: dict[str, Truncated] = {}
    evidence, config, seed = study.evidence, study.config, study.resampling.seed
    for name in _weakenable(evidence):
        kind = next((kind for kind in TRUNCATING if kind in inputs.modalities[name].corruptions), None)
        if kind is None:
            continue
        train = _truncated(study, inputs, name, "train", Truncation(kind, rows=rows, folds=config.folds, seed=seed))
        few = Truncation(kind, rows=max(1, rows // VAL_SHARE), folds=config.folds, seed=seed)
        val = _truncated(study, inputs, name, "val", few)
        stronger = _stronger(comparison, [m for m in comparison.alone if m != name])
        whole_train, whole_val = ({stronger: levels[0.0][stronger]} for levels in (train, val))
        head = fit_fusion(for_strategy(config, HEAD), whole_train, val=whole_val, seed=seed)
        rivalry = Rivalry(name, stronger, _alone(head, stronger), rule=rule)
        fit = _Refit(comparison, None, 0).with_val(val)
        measured = measure_imbalance(fit, train, evidence["test"], rivalry, study.resampling)
        found[name] = {"kind": kind, "beside": f"{stronger}: MLP head", **measured}
    return found


def _truncated(
    study: Study, inputs: PackedInputs, name: str, split: str, truncation: Truncation
) -> dict[float, dict[str, Evidence]]:
    """Levels of one modality, with the same rows of the others."""
    parts = study.evidence[split]
    values = values_of(inputs.splits[split], name, parts[name])
    weak = truncated_levels(inputs.encoders[name], inputs.modalities[name], values, parts[name], truncation)
    places = {row: place for place, row in enumerate(parts[name].ids)}
    rows = [places[row] for row in next(iter(weak.values())).ids]
    others = {other: e.take(rows) for other, e in parts.items()}
    return {level: {**others, name: e} for level, e in weak.items()}


def _alone(head: Fusion, name: str) -> Score:
    return lambda parts: head({name: parts[name]})
