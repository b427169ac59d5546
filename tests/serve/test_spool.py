import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest

from bifocal.serve.spool import Spool
from bifocal.serve.store import Logged, Original, Store, StoreFull, StoreGone

ROW = {f.name: None for f in fields(Logged)} | {
    "client": "shop", "decision": {}, "action": "review", "pattern": "text", "run": "demo", "policy_version": "v1",
    "source": "model", "audit": False, "weight": 1.0,
}  # fmt: skip


def logged(number, **given):
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Logged(**{**ROW, "id": f"{number:032x}", "at": at, **given})


@pytest.fixture
def store(tmp_path):
    made = Store(f"sqlite:///{tmp_path / 'd.sqlite'}", secret=b"s" * 32)
    made.migrate()
    return made


def test_what_waits_comes_home_once_and_in_order(tmp_path, store):
    spool = Spool(tmp_path)
    rows = [logged(i, original=Original("words", bytes(range(256)))) for i in range(1, 6)]
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
        from bifocal.serve.spool import Spool
        from bifocal.serve.store import Logged
        spool = Spool(Path({str(tmp_path)!r}))
        row = {ROW!r} | {{"at": datetime.now(UTC)}}
        for i in range(100_000):
            spool.append([Logged(**row | {{"id": f"{{n:032x}}"}}) for n in (2 * i, 2 * i + 1)])
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

    monkeypatch.setattr("bifocal.serve.spool.os.fsync", full)
    with pytest.raises(StoreFull, match="has no room"):
        spool.append([logged(2)])
    assert spool.path.read_bytes() == before and spool.pending == 1
