"""How steadily models train: loss curves, divergences, spread over seeds, the gap to test, growth with the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch

from .. import plugins
from ..decide.calibration import softmax
from ..evaluate.metrics import METRICS
from ..example import Evidence
from ..fit.fusion import fusion_parameters
from ..models.evidence_fusion import LearnedFusion
from .trials import Trial, score
from .usable_rows import JUDGED, Splits, labels_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..contracts import Fusion

RISE = 0.05
"""Nats by which the loss of the last epoch may exceed that of the first: the flutter of a model that finds nothing."""
GUESSES = 2.0
"""Times the loss of guessing, log C: a model that ends above it has lost its way, wherever it began."""
COLUMNS = (64, 128, 256, 512, 1024, 2048)
LINEAR = (0.9, 1.1)
"""Exponents of a growth that is called linear."""
ROWS = 16
"""Generated rows of each class that a strategy is fitted on where only its fit tells how much it learns."""


class GridPoint(TypedDict):
    """The grid point that val chose."""

    learning_rate: float
    weight_decay: float
    width: int


class Training(TypedDict):
    """How a model trained; all None where it does not tell, as one without gradients."""

    grid_point: GridPoint | None
    epochs_to_best: list[int] | None
    """The epoch kept of each seed."""
    diverged: int | None
    """Of ``models``: their loss was not finite, ended `RISE` above that of the first epoch, or above `GUESSES` times
    that of guessing."""
    models: int | None
    """Seeds x grid points of the chosen width."""
    curves: dict[str, list[float | None]] | None
    """``train_loss``, ``val_loss``, ``gradient_norm`` by epoch at the grid point, means over the seeds that still ran
    (None where none did)."""


class Gap(TypedDict):
    """The averaged model on ``train``, on ``test``, and the difference; None where it is not known."""

    train: float | None
    test: float | None
    gap: float | None


class Steadiness(Training):
    """How steadily a model trains; ``spread``: standard deviation over seeds, by split."""

    kind: str
    spread: dict[str, float | None]
    gap: Gap
    parameters: int
    """Its own, of one seed."""
    test: float | None


class Typical(TypedDict):
    """Of ``n`` models the medians of spread on test, gap and epochs to best (None where none tells), and sums."""

    n: int
    spread: float | None
    gap: float | None
    epochs_to_best: float | None
    diverged: int
    models: int


class Growth(TypedDict):
    """Parameters, one for each number of columns, the exponent between them, and a word for it.

    ``constant``, ``less than linear``, ``linear`` (exponents within `LINEAR`), ``explosive``.
    """

    columns: list[int]
    parameters: list[int]
    exponent: float
    word: str


def steadiness(trial: Trial, evidence: Splits, *, metric: str) -> Steadiness:
    """How the training of a model went, and how much of what it shows depends on its seeds and training rows.

    Parameters
    ----------
    trial : Trial
        Its fusion was fitted just now; a restored one does not know how it was trained.
    evidence : Splits
        ``train`` and ``test``, as it was fitted on.
    metric : str
        One of `evaluate.metrics.METRICS`.
    """
    test = _number(score(trial, "test", labels_of(evidence, "test"), metric))
    return {
        "kind": trial.kind,
        **_training(trial),
        "spread": {split: _spread(trial, split, labels_of(evidence, split), metric) for split in JUDGED},
        "gap": _gap(trial, evidence, metric, test),
        "parameters": trial.parameters["own"],
        "test": test,
    }


def _training(trial: Trial) -> Training:
    fusion = trial.fusion
    if not isinstance(fusion, LearnedFusion) or fusion.trained is None:
        return {"grid_point": None, "epochs_to_best": None, "diverged": None, "models": None, "curves": None}
    trained = fusion.trained
    rate, decay = trained.grid_point
    lost = _diverged(trained.history, classes=trial.logits["test"].shape[1], patience=fusion.options.patience)
    return {
        "grid_point": {"learning_rate": rate, "weight_decay": decay, "width": fusion.width},
        "epochs_to_best": list(trained.epochs),
        "diverged": int(lost.sum()),
        "models": lost.numel(),
        "curves": {name: _curve(figures[:, trained.chosen]) for name, figures in trained.history.items()},
    }


def _diverged(history: Mapping[str, Tensor], *, classes: int, patience: int) -> Tensor:
    """``[G, S]`` bool of a history ``[epochs, G, S]``, in which nan may mean stopped, without val, or not a number."""
    losses, val = history["train_loss"], history["val_loss"]
    ran = losses.isfinite().sum(dim=0)
    epochs, best = len(losses), torch.where(val.isfinite(), val, torch.inf).argmin(dim=0) + 1
    best = torch.where(val.isfinite().any(dim=0), best, 0)
    # Without val every model runs to the end; with it, for so many epochs after its best.
    due = (best + patience).clamp(max=epochs) if val.isfinite().any() else torch.full_like(ran, epochs)
    # At the last epoch that has a number; where there is none, the model is lost anyway.
    last = losses.gather(0, (ran - 1).clamp(min=0).unsqueeze(0))[0]
    return (ran < due) | (last > losses[0] + RISE) | (last > GUESSES * math.log(classes))


def _curve(figures: Tensor) -> list[float | None]:
    """The mean over seeds ``[epochs, S]`` of those with a number."""
    means = torch.where(figures.isfinite(), figures.double(), torch.nan).nanmean(dim=1)
    return [_number(mean) for mean in means.tolist()]


def _spread(trial: Trial, split: str, labels: np.ndarray, metric: str) -> float | None:
    values = [METRICS[metric](labels, softmax(z), None) for z in trial.members.get(split, ())]
    return _number(float(np.std(values, ddof=1))) if len(values) > 1 else None


def _gap(trial: Trial, evidence: Splits, metric: str, test: float | None) -> Gap:
    """Without a fusion nothing is known of train: there an expert's logits are cross-fitted, or of rows kept aside."""
    if trial.fusion is None:
        return {"train": None, "test": test, "gap": None}
    logits = trial.fusion(as_fitted(trial, evidence["train"])).double().numpy()
    train = _number(METRICS[metric](labels_of(evidence, "train"), softmax(logits, trial.temperature), None))
    return {"train": train, "test": test, "gap": None if train is None or test is None else train - test}


def as_fitted(trial: Trial, evidence: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """What a trial's fusion takes of some rows: a head its modality alone, a control all others blanked."""
    if trial.kind == "control":
        return {name: e if name in trial.reads else e.without() for name, e in evidence.items()}
    return {name: evidence[name] for name in trial.reads}


def compare_stability(models: Mapping[str, Steadiness]) -> dict[str, Typical]:
    """Unimodal ``heads`` against ``fusions``, of what `steadiness` gives by model."""
    return {
        name: _typical([m for m in models.values() if m["kind"] == kind])
        for name, kind in (("heads", "head"), ("fusions", "fusion"))
    }


def _typical(models: Sequence[Steadiness]) -> Typical:
    return {
        "n": len(models),
        "spread": _median(m["spread"]["test"] for m in models),
        "gap": _median(m["gap"]["gap"] for m in models),
        "epochs_to_best": _median(_median(m["epochs_to_best"] or []) for m in models),
        "diverged": sum(m["diverged"] or 0 for m in models),
        "models": sum(m["models"] or 0 for m in models),
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(median(known)) if known else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# ------------------------------------------------------------------ growth


def growth(
    strategies: Sequence[str], *, columns: Sequence[int] = COLUMNS, modalities: int = 2, classes: int = 2
) -> dict[str, Growth]:
    """What a wider encoder costs each fusion: trained parameters of one seed over the columns of each modality.

    With a strategy's defaults, so that no principal components bound its inputs. A power ``columns ** exponent`` is
    fitted by least squares on log-log axes; what does not depend on the columns pulls its exponent below 1.

    Parameters
    ----------
    strategies : sequence of str
        One that reads features and is no head is left out: how large trees grow is a matter of the rows.
    columns : sequence of int
        Two widths or more.
    """
    found: dict[str, Growth] = {}
    for strategy in strategies:
        fusion = plugins.load("fusions", strategy)()
        if isinstance(fusion, LearnedFusion):
            counts = [_head_size(fusion, width, modalities, classes) for width in columns]
        elif fusion.reads == "logits":
            counts = [_fitted_size(fusion, modalities, classes)] * len(columns)
        else:
            continue
        exponent = _exponent(columns, counts)
        found[strategy] = {
            "columns": list(columns),
            "parameters": counts,
            "exponent": exponent,
            "word": "constant" if len(set(counts)) == 1 else _word(exponent),
        }
    return found


def _head_size(fusion: LearnedFusion, columns: int, modalities: int, classes: int) -> int:
    inputs = columns if fusion.reads == "features" else classes
    dims = {str(i): inputs + 1 for i in range(modalities)}
    with torch.random.fork_rng(devices=[]):  # weights are drawn and not used
        head = fusion.head(dims, classes, fusion.options.widths[0])
    return sum(w.numel() for w in head.parameters() if w.requires_grad)


def _fitted_size(fusion: Fusion, modalities: int, classes: int) -> int:
    """What a strategy that reads logits learns: only a fit tells, and any rows will do."""
    n = ROWS * classes
    ids, labels, there = tuple(map(str, range(n))), torch.arange(n) % classes, torch.ones(n, dtype=torch.bool)
    g, blank = torch.Generator().manual_seed(0), torch.zeros(n, 1)
    rows = {
        str(i): Evidence(ids, ids, blank, torch.randn(n, classes, generator=g), there, labels, ~there)
        for i in range(modalities)
    }
    return fusion_parameters(fusion.fit(rows, labels, seeds=[0]))["trained"]


def _exponent(columns: Sequence[int], counts: Sequence[int]) -> float:
    if len(set(counts)) == 1:
        return 0.0
    return float(np.polyfit(np.log(columns), np.log(counts), 1)[0])


def _word(exponent: float) -> str:
    if exponent > LINEAR[1]:
        return "explosive"
    return "linear" if exponent >= LINEAR[0] else "less than linear"
