"""What the service decides with, built whole and swapped whole: models, decoders and their description."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..decide.policy import Band, Policy, pattern_of, patterns
from ..errors import BifocalError, DataError, RunError
from ..modalities import TEXT, build_modalities, inputs_of
from .reference import UsualDecisions, usual_decisions
from .settings import ServeConfig
from .workers.processes import Decoders, DecoderSettings, LabelDescription, Model, ModelDescription, ModelSource

if TYPE_CHECKING:
    from ..contracts import Input
    from ..system.decision import Decision, LabelDecision
    from ..system.preprocessing import PackedPost


@dataclass(frozen=True, slots=True)
class WithShadow:
    """A decision, and what the shadow says of the same post: ``action, label, probability, versions``, or ``error``.

    Where the run has several labels, ``labels`` holds for each that the shadow has too its ``action, label,
    probability`` (null where it is not asked) and ``disagrees``: whether its action or class is another than the run's.
    """

    decision: Decision
    shadow: dict[str, Any]


@dataclass(frozen=True)
class ServedModels:
    """One run or bundle, ready to decide.

    Attributes
    ----------
    model : Model
    decoders : Decoders
    about : Description
        What the models say of themselves.
    shadow : Model or None
        Models that score every post too, and decide none.
    shadow_label : str
        Their first label.
    """

    model: Model
    decoders: Decoders
    about: ModelDescription
    shadow: Model | None = None
    shadow_label: str = ""

    @classmethod
    async def load(cls, folder: Path, settings: ServeConfig) -> Self:
        """Start the processes of a run or bundle. Raises what `bifocal.load` raises."""
        model, about = await _load_model(folder, settings.engine, settings)
        return cls(model, _decoders(about, settings), about)

    async def reload(self, folder: Path, settings: ServeConfig) -> Self:
        """A folder's models in the place of these; where posts are prepared as before, the decoders stay. Raises as
        `load`."""
        model, about = await _load_model(folder, settings.engine, settings)
        decoders = self.decoders
        if about.config != self.about.config or about.text_role != self.about.text_role:
            decoders = _decoders(about, settings)
        return replace(self, model=model, decoders=decoders, about=about)

    async def with_shadow(self, folder: Path, settings: ServeConfig) -> Self:
        """The same, with the models of another folder beside it.

        Raises
        ------
        RunError
            Where they need posts prepared otherwise.
        BifocalError
            As `load`.
        """
        shadow, about = await _load_model(folder, None, settings)
        try:
            _check_same_posts(self.about, about)
        except RunError:
            await asyncio.to_thread(shadow.close)
            raise
        return replace(self, shadow=shadow, shadow_label=next(iter(about.labels)))

    async def try_decoders(self, count: int) -> None:
        """Prepare a post in every decoder, so that what they lack is told at the start."""
        tries = (self.decoders.prepare({TEXT: "words"}) for _ in range(count))
        for found in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(found, BaseException) and not isinstance(found, DataError):
                raise found

    async def decide(self, posts: Sequence[PackedPost]) -> list[Decision | WithShadow | BifocalError]:
        """A decision, or an error, for each post; where there is a shadow, what it says beside it. Raises `Refused`."""
        if self.shadow is None:
            return list(await self.model.decide(posts))
        decided, shadowed = await asyncio.gather(self.model.decide(posts), _shadowed(self.shadow, posts))
        return [
            one if isinstance(one, BifocalError) else WithShadow(one, self._answer_of_shadow(other, one))
            for one, other in zip(decided, shadowed, strict=True)
        ]

    def _answer_of_shadow(self, shadow: Decision | BifocalError, ours: Decision) -> dict[str, Any]:
        """What the log keeps of what the shadow says."""
        if isinstance(shadow, BifocalError):
            return {"error": str(shadow)}
        told = {**_answer(shadow), "versions": shadow.versions}
        if ours.labels:
            theirs: Mapping[str, Decision | LabelDecision | None] = shadow.labels or {self.shadow_label: shadow}
            told["labels"] = {
                name: {**_answer(theirs[name]), "disagrees": _differ(of, theirs[name])}
                for name, of in ours.labels.items()
                if name in theirs
            }
        return told

    def close(self, *, but: ServedModels | None = None) -> None:
        """End the processes, those excepted that another uses as well; blocks."""
        kept = () if but is None else (but.decoders, but.model, but.shadow)
        for workers in (self.decoders, self.model, self.shadow):
            if workers is not None and workers not in kept:
                workers.close()

    @property
    def inputs(self) -> dict[str, Input]:
        """How each part is given, those of the run that do not come with Bifocal last."""
        return inputs_of(build_modalities(self.about.config))

    @property
    def expert_names(self) -> dict[str, str]:
        """Modality -> the name of its expert."""
        return {name: m.expert_name for name, m in build_modalities(self.about.config).items()}

    @property
    def patterns(self) -> list[str]:
        """What posts may bring."""
        return [pattern_of(names) for names in patterns(self.about.config.parts)]

    def band(self, pattern: str, label: str | None = None) -> Band | None:
        """The review band for posts that bring these parts, by the first label or by another, as far as it may act."""
        whole = Policy.model_validate(self.about.policy)
        policy = whole.of_label(label or whole.label)
        band = policy.band(self.about.main, pattern)
        if band is None or policy.act == "none":
            return None
        return band if policy.act == "block" else band.model_copy(update={"block_from": None})

    def check_settings(self, settings: ServeConfig) -> None:
        """Raises `RunError` where names outside are given for a label that is none of the run's further ones."""
        further = list(self.about.labels)[1:]
        for setting, named in (("moderations", settings.moderations), ("perspective", settings.perspective)):
            if unknown := [name for name in named.labels if name not in further]:
                raise RunError(
                    f"{setting}.labels names {unknown[0]!r}, and the run's further labels are "
                    f"{', '.join(further) or 'none'}: what stands for the first one is named beside it"
                )

    def label(self, name: str) -> LabelDescription:
        """One of the run's labels. Raises `DataError` where it is none."""
        if name not in self.about.labels:
            raise DataError(f"this run has no label {name[:40]!r}; its labels are {', '.join(self.about.labels)}")
        return self.about.labels[name]

    def check_classes(self, said: Mapping[str, object]) -> dict[str, str]:
        """The classes that a post is said to be of, by label, as the log keeps them.

        Raises `DataError` on a label, or a class, that the run does not know.
        """
        found = {}
        for name, value in said.items():
            found[name] = str(value)
            if found[name] not in (known := [str(one) for one in self.label(name).classes]):
                raise DataError(f"{found[name][:40]!r} is no class of the label {name}; it has {', '.join(known)}")
        return found

    @cached_property
    def references(self) -> dict[str, UsualDecisions | None]:
        """What each label was tuned on; None where it is not kept."""
        return usual_decisions(self.about.folder, Policy.model_validate(self.about.policy))


async def _shadowed(shadow: Model, posts: Sequence[PackedPost]) -> Sequence[Decision | BifocalError]:
    try:
        return await shadow.decide(posts)
    except Exception as error:  # it never stands in the way
        return [BifocalError(str(error))] * len(posts)


def _answer(of: Decision | LabelDecision | None) -> dict[str, Any]:
    """What is compared of an answer; of a label that is not asked, nothing."""
    if of is None:
        return {"action": None, "label": None, "probability": None}
    return {"action": of.action, "label": of.label, "probability": of.probability}


def _differ(ours: LabelDecision | None, theirs: Decision | LabelDecision | None) -> bool:
    """Whether two answers by one label come to another action or class; one that is not asked is another."""
    one, other = _answer(ours), _answer(theirs)
    return (one["action"], one["label"]) != (other["action"], other["label"])


async def _load_model(folder: Path, engine: str | None, settings: ServeConfig) -> tuple[Model, ModelDescription]:
    source = ModelSource(folder, engine, settings.strict_parity, settings.allow_plugins)
    model = Model(source, timeout=settings.model_timeout_s, count=settings.models)
    try:
        return model, await model.load()
    except BaseException:
        await asyncio.to_thread(model.close)
        raise


def _decoders(about: ModelDescription, settings: ServeConfig) -> Decoders:
    decoder_settings = DecoderSettings(
        about.config.model_dump_json(),
        about.text_role,
        hashes=bool(settings.lists),
        originals=settings.keep_originals,
        max_text=settings.max_text,
    )
    memory = settings.decode_memory_mib * 2**20
    return Decoders(decoder_settings, settings.decoders, timeout=settings.decode_timeout_s, memory=memory)


def _check_same_posts(ours: ModelDescription, shadow: ModelDescription) -> None:
    for name in ("modalities", "fit", "image_format", "ocr", "transcribe"):
        one, other = getattr(ours.config, name), getattr(shadow.config, name)
        if one != other:
            raise RunError(
                f"the shadow {shadow.folder} has {name} = {other}, the run {one}: posts are prepared once for both, "
                "so these must be the same"
            )
    if ours.text_role != shadow.text_role:
        raise RunError(f"the shadow takes texts as {shadow.text_role}, the run as {ours.text_role}: they must agree")
