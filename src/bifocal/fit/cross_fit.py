"""Cross-fitting a fusion: its Predictions of training rows, and the settings with which it is then fitted on all.

What a model says of rows that it was not trained on is what its temperature and threshold may be fitted on, and what it
may be chosen by. A small val split has few such rows; cross-fitting makes every training row one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from .. import plugins
from ..config import FusionConfig
from ..data.splits import fold_of
from ..decide.policy import pattern_of, patterns
from ..errors import ConfigError
from ..example import Evidence
from ..models.comparison import Candidate, calibrated_losses, standard_error
from ..models.composite_fusion import CompositeFusion, readable_of
from ..models.folds import CrossFittable, FoldPredictions, FoldRows
from .evidence import read_cache, write_cache
from .fusion import learnable


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """What cross-fitting found.

    Attributes
    ----------
    ids, groups : tuple of str, [n]
        The annotated rows.
    labels, fold : Tensor, [n] int64
    logits : Tensor, [n, C] float32
        Of the rows as posted, by models that never saw the row's fold; a row without any part has the class shares.
    patterns : dict of Tensor, [n, C]
        Pattern (`pattern_of`) -> the same with the other parts blanked; of rows that lack one of its parts it means
        nothing.
    config : FusionConfig
        With it `fit_fusion` without val gives the model to deploy: its options are those that all folds chose, and so
        is its strategy, where that was to be chosen.
    candidates : tuple of Candidate
        The strategies that were compared for it, the least loss first.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Tensor
    fold: Tensor
    logits: Tensor
    patterns: dict[str, Tensor]
    config: FusionConfig
    candidates: tuple[Candidate, ...] = ()

    def save(self, path: Path, split: str) -> None:
        """Write a safetensors file; ``split`` is the fingerprint of the shards that the rows lie in."""
        tensors = {f"logits.{pattern}": logits.float().contiguous() for pattern, logits in self.patterns.items()}
        rows = {"ids": self.ids, "groups": self.groups, "config": self.config.model_dump(mode="json")}
        write_cache(path, {**tensors, "labels": self.labels, "fold": self.fold}, {"split": split, **rows})

    @classmethod
    def load(cls, path: Path, split: str) -> Self | None:
        """What `save` wrote; None where there is nothing of these shards, or it is damaged."""
        kept = read_cache(path, {"split": split})
        if kept is None:
            return None
        tensors, metadata = kept
        logits = {name.removeprefix("logits."): t for name, t in tensors.items() if name.startswith("logits.")}
        found = {pattern: logits[pattern] for pattern in sorted(logits, key=lambda name: (name.count("+"), name))}
        ids, groups = (tuple(json.loads(metadata[name])) for name in ("ids", "groups"))
        config = FusionConfig(**json.loads(metadata["config"]))
        return cls(ids, groups, tensors["labels"], tensors["fold"], list(found.values())[-1], found, config)

    def class_shares(self) -> Candidate:
        """What has learned nothing, ``behind`` the fusion: the class shares, counted without a row's fold."""
        losses = torch.empty(len(self.labels), dtype=torch.double)
        for number in self.fold.unique():
            out = self.fold == number
            counts = torch.bincount(self.labels[~out], minlength=self.logits.shape[1]).double() + 1
            losses[out] = -(counts / counts.sum()).log()[self.labels[out]]
        behind = losses - calibrated_losses(self.logits, self.labels)
        error = standard_error(behind, self.groups)
        return Candidate("class shares", float(losses.mean()), float(behind.mean()), error, 0)


def cross_fits(config: FusionConfig) -> bool:
    """Whether a strategy can be cross-fitted; those that train on tokens, or encoders with themselves, cannot."""
    return isinstance(plugins.load("fusions", config.strategy)(**config.options), CrossFittable)


def cross_fit_fusion(
    config: FusionConfig,
    evidence: Mapping[str, Evidence],
    *,
    seed: int,
    in_sample: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CrossFitted:
    """Cross-fit the configured strategy on rows that no expert was trained on, in ``config.folds`` folds of groups.

    Stacked generalisation (Wolpert 1992, Neural Networks 5) one floor up: weights, standardisation, components, epoch
    and grid point behind a row's logits were found without its fold.

    Parameters
    ----------
    config : FusionConfig
    evidence : mapping
        Modality -> Evidence of the training rows; rows that are not annotated are left out.
    seed : int
        Of the folds; and first of ``config.seeds`` seeds in a row.
    in_sample : bool
        As for `fit_fusion`.
    progress : callable, optional
        Takes how many strategies are done, and of how many, where several are compared.

    Raises
    ------
    DataError
        As `fit_fusion`; where there are fewer than two groups, or a class has rows of one fold only.
    ConfigError
        As `fit_fusion`; where the strategy cannot be cross-fitted.
    """
    fusion = plugins.load("fusions", config.strategy)(**config.options)
    if not isinstance(fusion, CrossFittable):
        raise ConfigError(
            f"fusion {config.strategy} cannot be cross-fitted, as it trains for minutes or with encoders: tune on val "
            "(`decide.on: val`), or take another strategy"
        )
    if isinstance(fusion, CompositeFusion):
        fusion.progress = progress
    annotated, labels = learnable(evidence, in_sample=in_sample)
    first = next(iter(annotated.values()))
    fold = torch.tensor(fold_of(first.groups, labels.tolist(), config.folds, seed))
    sets = patterns(evidence)
    seeds = range(seed, seed + config.seeds)
    found = fusion.fit_folds(FoldRows(annotated, labels, fold, sets), seeds=seeds, read=config.read)
    return CrossFitted(
        first.ids,
        first.groups,
        labels,
        fold,
        found.logits[-1],  # the last set is of all parts
        {pattern_of(keep): logits for keep, logits in zip(sets, found.logits, strict=True)},
        _settled(config, found),
        found.candidates,
    )


def _settled(config: FusionConfig, found: FoldPredictions) -> FusionConfig:
    """The configuration with what the folds chose; where they chose the strategy, without readings that it lacks."""
    options = {"options": found.settings.model_dump(mode="json")}
    if found.strategy is None:
        return config.model_copy(update=options)
    read = readable_of(plugins.load("fusions", found.strategy), config.read)
    return config.model_copy(update={**options, "strategy": found.strategy, "read": read})
