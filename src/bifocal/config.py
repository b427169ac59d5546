"""The one definition of every option: it serves Python, YAML files and ``--set a.b=c`` alike."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import ConfigError, nearest
from .example import Label

Reads = Literal["features", "logits", "tokens"]
"""What a fusion may read of an Evidence; ``tokens`` are the hidden states of single words and patches."""
Tune = Literal["full", "lora", "head"]
"""How much of an encoder learns."""


class Word(str):
    """A scalar of YAML that its author may have meant as a word: ``no``, ``on``, ``012``, ``1:30``, ``2024-01-01``.

    It is the text as it was written; ``value`` is what YAML makes of it, for options whose type nothing tells.
    """

    value: Any

    def __new__(cls, text: str, value: Any) -> Self:
        """A text, with YAML's value of it."""
        word = super().__new__(cls, text)
        word.value = value
        return word


def _as_yaml(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _as_yaml(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_as_yaml(value) for value in content]
    return content.value if isinstance(content, Word) else content


Options = Annotated[dict[str, Any], BeforeValidator(_as_yaml)]
"""Options that something else validates, or nothing: values are what YAML makes of them."""


class Strict(BaseModel):
    """A model that refuses unknown keys, so that a typo is an error and not a silent default."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    def __getstate__(self) -> dict[Any, Any]:
        """What goes to another process: the settings, without what was read by them and is cached."""
        state = super().__getstate__()
        return {**state, "__dict__": {name: self.__dict__[name] for name in type(self).model_fields}}


class SourceConfig(BaseModel):
    """Where examples come from; every key but ``kind`` is an option of that source."""

    model_config = ConfigDict(extra="allow")

    kind: str
    """A file in ``sources/``, or ``package.module:Class``."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    @property
    def members(self) -> list[dict[str, Any]]:
        """``kind`` and options of each source that it is made of: of one that joins no others, its own."""
        return [dict(one) for one in self.options.get("sources") or [{"kind": self.kind, **self.options}]]


def _is_none(value: object) -> bool:
    return value is None


class SplitsConfig(Strict):
    """Shares carved out where a source brings no official split; both 0 = everything is train (in-sample).

    ``by`` says how a group of near-duplicates gets its split: ``shuffle`` (balanced by class, drawn by the run's seed
    over all rows: other rows, other splits), ``hash`` (by a keyed hash of its content: it stays where other rows come
    and go) or ``time`` (the latest are test, those before them val).
    """

    model_config = ConfigDict(serialize_by_alias=True)

    val: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    by: Annotated[Literal["shuffle", "hash", "time"], Field(exclude_if=lambda by: by == "shuffle")] = "shuffle"
    key: Annotated[str | None, Field(min_length=1, max_length=200, exclude_if=_is_none)] = None
    """Of ``by: hash``: another one gives other splits; None = the run's seed."""
    time: Annotated[str | None, Field(exclude_if=_is_none)] = None
    """Of ``by: time``: the column of the source that says when a post was made."""
    from_run: Annotated[str | None, Field(alias="from", exclude_if=_is_none)] = None
    """A run's folder: its rows keep their splits, and new ones get theirs by its rule (by hash, else train)."""
    recent: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda share: share == 0)] = 0
    """With ``from``: the share of what was audited since that is kept aside to judge by, neither learned from nor tuned
    on."""

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> SplitsConfig:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on; keep it below 1")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> SplitsConfig:
        if self.from_run is not None and (self.by != "shuffle" or self.key is not None or self.time is not None):
            raise ValueError("from takes the rule of that run along: leave out by, key and time, or from")
        if self.recent and self.from_run is None:
            raise ValueError("recent is the share of what was audited since an earlier run: it belongs to from")
        if self.by == "time" and self.time is None:
            raise ValueError("by: time needs the column that says when a post was made, such as time: created_at")
        for name, rule in (("key", "hash"), ("time", "time")):
            if getattr(self, name) is not None and self.by != rule:
                raise ValueError(f"{name} belongs to by: {rule}, not to by: {self.by}")
        return self


class LoraConfig(Strict):
    """Low-rank adaptation (Hu et al. 2022, arXiv:2106.09685); merged into the weights on save."""

    r: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05


class ExpertConfig(Strict):
    """One expert: which model, how much of it learns, and how."""

    model: str = "base"
    """``tiny`` (built here, trained from scratch), ``base`` (mDeBERTa-v3 / SigLIP), a hub id, or a local folder."""
    encoder: str | None = None
    """A file in ``models/encoders/``; ``auto`` = of all that read it the smallest that ties with the best; None = the
    modality's own."""
    tune: Tune | None = None
    """None = what the encoder does by default: ``full`` for pretrained ones."""
    pooling: Literal["mean", "cls"] = "cls"
    """``cls``: features are what the Auto class feeds its head; ``mean``: masked mean of the last hidden states."""
    epochs: Annotated[int, Field(ge=1)] = 4
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps with a rising learning rate."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Epochs without a better val macro-F1 before training stops."""
    encode_batch_size: Annotated[int, Field(ge=1)] = 32
    """At most; on a CPU pictures go through a few at a time, which is quicker there."""
    lora: LoraConfig = LoraConfig()
    report_to: list[str] = ["tensorboard"]
    options: Options = {}
    """Options of the encoder itself (``max_length``, ``augment``, ...); for ``auto``: encoder -> its options."""

    def with_tune(self, tunes: Sequence[Tune]) -> ExpertConfig:
        """The same with the encoder's own ``tune`` where none was asked for. Raises `ConfigError` on one it lacks."""
        if self.tune is not None and self.tune not in tunes:
            raise ConfigError(f"{self.encoder} has no tune: {self.tune}; it takes {', '.join(tunes)}: leave it out")
        return self.model_copy(update={"tune": self.tune or tunes[0]})


class FusionConfig(Strict):
    """How the experts' Evidence is turned into one decision."""

    strategy: str = "concat"
    """A file in ``models/fusions/``, or ``package.module:Class``: on logits, on features, on frozen tokens
    (``cross_attention``), or with encoders that learn with it (``last_layers``, ``lora``); ``auto`` takes the one
    that suits the rows, ``ensemble`` averages several."""
    read: dict[str, Reads] = {}
    """Modality -> ``features``, ``logits`` or ``tokens``, of those that the strategy reads; what is not named follows
    its default."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Models that are averaged; strategies on tokens train one."""
    holdout: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    """Share of train, by group, that fine-tuned experts never see, so that the fusion can learn from it."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Folds of the cross-fitted logits of frozen experts, and of the fusion where it is cross-fitted (``decide.on``,
    ``auto``, ``ensemble``)."""
    options: Options = {}


class CostConfig(Strict):
    """What a wrong decision costs, in any one unit; a right one costs nothing."""

    false_positive: Annotated[float, Field(gt=0)] = 1.0
    false_negative: Annotated[float, Field(gt=0)] = 1.0


class ThresholdConfig(Strict):
    """How the policy's threshold is chosen on the rows of ``decide.on``, for a binary label.

    ``f1`` (of class 1), ``macro_f1`` (of both classes), ``f_beta`` (with ``beta``) and ``cost`` (with ``costs``) take
    the best. ``precision`` and ``recall`` (at least ``bound``), ``fpr`` (false-positive rate) and ``capacity`` (share
    of posts flagged; both at most ``bound``) take, of all thresholds that keep to it, the one that gives away least.
    """

    by: Literal["f1", "macro_f1", "f_beta", "precision", "recall", "fpr", "capacity", "cost"] = "f1"
    bound: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """The bound holds with this confidence over the draw of the rows it is chosen on; None = it holds on those rows."""
    beta: Annotated[float, Field(gt=0)] = 1.0
    """Recall counts ``beta`` times as much as precision."""
    costs: CostConfig = CostConfig()
    per_class: bool = False
    """Of several classes: a threshold each, for the best macro-F1; the class is named that exceeds its own by the
    largest factor. False = the likeliest."""

    @model_validator(mode="after")
    def _fits_together(self) -> ThresholdConfig:
        bounded = self.by in ("precision", "recall", "fpr", "capacity")
        if bounded and self.bound is None:
            raise ValueError(f"by: {self.by} needs a bound between 0 and 1, such as bound: 0.9")
        for name in ("bound", "confidence"):
            if not bounded and getattr(self, name) is not None:
                raise ValueError(f"{name} belongs to by: precision, recall, fpr or capacity, not to by: {self.by}")
        for name, rule in (("beta", "f_beta"), ("costs", "cost")):
            if getattr(self, name) != type(self).model_fields[name].default and self.by != rule:
                raise ValueError(f"{name} belongs to by: {rule}, not to by: {self.by}")
        return self


class ReviewConfig(Strict):
    """Which errors may pass without a person, at most: ``fnr`` and ``fpr`` of a binary label, ``alpha`` of others."""

    fnr: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of positive posts that are allowed; None = the threshold is the limit."""
    fpr: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of negative posts that are blocked; None = the threshold is the limit."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of posts of each class whose prediction set leaves their class out."""
    per_language: bool = False
    """Keep to ``fnr`` and ``fpr`` within each language of 200 val rows or more, too."""

    @model_validator(mode="after")
    def _limits_something(self) -> ReviewConfig:
        if self.fnr is None and self.fpr is None and self.alpha is None:
            raise ValueError(
                "a review band needs fnr, fpr or both, such as fnr: 0.1 (several classes: alpha: 0.1); or null for none"
            )
        if self.alpha is not None and (self.fnr is not None or self.fpr is not None or self.per_language):
            raise ValueError(
                "fnr, fpr and per_language are for a binary label, alpha is for several classes: leave out one"
            )
        return self


class DecideConfig(Strict):
    on: Literal["auto", "val", "cross_fit"] = "auto"
    """What calibration and thresholds rest on: ``val``, or with ``cross_fit`` the training rows beside it, each as
    models say that never saw its group; ``auto``: val alone where it has 1,000 annotated rows, 200 of each class."""
    calibration: Literal["temperature", "temperature_bias", "vector", "beta", "isotonic", "auto"] = "temperature"
    """``auto`` takes the simplest of them that cross-validation on the rows of ``on`` finds as good as the best."""
    base_rate: Annotated[float, Field(gt=0, lt=1)] | dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = None
    """Share of positive posts where the run will be used (several classes: class -> share); None = as in
    the rows of ``on``."""
    threshold: ThresholdConfig = ThresholdConfig()
    review: ReviewConfig | None = None
    truncated: Literal["review"] | None = None
    """``review``: a person decides on a post whose words were not all read, whatever stands in those that were."""
    unread: Literal["review"] | None = None
    """What is done with posts on whose picture half or more of the lines could not be read; None = as with others."""

    @model_validator(mode="after")
    def _fits_together(self) -> DecideConfig:
        if self.base_rate is not None and self.threshold.confidence and self.threshold.by in ("precision", "capacity"):
            raise ValueError(
                f"threshold.confidence counts rows as they come, and {self.threshold.by} at another base_rate "
                "weighs them: leave one of the two out, or bound recall or fpr, which no base rate moves"
            )
        return self


class DriftConfig(Strict):
    """When `bifocal drift` raises an alarm: a property has moved by both measures."""

    psi: Annotated[float, Field(gt=0)] = 0.2
    """Population stability index beyond what chance makes of it; by custom 0.1 is little and 0.25 much."""
    alpha: Annotated[float, Field(ge=0.001, lt=0.5)] = 0.01
    """Chance of any alarm where nothing has changed; permutation tests do not tell less than 0.001 over all."""


class SlicesConfig(Strict):
    """Which parts of the tested split are looked at by themselves, beside those that every run has."""

    columns: list[str] = []
    """Columns of the source that are kept in ``meta``, or other labels of the taxonomy."""
    groups: str | None = None
    """Such a column that says whom a post speaks of, for the fairness table; None = ``target_type`` if known."""
    terms: str | None = None
    """Instead: a file of words that name a group, ``group: term, term`` or one term a line."""
    rates_of: int | str | None = None
    """Of a label of several classes: the class, against the rest, whose error rates are wanted."""
    min_rows: Annotated[int, Field(ge=10)] = 30
    """A slice of fewer rows (near-duplicates count as one) is named and not measured."""

    @model_validator(mode="after")
    def _one_way_to_groups(self) -> SlicesConfig:
        if self.groups is not None and self.terms is not None:
            raise ValueError("groups and terms both say whom a post speaks of: give one of them")
        return self


class LabelConfig(Strict):
    """One of several labels: what it depends on, what may be done by it, and what it has of its own.

    ``fusion``, ``decide`` and ``slices`` are usually written where they stand for one label, with labels as keys:
    ``decide: {offensive: {...}, default: {...}}``. None = as the run has them.
    """

    requires: str | None = None
    """A binary label whose posts alone this one is about: it learns from those that are positive by it, and is named
    where it is flagged."""
    act: Literal["block", "review", "none"] | None = None
    """What a decision by this label may come to: ``review`` never blocks, ``none`` only tells. None = ``block``, but
    ``none`` where its two classes have names, of which none is known to mean that a post is to be blocked."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of its loss, where an encoder is fine-tuned for all labels at once."""
    fusion: FusionConfig | None = None
    decide: DecideConfig | None = None
    slices: SlicesConfig | None = None

    @staticmethod
    def settings_of(key: str) -> frozenset[str]:
        """The names of the settings that may be a label's own, by where they stand."""
        models: dict[str, type[Strict]] = {"fusion": FusionConfig, "decide": DecideConfig, "slices": SlicesConfig}
        return frozenset(models[key].model_fields)


_OF_A_LABEL = ("fusion", "decide", "slices")
_DEFAULT = "default"
"""In the place of a label: what holds for those that are not named."""


class TranscriberConfig(Strict):
    """How a transcriber reads the words that a part carries; ``auto`` alone is short for ``{when: auto}``."""

    when: Literal["auto", "always", "never"] = "auto"
    """``auto`` reads a part only where the source brings no transcript of it."""
    languages: Annotated[list[str], Field(min_length=1)] | None = None
    """Whose models read, of those that the engine has on this machine (docs/ocr.md); None = the engine's own: OCR's is
    for Latin, Chinese and Japanese."""
    cache: bool = True
    """Take what any run beside this one has read of the same part, and leave it for others."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes of one thread each; None = the cores of the machine."""
    options: Options = {}
    """What this transcriber alone knows; OCR knows none."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"when": value} if isinstance(value, str) else value


class OcrConfig(TranscriberConfig):
    """How the words on pictures are read."""


class AboutConfig(Strict):
    """What `experiments.md` says of a set before its results: written beforehand, by a person."""

    title: str = ""
    """None given: the run's name."""
    order: int = 0
    """Its place in the document."""
    contributes: dict[str, str] = {}
    """Modality -> a sentence on what it can know."""
    hypothesis: str = ""
    """Why fusion might help, or not."""
    expected: str | None = None
    """The verdict that generated data of a known structure should get, such as ``worth it, additive``."""


class ImbalanceRule(Strict):
    """When a fusion whose training was weak in one modality is called adapting, collapsing or over-relying."""

    margin: Annotated[float, Field(ge=0)] = 0.01
    """Adapts: the lower end of (fusion - expert) is not below minus this."""
    collapse: Annotated[float, Field(ge=0)] = 0.0
    """Collapses: the upper end of (fusion - expert) is below minus this."""
    excess: Annotated[float, Field(ge=0)] = 0.01
    """Over-relies: the lower end of (the fusion's loss - the expert's loss) is above this."""
    moved: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Adapts: the lower end of the weight that left the weakened modality is above this. Not 0: its interval is over
    rows and tight, and fitted again on other subsets of the same rows, weights wander by a few hundredths."""


class LabConfig(Strict):
    """What `bifocal lab` does with the run's Evidence, and what it says of the set."""

    about: AboutConfig = AboutConfig()
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Of AUROC or macro-F1: a gain that is surely smaller is not worth a second encoder."""
    options: Options = {
        "learning_rates": [1e-3, 3e-3],
        "weight_decays": [0.01, 1.0],
        "widths": [64, 128],
        "columns": 128,
    }
    """For every strategy that knows them: the same budget for all. ``fusion.options`` goes before."""
    rows: Annotated[int, Field(ge=1)] = 2000
    """Rows at most of what runs encoders again: joint fusions, corrupted and truncated inputs."""
    joint: bool = True
    """Train joint fusions too, which takes minutes where encoders are small and hours where they are not."""
    corrupt: bool = True
    """Corrupt inputs and encode them again: one pass per kind and severity."""
    weaken: bool = True
    """Train the best fusion again on modalities starved, in noise and cut short: some thirty fits."""
    imbalance: ImbalanceRule = ImbalanceRule()
    probes: list[str] = []
    """Labels of the taxonomy that a linear head on each modality's features is to tell (hidden cues)."""


class RobustnessConfig(Strict):
    """Attacks on the posts that a run was tested on, at its end; `bifocal robustness` makes them all, at any time."""

    attacks: list[str] = []
    """By name, such as ``homoglyphs`` or ``jpeg``: an encoder runs once for each, and each of its severities."""
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)] = [1, 2, 3, 4, 5]
    rows: Annotated[int, Field(ge=1)] = 500
    """At most so many, drawn by the seed."""


def _labels(given: Any) -> dict[str, dict[str, Any]]:
    """Label -> what is given of it, of a list or a mapping. Raises `ValueError`."""
    if isinstance(given, dict):
        return {str(name): dict(own or {}) for name, own in given.items()}
    if not isinstance(given, list):
        raise ValueError(f"labels = {given!r}: takes a list of names, or a mapping of names to what is special of each")
    found: dict[str, dict[str, Any]] = {}
    for one in given:
        name, own = next(iter(one.items())) if isinstance(one, dict) and len(one) == 1 else (one, None)
        if not isinstance(name, str):
            raise ValueError(f"labels holds {one!r}: takes names, or {{name: what is special of it}}")
        if name in found:
            raise ValueError(f"labels names {name!r} twice")
        found[name] = dict(own or {})
    if not found:
        raise ValueError("labels names none: give one or several, or leave it out for label")
    return found


def part_name(plugin: str) -> str:
    """What the part of a modality is called: as its file is, or as the class of an outside plug-in.

    >>> part_name("image"), part_name("my_package.web:ShortLink")
    ('image', 'short_link')
    """
    _, outside, name = plugin.partition(":")
    return re.sub(r"(?<=.)(?=[A-Z])", "_", name).lower() if outside else plugin


class RunConfig(Strict):
    """Everything a run depends on."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the folder ``runs/<run>/`` and the endings of its files."""
    label: str = "abuse_hate"
    """What is asked of a post; of several the first."""
    labels: Annotated[dict[str, LabelConfig], Field(exclude_if=lambda labels: not labels)] = {}
    """Several, answered by one pass of each encoder: a list of names, or name -> what is special about it."""
    seed: int = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take only the first rows of the source; 50 = the pilot."""
    source: SourceConfig
    """Or a list of sources, which is short for ``{kind: several, sources: [...]}``."""
    strict: bool = False
    """Stop at the first bad row instead of at 5% bad rows."""
    ocr: OcrConfig = OcrConfig()
    transcribe: dict[str, TranscriberConfig] = {}
    """Further transcribers, by name: each has a block of its own in the composed text."""
    fit: Literal["pad", "stretch", "crop"] = "pad"
    """How a picture becomes a 384x384 square."""
    image_format: Literal["png", "webp", "jpeg"] = "png"
    """How pictures lie in shards: ``png`` and ``webp`` keep every pixel, ``jpeg`` (quality 95) is small and lossy."""
    leakage: Literal["report", "drop"] = "report"
    splits: SplitsConfig = SplitsConfig()
    shard_size: Annotated[int, Field(ge=1)] = 1000
    modalities: Annotated[list[str], Field(min_length=1)] = ["text", "image"]
    """Files in ``modalities/``, or ``package.module:Class``, whose part is called as its class is: `part_name`."""
    experts: dict[str, ExpertConfig] = {}
    fusion: FusionConfig = FusionConfig()
    decide: DecideConfig = DecideConfig()
    drift: DriftConfig = DriftConfig()
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples behind every interval."""
    slices: SlicesConfig = SlicesConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    lab: LabConfig = LabConfig()

    @model_validator(mode="before")
    @classmethod
    def _split_by_label(cls, content: Any) -> Any:
        """Settings that have labels as keys become those of each."""
        if not isinstance(content, dict) or content.get("labels") in (None, {}):
            return content
        labels = _labels(content["labels"])
        if content.get("label", next(iter(labels))) != next(iter(labels)):
            raise ValueError(
                f"label = {content['label']!r} and labels = {', '.join(labels)}: the first of labels is the run's "
                "label; leave label out"
            )
        content = {**content, "label": next(iter(labels)), "labels": labels}
        for key in _OF_A_LABEL:
            found, settings = content.get(key), LabelConfig.settings_of(key)
            if not isinstance(found, dict) or not found.keys() & {*labels, _DEFAULT}:
                continue
            if unknown := sorted(found.keys() - {*labels, _DEFAULT}):
                if settings.issuperset(unknown):  # a label that is called as a setting is
                    continue
                known = nearest(unknown[0], [*labels, _DEFAULT])
                raise ValueError(f"{key} has labels as keys, and {unknown[0]!r} is none of them; {known}")
            of = {name: found.get(name, found.get(_DEFAULT)) for name in labels}
            content[key] = of.pop(content["label"]) or {}
            for name, own in of.items():
                if key in labels[name] and name in found:
                    raise ValueError(f"labels.{name}.{key} and {key}.{name} say the same thing: leave one out")
                labels[name] = {key: {} if own is None else own, **labels[name]}
        return content

    @field_validator("source", mode="before")
    @classmethod
    def _list_of_sources(cls, value: Any) -> Any:
        return {"kind": "several", "sources": value} if isinstance(value, list) else value

    @field_validator("transcribe")
    @classmethod
    def _no_second_ocr(cls, value: dict[str, TranscriberConfig]) -> dict[str, TranscriberConfig]:
        if "ocr" in value:
            raise ValueError("'ocr' has a key of its own, beside `transcribe`")
        return value

    @field_validator("modalities")
    @classmethod
    def _no_twins(cls, value: list[str]) -> list[str]:
        if len({part_name(one) for one in value}) != len(value):
            raise ValueError(f"modalities {value} names one twice")
        return value

    @model_validator(mode="after")
    def _names_agree(self) -> RunConfig:
        places: list[tuple[str, Iterable[str]]] = [("experts", self.experts), ("fusion.read", self.fusion.read)]
        places += [("lab.about", self.lab.about.contributes)]
        places += [(f"labels.{name}.fusion.read", own.fusion.read) for name, own in self.labels.items() if own.fusion]
        for place, names in places:
            for name in names:
                if name not in self.parts:
                    raise ValueError(
                        f"{place} names {name!r}, which is not among modalities; {nearest(name, self.parts)}"
                    )
        return self

    @model_validator(mode="after")
    def _labels_agree(self) -> RunConfig:
        before: list[str] = []
        for name, own in self.labels.items():
            # "tokens" names files beside those of labels; SQLite finds no key of an object that holds a quotation mark.
            if name in ("", _DEFAULT, "tokens") or '"' in name:
                raise ValueError(
                    f"labels has the name {name!r}, which is none that a label can have: name it otherwise"
                )
            if own.requires is not None and own.requires not in before:
                if own.requires not in self.labels:
                    raise ValueError(f"labels.{name}.requires = {own.requires!r}; {nearest(own.requires, self.labels)}")
                raise ValueError(
                    f"labels.{name}.requires = {own.requires!r}, which has to stand before {name}: the first label is "
                    "asked of every post, and each further one where what it requires was answered"
                )
            if own.requires is not None and (above := self.labels[own.requires].requires) is not None:
                raise ValueError(
                    f"labels.{name}.requires = {own.requires!r}, which requires {above!r} itself: name {above!r} or a "
                    "label that requires none"
                )
            before.append(name)
        return self

    @property
    def label_names(self) -> list[str]:
        """Every label that the run answers, the first one first."""
        return list(self.labels) or [self.label]

    @property
    def label_rules(self) -> dict[str, Any]:
        """What decides which rows each label learns from and how much it counts; empty for a single label."""
        return {name: [own.requires, own.weight] for name, own in self.labels.items()}

    @property
    def label_actions(self) -> dict[str, Literal["block", "review", "none"] | None]:
        """What may be done by each label, see `LabelConfig.act`; empty for a single one."""
        return {name: own.act for name, own in self.labels.items()}

    def for_label(self, name: str) -> RunConfig:
        """The configuration as it is for one of the labels. Raises `ConfigError` where it is none of them."""
        if name == self.label:
            return self
        if name not in self.labels:
            raise ConfigError(f"run {self.run!r} does not answer {name!r}; {nearest(name, self.label_names)}")
        own = self.labels[name]
        of = {key: found for key in _OF_A_LABEL if (found := getattr(own, key)) is not None}
        return self.model_copy(update={"label": name, **of})

    def of_run(self, name: str, label: Label) -> Label:
        """A label of the taxonomy as this run asks it: of some posts alone, where it requires another."""
        return replace(label, requires=self.labels[name].requires) if name in self.labels else label

    @property
    def transcribers(self) -> dict[str, TranscriberConfig]:
        """Transcriber -> its settings, in the order of their blocks."""
        return {"ocr": self.ocr, **self.transcribe}

    @property
    def parts(self) -> dict[str, str]:
        """Name of each modality -> its plug-in: the same, or ``package.module:Class`` as `modalities` has it."""
        return {part_name(plugin): plugin for plugin in self.modalities}

    def expert(self, modality: str) -> ExpertConfig:
        """The expert of a modality, by default where the configuration is silent."""
        return self.experts.get(modality, ExpertConfig())


class _Loader(yaml.SafeLoader):
    """YAML's own, but a key that stands twice is refused: the later would replace the earlier in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Looks at the keys here, where those of a merge (``<<``), which may be overwritten, are not yet among them."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[Any, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key)
            if (first := seen.setdefault(value, key)) is not key:
                lines = first.start_mark.line + 1, key.start_mark.line + 1
                place = f"lines {lines[0]} and {lines[1]}" if lines[0] != lines[1] else f"both in line {lines[0]}"
                if first.value == key.value:
                    raise ConfigError(f"key {key.value!r} stands twice, {place}: keep one")
                raise ConfigError(f"keys {first.value!r} and {key.value!r} mean the same in YAML, {place}: keep one")
        return node


def _bool(loader: _Loader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_yaml_bool(node)
    return value if node.value.lower() in ("true", "false") else Word(node.value, value)


def _int(loader: _Loader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_yaml_int(node)  # octal, binary, hexadecimal, in sixties, with underscores
    return value if str(value) == node.value else Word(node.value, value)


def _float(loader: _Loader, node: yaml.ScalarNode) -> Any:
    value = loader.construct_yaml_float(node)
    return Word(node.value, value) if ":" in node.value or "_" in node.value else value


_Loader.add_constructor("tag:yaml.org,2002:bool", _bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))  # as JSON and tables do

_CUT = re.compile(r"\s*#")
_TIGHT = re.compile(r" #[^\s#]")
"""How no comment is written, but a name: ``Batch #3``."""


def _parsed(text: str, *, comments: bool = True) -> Any:
    """YAML as Python's values.

    Raises `ConfigError` on a key that stands twice and on a value that is cut by what YAML takes for a comment
    (without ``comments``: by any), `ValueError` on what is no YAML.
    """
    try:
        _refuse_cut(text, _TIGHT if comments else _CUT)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _refuse_cut(text: str, cut: re.Pattern[str]) -> None:
    if "#" not in text:
        return
    for token in yaml.scan(text, _Loader):
        if not isinstance(token, yaml.ScalarToken) or token.end_mark.line != token.start_mark.line:
            continue
        rest = text[token.end_mark.index :].partition("\n")[0]
        if cut.match(rest):
            begun = text[: token.end_mark.index].rpartition("\n")[2].strip()
            raise ConfigError(
                f"{begun + rest!r} is cut at the #, where YAML begins a comment: quote the value "
                f"({token.value + rest.rstrip()!r}), or write a comment as two spaces and `# `"
            )


PACKAGED = next(
    (place for place in (Path(__file__).parent / "configs", Path(__file__).parents[2] / "configs") if place.is_dir()),
    Path(__file__).parent / "configs",
)
"""The configurations that come with Bifocal: in the installed package, or beside the sources of a checkout."""


def packaged_configs() -> dict[str, Path]:
    """Name -> file, of the configurations that come with Bifocal."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.yaml"))}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML configuration, fill in environment variables, apply ``a.b=c`` overrides, validate.

    Parameters
    ----------
    path : str or Path
        A file, or the name of a configuration that comes with Bifocal, such as ``pilot``.
    overrides : iterable of str
        ``"experts.text.epochs=3"``; the value is read as YAML.

    Raises
    ------
    ConfigError
        Where the file is missing or not YAML, a key stands twice or is unknown, a variable is unset, or a value is of
        the wrong type.
    """
    return parse_config(read_settings(path, overrides), where=str(path))


def read_settings(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with overrides, not yet validated. Raises `ConfigError` as `load_config`."""
    given, named = str(path), packaged_configs()
    path = named.get(given, Path(given)) if not Path(given).is_file() else Path(given)
    if not path.is_file():
        here = [*map(str, sorted([*Path().glob("*.yaml"), *Path("configs").glob("*.yaml")])), *named]
        raise ConfigError(
            f"there is no configuration file {given!r}; {nearest(given, here)}; `bifocal init POSTS` writes one"
        )
    try:
        content = _parsed(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML in UTF-8: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of options, found {type(content).__name__}")
    for override in overrides:
        set_option(content, override)
    return content


def parse_config(content: Mapping[str, Any], where: str = "configuration") -> RunConfig:
    """Validate a mapping as a `RunConfig`. Raises `ConfigError`."""
    return _validated(expand(dict(content)), where)


def differing_settings(one: Any, two: Any, name: str = "") -> dict[str, list[Any]]:
    """Dotted name -> both values, of the leaves of two dumped configurations or policies that differ."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        found: dict[str, list[Any]] = {}
        for key in [*one, *(k for k in two if k not in one)]:
            found |= differing_settings(one.get(key), two.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if one == two else {name: [one, two]}


def recorded_config(content: Any, where: str) -> RunConfig:
    """The configuration that a folder holds. Raises `ConfigError`.

    Of the environment nothing is filled in: that was done when it was recorded, and a folder from elsewhere has no
    business with what stands in it. A run from before `decide.on` was tuned on val.
    """
    if isinstance(content, dict) and isinstance(content.get("decide"), dict):
        content = {**content, "decide": {"on": "val", **content["decide"]}}
    return _validated(content, where)


def _validated(content: Any, where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, RunConfig)}") from None


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """A mapping given on the command line, as JSON or YAML. Raises `ConfigError`."""
    try:
        content = _parsed(text, comments=False)
    except ValueError:
        content = None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where} takes a mapping such as '{{name: value}}', found {text[:200]!r}")
    return {str(name): value for name, value in content.items()}


def set_option(content: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=c`` to a mapping of options. Raises `ConfigError`."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes a.b=c, found {override!r}")
    *path, last = key.strip().split(".")
    try:
        parsed = _parsed(value, comments=False)
        if parsed is None and value.lstrip().startswith("#"):
            raise ConfigError(f"{value!r} is a comment to YAML: quote it")
    except ValueError:
        raise ConfigError(f"--set {key}: {value!r} is not a YAML value; quote it") from None
    except ConfigError as error:
        raise ConfigError(f"--set {key}: {error}") from None
    place = content
    for step in path:
        inner = place.get(step)
        if isinstance(inner, str) and step == "ocr":  # the short form `ocr: auto`
            inner = {"when": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {key}: {step!r} holds {inner!r}, which has no options below it")
        place[step] = inner
        place = inner
    if parsed is None:  # back to the default; a named expert or reading is taken away
        place.pop(last, None)
    else:
        place[last] = parsed


_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand_home(path: str | Path) -> Path:
    """A path with ``~`` in full. Raises `ConfigError` where there is no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: `~` is no folder here, as HOME is not set: write the path in full") from None


def expand(value: Any) -> Any:
    """Fill ``${NAME}`` and ``${NAME:-default}`` from the environment, at any depth.

    Raises `ConfigError` where a variable without default is unset.
    """
    if isinstance(value, dict):
        return {k: expand(v) for k, v in value.items()}
    if isinstance(value, list):
        return [expand(v) for v in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = os.environ.get(name) or default
        if found is None:
            raise ConfigError(f"the configuration reads ${{{name}}}, which is not set: export {name}=…")
        return found

    return _VARIABLE.sub(fill, value)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Pydantic's findings as one line: which key, what was found, what is allowed."""
    findings = []
    for item in error.errors():
        location = ".".join(str(step) for step in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, item["loc"][:-1])
            above = "".join(f"{step}." for step in item["loc"][:-1])
            own = (
                f" (settings of what is chosen there stand under {above}options)"
                if above and "options" in known
                else ""
            )
            findings.append(f"unknown key {location!r}; {nearest(str(item['loc'][-1]), known)}{own}")
        elif item["type"] == "missing":
            findings.append(f"{location!r} is required")
        elif item["type"] == "value_error":
            findings.append((f"{location}: " if location else "") + item["msg"].removeprefix("Value error, "))
        elif item["type"] in ("tuple_type", "list_type"):
            each = _fields_at(model, (*item["loc"], 0))
            of = f" of {{{', '.join(each)}}}" if each else ""
            findings.append(f"{location} = {item['input']!r}: takes a list{of}")
        elif item["type"] == "model_type":
            known = _fields_at(model, item["loc"])
            findings.append(f"{location} = {item['input']!r}: takes a mapping {{{', '.join(known)}}}")
        elif item["type"] == "string_type" and isinstance(item["input"], int | float | None):
            written = "null" if item["input"] is None else str(item["input"]).lower()
            findings.append(f"{location} = {written}: takes a text; quote it ('{written}') if it is a name")
        else:
            findings.append(f"{location} = {item['input']!r}: {item['msg']}")
    return "; ".join(findings)


def _fields_at(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Names allowed below a location of a model, for the nearest-name hint."""
    from types import UnionType
    from typing import get_args

    for step in location:
        fields = _by_name(model)
        if step in fields:
            model = fields[step].annotation
        elif args := get_args(model):  # dict[str, Inner] and tuple[Inner, ...]: any key leads to Inner
            model = next((arg for arg in args if _by_name(arg)), args[-1])
        if isinstance(model, UnionType):  # Inner | None
            model = next((arg for arg in get_args(model) if _by_name(arg)), model)
    return list(_by_name(model))


def _by_name(model: Any) -> dict[str, Any]:
    """The fields of a model by the names that a configuration gives them."""
    return {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}
