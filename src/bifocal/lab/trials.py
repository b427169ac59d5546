"""A model put to the test: fitted on Evidence of train, heard on val and test, and what it cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import numpy as np

from .. import plugins
from ..config import FusionConfig
from ..contracts import EncoderTuner, HasOptions, SeedEnsemble
from ..decide.calibration import fit_temperature, softmax
from ..evaluate.compare import Resampling
from ..evaluate.intervals import Figure, measure
from ..evaluate.metrics import METRICS
from ..fit.fusion import fit_fusion, fusion_parameters, with_tokens
from ..fit.token_cache import AT_ONCE
from ..models.composite_fusion import CompositeFusion
from .usable_rows import JUDGED, Splits, labels_of, log_prior
from .verdict import MARGIN

if TYPE_CHECKING:
    from ..contracts import Encoder, Fusion
    from ..example import Evidence

Kind = Literal["expert", "head", "encoder", "fusion", "control", "joint"]
HEAD = "concat"
"""Over one modality this strategy is an MLP head: the baseline with the fusions' own grid, width and budget."""


@dataclass(frozen=True, slots=True)
class ExpertFacts:
    """What is known of a run's expert: its name, its ``total`` and ``trained`` parameters, the seconds it took."""

    name: str
    parameters: Mapping[str, int]
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """What all models of an experiment share.

    Attributes
    ----------
    evidence : Splits
        ``train``, ``val`` and ``test``: annotated rows, those of train unseen by the experts (`usable`).
    config : FusionConfig
        Seeds and options for all strategies, each of which takes those that it knows, and reads its default.
    experts : mapping
        By modality.
    resampling : Resampling
        The metric that models are chosen and compared by, and the seed of everything.
    margin : float
        Of the metric: what a gain must reach to be worth it.
    """

    evidence: Splits
    config: FusionConfig
    experts: Mapping[str, ExpertFacts]
    resampling: Resampling
    margin: float = MARGIN


@dataclass(frozen=True, slots=True)
class Trial:
    """One model, and what it says of the rows it is judged by.

    Attributes
    ----------
    name : str
    kind : str
        ``expert`` (the run's own), ``head`` (MLP on its features), ``encoder`` (another one that reads the modality),
        ``fusion``, or ``control`` (a fusion with all modalities but one blanked).
    reads : tuple of str
        The modalities.
    logits : dict of array, [n, C]
        By split; the class shares of train where a row has none of the parts.
    members : dict of array, [S, n, C]
        The same of its single seeds, by split; empty where it has none.
    parameters : dict
        ``total``: all it takes to score a post, experts included, with one seed; ``trained``: those of them that
        learned; ``own``: what the lab itself trained on top of the experts, one seed.
    seconds : float or None
        To fit it, on Evidence where it reads Evidence; None where the run had fitted it before.
    fusion : Fusion or None
        The fitted fusion, where it is one.
    """

    name: str
    kind: Kind
    reads: tuple[str, ...]
    logits: dict[str, np.ndarray]
    members: dict[str, np.ndarray]
    parameters: dict[str, int]
    seconds: float | None
    temperature: float
    fusion: Fusion | None = field(default=None, repr=False)

    def probabilities(self, split: str) -> np.ndarray:
        """``[n, C]``, calibrated by one temperature that val chose."""
        return softmax(self.logits[split], self.temperature)


def trial(
    name: str,
    kind: Kind,
    reads: Sequence[str],
    logits: dict[str, np.ndarray],
    labels: np.ndarray,
    *,
    parameters: dict[str, int],
    seconds: float | None = None,
    members: dict[str, np.ndarray] | None = None,
    fusion: Fusion | None = None,
) -> Trial:
    """A `Trial`, its temperature fitted to ``labels [n]`` of val."""
    temperature = fit_temperature(logits["val"], labels)
    return Trial(name, kind, tuple(reads), logits, members or {}, parameters, seconds, temperature, fusion)


def hear_expert(
    name: str, kind: Kind, modality: str, evidence: Splits, *, parameters: Mapping[str, int], seconds: float | None
) -> Trial:
    """What an encoder with its own head says, from its Evidence of val and test.

    Parameters
    ----------
    evidence : Splits
        Bears the encoder's own Evidence under ``modality``.
    parameters : mapping
        ``total`` and ``trained``, as `Encoder.parameters` counts them.
    """
    prior = log_prior(evidence)
    logits = {}
    for split in JUDGED:
        e = evidence[split][modality]
        logits[split] = np.where(e.present.numpy()[:, None], e.logits.double().numpy(), prior)
    counted = {**parameters, "own": parameters["trained"] if kind == "encoder" else 0}
    return trial(name, kind, [modality], logits, labels_of(evidence, "val"), parameters=counted, seconds=seconds)


def fit_trial(
    study: Study,
    name: str,
    kind: Kind,
    strategy: str,
    *,
    keep: str | None = None,
    encoders: Mapping[str, Encoder] | None = None,
) -> Trial:
    """Fit a strategy on train, its settings and epochs chosen on val, and hear it on val and test.

    Parameters
    ----------
    keep : str, optional
        The only modality that is not blanked, in training and ever after (the control).
    encoders : mapping, optional
        Modality -> expert, for strategies that tune encoders.

    Raises
    ------
    DataError, ConfigError
        As `bifocal.fit.fusion.fit_fusion`.
    """
    evidence, seed = study.evidence, study.resampling.seed
    if keep:
        evidence = {
            split: {m: e if m == keep else e.without() for m, e in parts.items()} for split, parts in evidence.items()
        }
    config, start = for_strategy(study.config, strategy), perf_counter()
    fusion = fit_fusion(config, evidence["train"], val=evidence["val"], seed=seed, encoders=encoders)
    seconds = perf_counter() - start
    reads = list(evidence["train"])
    logits = {split: heard(fusion, evidence[split])[None] for split in JUDGED}
    members = {}
    if isinstance(fusion, SeedEnsemble):
        members = {split: fusion.member_logits(evidence[split]).double().numpy() for split in JUDGED}
    return trial(
        name,
        kind,
        [keep] if keep else reads,
        logits,
        labels_of(evidence, "val"),
        parameters=_parameters(fusion, [study.experts[m] for m in reads], len(members["val"]) if members else 1),
        seconds=seconds,
        members=members,
        fusion=fusion,
    )


def _parameters(fusion: Fusion, experts: Sequence[ExpertFacts], seeds: int) -> dict[str, int]:
    """Those of a `Trial`, of which the fusion has ``seeds`` times its own."""
    own, below = fusion_parameters(fusion), [expert.parameters for expert in experts]
    trained = own["trained"] // seeds
    return {
        "total": sum(p["total"] for p in below) + own["total"] - own["trained"] + trained,
        "trained": sum(p["trained"] for p in below) + trained,
        "own": trained,
    }


def heard(
    fusion: Fusion, evidence: Mapping[str, Evidence], without: Sequence[str | None] = (None,)
) -> dict[str | None, np.ndarray]:
    """Logits ``[n, C]`` with each of these modalities left out, None = with all; encoders of its own run once."""
    n = len(next(iter(evidence.values())))
    size = AT_ONCE if isinstance(fusion, EncoderTuner) else n
    found: dict[str | None, list[np.ndarray]] = {left: [] for left in without}
    for start in range(0, n, size):
        some = with_tokens(fusion, {m: e.take(range(start, min(start + size, n))) for m, e in evidence.items()})
        for left, pieces in found.items():
            parts = {m: e.without() if m == left else e for m, e in some.items()}
            pieces.append(fusion(parts).double().numpy())
    return {left: np.concatenate(pieces) for left, pieces in found.items()}


def fit_head_trial(study: Study, modality: str) -> Trial:
    """An MLP head on one modality's features, with the grid, seeds and width of the fusions."""
    alone = {split: {modality: parts[modality]} for split, parts in study.evidence.items()}
    return fit_trial(replace(study, evidence=alone), f"{modality}: MLP head", "head", HEAD)


def reads_evidence(strategy: str) -> bool:
    """Whether a fusion reads features or logits, so that no encoder runs for it, and is not made of others."""
    found = plugins.load("fusions", strategy)
    return found.reads != "tokens" and not issubclass(found, CompositeFusion)


def for_strategy(config: FusionConfig, strategy: str) -> FusionConfig:
    """The configured fusion with another strategy: seeds and those options that this one knows too."""
    known = options_of(strategy)
    options = {name: value for name, value in config.options.items() if name in known}
    return config.model_copy(update={"strategy": strategy, "options": options, "read": {}})


def options_of(strategy: str) -> Collection[str]:
    """The options that a fusion declares."""
    plugin = plugins.load("fusions", strategy)
    return plugin.Options.model_fields if isinstance(plugin, HasOptions) else ()


def score(trial: Trial, split: str, labels: np.ndarray, metric: str) -> float:
    """A metric of `bifocal.evaluate.metrics.METRICS`, of calibrated probabilities."""
    return METRICS[metric](labels, trial.probabilities(split), None)


def best(trials: Sequence[Trial], labels: np.ndarray, metric: str) -> Trial:
    """The best on val (``labels [n]``), of several that tie the one with the fewest parameters to train."""
    return max(trials, key=lambda t: (round(score(t, "val", labels, metric), 6), -t.parameters["trained"]))


def smallest_tie(
    f: Trial,
    fusions: Sequence[Trial],
    labels: np.ndarray,
    groups: Sequence[str],
    resampling: Resampling,
    margin: float = MARGIN,
) -> Trial:
    """The fusion with the fewest parameters of its own that does as well as F on val, by the margin of the verdict.

    It ties where the upper end of the interval of F's lead is below the margin; F itself always does.
    """
    for t in sorted(fusions, key=lambda t: (t.parameters["own"], t is not f)):
        lead = resampling.gain(labels, t.probabilities("val"), f.probabilities("val"), groups)
        if t is f or lead["high"] < margin:
            return t
    return f


class Spread(TypedDict):
    """A metric over seeds."""

    mean: float
    std: float


class Seeds(TypedDict):
    """How many seeds a model has, and by split the spread of the metric where there are several."""

    n: int
    val: NotRequired[Spread]
    test: NotRequired[Spread]


def _spread(members: np.ndarray, labels: np.ndarray, metric: str) -> Spread:
    values = [METRICS[metric](labels, softmax(z), None) for z in members]
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}


class TrialRow(TypedDict):
    """A `Trial` in a table: figures on val, figures with intervals on test, cost, and the spread over seeds."""

    model: str
    kind: Kind
    reads: list[str]
    parameters: dict[str, int]
    seconds: float | None
    temperature: float
    seeds: Seeds
    val: dict[str, float]
    test: dict[str, Figure]


class Price(TypedDict):
    """What F costs beyond the model of its least gain: parameters in all, seconds to fit, both per point (0.01) of it.

    A part is None where it is not known (the seconds of an expert lie in its run), or where there is no gain.
    """

    parameters: int
    seconds: float | None
    per_point: dict[str, float | None]


def describe(t: Trial, labels: Mapping[str, np.ndarray], groups: Sequence[str], resampling: Resampling) -> TrialRow:
    """One line of a table."""
    seeds: Seeds = {"n": max(1, len(t.members.get("val", ())))}
    if seeds["n"] > 1:
        seeds["val"], seeds["test"] = (_spread(t.members[s], labels[s], resampling.metric) for s in JUDGED)
    return {
        "model": t.name,
        "kind": t.kind,
        "reads": list(t.reads),
        "parameters": t.parameters,
        "seconds": t.seconds,
        "temperature": t.temperature,
        "seeds": seeds,
        "val": {name: score(t, "val", labels["val"], name) for name in METRICS},
        "test": measure(
            labels["test"], t.probabilities("test"), groups, resamples=resampling.resamples, seed=resampling.seed
        )["metrics"],
    }


def price(f: Trial, b: Trial, gain: float) -> Price:
    """What F costs beyond B, of which its gain is the least."""
    parameters = f.parameters["total"] - b.parameters["total"]
    seconds = None if f.seconds is None or b.seconds is None else f.seconds - b.seconds
    points = gain * 100
    added = {"parameters": parameters, "seconds": seconds}
    per = {k: v / points if v is not None and points > 0 else None for k, v in added.items()}
    return {"parameters": parameters, "seconds": seconds, "per_point": per}
