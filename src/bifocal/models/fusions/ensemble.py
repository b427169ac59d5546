"""The mean of several fusions, picked greedily by what each says of rows that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..comparison import compare
from ..composite_fusion import CompositeFusion, CompositeOptions, mean_of_picks
from ..folds import FoldPredictions, FoldRows

PICKS = 20
"""At most."""


class Ensemble(CompositeFusion):
    """Greedy selection with replacement (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, ICML).

    From nothing, the strategy is added again and again whose probabilities bring the mean's cross-fitted negative
    log-likelihood lowest; the picks up to the best mean are kept. One that only repeats the others gets none. What it
    says of rows it has not seen is nested: for the rows of a fold the picks are chosen by the other folds.
    """

    def compose(self, found: Mapping[str, FoldPredictions], rows: FoldRows) -> FoldPredictions:
        members = torch.stack([f.logits for f in found.values()])
        fixed = list(self.options.members.values())
        logits = torch.empty_like(members[0])
        for number in range(rows.folds):
            out = rows.fold == number
            picks = fixed or greedy_picks(members[:, -1, ~out], rows.labels[~out])
            logits[:, out] = mean_of_picks(members[:, :, out], picks)
        picks = fixed or greedy_picks(members[:, -1], rows.labels)
        chosen = {name: count for name, count in zip(found, picks, strict=True) if count}
        settings = CompositeOptions(
            members=chosen, options={name: found[name].settings.model_dump(mode="json") for name in chosen}
        )
        trained = sum(found[name].trained for name in chosen)
        groups = next(iter(rows.evidence.values())).groups
        each = {name: f.logits[-1] for name, f in found.items()}
        candidates = compare(each, rows.labels, groups, {name: f.trained for name, f in found.items()})
        return FoldPredictions(logits, settings, trained, candidates=tuple(candidates))


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
