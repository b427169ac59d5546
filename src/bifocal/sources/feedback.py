"""What people said of posts that a service decided on: the folder that `bifocal feedback export` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, cast

from ..contracts import TextRole
from ..errors import BifocalError, DataError
from ..example import UNLABELLED, Example, Label, Rejected, Taxonomy
from ..files.columns import Split
from ..files.folders import FileSource
from ..files.tables import read_rows

ROWS = "feedback.jsonl"
TAXONOMY = "label_taxonomy.json"
AUDITED = "audit"
"""The sample of what was drawn to be judged, of whatever was allowed or blocked."""
SAMPLES = ("review", AUDITED)
"""How a post comes before a person by design; where somebody reported it, or appealed, it is in no sample."""
VERDICT = "verdict"
"""Under ``from``: a moderator said it; what clients say is ``feedback``."""
PARTS = ("text", "image", "tabular")


class Feedback(FileSource):
    """Decided posts with a person's verdict, or a client's report, as their label.

    ``meta`` says of each row who judged it and when, what the service had decided, how it came to be judged
    (``sample``), and the decisions that it stands for (``weight``). No model trains by weight; calibration,
    thresholds and an estimate over the rows of a sample take it: see docs/retraining.md.

    Attributes
    ----------
    root : Path
        The folder.
    split : str, optional
        The split of all rows, which they keep whatever else the run reads; None = they are split like any others.
    sampled : bool
        Only rows of the sample by design: those under review and those drawn to be audited.
    verdicts : bool
        Only rows that a moderator judged: a client's report is no verdict.
    """

    expected: ClassVar[str] = f"{ROWS} and {TAXONOMY}, as `bifocal feedback export` writes them"

    split: Split | None = None
    sampled: bool = False
    verdicts: bool = False

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The run's label. Raises `DataError` where the file is missing or broken."""
        try:
            return Taxonomy.from_json(json.loads(self.files.read(TAXONOMY)))
        except DataError as error:
            raise DataError(f"{error}; expected {self.expected}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{self.files.root / TAXONOMY} holds no labels; expected {self.expected}") from None

    def labels(self) -> Mapping[str, Label]:
        return self.taxonomy.labels

    def role_of(self, example: Example) -> TextRole:
        """Each post's own: a post without words of its own brings what was read off its picture."""
        return cast(TextRole, example.meta.get("text_role", self.text_role))

    def promised_split(self, example: Example) -> str | None:
        return self.split

    def listed(self) -> list[str]:
        return [ROWS] if self.files.has(ROWS) else []

    def rows(self) -> Iterator[Example | Rejected]:
        return self._rows(self.taxonomy)

    def _rows(self, taxonomy: Taxonomy) -> Iterator[Example | Rejected]:
        for where, row in read_rows(self.files, ROWS):
            found = row if isinstance(row, Rejected) else self._row(row, where, taxonomy)
            if isinstance(found, Rejected) or self._is_wanted(found):
                yield found

    def _is_wanted(self, row: Example) -> bool:
        by_design = not self.sampled or row.meta["sample"] is not None
        return by_design and (not self.verdicts or row.meta.get("from") == VERDICT)

    def _row(self, row: dict[str, Any], where: str, taxonomy: Taxonomy) -> Example | Rejected:
        identity = row.get("id")
        if not isinstance(identity, str) or not identity:
            return Rejected(None, where, "no id (that of the decision)", row)
        try:
            return self._example(identity, row, taxonomy)
        except BifocalError as error:
            return Rejected(identity, where, str(error), row)

    def _example(self, identity: str, row: dict[str, Any], taxonomy: Taxonomy) -> Example:
        parts = {part: row[part] for part in PARTS if row.get(part)}
        for part, kind in (("text", str), ("image", str), ("tabular", dict)):
            if not isinstance(parts.get(part, kind()), kind):
                raise DataError(f"{part} is no {'object' if kind is dict else 'text'}")
        others = row.get("parts") or {}
        if not isinstance(others, dict) or others.keys() & parts.keys():
            raise DataError("parts is no object of further parts")
        parts |= others
        if not parts:
            raise DataError(f"no part ({', '.join(PARTS)})")
        labels = row.get("labels")
        if not isinstance(labels, dict):
            raise DataError("no labels (an object of label and class)")
        taxonomy.check(labels)
        weight, sample, role = row.get("weight"), row.get("sample"), row.get("text_role", self.text_role)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise DataError(f"weight is {weight!r}; expected a number above 0")
        if sample is not None and sample not in SAMPLES:
            raise DataError(f"sample is {sample!r}; expected {', '.join(SAMPLES)} or null")
        if role not in ("transcript", "caption"):
            raise DataError(f"text_role is {role!r}; expected transcript or caption")
        meta = {key: value for key, value in row.items() if key not in (*PARTS, "parts", "id", "labels")}
        classes = {name: None if taxonomy[name].index(value) == UNLABELLED else value for name, value in labels.items()}
        return Example(identity, parts, classes, split=self.split, meta={**meta, "sample": sample, "text_role": role})
