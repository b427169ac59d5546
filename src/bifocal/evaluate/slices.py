"""Where a model is worse than on the whole: its figures on slices of the rows, and gaps between groups of people."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import DataError
from ..spreadsheet import cells
from ..workspace import atomic
from .differences import CONFIDENCE, Area, Rate, difference, holm
from .intervals import RESAMPLES, Interval, percentile_interval, positives
from .row_metrics import RowMetrics
from .slice_results import Comparison, Difference, GapResults, RowFigures, SliceFigures, SliceResults

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.bool_]
    Slices = Mapping[tuple[str, str], Rows]

MIN_ROWS = 30
"""Groups that a slice needs, by default."""
ALPHA = 1 - CONFIDENCE
"""How likely, at most, is a slice that is named wrongly, or more than one."""
HIGHER_IS_BETTER = ("auroc", "macro_f1", "accuracy")


@dataclass(frozen=True, slots=True)
class SliceSettings:
    """How slices are measured.

    Attributes
    ----------
    min_rows : int
        A slice of fewer groups is named with its rows, and not measured.
    """

    min_rows: int = MIN_ROWS
    resamples: int = RESAMPLES
    seed: int = 0


def measure_slices(judged: RowMetrics, slices: Slices, settings: SliceSettings) -> SliceResults:
    """The figures of one model on every slice and on the rest of the rows, and which differences are not chance.

    Compared are, of a binary label, AUROC, false-positive and false-negative rate; of the others accuracy (macro-F1 of
    few rows is too low by itself, so that its difference stands without a p-value), and the two rates where
    ``judged.of`` is a class. Holm's correction is over all of them, as one false alarm among forty slices is what a
    reader must be spared; a slice and its complement are one question, and so are two slices of the same rows.

    Parameters
    ----------
    judged : RowMetrics
        Its probabilities calibrated.
    slices : (column, value) -> bool [n]

    Raises
    ------
    DataError
        Where a slice is not one per row.
    """
    compared = tuple("accuracy" if name == "macro_f1" else name for name in judged.names if name != "accuracy")
    found = _Compared(judged, slices, None, compared, settings)
    worse = [key for key, sides in found.sides.items() if sides.harm > 0]
    worst = min(worse, key=lambda key: (found.p_value(key), -found.sides[key].harm), default=None)
    return SliceResults(
        judged.headline,
        settings.min_rows,
        found.comparisons,
        [found.slice(i) for i in range(len(slices))],
        None if worst is None else found.comparison(worst),
    )


def measure_gaps(judged: RowMetrics, members: Mapping[str, Rows], settings: SliceSettings) -> GapResults:
    """Whether posts that speak of a group are wrongly flagged, or missed, more often than posts that speak of none.

    Words that name a group and raise the false-positive rate are the bias of Dixon et al. 2018 (AIES); equal rates of
    both errors are equalised odds (Hardt, Price and Srebro 2016, arXiv:1610.02413).

    Parameters
    ----------
    judged : RowMetrics
        As of `measure_slices`; of a label of several classes ``rates_of`` is needed.
    members : group -> bool [n]
        Whether each row speaks of it; a row may speak of several.

    Raises
    ------
    DataError
        As `measure_slices`, or where a label of several classes comes without ``rates_of``.
    """
    if judged.of is None:
        raise DataError("a label of several classes has no false-positive rate: name one class in `slices.rates_of`")
    none = ~np.any([np.zeros(len(judged.y), dtype=bool), *members.values()], axis=0)
    slices = {("group", name): rows for name, rows in members.items()}
    found = _Compared(judged, slices, none, ("fpr", "fnr"), settings)
    rates = [key for key in found.sides if key[1] == "fpr"]
    largest = max(rates, key=lambda key: (found.significant(key), abs(found.sides[key].harm)), default=None)
    negatives = judged.y != judged.of
    return GapResults(
        settings.min_rows,
        found.comparisons,
        found.base,
        found.base.note(found.base, rest=False),
        int(negatives[none].sum()),
        [found.slice(i) for i in range(len(members))],
        [int(negatives[rows].sum()) for rows in members.values()],
        None if largest is None else found.comparison(largest),
    )


class _Sides(NamedTuple):
    """One figure of a slice and of what it is held against, in closed form."""

    figure: str
    here: Rate | Area
    there: Rate | Area
    question: bytes
    """Equal where another slice asks the same."""

    @property
    def harm(self) -> float:
        """How much worse the slice is."""
        gap = self.here.value - self.there.value
        return -gap if self.figure in HIGHER_IS_BETTER else gap

    def p_value(self) -> float:
        """Of the same figure on both sides, which are both rates or both areas."""
        return self.here.p_value(self.there)  # type: ignore[arg-type]


class _Compared:
    """Slices against the rest of the rows, or against ``reference`` rows, with Holm's correction over all of it."""

    def __init__(
        self,
        judged: RowMetrics,
        slices: Slices,
        reference: Rows | None,
        compared: Sequence[str],
        settings: SliceSettings,
    ):
        self.judged, self.compared, self.min_rows = judged, compared, settings.min_rows
        self.names = list(slices)
        self.rest = reference is None
        base = np.ones(len(judged.y), dtype=bool) if reference is None else reference
        parts = [base, *(self._checked(name, rows) for name, rows in slices.items())]
        here, there = _joined(judged.replicates(parts, settings.resamples, settings.seed, without=self.rest))
        self.base = self._measured(base, {name: drawn[0] for name, drawn in here.items()})
        self.pairs: list[tuple[RowFigures, RowFigures]] = []
        """Of each slice its own figures, and those of what it is held against."""
        self.sides: dict[tuple[int, str], _Sides] = {}
        """By slice and figure, where they are compared."""
        for i, rows in enumerate(parts[1:]):
            against = base & ~rows if self.rest else base
            own = self._measured(rows, {name: drawn[i + 1] for name, drawn in here.items()})
            # Against a reference there is one other side for all.
            other = self._measured(against, {name: drawn[i + 1 if self.rest else 0] for name, drawn in there.items()})
            self.pairs.append((own, other))
            asked = [name for name in compared if name not in {*own.missing, *other.missing}]
            self.sides |= {(i, name): sides for name in asked if (sides := self._sides(name, rows, against))}
        self._p_values = {sides.question: sides.p_value() for sides in self.sides.values()}
        self._adjusted = holm(self._p_values)
        self.comparisons = len(self._p_values)

    def _checked(self, name: tuple[str, str], rows: ArrayLike) -> Rows:
        inside = np.asarray(rows)
        if inside.dtype != bool or inside.shape != self.judged.y.shape:
            raise DataError(
                f"slice {name[1]!r} of {name[0]} is a bool per row, found {inside.dtype} of shape {list(inside.shape)} "
                f"for {len(self.judged.y)} labels"
            )
        return inside

    def _measured(self, rows: Rows, drawn: Mapping[str, Floats]) -> RowFigures:
        judged = self.judged
        classes = np.bincount(judged.y[rows], minlength=judged.classes).tolist()
        groups = judged.groups(rows)
        figures: dict[str, Interval | None] = dict.fromkeys(judged.names)
        if groups >= self.min_rows:
            figures |= {name: self._figure(name, rows, drawn.get(name)) for name in judged.names}
        return RowFigures(int(rows.sum()), groups, positives(classes), figures)

    def _figure(self, name: str, rows: Rows, drawn: Floats | None) -> Interval | None:
        """A figure and its interval: percentiles of the resamples, and of a rate at least Jeffreys' interval."""
        closed = self.judged.figure(name, rows)
        if name == "macro_f1":
            value = float(self.judged.counted(self.judged.cells(rows))[name])
            return percentile_interval(value, np.array([]) if drawn is None else drawn)
        if closed is None or drawn is None:
            return None if closed is None else closed.interval()
        exact, found = closed.interval(), percentile_interval(closed.value, drawn)
        return Interval(closed.value, float(np.fmin(exact.low, found.low)), float(np.fmax(exact.high, found.high)))

    def _sides(self, name: str, rows: Rows, against: Rows) -> _Sides | None:
        here, there = (self.judged.figure(name, part) for part in (rows, against))
        if here is None or there is None:
            return None
        # A slice and its complement ask the same.
        asked = against if rows[0] and (rows ^ against).all() else rows
        return _Sides(name, here, there, name.encode() + np.packbits(asked).tobytes())

    def slice(self, i: int) -> SliceFigures:
        """The figures of a slice, and their differences."""
        own, other = self.pairs[i]
        differences = {name: self._difference(i, name) for name in self.judged.names}
        return SliceFigures(*self.names[i], own, own.note(other, rest=self.rest), differences)

    def _difference(self, i: int, name: str) -> Difference | None:
        one, other = (side.figures[name] for side in self.pairs[i])
        if one is None or other is None:
            return None
        gap, key = difference(one, other), (i, name)
        if key not in self.sides:
            return Difference(other.value, gap)
        return Difference(other.value, gap, self.p_value(key), self.adjusted(key))

    def p_value(self, key: tuple[int, str]) -> float:
        return self._p_values[self.sides[key].question]

    def adjusted(self, key: tuple[int, str]) -> float:
        return self._adjusted[self.sides[key].question]

    def significant(self, key: tuple[int, str]) -> bool:
        return self.adjusted(key) <= ALPHA

    def comparison(self, key: tuple[int, str]) -> Comparison:
        """One comparison by itself, with an interval that holds for all of them together (Bonferroni's)."""
        sides, confidence = self.sides[key], 1 - ALPHA / self.comparisons
        return Comparison(
            *self.names[key[0]],
            self.pairs[key[0]][0].n,
            sides.figure,
            sides.here.value,
            sides.there.value,
            difference(sides.here.interval(confidence), sides.there.interval(confidence)),
            confidence,
            self.p_value(key),
            self.adjusted(key),
            self.significant(key),
        )


def _joined(
    chunks: Iterable[tuple[Mapping[str, Floats], Mapping[str, Floats]]],
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The resampled figures of all chunks, ``[parts, resamples]`` by name, of both sides."""
    sides: tuple[dict[str, list[Floats]], dict[str, list[Floats]]] = ({}, {})
    for chunk in chunks:
        for side, figures in zip(sides, chunk, strict=True):
            for name, drawn in figures.items():
                side.setdefault(name, []).append(drawn)
    one, other = ({name: np.concatenate(drawn, axis=1) for name, drawn in side.items()} for side in sides)
    return one, other


def write_slices(path: Path, measured: SliceResults | None, *, raw: bool = False) -> None:
    """``slices_<run>.csv``: a row per slice, from what `measure_slices` gave, whole or not at all.

    Columns: ``column, slice, n, groups, positives`` (of several classes: one count each, spaces between), ``note``;
    then ``<figure>`` and its ``_low, _high, _difference, _difference_low, _difference_high, _p, _p_adjusted``, of each
    figure. What the rows cannot tell, or is not compared, is an empty cell. Words are `guarded` against spreadsheets
    unless they are wanted ``raw``.
    """
    cell = cells(raw)
    slices = measured.slices if measured else []
    names = list(slices[0].rows.figures) if slices else []
    tail = [("", "value"), ("_low", "low"), ("_high", "high")]
    gaps = [(f"_difference{end}", key) for end, key in tail] + [("_p", "p"), ("_p_adjusted", "p_adjusted")]
    head = ["column", "slice", "n", "groups", "positives", "note"]
    with atomic(Path(path)) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(map(cell, [*head, *(name + end for name in names for end, _ in (*tail, *gaps))]))
        for row in slices:
            positive = row.rows.positives
            counts = " ".join(map(str, positive)) if isinstance(positive, list) else positive
            written = [row.column, row.name, row.rows.n, row.rows.groups, counts, row.note or ""]
            told = row.to_dict()
            for name in names:
                figure, gap = told["figures"][name] or {}, told["differences"][name] or {}
                written += [figure.get(key, "") for _, key in tail] + [gap.get(key, "") for _, key in gaps]
            writer.writerow(map(cell, written))
