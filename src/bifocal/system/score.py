"""Batch scoring: a table of posts in, a table of Decisions out; streams, resumes, and loses no row."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError, RunError, listed
from ..files.folders import Files
from ..files.post_table import Posts
from ..files.tables import SUFFIXES
from ..modalities import PICTURE, TEXT
from ..scale.local import LocalPool, cores
from ..scale.pool import Unit, finished, receipts
from ..spreadsheet import cells
from ..workspace import atomic, check_replaceable, disk_errors, fingerprint, read_jsonl, remove_leftovers
from .score_units import Decider, Scoring, flat, posts_of, read_facts, units

FORMATS = (".csv", ".jsonl", ".parquet")
"""Endings of the output."""
MANY_FAILED = 0.05
"""A larger share of rows without a decision means that it is the table that is wrong, or how it is read."""
REASONS_KEPT = 5
Row = TypeVar("Row")


LARGE = 20_000
"""Rows from which on a table is worth more processes than one, each of which loads the models for some seconds."""


def score_file(
    system: Decider,
    rows: Path,
    output: Path,
    *,
    batch_size: int = 32,
    workers: int | None = 1,
    raw: bool = False,
    images: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Decide on every row of a table.

    Rows are decided on in units of some batches, each of which ends in a file in ``.<output>.parts/``; a second call
    with the same input, models and batches does what is not finished, and the output appears under its name once all
    rows are in it. Rows of a finished unit keep their errors: remove that folder to have pictures that came since read.
    The output is the same for any number of workers, but for last digits of neural encoders, which may round otherwise
    in another number of threads.

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
    workers : int, optional
        Processes, which share the cores; one is that of the caller. None = one for tables of under `LARGE` rows, else
        as many as there are cores. A service is asked by one.
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
    parts = output.with_name(f".{output.name}.parts")
    _check_places(rows, output)
    check_replaceable(output, _is_ours, force=force)
    output.parent.mkdir(parents=True, exist_ok=True)
    stamp = Files(rows.resolve().parent).stamp([rows.resolve().name])
    key = fingerprint(str(rows.resolve()), stamp, str(images), system.identity, batch_size)
    posts = posts_of(system, images)
    done = resumed = failed = 0
    with disk_errors(parts), _held(parts, output):
        remove_leftovers(output.parent, output.name)
        try:
            for _ in islice(posts.read(rows), batch_size):  # refuses a table with nothing to read
                pass
            if note and (text := _lacking(system, posts)):
                note(text)
            work = list[Path]()

            def asked() -> Iterator[Unit]:
                nonlocal resumed
                for unit in units(system, posts, rows, batch_size, key):
                    if (receipt := finished(unit, parts)) is not None:
                        resumed += receipt.rows + receipt.rejected
                    work.append(parts / unit.name)
                    yield unit

            pool, scoring = _pool(system, posts, rows, images, batch_size, workers)
            for receipt in receipts(pool, scoring, asked(), parts):
                done += receipt.rows + receipt.rejected
                failed += receipt.rejected
                if progress:
                    progress(done, None)
            reasons = _finish(system, posts, work, output, raw)
        except BaseException:
            if not any(parts.glob("*.receipt")):  # nothing to go on after
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts)
    if note:
        for text in posts.notes:
            note(text)
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


def _pool(
    system: Decider, posts: Posts, rows: Path, images: Path | None, batch_size: int, workers: int | None
) -> tuple[LocalPool, Scoring]:
    """The processes that decide, and how each of them comes by the models."""
    if system.loader is None:
        workers = 1
    elif workers is None:
        is_large = any(True for _ in islice(posts.rows(rows), LARGE - 1, None))
        torch = sys.modules.get("torch")  # several processes would put their models onto one GPU
        workers = cores() if is_large and not (torch and torch.cuda.is_available()) else 1
    load = system.loader if system.loader is not None and workers > 1 else lambda: system
    return LocalPool(workers), Scoring(load, system.identity, rows, images, batch_size)


def _check_places(rows: Path, output: Path) -> None:
    for path, endings in ((rows, SUFFIXES), (output, FORMATS)):
        if path.suffix.lower() not in endings:
            raise DataError(f"{path} should end in one of {', '.join(endings)}")
    if not Files(rows.resolve().parent).has(rows.resolve().name):
        raise DataError(f"there is no input file {str(rows)!r}")
    if rows.exists() and output.exists() and output.samefile(rows):
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
def _held(parts: Path, output: Path) -> Iterator[None]:
    """The folder of what is finished, for this process and its workers alone until the block ends."""
    parts.mkdir(exist_ok=True)
    folder = os.open(parts, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(folder), parts.stat())  # its last owner may have ended meanwhile
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise RunError(f"{output} is being written by another process: wait, or name another output")
        yield
    finally:
        os.close(folder)


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


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := list(islice(rows, size)):
        yield batch


def _finish(system: Decider, posts: Posts, work: Sequence[Path], output: Path, raw: bool) -> Counter[str]:
    """Write what the units hold in the format asked for, and tell the posts of their columns; gives the errors."""
    reasons: Counter[str] = Counter()
    columns: dict[str, bool] = {}
    for path in work:
        facts = read_facts(path)
        reasons.update(facts["reasons"])
        posts.add_columns(facts["table"])
        # In order of appearance, so that a first failed row does not hide the others' columns.
        columns.update({name: columns.get(name, True) and binary for name, binary in facts["columns"].items()})
    columns["error"] = False
    rows = (row for path in work for row in islice(read_jsonl(path), 1, None))
    if output.suffix.lower() == ".jsonl":
        with atomic(output, "wb") as f:
            for path in work:
                with path.open("rb") as part:
                    part.readline()  # the facts
                    shutil.copyfileobj(part, f)
    elif output.suffix.lower() == ".csv":
        with atomic(output) as f:
            writer, cell = csv.writer(f), cells(raw)
            writer.writerow(map(cell, columns))
            writer.writerows([cell(row.get(column, "")) for column in columns] for row in map(flat, rows))
    else:
        _write_parquet(output, columns, rows, system.binary)
    return reasons


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
            for row in map(flat, batch):
                table.append({c: str(v) if c in strings and v is not None else v for c, v in row.items()})
            writer.write_table(pyarrow.Table.from_pylist(table, schema=schema))
