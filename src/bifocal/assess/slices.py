"""What a run knows of its tested rows beside their labels, cut into slices: columns, words, bins and clusters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import SlicesConfig
from ..decide.policy import Policy
from ..errors import ConfigError, listed, nearest
from ..evaluate.row_metrics import RowMetrics
from ..evaluate.slices import SliceSettings, measure_gaps, measure_slices
from ..example import UNLABELLED, Label, Taxonomy
from ..modalities import TEXT
from ..modalities.text import without_tags
from ..workspace import read_jsonl
from .group_terms import mentions, read_terms
from .predictions import Predictions, calibrated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..data.shards import Split
    from ..evaluate.slice_results import GapResults, SliceResults
    from .run_data import RunData

    Rows = NDArray[np.bool_]

DISTINCT = 8
"""A column of more different numbers is cut into bins."""
MOST_BINS = 4
COMMONEST = 20
"""Of more values only these have a slice of their own; the others share one."""
UNKNOWN = "not given"
OTHERS = "others"
TARGET = "target_type"
"""The label of the taxonomy that says whom a post speaks of."""
NO_GROUP = ("", "none")
"""Values of such a column, beside a missing one, that say that it speaks of no group."""


@dataclass(frozen=True, slots=True)
class EvaluatedRows:
    """Rows of one split, and what is known of them beside their labels.

    Attributes
    ----------
    texts : sequence of str
        Composed, empty where absent.
    ocr : Path
        ``ocr.jsonl``
    clusters : mapping
        Near-duplicate group -> rows of it in the whole run.
    windows : sequence of int
        In how many windows each text is read, 0 where it is absent; empty where that is not known.
    """

    split: Split
    predictions: Predictions
    texts: Sequence[str]
    taxonomy: Taxonomy
    ocr: Path
    clusters: Mapping[str, int]
    windows: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class MeasuredParts:
    """What `measure_parts` found.

    Attributes
    ----------
    slices : SliceResults or None
        None where no row has a label.
    fairness : GapResults or None
        None where nothing says whom a post speaks of, or the label has no such rates.
    by : str or None
        Where its groups come from.
    """

    slices: SliceResults | None = None
    fairness: GapResults | None = None
    by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        fairness = self.fairness and {"by": self.by, **self.fairness.to_dict()}
        return {"slices": self.slices and self.slices.to_dict(), "fairness": fairness}


def evaluated_rows(data: RunData, split: str) -> EvaluatedRows:
    """The rows of a split of a run, as its step `evaluate` looks at them."""
    clusters = Counter(group for one in data.packed.values() for group in one.groups)
    predictions = data.predictions(split)
    return EvaluatedRows(
        data.split(split), predictions, data.texts(split), data.taxonomy, data.space.ocr, clusters, data.windows(split)
    )


def slices_of(
    rows: EvaluatedRows, policy: Policy, models: Sequence[str], config: SlicesConfig
) -> dict[tuple[str, str], Rows]:
    """Column and value -> the rows of a slice, ``[n]``: those that every run has, and those that were asked for."""
    known = rows.predictions.has[models[-1]] & (rows.predictions.labels != UNLABELLED)
    columns = read_columns(rows.split, rows.taxonomy, config)
    min_rows = math.ceil(config.min_rows / known.mean()) if known.any() else config.min_rows
    return _slices(_usual_columns(rows, columns, policy, models), columns, config, min_rows)


def measure_parts(
    rows: EvaluatedRows, policy: Policy, models: Sequence[str], config: SlicesConfig, *, resamples: int, seed: int
) -> MeasuredParts:
    """The last model, calibrated and at the policy's thresholds, on parts of a split.

    Values that only rows without a label bear are named, with no rows.

    Raises
    ------
    ConfigError
        As `read_columns` and `read_terms`.
    """
    predictions, model = rows.predictions, models[-1]
    known = predictions.has[model] & (predictions.labels != UNLABELLED)
    if not known.any():
        return MeasuredParts()
    min_rows = math.ceil(config.min_rows / known.mean())
    columns = read_columns(rows.split, rows.taxonomy, config)
    slices = _slices(_usual_columns(rows, columns, policy, models), columns, config, min_rows)
    label = rows.taxonomy[policy.label]
    by = config.terms or config.groups or (TARGET if policy.label != TARGET else None)
    speaks: dict[str, Rows] = {}
    if by is not None and (label.binary or config.rates_of is not None):
        texts = rows.texts
        speaks = mentions(texts, read_terms(by)) if config.terms else _spoken_of(columns.get(by, []), min_rows)
    probabilities, classes = (a[known] for a in calibrated(predictions, policy, model))
    groups = [group for group, k in zip(predictions.groups, known, strict=True) if k]
    rates_of = None if config.rates_of is None else label.index(config.rates_of)
    judged = RowMetrics(predictions.labels[known], probabilities, classes, groups, rates_of)
    settings = SliceSettings(config.min_rows, resamples, seed)
    measured = measure_slices(judged, {key: inside[known] for key, inside in slices.items()}, settings)
    if not speaks:
        return MeasuredParts(measured)
    members = {group: inside[known] for group, inside in speaks.items()}
    return MeasuredParts(measured, measure_gaps(judged, members, settings), by)


def _usual_columns(
    rows: EvaluatedRows, columns: Mapping[str, Sequence[Any]], policy: Policy, models: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """The columns that every run is looked at by."""
    return {
        "language": columns["language"],
        "text_length": [len(without_tags(text)) or "no text" for text in rows.texts],
        "windows": [count or "no text" for count in rows.windows] if max(rows.windows, default=0) > 1 else [],
        "ocr_confidence": _confidences(rows.split.ids, rows.ocr),
        "presence": [pattern or "nothing" for pattern in rows.predictions.patterns],
        TARGET: columns.get(TARGET, []) if policy.label != TARGET else [],
        "agreement": _agreement(rows.predictions, policy, models),
        "source": columns["source"],
        "near_duplicates": ["alone" if rows.clusters[g] == 1 else "in a cluster" for g in rows.predictions.groups],
    }


def _slices(
    usual: Mapping[str, Sequence[Any]], columns: Mapping[str, Sequence[Any]], config: SlicesConfig, min_rows: int
) -> dict[tuple[str, str], Rows]:
    """Every value of every column; a usual column of one value tells nothing, one that was asked for is told."""
    slices: dict[tuple[str, str], Rows] = {}
    for name, values in {**usual, **{name: columns[name] for name in config.columns}}.items():
        found = cut(values, min_rows)
        if name in config.columns or len(found) > 1:
            slices |= {(name, value): inside for value, inside in found.items()}
    return slices


def check_slices(config: SlicesConfig, label: Label, modalities: Sequence[str]) -> None:
    """Refuse at once what can be known before any row is read. Raises `ConfigError`."""
    if config.terms is not None:
        read_terms(config.terms)
        if TEXT not in modalities:
            raise ConfigError(f"slices.terms are looked for in the part {TEXT!r}, which is not among modalities")
    if (config.terms or config.groups) and not label.binary and config.rates_of is None:
        raise ConfigError(
            f"slices.{'terms' if config.terms else 'groups'} compares error rates, and a label of several classes has "
            f"them class by class: name one of {listed([*map(str, label.classes)])} in slices.rates_of"
        )
    if config.rates_of is not None and (label.binary or config.rates_of not in label.classes):
        classes = "a binary label has its two rates anyway" if label.binary else ""
        known = classes or nearest(str(config.rates_of), map(str, label.classes))
        raise ConfigError(f"slices.rates_of = {config.rates_of!r} is no class to hold against the rest; {known}")


def read_columns(split: Split, taxonomy: Taxonomy, config: SlicesConfig) -> dict[str, list[Any]]:
    """Column -> its value on each row of a split, None where it has none; reads every row's record once.

    Holds the columns asked for, ``language``, ``source`` and, where any row bears it, `TARGET`.

    Raises
    ------
    ConfigError
        Where a column asked for is neither a label nor borne by any row, with the nearest that is; or where it holds
        records.
    """
    asked = dict.fromkeys([*config.columns, *([config.groups] if config.groups else [])])
    columns: dict[str, list[Any]] = {name: [] for name in ("language", "source", TARGET, *asked)}
    known = set(taxonomy.labels)
    for row in range(len(split)):
        record = split.record(row)
        known |= record.meta.keys()
        for name, values in columns.items():
            values.append(record.labels.get(name) if name in taxonomy.labels else record.meta.get(name))
    for name in asked:
        if name not in known - {"facts"}:
            raise ConfigError(f"slices: no tested row bears a column {name!r}; {nearest(name, known - {'facts'})}")
        if any(isinstance(value, dict) for value in columns[name]):
            raise ConfigError(
                f"slices: column {name!r} holds records: name a column of texts, numbers or lists of them"
            )
    if TARGET not in asked and all(value is None for value in columns[TARGET]):
        del columns[TARGET]
    return columns


def cut(values: Sequence[Any], min_rows: int) -> dict[str, Rows]:
    """The slices of a column, ``[n]`` each, by name; a list puts its row into several.

    More than `DISTINCT` different numbers are cut into bins with as many rows each, two to `MOST_BINS` of them so that
    each has twice ``min_rows`` where it can, named by the least and the greatest number in them.
    """
    members = [value if isinstance(value, list | tuple) else [value] for value in values]
    numbers = np.array([_number(row[0]) if len(row) == 1 else np.nan for row in members], dtype=float)
    there = ~np.isnan(numbers)
    if len(np.unique(numbers[there])) <= DISTINCT:
        there[:] = False
    found = _bins(numbers, there, min_rows) if there.any() else {}
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(~there).tolist():
        for name in {UNKNOWN if value is None else _spelt(value) for value in members[row] or [None]}:
            rows_of.setdefault(name, []).append(row)
    ranked = sorted(rows_of, key=lambda name: (-len(rows_of[name]), name))
    kept = ranked if len(ranked) <= COMMONEST + 1 else ranked[:COMMONEST]
    for name in ranked:
        found.setdefault(name if name in kept else OTHERS, np.zeros(len(values), dtype=bool))[rows_of[name]] = True
    return found


def _number(value: Any) -> float:
    """A number as such; nan for anything else, truth values included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def _spelt(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bins(numbers: NDArray[np.float64], there: Rows, min_rows: int) -> dict[str, Rows]:
    count = int(np.clip(there.sum() // (2 * min_rows), 2, MOST_BINS))
    values = np.unique(numbers[there])
    # Where many rows share the greatest number, the others still have a bin.
    edges = np.unique(np.quantile(numbers[there], np.arange(1, count) / count).clip(max=values[-2]))
    place = np.searchsorted(edges, numbers, side="left")
    bins = [rows for b in range(len(edges) + 1) if (rows := there & (place == b)).any()]
    for digits in (4, 17):  # the shorter where that tells the bins apart
        ends = [(_shown(numbers[rows].min(), digits), _shown(numbers[rows].max(), digits)) for rows in bins]
        if len(set(ends)) == len(bins):
            break
    return {f"{low} to {high}": rows for (low, high), rows in zip(ends, bins, strict=True)}


def _shown(number: float, digits: int) -> str:
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.{digits}g}"


def _confidences(ids: Sequence[str], ocr: Path) -> list[Any]:
    """How sure OCR was of each row's picture."""
    wanted = set(ids)
    read = {row["id"]: row["confidence"] for row in read_jsonl(ocr) if row["id"] in wanted} if ocr.is_file() else {}
    told = {None: "no words found"}
    return [told.get(read[i], read[i]) if i in read else "not read" for i in ids]


def _agreement(predictions: Predictions, policy: Policy, models: Sequence[str]) -> list[str]:
    """Whether all models with an opinion predict the same of a row."""
    classes = np.stack([calibrated(predictions, policy, model)[1] for model in models])
    has = np.stack([predictions.has[model] for model in models])
    low = np.where(has, classes, np.iinfo(int).max).min(axis=0)
    high = np.where(has, classes, -1).max(axis=0)
    return np.where(has.sum(axis=0) < 2, "one opinion", np.where(low == high, "agree", "differ")).tolist()


def _spoken_of(values: Sequence[Any], min_rows: int) -> dict[str, Rows]:
    """Group -> whether each row speaks of it, by a column."""
    found = cut(values, min_rows)
    return {name: rows for name, rows in found.items() if name != UNKNOWN and name.casefold() not in NO_GROUP}
