"""What encoders share whose features owe nothing to labels: one linear head above them, fitted and cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from ..example import Rows
from .classifier import figures
from .linear import FOLDS, PENALTIES, LinearHead, cross_fit, fit_linear


class LinearExpert:
    """A penalised linear classifier on what `encode` gives; nothing below it learns from labels.

    A fusion may therefore learn from the features of every training row, and from its cross-fitted logits. An encoder
    sets ``plugin`` and ``classes``, calls `begin`, and where its head reads something else than the features, fills in
    `head_rows`.

    Attributes
    ----------
    head : LinearHead
        All zero until `fit_head`.
    penalty : float or None
        Of the head, once `fit_head` chose it.
    learned_from : frozenset of str
        Ids of the rows that the head learned from, set by whoever trained it and saved with it.
    examples_encoded : int
        Examples that went through `encode`; proves the promise of one pass per example.
    """

    plugin: ClassVar[str]
    classes: list[Any]
    penalties: ClassVar[Sequence[float]] = PENALTIES
    folds: ClassVar[int] = FOLDS
    frozen = True

    def begin(self, width: int) -> None:
        """A head of zeros over ``width`` columns."""
        self.head = LinearHead(torch.zeros(len(self.classes), width), torch.zeros(len(self.classes)), 0.0)
        self.penalty: float | None = None
        self.learned_from: frozenset[str] = frozenset()
        self.examples_encoded = 0

    def head_rows(self, encoded: Mapping[str, Tensor]) -> Any:
        """What the head reads, ``[n, d]``: a Tensor, or a CSR array."""
        return encoded["features"]

    def fit(
        self,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Raises `ModelError`: nothing below the head learns from labels."""
        raise ModelError(f"{self.plugin} has nothing to fine-tune: fit its head on what `encode` gives (`fit_head`)")

    def fit_head(self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str]) -> list[dict[str, float]]:
        """Fit the head, its penalty chosen across groups.

        Returns
        -------
        list of dict
            One row: in-sample loss, accuracy and macro-F1, and the penalty chosen.
        """
        rows, classes = self.head_rows(encoded), len(self.classes)
        self.head = fit_linear(rows, labels, groups, classes=classes, penalties=self.penalties, folds=self.folds)
        self.penalty = self.head.penalty
        measured = figures(self.head(rows), labels)
        return [{"epoch": 1, **{f"train_{k}": v for k, v in measured.items()}, "penalty": self.penalty}]

    def cross_fit(
        self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str], *, folds: int, seed: int
    ) -> Tensor:
        """Logits ``[n, C]`` of heads like the one fitted, each of which saw neither the row nor its group.

        Raises
        ------
        ModelError
            Before `fit_head`.
        """
        if self.penalty is None:
            raise ModelError(f"the head of {self.plugin} was not fitted by fit_head: nothing to cross-fit")
        rows, classes = self.head_rows(encoded), len(self.classes)
        return cross_fit(rows, labels, groups, classes=classes, folds=folds, seed=seed, penalty=self.penalty)

    def head_logits(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` of the head over what was encoded already."""
        return self.head(self.head_rows(encoded))
