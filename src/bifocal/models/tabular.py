"""Turns records into numbers and category indices; all it knows was learned from the training rows."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..config import ExpertConfig, Strict
from ..errors import ConfigError, DataError, ModelError, nearest
from ..modalities.tabular import Cell, Record, as_number
from ..workspace import read_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "preprocessing.json"
Kind = Literal["number", "category", "date"]
MISSING, UNSEEN, RARE, KNOWN = 0, 1, 2, 3
"""Category indices: no value; one that no training row held; one that few did; the first that has its own."""
QUANTILES = 256
"""Knots of the quantile scaling."""
LIMITS = {"quantile": 3.0, "standard": 10.0}
"""Scaled numbers are cut off here: what lies outside training must not drown the other columns."""
LARGEST = 1e100
"""A number beyond is read as this one: squares and differences stay finite."""

_WHOLE = re.compile(r"[-+]?\d+\.0+")
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T\s].*)?", re.ASCII)


class TabularOptions(Strict):
    """Options of every tabular encoder; what a column holds is inferred from the training rows unless named here."""

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    """Columns of codes that look like numbers (postcodes) belong here."""
    dates: tuple[str, ...] = ()
    scaling: Literal["quantile", "standard"] = "quantile"
    """``quantile``: ranks as of a normal distribution, whatever the column's own; ``standard``: mean 0, deviation 1."""
    min_count: Annotated[int, Field(ge=1)] = 5
    """Training rows from which on a category has a place of its own; rarer ones share one."""
    max_categories: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Of a column, the most frequent first."""

    @model_validator(mode="after")
    def _one_kind_each(self) -> TabularOptions:
        twice = [name for name, n in Counter([*self.numbers, *self.categories, *self.dates]).items() if n > 1]
        if twice:
            raise ValueError(f"column {twice[0]!r} is named twice among numbers, categories and dates; keep one")
        return self


_NOT_READ = (
    *("pooling", "epochs", "batch_size", "accumulation", "learning_rate", "weight_decay", "warmup", "patience"),
    "lora",
)


def refuse_transformer_settings(expert: ExpertConfig, known: Iterable[str], modality: str = "tabular") -> None:
    """A setting that would be ignored in silence is refused: the defaults of `ExpertConfig` are for transformers.

    Raises `ConfigError` on one that is not at its default, and on a ``model``: these encoders start from scratch.
    """
    this = expert.encoder or f"a {modality} encoder"
    for name in _NOT_READ:
        if getattr(expert, name) != ExpertConfig.model_fields[name].default:
            here = f"set experts.{modality}.options.{name}" if name in known else "leave it out"
            raise ConfigError(f"experts.{modality}.{name} is for pretrained encoders and has no effect here: {here}")
    if expert.model not in ("base", "tiny"):
        raise ConfigError(f"experts.{modality}.model = {expert.model!r}: {this} is made anew; leave it out")


def as_date(cell: Cell) -> date | None:
    """A cell as a day: ISO 8601 (``2019-05-21``, also with ``/`` or ``.``); a time of day behind it is not read."""
    match = _DATE.fullmatch(cell) if isinstance(cell, str) else None
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def as_category(cell: Cell) -> str:
    """A cell's name among the categories; 3, 3.0 and "3" share one, as do true and "True"."""
    if isinstance(cell, str):
        if _WHOLE.fullmatch(cell):
            return cell.partition(".")[0]
        return cell.lower() if cell.lower() in ("true", "false") else cell
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


class TabularProcessor:
    """What training taught about the columns of a record.

    Attributes
    ----------
    kinds : dict
        Column -> ``number``, ``category`` or ``date``, of those that are read.
    dropped : dict
        Column -> why it is not read (it tells no rows apart).
    known : dict
        Category column -> its values with an index of their own, the first of them at `KNOWN`.
    rare : dict
        Category column -> hashes of the other training values, so that they are told from unseen ones and a saved
        model names no value that few rows bear.
    scaling : str
    scale : dict
        ``{"quantiles": [p][k]}`` or ``{"mean": [p], "scale": [p]}`` of the number columns.
    """

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        dropped: Mapping[str, str],
        known: Mapping[str, Sequence[str]],
        rare: Mapping[str, Sequence[str]],
        scaling: Literal["quantile", "standard"],
        scale: Mapping[str, Any],
    ):
        self.kinds, self.dropped, self.scaling = dict(kinds), dict(dropped), scaling
        self.known = {name: list(values) for name, values in known.items()}
        self.rare = {name: list(values) for name, values in rare.items()}
        self.scale = dict(scale)
        self._index = {
            name: dict.fromkeys(self.rare[name], RARE) | {_hash(value): KNOWN + i for i, value in enumerate(values)}
            for name, values in self.known.items()
        }
        self._scaler = _restored(scaling, self.scale) if self.number_names else None

    @classmethod
    def fit(cls, values: Sequence[Record], options: TabularOptions) -> Self:
        """Learn from the training rows, each read once.

        Raises
        ------
        ConfigError
            Where the options name a column that no row has.
        DataError
            Where no column tells the rows apart.
        """
        rows = list(values)
        names = list(dict.fromkeys(name for row in rows for name in row))
        asked = _asked(options, names)
        kinds: dict[str, Kind] = {}
        dropped, known, rare = {}, {}, {}
        for name in names:
            cells = [row.get(name) for row in rows]
            kind = asked.get(name) or _kind([cell for cell in cells if cell is not None])
            counts = Counter(_reading(kind, cell) for cell in cells)
            absent = counts.pop(None, 0)
            frequent = [value for value, n in counts.most_common() if n >= options.min_count]
            if not counts:
                dropped[name] = f"no {kind} in {len(rows):,} training rows"
            elif len(counts) == 1 and not absent:
                dropped[name] = "the same in every training row"
            elif kind == "category" and not frequent:
                dropped[name] = f"no value stands in {options.min_count} training rows"
            else:
                kinds[name] = kind
                if kind == "category":
                    known[name] = frequent[: options.max_categories]
                    rare[name] = sorted(_hash(value) for value in counts.keys() - set(known[name]))
        if not kinds:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(dropped.items())[:5]) or "there are no columns"
            raise DataError(f"no tabular column tells the {len(rows):,} training rows apart ({why}): give more rows")
        scale = _fitted(options.scaling, _numbers(kinds, rows))
        return cls(kinds, dropped, known, rare, options.scaling, scale)

    @property
    def number_names(self) -> list[str]:
        """The columns of the numbers that `transform` gives; a date has three."""
        names = []
        for name, kind in self.kinds.items():
            if kind == "date":
                names += [f"{name} ({what})" for what in ("day", "month", "weekday")]
            elif kind == "number":
                names.append(name)
        return names

    @property
    def cardinalities(self) -> list[int]:
        """Category column by column, how many indices there are."""
        return [KNOWN + len(values) for values in self.known.values()]

    def transform(self, values: Sequence[Record]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Numbers ``[n, p]``, scaled, NaN where missing (or no number, or no date), and category indices ``[n, q]``."""
        rows = list(values)
        numbers = _numbers(self.kinds, rows)
        if self._scaler is not None and rows:
            numbers = self._scaler(numbers).clip(-LIMITS[self.scaling], LIMITS[self.scaling])
        categories = [
            [self._category(index, row.get(name)) for name, index in self._index.items()] for row in rows
        ]  # fmt: skip
        return numbers.astype(np.float32), np.array(categories, dtype=np.int64).reshape(len(rows), len(self._index))

    @staticmethod
    def _category(index: Mapping[str, int], cell: Cell) -> int:
        return MISSING if cell is None else index.get(_hash(as_category(cell)), UNSEEN)

    def check(self, value: Mapping[str, Cell]) -> None:
        """Refuse what training cannot have meant; columns may be missing, and dropped ones may hold anything.

        Raises `DataError` on an unknown column, a text among numbers, and what is no date among dates.
        """
        for name, cell in value.items():
            kind = self.kinds.get(name)
            if kind is None and name not in self.dropped:
                raise DataError(
                    f"tabular column {name!r} is none that the expert was trained on; "
                    f"{nearest(name, [*self.kinds, *self.dropped])}"
                )
            if kind in ("number", "date") and cell is not None and _reading(kind, cell) is None:
                form = "a number" if kind == "number" else "a date such as 2019-05-21"
                raise DataError(
                    f"tabular column {name!r} holds {kind}s, found {str(cell)[:50]!r}: "
                    f"give {form}, or null where it is missing"
                )

    def state(self) -> dict[str, Any]:
        """All of it, JSON-able; ``TabularProcessor(**state)`` is the same again."""
        return {
            "kinds": self.kinds,
            "dropped": self.dropped,
            "known": self.known,
            "rare": self.rare,
            "scaling": self.scaling,
            "scale": self.scale,
        }

    def save_pretrained(self, folder: Path) -> None:
        """Write ``preprocessing.json``, as a tokenizer writes its files."""
        write_json(Path(folder) / FILE, self.state())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """What `save_pretrained` wrote. Raises `ModelError` where it is of another form."""
        try:
            return cls(**read_json(Path(folder) / FILE))
        except (TypeError, KeyError, ValueError) as error:
            raise ModelError(f"{Path(folder) / FILE} is no preprocessing of Bifocal's: {error}") from None


def _asked(options: TabularOptions, names: Sequence[str]) -> dict[str, Kind]:
    """Column -> what the options say it holds."""
    asked: dict[str, Kind] = {}
    lists: tuple[tuple[str, Kind, Sequence[str]], ...] = (
        ("numbers", "number", options.numbers),
        ("categories", "category", options.categories),
        ("dates", "date", options.dates),
    )
    for option, kind, columns in lists:
        for name in columns:
            if name not in names:
                raise ConfigError(f"options.{option} names {name!r}, a column no row has; {nearest(name, names)}")
            asked[name] = kind
    return asked


def _kind(cells: Sequence[Cell]) -> Kind:
    """What a column holds, by its training values."""
    if all(as_number(cell) is not None for cell in cells):
        return "number"
    return "date" if all(as_date(cell) for cell in cells) else "category"


def _reading(kind: Kind, cell: Cell) -> Any:
    """A cell as its column's kind reads it; None where it is missing or nothing of that kind."""
    if cell is None:
        return None
    return _READS[kind](cell)


_READS: dict[Kind, Callable[[Cell], Any]] = {"number": as_number, "date": as_date, "category": as_category}


def _numbers(kinds: Mapping[str, Kind], rows: Sequence[Record]) -> NDArray[np.float64]:
    """``[n, p]``, unscaled, NaN where missing."""
    columns: list[Sequence[float | None]] = []
    for name, kind in kinds.items():
        if kind == "number":
            columns.append([as_number(row.get(name)) for row in rows])
        elif kind == "date":
            days = [as_date(row.get(name)) for row in rows]
            for part in (date.toordinal, attrgetter("month"), date.weekday):
                columns.append([part(day) if day else None for day in days])
    numbers = np.array(columns, dtype=np.float64).reshape(len(columns), len(rows)).T  # None becomes NaN
    return numbers.clip(-LARGEST, LARGEST)


def _fitted(scaling: str, numbers: NDArray[np.float64]) -> dict[str, Any]:
    from sklearn.preprocessing import QuantileTransformer, StandardScaler

    if not numbers.size:
        return {}
    if scaling == "standard":
        scaler = StandardScaler().fit(numbers)
        return {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
    scaler = QuantileTransformer(n_quantiles=min(QUANTILES, len(numbers)), subsample=None).fit(numbers)
    return {"quantiles": scaler.quantiles_.T.tolist()}


def _restored(scaling: str, scale: Mapping[str, Any]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """What scikit-learn's transformer does with the numbers that another one was fitted to: nothing is unpickled."""
    from scipy.special import ndtri
    from sklearn.preprocessing import QuantileTransformer

    if scaling == "standard":
        mean, deviation = np.array(scale["mean"]), np.array(scale["scale"])
        return lambda numbers: (numbers - mean) / deviation
    quantiles = np.array(scale["quantiles"]).T
    scaler = QuantileTransformer()
    scaler.quantiles_, scaler.references_ = quantiles, np.linspace(0, 1, len(quantiles))
    scaler.n_quantiles_, scaler.n_features_in_ = quantiles.shape
    # Its own way to a normal distribution takes half a millisecond per column, whatever the rows.
    return lambda numbers: ndtri(scaler.transform(numbers))


def _hash(category: str) -> str:
    return hashlib.blake2b(category.encode(), digest_size=8).hexdigest()
