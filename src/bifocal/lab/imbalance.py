"""Modalities weakened in training: starved, drowned in noise or truncated, what F makes of it, and what helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plugins
from ..config import FusionConfig, ImbalanceRule
from ..decide.calibration import softmax
from ..diagnose.ablation import ROWS, Head, noisy
from ..diagnose.imbalance import DEVIATIONS, KEPT, Fit, Levels, corrupted, measure_imbalance, with_fewer_rows
from ..diagnose.scored_rows import Score
from ..evaluate.compare import Resampling
from ..example import Evidence
from ..fit.fusion import fit_fusion
from .corruption import STEPS, Progress, truncated_levels, values_of
from .stability import as_fitted
from .trials import HEAD, Trial, best, for_strategy
from .usable_rows import Splits, groups_of, labels_of

if TYPE_CHECKING:
    from ..contracts import Encoder, Fusion, Modality
    from ..data.shards import Split

DROPOUTS = (0.0, 0.15, 0.3)
"""Chances that a part is left out of a training row; the first is what the others are compared with."""
TRUNCATING = ("truncation",)
"""Corruptions that shorten a sequence."""
VAL_SHARE = 4
"""One val row is truncated for so many of train."""


def weaken(
    fused: Trial,
    alone: Mapping[str, Trial],
    evidence: Splits,
    config: FusionConfig,
    *,
    rule: ImbalanceRule,
    resampling: Resampling,
    kept: Sequence[float] = KEPT,
    deviations: Sequence[float] = DEVIATIONS,
    heads: Mapping[str, Head] | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Refit F on each modality starved, and in noise, at the grid point and with the seeds that it was chosen with.

    Val is weakened as train is: a fusion would be chosen on the data there are. The reference is F itself.

    Parameters
    ----------
    fused : Trial
        F, named after its strategy.
    alone : mapping
        Modality -> its best model. Beside F stands the best on val of those that do not read what is weakened.
    config : FusionConfig
        As F was fitted, with the seed of ``resampling``.
    kept, deviations : sequence of float
        Levels, as `with_fewer_rows` and `corrupted` take them.
    heads : mapping, optional
        Modality -> features to its expert's logits; see `noisy`.

    Returns
    -------
    dict
        ``starved``, ``corrupted``: modality -> what `measure_imbalance` gives, with ``beside``, the name of the model
        that F is compared with; None where train or val has no such part, or no other one.
    """
    train, val, seed = evidence["train"], evidence["val"], resampling.seed
    found: dict[str, dict[str, dict[str, Any] | None]] = {w: dict.fromkeys(train) for w in ("starved", "corrupted")}
    weak = [name for name in train if _there(train, name) and _there(val, name)]
    fit = _Refit(fused, config, seed, progress, len(weak) * (len(kept) + len(deviations) - 2))
    heads = heads or {}
    for name in weak if len(weak) > 1 else ():
        noise = corrupted(train, name, deviations, head=heads.get(name), seed=seed)
        part = val[name]
        heard = {
            d: {**val, name: noisy(part, train[name], d, seed=seed, head=heads.get(name)) if d else part} for d in noise
        }
        levels = {
            "starved": (with_fewer_rows(train, name, kept, seed=seed), with_fewer_rows(val, name, kept, seed=seed)),
            "corrupted": (noise, heard),
        }
        stronger = _stronger(name, {m: alone[m] for m in weak}, evidence, resampling.metric)
        score, beside, findings = _beside(alone[stronger], stronger)
        for way, (train_levels, val_levels) in levels.items():
            measured = measure_imbalance(
                fit.with_val(val_levels, fused.fusion),
                train_levels,
                evidence["test"],
                weakened=name,
                stronger=stronger,
                expert=score,
                head=heads.get(stronger),
                rule=rule,
                metric=resampling.metric,
                resamples=resampling.resamples,
                seed=seed,
            )
            measured["findings"] += findings
            found[way][name] = {"beside": beside, **measured}
    return found


def pinned(fused: Trial, config: FusionConfig) -> FusionConfig:
    """F's strategy with the one grid point that val chose for F; as configured where it has no grid."""
    settings = for_strategy(config, fused.name)
    fusion: Any = fused.fusion
    if (trained := getattr(fusion, "trained", None)) is None:
        return settings
    rate, decay = trained.grid_point
    point = {"learning_rates": [rate], "weight_decays": [decay], "widths": [fusion.width]}
    return settings.model_copy(update={"options": {**settings.options, **point}})


class _Refit:
    """Fits F's strategy again and again, and tells how far it is."""

    def __init__(self, fused: Trial, config: FusionConfig, seed: int, progress: Progress | None, total: int):
        self.config, self.seed, self.progress = pinned(fused, config), seed, progress
        self.done, self.total = 0, total

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

    def __call__(self, train: Mapping[str, Evidence], val: Mapping[str, Evidence], **options: Any) -> Fusion:
        config = self.config.model_copy(update={"options": {**self.config.options, **options}})
        fusion = fit_fusion(config, train, val=val, seed=self.seed)
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)
        return fusion


def _there(parts: Mapping[str, Evidence], name: str) -> bool:
    return bool(parts[name].present.any())


def _stronger(weakened: str, alone: Mapping[str, Trial], evidence: Splits, metric: str) -> str:
    """The modality of the best model on val that does not read what is weakened."""
    others = {name: trial for name, trial in alone.items() if name != weakened}
    chosen = best(list(others.values()), labels_of(evidence, "val"), metric)
    return next(name for name, trial in others.items() if trial is chosen)


def _beside(trial: Trial, stronger: str) -> tuple[Score | None, str, list[str]]:
    """The score that stands beside F (None = the expert's logits), its name, and what is to be said of it."""
    fusion = trial.fusion
    if fusion is not None:
        return (lambda parts: fusion(as_fitted(trial, parts))), trial.name, []
    if trial.kind == "expert":
        return None, trial.name, []
    said = f"{trial.name} reads inputs and cannot be asked about disturbed features: beside F stands the run's expert"
    return None, f"{stronger}: the run's expert", [said]


# ------------------------------------------------------------------ a remedy


def compare_dropout(
    fused: Trial,
    evidence: Splits,
    config: FusionConfig,
    resampling: Resampling,
    *,
    kept: float = KEPT[-1],
    rates: Sequence[float] = DROPOUTS,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Does leaving parts out of training rows help F where one modality was starved? Against none left out.

    On test, once with all parts and once without each of the other modalities: there the starved one must do alone.

    Parameters
    ----------
    fused, evidence, config, resampling : as `weaken`
    kept : float
        Share of the training rows that keep the starved part.
    rates : sequence of float
        Of modality dropout; the first is what the others are compared with.

    Returns
    -------
    list of dict
        ``remedy``, ``weakened``, ``level``, ``condition`` (``all parts``, ``<other> absent``), ``gain`` (``value``,
        ``low``, ``high`` of `paired_gain`) and ``helps``: its lower end is above 0. Empty where F's strategy knows no
        modality dropout.
    """
    known = getattr(plugins.load("fusions", fused.name), "Options", None)
    if known is None or "modality_dropout" not in known.model_fields:
        return []
    train, val, test = (evidence[split] for split in ("train", "val", "test"))
    seed = resampling.seed
    weak = [name for name in train if _there(train, name) and _there(val, name)]
    fit = _Refit(fused, config, seed, progress, len(weak) * len(rates))
    rows = []
    for name in weak:
        weak_train, weak_val = (with_fewer_rows(parts, name, (1.0, kept), seed=seed)[kept] for parts in (train, val))
        fusions = [fit(weak_train, weak_val, modality_dropout=rate) for rate in rates]
        for condition, parts in _conditions(test, name):
            plain, *remedied = (softmax(fusion(parts).double().numpy()) for fusion in fusions)
            for rate, said in zip(rates[1:], remedied, strict=True):
                gain = resampling.gain(labels_of(evidence, "test"), plain, said, groups_of(evidence, "test"))
                ends = {key: None if np.isnan(gain[key]) else float(gain[key]) for key in ("value", "low", "high")}
                rows.append(
                    {
                        "remedy": f"modality dropout {rate:g}",
                        "weakened": name,
                        "level": kept,
                        "condition": condition,
                        "gain": ends,
                        "helps": ends["low"] is not None and ends["low"] > 0,
                    }
                )
    return rows


def _conditions(test: Mapping[str, Evidence], weakened: str) -> Iterator[tuple[str, dict[str, Evidence]]]:
    yield "all parts", dict(test)
    for other in test:
        if other != weakened:
            yield f"{other} absent", {**test, other: test[other].without()}


# ------------------------------------------------------------------ truncated sequences


def truncate(
    fused: Trial,
    alone: Mapping[str, Trial],
    evidence: Splits,
    config: FusionConfig,
    encoders: Mapping[str, Encoder],
    modalities: Mapping[str, Modality],
    splits: Mapping[str, Split],
    *,
    rule: ImbalanceRule,
    resampling: Resampling,
    kinds: Sequence[str] = TRUNCATING,
    severities: Sequence[int] = STEPS,
    rows: int = ROWS,
) -> dict[str, dict[str, Any]]:
    """Refit F on training sequences cut shorter and shorter, val cut likewise; test is whole.

    Both F and the model beside it, an MLP head on the stronger modality, learn from the same drawn rows, so that what
    F loses is not the loss of rows.

    Parameters
    ----------
    fused, alone, evidence, config, resampling : as `weaken`
    encoders, modalities : mapping
        By modality.
    splits : mapping
        Packed train and val, as they were encoded.
    kinds : sequence of str
        Corruptions that truncate: a modality is weakened by the first of them that it knows.
    rows : int
        Of train at most, and a `VAL_SHARE`-th of it of val; encoders run again once per level.

    Returns
    -------
    dict
        Modality -> what `measure_imbalance` gives, with ``kind`` and ``beside``; without those that no kind applies to.
    """
    found, seed = {}, resampling.seed
    fit = _Refit(fused, config, seed, None, 0)
    for name, modality in modalities.items():
        known = [kind for kind in kinds if kind in modality.corruptions]
        if not known or not _there(evidence["train"], name) or not _there(evidence["val"], name):
            continue
        levels = {}
        for split, most in (("train", rows), ("val", max(1, rows // VAL_SHARE))):
            part = evidence[split][name]
            weak = truncated_levels(
                encoders[name],
                modality,
                values_of(splits[split], name, part),
                part,
                kind=known[0],
                severities=severities,
                rows=most,
                folds=config.folds,
                seed=seed,
            )
            levels[split] = _beside_others(weak, evidence[split], name)
        stronger = _stronger(name, alone, evidence, resampling.metric)
        whole_train, whole_val = ({stronger: levels[split][0.0][stronger]} for split in ("train", "val"))
        head = fit_fusion(for_strategy(config, HEAD), whole_train, val=whole_val, seed=seed)
        measured = measure_imbalance(
            fit.with_val(levels["val"]),
            levels["train"],
            evidence["test"],
            weakened=name,
            stronger=stronger,
            expert=_alone(head, stronger),
            rule=rule,
            metric=resampling.metric,
            resamples=resampling.resamples,
            seed=seed,
        )
        found[name] = {"kind": known[0], "beside": f"{stronger}: MLP head", **measured}
    return found


def _alone(head: Fusion, name: str) -> Score:
    return lambda parts: head({name: parts[name]})


def _beside_others(
    weak: Mapping[float, Evidence], parts: Mapping[str, Evidence], name: str
) -> dict[float, dict[str, Evidence]]:
    """Levels of one modality with the same rows of the others."""
    places = {row: place for place, row in enumerate(parts[name].ids)}
    rows = [places[row] for row in next(iter(weak.values())).ids]
    others = {other: e.take(rows) for other, e in parts.items()}
    return {level: {**others, name: e} for level, e in weak.items()}
