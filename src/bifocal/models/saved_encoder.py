"""What all encoders share: settings and card, one pass over values, the head on top, the folder they are saved in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ..config import ExpertConfig, Strict, Tune
from ..contracts import MultiLabelEncoder
from ..errors import ModelError
from ..example import UNLABELLED, Rows
from ..workspace import read_json, write_json
from .classifier import figures
from .label_heads import read_head, write_heads
from .linear import FOLDS, PENALTIES, LinearHead, cross_fit, fit_linear
from .saved import check_seal, read_card, sealed

if TYPE_CHECKING:
    from .windows import Windows

LEARNED = "learned_from.json"
LEARNED_BY_HEADS = "heads_learned_from.json"
"""Ids by label, of the further heads that learned from other rows."""
OnBatch = Callable[[Sequence[int], Any, Mapping[str, Tensor]], None]
ROWS_AT_ONCE = 4096
"""Values encoded at a time: bounds the memory of a large split."""


@runtime_checkable
class FasterForInference(Protocol):
    """An encoder that can compute some things once, for as long as it learns nothing more."""

    def prepare_for_inference(self, *, bfloat16: bool = False) -> None: ...


@runtime_checkable
class WindowReader(Protocol):
    """An encoder that does not read all of a value that is too long."""

    def windows(self, value: Any) -> Windows:
        """The windows that are read of a value, and whether they hold all of it."""


@runtime_checkable
class WindowedEncoder(WindowReader, Protocol):
    """An encoder that reads values that are too long for one pass in several."""

    classes: list[Any]
    most_windows: int
    window_offsets: list[float]
    """Of `bifocal.models.windows.join_windows`; saved with it."""


class SavedEncoder:
    """Encoder + head of one modality; an encoder sets the class attributes and brings the methods that raise here.

    Attributes
    ----------
    frozen : bool
        Whether only the head learns, so that a fusion may learn from the features of every training row.
    learned_from : frozenset of str
        Ids of the rows it learned from, set by whoever trained it and saved with it.
    penalty : float or None
        Of the head, once `fit_head` chose it.
    examples_encoded : int
        Examples that went through `encode`; proves the promise of one pass per example.
    heads : dict
        Further label -> what ``add_head`` gave, in an encoder that has it: a shallow copy of this one, with classes,
        head and what belongs to a head of its own.
    added_to : SavedEncoder or None
        The encoder that this is a further head of; what it encodes is counted there.
    loss_weight : float
        Of this label, among those whose heads learn together with all of the encoder.
    """

    plugin: ClassVar[str]
    """The file name in ``models/encoders/``."""
    modality: ClassVar[str]
    tunes: ClassVar[tuple[Tune, ...]]
    """The values of ``tune`` that it takes, its default first; without ``head`` there is no head to fit alone."""
    settings: ClassVar[type[Strict]]
    """The model of ``experts.<modality>.options``."""
    penalties: ClassVar[Sequence[float]] = PENALTIES
    folds: ClassVar[int] = FOLDS

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int):
        self.expert = expert.with_tune(self.tunes)
        self.classes = list(classes)
        self.seed = seed
        self.frozen = self.expert.tune == "head"
        self.learned_from: frozenset[str] = frozenset()
        self.penalty: float | None = None
        self.examples_encoded = 0
        self.heads: dict[str, Self] = {}
        self.added_to: Self | None = None
        self.loss_weight = 1.0
        self._fingerprint: str | None = None

    @property
    def columns(self) -> Collection[str] | None:
        """The columns that are read; None = values have none."""
        return None

    @property
    def base_model(self) -> str:
        """What it started from, for the card."""
        return "scratch"

    def check(self, value: Any) -> None:
        """Any value that its modality reads will do."""

    def parameters(self) -> dict[str, int]:
        """``total`` and ``trained`` numbers."""
        raise NotImplementedError

    # Save, load -----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the expert, whole or not at all.

        Beside what `write` writes lie ``learned_from.json`` (ids) and ``bifocal.json``: `card`, and the SHA-256 of
        every other file. Further heads lie in ``heads.safetensors``; ``heads_learned_from.json`` holds the ids of
        those that learned from other rows.

        Raises
        ------
        ModelError
            Where this is itself a further head.
        """
        if self.added_to is not None:
            raise ModelError(f"this head is saved with the {self.plugin} that it was added to: save that one")
        with sealed(folder, self.card()) as part:
            self.write(part)
            write_json(part / LEARNED, sorted(self.learned_from))
            if self.heads:
                write_heads(part, {label: head.linear_head() for label, head in self.heads.items()})
                others = {label: head.learned_from for label, head in self.heads.items()}
                ids = {label: sorted(rows) for label, rows in others.items() if rows != self.learned_from}
                write_json(part / LEARNED_BY_HEADS, ids)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises
        ------
        ModelError
            Where the folder is missing, was not written by `save`, or a file in it is missing or altered.
        """
        card = read_card(folder)
        check_seal(folder, card)
        encoder = cls.read(folder, card, ExpertConfig(**card["expert"]))
        encoder.penalty = card.get("penalty")
        encoder.learned_from = frozenset(read_json(folder / LEARNED))
        if "heads" in card:
            encoder._read_heads(folder, card["heads"])
        return encoder

    def _read_heads(self, folder: Path, cards: Mapping[str, Mapping[str, Any]]) -> None:
        if not isinstance(self, MultiLabelEncoder):
            raise ModelError(f"{folder} holds heads of further labels, and {self.plugin} has none: train it again")
        learned = read_json(folder / LEARNED_BY_HEADS)
        for label, told in cards.items():
            self.add_head(label, told["classes"])
            head = self.heads[label]
            head.take_head(read_head(folder, label, head.linear_head(), told["penalty"] or 0.0))
            head.penalty = told["penalty"]
            head.learned_from = frozenset(learned.get(label, self.learned_from))
            if isinstance(head, WindowedEncoder):
                head.window_offsets = told["window_offsets"]

    def write(self, folder: Path) -> None:
        """Write weights and preprocessing into a folder."""
        raise NotImplementedError

    @classmethod
    def read(cls, folder: Path, card: Mapping[str, Any], expert: ExpertConfig) -> Self:
        """The encoder that `write` wrote."""
        raise NotImplementedError

    def card(self) -> dict[str, Any]:
        """What this expert is, for ``bifocal.json`` and the model card."""
        return {
            "encoder": self.plugin,
            "base_model": self.base_model,
            "classes": self.classes,
            "seed": self.seed,
            "parameters": self.parameters(),
            **({"penalty": self.penalty} if "head" in self.tunes else {}),
            "expert": self.expert.model_dump(mode="json"),
            **({"heads": {label: head.head_card() for label, head in self.heads.items()}} if self.heads else {}),
        }

    def head_card(self) -> dict[str, Any]:
        """What ``bifocal.json`` holds of a further head."""
        offsets = {"window_offsets": self.window_offsets} if isinstance(self, WindowedEncoder) else {}
        return {"classes": self.classes, "penalty": self.penalty, "learned_from": len(self.learned_from), **offsets}

    # Identity -------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Changes whenever `encode` would give other features; further heads take what was last found of their encoder.

        An encoder brings `fingerprint_below`, or this method.
        """
        encoder = self.added_to or self
        if encoder is self or encoder._fingerprint is None:
            encoder._fingerprint = encoder.fingerprint_below()
        return encoder._fingerprint

    def fingerprint_below(self) -> str:
        """Hash of all that is below the heads."""
        raise NotImplementedError

    # Encode ---------------------------------------------------------------------------------------

    def encode(self, values: Sequence[Any], progress: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """One pass over every value.

        Parameters
        ----------
        values : sequence
            Each is read once.
        progress : callable, optional
            Called with the number of examples done.

        Returns
        -------
        dict of Tensor
            ``features [n, d]``, ``logits [n, C]`` and what else `widths` names; float32, on the CPU, in the order
            given.
        """
        return self.run(values, progress)

    def run(
        self, values: Sequence[Any], progress: Callable[[int], None] | None = None, on_batch: OnBatch | None = None
    ) -> dict[str, Tensor]:
        """As `encode`; ``on_batch`` takes each batch's rows, inputs and all that `compute` gave of them."""
        return self.run_batches(self.batches(values), len(values), progress, on_batch)

    def run_batches(
        self,
        batches: Iterator[tuple[list[int], Any]],
        n: int,
        progress: Callable[[int], None] | None = None,
        on_batch: OnBatch | None = None,
    ) -> dict[str, Tensor]:
        """As `run`, of n rows whose batches are made."""
        encoded = {name: torch.zeros(n, width) for name, width in self.widths().items()}
        done = 0
        with torch.inference_mode():
            for rows, inputs in batches:
                found = self.compute(inputs)
                for name, tensor in encoded.items():
                    tensor[rows] = found[name]
                if on_batch:
                    on_batch(rows, inputs, found)
                done += len(rows)
                (self.added_to or self).examples_encoded += len(rows)
                if progress:
                    progress(done)
        return encoded if "logits" in encoded else {**encoded, "logits": self.head_logits(encoded)}

    def widths(self) -> dict[str, int]:
        """Columns of what `compute` gives that is kept, by name; without ``logits`` the head makes them."""
        raise NotImplementedError

    def rows_at_once(self) -> int:
        """Values of a batch."""
        return ROWS_AT_ONCE

    def batches(self, values: Sequence[Any]) -> Iterator[tuple[list[int], Any]]:
        """Rows and inputs of each batch that `encode` runs."""
        size = self.rows_at_once()
        for start in range(0, len(values), size):
            rows = list(range(start, min(start + size, len(values))))
            yield rows, self.inputs([values[i] for i in rows])

    def inputs(self, values: Sequence[Any]) -> Any:
        """What `compute` takes, for one batch of values."""
        raise NotImplementedError

    def compute(self, inputs: Any) -> Mapping[str, Tensor]:
        """Name -> ``[n, width]`` of one batch."""
        raise NotImplementedError

    # Learn ----------------------------------------------------------------------------------------

    def fit(
        self,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Raises `ModelError` where nothing below the head learns from labels."""
        raise ModelError(f"{self.plugin} has nothing to fine-tune: fit its head on what `encode` gives (`fit_head`)")

    def fit_head(self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str]) -> list[dict[str, float]]:
        """Fit the head on what `encode` gave: a penalised linear classifier, its penalty chosen across groups.

        Returns
        -------
        list of dict
            One row: in-sample loss, accuracy and macro-F1, and the penalty chosen.

        Raises
        ------
        ModelError
            Where the encoder learns as a whole: below a new head the features would still be those of the labels.
        """
        if "head" not in self.tunes:
            raise ModelError(f"{self.plugin} learns as a whole: call fit; there is no head to fit alone")
        rows, classes = self.head_rows(encoded), len(self.classes)
        head = fit_linear(rows, labels, groups, classes=classes, penalties=self.penalties, folds=self.folds)
        self.take_head(head)
        self.penalty = head.penalty
        known = labels != UNLABELLED
        measured = figures(self.head_logits(encoded)[known], labels[known])
        return [{"epoch": 1, **{f"train_{k}": v for k, v in measured.items()}, "penalty": head.penalty}]

    def cross_fit(
        self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str], *, folds: int, seed: int
    ) -> Tensor:
        """Logits ``[n, C]`` of heads like the one fitted, each of which saw neither the row nor its group.

        Raises
        ------
        ModelError
            Before `fit_head`.
        """
        if self.penalty is None:
            raise ModelError(f"the head of this {self.plugin} was not fitted by fit_head: nothing to cross-fit")
        rows, classes = self.head_rows(encoded), len(self.classes)
        return cross_fit(rows, labels, groups, classes=classes, folds=folds, seed=seed, penalty=self.penalty)

    def head_rows(self, encoded: Mapping[str, Tensor]) -> Any:
        """What the head reads, ``[n, d]``: a Tensor, or a CSR array."""
        return encoded["features"]

    def take_head(self, head: LinearHead) -> None:
        """Put a fitted head in the place of the one there is."""
        raise NotImplementedError

    def linear_head(self) -> LinearHead:
        """The head as plain tensors, on the CPU."""
        raise NotImplementedError

    def head_logits(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` of the head over what was encoded already."""
        raise NotImplementedError

    def with_head(self, label: str, classes: Sequence[Any], weight: float) -> Self:
        """A shallow copy for a further label, among `heads`; whoever asks for it makes its head.

        Raises
        ------
        ModelError
            Where there is a head of this label, or this is itself a further one.
        """
        if self.added_to is not None or label in self.heads:
            raise ModelError(f"this {self.plugin} has a head for {label!r}, or is one itself: add each label once")
        head = copy(self)
        head.classes, head.penalty, head.learned_from = list(classes), None, frozenset()
        head.heads, head.added_to, head.examples_encoded, head.loss_weight = {}, self, 0, weight
        if isinstance(head, WindowedEncoder):
            head.window_offsets = []
        self.heads[label], self._fingerprint = head, None
        return head


class LinearEncoder(SavedEncoder):
    """An encoder that owes nothing to labels, under a `LinearHead` over ``width`` columns, all zero until `fit_head`.

    A fusion may learn from the features of every training row, and from the head's cross-fitted logits. Where the head
    reads something else than the features, an encoder replaces `head_rows`.
    """

    tunes: ClassVar[tuple[Tune, ...]] = ("head",)

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, width: int):
        super().__init__(expert, classes, seed)
        self.head = LinearHead(torch.zeros(len(self.classes), width), torch.zeros(len(self.classes)), 0.0)

    def add_head(self, label: str, classes: Sequence[Any], weight: float = 1.0) -> Self:
        """As `bifocal.contracts.MultiLabelEncoder` has it; all zero until `fit_head`."""
        further = self.with_head(label, classes, weight)
        further.head = LinearHead(
            torch.zeros(len(further.classes), self.head.weight.shape[1]), torch.zeros(len(further.classes)), 0.0
        )
        return further

    def take_head(self, head: LinearHead) -> None:
        self.head = head

    def linear_head(self) -> LinearHead:
        return self.head

    def head_logits(self, encoded: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.head_rows(encoded))
