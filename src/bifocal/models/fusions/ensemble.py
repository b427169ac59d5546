"""The mean of several fusions, picked greedily by what each says of rows that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..comparison import Candidate
from ..composite_fusion import CompositeFusion, Picks
from ..folds import FoldPredictions, FoldRows

PICKS = 20
"""At most."""


class Ensemble(CompositeFusion):
    """Greedy selection with replacement (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, ICML).

    From nothing, the strategy is added again and again whose probabilities bring the mean's cross-fitted negative
    log-likelihood lowest; the picks up to the best mean are kept. One that only repeats the others gets none. Its own
    predictions are nested: for the rows of a fold the picks are chosen by the other folds.
    """

    def pick(
        self, found: Mapping[str, FoldPredictions], candidates: Sequence[Candidate], rows: FoldRows
    ) -> list[Picks]:
        if self.options.members:
            return [self.options.members] * (rows.folds + 1)
        members = torch.stack([one.logits[-1] for one in found.values()])
        learned = [rows.fold != number for number in range(rows.folds)] + [rows.fold >= 0]
        counts = [greedy_picks(members[:, kept], rows.labels[kept]) for kept in learned]
        return [{name: count for name, count in zip(found, own, strict=True) if count} for own in counts]


def greedy_picks(members: Tensor, labels: Tensor, picks: int = PICKS) -> list[int]:
    """How often each member is picked, of logits ``[M, n, C]`` and class indices ``[n]``."""
    chances = members.double().softmax(dim=-1)[:, torch.arange(len(labels)), labels]
    total, counts = torch.zeros(len(labels), dtype=torch.double), [0] * len(members)
    best, kept = torch.inf, list(counts)
    for number in range(1, picks + 1):
        tried = -((total + chances) / number).clamp(min=torch.finfo(torch.float32).tiny).log().mean(dim=1)
        chosen = int(tried.argmin())
        total, counts[chosen] = total + chances[chosen], counts[chosen] + 1
        if tried[chosen] < best:
            best, kept = float(tried[chosen]), list(counts)
    return kept
