"""What a pool of workers is asked for: units of work, each of which one worker does alone and which end in one file.

Whoever has more to do than one core should do cuts it into units at places that do not depend on how many workers
there are, and puts the files together in order: the bytes that come out are then the same for any pool.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import RunError
from ..workspace import atomic, file_sha256, remove_leftovers, write_json

TRIES = 3
"""How often a unit is begun, where workers are lost over it, until it is given up."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work, as it is sent to a worker: a few hundred bytes; what is larger lies in files that it names."""

    name: str
    """Of the file that it ends in, in the folder of all of them."""
    task: Mapping[str, Any]
    """JSON-able: what the worker needs to know."""
    key: str = ""
    """Changes with all else that the file depends on: settings, versions, the content of what is read."""

    @property
    def digest(self) -> str:
        """Changes with the task and the key."""
        return hashlib.sha256(json.dumps([self.key, self.task], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a unit; written beside its file, after it."""

    name: str
    rows: int
    rejected: int
    """Rows that could not be used, and are not among ``rows``."""
    sha256: str
    """Of the file."""
    size: int
    """Of the file, in bytes."""
    unit: str
    """`Unit.digest` of the unit that it is of."""


class Worker(Protocol):
    """Does one unit after another, in a process of its own or in that of the caller."""

    def __call__(self, task: Mapping[str, Any], file: IO[bytes]) -> tuple[int, int]:
        """Write a unit's file, from its task alone; gives the rows in it and those rejected."""


MakeWorker = Callable[[int], Worker]
"""Makes a worker that uses so many threads, which it hands on to torch, onnxruntime and numpy; can be pickled."""


class Pool(Protocol):
    """Workers that units are spread over: processes of this machine, or of many."""

    def map(self, make_worker: MakeWorker, units: Iterable[Unit], folder: Path) -> Iterator[Receipt]:
        """Have every unit done into the folder, by `carry_out`; receipts come in any order, as units are done.

        Units are taken as workers get free, so that they may be made while others are worked on. A unit whose worker
        is lost goes to another, `TRIES` times.

        Raises
        ------
        RunError
            Where a unit's workers were all lost, or none can be started.
        Exception
            What a worker raises: that is no lost worker.
        """


def is_portable(make_worker: MakeWorker) -> bool:
    """Whether other processes can be given it; a plug-in may hold what they cannot, such as a connection."""
    try:
        pickle.dumps(make_worker)
    except Exception:  # whatever its parts raise
        return False
    return True


def receipts(pool: Pool, make_worker: MakeWorker, units: Iterable[Unit], folder: Path) -> Iterator[Receipt]:
    """The receipt of every unit once, in the order of the units; what an earlier call finished is not done again.

    Raises
    ------
    RunError
        As `Pool.map`; where a pool gives no receipt of a unit, however often it is asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    waiting: dict[str, tuple[Unit, Receipt | None]] = {}

    def unfinished() -> Iterator[Unit]:
        for unit in units:
            receipt = finished(unit, folder)
            waiting[unit.name] = unit, receipt
            if receipt is None:
                yield unit

    def next_in_order() -> Iterator[Receipt]:
        while waiting and (first := next(iter(waiting.values()))[1]):
            del waiting[first.name]
            yield first

    asked: Iterable[Unit] = unfinished()
    for _ in range(TRIES):
        for receipt in pool.map(make_worker, asked, folder):
            if receipt.name in waiting:  # else a unit that was done twice
                waiting[receipt.name] = waiting[receipt.name][0], receipt
            yield from next_in_order()
        yield from next_in_order()
        if not (asked := [unit for unit, receipt in waiting.values() if receipt is None]):
            remove_leftovers(folder)  # of workers that were lost
            return
    raise RunError(
        f"no worker has done {next(iter(waiting))} (and {len(waiting) - 1} more): run the same command again"
    )


def forget(unit: Unit, folder: Path) -> None:
    """Have a unit done again, as what it was made of is no longer what it was."""
    _receipt(folder / unit.name).unlink(missing_ok=True)


def finished(unit: Unit, folder: Path) -> Receipt | None:
    """The receipt of a unit that was done before, from the same task and key."""
    path = folder / unit.name
    try:
        receipt = Receipt(**json.loads(_receipt(path).read_text(encoding="utf-8")))
        if receipt.unit == unit.digest and path.stat().st_size == receipt.size:
            return receipt
    except (OSError, ValueError, TypeError):  # there is none, or none of this version
        pass
    return None


def carry_out(unit: Unit, worker: Worker, folder: Path) -> Receipt:
    """Do a unit: its file appears whole under its name, then the receipt beside it; or give that of one who did."""
    if receipt := finished(unit, folder):  # by a worker that was lost before it could say so
        return receipt
    path = folder / unit.name
    _receipt(path).unlink(missing_ok=True)  # of what lies there now
    with atomic(path, "wb") as file:
        rows, rejected = worker(unit.task, file)
    receipt = Receipt(unit.name, rows, rejected, file_sha256(path), path.stat().st_size, unit.digest)
    write_json(_receipt(path), asdict(receipt))
    return receipt


def lost(unit: Unit) -> RunError:
    """The error of a unit over which one worker after another was lost."""
    return RunError(
        f"{TRIES} workers ended, one after another, while they made {unit.name} (out of memory?); what is done "
        "is kept: see to the memory, or use fewer workers, and run the same command again"
    )


def _receipt(path: Path) -> Path:
    return path.with_name(f"{path.name}.receipt")
