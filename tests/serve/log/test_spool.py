import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest

from bifocal.serve.log.decision_store import DecisionStore, read_secret
from bifocal.serve.log.records import KeptPost, LogEntry, NotStorable, StoreError, StoreFull, StoreGone, UnknownDecision
from bifocal.serve.log.spool import Spool

ROW = {f.name: None for f in fields(LogEntry)} | {
    "client": "shop", "decision": {}, "action": "review", "pattern": "text", "run": "demo", "policy_version": "v1",
    "source": "model", "audit": False, "weight": 1.0,
}  # fmt: skip


def logged(number, **given):
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number)
    return LogEntry(**{**ROW, "id": f"{number:032x}", "at": at, **given})


@pytest.fixture
def store(tmp_path):
    made = DecisionStore(f"sqlite:///{tmp_path / 'd.sqlite'}", secret=b"s" * 32)
    made.migrate()
    return made


def test_what_waits_comes_home_once_and_in_order(tmp_path, store):
    spool = Spool(tmp_path)
    rows = [logged(i, original=KeptPost("words", bytes(range(256)))) for i in range(1, 6)]
    spool.append(rows[:2])
    spool.append(rows[2:])
    assert spool.pending == 5 and Spool(tmp_path).pending == 5
    store.record(rows[:3])  # the log had taken three when it went away
    assert spool.replay(store.record) == 5
    assert [int(item.id, 16) for item in store.queue(sort="age")] == [1, 2, 3, 4, 5]
    assert store.original(rows[4].id).picture == bytes(range(256)) and len(store.history(rows[0].id)) == 1
    assert spool.pending == 0 and spool.replay(store.record) == 0


def test_two_services_with_one_state_folder_lose_nothing(tmp_path, store):
    ours, theirs = Spool(tmp_path), Spool(tmp_path)
    ours.append([logged(1)])
    rival = threading.Thread(target=theirs.append, args=([logged(2)],))

    def record(rows):
        rival.start()  # it has to wait until the file is gone
        rival.join(0.3)
        store.record(rows)

    assert ours.replay(record) == 1
    rival.join()
    assert theirs.replay(store.record) == 1 and ours.replay(store.record) == 0
    assert all(store.decision(logged(i).id) for i in (1, 2))


def test_a_log_that_is_still_away_loses_nothing(tmp_path, store):
    def away(rows):
        raise StoreGone("away")

    spool = Spool(tmp_path)
    spool.append([logged(1)])
    with pytest.raises(StoreGone):
        spool.replay(away)
    assert spool.pending == 1
    assert spool.replay(store.record) == 1


def test_a_line_that_was_cut_is_dropped_and_written_over(tmp_path, store):
    spool = Spool(tmp_path)
    spool.append([logged(1)])
    with open(spool.path, "ab") as f:
        f.write(b'{"id": "half a')
    again = Spool(tmp_path)
    assert again.pending == 1
    again.append([logged(2)])
    assert again.replay(store.record) == 2


def test_killed_at_any_moment_every_row_that_was_acknowledged_is_there(tmp_path, store):
    script = tmp_path / "writer.py"
    script.write_text(
        textwrap.dedent(f"""
        from datetime import UTC, datetime
        from pathlib import Path
        from bifocal.serve.log.spool import Spool
        from bifocal.serve.log.records import LogEntry
        spool = Spool(Path({str(tmp_path)!r}))
        row = {ROW!r} | {{"at": datetime.now(UTC)}}
        for i in range(100_000):
            spool.append([LogEntry(**row | {{"id": f"{{n:032x}}"}}) for n in (2 * i, 2 * i + 1)])
            print(2 * i + 1, flush=True)
        """)
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        for _ in range(40):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        last = int(rest[-1]) if rest and rest[-1].isdigit() else last
        found = []
        Spool(tmp_path).replay(found.extend)
        numbers = [int(row.id, 16) for row in found]
        assert numbers[: last + 1] == list(range(last + 1)) and len(numbers) <= last + 3


def test_a_full_disk_is_told_and_leaves_no_half_row(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    spool.append([logged(1)])
    before = spool.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bifocal.serve.log.spool.os.fsync", full)
    with pytest.raises(StoreFull, match="has no room"):
        spool.append([logged(2)])
    assert spool.path.read_bytes() == before and spool.pending == 1


def test_a_line_that_the_log_refuses_is_set_aside_and_told_and_keeps_no_other_waiting(tmp_path, store, caplog):
    spool = Spool(tmp_path)
    spool.append([logged(i) for i in range(1, 9)])
    good = spool.path.read_bytes().splitlines(keepends=True)
    deep = b"[" * 99 + b"]" * 99
    bad = [
        b'{"id": 3}\n', b"\xff\n", b"[" * 100_000 + b"]" * 100_000 + b"\n", b"null\n",
        good[0].replace(b'"demo"', b"null"), good[1].replace(b'"decision": {}', b'"decision": {"a": %s}' % deep),
        good[2].replace(b'"2026', b'"9999'), good[3].replace(b'"original": null', b'"original": "text"'),
    ]  # fmt: skip
    odd = good[4].replace(b'"probability": null', b'"probability": NaN').replace(b'"text"', b'"te\\u0000\\ud800xt"')
    odd = odd.replace(b"0" * 31 + b"5", b"0" * 31 + b"9")
    spool.path.write_bytes(b"".join(line for pair in zip(bad, good, strict=True) for line in pair) + odd)
    again = Spool(tmp_path)
    assert again.pending == 17 and again.set_aside == 0
    assert again.replay(store.record) == 9
    assert sorted(int(item.id, 16) for item in store.queue()) == list(range(1, 10))
    assert again.pending == 0 and again.set_aside == 8 == Spool(tmp_path).set_aside
    assert "8 decisions that waited for the database are refused by it, and set aside in" in caplog.text
    assert again.refused.read_bytes() == b"".join(bad) and again.refused.stat().st_mode & 0o77 == 0
    again.path.write_bytes(bad[0] + bad[1])  # as after a kill before the end of the spool
    assert again.replay(store.record) == 0 and again.set_aside == 8


def test_what_the_database_alone_refuses_is_set_aside_and_all_else_of_it_waits(tmp_path, store):
    def refuse(error):
        def record(rows):
            if any(row.id == logged(5).id for row in rows):
                raise error("refuses")
            store.record(rows)

        return record

    spool = Spool(tmp_path)
    spool.append([logged(i) for i in range(10)])
    for error in (StoreError, StoreGone):  # a table that is missing, say, refuses every row
        with pytest.raises(error):
            spool.replay(refuse(error))
        assert (spool.pending, spool.set_aside) == (10, 0)
    assert spool.replay(refuse(NotStorable)) == 9
    assert spool.set_aside == 1 and len(store.queue()) == 9


def test_what_no_log_would_take_is_not_acknowledged(tmp_path):
    spool = Spool(tmp_path)
    with pytest.raises(NotStorable):
        spool.append([logged(1), logged(2, run=None)])
    assert spool.pending == 0 and not spool.path.exists()


def test_what_was_given_up_is_not_spooled(tmp_path):
    class GivenUp(Exception):
        pass

    def seal():
        raise GivenUp

    spool = Spool(tmp_path)
    with pytest.raises(GivenUp):
        spool.append([logged(1)], seal)
    assert spool.pending == 0 and not spool.path.exists()


def test_who_is_forgotten_while_a_decision_waits_stays_so_and_who_was_before_posts_again(tmp_path):
    spool, store = Spool(tmp_path), DecisionStore(f"sqlite:///{tmp_path / 'd.sqlite'}", secret=read_secret(tmp_path))
    store.migrate()
    store.record([logged(1, subject="ann")])
    store.forget("ann")
    spool.remember_forgotten(store.last_forgotten)
    Spool(tmp_path).append([logged(2, subject="ann"), logged(3, subject="bob"), logged(4, subject="eve")])
    store.forget("bob")  # of whom nothing is held yet
    store.forget("eve", "forum")  # another client's
    assert Spool(tmp_path).replay(store.record) == 3
    assert sorted(int(item.id, 16) for item in store.queue()) == [2, 4]
    with pytest.raises(UnknownDecision):
        store.decision(logged(3).id)
