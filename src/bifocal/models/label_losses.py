"""What the heads of several labels on one encoder learn from: each of the rows that bear its label, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import DataError
from ..example import UNLABELLED, Rows
from .classifier import figures

PREFIX = "label."
"""In the Trainer's log before a further label's figures, so that no label is called as one of the Trainer's own."""
MEAN = "mean_"
"""Before a figure that is the mean over the labels."""


class LabelHead(Protocol):
    """What of an encoder, or of a further head, its label's loss needs."""

    classes: list[Any]
    loss_weight: float


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """The labels that are learned together; their logits lie side by side, the first label's first.

    Attributes
    ----------
    further : tuple of str
        The labels after the first.
    sizes : tuple of int
        Classes of each label.
    weights : tuple of float
        Of each label in the loss.
    """

    further: tuple[str, ...]
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, first: LabelHead, further: Mapping[str, LabelHead]) -> Self:
        heads = (first, *further.values())
        return cls(tuple(further), tuple(len(h.classes) for h in heads), tuple(h.loss_weight for h in heads))

    def rows(self, rows: Rows) -> Sequence[int] | Sequence[tuple[int, ...]]:
        """The class index of each row, or those of its labels. Raises `DataError` where a label's are missing."""
        if not self.further:
            return rows.labels
        missing = [label for label in self.further if label not in rows.further]
        if missing:
            raise DataError(f"heads for {', '.join(missing)} were added, and the rows bear no such labels: give them")
        return list(zip(rows.labels, *(rows.further[label] for label in self.further), strict=True))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted mean over labels of the cross-entropy, each averaged over the rows that bear the label.

        Parameters
        ----------
        logits : Tensor, [n, C + ...]
        labels : Tensor, [n] or [n, k]
            `UNLABELLED` where a label is not annotated; a label that no row bears adds nothing.
        """
        losses = []
        for weight, (of_label, truth) in zip(self.weights, self._split(logits, labels), strict=True):
            total = cross_entropy(of_label, truth, ignore_index=UNLABELLED, reduction="sum")
            losses.append(weight * total / (truth != UNLABELLED).sum().clamp(min=1))
        return torch.stack(losses).sum() / sum(self.weights)

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """`bifocal.models.classifier.figures` of each label's annotated rows, and with several labels their means."""
        found: dict[str, float] = {}
        measured = []
        names = ("", *(f"{PREFIX}{label}." for label in self.further))
        for name, (of_label, truth) in zip(names, self._split(logits, labels), strict=True):
            known = truth != UNLABELLED
            if known.any():
                measured.append(figures(of_label[known], truth[known]))
                found |= {f"{name}{figure}": value for figure, value in measured[-1].items()}
        if self.further and measured:
            found |= {f"{MEAN}{name}": sum(row[name] for row in measured) / len(measured) for name in measured[0]}
        return found

    def judged_by(self, figure: str) -> str:
        """The figure that chooses among epochs: of several labels the mean."""
        return f"{MEAN}{figure}" if self.further else figure

    def _split(self, logits: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        columns = labels.reshape(len(labels), -1).unbind(dim=1)
        return list(zip(logits.split(self.sizes, dim=1), columns, strict=True))
