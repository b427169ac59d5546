"""The strategy that suits the rows: the smallest of those that tie with the best on rows that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...config import Reads
from ...errors import ConfigError
from ..comparison import Candidate, smallest_near_best
from ..composite_fusion import CompositeFusion, Picks
from ..folds import FoldPredictions, FoldRows


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

    def pick(
        self, found: Mapping[str, FoldPredictions], candidates: Sequence[Candidate], rows: FoldRows
    ) -> list[Picks]:
        return [{smallest_near_best(candidates).name: 1}] * (rows.folds + 1)

    def settle(self, picks: Picks, found: Mapping[str, FoldPredictions]) -> FoldPredictions:
        (taken,) = picks
        return replace(found[taken], strategy=taken)
