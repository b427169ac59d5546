"""What tabular encoders share: they start from nothing but the columns of the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from ... import plugins
from ...config import ExpertConfig
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
