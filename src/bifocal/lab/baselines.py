"""Single-modality models beside the run's own experts: every encoder that learns a modality from its rows alone."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from .. import plugins
from ..config import ExpertConfig
from ..errors import DataError, MissingExtra, ModelError
from ..fit.candidates import AUTO, candidates
from ..fit.evidence import evidence_of
from ..fit.expert import ExpertData, ExpertFiles, fit_expert
from .trials import Trial, hear_expert
from .usable_rows import JUDGED, Splits, usable

if TYPE_CHECKING:
    from ..contracts import Modality


def rivals(modality_name: str, modality: Modality, taken: str) -> list[ExpertConfig]:
    """The encoders that read a modality, need no pretrained model, and are not the expert's own (``taken``).

    An encoder that knows one way to learn starts from the training rows alone; pretrained ones can be fine-tuned,
    adapted or left frozen. With the defaults of each.
    """
    every = candidates(ExpertConfig(encoder=AUTO), modality_name, modality)
    return [c for c in every if c.encoder != taken and len(plugins.load("encoders", str(c.encoder)).tunes) == 1]


def fit_rivals(
    data: ExpertData, taken: str, evidence: Splits, *, seed: int, folder: Path
) -> tuple[list[Trial], list[str]]:
    """Fit each of `rivals` on all of train and hear it on val and test.

    Parameters
    ----------
    data : ExpertData
        With the packed train, val and test.
    taken : str
        The encoder of the run's expert.
    evidence : Splits
        The run's Evidence of the same splits, whole: each rival's takes the place of the expert's.
    folder : Path
        Where they lie meanwhile; nothing of them is kept.

    Returns
    -------
    list of Trial, list of str
        And a finding for each that could not be fitted to these rows, or misses a package: the comparison is then
        with fewer baselines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials, findings, modality = [], [], data.modality_name
    for config in rivals(modality, data.modality, taken):
        name = f"{modality}: {config.encoder}"
        with tempfile.TemporaryDirectory(dir=folder, prefix=".rival.", suffix=".part") as place:
            path, start = partial(_cache, Path(place)), perf_counter()
            files = ExpertFiles(Path(place) / "expert", Path(place) / "checkpoints", path)
            try:
                encoder = fit_expert(config, data, files, seed=seed).encoder
            except (DataError, ModelError, MissingExtra) as error:
                findings.append(f"{name} is not among the baselines: {error}")
                continue
            seconds = perf_counter() - start
            own = {
                split: evidence_of(encoder, data.splits[split], modality, data.label_name, data.label, path(split))
                for split in JUDGED
            }
        usable_evidence = usable({**evidence, **{split: {**evidence[split], modality: e} for split, e in own.items()}})
        parameters = encoder.parameters()
        trials.append(hear_expert(name, "encoder", modality, usable_evidence, parameters=parameters, seconds=seconds))
    return trials, findings


def _cache(folder: Path, split: str) -> Path:
    return folder / f"{split}.safetensors"
