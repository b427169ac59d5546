"""Where a model is worse than on the whole: its figures on slices of the rows, and gaps between groups of people."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..spreadsheet import cells
from ..workspace import atomic
from .differences import CONFIDENCE, Area, Rate, difference, holm
from .intervals import RESAMPLES, Interval, percentile_interval, positives
from .judged import Judged

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.bool_]
    Slices = Mapping[tuple[str, str], Rows]

MIN_ROWS = 30
"""Groups that a slice needs, by default."""
ALPHA = 1 - CONFIDENCE
"""How likely, at most, is a slice that is named wrongly, or more than one."""
TOO_FEW = "too few rows"
HIGHER_IS_BETTER = ("auroc", "macro_f1", "accuracy")


def measure_slices(
    labels: ArrayLike,
    probabilities: ArrayLike,
    predictions: ArrayLike | None,
    groups: Sequence[Any],
    slices: Slices,
    *,
    rates_of: int | None = None,
    min_rows: int = MIN_ROWS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of one model on every slice and on the rest of the rows, and which differences are not chance.

    Compared are, of a binary label, AUROC, false-positive and false-negative rate; of the others accuracy (macro-F1 of
    few rows is too low by itself, so that its difference stands without a p-value), and the two rates where
    ``rates_of`` names a class. Holm's correction is over all of them, as one false alarm among forty slices is what a
    reader must be spared; a slice and its complement are one question, and so are two slices of the same rows.

    Parameters
    ----------
    labels, probabilities, predictions, groups, rates_of
        As `Judged`; probabilities calibrated.
    slices : (column, value) -> bool [n]
    min_rows : int
        A slice of fewer groups is named with its rows, and not measured.

    Returns
    -------
    dict
        ``headline``, ``min_rows``, ``comparisons``; ``slices``: of each its ``column, slice, n, groups, positives``,
        ``note`` (why something is missing, or null), ``figures`` (name -> ``value, low, high``, or null) and
        ``differences`` to the rest (name -> ``rest, value, low, high`` and, where compared, ``p, p_adjusted``; or
        null); ``worst``: of the differences for the worse the least likely, with a ``low`` and ``high`` that hold for
        all comparisons together, and whether it is ``significant``; null where no slice is worse in anything.

    Raises
    ------
    DataError
        As `Judged`, or where a slice is not one per row.
    """
    judged = Judged(labels, probabilities, predictions, groups, rates_of)
    compared = tuple("accuracy" if name == "macro_f1" else name for name in judged.names if name != "accuracy")
    found = _Measured(judged, slices, None, compared, min_rows=min_rows, resamples=resamples, seed=seed)
    worse = [key for key, sides in found.sides.items() if sides.harm > 0]
    worst = min(worse, key=lambda key: (found.p_value(key), -found.sides[key].harm), default=None)
    return {
        "headline": judged.headline,
        "min_rows": min_rows,
        "comparisons": found.comparisons,
        "slices": [
            {"column": column, "slice": value, **row} for (column, value), row in zip(slices, found.rows, strict=True)
        ],
        "worst": None if worst is None else found.told(worst),
    }


def measure_gaps(
    labels: ArrayLike,
    probabilities: ArrayLike,
    predictions: ArrayLike | None,
    groups: Sequence[Any],
    members: Mapping[str, Rows],
    *,
    rates_of: int | None = None,
    min_rows: int = MIN_ROWS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Whether posts that speak of a group are wrongly flagged, or missed, more often than posts that speak of none.

    Words that name a group and raise the false-positive rate are the bias of Dixon et al. 2018 (AIES); equal rates of
    both errors are equalised odds (Hardt, Price and Srebro 2016, arXiv:1610.02413).

    Parameters
    ----------
    labels, probabilities, predictions, groups, rates_of, min_rows
        As `measure_slices`; of a label of several classes ``rates_of`` is needed.
    members : group -> bool [n]
        Whether each row speaks of it; a row may speak of several.

    Returns
    -------
    dict
        ``min_rows``, ``comparisons``; ``reference`` (the rows that speak of none): ``n, groups, positives, negatives,
        note, figures``; ``groups``: the same of each with its name as ``group``, and ``differences`` to the reference
        as in `measure_slices`; ``largest``: the group whose false-positive rate is furthest from the reference's by
        more than chance, or else by chance, with a ``low`` and ``high`` that hold for all comparisons together; null
        where none can be compared.

    Raises
    ------
    DataError
        As `measure_slices`, or where a label of several classes comes without ``rates_of``.
    """
    judged = Judged(labels, probabilities, predictions, groups, rates_of)
    if judged.of is None:
        raise DataError("a label of several classes has no false-positive rate: name one class in `slices.rates_of`")
    none = ~np.any([np.zeros(len(judged.y), dtype=bool), *members.values()], axis=0)
    slices = {("group", name): rows for name, rows in members.items()}
    found = _Measured(judged, slices, none, ("fpr", "fnr"), min_rows=min_rows, resamples=resamples, seed=seed)
    rates = [key for key in found.sides if key[1] == "fpr"]
    largest = max(rates, key=lambda key: (found.significant(key), abs(found.sides[key].harm)), default=None)

    def told(row: dict[str, Any], rows: Rows) -> dict[str, Any]:
        return {**row, "negatives": int((judged.y[rows] != judged.of).sum())}

    return {
        "min_rows": min_rows,
        "comparisons": found.comparisons,
        "reference": told(found.base, none),
        "groups": [{"group": g, **told(row, members[g])} for g, row in zip(members, found.rows, strict=True)],
        "largest": None if largest is None else found.told(largest),
    }


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


class _Measured:
    """Slices against the rest of the rows, or against ``reference`` rows, with Holm's correction over all of it."""

    def __init__(
        self,
        judged: Judged,
        slices: Slices,
        reference: Rows | None,
        compared: Sequence[str],
        *,
        min_rows: int,
        resamples: int,
        seed: int,
    ):
        self.judged, self.compared, self.min_rows = judged, compared, min_rows
        self.names = list(slices)
        base = np.ones(len(judged.y), dtype=bool) if reference is None else reference
        parts = [base, *(self._checked(name, rows) for name, rows in slices.items())]
        here, there = _joined(judged.replicates(parts, resamples, seed, without=reference is None))
        self.sides: dict[tuple[int, str], _Sides] = {}
        """By slice and figure, where they are compared."""
        self.base = self._row(base, {name: drawn[0] for name, drawn in here.items()})
        self.rows: list[dict[str, Any]] = []
        for i, rows in enumerate(parts[1:]):
            against = base & ~rows if reference is None else base
            row = self._row(rows, {name: drawn[i + 1] for name, drawn in here.items()})
            # Against a reference there is one other side for all.
            other = self._row(against, {name: drawn[min(i + 1, len(drawn) - 1)] for name, drawn in there.items()})
            differences = self._differences(i, rows, against, row["figures"], other["figures"])
            self.rows.append({**row, "note": _note(row, other, reference is None), "differences": differences})
        self.base["note"] = _note(self.base, self.base, False)
        self.p_values = {sides.question: sides.p_value() for sides in self.sides.values()}
        self._adjusted = holm(self.p_values)
        self.comparisons = len(self.p_values)
        for (i, figure), sides in self.sides.items():
            p = {"p": self.p_values[sides.question], "p_adjusted": self._adjusted[sides.question]}
            self.rows[i]["differences"][figure] |= p
        for row in (self.base, *self.rows):
            row["figures"] = {name: figure and figure._asdict() for name, figure in row["figures"].items()}

    def _checked(self, name: tuple[str, str], rows: ArrayLike) -> Rows:
        inside = np.asarray(rows)
        if inside.dtype != bool or inside.shape != self.judged.y.shape:
            raise DataError(
                f"slice {name[1]!r} of {name[0]} is a bool per row, found {inside.dtype} of shape {list(inside.shape)} "
                f"for {len(self.judged.y)} labels"
            )
        return inside

    def _row(self, rows: Rows, drawn: Mapping[str, Floats]) -> dict[str, Any]:
        """Counts and figures (name -> interval, or None) of some rows."""
        judged = self.judged
        classes = np.bincount(judged.y[rows], minlength=judged.classes).tolist()
        groups = judged.groups(rows)
        figures: dict[str, Interval | None] = dict.fromkeys(judged.names)
        if groups >= self.min_rows:
            figures |= {name: self._figure(name, rows, drawn.get(name)) for name in judged.names}
        return {"n": int(rows.sum()), "groups": groups, "positives": positives(classes), "figures": figures}

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

    def _differences(
        self,
        i: int,
        rows: Rows,
        against: Rows,
        here: Mapping[str, Interval | None],
        there: Mapping[str, Interval | None],
    ) -> dict[str, dict[str, float] | None]:
        found: dict[str, dict[str, float] | None] = {}
        for name in self.judged.names:
            one, other = here[name], there[name]
            if one is None or other is None:
                found[name] = None
                continue
            found[name] = {"rest": other.value, **difference(one, other)._asdict()}
            if name in self.compared:
                mine, others = (self.judged.figure(name, part) for part in (rows, against))
                if mine is not None and others is not None:
                    # A slice and its complement ask the same.
                    asked = against if rows[0] and (rows ^ against).all() else rows
                    question = name.encode() + np.packbits(asked).tobytes()
                    self.sides[i, name] = _Sides(name, mine, others, question)
        return found

    def p_value(self, key: tuple[int, str]) -> float:
        return self.p_values[self.sides[key].question]

    def adjusted(self, key: tuple[int, str]) -> float:
        return self._adjusted[self.sides[key].question]

    def significant(self, key: tuple[int, str]) -> bool:
        return self.adjusted(key) <= ALPHA

    def told(self, key: tuple[int, str]) -> dict[str, Any]:
        """One comparison by itself, with an interval that holds for all of them together (Bonferroni's)."""
        (column, value), sides = self.names[key[0]], self.sides[key]
        confidence = 1 - ALPHA / self.comparisons
        gap = difference(sides.here.interval(confidence), sides.there.interval(confidence))
        return {
            "column": column,
            "slice": value,
            "n": self.rows[key[0]]["n"],
            "figure": sides.figure,
            "here": sides.here.value,
            "rest": sides.there.value,
            **gap._asdict(),
            "confidence": confidence,
            "p": self.p_value(key),
            "p_adjusted": self.adjusted(key),
            "significant": self.significant(key),
        }


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


def _note(row: Mapping[str, Any], other: Mapping[str, Any], rest: bool) -> str | None:
    """Why something is missing of a slice, or of what it is held against: the ``rest`` of the rows, or others."""
    if not row["n"]:
        return "no rows"
    if not any(row["figures"].values()):
        return TOO_FEW
    if missing := [name for name, figure in row["figures"].items() if figure is None]:
        return f"{TOO_FEW} for {', '.join(missing)}"
    if not other["n"]:
        return "all rows: nothing to compare with" if rest else "no rows to compare with"
    if missing := [name for name, figure in other["figures"].items() if figure is None]:
        return f"{TOO_FEW} to compare with for {', '.join(missing)}"
    return None


def write_slices(path: Path, measured: Mapping[str, Any] | None, *, raw: bool = False) -> None:
    """``slices_<run>.csv``: a row per slice, from what `measure_slices` gave, whole or not at all.

    Columns: ``column, slice, n, groups, positives`` (of several classes: one count each, spaces between), ``note``;
    then ``<figure>`` and its ``_low, _high, _difference, _difference_low, _difference_high, _p, _p_adjusted``, of each
    figure. What the rows cannot tell, or is not compared, is an empty cell. Words are `guarded` against spreadsheets
    unless they are wanted ``raw``.
    """
    cell = cells(raw)
    slices = measured["slices"] if measured else []
    names = list(slices[0]["figures"]) if slices else []
    tail = [("", "value"), ("_low", "low"), ("_high", "high")]
    gaps = [(f"_difference{end}", key) for end, key in tail] + [("_p", "p"), ("_p_adjusted", "p_adjusted")]
    head = ["column", "slice", "n", "groups", "positives", "note"]
    with atomic(Path(path)) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(map(cell, [*head, *(name + end for name in names for end, _ in (*tail, *gaps))]))
        for row in slices:
            positive = row["positives"]
            counts = " ".join(map(str, positive)) if isinstance(positive, list) else positive
            written = [row["column"], row["slice"], row["n"], row["groups"], counts, row["note"] or ""]
            for name in names:
                figure, gap = row["figures"][name] or {}, row["differences"][name] or {}
                written += [figure.get(key, "") for _, key in tail] + [gap.get(key, "") for _, key in gaps]
            writer.writerow(map(cell, written))
