"""What travels through a run: the Example, the Taxonomy of its labels, and the Evidence of an expert."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from .errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "val", "test")
LabelValue = int | str | float | None
NOTHING = ("", "nan", "None", "NULL", "N/A")
"""What programs write where there is nothing. People write such words too, so that in a post's text they stay."""
UNLABELLED = -1
"""Class index of a row whose label is not annotated."""


@dataclass(frozen=True, slots=True)
class Example:
    """One post, as a source hands it over and as a line of ``data_manifest.jsonl``.

    Attributes
    ----------
    id : str
        Unique within a run.
    parts : dict
        Modality name -> raw part: the text itself, or a reference that ``Source.open`` turns into bytes
        (a picture). An absent part has no key.
    labels : dict
        Label name -> class (0/1 for binary labels, a class name otherwise, a number where the taxonomy says
        ``above``); ``None`` = not annotated.
    group : str or None
        Rows that must share a split; ``None`` = the source knows of none.
    split : str or None
        The source's official split, or ``None``.
    meta : dict
        Anything else worth keeping; never fed to a model.
    """

    id: str
    parts: dict[str, Any]
    labels: dict[str, LabelValue]
    group: str | None = None
    split: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be used: a line of ``quarantine.jsonl``, never dropped in silence."""

    id: str | None
    where: str
    reason: str
    row: Any = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def is_nothing(value: object, words: Iterable[str] = NOTHING) -> bool:
    """Whether a cell is a word for nothing, in any case, but ``None`` as written: many sets have a class ``none``."""
    if not isinstance(value, str):
        return False
    text = value.strip()
    return any(text == word or (word != "None" and text.lower() == word.lower()) for word in words)


@dataclass(frozen=True, slots=True)
class Label:
    """One entry of the taxonomy.

    Attributes
    ----------
    classes : tuple
        Values a row may bear, in the order of the logits; binary labels are ``(0, 1)``, 1 = positive.
    probability : str
        Key under which a Decision gives the probability (``prob_hate`` for ``abuse_hate``).
    description : str
        One sentence for people.
    above : float, "median" or None
        Where set, the source's rows bear a number, and the class is whether it lies above this; ``median`` is that
        of the train rows, which `Taxonomy.with_medians` puts here once the splits are known.
    requires : str or None
        A binary label whose posts alone this one is about, by a run's configuration: elsewhere it is not annotated.
    names : tuple of str
        What people call the classes, in their order, where the source's own words for 0 and 1 are known; else empty.
    """

    classes: tuple[int | str, ...]
    probability: str = "prob"
    description: str = ""
    above: float | Literal["median"] | None = None
    requires: str | None = None
    names: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The classes as people read them."""
        return self.names or tuple(map(str, self.classes))

    @property
    def binary(self) -> bool:
        return self.classes == (0, 1)

    def check(self, value: LabelValue) -> None:
        """Raise `DataError` where a source's value cannot become a class."""
        if self.above is None:
            self.index(value)
        elif isinstance(value, bool | str) or (value is not None and not math.isfinite(value)):
            raise DataError(f"label value {value!r} is no number, and the class is whether it lies above {self.above}")

    def class_of(self, value: LabelValue) -> LabelValue:
        """The class of a number (`above`); any other value is one already. None where no train row has a number."""
        if self.above is None or value is None:
            return value
        return None if self.above == "median" or isinstance(value, str) else int(value > self.above)

    def of_row(self, name: str, labels: Mapping[str, LabelValue]) -> int:
        """Class index of a row that bears these labels, ``name`` being this one; `UNLABELLED` where it is not asked.

        Raises `DataError` as `index`.
        """
        asked = self.requires is None or labels.get(self.requires) == 1
        return self.index(labels.get(name)) if asked else UNLABELLED

    def index(self, value: LabelValue) -> int:
        """Class index of a label value; `UNLABELLED` for ``None``.

        Raises
        ------
        DataError
            Where the value is not in the taxonomy.
        """
        if value is None:
            return UNLABELLED
        try:
            if isinstance(value, bool):  # True == 1 in Python, but a boolean label is a typing slip worth naming
                raise ValueError
            return self.classes.index(value)
        except ValueError:
            allowed = ", ".join(map(repr, self.classes))
            raise DataError(f"label value {value!r} is not in the taxonomy; allowed: {allowed}, or null") from None


BINARY = (0, 1)
LABELS: dict[str, Label] = {
    "abuse_hate": Label(BINARY, "prob_hate", "Abusive or hateful."),
    "offensive": Label(BINARY, "prob_offensive", "Offensive, hateful or not."),
    "target_type": Label(("none", "individual", "organization", "community", "society"), "prob", "Who is attacked."),
}
"""The unified labels that every source maps to where it can."""


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Label name -> `Label`: what ``label_taxonomy.json`` holds."""

    labels: dict[str, Label]

    def __getitem__(self, name: str) -> Label:
        if name not in self.labels:
            raise ConfigError(f"label {name!r} is not in the taxonomy; {nearest(name, self.labels)}")
        return self.labels[name]

    def check(self, labels: Mapping[str, LabelValue]) -> None:
        """Raise `DataError` where a row's labels are outside the taxonomy."""
        for name, value in labels.items():
            if name not in self.labels:
                raise DataError(f"label {name!r} is not in the taxonomy; {nearest(name, self.labels)}")
            self.labels[name].check(value)

    def with_medians(self, medians: Mapping[str, float]) -> Taxonomy:
        """The same with train's medians, by label name, in the place of ``above: median``."""
        labels = dict(self.labels)
        for name, median in medians.items():
            told = f"{labels[name].description} The median of train is {median:g}.".strip()
            labels[name] = replace(labels[name], above=median, description=told)
        return Taxonomy(labels)

    def classes_of(self, labels: Mapping[str, LabelValue]) -> dict[str, LabelValue]:
        """A row's labels as classes."""
        return {name: self.labels[name].class_of(value) for name, value in labels.items()}

    def to_json(self) -> dict[str, Any]:
        """What a label requires is no matter of the taxonomy; names are there where there are some."""
        found = {name: asdict(label) for name, label in self.labels.items()}
        return {
            name: {key: value for key, value in entry.items() if key != "requires" and (key != "names" or value)}
            for name, entry in found.items()
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Mapping[str, Any]]) -> Self:
        return cls({name: _label_of(entry) for name, entry in row.items()})


def _label_of(entry: Mapping[str, Any]) -> Label:
    return Label(**{**entry, "classes": tuple(entry["classes"]), "names": tuple(entry.get("names", ()))})


class SelectedRows(Sequence[Any]):
    """Some of a sequence of values, read as they are asked for."""

    def __init__(self, values: Sequence[Any], rows: Sequence[int]):
        self._values = values
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> SelectedRows: ...
    def __getitem__(self, i: int | slice) -> Any:
        return SelectedRows(self._values, self._rows[i]) if isinstance(i, slice) else self._values[self._rows[i]]


@dataclass(frozen=True, slots=True)
class Rows:
    """What an encoder learns from: values read lazily, and the class index of each.

    ``further`` holds the class indices of further labels, by name; `UNLABELLED` where one is not annotated.
    """

    values: Sequence[Any]
    labels: Sequence[int]
    further: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one expert says of one split; everything downstream reads this and never the encoder again.

    Attributes
    ----------
    ids, groups : tuple of str, [n]
        Row ids, and the near-duplicate group of each.
    features : Tensor, [n, d] float32
        Zero where the part is absent; never read there.
    logits : Tensor, [n, C] float32
    present : Tensor, [n] bool
        Whether the row has this modality.
    labels : Tensor, [n] int64
        Class index, `UNLABELLED` where not annotated.
    seen : Tensor, [n] bool
        Rows on which the model behind these numbers was itself trained. A fusion refuses to learn from them.
    tokens : tuple of Tensor or None, n of [L, d] float32
        Hidden states of each row's words or patches, as many as it has, for a fusion that reads them; never read where
        the part is absent. May be views of a memory-mapped file.
    values : sequence or None, n
        Canonical values, read when they are asked for: for a fusion that tunes encoders, to learn from.
    further : dict
        Where posts are decided on by several labels: what the heads of further ones say of the same rows, by label.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    features: Tensor
    logits: Tensor
    present: Tensor
    labels: Tensor
    seen: Tensor
    tokens: tuple[Tensor, ...] | None = None
    values: Sequence[Any] | None = None
    further: Mapping[str, Evidence] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Iterable[int]) -> Evidence:
        """The same for some rows, in the order given."""
        index = list(rows)
        return Evidence(
            ids=tuple(self.ids[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            features=self.features[index],
            logits=self.logits[index],
            present=self.present[index],
            labels=self.labels[index],
            seen=self.seen[index],
            tokens=None if self.tokens is None else tuple(self.tokens[i] for i in index),
            values=None if self.values is None else SelectedRows(self.values, index),
            further={label: of.take(index) for label, of in self.further.items()},
        )

    def without(self, rows: Iterable[int] | None = None) -> Evidence:
        """The same with this part blanked in some rows (None: in all), as if it had never been posted."""
        index = list(range(len(self)) if rows is None else rows)
        present = self.present | False  # a copy
        present[index] = False
        further = {label: of.without(index) for label, of in self.further.items()}
        return replace(self, present=present, further=further)
