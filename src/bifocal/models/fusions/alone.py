"""One expert decides: the fusion that every other has to beat, and that needs but one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...config import Strict
from ...errors import ConfigError, nearest
from ..comparison import calibrated_losses
from ..evidence_fusion import STATISTICS, RefittedFusion, side_by_side
from ..heads import Parts

ORDER = STATISTICS + "order"
MIN_ROWS = 20
"""Rows with both of two parts below which their experts are compared each on its own rows."""


class Options(Strict):
    """What ``fusion.options`` may hold."""

    modality: str | None = None
    """Whose expert decides; None = the best by loss on the rows that it is fitted on."""


class Alone(RefittedFusion):
    """The logits of the first expert, in an order of preference, whose part a row has.

    The order is that of the experts' losses (negative log-likelihood, each at its own temperature, as a policy would
    calibrate it) on the training rows that have all parts, of which no fusion is given any that an expert was trained
    on. Nothing is learned but the order: seeds and val change nothing.

    Attributes
    ----------
    order : list of str
        Modalities, the one that decides first.
    """

    reads = "logits"
    readable = ("logits",)
    Options = Options

    @property
    def decides_alone(self) -> str:
        """The modality whose expert decides wherever its part is there."""
        return self.order[0]

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        asked = self.options.modality
        if asked is not None and asked not in train.inputs:
            raise ConfigError(f"fusion.options.modality = {asked!r} brings no Evidence; {nearest(asked, train.inputs)}")
        whole = side_by_side({name: train.present[name] for name in self.known}).all(dim=1)
        losses = {}
        for name in self.known:
            rows = whole if int(whole.sum()) >= MIN_ROWS else train.present[name]
            losses[name] = float(calibrated_losses(train.inputs[name][rows], train.labels[rows]).mean())
        for name in self.read:
            losses.setdefault(name, torch.inf)
        self.order = sorted(self.read, key=lambda name: (name != asked, losses[name]))

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        last, *others = reversed(self.order)
        logits = inputs[last]
        for name in others:
            logits = torch.where(present[name].unsqueeze(1), inputs[name], logits)
        return logits

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """1 for the one that decides."""
        weights = {}
        undecided = torch.ones_like(next(iter(present.values())))
        for name in self.order:
            weights[name] = (present[name] & undecided).float()
            undecided = undecided & ~present[name]
        return {name: weights[name] for name in present}

    def tensors(self) -> dict[str, Tensor]:
        return {ORDER: torch.tensor([list(self.read).index(name) for name in self.order])}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        names = list(self.read)
        self.order = [names[i] for i in tensors[ORDER].tolist()]
