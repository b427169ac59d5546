"""The protocols a plug-in fulfils; `tests/contracts/` runs every plug-in through the suite of its kind.

A plug-in is one file in its folder, holding one class named after the file (``hateful_memes.py`` ->
``HatefulMemes``); see `bifocal.plugins`. Nothing outside that file knows its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, runtime_checkable

from .config import ExpertConfig, Reads, RunConfig, Strict, TranscriberConfig, Tune
from .example import Evidence, Example, Label, Rejected, Rows

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


TextRole = Literal["transcript", "caption"]


class Piece(NamedTuple):
    """A piece of a part that can be hidden from an expert: a word, a region, a column."""

    name: str
    """As a person calls it."""
    place: tuple[int, ...] = ()
    """Where it lies in the value: ``(start, end)`` in characters of a text, ``(left, top, right, bottom)`` in pixels of
    a picture; nothing where the name says it."""


@dataclass(frozen=True, slots=True)
class Input:
    """How one kind of part is given from outside: in Python, over HTTP, on a command line, in a table, on the page.

    Attributes
    ----------
    form : {"words", "file", "record"}
        What it is on its way: text; the bytes of a file, which Python, command lines and tables name by a path, JSON
        holds in base64 and a form sends as a file; or columns and their values, a JSON object.
    title : str
        What the page calls it.
    description : str
        A sentence for the documentation of the HTTP API.
    argument : str, optional
        The argument of its own that `System.predict` and `bifocal.Client` have for it; None = it travels in their
        ``parts`` under its name (command line: ``--part NAME=VALUE``; HTTP: the field ``parts``).
    columns : tuple of str
        What its column in a table is usually called; () = its name.
    limit : int, optional
        Characters, or bytes of a file, beyond which it is refused.
    media_types : tuple of str
        Of its files.
    kept_as : str
        The column of the decision log that holds it; ``parts`` is that of all which have none of their own.
    place : int
        Where it stands among the parts, wherever they are listed.
    """

    form: Literal["words", "file", "record"]
    title: str
    description: str
    argument: str | None = None
    columns: tuple[str, ...] = ()
    limit: int | None = None
    media_types: tuple[str, ...] = ()
    kept_as: str = "parts"
    place: int = 100

    @property
    def is_file(self) -> bool:
        """Whether a source gives a reference in its place, which `Source.open` turns into bytes."""
        return self.form == "file"


@runtime_checkable
class Modality(Protocol):
    """All that is known of one kind of part, in one file (``modalities/<name>.py``, or ``package.module:Class``).

    Of ``package.module:Class`` the part is called as the class is, in lower case: ``Link`` is the part ``link``.
    What only some kinds can is in protocols of their own: `EncodedAs`, `Sequential`, `Attackable`, `Occludable`,
    `Convertible`.
    """

    input: ClassVar[Input]
    """How it is given from outside."""

    @property
    def suffix(self) -> str:
        """Key of the part in a shard: ``png``, ``txt``, ...; may depend on the configuration."""

    expert_name: ClassVar[str]
    """Name of its expert in every artifact: ``text_expert``, ``vision_expert``, ..."""
    encoder: ClassVar[str]
    """The encoder plug-in used where the configuration names none; ``auto`` = the best of all that read it."""

    @property
    def lossless(self) -> bool:
        """Whether `unpack` gives back the very value that `pack` was given; serving repeats the loss where not."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self: ...

    def facts(self, raw: Any) -> dict[str, Any]:
        """Check one raw part and say what the manifest keeps of it (sizes, hashes). Raises `DataError`."""

    def read(self, raw: Any) -> Any:
        """The canonical value of a raw part: the one function that packing and serving share. Raises `DataError`."""

    def pack(self, value: Any) -> bytes: ...
    def unpack(self, blob: bytes) -> Any: ...

    def blank(self) -> Any:
        """The value of an absent part; absent and ablated are the same thing."""

    def corrupt(self, value: Any, kind: str, severity: int, rng: np.random.Generator) -> Any:
        """The value disturbed; ``kind`` is of `corruptions` (``severity`` 1..5) or, where it is `Attackable`, of its
        ``attacks``; others: `ConfigError`."""

    corruptions: ClassVar[tuple[str, ...]]
    """What the lab disturbs inputs by."""


@runtime_checkable
class EncodedAs(Protocol):
    """A modality whose values are read by the encoders of another: a link is read as a text is."""

    encoded_as: ClassVar[str]
    """The other modality."""


@runtime_checkable
class Sequential(Protocol):
    """A modality whose raw part may show several things in turn (frames); serving decides by the worst of them."""

    def moments(self, raw: Any) -> Sequence[Any]:
        """Their canonical values; of one that shows a single thing, what `Modality.read` gives. Raises `DataError`."""


@runtime_checkable
class Attackable(Protocol):
    """A modality that people alter to get a post past a model, or that platforms alter."""

    attacks: ClassVar[Mapping[str, tuple[int, ...]]]
    """Kind, as `Modality.corrupt` knows it -> its severities, of 1..5."""


@runtime_checkable
class Convertible(Protocol):
    """A modality of which the decision log keeps what is made of its value; of others, the part as it came."""

    def keep(self, value: Any) -> Any:
        """What is kept of a value: of a file bytes, else something JSON-able."""

    def restore(self, kept: Any) -> Any:
        """The value, or nearly so. Raises `DataError`."""


@runtime_checkable
class Occludable(Protocol):
    """A modality whose values have pieces that can be hidden one by one, for `System.explain`."""

    def occlusions(self, value: Any, pieces: int | None = None) -> list[tuple[Piece, Any]]:
        """The value with one piece hidden, for each piece that it has, in their order.

        ``pieces`` is the most it is cut into, where that is the modality's to choose; None = as suits it. Without a
        second piece there is none: to hide the only one is to leave the part out.
        """


@runtime_checkable
class Source(Protocol):
    """One dataset layout (``sources/<kind>.py``), a pydantic model whose fields are the options under ``source:``."""

    text_role: TextRole
    """Whether the text part is a transcript of the picture (goes into the OCR block) or the post's own words."""

    def role_of(self, example: Example) -> TextRole:
        """The role of one example's text: `text_role`, but for several sources in one."""

    def labels(self) -> Mapping[str, Label]:
        """The labels this source may bear."""

    def __iter__(self) -> Iterator[Example | Rejected]:
        """Every row, in a fixed order, streaming; a row that cannot be read comes as `Rejected`."""

    def fingerprint(self) -> str:
        """Changes when the rows change; cheap (of the files that list them, not of the pictures: see `Stamped`)."""

    def open(self, reference: str) -> bytes:
        """The bytes behind a part's reference. Raises `DataError` where it is missing or outside the source."""


@runtime_checkable
class NotingSource(Protocol):
    """A source that has to guess at how its files are written, and says what it took for what."""

    def notes(self) -> list[str]:
        """A sentence for each guess, of the rows read so far."""


@runtime_checkable
class PromisesSplits(Protocol):
    """A source whose configuration says which split its rows are; one may be such a source."""

    def promised_split(self, example: Example) -> str | None:
        """The split that a row has whatever else the run reads; None where nothing was said."""


@runtime_checkable
class Stamped(Protocol):
    """A source whose parts lie in files that may change, or come, between two commands; one may be such a source."""

    def stamp(self, reference: str) -> list[Any] | None:
        """JSON-able: the file behind a reference by its name, size and times, in this order, without reading it.

        None where there is none.
        """


class Transcript(Protocol):
    """What a transcriber read off one part: a dataclass, whose fields are the columns of ``<block>.jsonl``."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def text(self) -> str: ...

    @property
    def confidence(self) -> float | None:
        """0..1; None where there are no words."""

    @property
    def engine(self) -> str:
        """Name and version of what read it."""

    @property
    def mostly_unread(self) -> bool:
        """Whether half or more of the words that were seen could not be read: not the same as a part without words."""


@runtime_checkable
class Transcriber(Protocol):
    """Reads the words that a part carries (``transcribe/<name>.py``) into a block of the composed text.

    It is small until `load` or the first `read`, and can be pickled: every worker process loads its own.
    """

    modality: ClassVar[str]
    """The part that it reads, which is one that `Source.open` turns into bytes."""
    block: ClassVar[str]
    """``OCR``: its words stand between ``[OCR]`` and ``[/OCR]``; in lower case the name of its step and its file."""
    noun: ClassVar[str]
    """What one part is called in messages and counts: ``picture``."""
    hint: ClassVar[str]
    """What a person may do where much could not be read."""
    transcript: ClassVar[Callable[..., Transcript]]
    """The class of its transcripts, called with their fields by name."""

    @classmethod
    def from_config(cls, config: TranscriberConfig) -> Self:
        """Raises `ConfigError` on an option that it lacks."""

    @property
    def engine(self) -> str:
        """As its transcripts name it. Raises `ConfigError` and `MissingExtra`."""

    def reach(self) -> None:
        """See that the models of the languages that were asked for are here. Raises `ConfigError`."""

    def key(self) -> str:
        """Names all that a transcript depends on beside the part: engine, models by their content, and method.

        Raises `ConfigError` and `MissingExtra`.
        """

    def load(self) -> None:
        """Load what reading needs, so that no post waits for it. Raises `ConfigError` and `MissingExtra`."""

    def read(self, blob: bytes) -> Transcript:
        """Read one part, as `Source.open` gives it. Raises `DataError`."""


@runtime_checkable
class Encoder(Protocol):
    """Encoder + head of one modality (``models/encoders/<name>.py``)."""

    modality: ClassVar[str]
    tunes: ClassVar[tuple[Tune, ...]]
    """The values of ``experts.<modality>.tune`` that it knows, its default first."""
    settings: ClassVar[type[Strict]]
    """The model of ``experts.<modality>.options``."""
    columns: Collection[str] | None
    """The columns that it reads of a record; None where its values are no records."""
    frozen: bool
    """True where only the head learns: features are then clean, and one pass serves head and Evidence alike."""
    learned_from: frozenset[str]
    """Ids of the rows it learned from; `bifocal.fit.expert` sets it, `save` keeps it, and rule 3 rests on it."""

    @classmethod
    def reach(cls, expert: ExpertConfig) -> None:
        """See that what `create` starts from is to be had, before hours of other steps; reads no weights.

        Raises `ModelError`.
        """

    @classmethod
    def create(cls, expert: ExpertConfig, classes: Sequence[Any], seed: int, values: Sequence[Any]) -> Self:
        """A new expert; ``values`` are the training values (a tokenizer may be trained on them).

        Raises `ModelError` where the model is not to be had, `ConfigError` on an unknown option.
        """

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises `ModelError`."""

    def check(self, value: Any) -> None:
        """Refuse a value to be served that training cannot have meant (a column of an unknown name).

        Raises `DataError`.
        """

    def fit(
        self,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Fine-tune; one dict per epoch (``epoch, train_loss, train_accuracy, ..., val_macro_f1``)."""

    def encode(self, values: Sequence[Any], progress: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """One pass: ``features [n, d]`` and ``logits [n, C]``, float32 on the CPU, in the order given.

        What else it returns ``[n, …]`` is kept in the cache for `fit_head`, and so are the windows of long values
        (`bifocal.models.window_rows`). ``progress`` takes the examples done.
        """

    def fit_head(self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str]) -> list[dict[str, float]]:
        """Fit the head alone on what `encode` gave (frozen encoders)."""

    def cross_fit(
        self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str], *, folds: int, seed: int
    ) -> Tensor:
        """Logits ``[n, C]`` of heads like the one fitted, each of which saw neither the row nor its group."""

    def head_logits(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` of the head over features already computed."""

    def save(self, folder: Path) -> None: ...

    def fingerprint(self) -> str:
        """Changes whenever `encode` would give other features: weights below the head, and preprocessing."""

    def parameters(self) -> dict[str, int]:
        """``{"total": …, "trained": …}``."""

    @classmethod
    def cost(cls, expert: ExpertConfig, classes: int) -> dict[str, float]:
        """``{"total", "trained", "flops_per_example"}`` from the configuration alone. Raises `ModelError`."""


@runtime_checkable
class QuickEncoder(Protocol):
    """An encoder that learns as a whole, but in seconds: it can be fitted anew without each fold."""

    def fit_folds(
        self, expert: ExpertConfig, rows: Rows, val: Rows | None, fold: Sequence[int], checkpoints: Path
    ) -> Tensor:
        """Logits ``[n, C]`` of encoders like this one, none of which learned from the row's fold.

        ``expert`` is what `Encoder.create` made this one of; ``fold [n]`` are numbers from 0; ``checkpoints`` is a
        folder of its own, emptied at the end.
        """


@runtime_checkable
class MultiLabelEncoder(Protocol):
    """An encoder that answers several labels from one pass: below all of its heads is one and the same model."""

    @property
    def heads(self) -> Mapping[str, Encoder]:
        """What `add_head` gave, by label; `Encoder.save` writes them along, and `Encoder.load` brings them back."""

    loss_weight: float
    """Of the first label, among those that learn together."""

    def add_head(self, label: str, classes: Sequence[Any], weight: float = 1.0) -> Encoder:
        """Add a head for a further label, before anything is learned or encoded.

        Gives an `Encoder` that shares all that is below the head, and has classes, head, penalty, offsets of windows
        and ``learned_from`` of its own; it is saved with this one. Over a frozen encoder each head is fitted by its
        own `Encoder.fit_head`; else `Encoder.fit` of this one trains all of them together on `Rows.further`, each on
        the rows that bear its label, ``weight`` telling how much each counts in the loss; its epochs then also bear
        ``<label>_val_macro_f1``, ..., and ``val_mean_macro_f1``, which chooses.

        Raises `ModelError` where there is such a head.
        """


@runtime_checkable
class TokenEncoder(Protocol):
    """An encoder that has hidden states of single words or patches, which a fusion may read."""

    def encode_tokens(
        self, values: Sequence[Any], progress: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What `Encoder.encode` gives and, of the same pass, each value's last hidden states ``[L, d]``.

        Float32 on the CPU, without padding.
        """


@runtime_checkable
class Fusion(Protocol):
    """Turns several Evidences into logits (``models/fusions/<name>.py``); knows modalities by name only.

    A fusion is built with keyword options (``fusion.options``) and is ready after `fit` or `restore`; one that trains
    encoders with itself is an `EncoderTuner` too.
    """

    reads: Reads
    """What it takes from an Evidence by default; the configuration may choose per modality. ``tokens`` fall back to
    ``features`` where an encoder has none."""

    def fit(
        self,
        evidence: Mapping[str, Evidence],
        labels: Tensor,
        *,
        seeds: Sequence[int],
        read: Mapping[str, Reads] | None = None,
        val: Mapping[str, Evidence] | None = None,
    ) -> Self:
        """Learn from rows ``[n]`` with class indices ``labels [n]``; ``val`` serves early stopping and the grid."""

    def __call__(self, evidence: Mapping[str, Evidence]) -> Tensor:
        """Logits ``[n, C]``; any modality may be absent per row."""

    def explain(self, evidence: Mapping[str, Evidence]) -> Mapping[str, Tensor]:
        """Weight given to each modality, name -> ``[n]``; empty where the method has none."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """``(config, tensors)``: JSON-able settings, and a flat state dict."""

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self: ...


@runtime_checkable
class DecidesAlone(Protocol):
    """A fusion in which one expert decides wherever its part is there."""

    @property
    def decides_alone(self) -> str:
        """Its modality."""


@runtime_checkable
class EncoderTuner(Protocol):
    """A fusion that learns with part of the encoders, in copies of its own; the experts stay as they are.

    It learns from `Evidence.values`, and reads tokens that it makes of values itself; each of its encoders runs once
    per value, whatever is asked of the tokens then.
    """

    def attach(self, encoders: Mapping[str, Encoder]) -> None:
        """Take the experts by modality: before `Fusion.fit`, and after `Fusion.restore`, which holds only what learned.

        Raises `ModelError` where it learned on top of other ones, `ConfigError` where it cannot tune one of them.
        """

    def tokens(
        self, modality: str, values: Sequence[Any], progress: Callable[[int], None] | None = None
    ) -> list[Tensor] | None:
        """The tokens ``[L, d]`` of each value by its own encoder; None where it reads features of this modality."""


@runtime_checkable
class EpochFusion(Protocol):
    """A fusion whose training takes long enough to be told of, epoch by epoch."""

    history: list[dict[str, float]]
    """Per epoch ``epoch``, ``train_loss``, with val ``val_loss``, ``val_macro_f1``, ...; kept by `Fusion.state`."""
    on_epoch: Callable[[dict[str, float]], None] | None
    """Takes each finished epoch's row."""


@runtime_checkable
class SeedEnsemble(Protocol):
    """A fusion that averages one model per seed."""

    def member_logits(self, evidence: Mapping[str, Evidence]) -> Tensor:
        """Logits of the single seeds ``[S, n, C]``: the spread over seeds."""


@runtime_checkable
class PairScorer(Protocol):
    """A fusion that scores all pairs of rows faster than one by one (EMAP)."""

    def pairs(self, evidence: Mapping[str, Evidence], first: str) -> Callable[[slice, slice], Tensor]:
        """Rows of the modality ``first``, columns of all others -> logits ``[r, c, C]`` of their pairs."""


@runtime_checkable
class ParameterCounter(Protocol):
    """A fusion that counts its parameters itself: its tensors are not the numbers that it learned."""

    def parameters(self) -> dict[str, int]:
        """``total`` and ``trained``, of all seeds."""


@runtime_checkable
class HasOptions(Protocol):
    """A class of plug-ins that declares which options it knows."""

    Options: type[Strict]


class Reporter:
    """What a run tells while it works; this one is silent, the command line brings one that draws."""

    def step(self, name: str, skipped: bool) -> None:
        """A step begins, or is skipped because its fingerprint says it is done."""

    def progress(self, done: int, total: int | None) -> None:
        """How far the step is."""

    def epoch(self, model: str, figures: Mapping[str, float]) -> None:
        """An expert finished an epoch (or its head)."""

    def note(self, message: str) -> None:
        """A finding worth a line: quarantined rows, leakage, in-sample evaluation."""
