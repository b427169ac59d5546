"""The strategy that suits the rows: the smallest of those that tie with the best on rows that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ... import plugins
from ...config import Reads
from ...errors import ConfigError
from ..comparison import compare, smallest_near_best
from ..composite_fusion import CompositeFusion, readable_of
from ..folds import FoldPredictions, FoldRows
from ..heads import Recipe

COMPARED_SEEDS = 1
"""Models of each strategy where strategies are compared; the winner is then fitted with all seeds."""
NARROW = {"learning_rates": [1e-3, 3e-3], "weight_decays": [0.01]}
"""The grid of every head that is trained by gradient, where its own options do not say otherwise: a third of the six
points, and of the time."""


class Auto(CompositeFusion):
    """Every strategy that can be cross-fitted in seconds, compared by its cross-fitted negative log-likelihood.

    Taken is `smallest_near_best`.

    What is deployed is the strategy itself: its name, options and files are those of a run that had named it.
    """

    def check(self, read: Mapping[str, Reads]) -> list[str]:
        if self.options.members:
            raise ConfigError(
                "fusion.options.members counts the picks of an ensemble, and auto takes one strategy: name those to "
                "choose from under fusion.options.candidates, or ask for fusion.strategy: ensemble"
            )
        return super().check(read)

    def fit_folds(self, rows: FoldRows, *, seeds: Sequence[int], read: Mapping[str, Reads]) -> FoldPredictions:
        found = super().fit_folds(rows, seeds=seeds[:COMPARED_SEEDS], read=read)
        if len(seeds) <= COMPARED_SEEDS or found.strategy is None:
            return found
        member = self._member(found.strategy)
        whole = member.fit_folds(rows, seeds=seeds, read=readable_of(member, read))
        return replace(whole, strategy=found.strategy, candidates=found.candidates)

    def _member(self, name: str) -> Any:
        kind, own = plugins.load("fusions", name), self.options.options.get(name, {})
        return kind(**({**NARROW, **own} if issubclass(kind.Options, Recipe) else own))

    def compose(self, found: Mapping[str, FoldPredictions], rows: FoldRows) -> FoldPredictions:
        logits = {name: one.logits[-1] for name, one in found.items()}
        trained = {name: one.trained for name, one in found.items()}
        candidates = compare(logits, rows.labels, next(iter(rows.evidence.values())).groups, trained)
        taken = smallest_near_best(candidates).name
        return replace(found[taken], strategy=taken, candidates=tuple(candidates))
