"""Every pool does every unit, and what comes out is the same whoever did it, in whatever order, and however often."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from tests.contracts.pool_workers import Squares

from bifocal.errors import DataError, RunError
from bifocal.scale import local
from bifocal.scale.local import LocalPool
from bifocal.scale.pool import TRIES, Receipt, Unit, carry_out, receipts


class Unreliable:
    """Takes all units at once, does them backwards, loses every third the first time, and tells of each twice."""

    def __init__(self, loses=3):
        self.asked, self.loses = 0, loses

    def map(self, make_worker, units, folder):
        self.asked += 1
        worker = make_worker(1)
        for number, unit in reversed(list(enumerate(units))):
            if number % self.loses or (self.asked > 1 and self.loses > 1):
                carry_out(unit, worker, folder)
                yield carry_out(unit, make_worker(1), folder)
                yield carry_out(unit, worker, folder)


POOLS = {"one": lambda: LocalPool(1), "two": lambda: LocalPool(2), "unreliable": Unreliable}


@pytest.fixture(params=POOLS)
def pool(request):
    return POOLS[request.param]()


def units(n=7, key=""):
    return [Unit(f"part-{i:05d}", {"number": i, "numbers": [i, None, i + 1]}, key) for i in range(n)]


def done(folder):
    """Who was asked for what: number -> how often."""
    numbers = [int(path.name.partition("-")[0]) for path in (folder / "notes").glob("[0-9]*")]
    return {n: numbers.count(n) for n in sorted(set(numbers))}


def work(pool, folder, given=None, **worker):
    return list(
        receipts(pool, Squares(folder / "notes", **worker), units() if given is None else given, folder / "out")
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


def test_every_unit_ends_in_one_file_and_its_receipt_comes_once_in_order(pool, tmp_path):
    found = work(pool, tmp_path)
    assert [receipt.name for receipt in found] == [unit.name for unit in units()]
    for i, receipt in enumerate(found):
        blob = (tmp_path / "out" / receipt.name).read_bytes()
        assert blob == f"{i * i}\n{(i + 1) ** 2}\n".encode()
        digest = units()[i].digest
        assert receipt == Receipt(receipt.name, 2, 1, hashlib.sha256(blob).hexdigest(), len(blob), digest)
    assert set(contents(tmp_path)) == {f"{r.name}{end}" for r in found for end in ("", ".receipt")}


def test_the_files_and_receipts_are_the_same_to_the_byte_in_every_pool(pool, tmp_path):
    work(pool, tmp_path)
    work(LocalPool(1), tmp_path / "other")
    assert contents(tmp_path) == contents(tmp_path / "other")


def test_no_units_are_no_work(pool, tmp_path):
    assert work(pool, tmp_path, []) == [] and done(tmp_path) == {}


def test_what_is_finished_is_not_done_again_but_for_another_key_or_a_file_that_is_gone_or_cut(pool, tmp_path):
    first = work(pool, tmp_path)
    once = done(tmp_path)
    assert work(pool, tmp_path) == first and done(tmp_path) == once
    (tmp_path / "out" / "part-00002").write_bytes(b"")
    (tmp_path / "out" / "part-00003").unlink()
    (tmp_path / "out" / "part-00004.receipt").write_text("{}")
    assert work(pool, tmp_path) == first
    assert {n for n in once if done(tmp_path)[n] > once[n]} == {2, 3, 4}
    assert work(pool, tmp_path, units(key="other")) != first
    assert all(done(tmp_path)[n] > once[n] for n in once)


def test_units_are_taken_as_they_are_wanted(tmp_path):
    made = []

    def endless():
        for number in range(10**6):
            made.append(number)
            yield Unit(f"part-{number:05d}", {"number": number, "numbers": []})

    for pool in (LocalPool(1), LocalPool(2)):
        list(islice(receipts(pool, Squares(tmp_path / "notes"), endless(), tmp_path / str(pool.workers)), 5))
    assert len(made) < 60


def test_an_error_of_a_units_own_is_no_lost_worker_and_leaves_no_file(pool, tmp_path):
    with pytest.raises(DataError, match="unit 5 cannot be squared"):
        work(pool, tmp_path, fails_at=5)
    assert done(tmp_path)[5] == 1 and "part-00005" not in contents(tmp_path)


@pytest.mark.parametrize("dies_at", [(0,), (1, 4), tuple(range(7))], ids=str)
def test_a_unit_whose_worker_is_killed_goes_to_another(tmp_path, dies_at):
    work(LocalPool(1), tmp_path / "other")
    work(LocalPool(2), tmp_path, dies_at=dies_at)
    assert contents(tmp_path) == contents(tmp_path / "other")
    assert done(tmp_path) == {n: 1 + (n in dies_at) for n in range(7)}


def test_a_unit_that_ends_every_worker_is_named_and_the_rest_is_kept(tmp_path):
    with pytest.raises(RunError, match=r"workers ended.*part-00003 .*fewer workers.*run the same command again"):
        work(LocalPool(2), tmp_path, dies_always_at=3)
    assert done(tmp_path)[3] == TRIES
    before = done(tmp_path)
    work(LocalPool(2), tmp_path)
    assert done(tmp_path)[3] == TRIES + 1 and done(tmp_path)[0] == before[0]


def test_a_pool_that_never_does_a_unit_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RunError, match="part-00000"):
        work(Unreliable(loses=1), tmp_path)


def test_workers_are_told_how_many_threads_they_have(tmp_path):
    work(LocalPool(2, threads=3), tmp_path)
    assert {path.read_text() for path in (tmp_path / "notes").iterdir()} == {"3"}


def script_with(tmp_path, worker):
    """What comes of a script that starts workers without asking whether it is the one that was called."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.contracts.test_pools import LocalPool, Path, Squares, receipts, units\n"
        f"place = Path({str(tmp_path)!r})\n{worker}\n"
        "list(receipts(LocalPool(2), Worker(place / 'notes'), units(), place / 'out'))\n"
    )
    return subprocess.run([sys.executable, script], capture_output=True, text=True)


def test_a_script_needs_no_guard_unless_the_worker_is_its_own(tmp_path):
    found = script_with(tmp_path, "Worker = Squares")
    assert not found.returncode, found.stderr
    assert set(done(tmp_path)) == set(range(7))
    (tmp_path / "other").mkdir()
    found = script_with(tmp_path / "other", "class Worker(Squares): pass")
    assert found.returncode and "if __name__ == '__main__':" in found.stderr.splitlines()[-1]


def processes_of(group):
    """Those of a process group that are not dead."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_driver_that_is_ended_leaves_no_process_and_the_same_command_goes_on(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.contracts.test_pools import LocalPool, Path, units, work\n"
        f"if __name__ == '__main__':\n    work(LocalPool(2), Path({str(tmp_path)!r}), units(40), seconds=0.3)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, script],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # in the background it is ignored
    )
    until = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("part-*.receipt"))) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(driver.pid, number)
    driver.wait(20)
    while processes_of(driver.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_of(driver.pid) == []
    finished = [int(path.name[5:10]) for path in (tmp_path / "out").glob("*.receipt")]
    before = done(tmp_path)
    assert 3 <= len(finished) < 40
    work(LocalPool(2), tmp_path, units(40))
    work(LocalPool(1), tmp_path / "other", units(40))
    assert contents(tmp_path) == contents(tmp_path / "other")
    assert all(done(tmp_path)[n] == before[n] for n in finished)


def in_a_daemon(folder):
    work(LocalPool(2), folder)


def test_a_daemon_which_may_start_no_processes_does_the_units_itself(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=in_a_daemon, args=(tmp_path,), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0 and set(done(tmp_path)) == set(range(7))


def test_no_more_processes_are_started_than_there_are_units(tmp_path, monkeypatch):
    started = []
    start = local._Process.__init__
    monkeypatch.setattr(local._Process, "__init__", lambda self, *given: (started.append(1), start(self, *given))[1])
    work(LocalPool(12), tmp_path, units(2))
    assert len(started) == 2


def test_where_there_is_room_for_one_process_alone_it_does_all(tmp_path):
    work(LocalPool(3), tmp_path, room=1)
    assert set(done(tmp_path)) == set(range(7))
