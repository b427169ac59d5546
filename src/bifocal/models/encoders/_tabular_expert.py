"""What tabular encoders share: they start from nothing but the columns of the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ... import plugins
from ...config import ExpertConfig
from ...example import Rows
from ...modalities.tabular import Record
from ..saved_encoder import SavedEncoder
from ..tabular import TabularOptions, TabularProcessor, refuse_transformer_settings


class TabularExpert(SavedEncoder):
    """An encoder over a `TabularProcessor`; one that has options of its own sets ``settings``."""

    modality: ClassVar[str] = "tabular"
    settings: ClassVar[type[TabularOptions]] = TabularOptions
    processor: TabularProcessor

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, processor: TabularProcessor):
        super().__init__(expert, classes, seed)
        self.processor = processor

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(self.processor.kinds)

    @classmethod
    def reach(cls, expert: ExpertConfig) -> None:
        """It starts from nothing. Raises `ConfigError` on a setting that is for pretrained encoders."""
        refuse_transformer_settings(expert, cls.settings.model_fields, cls.modality)

    @classmethod
    def create(cls, expert: ExpertConfig, classes: Sequence[Any], seed: int, values: Sequence[Record]) -> Self:
        """A new expert; ``values`` are the training values, to which the preprocessing is fitted.

        Raises
        ------
        ConfigError
            On an unknown option or column, or a setting that is for pretrained encoders.
        DataError
            Where no column tells the training rows apart.
        MissingExtra
            Where a library that the encoder needs is not installed.
        """
        options = plugins.options("encoder", cls.plugin, expert.options, cls.settings)
        cls.reach(expert)
        return cls(expert, classes, seed, TabularProcessor.fit(values, options))

    def fit_folds(
        self, expert: ExpertConfig, rows: Rows, val: Rows | None, fold: Sequence[int], checkpoints: Path
    ) -> Tensor:
        """As `bifocal.contracts.QuickEncoder` has it: preprocessing, too, is fitted without the fold."""
        logits = torch.empty(len(fold), len(self.classes))
        for number in sorted(set(fold)):
            learned = [i for i, k in enumerate(fold) if k != number]
            held = [i for i, k in enumerate(fold) if k == number]
            values = [rows.values[i] for i in learned]
            encoder = type(self).create(expert, self.classes, self.seed, values)
            encoder.fit(Rows(values, [rows.labels[i] for i in learned]), val, checkpoints)
            logits[held] = encoder.encode([rows.values[i] for i in held])["logits"]
            rmtree(checkpoints, ignore_errors=True)
        return logits

    def card(self) -> dict[str, Any]:
        """As of every encoder, and the columns."""
        return {
            **super().card(),
            "columns": self.processor.kinds,
            "dropped_columns": self.processor.dropped,
            "columns_told": self.processor.notes(),
        }

    def check(self, value: Record) -> None:
        """Refuse unknown columns, texts among numbers and what is no date among dates. Raises `DataError`."""
        self.processor.check(value)
