"""Reads records with gradient-boosted trees, which need no scaling and no epochs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ... import plugins
from ...config import ExpertConfig, Tune
from ...errors import ModelError, extras_named
from ...example import Rows
from ...modalities.tabular import Record
from ...workspace import fingerprint
from ..classifier import figures
from ..tabular import TabularOptions, TabularProcessor
from ..trees import FLOOR, Trees, counted, grow, least_rows, logits_of
from ._tabular_expert import TabularExpert

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "model.txt"
WIDTH = 256
"""Features at most (one per class where there are more classes)."""
CELLS_AT_ONCE = 2**20
"""Leaves (rows times trees) looked up at a time."""


class Options(TabularOptions):
    """Options under ``experts.tabular.options``."""

    rounds: Annotated[int, Field(ge=1)] = 1000
    """Trees (per class) at most; with a val split the round with the least loss on it is the last one kept."""
    rounds_without_val: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int, Field(ge=1)] = 50
    """Rounds without a smaller val loss before training stops."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    leaves: Annotated[int, Field(ge=2, le=1024)] = 31
    """Of a tree, at most."""
    min_rows: Annotated[int, Field(ge=1)] | None = None
    """Training rows of a leaf, at least; None = a 50th of all, between 2 and 20."""
    threads: Annotated[int, Field(ge=0)] = 0
    """0 = as many as OpenMP is given; the trees are the same with any number."""


class BoostedTrees(TabularExpert):
    """A tabular expert of boosted trees; its features say by how much each block of trees moves each class.

    The features stand in for the leaves a row falls into (He et al. 2014, Practical Lessons from Predicting Clicks on
    Ads at Facebook, ADKDD): instead of one column per leaf, a leaf is told by its value, and the values of consecutive
    trees are summed so that at most `WIDTH` columns result. Nothing in them is random, and the sum of a class's
    columns is its raw score, which makes the logits; one pass over the trees gives both.

    It is never frozen: the trees, and with them the features, are made from the labels.

    Attributes
    ----------
    text : str or None
        The trees in LightGBM's text format, once `fit` grew them.
    """

    plugin: ClassVar[str] = "boosted_trees"
    tunes: ClassVar[tuple[Tune, ...]] = ("full",)
    settings = Options

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, processor: TabularProcessor):
        super().__init__(expert, classes, seed, processor)
        self.options: Options = plugins.options("encoder", self.plugin, expert.options, self.settings)
        self.text: str | None = None
        self._trees: Trees | None = None

    @classmethod
    def create(cls, expert: ExpertConfig, classes: Sequence[Any], seed: int, values: Sequence[Record]) -> Self:
        """As of every tabular encoder; that LightGBM is missing is told before anything is read."""
        with extras_named():
            import lightgbm  # noqa: F401
        return super().create(expert, classes, seed, values)

    @classmethod
    def read(cls, folder: Path, card: Mapping[str, Any], expert: ExpertConfig) -> Self:
        encoder = cls(expert, card["classes"], card["seed"], TabularProcessor.from_pretrained(folder))
        encoder._plant((folder / MODEL).read_text(encoding="utf-8"))
        return encoder

    def write(self, folder: Path) -> None:
        """Write ``model.txt`` and ``preprocessing.json``."""
        (folder / MODEL).write_text(self._planted().text, encoding="utf-8", newline="")
        self.processor.save_pretrained(folder)

    # Learn ----------------------------------------------------------------------------------------

    def fit(
        self,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Grow the trees; a killed training starts anew, since it takes seconds.

        Returns
        -------
        list of dict
            One row, of the finished trees: loss, accuracy and macro-F1 on train and val, and the ``rounds`` kept.
        """
        splits = {"train": train} if val is None else {"train": train, "val": val}
        tables = {name: self.inputs(rows.values) for name, rows in splits.items()}
        first = len(self.processor.number_names)
        categories = list(range(first, tables["train"].shape[1]))
        pairs = {name: (tables[name], rows.labels) for name, rows in splits.items()}
        n = len(train.labels)
        text = grow(
            pairs["train"],
            pairs.get("val"),
            classes=len(self.classes),
            rounds=self.options.rounds if val is not None else self.options.rounds_without_val,
            patience=self.options.patience,
            categories=categories,
            settings={
                "learning_rate": self.options.learning_rate,
                "num_leaves": self.options.leaves,
                "min_data_in_leaf": self.options.min_rows or least_rows(n),
                "min_data_per_group": min(100, max(2, n // 20)),  # LightGBM's 100 forbids categories in a small table
                "force_row_wise": True,
                "seed": self.seed,
                "num_threads": self.options.threads,
            },
        )
        self._plant(text)
        row: dict[str, float] = {"epoch": 1}
        for name, rows in splits.items():
            measured = figures(self._logits(self._features(tables[name])), torch.tensor(rows.labels))
            row.update({f"{name}_{figure}": value for figure, value in measured.items()})
        row["rounds"] = self._planted().rounds
        if on_epoch:
            on_epoch(row)
        return [row]

    def _plant(self, text: str) -> None:
        """Take up trees from their text: training, too, goes on with what would be loaded."""
        self.text = text
        self._trees = trees = Trees(text, len(self.classes))
        self._leaves = np.concatenate(trees.leaves).clip(min=FLOOR)
        self._first_leaf = np.array([0, *accumulate(map(len, trees.leaves))][:-1])
        # LightGBM grows one tree per class and round; a column is a block of rounds of one class.
        number = np.arange(len(trees.leaves))
        width = min(trees.rounds, max(1, WIDTH // trees.scores))
        block, score = number // trees.scores * width // trees.rounds, number % trees.scores
        column = score * width + block
        self._order = np.argsort(column, kind="stable")
        self._starts = np.searchsorted(column[self._order], np.arange(width * trees.scores))

    def _planted(self) -> Trees:
        if self._trees is None:
            raise ModelError("these boosted_trees were not fitted yet: call fit first, or load a saved expert")
        return self._trees

    # Encode ---------------------------------------------------------------------------------------

    def widths(self) -> dict[str, int]:
        """Raises `ModelError` before `fit`."""
        self._planted()
        return {"features": len(self._starts)}

    def inputs(self, values: Sequence[Record]) -> NDArray[np.float64]:
        """``[n, p + q]``: numbers, NaN where missing, which LightGBM knows how to split, and category indices."""
        return np.concatenate(self.processor.transform(values), axis=1, dtype=np.float64)

    def compute(self, inputs: NDArray[np.float64]) -> dict[str, Tensor]:
        return {"features": self._features(inputs)}

    def _features(self, table: NDArray[np.float64]) -> Tensor:
        features = torch.zeros(len(table), len(self._starts))
        trees = self._planted()
        step = max(1, CELLS_AT_ONCE // len(trees.leaves))
        for start in range(0, len(table), step):
            some = table[start : start + step]
            leaves = trees.booster.predict(some, pred_leaf=True, num_threads=self.options.threads)
            values = self._leaves[leaves.reshape(len(some), -1).astype(np.int64) + self._first_leaf]
            features[start : start + step] = torch.from_numpy(
                np.add.reduceat(values[:, self._order], self._starts, axis=1)
            )
        return features

    def _logits(self, features: Tensor) -> Tensor:
        """Logits ``[n, C]``: the sums of the blocks are the raw scores."""
        return logits_of(features.double().unflatten(1, (self._planted().scores, -1)).sum(dim=2))

    def head_logits(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` of features already computed: their sums."""
        return self._logits(encoded["features"])

    # Identity -------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Hash of the trees and of the preprocessing."""
        trees = hashlib.sha256(self.text.encode()).hexdigest() if self.text is not None else None
        return fingerprint(trees, self.processor.state())

    def parameters(self) -> dict[str, int]:
        """Leaf values, and two numbers per split (column, threshold); all are learned."""
        return self._planted().parameters()

    @classmethod
    def cost(cls, expert: ExpertConfig, classes: int) -> dict[str, float]:
        """The most that training may grow: early stopping usually ends it sooner.

        Returns
        -------
        dict
            ``total`` and ``trained`` as `parameters` counts them, ``flops_per_example``: comparisons and a sum.
        """
        options = plugins.options("encoder", cls.plugin, expert.options, cls.settings)
        trees = options.rounds * (1 if classes == 2 else classes)
        return {**counted(trees * options.leaves, trees), "flops_per_example": trees * (1 + np.log2(options.leaves))}
