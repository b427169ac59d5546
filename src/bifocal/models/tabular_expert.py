"""What tabular encoders share: they start from nothing but the columns of the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .. import plugins
from ..config import ExpertConfig, Tune
from ..modalities.tabular import Record
from .tabular import TabularOptions, TabularProcessor, refuse_transformer_settings


class TabularExpert:
    """The settings, the columns and the card of an expert over a `TabularProcessor`.

    An encoder sets ``plugin``, ``tunes`` and, where it has options of its own, ``settings``.
    """

    plugin: ClassVar[str]
    modality: ClassVar[str] = "tabular"
    tunes: ClassVar[tuple[Tune, ...]]
    settings: ClassVar[type[TabularOptions]] = TabularOptions
    processor: TabularProcessor

    if TYPE_CHECKING:  # each encoder counts its own

        def parameters(self) -> dict[str, int]: ...

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, processor: TabularProcessor):
        self.expert = expert.settled(self.tunes)
        self.classes = list(classes)
        self.seed = seed
        self.processor = processor

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(self.processor.kinds)

    @classmethod
    def reach(cls, expert: ExpertConfig) -> None:
        """It starts from nothing. Raises `ConfigError` on a setting that is for pretrained encoders."""
        refuse_transformer_settings(expert, cls.settings.model_fields)

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
        """What this expert is, for ``bifocal.json`` and the model card."""
        return {
            "encoder": self.plugin,
            "base_model": "scratch",
            "classes": self.classes,
            "seed": self.seed,
            "parameters": self.parameters(),
            "expert": self.expert.model_dump(mode="json"),
            **self.columns_card(),
        }

    def columns_card(self) -> dict[str, Any]:
        """What the card says of the columns."""
        return {
            "columns": self.processor.kinds,
            "dropped_columns": self.processor.dropped,
            "columns_told": self.processor.notes(),
        }

    def check(self, value: Record) -> None:
        """Refuse unknown columns, texts among numbers and what is no date among dates. Raises `DataError`."""
        self.processor.check(value)
