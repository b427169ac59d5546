"""Linear heads by scikit-learn: the head of a frozen encoder, and the cross-fitted logits a fusion may learn from.

Features ``[n, d]`` are a float32 Tensor, or a float32 CSR array of scipy where most are 0 (terms of texts). The latter
are not standardised: it would fill every cell, and TF-IDF has scaled them already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..data.splits import fold_of
from ..errors import DataError
from ..example import UNLABELLED
from .threads import in_threads

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""scikit-learn's C on standardised features; the smaller, the stronger."""
FOLDS = 5
OVERFITTED = 1.05
"""Times the least loss of a fold from which on weaker penalties are not tried."""
FLAT = 1e-6
"""Columns whose standard deviation is below this are left as they are: they carry rounding errors only."""

Result = TypeVar("Result")
LabelledRows = tuple["Tensor | csr_array", Tensor]
"""Features ``[n, d]`` and class indices ``[n]``."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear classifier as plain tensors: ``weight [C, d]``, ``bias [C]``, and the C it was fitted with."""

    weight: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, features: Tensor | csr_array) -> Tensor:
        """Logits ``[n, C]`` of features ``[n, d]``."""
        if isinstance(features, Tensor):
            return functional.linear(features, self.weight, self.bias)
        return torch.from_numpy(features @ self.weight.T.numpy()) + self.bias


def fit_linear(
    features: Tensor | csr_array,
    labels: Tensor,
    groups: Sequence[str],
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    folds: int = FOLDS,
) -> LinearHead:
    """The head of a frozen encoder: L2-penalised logistic regression, its penalty chosen across groups.

    Convex, so that nothing but the penalty has to be tuned. Dense features are standardised, and the
    standardisation is folded back into the weights. Deterministic.

    Parameters
    ----------
    features : Tensor or csr_array, [n, d]
    labels : Tensor, [n]
        Class indices; rows that are not annotated are left out.
    groups : sequence of str, [n]
        Near-duplicates share one. The penalty with the least log-loss over the folds of whole groups wins (the
        strongest of equals; the middle one where there are too few rows to tell).
    classes : int
        C. A class without rows gets Laplace's odds of 1 : n + 1 at the mean of the features.
    penalties : sequence of float
        Values of scikit-learn's C to choose from.
    folds : int
        At most; fewer where there are fewer groups.

    Raises
    ------
    DataError
        Where features are not finite, or the rows bear fewer than two classes.
    """
    _check_finite(features)
    rows = np.flatnonzero(labels.numpy() != UNLABELLED).tolist()
    x, y = features[rows], labels.numpy()[rows]
    found = np.unique(y)
    if len(found) < 2:
        raise DataError(
            f"a head learns to tell at least two classes apart; its {len(y)} labelled rows show {len(found)}: "
            "give more rows, or check how the label is mapped"
        )
    path = sorted(penalties)
    if len(path) > 1:
        path = [_best_penalty(x, y, [groups[i] for i in rows], classes, path, folds)]
    return next(_solve(x, y, classes, path))


def held_out_path(
    train: LabelledRows,
    held_out: LabelledRows,
    classes: int,
    penalties: Sequence[float],
    overfitted: float = OVERFITTED,
) -> tuple[list[LinearHead], list[float]]:
    """Heads along the penalties, strongest first, and the loss of each summed over rows held out; it ends with the
    first whose loss is ``overfitted`` times the least."""
    heads: list[LinearHead] = []
    losses: list[float] = []
    for head in _solve(train[0], train[1].numpy(), classes, sorted(penalties)):
        heads.append(head)
        losses.append(functional.cross_entropy(head(held_out[0]), held_out[1], reduction="sum").item())
        if losses[-1] > overfitted * min(losses):  # weaker ones lose more, and take longest to solve
            break
    return heads, losses


def cross_fit(
    features: Tensor | csr_array,
    labels: Tensor,
    groups: Sequence[str],
    *,
    classes: int,
    folds: int,
    seed: int,
    penalty: float,
) -> Tensor:
    """Logits that a fusion may learn from: each row's come from a head that saw neither it nor its group.

    Stacked generalisation (Wolpert 1992, Neural Networks 5) with whole groups held out.

    Parameters
    ----------
    features, labels, groups, classes
        As for `fit_linear`; rows that are not annotated get logits too, but no head learns from them.
    folds : int
        At most; fewer where there are fewer groups.
    seed : int
    penalty : float
        The one that `fit_linear` chose.

    Returns
    -------
    Tensor, [n, C] float32

    Raises
    ------
    DataError
        Where features are not finite, there are fewer than two groups, or no labelled row is left outside a fold.
    """
    _check_finite(features)
    fold, y = np.array(fold_of(groups, labels.tolist(), folds, seed)), labels.numpy()
    logits = torch.empty(len(labels), classes)
    held_out = [fold == number for number in np.unique(fold)]
    learned = [~out & (y != UNLABELLED) for out in held_out]
    if not all(learns.any() for learns in learned):
        raise DataError("cross-fitted logits need labelled rows in at least two groups, found one: give more rows")
    heads = _by_fold(lambda learns: next(_solve(features[learns], y[learns], classes, [penalty])), learned, features)
    for out, head in zip(held_out, heads, strict=True):
        logits[out] = head(features[out])
    return logits


def _by_fold(
    work: Callable[[np.ndarray], Result], folds: Sequence[np.ndarray], features: Tensor | csr_array
) -> list[Result]:
    """The work on every fold: side by side where rows are sparse, whose products take one core; dense ones take all."""
    return list(map(work, folds)) if isinstance(features, Tensor) else in_threads(work, folds)


def _check_finite(features: Tensor | csr_array) -> None:
    if not isinstance(features, Tensor):
        return  # scikit-learn made them, and it gives no others
    bad = int((~features.isfinite()).any(dim=1).sum())
    if bad:
        raise DataError(f"{bad} of {len(features)} rows have features that are not finite: leave out absent parts")


def _best_penalty(
    x: Tensor | csr_array, y: np.ndarray, groups: Sequence[str], classes: int, path: Sequence[float], folds: int
) -> float:
    """The penalty with the least cross-validated log-loss; none weaker than one that has overfitted a fold is tried."""
    fold = np.array(fold_of(groups, y.tolist(), folds, 0)) if len(set(groups)) > 1 else np.zeros(len(y))
    judged = [out for out in (fold == number for number in np.unique(fold)) if len(np.unique(y[~out])) > 1]
    least = len(path)  # what no fold has to try any more, as another one has overfitted

    def path_losses(out: np.ndarray) -> list[float]:
        nonlocal least
        learned, held = ((x[rows], torch.from_numpy(y[rows])) for rows in (~out, out))
        found = held_out_path(learned, held, classes, path[:least])[1]
        least = min(least, len(found))
        return found

    losses = np.zeros(len(path))
    for found in _by_fold(path_losses, judged, x):
        losses = losses[: len(found)] + found[: len(losses)]
    return float(path[int(losses.argmin())] if losses.any() else path[len(path) // 2])


def _solve(features: Tensor | csr_array, y: np.ndarray, classes: int, path: Sequence[float]) -> Iterator[LinearHead]:
    """Heads along an increasing path of C, each solved from where the one before ended."""
    from sklearn.linear_model import LogisticRegression

    if isinstance(features, Tensor):
        z = features.to(torch.float64, copy=True).numpy()
        mean, scale = z.mean(axis=0), z.std(axis=0)
        scale[scale < FLAT] = 1.0
        z -= mean  # in place: another copy of all rows would stand beside it
        z /= scale
    else:
        z = features.astype(np.float64)
        mean, scale = np.zeros(z.shape[1]), np.ones(z.shape[1])
    seen = np.unique(y)
    model = LogisticRegression(max_iter=1000, warm_start=True)
    for penalty in path:
        slopes, intercepts = np.zeros((1, z.shape[1])), np.zeros(1)
        if len(seen) > 1:
            model.set_params(C=penalty).fit(z, y)
            slopes, intercepts = model.coef_, model.intercept_
        if len(seen) == 2:
            slopes, intercepts = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-intercepts, intercepts]) / 2
        weight = np.zeros((classes, z.shape[1]))
        weight[seen] = slopes / scale
        centre = intercepts + slopes @ z.mean(axis=0)
        bias = np.full(classes, np.logaddexp.reduce(centre) - np.log(len(y) + 1))
        bias[seen] = intercepts - weight[seen] @ mean
        yield LinearHead(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), float(penalty))
