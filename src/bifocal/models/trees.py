"""Gradient-boosted trees (LightGBM: Ke et al. 2017, NeurIPS) as text: grown, read back, counted; nothing is pickled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import extras_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOOR = -14.0
"""Of a leaf's value: LightGBM starts a class without training rows at -34.5, which no temperature survives."""

_LEAVES = re.compile(r"^leaf_value=(.*)$", re.MULTILINE)
Table = tuple["NDArray[Any]", Sequence[int]]
"""Inputs ``[n, d]``, NaN where missing, and class indices ``[n]``."""


def grow(
    train: Table,
    val: Table | None,
    *,
    classes: int,
    rounds: int,
    patience: int,
    categories: Sequence[int] = (),
    weights: Sequence[float] | None = None,
    settings: Mapping[str, Any],
) -> str:
    """The trees in LightGBM's text format; the same ones for the same seed, whatever the number of threads.

    Parameters
    ----------
    val : Table or None
        With it, the round of least loss on it is the last one kept, and ``patience`` rounds without a smaller one end
        the training; without it all ``rounds`` are.
    categories : sequence of int
        Columns that hold category indices.
    weights : sequence of float, optional
        Of the training rows.
    settings : mapping
        LightGBM's own: ``learning_rate``, ``num_leaves``, ``seed``, …

    Raises
    ------
    MissingExtra
        Where LightGBM is not installed.
    """
    with extras_named():
        import lightgbm

    data = lightgbm.Dataset(train[0], label=list(train[1]), weight=weights, categorical_feature=list(categories))
    held_out, stop = [], []
    if val is not None:
        held_out = [data.create_valid(val[0], label=list(val[1]))]
        stop = [lightgbm.early_stopping(patience, verbose=False)]
    known = _settings(classes, settings)
    booster = lightgbm.train(known, data, rounds, valid_sets=held_out, callbacks=stop)
    return booster.model_to_string(num_iteration=booster.best_iteration)


def _settings(classes: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    task = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    return {**task, "deterministic": True, "verbosity": -1, **settings}


class Growing:
    """Trees that are grown round by round and judged beside, for who trains several in step."""

    def __init__(
        self,
        train: Table,
        held_out: Table,
        *,
        classes: int,
        weights: Sequence[float] | None = None,
        settings: Mapping[str, Any],
    ):
        """As `grow`."""
        with extras_named():
            import lightgbm

        # Else it warns of columns that a few rows cannot split, before it has read the booster's settings.
        data = lightgbm.Dataset(train[0], list(train[1]), weight=weights, params={"verbosity": -1})
        self.booster = lightgbm.Booster(_settings(classes, settings), data)
        self.booster.add_valid(data.create_valid(held_out[0], label=list(held_out[1])), "held out")

    def grow(self) -> float:
        """One more round; the mean loss of the rows held out."""
        self.booster.update()
        return float(self.booster.eval_valid()[0][2])

    def text(self, rounds: int) -> str:
        """The first rounds, as `grow` gives them."""
        return str(self.booster.model_to_string(num_iteration=rounds))


def least_rows(rows: int) -> int:
    """Training rows that a leaf should have: a 50th of all, between 2 and 20."""
    return min(20, max(2, rows // 50))


class Trees:
    """Trees read from their text.

    Attributes
    ----------
    text : str
    booster : lightgbm.Booster
    leaves : list of array
        Tree -> the values of its leaves, as LightGBM numbers them.
    scores : int
        Raw scores of a row: one for two classes, else one per class; LightGBM grows a tree for each in every round.
    """

    def __init__(self, model: str, classes: int):
        with extras_named():
            import lightgbm

        self.text = model
        self.booster = lightgbm.Booster(model_str=model)
        self.leaves = [np.array(line.split(), dtype=float) for line in _LEAVES.findall(model)]
        self.scores = 1 if classes == 2 else classes

    @property
    def rounds(self) -> int:
        return len(self.leaves) // self.scores

    def logits(self, table: NDArray[Any], threads: int = 0) -> Tensor:
        """Logits ``[n, C]`` float32 of inputs ``[n, d]``."""
        if not len(table):
            return torch.zeros(0, max(2, self.scores))
        raw = self.booster.predict(table, raw_score=True, num_threads=threads)
        return logits_of(torch.from_numpy(np.asarray(raw)).reshape(len(table), -1).clamp(min=FLOOR))

    def parameters(self) -> dict[str, int]:
        """``total`` and ``trained``; see `counted`."""
        return counted(sum(map(len, self.leaves)), len(self.leaves))


def logits_of(scores: Tensor) -> Tensor:
    """Logits ``[n, C]`` of raw scores ``[n, 1]`` or ``[n, C]``; of one, -s/2 and s/2: their softmax is its sigmoid."""
    return (torch.cat([-scores, scores], dim=1) / 2 if scores.shape[1] == 1 else scores).float()


def counted(leaves: int, trees: int) -> dict[str, int]:
    """Leaf values, and two numbers per split (column, threshold); all are learned."""
    total = leaves + 2 * (leaves - trees)
    return {"total": total, "trained": total}
