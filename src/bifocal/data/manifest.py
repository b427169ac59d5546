"""The manifest: one validated line per example; what cannot be used goes to quarantine with its reason."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..contracts import Modality, NotingSource, Source
from ..errors import DataError, RunError
from ..example import LABELS, SPLITS, Example, Rejected, Taxonomy, is_nothing
from ..modalities import inputs
from ..scale.pool import Pool, is_portable
from ..scale.threads import in_order
from ..workspace import atomic
from .file_stamps import is_spelled_otherwise
from .file_stamps import line as stamp_line
from .row_checks import ROWS, CheckedRow, RowChecks, checked_by, rejected

MAX_BAD = 0.05
"""A larger share of bad rows stops the run: by then it is the source that is wrong, not a row."""
ROWS_TO_JUDGE = 20
"""Fewer rows say nothing about a share; then a run only stops where none can be used."""
REASONS_KEPT = 20
MANY_WORDS = 0.01
"""Share of texts from which on a word that programs write for nothing (``nan``) is told, where it is all of a text."""


class Refusal(DataError):
    """Too many bad rows, or under ``strict`` the first; raised once the quarantine file is on disk."""


@contextmanager
def temporary_manifest(
    source: Source,
    modalities: Mapping[str, Modality],
    taxonomy: Taxonomy,
    *,
    limit: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[tuple[Path, Path, dict[str, Any]]]:
    """Every row of a source checked as a run would, however many are bad, by files that are gone afterwards.

    Gives the manifest, the quarantine file, and the counts of `write_manifest`, which says what is raised.
    """
    with TemporaryDirectory(prefix="bifocal-") as place:
        manifest, quarantine = (Path(place) / name for name in ("manifest", "quarantine"))
        label = next(iter(source.labels()), next(iter(LABELS)))
        counts = write_manifest(
            source,
            modalities,
            manifest,
            quarantine,
            taxonomy=taxonomy,
            label=label,
            limit=limit,
            strict=False,
            tolerate=1.0,
            progress=progress,
        )
        yield manifest, quarantine, counts


def write_manifest(
    source: Source,
    modalities: Mapping[str, Modality],
    out: Path,
    quarantine: Path,
    stamps: Path | None = None,
    *,
    taxonomy: Taxonomy,
    label: str,
    further: Sequence[str] = (),
    limit: int | None,
    strict: bool,
    tolerate: float = MAX_BAD,
    pool: Pool | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Check every row of a source and write what later steps rely on; only ids are held in memory.

    Parts are decoded and hashed in threads (Pillow lets go of the GIL: 1.7 times as fast on two cores), so
    `Source.open` is called from several threads at once. The order of the rows is the source's.

    Parameters
    ----------
    source : Source
    modalities : mapping of name to Modality
        Parts of the run. A row has to bring a part; those that the run does not read are kept unchecked.
    out, quarantine : Path
        ``data_manifest.jsonl`` (Examples, with ``meta["facts"][modality]``) and ``quarantine.jsonl`` (Rejected).
    stamps : Path, optional
        Gets what the files that were read, or sought, were at that time (`data.file_stamps`).
    taxonomy : Taxonomy
    label : str
        The run's label. Rows where it is not annotated are kept, for scoring, and counted.
    further : sequence of str
        The labels beside it, of a run of several.
    limit : int, optional
        Take only the first rows of the source.
    strict : bool
        Stop at the first bad row.
    tolerate : float
        Share of bad rows up to which a manifest is written.
    pool : Pool, optional
        Checks rows that bring files, a few at a time; what it has finished outlives a killed call. Its workers read the
        source themselves. None = threads do; without files they are no slower.
    progress : callable, optional
        Receives rows done and ``limit``.

    Returns
    -------
    dict
        ``examples, quarantined, unlabelled, animated, spelled_otherwise, by_split, by_class, reasons``, and ``notes``:
        what the source had to guess, and texts that may stand for nothing. Of an animated picture only the first frame
        is read, which an abuser may know, so they are counted. A reason leaves out what differs from row to row (names,
        numbers), so that equal causes are counted together. With ``further``: ``labels`` (name -> ``unlabelled`` and
        ``by_class``, of a label that requires another among the rows that are known to be positive by that) and
        ``without_labels`` (rows that bear none of them).

    Raises
    ------
    DataError
        At the first bad row under ``strict``; else at the end, where more than 5% of 20 or more rows are bad, or all
        of them. No manifest is written then, but the quarantine file is.
    """
    tally = _Tally([label, *further], taxonomy)
    checks = RowChecks(source, modalities, taxonomy, limit)
    units = out.with_name(f".{out.name}.units")
    refusal: Refusal | None = None
    with atomic(quarantine) as bad, ExitStack() as stack:
        try:
            with atomic(out) as good:
                noted = stack.enter_context(atomic(stamps)) if stamps else None
                for done, checked in enumerate(_checked_rows(checks, pool, units), start=1):
                    row, line, seen = checked.row, checked.line, checked.seen
                    tally.spelled += [(e["reference"], e["stamp"][0]) for e in seen if is_spelled_otherwise(e)]
                    if noted:
                        noted.writelines(map(stamp_line, seen))
                    if isinstance(row, Example) and row.id in tally.ids:
                        where = f"row {done} of the source"
                        row, line = rejected(row, where, f"id {row.id!r} stands in an earlier row; ids must be unique")
                    (good if isinstance(row, Example) else bad).write(line)
                    tally.add(row)
                    if strict and isinstance(row, Rejected):
                        raise Refusal(f"{row.where}, id {row.id!r}: {row.reason}; see {quarantine} (strict: true)")
                    if progress:
                        progress(done, limit)
                tally.judge(quarantine, tolerate)
        except Refusal as error:
            refusal = error
    shutil.rmtree(units, ignore_errors=True)
    if refusal:
        raise refusal
    return {**tally.counts(), "notes": [*(source.notes() if isinstance(source, NotingSource) else ()), *tally.notes()]}


def _checked_rows(checks: RowChecks, pool: Pool | None, units: Path) -> Iterator[CheckedRow]:
    rows = checks.rows()
    first = list(islice(rows, 2 * ROWS)) if pool and is_portable(checks) else []
    if not pool or len(first) < 2 * ROWS or not any(checks.reads_files(row) for _, row in first):
        return in_order(checks.check, chain(first, rows))
    starts = (n // ROWS for n, _ in enumerate(chain(first, rows)) if n % ROWS == 0)
    return checked_by(pool, checks, starts, units)


def read_manifest(path: Path) -> Iterator[Example]:
    """Stream the Examples of a manifest.

    Raises
    ------
    RunError
        Where the file is missing.
    DataError
        Naming the line that is not an Example.
    """
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: run the step `manifest` first") from None
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield Example.from_json(json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}, line {number} is not an example ({error}): run `manifest` again") from None


def without_details(reason: str) -> str:
    """A reason without what differs from row to row: names, paths, numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\d+", "…", reason)


class _LabelTally:
    """How many rows bear a label, and of which class, in each split, of those that it is asked of."""

    def __init__(self, name: str, taxonomy: Taxonomy):
        self.name = name
        parent = taxonomy[name].requires
        self.parent = (parent, taxonomy[parent]) if parent is not None else None
        self.has_classes = taxonomy[name].above is None
        self.unlabelled = 0
        self.by_class: dict[str, Counter[str]] = {}

    def add(self, row: Example) -> None:
        if self.parent is not None and self.parent[1].class_of(row.labels.get(self.parent[0])) != 1:
            return
        if (value := row.labels.get(self.name)) is None:
            self.unlabelled += 1
        elif self.has_classes:  # and is not a number that will be one
            self.by_class.setdefault(row.split or "unassigned", Counter())[str(value)] += 1

    def counts(self) -> dict[str, Any]:
        return {
            "unlabelled": self.unlabelled,
            "by_class": {split: dict(counts) for split, counts in self.by_class.items()},
        }


class _Tally:
    """What was read, kept and refused so far."""

    def __init__(self, labels: Sequence[str], taxonomy: Taxonomy):
        self.labels = {name: _LabelTally(name, taxonomy) for name in labels}
        self.without_labels = 0
        self.ids: set[str] = set()
        self.animated = 0
        self.spelled: list[tuple[str, str]] = []
        self.by_split: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.texts = 0
        self.words: Counter[str] = Counter()

    def add(self, row: Example | Rejected) -> None:
        if isinstance(row, Rejected):
            self.reasons[without_details(row.reason)] += 1
            return
        self.ids.add(row.id)
        self.animated += any(facts.get("frames", 1) > 1 for facts in row.meta["facts"].values())
        self.by_split[row.split or "unassigned"] += 1
        for part in (row.parts.get(name) for name, one in inputs().items() if one.form == "words"):
            if isinstance(part, str):
                self.texts += 1
                if is_nothing(part):
                    self.words[part.strip()] += 1
        self.without_labels += all(row.labels.get(name) is None for name in self.labels)
        for label in self.labels.values():
            label.add(row)

    def judge(self, quarantine: Path, tolerate: float) -> None:
        """Raise `Refusal` where the source as a whole cannot be used."""
        bad, kept = self.reasons.total(), len(self.ids)
        read = bad + kept
        if not read:
            raise Refusal("the source brought no rows: check `source.root` (or `limit`)")
        if tolerate >= 1 or (kept and (read < ROWS_TO_JUDGE or bad <= tolerate * read)):
            return
        commonest = "; ".join(f"{n} x {reason}" for reason, n in self.reasons.most_common(3))
        raise Refusal(
            f"{bad} of {read} rows cannot be used, {tolerate:.0%} are tolerated: {commonest}; "
            f"each row and its reason is in {quarantine}: mend the source and run again"
        )

    def notes(self) -> list[str]:
        """Texts that are a word for nothing, where they are many."""
        return [
            f"{n:,} of {self.texts:,} texts are {word!r}, and are read as that word: if it stands for no text, set the "
            f"option missing_text: [{word!r}] of a source with named columns, or leave those texts empty"
            for word, n in self.words.most_common()
            if n > MANY_WORDS * self.texts
        ]

    def counts(self) -> dict[str, Any]:
        first, *further = ((name, label.counts()) for name, label in self.labels.items())
        several = {"labels": dict(further), "without_labels": self.without_labels} if further else {}
        return {
            "examples": len(self.ids),
            "quarantined": self.reasons.total(),
            "unlabelled": first[1]["unlabelled"],
            "animated": self.animated,
            "spelled_otherwise": {"files": len(self.spelled), "for_example": dict(self.spelled[:1])},
            "by_split": {split: self.by_split[split] for split in (*SPLITS, "unassigned") if self.by_split[split]},
            "by_class": first[1]["by_class"],
            "reasons": dict(self.reasons.most_common(REASONS_KEPT)),
            **several,
        }
