"""The test rows on which every figure of a table is measured, with the resamples that make their differences paired."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor

from ..decide.calibration import softmax
from ..errors import DataError, nearest
from ..evaluate.compare import Resampling
from ..evaluate.intervals import (
    Interval,
    MeasuredRows,
    OptionalFigure,
    Weighted,
    over_resamples,
    percentile_interval,
    positives,
)
from ..example import UNLABELLED, Evidence
from .dominance import GAINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

K = TypeVar("K")

Score = Callable[[Mapping[str, Evidence]], Any]
"""Evidence by modality -> logits ``[n, C]``: a fitted fusion, or any function that is defined for absent parts."""
FEW = 30
"""Under so many rows of a class an interval may be too narrow, and a table says so."""


@runtime_checkable
class Explaining(Protocol):
    """A score that says what it gives to each modality; every fusion does."""

    def explain(self, evidence: Mapping[str, Evidence]) -> Mapping[str, Tensor]: ...


class Disturbed(OptionalFigure):
    """A figure under a disturbance, and its paired difference from that of the rows as they are."""

    change: OptionalFigure


@dataclass(frozen=True)
class ScoredRows:
    """Annotated test rows, and the metric and resamples that all figures of one table share.

    Figures are arrays ``[1 + resamples]``: first that of the rows as they are, then that of each resample of groups.
    A difference of two such arrays is paired, as `evaluate.compare.paired_gain` would have it.
    """

    evidence: dict[str, Evidence]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    resampling: Resampling

    @classmethod
    def of(cls, evidence: Mapping[str, Evidence], resampling: Resampling) -> Self:
        """The annotated rows of some Evidence.

        Raises
        ------
        DataError
            Where there is no Evidence, or that of different rows; fewer than two classes among the labels; a metric
            that is not of `dominance.GAINS`.
        """
        if not evidence or len({e.ids for e in evidence.values()}) > 1:
            sizes = ", ".join(f"{name} {len(e)} rows" for name, e in evidence.items())
            raise DataError(
                f"the Evidence of one split's rows by modality is needed, found {sizes or 'none'}: "
                "encode the same split with every expert"
            )
        every = next(iter(evidence.values()))
        rows = (every.labels != UNLABELLED).nonzero().flatten().tolist()
        kept = {name: e.take(rows) for name, e in evidence.items()}
        first = next(iter(kept.values()))
        found = sorted(set(first.labels.tolist()))
        metric = resampling.metric
        if metric not in GAINS:
            raise DataError(
                f"a loss needs a metric of which more is better, found {metric!r}; {nearest(metric, GAINS)}"
            )
        if len(found) < 2:
            raise DataError(
                f"{metric} needs rows of at least two classes; the {len(rows)} annotated ones of {len(every)} are "
                f"all of class {found[0] if found else 'none'}: take another split, or check how the label is mapped"
            )
        return cls(kept, first.labels.numpy(), first.groups, resampling)

    def probabilities(self, score: Score, changed: Mapping[str, Evidence]) -> Floats:
        """What a model says ``[n, C]`` with these modalities in the place of the test rows' own. Raises `DataError`."""
        output = score({**self.evidence, **changed})
        logits = np.asarray(output.detach().cpu() if isinstance(output, Tensor) else output, dtype=np.float64)
        if logits.ndim != 2 or len(logits) != len(self.labels) or not np.isfinite(logits).all():
            raise DataError(
                f"a score gives finite logits [{len(self.labels)}, C], found shape {list(logits.shape)} with "
                f"{int((~np.isfinite(logits)).sum())} not finite: check the model it stands for"
            )
        return softmax(logits)

    def figures(self, probabilities: Mapping[K, Floats]) -> dict[K, Floats]:
        """The metric ``[1 + resamples]`` of each."""
        metric = self.resampling.metric
        scorers = {key: Weighted(self.labels, p) for key, p in probabilities.items()}
        return self._over_resamples(lambda w: {key: scorer(w, [metric])[metric] for key, scorer in scorers.items()})

    def means(self, values: Mapping[K, Floats], rows: NDArray[np.bool_]) -> dict[K, Floats]:
        """The mean ``[1 + resamples]`` of each value ``[n]`` over some of the rows; nan where a resample has none."""
        with np.errstate(invalid="ignore"):
            return self._over_resamples(
                lambda w: {key: w[:, rows] @ x[rows] / w[:, rows].sum(axis=1) for key, x in values.items()}
            )

    def _over_resamples(self, measure: Callable[[Floats], dict[K, Floats]]) -> dict[K, Floats]:
        return over_resamples(measure, self.groups, self.resampling.resamples, self.resampling.seed)

    def facts(self) -> MeasuredRows:
        return {"metric": self.resampling.metric, "n": len(self.labels), "positives": positives(self._counts())}

    def findings(self) -> list[str]:
        """What these rows cannot tell, in sentences; empty where nothing stands against them."""
        few = [f"class {c} has {n}" for c, n in enumerate(self._counts()) if n < FEW]
        found = [f"few test rows ({', '.join(few)}, under {FEW}): intervals may be too narrow"] if few else []
        if len(set(self.groups)) < 2:
            found.append("all test rows are one group of near-duplicates: there are no intervals")
        return found + [f"no test row has {name}" for name, e in self.evidence.items() if not e.present.any()]

    def _counts(self) -> list[int]:
        width = next(iter(self.evidence.values())).logits.shape[1]
        return np.bincount(self.labels, minlength=width).tolist()


def interval_of(figures: Floats) -> Interval:
    """An array ``[1 + resamples]`` between the percentiles of its resamples."""
    return percentile_interval(float(figures[0]), figures[1:])


def figure(figures: Floats) -> OptionalFigure:
    """The same for a table."""
    return interval_of(figures).or_none()


def compared(figures: Floats, intact: Floats) -> Disturbed:
    """Figures of disturbed rows beside those of the same rows as they are."""
    return {**figure(figures), "change": figure(figures - intact)}
