"""Batch scoring: a table of posts in, a table of Decisions out; streams, resumes, and loses no row."""

from __future__ import annotations

import csv
import fcntl
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import BifocalError, DataError, RunError
from .example import Rejected
from .sources._files import Files
from .sources._tables import read_rows
from .workspace import atomic, fingerprint, read_jsonl, room, sweep

if TYPE_CHECKING:
    from .system import Decision, System

FORMATS = (".csv", ".jsonl", ".parquet")
Row = TypeVar("Row")


def score_file(
    system: System,
    rows: Path,
    output: Path,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Decide on every row of a table.

    Finished rows go, flushed batch by batch, to ``.<output>.partial.jsonl``; a second call with the same input and the
    same models goes on after them, and the output appears under its name once all rows are in it.

    Parameters
    ----------
    system : System
    rows : Path
        CSV, JSONL or Parquet with the columns ``text``, ``image_path`` (or ``img``; relative to the file) and those
        that the run's tabular expert reads, whichever there are, and optionally ``id`` (default: the row's number).
        Other columns are not read.
    output : Path
        ``.csv``, ``.jsonl`` or ``.parquet``: ``id``, the decision's fields, and ``error`` for rows that had none.

    Returns
    -------
    dict
        ``rows``, ``decided``, ``failed``, ``resumed``, ``output``.

    Raises
    ------
    DataError
        Where a format is unknown, the input is missing, or it has none of the columns.
    RunError
        Where another process writes the same output.
    """
    for path in (rows, output):
        if path.suffix.lower() not in FORMATS:
            raise DataError(f"{path} should end in one of {', '.join(FORMATS)}")
    if not rows.is_file():
        raise DataError(f"there is no input file {str(rows)!r}")
    partial = output.with_name(f".{output.name}.partial.jsonl")
    output.parent.mkdir(parents=True, exist_ok=True)
    status = rows.stat()
    key = fingerprint(str(rows.resolve()), status.st_size, status.st_mtime_ns, system.policy.model_dump(mode="json"))
    sweep(output.parent, output.name)
    with room(partial), open(partial, "a", encoding="utf-8") as sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{output} is being written by another process: wait, or name another output") from None
        resumed = done = _resume(partial, key, batch_size)
        for batch in _batches(islice(_posts(rows, system.columns), resumed, None), batch_size):
            answers = _answers(system, [post for _, post in batch])
            for (identity, _), answer in zip(batch, answers, strict=True):
                sink.write(json.dumps(_line(identity, answer)) + "\n")  # ASCII: an id may hold what UTF-8 cannot
            sink.flush()
            done += len(batch)
            if progress:
                progress(done, None)
    failed = _finish(system, partial, output)
    partial.unlink()
    return {"rows": done, "decided": done - failed, "failed": failed, "resumed": resumed, "output": str(output)}


def _posts(path: Path, columns: Collection[str]) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """``(id, row for predict_batch)`` for every row of the input; a row that cannot be read is its error."""
    for number, row in enumerate(_rows(path)):
        if isinstance(row, DataError):
            yield str(number), row
            continue
        image = row.get("image_path") or row.get("img")
        text = row.get("text")
        record = {column: row[column] for column in row if column in columns}
        if number == 0 and not {"text", "image_path", "img"} & set(row) and not record:
            needed = ", ".join(["text", "image_path", *sorted(columns)])
            raise DataError(f"{path} has the columns {', '.join(row)}; at least one of {needed} is needed")
        yield (
            str(row.get("id") if row.get("id") not in (None, "") else number),
            {
                "text": text or None,
                "image_path": path.parent / image if isinstance(image, str) else image,
                "tabular": record or None,
            },
        )


def _rows(path: Path) -> Iterator[dict[str, Any] | DataError]:
    path = path.resolve()  # a link may lead to the table, and its pictures still lie beside the link
    for where, row in read_rows(Files(path.parent), path.name):
        yield DataError(f"{where}: {row.reason}") if isinstance(row, Rejected) else row


def _answers(system: System, posts: Sequence[dict[str, Any] | DataError]) -> list[Decision | BifocalError]:
    """The answer to each post, in order; an unreadable one answers with its error."""
    decided = iter(system.predict_batch([post for post in posts if not isinstance(post, DataError)]))
    return [post if isinstance(post, DataError) else next(decided) for post in posts]


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := list(islice(rows, size)):
        yield batch


def _line(identity: str, answer: Decision | BifocalError) -> dict[str, Any]:
    if isinstance(answer, BifocalError):
        return {"id": identity, "error": str(answer)}
    return {"id": identity, **answer.to_dict(), "error": None}


def _resume(partial: Path, key: str, batch_size: int) -> int:
    """Rows already decided for this very input and these models, in whole batches: in another one, last digits differ.

    The first line of the file holds the key. What a killed process left unfinished is cut off; a file of another key is
    begun anew.
    """
    header = (json.dumps({"key": key}) + "\n").encode()
    if not partial.exists() or not _starts_with(partial, header):
        partial.write_bytes(header)
        return 0
    with open(partial, "rb+") as f:
        rows = size = whole = 0
        for number, line in enumerate(f):
            if not line.endswith(b"\n"):
                break
            size += len(line)
            if number % batch_size == 0:
                rows, whole = number, size
        f.truncate(whole)
    return rows


def _starts_with(path: Path, header: bytes) -> bool:
    with open(path, "rb") as f:
        return f.read(len(header)) == header


def _decided(partial: Path) -> Iterator[dict[str, Any]]:
    """The rows of the partial file, without its header."""
    return islice(read_jsonl(partial), 1, None)


def _finish(system: System, partial: Path, output: Path) -> int:
    """Write the partial file in the format asked for; gives the number of failed rows."""
    failed = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for row in _decided(partial):
            failed += row["error"] is not None
            yield row

    if output.suffix.lower() == ".jsonl":
        with atomic(output) as f:
            f.writelines(json.dumps(row) + "\n" for row in rows())
    elif output.suffix.lower() == ".csv":
        with atomic(output) as f:
            writer = csv.DictWriter(f, _columns(partial), restval="")
            writer.writeheader()
            writer.writerows(_flat(row) for row in rows())
    else:
        _write_parquet(output, _columns(partial), rows(), system.label.binary)
    return failed


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One level only: ``models.text_expert.prob`` and the like become columns."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            result.update({f"{key}.{inner}": v for inner, v in _flat(value).items()})
        else:
            result[key] = value
    return result


def _columns(partial: Path) -> list[str]:
    """All columns in order of appearance, so that a first failed row does not hide the others' columns."""
    columns: dict[str, None] = {}
    for row in _decided(partial):
        columns.update(dict.fromkeys(_flat(row)))
    columns.pop("error", None)
    return [*columns, "error"]


def _write_parquet(output: Path, columns: list[str], rows: Iterator[dict[str, Any]], binary: bool) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    def kind(column: str) -> Any:
        tail = column.rpartition(".")[2]
        if tail.startswith("prob") or column == "threshold":
            return pyarrow.float64()
        if tail == "label" and binary:
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
