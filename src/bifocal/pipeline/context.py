"""What the steps of a run share, and how a step says what it does, what it depends on and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..assess.run_data import RunData, named_plugins
from ..assess.slices import check_slices
from ..config import ExpertConfig, RunConfig
from ..contracts import Reporter
from ..data.transcribers import ActiveTranscriber, active_transcribers
from ..example import Label, Taxonomy
from ..modalities import build_modalities
from ..sources import build_source, taxonomy_of
from ..workspace import RunRecord, Workspace
from .checks import check_decide, check_plugins, label_of

if TYPE_CHECKING:
    from ..contracts import Modality, Source


@dataclass
class Context:
    """One run on its way.

    Attributes
    ----------
    taxonomy : Taxonomy
        As the source declares it, before the splits are known; afterwards `RunData.taxonomy` holds.
    candidates : dict
        Modality -> the settings of each encoder that its expert may turn out to be.
    transcribers : list of ActiveTranscriber
        What reads the words that other parts carry.
    allowed : frozenset of str
        What the models in the run's folder may bring from outside: what the configuration names.
    record : RunRecord
        ``run.json``, which the steps add to.
    """

    config: RunConfig
    space: Workspace
    reporter: Reporter
    modalities: Mapping[str, Modality]
    source: Source
    taxonomy: Taxonomy
    label: Label
    candidates: Mapping[str, list[ExpertConfig]]
    transcribers: list[ActiveTranscriber]
    allowed: frozenset[str]
    record: RunRecord

    @classmethod
    def of(cls, config: RunConfig, space: Workspace, reporter: Reporter) -> Self:
        """Raises `BifocalError`, of whatever kind, where the configuration can be refused before anything is read."""
        modalities = build_modalities(config)
        allowed = named_plugins(config, modalities)
        source = build_source(config.source)
        taxonomy = taxonomy_of(source)
        label, record = label_of(config.label, taxonomy, source), RunRecord(space.record)
        check_decide(config.decide, config.label, label)
        candidates = check_plugins(config, modalities)
        check_slices(config.slices, label, list(config.parts))
        used = active_transcribers(config)
        return cls(config, space, reporter, modalities, source, taxonomy, label, candidates, used, allowed, record)

    @cached_property
    def data(self) -> RunData:
        """What the steps before have left, for those after `shards`."""
        return RunData(
            self.config,
            self.space,
            self.modalities,
            self.label,
            self.allowed,
            self.reporter.progress,
            keep_evidence=True,
        )

    @property
    def holdout(self) -> float:
        """Share of train that is the fusion's alone, where there is a val split; 0 where no expert is fine-tuned."""
        tuned = any(rival.tune != "head" for rivals in self.candidates.values() for rival in rivals)
        return self.config.fusion.holdout if tuned and len(self.modalities) > 1 else 0.0


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes
    ----------
    work : callable
        Does it, and gives what it counted, for ``run.json``.
    settings : tuple of str
        Dotted names of what it reads of the configuration, beside what the steps before it read.
    outputs : callable
        The files it leaves.
    outside : callable
        What it reads beside settings and artifacts, as something JSON-able that changes when that does.
    """

    name: str
    work: Callable[[Context], Mapping[str, object]]
    settings: tuple[str, ...]
    outputs: Callable[[Context], list[Path]]
    outside: Callable[[Context], object] = lambda run: None
