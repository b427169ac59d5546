"""What the steps of a run share, and how a step says what it does, what it depends on and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic_core import to_jsonable_python

from ..assess.run_data import RunData, named_plugins
from ..assess.slices import check_slices
from ..config import ExpertConfig, RunConfig
from ..contracts import Reporter
from ..data.transcribers import ActiveTranscriber, active_transcribers
from ..example import Label, Taxonomy
from ..modalities import build_modalities
from ..sources import build_source, taxonomy_of
from ..workspace import RunRecord, Workspace
from .checks import check_decide, check_plugins, check_requires, label_of

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
    first : Context, optional
        Where this is the run as a further label sees it: the run as its first label does.
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
    first: Context | None = None

    @classmethod
    def of(cls, config: RunConfig, space: Workspace, reporter: Reporter) -> Self:
        """Raises `BifocalError`, of whatever kind, where the configuration can be refused before anything is read."""
        modalities = build_modalities(config)
        allowed = named_plugins(config, modalities)
        source = build_source(config.source)
        taxonomy = taxonomy_of(source)
        labels = {name: label_of(config, name, taxonomy, source) for name in config.label_names}
        check_requires(labels)
        for name, label in labels.items():
            own = config.for_label(name)
            check_decide(own.decide, name, label, several=len(labels) > 1)
            candidates = check_plugins(own, modalities)
            check_slices(own.slices, label, list(config.parts))
        used, record = active_transcribers(config), RunRecord(space.record)
        label = labels[config.label]
        return cls(config, space, reporter, modalities, source, taxonomy, label, candidates, used, allowed, record)

    @cached_property
    def further(self) -> dict[str, Context]:
        """The run as each label after its first sees it."""
        return {
            name: replace(
                self,
                config=self.config.for_label(name),
                space=self.space.for_label(name),
                reporter=OfLabel(self.reporter, name),
                label=label_of(self.config, name, self.taxonomy, self.source),
                first=self,
            )
            for name in self.config.label_names[1:]
            if self.first is None
        }

    @property
    def spaces(self) -> list[Workspace]:
        """The places of what each label has of its own, the first label's first."""
        return [self.space, *(of.space for of in self.further.values())]

    @cached_property
    def data(self) -> RunData:
        """What the steps before have left, for those after `shards`."""
        if self.first is not None:
            return self.first.data.for_label(self.config.label)
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


class OfLabel(Reporter):
    """Says of what a further label tells which one it is."""

    def __init__(self, reporter: Reporter, label: str):
        self._reporter, self._label = reporter, label

    def progress(self, done: int, total: int | None) -> None:
        self._reporter.progress(done, total)

    def epoch(self, model: str, figures: Mapping[str, float]) -> None:
        self._reporter.epoch(f"{model} ({self._label})", figures)

    def note(self, message: str) -> None:
        self._reporter.note(f"{self._label}: {message}")


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
    per_label : bool
        Whether it is done for each label of the run by itself, and what is above is of one label.
    """

    name: str
    work: Callable[[Context], Mapping[str, object]]
    settings: tuple[str, ...]
    outputs: Callable[[Context], list[Path]]
    outside: Callable[[Context], object] = lambda run: None
    per_label: bool = False

    def perform(self, run: Context) -> dict[str, object]:
        """Do it; what was counted, of further labels under their names."""
        counts = dict(self.work(run))
        if not self.per_label or not run.further:
            return counts
        return {**counts, "labels": {name: dict(self.work(of)) for name, of in run.further.items()}}

    def reads(self, run: Context) -> list[object]:
        """What it depends on beside the steps before it, JSON-able."""
        found = [to_jsonable_python([attrgetter(name)(run.config) for name in self.settings]), self.outside(run)]
        if not self.per_label or not run.further:
            return found
        return [*found, {name: self.reads(of) for name, of in run.further.items()}]

    def files(self, run: Context) -> list[Path]:
        """The files it leaves, of all labels; what they share counts once."""
        found = self.outputs(run)
        for of in run.further.values() if self.per_label else ():
            found += self.outputs(of)
        return list(dict.fromkeys(found))
