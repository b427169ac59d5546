"""Functional suites: short texts that each test one thing a classifier should know (Röttger et al. 2021, HateCheck)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BifocalError, DataError, listed
from ..example import Rejected
from ..files.folders import Files
from ..files.labels import LabelMap
from ..files.tables import read_rows
from ..modalities import TEXT

if TYPE_CHECKING:
    from ..system.system import System

AT_ONCE = 256
LAYOUTS: tuple[tuple[str, LabelMap], ...] = (
    (TEXT, LabelMap(column="label")),
    ("test_case", LabelMap(column="label_gold", map={"hateful": 1, "non-hateful": 0})),
)
"""Column of the text, and how the label stands in its own: the plain layout, and HateCheck's (arXiv:2012.15606)."""


def functional_suite(system: System, path: Path) -> dict[str, Any]:
    """Accuracy of a system per functionality, each text decided on as a post of its own.

    Parameters
    ----------
    system : System
        Of a run that reads texts.
    path : Path
        CSV (or any table that a source reads) with ``functionality``, ``text`` and ``label`` (a class of the run's
        label, yes and no in any spelling where it is binary), or in HateCheck's layout ``functionality``,
        ``test_case`` and ``label_gold`` (``hateful``, ``non-hateful``).

    Returns
    -------
    dict
        ``file``, ``n`` (texts decided on), ``failed`` (texts that could not be), ``accuracy``, and
        ``functionalities``: in the order of the file, each ``functionality``, ``n``, ``labels`` (class -> texts),
        ``accuracy``. An accuracy is ``value`` with its 95% Wilson interval ``low``, ``high``, which takes texts for
        independent: templates filled with other words are less than that.

    Raises
    ------
    DataError
        Where the run reads no text, a column is missing, a row cannot be read, a label is no class, or there are no
        rows.
    """
    if TEXT not in system.modalities:
        raise DataError(f"a functional suite is of texts, and this run reads {', '.join(system.modalities)}")
    texts, rights, failed = Counter[str](), Counter[str](), 0
    labels: dict[str, Counter[Any]] = {}
    rows = iter(_rows(system, path))
    while batch := list(islice(rows, AT_ONCE)):
        answers = system.predict_batch([{TEXT: text} for _, text, _ in batch])
        for (functionality, _, label), answer in zip(batch, answers, strict=True):
            labels.setdefault(functionality, Counter())
            if isinstance(answer, BifocalError):
                failed += 1
                continue
            texts[functionality] += 1
            labels[functionality][label] += 1
            rights[functionality] += answer.label == label
    if not labels:
        raise DataError(f"{path} has no rows: a functional suite needs one text at least")
    return {
        "file": path.name,
        "n": texts.total(),
        "failed": failed,
        "accuracy": _share(rights.total(), texts.total()),
        "functionalities": [
            {"functionality": name, "n": texts[name], "labels": dict(of), "accuracy": _share(rights[name], texts[name])}
            for name, of in labels.items()
        ],
    }


def _rows(system: System, path: Path) -> Iterable[tuple[str, str, Any]]:
    """Functionality, text and class of each row."""
    if not path.is_file():
        raise DataError(f"there is no functional suite {str(path)!r}")
    layout = None
    for where, row in read_rows(Files(path.resolve().parent), path.resolve().name):
        if isinstance(row, Rejected):
            raise DataError(f"{path}, {where}: {row.reason}")
        if layout is None:
            layout = _layout(row, path)
        column, meaning = layout
        functionality, text = row.get("functionality"), row.get(column)
        try:
            label = meaning.encode(system.config.label, meaning.parse_cell(row.get(meaning.column)), system.label)
            if label is None or not functionality or not isinstance(text, str):
                raise DataError(f"functionality, {column} and {meaning.column} must all be there")
        except DataError as error:
            raise DataError(f"{path}, {where}: {error}") from None
        yield str(functionality), text, label


def _layout(row: dict[str, Any], path: Path) -> tuple[str, LabelMap]:
    for column, meaning in LAYOUTS:
        if {"functionality", column, meaning.column} <= row.keys():
            return column, meaning
    allowed = " or ".join(f"functionality, {column}, {meaning.column}" for column, meaning in LAYOUTS)
    raise DataError(f"{path} has the columns {listed(list(row))}; a functional suite has {allowed}")


def _share(right: int, n: int) -> dict[str, float | None]:
    from scipy.stats import binomtest

    if not n:
        return {"value": None, "low": None, "high": None}
    ends = binomtest(right, n).proportion_ci(method="wilson")
    return {"value": right / n, "low": float(ends.low), "high": float(ends.high)}
