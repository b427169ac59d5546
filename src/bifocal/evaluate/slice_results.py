"""What the figures of slices and groups are told as: typed here, plain mappings in ``results_<run>.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .intervals import Interval

TOO_FEW = "too few rows"


@dataclass(frozen=True, slots=True)
class RowFigures:
    """Counts and figures of some rows; a figure is None where they are too few for it."""

    n: int
    groups: int
    positives: int | list[int]
    """Rows of class 1, or of each of several classes."""
    figures: Mapping[str, Interval | None]

    @property
    def missing(self) -> list[str]:
        return [name for name, figure in self.figures.items() if figure is None]

    def to_dict(self) -> dict[str, Any]:
        figures = {name: figure and figure._asdict() for name, figure in self.figures.items()}
        return {"n": self.n, "groups": self.groups, "positives": self.positives, "figures": figures}

    def note(self, other: RowFigures, *, rest: bool) -> str | None:
        """Why something is missing here, or of what it is held against: the ``rest`` of the rows, or others."""
        if not self.n:
            return "no rows"
        if not any(self.figures.values()):
            return TOO_FEW
        if self.missing:
            return f"{TOO_FEW} for {', '.join(self.missing)}"
        if not other.n:
            return "all rows: nothing to compare with" if rest else "no rows to compare with"
        if other.missing:
            return f"{TOO_FEW} to compare with for {', '.join(other.missing)}"
        return None


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of a slice less that of ``rest``; with p-values where the two are compared."""

    rest: float
    gap: Interval
    p: float | None = None
    p_adjusted: float | None = None

    def to_dict(self) -> dict[str, float]:
        told = {"rest": self.rest, **self.gap._asdict()}
        if self.p is not None and self.p_adjusted is not None:
            told |= {"p": self.p, "p_adjusted": self.p_adjusted}
        return told


@dataclass(frozen=True, slots=True)
class SliceFigures:
    """A slice, its figures, and their differences to what it is held against."""

    column: str
    name: str
    rows: RowFigures
    note: str | None
    """Why something is missing."""
    differences: Mapping[str, Difference | None]

    def to_dict(self) -> dict[str, Any]:
        differences = {name: gap and gap.to_dict() for name, gap in self.differences.items()}
        return {**self.rows.to_dict(), "note": self.note, "differences": differences}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison by itself; ``gap`` holds, at ``confidence``, for all of them together."""

    column: str
    name: str
    n: int
    figure: str
    here: float
    rest: float
    gap: Interval
    confidence: float
    p: float
    p_adjusted: float
    significant: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "slice": self.name,
            "n": self.n,
            "figure": self.figure,
            "here": self.here,
            "rest": self.rest,
            **self.gap._asdict(),
            "confidence": self.confidence,
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "significant": self.significant,
        }


@dataclass(frozen=True, slots=True)
class SliceResults:
    """What `measure_slices` found.

    Attributes
    ----------
    comparisons : int
        How many differences Holm's correction is over.
    worst : Comparison or None
        Of the differences for the worse the least likely; None where no slice is worse in anything.
    """

    headline: str
    min_rows: int
    comparisons: int
    slices: list[SliceFigures]
    worst: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            "min_rows": self.min_rows,
            "comparisons": self.comparisons,
            "slices": [{"column": s.column, "slice": s.name, **s.to_dict()} for s in self.slices],
            "worst": self.worst and self.worst.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class GapResults:
    """What `measure_gaps` found.

    Attributes
    ----------
    reference, reference_note : RowFigures, str or None
        The rows that speak of no group, and why something is missing of them.
    negatives, reference_negatives : list of int, int
        Rows of the other classes, by group and of the reference.
    largest : Comparison or None
        The group whose false-positive rate is furthest from the reference's by more than chance, or else by chance;
        None where none can be compared.
    """

    min_rows: int
    comparisons: int
    reference: RowFigures
    reference_note: str | None
    reference_negatives: int
    groups: list[SliceFigures]
    negatives: list[int]
    largest: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "min_rows": self.min_rows,
            "comparisons": self.comparisons,
            "reference": {
                **self.reference.to_dict(),
                "note": self.reference_note,
                "negatives": self.reference_negatives,
            },
            "groups": [
                {"group": group.name, **group.to_dict(), "negatives": negatives}
                for group, negatives in zip(self.groups, self.negatives, strict=True)
            ],
            "largest": self.largest and self.largest.to_dict(),
        }
