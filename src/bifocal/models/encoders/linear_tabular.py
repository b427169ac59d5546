"""Reads records as plain columns under a linear head: numbers scaled, categories as indicators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ... import plugins
from ...config import ExpertConfig
from ...modalities.tabular import Record
from ...workspace import fingerprint
from ..linear import LinearHead
from ..saved_encoder import LinearEncoder
from ..tabular import TabularProcessor
from ._tabular_expert import TabularExpert

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = "head.safetensors"


class LinearTabular(TabularExpert, LinearEncoder):
    """A tabular expert whose features are the columns themselves, so that a fusion may learn from every training row.

    What `mlp_tabular` and `boosted_trees` know was made from the labels, and a fusion has to learn from rows kept
    aside from them. Here nothing but the head learns from labels: features are clean on all rows, and logits are
    cross-fitted. The crossing of columns is left to the fusion (`boosted` reads them best).
    """

    plugin: ClassVar[str] = "linear_tabular"

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, processor: TabularProcessor):
        self.width = 2 * len(processor.number_names) + sum(processor.cardinalities)
        LinearEncoder.__init__(self, expert, classes, seed, self.width)
        self.processor = processor

    @classmethod
    def read(cls, folder: Path, card: Mapping[str, Any], expert: ExpertConfig) -> Self:
        encoder = cls(expert, card["classes"], card["seed"], TabularProcessor.from_pretrained(folder))
        weights = load_file(folder / WEIGHTS)
        encoder.head = LinearHead(weights["weight"], weights["bias"], card["penalty"])
        return encoder

    def write(self, folder: Path) -> None:
        """Write ``head.safetensors`` and ``preprocessing.json``."""
        save_file({"weight": self.head.weight.contiguous(), "bias": self.head.bias}, folder / WEIGHTS)
        self.processor.save_pretrained(folder)

    # Encode ---------------------------------------------------------------------------------------

    def widths(self) -> dict[str, int]:
        return {"features": self.width}

    def inputs(self, values: Sequence[Record]) -> NDArray[np.float32]:
        """The columns of the features: every scaled number, 0 (the middle of its column) where it is missing; a flag
        for each that is; an indicator of every category, with those of missing, unseen and rare ones."""
        numbers, categories = self.processor.transform(values)
        sizes = self.processor.cardinalities
        indicators = [np.eye(n, dtype=np.float32)[c] for n, c in zip(sizes, categories.T, strict=True)]
        missing = np.isnan(numbers)
        return np.concatenate([np.where(missing, 0.0, numbers), missing, *indicators], axis=1, dtype=np.float32)

    def compute(self, inputs: NDArray[np.float32]) -> dict[str, Tensor]:
        return {"features": torch.from_numpy(inputs)}

    # Identity -------------------------------------------------------------------------------------

    def fingerprint_below(self) -> str:
        """Hash of the preprocessing, which is all that makes the features."""
        return fingerprint(self.plugin, self.processor.state())

    def parameters(self) -> dict[str, int]:
        """Numbers of the head, which learn, and the scaling's, which were counted."""
        head = self.head.weight.numel() + self.head.bias.numel()
        counted = sum(np.size(values) for values in self.processor.scale.values())
        return {"total": head + counted, "trained": head}

    @classmethod
    def cost(cls, expert: ExpertConfig, classes: int) -> dict[str, float]:
        """As if the table had ten numbers and one category column of the most values.

        Returns
        -------
        dict
            ``total`` and ``trained`` weights, ``flops_per_example`` (a multiplication and an addition are two).
        """
        options = plugins.options("encoder", cls.plugin, expert.options, cls.settings)
        head = classes * (20 + options.max_categories + 1)
        return {"total": head, "trained": head, "flops_per_example": 2 * head}
