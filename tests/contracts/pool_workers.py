"""Workers for the pools that are tested: in a file of their own, which a worker's process imports."""

import json
import os
import signal
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bifocal.errors import DataError
from bifocal.scale.local import LocalPool


class Stops(LocalPool):
    """One worker in this process, which is stopped after some units."""

    def __init__(self, after):
        super().__init__(1)
        self.after = after

    def map(self, make_worker, units, folder):
        yield from islice(super().map(make_worker, units, folder), self.after)
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Squares:
    """Writes the squares of some numbers; notes who was asked for what; ends, or fails, where it is told to."""

    notes: Path
    dies_at: tuple[int, ...] = ()
    """Units in which the process is killed, each of them once."""
    dies_always_at: int | None = None
    fails_at: int | None = None
    seconds: float = 0.0
    room: int | None = None
    """How many processes may load it; others are killed as they do."""

    def __call__(self, threads):
        if self.room is not None:
            self.notes.mkdir(parents=True, exist_ok=True)
            try:
                next(n for n in range(self.room) if not (self.notes / f".{n}").exists() and self._taken(n))
            except StopIteration:
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
        return lambda task, file: self._write(task, file, threads)

    def _taken(self, n):
        try:
            (self.notes / f".{n}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _write(self, task, file, threads):
        number = task["number"]
        self.notes.mkdir(exist_ok=True)
        before = len(list(self.notes.glob(f"{number}-*")))
        (self.notes / f"{number}-{os.getpid()}-{time.monotonic_ns()}").write_text(str(threads))
        file.write(b"begun")
        file.flush()
        if number == self.dies_always_at or (number in self.dies_at and not before):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.fails_at:
            raise DataError(f"unit {number} cannot be squared")
        time.sleep(self.seconds)
        file.seek(0)
        file.truncate()
        rows = [n for n in task["numbers"] if n is not None]
        file.write("".join(json.dumps(n * n) + "\n" for n in rows).encode())
        return len(rows), len(task["numbers"]) - len(rows)
