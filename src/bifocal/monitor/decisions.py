"""Reads again what `bifocal score` wrote: the Decisions on many posts, as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..assess.drift_reference import DECIMALS, DecidedPosts, text_facts
from ..decide.policy import Policy, pattern_of
from ..errors import DataError, listed
from ..example import Rejected
from ..files.folders import Files
from ..files.tables import read_rows
from ..modalities import TEXT
from ..system.score import MANY_FAILED


def is_scored(path: Path, key: str) -> bool:
    """Whether a table is what `score_file` wrote: by its columns, and not by its name."""
    seen: set[str] = set()
    try:
        for row in _rows(path):
            if isinstance(row, Rejected):
                continue
            seen |= {column.partition(".")[0] for column in row}
            if row.get("error") is None:
                break
    except DataError:  # posts, perhaps, which are read by the options of the run's source
        if not path.stat().st_size:
            raise
        return False
    if not seen:
        raise DataError(f"{path} has no rows: there is nothing to compare")
    return len(seen & {key, "present", "text_used", "versions"}) > 1 or seen == {"id", "error"}


def _rows(path: Path) -> Iterator[dict[str, Any] | Rejected]:
    path = path.resolve()
    return (row for _, row in read_rows(Files(path.parent), path.name, quotes="standard"))  # as it was written


@dataclass
class Decisions:
    """A table of decisions by one label; the counts stand once it was read.

    ``policy`` is that of the run, and ``label`` one of its further labels; "" = the first. Rows in which that is not
    asked are no decisions by it, and are counted as ``not_asked``.
    """

    path: Path
    policy: Policy
    modalities: list[str]
    label: str = ""
    not_asked: int = 0
    rows: int = 0
    failed: int = 0
    without_score: int = 0

    def __post_init__(self) -> None:
        self.findings: list[str] = []
        own = self.policy.of_label(self.label or self.policy.label)
        self._class_of = {str(name): index for index, name in enumerate(own.classes)}
        self._key = f"labels.{self.label}.prob" if self.label else own.probability_key
        self._class_key = f"labels.{self.label}.label" if self.label else "label"
        self._asked_of_some = own.requires is not None

    def read(self) -> DecidedPosts:
        """Every row that holds a decision. Raises `DataError` where there is none, or it is of another run."""
        scores, predicted, patterns, languages, lengths = [], [], [], [], []
        copies: list[int] = []
        known: dict[tuple[str, float], int] = {}
        versions: Counter[tuple[tuple[str, str], ...]] = Counter()
        usable = self._usable()
        first = next(usable, None)
        if first is None:
            raise DataError(f"{self.path} holds no decision: {self.failed:,} of its {self.rows:,} rows have an error")
        nested = isinstance(first.get("present"), Mapping)
        self._check_columns(first, nested)
        for row in chain([first], usable):
            probability, name = self._answer(row, nested)
            if self.label and name in (None, ""):
                self.not_asked += 1
                continue
            score = _share(probability)
            if score is None:
                self.without_score += 1
                continue
            text = str(row.get("text_used") or "")
            there = row["present"] if nested else {name: row.get(f"present.{name}") for name in self.modalities}
            language, length = text_facts(text)
            scores.append(score)
            predicted.append(self._class(name))
            patterns.append(pattern_of(name for name in self.modalities if str(there.get(name)).lower() == "true"))
            languages.append(language)
            lengths.append(length)
            # The same words with the same score are the same post; without words a score may be shared by many.
            copies.append(known.setdefault((text, score), len(copies)) if text else len(copies))
            versions[_versions(row, nested)] += 1
        if not scores and not (self.not_asked and self._asked_of_some):
            raise DataError(f"{self.path}: no row has a {self._key!r} between 0 and 1")
        self._check_versions(versions)
        self._tell()
        return DecidedPosts(*map(np.array, (scores, predicted, patterns, languages, lengths, copies)))

    def _answer(self, row: Mapping[str, Any], nested: bool) -> tuple[Any, Any]:
        """Probability and class; None and None where the label is not asked."""
        if self.label and nested:
            answer = (row.get("labels") or {}).get(self.label) or {}
            return answer.get("prob"), answer.get("label")
        return row.get(self._key), row.get(self._class_key)

    def _usable(self) -> Iterator[dict[str, Any]]:
        for row in _rows(self.path):
            self.rows += 1
            if isinstance(row, Rejected) or row.get("error") is not None:
                self.failed += 1
            else:
                yield row

    def _check_columns(self, row: Mapping[str, Any], nested: bool) -> None:
        needed = [self._key, self._class_key]
        if self.label:  # of a label that is asked of no post a table has no columns
            needed = ["labels"] if nested else [] if self._asked_of_some else needed
        needed += ["present"] if nested else [f"present.{name}" for name in self.modalities]
        needed += ["text_used"] if TEXT in self.modalities else []
        if missing := [column for column in needed if column not in row]:
            raise DataError(
                f"{self.path} has the columns {listed(list(row))}, and of what `bifocal score` writes for this run it "
                f"lacks {listed(missing)}: give its output as it is, or the posts themselves"
            )

    def _class(self, value: Any) -> int:
        name = str(value)
        if name not in self._class_of:  # pandas makes 1.0 of 1 where a cell is empty
            name = name.removesuffix(".0")
        if name not in self._class_of:
            raise DataError(
                f"{self.path}: the label {value!r} is none of this run's {listed(list(self._class_of))}: "
                "was it scored by another run?"
            )
        return self._class_of[name]

    def _check_versions(self, found: Counter[tuple[tuple[str, str], ...]]) -> None:
        ours = {name: version for name, version in self.policy.versions.items() if name != "bifocal"}
        ours["policy"] = self.policy.version
        for theirs, rows in found.items():
            given = dict(theirs)
            if not given:
                self.findings.append(f"{rows:,} rows do not say which run scored them: taken as this one's")
                continue
            for name, version in ours.items():
                if given.get(name) != version:
                    raise DataError(
                        f"{self.path} was scored by another run or policy ({name} {given.get(name, 'missing')}, here "
                        f"{version}): score the posts with this one"
                    )

    def _tell(self) -> None:
        if self.failed > MANY_FAILED * self.rows:
            self.findings.append(
                f"{self.failed:,} of {self.rows:,} rows could not be decided on and are not compared: see their `error`"
            )
        if self.without_score:
            self.findings.append(f"{self.without_score:,} rows have no probability between 0 and 1, and are left out")


def _share(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return round(number, DECIMALS) if 0 <= number <= 1 else None


def _versions(row: Mapping[str, Any], nested: bool) -> tuple[tuple[str, str], ...]:
    if nested:
        given = row.get("versions")
        return tuple((k, str(v)) for k, v in given.items()) if isinstance(given, Mapping) else ()
    prefix = "versions."
    return tuple((k.removeprefix(prefix), str(v)) for k, v in row.items() if k.startswith(prefix) and v is not None)
