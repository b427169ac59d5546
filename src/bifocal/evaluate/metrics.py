"""The figures by which a model is judged, each a function of labels and probabilities.

Labels are class indices ``[n]``; probabilities are ``[n]`` (binary: of class 1) or ``[n, C]``. A figure that the rows
cannot define (one class only) is nan, never an exception; input that makes no sense is a `DataError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BINS = 15
"""Bins of equal width for every calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""
SUM_TOLERANCE = 1e-3
RANGE_TOLERANCE = 1e-6  # a float32 softmax may end a little above 1


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels as int64 ``[n]`` and probabilities as float64 ``[n, C]``, or one line that says what is wrong with them.

    Raises
    ------
    DataError
        Where shapes disagree, there are no rows, a probability is outside 0..1, a row does not sum to 1 within 1e-3,
        or a label names no class (rows that are not annotated must be left out).
    """
    y = np.asarray(labels)
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim not in (1, 2) or (p.ndim == 2 and p.shape[1] < 2):
        raise DataError(f"probabilities are [n] or [n, C] with C >= 2, found shape {list(p.shape)}")
    if y.ndim != 1 or len(y) != len(p):
        raise DataError(f"labels are [n] beside probabilities of n rows, found {list(y.shape)} and {list(p.shape)}")
    if not len(y):
        raise DataError("there are no rows to evaluate: give at least one labelled row")
    outside = ~((p >= -RANGE_TOLERANCE) & (p <= 1 + RANGE_TOLERANCE))  # catches nan too
    if outside.any():
        raise DataError(f"probabilities lie in 0..1, found {p[outside][0]:g}: give probabilities, not logits")
    p = p.clip(0, 1)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    sums = p.sum(axis=1)
    if (wrong := np.abs(sums - 1) > SUM_TOLERANCE).any():
        raise DataError(f"each row of probabilities sums to 1, found {sums[wrong][0]:g} in row {wrong.argmax()}")
    named = np.isin(y, np.arange(p.shape[1]))
    if not named.all():
        raise DataError(
            f"labels are class indices 0..{p.shape[1] - 1}, found {y[~named][0]!s}: leave out rows without a label"
        )
    return y.astype(np.int64), p


def predicted_classes(probabilities: NDArray[np.float64], threshold: float = 0.5) -> NDArray[np.int64]:
    """Class index of each row ``[n]`` of probabilities ``[n, C]``.

    Binary rows are flagged where P(class 1) >= ``threshold``; multiclass rows go to the likeliest class.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(axis=1)


def checked_predictions(predictions: ArrayLike | None, p: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class indices ``[n]`` a policy chose; None = those of `predicted_classes`. Raises `DataError`."""
    if predictions is None:
        return predicted_classes(p)
    chosen = np.asarray(predictions)
    if chosen.shape != p.shape[:1] or not np.isin(chosen, np.arange(p.shape[1])).all():
        raise DataError(
            f"predictions are {len(p)} class indices 0..{p.shape[1] - 1}, found shape {list(chosen.shape)} "
            f"with values {np.unique(chosen)[:5].tolist()}"
        )
    return chosen.astype(np.int64)


def one_vs_rest(y: NDArray[np.int64], p: NDArray[np.float64]) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """The yes-or-no questions behind a label, as pairs (happened ``[n]``, probability ``[n]``).

    One for a binary label (class 1), one per class otherwise.
    """
    classes = (1,) if p.shape[1] == 2 else range(p.shape[1])
    return [(y == c, p[:, c]) for c in classes]


def accuracy(labels: ArrayLike, probabilities: ArrayLike, *, predictions: ArrayLike | None = None) -> float:
    """Share of rows whose predicted class is right.

    ``predictions [n]`` are class indices a policy chose; without them P(class 1) >= 0.5, or the likeliest class.
    """
    from sklearn.metrics import accuracy_score

    y, p = checked(labels, probabilities)
    return float(accuracy_score(y, checked_predictions(predictions, p)))


def macro_f1(labels: ArrayLike, probabilities: ArrayLike, *, predictions: ArrayLike | None = None) -> float:
    """Mean F1 over the classes found among labels or predictions (scikit-learn's convention); else as `accuracy`."""
    from sklearn.metrics import f1_score

    y, p = checked(labels, probabilities)
    return float(f1_score(y, checked_predictions(predictions, p), average="macro", zero_division=0))


def auroc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve; multiclass: macro mean of one-vs-rest over the classes that have rows.

    nan where all rows are of one class.
    """
    from sklearn.metrics import roc_auc_score

    return _mean_over_classes(roc_auc_score, *checked(labels, probabilities))


def auprc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision; multiclass and one class only: as `auroc`."""
    from sklearn.metrics import average_precision_score

    return _mean_over_classes(average_precision_score, *checked(labels, probabilities))


def _mean_over_classes(score: Callable[..., float], y: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    values = [score(happened, q) for happened, q in one_vs_rest(y, p) if 0 < happened.sum() < len(y)]
    return float(np.mean(values)) if values else float("nan")


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared error of the probabilities: binary ``(p - y)²``, multiclass summed over the classes (Brier 1950)."""
    from sklearn.metrics import brier_score_loss

    y, p = checked(labels, probabilities)
    if p.shape[1] == 2:
        return float(brier_score_loss(y, p[:, 1], pos_label=1))
    return float(brier_score_loss(y, p / p.sum(axis=1, keepdims=True), labels=np.arange(p.shape[1])))


def nll(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; a zero probability counts as the smallest step of a float64."""
    from sklearn.metrics import log_loss

    y, p = checked(labels, probabilities)
    return float(log_loss(y, p / p.sum(axis=1, keepdims=True), labels=np.arange(p.shape[1])))


def ece(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    kind: Literal["top_label", "positive"] = "top_label",
    bins: int = BINS,
    debiased: bool = False,
) -> float:
    """Expected calibration error: mean gap between confidence and frequency over bins of equal width.

    Parameters
    ----------
    labels, probabilities : [n], [n] or [n, C]
    kind : {"top_label", "positive"}
        ``top_label``: is the predicted class right as often as its probability says (Guo et al. 2017)?
        ``positive``: does class 1 come as often as its probability says; multiclass: the mean of that question over
        the classes, the classwise ECE of Kull et al. 2019 (arXiv:1910.12656). Figures of the two kinds do not compare.
    bins : int
        Bins are (k/bins, (k+1)/bins]; 0 belongs to the first.
    debiased : bool
        Subtract the part that chance alone puts there; see `calibration_error`. Can fall slightly below 0.

    Raises
    ------
    DataError
        On an unknown kind, bins < 1, or input that `checked` refuses.
    """
    if bins < 1:
        raise DataError(f"bins is a whole number from 1, found {bins}")
    y, p = checked(labels, probabilities)
    errors = []
    for happened, q in ece_questions(y, p, kind):
        sums = (np.bincount(bin_of(q, bins), v, bins).astype(np.float64) for v in calibration_terms(happened, q))
        errors.append(calibration_error(*sums, debiased=debiased))
    return float(np.mean(errors))


def ece_questions(
    y: NDArray[np.int64], p: NDArray[np.float64], kind: str
) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """What an ECE of this kind asks, as pairs (happened ``[n]``, probability ``[n]``). Raises `DataError`."""
    if kind == "positive":
        return one_vs_rest(y, p)
    if kind == "top_label":
        top = predicted_classes(p)
        return [(top == y, p[np.arange(len(p)), top])]
    raise DataError(f"there is no ECE of kind {kind!r}; known: positive, top_label")


def bin_of(q: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    """Bin ``[n]`` of each probability, the upper edge included."""
    return np.searchsorted(np.arange(1, bins) / bins, q, side="left")


def calibration_terms(
    happened: NDArray[np.bool_], q: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What `calibration_error` sums over each bin, ``[n]`` each: rows, happened - p, p (1 - p)."""
    return np.ones_like(q), happened - q, q * (1 - q)


def calibration_error(
    count: NDArray[np.float64], gap: NDArray[np.float64], variance: NDArray[np.float64], *, debiased: bool
) -> NDArray[np.float64]:
    """ECE from sums over the rows of each bin; the last axis is the bins, any others are kept.

    The plain estimate ``sum_b w_b |d_b|`` is too large, since noise in a bin's frequency never cancels inside the
    absolute value: a perfectly calibrated model shows 0.06-0.08 at n = 200. As in Kumar, Liang and Ma 2019
    (arXiv:1909.10155, section 5 and their ``normal_debiased_ce``), the frequency of a bin is taken as normal and the
    bias ``E|N(m, s)| - |m|`` of its gap is subtracted, here from the closed form of the folded normal's mean instead
    of by simulation. Two choices differ from their code, which takes away only 40% of the bias of a calibrated model.
    The bias is taken at their debiased squared gap, ``m² = max(0, d² - s²)``, not at the inflated ``d`` itself, and
    ``s² = sum p (1 - p) / n_b²`` is what the model itself implies (a frequency of 0 or 1 in a small bin would claim
    to be free of noise). About three quarters of the bias go; a truly large gap stays as it is.

    Parameters
    ----------
    count, gap, variance : [..., bins]
        Rows of the bin, sum of (happened - p), sum of p (1 - p).

    Returns
    -------
    array, [...]
    """
    filled = np.maximum(count, 1)  # an empty bin has gap 0 and weight 0
    error = np.abs(gap) / filled
    if debiased:
        noise = np.sqrt(variance) / filled
        error = error - _folded_bias(np.sqrt(np.maximum(error**2 - noise**2, 0)), noise)
    return (count * error).sum(axis=-1) / count.sum(axis=-1)


def _folded_bias(mean: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """``E|N(mean, noise)| - mean`` for mean >= 0 (Leone, Nelson and Nottingham 1961, equation 6)."""
    from scipy.special import erfc

    ratio = mean / np.where(noise > 0, noise, 1)
    return noise * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) - mean * erfc(ratio / np.sqrt(2)) * (noise > 0)


METRICS: dict[str, Callable[[ArrayLike, ArrayLike, ArrayLike | None], float]] = {
    "auroc": lambda y, p, _: auroc(y, p),
    "macro_f1": lambda y, p, chosen: macro_f1(y, p, predictions=chosen),
    "accuracy": lambda y, p, chosen: accuracy(y, p, predictions=chosen),
    "auprc": lambda y, p, _: auprc(y, p),
    "brier": lambda y, p, _: brier(y, p),
    "ece_top_label": lambda y, p, _: ece(y, p),
    "ece_top_label_debiased": lambda y, p, _: ece(y, p, debiased=True),
    "ece_positive": lambda y, p, _: ece(y, p, kind="positive"),
    "ece_positive_debiased": lambda y, p, _: ece(y, p, kind="positive", debiased=True),
    "nll": lambda y, p, _: nll(y, p),
}
"""The names in ``results_<run>.json``, each a function of labels, probabilities and predictions (or None)."""


def headline_metric(classes: int) -> str:
    """Name of the metric that every choice and comparison is made by: AUROC for two classes, macro-F1 for more."""
    return "auroc" if classes == 2 else "macro_f1"
