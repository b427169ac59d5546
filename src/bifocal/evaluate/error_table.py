"""``errors_<run>.csv``: what every model said of every row, beside the truth, for people to read and sort."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, nearest
from ..spreadsheet import cells
from ..workspace import atomic

if TYPE_CHECKING:
    from ..example import Label

    ProbabilitiesAndClasses = tuple[np.ndarray, np.ndarray]

BEFORE = ("index", "id", "split", "text")
AFTER = ("error_type", "all_agree", "fusion_only_right")


def write_errors(
    path: Path,
    *,
    ids: Sequence[str],
    splits: Sequence[str],
    texts: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    label_name: str,
    label: Label,
    models: Mapping[str, ProbabilitiesAndClasses],
    fused: str,
    raw: bool = False,
) -> None:
    """Write the table row by row, whole or not at all.

    Columns: ``index, id, split, text, <label>``, then ``<prefix>_prob, <prefix>_pred`` of each model in the order
    given, then ``error_type`` (TP, TN, FP, FN of the fused model; multiclass: right, wrong), ``all_agree`` (1 where
    all models with an opinion predict the same) and ``fusion_only_right`` (1 where the fused model is right and every
    expert with an opinion is wrong).

    Parameters
    ----------
    path : Path
    ids, splits, texts : [n]
        Read lazily, one at a time, and written in quotes.
    labels : [n]
        Class indices.
    label_name, label
        Names the truth's column; gives the classes.
    models : column prefix -> (probabilities [n, C], predictions [n])
        Calibrated. A row of nan probabilities is a model without an opinion (its part is absent): empty cells.
        Binary: the probability of class 1; multiclass: of the predicted class.
    fused : str
        The prefix of the model whose word counts.
    raw : bool
        Write words as they are, also such as a spreadsheet runs; else they are `guarded`, which ``bifocal unguard``
        and Bifocal's own sources undo.

    Raises
    ------
    DataError
        Where ``fused`` is not among the models, lengths disagree, or a label names no class.
    """
    if fused not in models:
        raise DataError(f"the fused model {fused!r} is not among the models; {nearest(fused, models)}")
    columns: dict[str, Sequence[Any] | np.ndarray] = {"ids": ids, "splits": splits, "texts": texts}
    for prefix, (probabilities, predictions) in models.items():
        columns |= {f"probabilities of {prefix}": probabilities, f"predictions of {prefix}": predictions}
    for name, column in columns.items():
        if len(column) != len(labels):
            raise DataError(f"the error table has {len(labels)} labels but {len(column)} {name}")
    if not np.isin(labels, np.arange(len(label.classes))).all():
        raise DataError(f"the error table takes class indices 0..{len(label.classes) - 1}: leave out unlabelled rows")
    judged = [f"{prefix}_{column}" for prefix in models for column in ("prob", "pred")]
    cell = cells(raw)
    with atomic(Path(path)) as f:
        csv.writer(f, lineterminator="\n").writerow(map(cell, [*BEFORE, label_name, *judged, *AFTER]))
        # Everything but numbers in quotes: Python 3.11 leaves a lone carriage return bare, and a reader breaks the row.
        rows = csv.writer(f, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for i, text in enumerate(texts):
            verdicts = _verdicts(i, int(labels[i]), label, models, fused)
            rows.writerow(map(cell, [i, ids[i], splits[i], text, *verdicts]))


def _verdicts(
    i: int, truth: int, label: Label, models: Mapping[str, ProbabilitiesAndClasses], fused: str
) -> Iterator[Any]:
    """The cells of one row from the truth on."""
    predicted: dict[str, int] = {}
    yield label.classes[truth]
    for prefix, (probabilities, predictions) in models.items():
        if np.isnan(probabilities[i]).any():
            yield from ("", "")
            continue
        predicted[prefix] = chosen = int(predictions[i])
        yield float(probabilities[i][1 if label.binary else chosen])
        yield label.classes[chosen]
    right = predicted.get(fused) == truth
    experts = [chosen for prefix, chosen in predicted.items() if prefix != fused]
    if fused not in predicted:
        yield ""
    elif label.binary:
        yield ("T" if right else "F") + ("P" if predicted[fused] else "N")
    else:
        yield "right" if right else "wrong"
    yield int(len(set(predicted.values())) <= 1)
    yield int(right and bool(experts) and truth not in experts)
