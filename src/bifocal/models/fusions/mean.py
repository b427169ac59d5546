"""Late fusion without training: the mean of the experts' probabilities, the baseline that a fusion has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..evidence_fusion import RefittedFusion


class Mean(RefittedFusion):
    """The sum rule (Kittler et al. 1998, IEEE TPAMI 20:226) over the parts that a row has.

    Probabilities are averaged, not logits: one expert that is sure and wrong cannot outvote all the others.
    """

    reads = "logits"
    readable = ("logits",)

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The log of the mean probability of the present parts."""
        scores = [x.log_softmax(dim=-1).where(present[name].unsqueeze(-1), -torch.inf) for name, x in inputs.items()]
        return torch.stack(scores).logsumexp(dim=0) - _parts(present).log().unsqueeze(-1)

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One over the number of parts that the row has."""
        return {name: there / _parts(present) for name, there in present.items()}


def _parts(present: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(present.values())).sum(dim=0).clamp(min=1).float()
