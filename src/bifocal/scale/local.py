"""The pool of this machine: processes that are started anew, or the calling one where there is nothing to share."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

from ..errors import RunError
from .pool import TRIES, MakeWorker, Receipt, Unit, Worker, carry_out, lost

MOST = 8
"""Processes that are started unless more are asked for."""
_AHEAD = 2  # units that a process has at once: it need not wait for the next while the caller is busy
_SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang


def cores() -> int:
    """How many cores this process may use, `MOST` at most: each worker holds memory of its own."""
    return min(MOST, len(os.sched_getaffinity(0)))


class LocalPool:
    """Units over processes of this machine; one alone, or a single unit, is done in the process that calls.

    Parameters
    ----------
    workers : int, optional
        Processes. None = the cores at hand.
    threads : int, optional
        Of each worker. None = the cores at hand, which processes share evenly.
    """

    def __init__(self, workers: int | None = None, threads: int | None = None):
        self.workers = workers or cores()
        self.threads = threads

    def map(self, make_worker: MakeWorker, units: Iterable[Unit], folder: Path) -> Iterator[Receipt]:
        """As `Pool.map`."""
        units = iter(units)
        first = list(islice(units, self.workers))
        if len(first) < 2 or multiprocessing.current_process().daemon:  # which may start no processes
            worker: Worker | None = None
            for unit in chain(first, units):
                worker = worker or make_worker(self.threads or cores())
                yield carry_out(unit, worker, folder)
            return
        threads = self.threads or max(1, cores() // self.workers)
        with _Processes(len(first), make_worker, folder, threads) as processes:
            yield from processes.done(chain(first, units))


class _Process:
    """A worker process, and the units that it was given, the one that it is at first."""

    def __init__(self, made: bytes, folder: Path, threads: int):
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, made, folder, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False
        self.units: deque[Unit] = deque()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Processes:
    """As many processes as were asked for, each with a pipe of its own: one that ends takes no other down with it."""

    def __init__(self, count: int, make_worker: MakeWorker, folder: Path, threads: int):
        self._count = count
        self._arguments = pickle.dumps(make_worker), folder, threads
        self._processes: dict[Connection, _Process] = {}
        self._again: deque[Unit] = deque()
        self._losses: dict[str, int] = {}
        self._failed_starts = 0

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.process.kill()
        for process in self._processes.values():
            process.end()

    def done(self, units: Iterator[Unit]) -> Iterator[Receipt]:
        while True:
            left = self._hand_out(units)
            if not left and not any(process.units for process in self._processes.values()):
                return
            for pipe in wait(list(self._processes)):
                assert isinstance(pipe, Connection)
                if receipt := self._heard(self._processes[pipe]):
                    yield receipt

    def _hand_out(self, units: Iterator[Unit]) -> bool:
        """Keep every process busy, and start those that lack; gives whether a unit may be left."""
        for depth in range(_AHEAD):
            for process in self._processes.values():
                if not process.ready or len(process.units) > depth:
                    continue
                if (unit := self._again.popleft() if self._again else next(units, None)) is None:
                    return False
                process.units.append(unit)
                with suppress(OSError):  # it has just ended, which `wait` tells
                    process.pipe.send(unit)
            if sum(process.ready for process in self._processes.values()) < self._count:
                break  # a first unit for each, before anybody gets a second
        while len(self._processes) < self._count:
            try:
                with begun_in_peace(), _without_main(self._arguments[0]):
                    process = _Process(*self._arguments)
            except (OSError, NotImplementedError) as error:
                raise RunError(f"no worker process can be started ({error}): use one worker") from error
            self._processes[process.pipe] = process
        return True

    def _heard(self, process: _Process) -> Receipt | None:
        """What a process has to say; one that can say nothing more gives back its units."""
        try:
            said: Receipt | BaseException | None = process.pipe.recv()
        except (EOFError, OSError):
            self._gone(process)
            return None
        if isinstance(said, BaseException):
            raise said
        if said is None:
            process.ready = True
            self._failed_starts = 0
        else:
            process.units.popleft()
        return said

    def _gone(self, process: _Process) -> None:
        del self._processes[process.pipe]
        process.end()
        if process.units:
            unit = process.units[0]
            self._losses[unit.name] = self._losses.get(unit.name, 0) + 1
            if self._losses[unit.name] == TRIES:
                raise lost(unit)
        self._again.extend(process.units)
        self._failed_starts += not process.ready
        if self._failed_starts >= TRIES and any(other.ready for other in self._processes.values()):
            self._count, self._failed_starts = len(self._processes), 0  # those that there is room for have to do
        elif self._failed_starts == TRIES * self._count:
            raise RunError(
                "the worker processes end as soon as they start (out of memory? a script that starts work needs "
                "`if __name__ == '__main__':` around it): see to it, or use one worker"
            )


def _work(pipe: Connection, made: bytes, folder: Path, threads: int) -> None:
    """The life of a worker process: do the units that come, and say what became of each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then ends its processes
    threading.Thread(target=end_with_parent, daemon=True).start()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read as they are imported
        os.environ[variable] = str(threads)
    try:
        make_worker: MakeWorker = pickle.loads(made)  # from the process that started this one
        worker = make_worker(threads)
        pipe.send(None)
        while True:
            pipe.send(carry_out(pipe.recv(), worker, folder))
    except EOFError:
        return
    except BaseException as error:
        pipe.send(_portable(error))


def _portable(error: BaseException) -> BaseException:
    """An error as it can be sent: by its name, where it cannot be made again elsewhere."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def begun_in_peace() -> Iterator[None]:
    """Put Ctrl-C off while processes start: they inherit that it is blocked, and one half started would complain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGALRM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if asked:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _without_main(made: bytes) -> Iterator[None]:
    """Start processes that do not run the caller's script once more, where nothing of it is sent to them.

    A script then needs no ``if __name__ == "__main__":``, and what it imports is not imported by each process.
    """
    main = sys.modules["__main__"]
    try:
        if b"__main__" not in made:
            sys.modules["__main__"] = ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = main


def end_with_parent() -> None:
    """End this process with its parent: one that is killed cannot end its pool, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
