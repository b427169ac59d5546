"""Reads records as plain columns under a linear head: numbers scaled, categories as indicators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ... import plugins
from ...config import ExpertConfig, Tune
from ...modalities.tabular import Record
from ...workspace import fingerprint, read_json, write_json
from ..linear import LinearHead
from ..linear_expert import LinearExpert
from ..saved import check_seal, read_card, sealed
from ..tabular import TabularProcessor
from ..tabular_expert import TabularExpert

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS, LEARNED = "head.safetensors", "learned_from.json"
ROWS_AT_ONCE = 4096


class LinearTabular(TabularExpert, LinearExpert):
    """A tabular expert whose features are the columns themselves, so that a fusion may learn from every training row.

    What `mlp_tabular` and `boosted_trees` know was made from the labels, and a fusion has to learn from rows kept
    aside from them. Here nothing but the head learns from labels: features are clean on all rows, and logits are
    cross-fitted. The crossing of columns is left to the fusion (`boosted` reads them best).
    """

    plugin: ClassVar[str] = "linear_tabular"
    tunes: ClassVar[tuple[Tune, ...]] = ("head",)

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, processor: TabularProcessor):
        super().__init__(expert, classes, seed, processor)
        self.width = 2 * len(processor.number_names) + sum(processor.cardinalities)
        self.begin(self.width)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises `ModelError` where the folder or a file in it is missing or altered."""
        card = read_card(folder)
        check_seal(folder, card)
        processor = TabularProcessor.from_pretrained(folder)
        encoder = cls(ExpertConfig(**card["expert"]), card["classes"], card["seed"], processor)
        weights = load_file(folder / WEIGHTS)
        encoder.penalty = card["penalty"]
        encoder.head = LinearHead(weights["weight"], weights["bias"], card["penalty"])
        encoder.learned_from = frozenset(read_json(folder / LEARNED))
        return encoder

    def save(self, folder: Path) -> None:
        """Write ``head.safetensors``, ``preprocessing.json``, ``learned_from.json`` and the sealed ``bifocal.json``."""
        with sealed(folder, self.card()) as part:
            save_file({"weight": self.head.weight.contiguous(), "bias": self.head.bias}, part / WEIGHTS)
            self.processor.save_pretrained(part)
            write_json(part / LEARNED, sorted(self.learned_from))

    def card(self) -> dict[str, Any]:
        """What this expert is, for ``bifocal.json`` and the model card."""
        return {**super().card(), "penalty": self.penalty}

    # Encode ---------------------------------------------------------------------------------------

    def encode(self, values: Sequence[Record], progress: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """One pass over every value, each read once.

        Returns
        -------
        dict of Tensor
            ``features [n, d]`` and ``logits [n, C]``, float32, in the order given. The columns of the features: every
            scaled number, 0 (the middle of its column) where it is missing; a flag for each that is; an indicator of
            every category, with those of missing, unseen and rare ones.
        """
        features = torch.zeros(len(values), self.width)
        for start in range(0, len(values), ROWS_AT_ONCE):
            end = min(start + ROWS_AT_ONCE, len(values))
            columns = self._columns([values[i] for i in range(start, end)])
            features[start:end] = torch.from_numpy(columns)
            self.examples_encoded += end - start
            if progress:
                progress(end)
        return {"features": features, "logits": self.head(features)}

    def _columns(self, values: Sequence[Record]) -> NDArray[np.float32]:
        numbers, categories = self.processor.transform(values)
        sizes = self.processor.cardinalities
        indicators = [np.eye(n, dtype=np.float32)[c] for n, c in zip(sizes, categories.T, strict=True)]
        missing = np.isnan(numbers)
        return np.concatenate([np.where(missing, 0.0, numbers), missing, *indicators], axis=1, dtype=np.float32)

    # Identity -------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
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
