"""Batch scoring: a table of posts in, a table of Decisions out; streams, resumes, and loses no row."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from ..data.manifest import without_details
from ..errors import BifocalError, DataError, RunError, listed
from ..files.folders import Files
from ..files.post_table import Post, Posts
from ..files.tables import SUFFIXES
from ..modalities import PICTURE, TEXT
from ..spreadsheet import cells
from ..workspace import atomic, check_replaceable, disk_errors, fingerprint, read_jsonl, remove_leftovers

FORMATS = (".csv", ".jsonl", ".parquet")
"""Endings of the output."""
MANY_FAILED = 0.05
"""A larger share of rows without a decision means that it is the table that is wrong, or how it is read."""
REASONS_KEPT = 5
Row = TypeVar("Row")


class DecisionLike(Protocol):
    """A decision, whoever made it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""


class Decider(Protocol):
    """What decides: a System, or a service."""

    @property
    def modalities(self) -> Collection[str]:
        """Those of the run."""

    @property
    def reads(self) -> frozenset[str]:
        """The parts that a post may bring, and what it may be called by (``subject``, ``external_id``)."""

    @property
    def forms(self) -> Mapping[str, str]:
        """How each part is given: ``words``, ``file`` or ``record``."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns of a record that are read."""

    @property
    def source_options(self) -> Mapping[str, Any]:
        """Of the run's source, whose columns a table may have."""

    @property
    def reads_words(self) -> bool:
        """Whether words on pictures are read."""

    @property
    def identity(self) -> Any:
        """JSON-able: another wherever decisions may be others."""

    @property
    def binary(self) -> bool:
        """Whether labels are 0 and 1."""

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[DecisionLike | BifocalError]:
        """A decision or an error for each row."""


def score_file(
    system: Decider,
    rows: Path,
    output: Path,
    *,
    batch_size: int = 32,
    raw: bool = False,
    images: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Decide on every row of a table.

    Finished rows go, flushed batch by batch, to ``.<output>.partial.jsonl``; a second call with the same input and the
    same models goes on after them, and the output appears under its name once all rows are in it.

    Parameters
    ----------
    system : System, or a service behind `bifocal.client.Remote`
    rows : Path
        CSV, TSV, JSON lines, JSON or Parquet, read by the options of the run's source (``delimiter``, ``encoding``,
        ``quotes``, ``missing``) where they fit, with the columns that the source names for id, text and image (so that
        the very table it was trained on can be scored), or else ``id`` (default: the row's number), ``text`` and
        ``image_path`` (or ``img``, ``image``); and those that the run's tabular expert reads, or in JSON an object
        ``tabular`` of them; whichever there are. Several text columns are joined by a line break, as in training.
        Pictures are looked up as in training: in ``images``, or beside the table; paths that lead out are refused. A
        service is told ``subject`` (the author) and ``external_id`` (the post; default: the id that the table gives),
        too. Other columns are not read.
    images : Path, optional
        The folder, .tar or .zip in which pictures are looked up; by default as `Posts` says.
    output : Path
        ``.csv``, ``.jsonl`` or ``.parquet``: ``id``, the decision's fields (a service's own id as ``decision_id``), and
        ``error`` for rows that had none.
    raw : bool
        Of CSV: write words as they are, also such as a spreadsheet runs; else they are `guarded`, which ``bifocal
        unguard`` and Bifocal's own readers undo.
    force : bool
        Overwrite an output that is there and no table of decisions.
    note : callable, optional
        Is told, before the first batch is decided, of a modality or column of the run that the table has not.

    Returns
    -------
    dict
        ``rows``, ``decided``, ``failed``, ``resumed``, ``output``; ``unread``: columns that were not read; ``without``:
        modalities of the run for which no row had a column; ``missing``: columns of the record that no row had;
        ``reasons``: the commonest errors, and how often each occurred.

    Raises
    ------
    DataError
        Where a format is unknown, the input is missing, it has none of the columns, or the output would overwrite it.
    RunError
        Where another process writes the same output, or what is there is no table of decisions.
    """
    partial = output.with_name(f".{output.name}.partial.jsonl")
    _check_places(rows, output, partial)
    check_replaceable(output, _is_ours, force=force)
    output.parent.mkdir(parents=True, exist_ok=True)
    stamp = Files(rows.resolve().parent).stamp([rows.resolve().name])
    key = fingerprint(str(rows.resolve()), stamp, str(images), system.identity)
    posts = Posts(system.reads, system.columns, system.source_options, images, system.forms)
    with disk_errors(partial), _held(partial, output) as sink:
        remove_leftovers(output.parent, output.name)
        resumed = done = _resume(partial, key, batch_size)
        try:
            for batch in _batches(islice(posts.read(rows), resumed, None), batch_size):
                if note and done == resumed and (text := _lacking(system, posts)):
                    note(text)
                sink.writelines(_lines(system, batch))
                sink.flush()
                done += len(batch)
                if progress:
                    progress(done, None)
            reasons = _finish(system, partial, output, raw)
        except BaseException:
            if not done:  # nothing to go on after
                partial.unlink(missing_ok=True)
            raise
        partial.unlink()
    if note:
        for text in posts.notes:
            note(text)
    failed = reasons.total()
    return {
        "rows": done,
        "decided": done - failed,
        "failed": failed,
        "resumed": resumed,
        "output": str(output),
        "unread": posts.unread,
        "without": _without(system, posts),
        "missing": _missing(system, posts),
        "reasons": dict(reasons.most_common(REASONS_KEPT)),
    }


def _check_places(rows: Path, output: Path, partial: Path) -> None:
    for path, endings in ((rows, SUFFIXES), (output, FORMATS)):
        if path.suffix.lower() not in endings:
            raise DataError(f"{path} should end in one of {', '.join(endings)}")
    if not Files(rows.resolve().parent).has(rows.resolve().name):
        raise DataError(f"there is no input file {str(rows)!r}")
    if rows.exists() and any(path.exists() and path.samefile(rows) for path in (output, partial)):
        raise DataError(f"{output} is the input itself, which would be overwritten: name another output")


def refuse_undecided(counts: Mapping[str, Any]) -> None:
    """Raise `DataError` where nothing, or too little, of a table could be decided on; ``counts`` as of `score_file`."""
    rows, failed = counts["rows"], counts["failed"]
    if not rows:
        raise DataError(f"nothing could be decided: the table has no rows (see {counts['output']})")
    if failed > MANY_FAILED * rows:
        commonest = "; ".join(f"{n:,} x {reason}" for reason, n in islice(counts["reasons"].items(), 3))
        many = "nothing could be decided" if failed == rows else f"over {MANY_FAILED:.0%} could not be decided"
        raise DataError(
            f"{many}: {failed:,} of {rows:,} rows have an error and no decision ({commonest}); see the column `error` "
            f"of {counts['output']}"
        )


def _is_ours(path: Path) -> bool:
    """Whether a file is a table of decisions: ``id`` first, and a column or field ``error``."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as parquet

        names = list(parquet.read_schema(path).names)
    else:
        with path.open(encoding="utf-8", newline="") as file:
            names = list(json.loads(file.readline())) if path.suffix.lower() == ".jsonl" else next(csv.reader(file))
    return names[:1] == ["id"] and names[-1] == "error"


@contextmanager
def _held(partial: Path, output: Path) -> Iterator[IO[str]]:
    """The partial file, for this process alone until the block ends."""
    with open(partial, "a", encoding="utf-8") as sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(sink.fileno()), partial.stat())  # its last owner may have ended meanwhile
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise RunError(f"{output} is being written by another process: wait, or name another output")
        yield sink


def _without(system: Decider, posts: Posts) -> list[str]:
    return [name for name in system.modalities if name not in posts.brought]


def _missing(system: Decider, posts: Posts) -> list[str]:
    """Columns of a record that no row had, where a row had others of them."""
    records = {name for name, form in system.forms.items() if form == "record"}
    return posts.missing if records & posts.brought else []


def _lacking(system: Decider, posts: Posts) -> str | None:
    """What the table lacks of what the run reads, in a sentence; None where it lacks nothing."""
    told = []
    if without := _without(system, posts):
        sought = ", ".join(f"{name} ({listed(posts.names(name))})" for name in without)
        by = [name for name in system.modalities if name in posts.brought]
        if TEXT in without and PICTURE in posts.brought and system.reads_words:
            by.append("the words on pictures")
        told.append(f"no column for {sought}: posts decided by {', '.join(by)} alone")
    if missing := _missing(system, posts):
        told.append(f"no column {listed(missing)} of the record: taken as missing")
    if told and posts.unread:
        told.append(f"not read: {listed(posts.unread)}")
    return "; ".join(told) or None


def _lines(system: Decider, batch: Sequence[tuple[str, Post | DataError]]) -> Iterator[str]:
    """Each row with its decision, or error, in JSON; ASCII, since an id may hold what UTF-8 cannot."""
    decided = iter(system.predict_batch([post for _, post in batch if not isinstance(post, DataError)]))
    for identity, post in batch:
        answer = post if isinstance(post, DataError) else next(decided)
        yield json.dumps(_line(identity, answer)) + "\n"


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := list(islice(rows, size)):
        yield batch


def _line(identity: str, answer: DecisionLike | BifocalError) -> dict[str, Any]:
    if isinstance(answer, BifocalError):
        return {"id": identity, "error": str(answer)}
    told = answer.to_dict()
    decision = {"decision_id": told.pop("id")} if "id" in told else {}
    return {"id": identity, **decision, **told, "error": None}


def _resume(partial: Path, key: str, batch_size: int) -> int:
    """Rows already decided for this very input and these models, in whole batches: in another one, last digits differ.

    The first line of the file holds the key. What a killed process left unfinished is cut off; a file of another key is
    begun anew.
    """
    header = (json.dumps({"key": key}) + "\n").encode()
    with open(partial, "rb+") as f:
        if f.readline() != header:
            f.seek(0)
            f.truncate()
            f.write(header)
            return 0
        rows, size, whole = 0, len(header), len(header)
        for number, line in enumerate(f, 1):
            if not line.endswith(b"\n"):
                break
            size += len(line)
            if number % batch_size == 0:
                rows, whole = number, size
        f.truncate(whole)
    return rows


def _decided(partial: Path) -> Iterator[dict[str, Any]]:
    """The rows of the partial file, without its header."""
    return islice(read_jsonl(partial), 1, None)


def _finish(system: Decider, partial: Path, output: Path, raw: bool) -> Counter[str]:
    """Write the partial file in the format asked for; gives the errors, each without what differs from row to row."""
    reasons: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for row in _decided(partial):
            if row["error"] is not None:
                reasons[without_details(row["error"])] += 1
            yield row

    if output.suffix.lower() == ".jsonl":
        with atomic(output) as f:
            f.writelines(json.dumps(row) + "\n" for row in rows())
    elif output.suffix.lower() == ".csv":
        with atomic(output) as f:
            writer, columns, cell = csv.writer(f), _columns(partial), cells(raw)
            writer.writerow(map(cell, columns))
            writer.writerows([cell(flat.get(column, "")) for column in columns] for flat in map(_flat, rows()))
    else:
        _write_parquet(output, _columns(partial), rows(), system.binary)
    return reasons


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One level only: ``models.text_expert.prob`` and the like become columns; a label that is not asked has none."""
    result: dict[str, Any] = {}
    if isinstance(row.get("labels"), dict):
        row = {**row, "labels": {label: answer for label, answer in row["labels"].items() if answer is not None}}
    for key, value in row.items():
        if isinstance(value, dict):
            result.update({f"{key}.{inner}": v for inner, v in _flat(value).items()})
        else:
            result[key] = value
    return result


def _columns(partial: Path) -> dict[str, bool]:
    """All columns in order of appearance, so that a first failed row does not hide the others' columns.

    And whether each holds 0 and 1 alone, as that of a binary label does.
    """
    columns: dict[str, bool] = {}
    for row in _decided(partial):
        for column, value in _flat(row).items():
            columns[column] = columns.get(column, True) and isinstance(value, int) and value in (0, 1)
    columns.pop("error", None)
    return {**columns, "error": False}


def _write_parquet(output: Path, columns: Mapping[str, bool], rows: Iterator[dict[str, Any]], binary: bool) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    def kind(column: str) -> Any:
        tail = column.rpartition(".")[2]
        of_label = column.startswith("labels.")
        if tail.startswith("prob") or column == "threshold" or (of_label and tail == "threshold"):
            return pyarrow.float64()
        if tail == "label" and (columns[column] if of_label else binary):
            return pyarrow.int64()
        return pyarrow.bool_() if column.startswith("present.") else pyarrow.string()

    schema = pyarrow.schema([(column, kind(column)) for column in columns])
    strings = {f.name for f in schema if f.type == pyarrow.string()}
    with atomic(output, "wb") as f, parquet.ParquetWriter(f, schema) as writer:
        for batch in _batches(rows, 1024):
            table = []
            for row in map(_flat, batch):
                table.append({c: str(v) if c in strings and v is not None else v for c, v in row.items()})
            writer.write_table(pyarrow.Table.from_pylist(table, schema=schema))
