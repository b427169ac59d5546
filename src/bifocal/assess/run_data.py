"""What the folder of a run holds, for whoever measures, exports or compares it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import plugins
from ..config import RunConfig, recorded_config
from ..contracts import EncoderTuner
from ..data.shards import Split, open_split
from ..decide.policy import Policy
from ..errors import RunError
from ..example import Evidence, Label, Taxonomy
from ..fit.candidates import candidates
from ..fit.evidence import Progress, SharedFeatures, evidence_of, features_of
from ..fit.expert import label_experts, load_expert
from ..fit.fusion import CARD, MODEL, fusion_parameters, load_fusion
from ..fit.token_cache import make_tokens, token_path
from ..modalities import TEXT, build_modalities
from ..models.saved_encoder import WindowedEncoder
from ..sources import build_source, taxonomy_of
from ..system.system import load_policy
from ..workspace import Workspace, read_json
from .drift_reference import text_facts
from .predictions import Predictions

if TYPE_CHECKING:
    from torch import Tensor

    from ..contracts import Encoder, Fusion, Modality


@dataclass(frozen=True, eq=False)
class RunData:
    """A run as it lies in its folder, finished or not: each property reads the artifact behind it when it is asked for.

    Reading writes nothing, but for Evidence under ``keep_evidence``.

    Attributes
    ----------
    label : Label
        As its source declares it; in `taxonomy` numbers have become classes.
    allowed : frozenset of str
        What the models in the folder may bring from outside, see `plugins.restrict`.
    keep_evidence : bool
        Write Evidence that the cache does not hold yet: for the run itself, on its way.
    first : RunData, optional
        Where this is the run as a further label sees it: the run as its first label does, whose splits and encoders
        are these too.
    """

    config: RunConfig
    space: Workspace
    modalities: Mapping[str, Modality]
    label: Label
    allowed: frozenset[str]
    progress: Progress | None = None
    keep_evidence: bool = False
    first: RunData | None = None

    def __post_init__(self) -> None:
        # Each is computed once; what a split is made of, once for all labels.
        for name in ("split", "encoded", "texts", "windows", "for_label"):
            object.__setattr__(self, name, getattr(self.first, name) if self.first else cache(getattr(self, name)))
        for name in ("evidence_of", "fused_evidence", "predictions"):
            object.__setattr__(self, name, cache(getattr(self, name)))

    def for_label(self, name: str) -> RunData:
        """The run as one of its labels sees it. Raises `ConfigError` where it does not answer that one."""
        if name == self.config.label:
            return self
        config = self.config.for_label(name)
        label = config.of_run(name, self.taxonomy[name])
        return replace(self, config=config, space=self.space.for_label(name), label=label, first=self)

    @property
    def parent(self) -> RunData | None:
        """The run as the label sees it that this one requires; None where it requires none."""
        return None if self.label.requires is None else (self.first or self).for_label(self.label.requires)

    @property
    def further(self) -> dict[str, RunData]:
        """The run as each label after its first sees it; nothing where this is such a view."""
        return {} if self.first else {name: self.for_label(name) for name in self.config.label_names[1:]}

    @classmethod
    def configured(
        cls,
        config: RunConfig,
        space: Workspace,
        *,
        progress: Progress | None = None,
        allow_plugins: Collection[str] | None = None,
    ) -> Self:
        """The run of a configuration; ``allow_plugins`` None = what that names, since its user wrote it."""
        modalities = build_modalities(config)
        if allow_plugins is None:
            allow_plugins = named_plugins(config, modalities)
        label = config.of_run(config.label, taxonomy_of(build_source(config.source))[config.label])
        return cls(config, space, modalities, label, frozenset(allow_plugins), progress)

    @classmethod
    def of(cls, folder: str | Path, allow_plugins: Collection[str] = ()) -> Self:
        """The run in a folder, configured as it was.

        Raises
        ------
        RunError
            Where there is no ``run.json``; names the runs beside it.
        PluginRefused
            Where its configuration names an outside plug-in that is not among ``allow_plugins``.
        """
        space = Workspace.of(folder)
        config = recorded_config(read_json(space.record)["config"], where=str(space.record))
        with plugins.installed_first(folder), plugins.restrict(space.record, allow_plugins):
            run = cls.configured(config, space, allow_plugins=allow_plugins)
            # What it names beside is looked up too: refused now, and not when a model is loaded.
            for label in config.label_names:
                plugins.load("fusions", config.for_label(label).fusion.strategy)
            for name, modality in run.modalities.items():
                candidates(config.expert(name), name, modality)
        return run

    @property
    def expert_names(self) -> dict[str, str]:
        """Modality -> name of its expert."""
        return {name: modality.expert_name for name, modality in self.modalities.items()}

    @property
    def models(self) -> list[str]:
        """Every model with an opinion, the one whose word counts last."""
        return [*self.expert_names.values(), *([MODEL] if len(self.modalities) > 1 else [])]

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """``run.json`` as it was when it was first asked for."""
        content: dict[str, Any] = read_json(self.space.record)
        return content

    @property
    def in_sample(self) -> bool:
        """Whether there is no val split, and the run tunes on the rows it learned from."""
        return bool(self.record["in_sample"])

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy as the step `splits` left it: numbers have become classes."""
        return Taxonomy.from_json(read_json(self.space.taxonomy))

    @property
    def tuned_on(self) -> str:
        return "train" if self.in_sample else "val"

    @property
    def tested_on(self) -> str:
        return "test" if "test" in self.space.packed_splits() else self.tuned_on

    @cached_property
    def packed(self) -> dict[str, Split]:
        """Every packed split, in the order train, val, test. Raises `RunError` where there is no train."""
        names = self.space.packed_splits()
        if "train" not in names:
            raise RunError(f"{self.space.folder} has no train shards: let the step `shards` run first")
        return {name: self.split(name) for name in names}

    def split(self, name: str) -> Split:
        """A packed split, verified against its hashes once."""
        return open_split(self.space.shards(name), self.modalities, self.taxonomy)

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """Modality -> its expert; for a further label under that label's head, or one of its own."""
        if self.first is None:
            return {name: load_expert(self.space.expert(e), self.allowed) for name, e in self.expert_names.items()}
        return label_experts(self.first.encoders, self.space, self.expert_names, self.allowed)

    @cached_property
    def fused(self) -> Fusion | None:
        """None where one modality decides alone."""
        if len(self.modalities) == 1:
            return None
        return load_fusion(self.space.fusion, self.allowed, encoders=self.encoders if self.tunes_encoders else None)

    @cached_property
    def strategy(self) -> type[Fusion]:
        """What fuses, by the configuration."""
        found: type[Fusion] = plugins.load("fusions", self.config.fusion.strategy)
        return found

    @property
    def tunes_encoders(self) -> bool:
        """Whether the fusion has encoders of its own."""
        return len(self.modalities) > 1 and issubclass(self.strategy, EncoderTuner)

    def reads_tokens(self, name: str) -> bool:
        """Whether a fusion reads the tokens that the expert of a modality gives in its one pass.

        That of any label: the pass is one for all.
        """
        if any(of.reads_tokens(name) for of in self.further.values()):
            return True
        if len(self.modalities) == 1 or self.tunes_encoders:
            return False
        return self.config.fusion.read.get(name, self.strategy.reads) == "tokens"

    def parameters(self) -> dict[str, dict[str, int]]:
        """Total and trained weights, by model."""
        found = {self.expert_names[name]: encoder.parameters() for name, encoder in self.encoders.items()}
        return found | ({MODEL: fusion_parameters(self.fused)} if self.fused is not None else {})

    def evidence_of(self, split: str) -> dict[str, Evidence]:
        """Modality -> what its expert says of a split; from the cache, or computed where its fingerprints differ.

        With tokens where the fusion reads those of the experts, and with values where it tunes encoders.
        """
        found = {
            name: evidence_of(
                encoder,
                self.split(split),
                name,
                self.config.label,
                self.label,
                self.space.evidence(self.expert_names[name], split),
                shared=self._shared(name, split),
                folds=self.config.fusion.folds,
                seed=self.config.seed,
                keep=self.keep_evidence,
                progress=self.progress,
                tokens=self.reads_tokens(name),
            )
            for name, encoder in self.encoders.items()
        }
        if not self.tunes_encoders:
            return found
        return {name: replace(part, values=self.split(split).values(name)) for name, part in found.items()}

    def _shared(self, name: str, split: str) -> SharedFeatures | None:
        """Where the heads of further labels find what the one encoder gave; None where this label has its own."""
        expert = self.expert_names[name]
        if self.first is None or self.space.own_expert(expert).is_dir():
            return None
        return SharedFeatures(self.first.space.evidence(expert, split), partial(self.encoded, name, split))

    def encoded(self, name: str, split: str) -> dict[str, Tensor]:
        """What the one pass of an encoder gave of a split, for the heads of further labels."""
        path = self.space.evidence(self.expert_names[name], split)
        packed, keep = self.split(split), self.keep_evidence
        return features_of(self.encoders[name], packed, name, path, self.progress, keep=keep)

    def fused_evidence(self, split: str) -> dict[str, Evidence]:
        """What the fusion reads of a split: the Evidence, with the tokens that encoders of its own make, if it has any.

        Cached like all Evidence: each of its encoders runs once per example, too.
        """
        found, fusion = self.evidence_of(split), self.fused
        if not isinstance(fusion, EncoderTuner):
            return found
        packed, weights = self.split(split), read_json(self.space.fusion / CARD)["sha256"]
        key = {"fusion": weights, "split": packed.fingerprint}
        for name, part in found.items():
            path = self.space.evidence(self.space.fusion.name, f"{split}.{self.expert_names[name]}")

            def encode(values: Sequence[Any], tell: Callable[[int], None] | None, name: str = name) -> list[Tensor]:
                return fusion.tokens(name, values, tell) or []

            if fusion.tokens(name, ()) is not None:
                tokens = make_tokens(
                    encode, packed, name, token_path(path), key, self.progress, keep=self.keep_evidence
                )
                found = {**found, name: replace(part, tokens=tokens)}
        return found

    @cached_property
    def fusion_rows(self) -> dict[str, Evidence]:
        """Evidence of the train rows that a fusion learns from: those that no expert saw, or in-sample all of them."""
        train = self.evidence_of("train")
        if self.in_sample:
            return train
        clean = np.flatnonzero(~np.any([e.seen.numpy() for e in train.values()], axis=0)).tolist()
        return {name: e.take(clean) for name, e in train.items()}

    def texts(self, split: str) -> list[str]:
        """The composed text of each row of a split, empty where there is none."""
        packed = self.split(split)
        if TEXT not in self.modalities:
            return [""] * len(packed)
        parts = zip(packed.values(TEXT), packed.present[TEXT], strict=True)
        return [text if there else "" for text, there in parts]

    def windows(self, split: str) -> list[int]:
        """In how many windows the text of each row of a split is read; 0 where there is none."""
        encoder = self.encoders.get(TEXT)
        if not isinstance(encoder, WindowedEncoder):
            return [int(bool(text)) for text in self.texts(split)]
        return [len(encoder.windows(text).texts) if text else 0 for text in self.texts(split)]

    def predictions(self, split: str) -> Predictions:
        """What each model says of a split."""
        predictions = Predictions.gather(self.fused_evidence(split), self.expert_names, self.fused, MODEL)
        return replace(predictions, languages=self.languages(split))

    def languages(self, split: str) -> list[str]:
        """The language of each row's text as it was detected, empty without text."""
        return [text_facts(text)[0] for text in self.texts(split)]

    def policy(self) -> Policy:
        """The policy as it lies in the folder now, set by hand or not. Raises `RunError` as `load_policy`."""
        return load_policy(self.space, self.config).of_label(self.config.label)


def named_plugins(config: RunConfig, modalities: Mapping[str, Modality]) -> frozenset[str]:
    """The outside plug-ins that a configuration names, or a modality of its own accord."""
    return plugins.outside_names([config.model_dump(), [modality.encoder for modality in modalities.values()]])
