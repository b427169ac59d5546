"""The log under a kill, a stopped database and a full disk: real signals, a real PostgreSQL, a real small disk."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from bifocal.errors import RunError
from bifocal.serve.log.decision_store import DecisionStore, read_secret
from bifocal.serve.log.records import KeptPost, LogEntry, StoreFull, StoreGone
from bifocal.serve.log.spool import Spool

SECRET = b"s" * 32
ROW = {f.name: None for f in fields(LogEntry)} | {
    "client": "shop", "decision": {}, "action": "review", "pattern": "text", "run": "demo", "policy_version": "v1",
    "source": "model", "audit": False, "weight": 1.0,
}  # fmt: skip


def logged(number, **given):
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number)
    return LogEntry(**{**ROW, "id": f"{number:032x}", "at": at, **given})


@pytest.fixture
def store(url):
    made = DecisionStore(url, secret=SECRET)
    made.migrate()
    yield made
    made.close()


def numbers(store, table, column="decision_id"):
    with store.engine.connect() as connection:
        return sorted(int(one, 16) for one in connection.scalars(sa.text(f"SELECT {column} FROM {table}")))


def assert_whole(store):
    """Every decision has its event and its item; gives their numbers."""
    there = numbers(store, "decisions", "id")
    assert there == numbers(store, "events") == numbers(store, "items")
    return there


# ------------------------------------------------------------------------------------------------ a kill


WRITER = textwrap.dedent(
    f"""
    import sys
    from datetime import UTC, datetime
    from bifocal.serve.log.records import LogEntry
    from bifocal.serve.log.decision_store import DecisionStore
    store = DecisionStore(sys.argv[1], secret={SECRET!r})
    row = {ROW!r} | {{"at": datetime.now(UTC)}}
    for i in range(int(sys.argv[2]), 10**6):
        store.record([LogEntry(**row | {{"id": f"{{n:032x}}"}}) for n in range(3 * i, 3 * i + 3)])
        print(3 * i + 2, flush=True)
    """
)


def test_killed_at_any_moment_what_was_acknowledged_is_there_whole(store, url):
    begin = 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url, str(begin)], stdout=subprocess.PIPE, text=True)
        for _ in range(20):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split("\n")[-2:]
        writer.wait()
        writer.stdout.close()
        deadline = time.monotonic() + 60  # PostgreSQL finds out a little later that its client is dead
        last = int(next((one for one in reversed(said) if one), 3 * begin + 59))
        while len(there := assert_whole(store)) <= last and time.monotonic() < deadline:
            time.sleep(0.05)
        assert there[: last + 1] == list(range(last + 1)) and len(there) in (last + 1, last + 4)
        begin = len(there) // 3


def migrate(url, pipe):
    store = DecisionStore(url, secret=SECRET)
    try:
        store.migrate()
        pipe.send(None)
    except Exception as error:
        pipe.send(repr(error))


def test_services_that_start_at_once_agree_on_the_tables(url):
    context = multiprocessing.get_context("spawn")
    pipes, processes = zip(
        *(
            (here, context.Process(target=migrate, args=(url, there)))
            for here, there in (context.Pipe() for _ in "abc")
        ),
        strict=True,
    )
    for process in processes:
        process.start()
    assert [pipe.recv() for pipe in pipes] == [None] * 3
    for process in processes:
        process.join()
    store = DecisionStore(url, secret=SECRET)
    store.record([logged(1)])
    assert assert_whole(store) == [1]


def test_tables_of_a_newer_version_are_refused(store):
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RunError, match="tables of another version of Bifocal .*update Bifocal"):
        store.migrate()


# ------------------------------------------------------------------------------------------------ a database away


def test_while_postgresql_is_away_decisions_are_spooled_and_come_home_once(cluster, tmp_path):
    store = DecisionStore(cluster.create("spooled"), secret=read_secret(tmp_path))
    store.migrate()
    spool = Spool(tmp_path)

    def write(row):
        try:
            store.record([row])
        except StoreGone:
            spool.append([row])

    for number in range(60):
        if number == 20:
            cluster.stop()
        if number == 40:
            cluster.start()
        write(logged(number, subject="author 7", original=KeptPost("words", b"png")))
    assert spool.pending >= 20 and "author 7" not in spool.path.read_text()
    waiting = spool.path.read_bytes()
    assert spool.replay(store.record) == waiting.count(b"\n")
    spool.path.write_bytes(waiting)  # as after a kill between the log's commit and the end of the file
    assert Spool(tmp_path).replay(store.record) == waiting.count(b"\n")
    assert assert_whole(store) == list(range(60))
    assert store.forget("author 7").counts["decisions"] == 60
    spool.path.write_bytes(waiting)
    Spool(tmp_path).replay(store.record)
    assert assert_whole(store) == []  # nobody comes back who was forgotten
    store.close()


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "d.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreGone, match="file is not a database"):
        DecisionStore(f"sqlite:///{tmp_path / 'd.sqlite'}", secret=SECRET).migrate()


# ------------------------------------------------------------------------------------------------ a full disk


class Disk:
    """A small file system in memory."""

    def __init__(self, folder):
        self.folder = folder
        self.filler = folder / "filler"

    def leave(self, room):
        self.filler.unlink(missing_ok=True)
        found = os.statvfs(self.folder)
        with open(self.filler, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, found.f_bavail * found.f_frsize - room)


@pytest.fixture
def disk():
    folder = Path(tempfile.mkdtemp(prefix="disk"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def fill(store, start=0):
    """Write until there is no room; gives the decisions that were acknowledged."""
    picture = os.urandom(30_000)
    for number in range(start, start + 1000):
        rows = [logged(2 * number + i, original=KeptPost("words", picture)) for i in (0, 1)]
        try:
            store.record(rows)
        except StoreFull as error:
            assert "has no room" in str(error)
            return 2 * number
    raise AssertionError("the disk was never full")


def and_goes_on(store, disk, acknowledged):
    assert assert_whole(store) == list(range(acknowledged))
    assert not store.gone
    disk.filler.unlink()
    store.record([logged(acknowledged, original=KeptPost("words", b"png"))])
    assert assert_whole(store) == list(range(acknowledged + 1)) == numbers(store, "originals")


@pytest.mark.parametrize("room", [150_000, 400_000, 1_500_000])
def test_on_a_full_disk_sqlite_writes_all_of_a_batch_or_nothing(disk, room):
    store = DecisionStore(f"sqlite:///{disk.folder / 'decisions.sqlite'}", secret=SECRET)
    store.migrate()
    disk.leave(room)
    acknowledged = fill(store)
    and_goes_on(store, disk, acknowledged)
    store.close()


def test_on_a_full_disk_postgresql_writes_all_of_a_batch_or_nothing(cluster, disk):
    place = disk.folder / "tables"
    place.mkdir()
    disk.folder.chmod(0o755)
    if os.getuid() == 0:
        shutil.chown(place, "postgres", "postgres")
    cluster.create("roomless")
    with psycopg.connect(f"host={cluster.folder} user=tester dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        connection.execute("ALTER DATABASE roomless SET TABLESPACE small")
    store = DecisionStore(cluster.url("roomless"), secret=SECRET)
    try:
        store.migrate()
        disk.leave(2_000_000)
        acknowledged = fill(store)
        and_goes_on(store, disk, acknowledged)
    finally:
        store.close()
        with psycopg.connect(f"host={cluster.folder} user=tester dbname=postgres", autocommit=True) as connection:
            connection.execute("DROP DATABASE roomless WITH (FORCE)")
            connection.execute("DROP TABLESPACE small")


@pytest.mark.parametrize("room", [0, 4096, 60_000])
def test_on_a_full_disk_the_spool_keeps_what_it_acknowledged_and_no_half_line(disk, room):
    spool = Spool(disk.folder)
    spool.append([logged(0)])
    disk.leave(room)
    for number in range(1, 1000):
        try:
            spool.append([logged(number, original=KeptPost("words" * 300, None))])
        except StoreFull:
            break
    assert spool.path.read_bytes().endswith(b"}\n") and spool.pending == number
    disk.filler.unlink()
    spool.append([logged(number)])
    found = []
    assert Spool(disk.folder).replay(found.extend) == number + 1
    assert [int(row.id, 16) for row in found] == list(range(number + 1))
