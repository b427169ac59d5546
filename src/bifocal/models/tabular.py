"""Turns records into numbers and category indices; all it knows was learned from the training rows."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..config import ExpertConfig, Strict
from ..errors import ConfigError, DataError, ModelError, nearest
from ..modalities.tabular import Cell, Record, as_number
from ..workspace import read_json, write_json
from .column_types import CellCounts, ColumnSummary, Kind, Mark, described, parse_boolean, parse_date, parse_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "preprocessing.json"
MISSING, UNSEEN, RARE, KNOWN = 0, 1, 2, 3
"""Category indices: no value; one that no training row held; one that few did; the first that has its own."""
QUANTILES = 256
"""Knots of the quantile scaling."""
LIMITS = {"quantile": 3.0, "standard": 10.0}
"""Scaled numbers are cut off here: what lies outside training must not drown the other columns."""
LARGEST = 1e100
"""A number beyond is read as this one: squares and differences stay finite."""

_WHOLE = re.compile(r"[-+]?\d+\.0+")


class TabularOptions(Strict):
    """Options of every tabular encoder; what a column holds is inferred from the training rows unless named here."""

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    """Columns of codes that look like numbers (postcodes) belong here."""
    dates: tuple[str, ...] = ()
    decimal: dict[str, Mark] = Field(default={})
    """Columns of numbers -> the mark before the decimals, where no cell settles it ("1,234")."""
    day_first: dict[str, bool] = Field(default={})
    """Columns of dates -> whether the day stands before the month, where no cell settles it (03/04/2019)."""
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
        for option, kind, named in (("decimal", "numbers", self.decimal), ("day_first", "dates", self.day_first)):
            others = {"numbers", "categories", "dates"} - {kind}
            if both := [name for name in named if any(name in getattr(self, other) for other in others)]:
                raise ValueError(
                    f"column {both[0]!r} has {option}, which is for {kind}, and is listed as something else"
                )
        return self


_NOT_READ = (
    *("pooling", "epochs", "batch_size", "accumulation", "learning_rate", "weight_decay", "warmup", "patience"),
    "lora",
)


def refuse_transformer_settings(expert: ExpertConfig, known: Iterable[str], modality: str) -> None:
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
    columns : dict
        Column -> what its training cells were found to be, and how they are read; empty in models saved before it was
        kept, which read plain numbers, ISO dates, and categories as they are spelled.
    odd : dict
        Column -> hashes of the training cells that are not of its kind and count as missing.
    """

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        dropped: Mapping[str, str],
        known: Mapping[str, Sequence[str]],
        rare: Mapping[str, Sequence[str]],
        scaling: Literal["quantile", "standard"],
        scale: Mapping[str, Any],
        columns: Mapping[str, Mapping[str, Any]] | None = None,
        odd: Mapping[str, Sequence[str]] | None = None,
    ):
        self.kinds, self.dropped, self.scaling = dict(kinds), dict(dropped), scaling
        self.known = {name: list(values) for name, values in known.items()}
        self.rare = {name: list(values) for name, values in rare.items()}
        self.scale = dict(scale)
        self.columns = {name: ColumnSummary.model_validate(column) for name, column in (columns or {}).items()}
        self.odd = {name: list(values) for name, values in (odd or {}).items()}
        self._odd = {name: frozenset(values) for name, values in self.odd.items()}
        self._reads = {name: _reader(kind, self.columns.get(name)) for name, kind in self.kinds.items()}
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
            Where the options name a column that no row has, or do not settle one that reads two ways.
        DataError
            Where no column tells the rows apart.
        """
        rows = list(values)
        names = list(dict.fromkeys(name for row in rows for name in row))
        _asked(options, names)
        kinds: dict[str, Kind] = {}
        columns: dict[str, ColumnSummary] = {}
        dropped, known, rare, odd = {}, {}, {}, {}
        for name in names:
            cells = [row.get(name) for row in rows]
            column = _found(name, cells, options)
            columns[name], kind = column, column.kind
            read = _reader(kind, column)
            counts = Counter(map(read, cells))
            absent = counts.pop(None, 0)
            if column.odd:
                odd[name] = sorted({_hash(str(cell)) for cell in cells if cell is not None and read(cell) is None})
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
        reads = {name: _reader(kind, columns[name]) for name, kind in kinds.items()}
        scale = _fitted(options.scaling, _numbers(kinds, reads, rows))
        shown = {name: _saved(column) for name, column in columns.items()}
        return cls(kinds, dropped, known, rare, options.scaling, scale, shown, odd)

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
        numbers = _numbers(self.kinds, self._reads, rows)
        if self._scaler is not None and rows:
            numbers = self._scaler(numbers).clip(-LIMITS[self.scaling], LIMITS[self.scaling])
        categories = [
            [self._category(name, index, row.get(name)) for name, index in self._index.items()] for row in rows
        ]  # fmt: skip
        return numbers.astype(np.float32), np.array(categories, dtype=np.int64).reshape(len(rows), len(self._index))

    def _category(self, name: str, index: Mapping[str, int], cell: Cell) -> int:
        if cell is None or (name in self._odd and _hash(str(cell)) in self._odd[name]):
            return MISSING
        category = self._reads[name](cell)
        return UNSEEN if category is None else index.get(_hash(category), UNSEEN)

    def check(self, value: Mapping[str, Cell]) -> None:
        """Refuse what training cannot have meant; columns may be missing, and dropped ones may hold anything.

        Raises `DataError` on an unknown column, a text among numbers, and what is no date among dates; what training
        took for missing is missing here too.
        """
        for name, cell in value.items():
            kind = self.kinds.get(name)
            if kind is None and name not in self.dropped:
                raise DataError(
                    f"tabular column {name!r} is none that the expert was trained on; "
                    f"{nearest(name, [*self.kinds, *self.dropped])}"
                )
            if kind in ("number", "date") and cell is not None and self._reads[name](cell) is None:
                if _hash(str(cell)) in self._odd.get(name, ()):
                    continue
                raise DataError(
                    f"tabular column {name!r} holds {kind}s, found {str(cell)[:50]!r}: "
                    f"give {_wanted(kind, self.columns.get(name))}, or null where it is missing"
                )

    def notes(self) -> list[str]:
        """Each column in a line, those with something to say first; without examples, which are not saved."""
        lines = [described(name, column, self.dropped.get(name, "")) for name, column in self.columns.items()]
        return sorted(lines, key=lambda line: ";" not in line)

    def state(self) -> dict[str, Any]:
        """All of it, JSON-able; ``TabularProcessor(**state)`` is the same again.

        Without what an older model did not know, so that its fingerprint stays what it was.
        """
        columns = {name: _saved(column) for name, column in self.columns.items()}
        return {
            "kinds": self.kinds,
            "dropped": self.dropped,
            "known": self.known,
            "rare": self.rare,
            "scaling": self.scaling,
            "scale": self.scale,
        } | ({"columns": columns, "odd": self.odd} if columns else {})

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


def _asked(options: TabularOptions, names: Sequence[str], *, strict: bool = True) -> dict[str, Kind]:
    """Column -> what the options say it holds. Raises `ConfigError` where they name others, if ``strict``."""
    asked: dict[str, Kind] = {}
    lists: tuple[tuple[str, Kind, Sequence[str]], ...] = (
        ("numbers", "number", options.numbers),
        ("categories", "category", options.categories),
        ("dates", "date", options.dates),
        ("decimal", "number", list(options.decimal)),
        ("day_first", "date", list(options.day_first)),
    )
    for option, kind, columns in lists:
        for name in columns:
            if strict and name not in names:
                raise ConfigError(f"options.{option} names {name!r}, a column no row has; {nearest(name, names)}")
            asked[name] = kind
    return asked


def summary_of(counted: CellCounts, name: str, options: TabularOptions) -> ColumnSummary:
    """What a column holds, by its cells and what the options say of it."""
    asked = _asked(options, [name], strict=False).get(name)
    return counted.summarize(asked, options.decimal.get(name), options.day_first.get(name))


def _found(name: str, cells: Sequence[Cell], options: TabularOptions) -> ColumnSummary:
    """What a column holds, by its training values. Raises `ConfigError` where they read two ways."""
    counted = CellCounts()
    for cell in cells:
        counted.add(cell)
    column = summary_of(counted, name, options)
    if column.two_readings:
        raise ConfigError(f"tabular column {name!r}: " + column.two_readings.replace("NAME", name))
    return column


def _saved(column: ColumnSummary) -> dict[str, Any]:
    """What a model keeps of a column: no cell that few rows bear."""
    return column.model_dump(mode="json", exclude={"examples"}, exclude_defaults=True)


def _wanted(kind: Kind, column: ColumnSummary | None) -> str:
    """What a cell of a column should be like, in words."""
    if kind == "date":
        day_first = None if column is None else column.form.day_first
        return "a date such as 2019-05-21" + {None: "", True: " or 21/05/2019", False: " or 05/21/2019"}[day_first]
    if column is not None and column.form.percent:
        return "a number with its percent sign, such as 12%"
    return "a number" + (" such as 1234,5" if column is not None and column.form.decimal == "," else "")


def _reader(kind: Kind, column: ColumnSummary | None) -> Callable[[Cell], Any]:
    """Reads a cell as its column is written; None where it is missing or nothing of that kind."""
    if column is None:
        return as_number if kind == "number" else parse_date if kind == "date" else _category
    if kind == "number":
        return partial(parse_number, form=column.form)
    if kind == "date":
        return partial(parse_date, day_first=column.form.day_first)
    return parse_boolean if column.form.boolean else _category


def _category(cell: Cell) -> str | None:
    return None if cell is None else as_category(cell)


def _numbers(
    kinds: Mapping[str, Kind], reads: Mapping[str, Callable[[Cell], Any]], rows: Sequence[Record]
) -> NDArray[np.float64]:
    """``[n, p]``, unscaled, NaN where missing."""
    columns: list[Sequence[float | None]] = []
    for name, kind in kinds.items():
        if kind == "number":
            columns.append([reads[name](row.get(name)) for row in rows])
        elif kind == "date":
            days = [reads[name](row.get(name)) for row in rows]
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
