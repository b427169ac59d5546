"""Reads records with a small network made for their columns: embeddings of categories and scaled numbers into an MLP.

The plain recipe of Gorishniy et al. 2021 (Revisiting Deep Learning Models for Tabular Data, arXiv:2106.11959).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ... import plugins
from ...config import ExpertConfig
from ...example import Rows
from ...modalities.tabular import Record
from ..hf import HfEncoder
from ..pretrained import build, quiet
from ..saved_encoder import ROWS_AT_ONCE
from ..tabular import UNSEEN, TabularOptions, TabularProcessor
from ._tabular_expert import TabularExpert


class Options(TabularOptions):
    """Options under ``experts.tabular.options``; those of training stand here, since a table is no transformer's."""

    hidden_size: Annotated[int, Field(ge=1)] = 256
    """Width of both hidden layers, and of the features."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    unseen: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the categories that training takes for unseen ones, so that the place of those is learned too."""
    epochs: Annotated[int, Field(ge=1)] = 20
    patience: Annotated[int, Field(ge=1)] = 5
    """Epochs without a smaller val loss before training stops; the best epoch is kept."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """None = a 16th of the rows, between 16 and 256."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class MlpConfig(PreTrainedConfig):
    """The network's shape."""

    model_type = "bifocal_mlp_tabular"

    numbers: int = 0
    cardinalities: list[int] | None = None
    hidden_size: int = 256
    dropout: float = 0.2
    unseen: float = 0.01


class MlpModel(PreTrainedModel):
    """Records to hidden states; a missing number is a 0 (the middle of its column) and a flag beside it."""

    config_class = MlpConfig
    base_model_prefix = "mlp"
    main_input_name = "numbers"

    def __init__(self, config: MlpConfig):
        super().__init__(config)
        # Widths by fastai's rule of thumb (Howard & Gugger 2020, arXiv:2002.04688).
        widths = [min(50, round(1.6 * n**0.56)) for n in config.cardinalities or ()]
        embeddings = [nn.Embedding(n, width) for n, width in zip(config.cardinalities or (), widths, strict=True)]
        first = nn.Linear(2 * config.numbers + sum(widths), config.hidden_size)
        second = nn.Linear(config.hidden_size, config.hidden_size)
        with torch.no_grad():
            for embedding in embeddings:
                embedding.weight.mul_(0.1)
            # A flag that training never raises keeps these weights, and must then say nothing.
            first.weight[:, config.numbers : 2 * config.numbers] = 0
        self.embeddings = nn.ModuleList(embeddings)
        parts = [(layer, nn.ReLU(), nn.Dropout(config.dropout)) for layer in (first, second)]
        self.layers = nn.Sequential(*(module for part in parts for module in part))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The layers bring their own; transformers' (a deviation of 0.02) are for deep networks."""

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Hidden states ``[n, d]`` of scaled numbers ``[n, p]``, NaN where missing, and indices ``[n, q]``."""
        if self.training:
            hidden = torch.rand(categories.shape, device=categories.device) < self.config.unseen
            categories = categories.masked_fill(hidden, UNSEEN)
        missing = numbers.isnan()
        embedded = [layer(column) for layer, column in zip(self.embeddings, categories.unbind(1), strict=True)]
        states: Tensor = self.layers(torch.cat([numbers.masked_fill(missing, 0.0), missing.float(), *embedded], dim=1))
        return states


class MlpForClassification(PreTrainedModel):
    """`MlpModel` under a linear head, in the form of transformers' classifiers."""

    config_class = MlpConfig
    base_model_prefix = "mlp"
    main_input_name = "numbers"

    def __init__(self, config: MlpConfig):
        super().__init__(config)
        self.mlp = MlpModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """See `MlpModel`."""

    @classmethod
    def from_config(cls, config: MlpConfig, dtype: torch.dtype = torch.float32) -> Self:
        """A new network, asked for as an Auto class is."""
        model: Self = cls._from_config(config, dtype=dtype)
        return model

    def forward(self, numbers: Tensor, categories: Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.classifier(self.mlp(numbers, categories)))


class MlpTabular(TabularExpert, HfEncoder):
    """A tabular expert whose features and logits are the last hidden layer's and the head's above it.

    It learns all of its weights from the labels, so its features are never clean on the rows it learned from.
    """

    plugin = "mlp_tabular"
    auto = MlpForClassification
    base = "scratch"
    tunes = ("full",)
    judged_by = "loss"  # on a skewed label macro-F1 stays where it is for many epochs, and the first would be kept
    settings = Options

    __init__ = HfEncoder.__init__  # a network comes along

    @staticmethod
    def load_processor(where: str) -> TabularProcessor:
        return TabularProcessor.from_pretrained(where)

    @classmethod
    def create(cls, expert: ExpertConfig, classes: Sequence[Any], seed: int, values: Sequence[Record]) -> Self:
        """As of every tabular encoder; the network is made for the columns and the number of rows."""
        options = plugins.options("encoder", cls.plugin, expert.options, cls.settings)
        cls.reach(expert)
        processor = TabularProcessor.fit(values, options)
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            shape = _configuration(len(processor.number_names), processor.cardinalities, options)
            recipe = {name: getattr(options, name) for name in ("epochs", "patience", "learning_rate", "weight_decay")}
            size = options.batch_size or min(256, max(16, len(values) // 16))
            expert = expert.model_copy(update={**recipe, "batch_size": size, "pooling": "cls"})
            return cls(expert, classes, seed, build(cls.auto, shape, classes), processor)._placed()

    @classmethod
    def known_configuration(cls, model: str, options: Options) -> MlpConfig:
        """A table of 20 numbers and 5 columns of 50 categories: before the data are read, its shape is not known."""
        return _configuration(20, [50] * 5, options)

    @classmethod
    def cost(cls, expert: ExpertConfig, classes: int) -> dict[str, float]:
        """As of every encoder, for a table of 20 numbers and 5 columns of 50 categories."""
        return super().cost(expert.model_copy(update={"model": "tiny", "pooling": "cls"}), classes)

    @classmethod
    def largest_input(cls, model: PreTrainedModel, options: Options) -> dict[str, Tensor]:
        widths = model.config.numbers, len(model.config.cardinalities)
        return {"numbers": torch.zeros(1, widths[0]), "categories": torch.zeros(1, widths[1], dtype=torch.long)}

    def inputs(self, values: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Of rows that the preprocessing has been through: training meets each of them many times."""
        numbers, categories = zip(*values, strict=True)
        return {"numbers": torch.stack(numbers), "categories": torch.stack(categories)}

    def preprocessing(self) -> Any:
        return self.processor.state()

    def batches(self, values: Sequence[Record]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        for start in range(0, len(values), ROWS_AT_ONCE):
            rows = list(range(start, min(start + ROWS_AT_ONCE, len(values))))
            yield rows, self._transformed([values[i] for i in rows])

    def _transformed(self, values: Sequence[Record]) -> dict[str, Tensor]:
        numbers, categories = map(torch.from_numpy, self.processor.transform(values))
        return {"numbers": numbers, "categories": categories}

    def fit(
        self,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Train by `bifocal.models.finetune.finetune`, with AdamW and a linearly falling rate, and its result."""
        ready = None if val is None else self._ready(val)
        return super().fit(self._ready(train), ready, checkpoints, on_epoch)

    def _ready(self, rows: Rows) -> Rows:
        return Rows(list(zip(*self._transformed(rows.values).values(), strict=True)), rows.labels)


def _configuration(numbers: int, cardinalities: list[int], options: Options) -> MlpConfig:
    return MlpConfig(
        numbers=numbers,
        cardinalities=cardinalities,
        hidden_size=options.hidden_size,
        dropout=options.dropout,
        unseen=options.unseen,
    )
