"""Shards come out whole and alike, or not at all."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import webdataset
from tests.contracts.pool_workers import Stops

from bifocal.data import packing
from bifocal.data.packing import pack
from bifocal.data.samples import members_of
from bifocal.data.shards import INDEX, key_of, open_split
from bifocal.errors import DataError, RunError, ShardError
from bifocal.example import LABELS, Example, Taxonomy
from bifocal.scale.local import LocalPool

TAXONOMY = Taxonomy({"abuse_hate": LABELS["abuse_hate"]})
MODALITIES = {
    "text": SimpleNamespace(
        suffix="txt", input=SimpleNamespace(is_file=False), read=str, pack=str.encode, unpack=bytes.decode, blank=str
    ),
    "image": SimpleNamespace(
        suffix="png", input=SimpleNamespace(is_file=True), read=bytes, pack=bytes, unpack=bytes, blank=bytes
    ),
}
SOURCE = SimpleNamespace(open=str.encode)
ODD_IDS = ["img/01.png", "a.b.c", "../up", "😀 meme", "x" * 300, "%2E", "UPPER", "upper", " ", "é"]


def example(id, split="train"):
    parts = {"text": f"words of {id}", "image": f"picture of {id}"}
    return Example(id, parts, {"abuse_hate": 1}, f"group of {id}", split)


def examples(n):
    return [example(f"row{i}") for i in range(n)]


def packed(folder, rows, shard_size=4, source=SOURCE, pool=None, progress=None):
    options = {"taxonomy": TAXONOMY, "shard_size": shard_size, "pool": pool, "progress": progress}
    return pack(rows, source, MODALITIES, folder=folder.joinpath, **options)


def slow_open(reference):
    time.sleep(0.03)
    return reference.encode()


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_hold_at_most_shard_size_and_the_index_describes_them(tmp_path):
    packed(tmp_path, examples(10))
    train = tmp_path / "train"
    index = json.loads((train / INDEX).read_text())
    assert [(s["name"], s["count"]) for s in index["shards"]] == [
        ("shard-000000.tar", 4),
        ("shard-000001.tar", 4),
        ("shard-000002.tar", 2),
    ]
    assert index["count"] == 10 and index["modalities"] == {"text": "txt", "image": "png"}
    for shard in index["shards"]:
        assert hashlib.sha256((train / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]


def test_the_same_examples_give_the_same_bytes(tmp_path, monkeypatch):
    packed(tmp_path / "a", examples(10))
    monkeypatch.setattr(time, "time", lambda: 1e9)  # another day
    packed(tmp_path / "b", examples(10))
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 20_000])
def test_a_tar_is_what_webdataset_writes(tmp_path, size):
    samples = {f"row{i}": {"txt": b"x" * (size + i), "json": b"{}", "tab.json": b""} for i in range(5)}
    samples["k" * 80] = {"json": b"long"}
    with packing._Writer(tmp_path, 100) as ours:
        for key, sample in samples.items():
            ours.write(members_of(key, sample), 1)
    with (tmp_path / "theirs.tar").open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as theirs:
        for key, sample in samples.items():
            theirs.write({"__key__": key, **sample})
    assert (tmp_path / "shard-000000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_keys_are_safe_distinct_and_short(tmp_path):
    keys = [key_of(id) for id in ODD_IDS]
    assert keys[:4] == ["img%2F01%2Epng", "a%2Eb%2Ec", "%2E%2E%2Fup", "%F0%9F%98%80%20meme"]
    assert len(set(keys)) == len(keys) and max(map(len, keys)) <= 80
    assert key_of("x" * 300) != key_of("x" * 299)
    packed(tmp_path, [example(id) for id in ODD_IDS], shard_size=100)
    split = open_split(tmp_path / "train", MODALITIES)
    assert split.ids == tuple(ODD_IDS)
    assert split.values("text")[4] == "words of " + "x" * 300


def test_a_new_pack_replaces_everything(tmp_path):
    packed(tmp_path, [*examples(10), example("v", "val")])
    (tmp_path / "train" / ".shard-000000.tar.77.part").write_bytes(b"left by a killed process")
    packed(tmp_path, [example("only")])
    assert sorted(files(tmp_path)) == ["train/index.json", "train/shard-000000.tar"]
    assert open_split(tmp_path / "train", MODALITIES).ids == ("only",)


def test_an_id_packed_twice_is_refused(tmp_path):
    with pytest.raises(ShardError, match="'a' is packed twice"):
        packed(tmp_path, [example("a"), example("b"), example("a", "val")])
    assert not list(tmp_path.rglob(INDEX)) and not list(tmp_path.rglob(".*"))


def test_a_part_that_cannot_be_read_names_its_example(tmp_path):
    def broken(reference):
        raise DataError("the file is gone")

    with pytest.raises(DataError, match="example 'row0', image: the file is gone; run the step `manifest` again"):
        packed(tmp_path, examples(3), source=SimpleNamespace(open=broken))
    with pytest.raises(DataError, match="'a' has split None and group 'g'"):
        packed(tmp_path, [Example("a", {}, {}, "g")])
    with pytest.raises(DataError, match="has split 'dev'"):
        packed(tmp_path, [Example("a", {}, {}, "g", "dev")])


def test_a_full_disk_is_one_clear_error_and_leaves_the_split_unpacked(tmp_path, monkeypatch):
    write = packing._Writer.write

    def full(self, members, rows):
        if members.startswith(b"row6."):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, members, rows)

    packed(tmp_path, examples(3))
    monkeypatch.setattr(packing._Writer, "write", full)
    with pytest.raises(RunError, match=r"no room to write .*shard-000001\.tar"):
        packed(tmp_path, examples(10))
    assert list(files(tmp_path)) == ["train/shard-000000.tar"]


def test_a_killed_pack_counts_as_not_packed_and_can_be_repeated(tmp_path):
    packed(tmp_path / "clean", examples(10))
    packed(tmp_path / "runs", examples(3))
    script = f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_packing import *
        def slow():
            yield from examples(8)
            print("packing", flush=True)
            time.sleep(60)
        from bifocal.data import packing
        packing.in_order = lambda work, items: map(work, items)  # nothing waits in the window
        packed(Path({str(tmp_path / "runs")!r}), slow())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"packing\n"
        os.kill(process.pid, signal.SIGKILL)
    left = files(tmp_path / "runs")
    assert "train/shard-000000.tar" in left and any(name.endswith(".part") for name in left)
    with pytest.raises(ShardError, match=r"is not packed \(no index.json\): run the step `shards`"):
        open_split(tmp_path / "runs" / "train", MODALITIES)
    packed(tmp_path / "runs", examples(10))
    assert files(tmp_path / "runs") == files(tmp_path / "clean")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_shards_are_the_same_to_the_byte_whoever_packs_them(tmp_path, monkeypatch, workers):
    rows = [example(f"row{i}", ("train", "val", "train")[i % 3]) for i in range(60)]
    rows[7] = Example("bare", {}, {"abuse_hate": None}, "g", "test", {"note": "é \ud800"})
    counts = packed(tmp_path / "threads", rows, shard_size=11)
    monkeypatch.setattr("bifocal.data.packing.ROWS", 4)
    monkeypatch.setattr("bifocal.data.samples.ROWS", 4)
    told = []
    again = packed(tmp_path / "pool", rows, shard_size=11, pool=LocalPool(workers), progress=told.append)
    assert again == counts and files(tmp_path / "pool") == files(tmp_path / "threads")
    assert told == sorted(told) and told[-1] == len(rows)


class StampedFiles:
    """A source of files that may be replaced."""

    def __init__(self, folder):
        self.folder = folder

    def __repr__(self):
        return "files"

    def open(self, reference):
        return (self.folder / reference.rpartition(" ")[2]).read_bytes()

    def stamp(self, reference):
        return [reference, (self.folder / reference.rpartition(" ")[2]).stat().st_mtime_ns]


def test_what_was_packed_of_a_file_that_was_replaced_since_is_packed_again(tmp_path, monkeypatch):
    monkeypatch.setattr("bifocal.data.samples.ROWS", 4)
    monkeypatch.setattr("bifocal.data.packing.ROWS", 4)
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / "in" / f"row{i}").write_text("old")

    source = StampedFiles(tmp_path / "in")
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "out", examples(20), 20, source, Stops(3))
    time.sleep(0.02)
    (tmp_path / "in" / "row1").write_text("new")
    packed(tmp_path / "out", examples(20), 20, source, LocalPool(1))
    packed(tmp_path / "anew", examples(20), 20, source)
    assert files(tmp_path / "out") == files(tmp_path / "anew")


def test_a_pool_is_not_asked_for_few_rows(tmp_path):
    packed(tmp_path, examples(10), pool=SimpleNamespace(map=None))
    assert sorted(files(tmp_path))[0] == "train/index.json"


def test_a_part_that_a_worker_cannot_read_names_its_example(tmp_path, monkeypatch):
    monkeypatch.setattr("bifocal.data.packing.ROWS", 4)
    monkeypatch.setattr("bifocal.data.samples.ROWS", 4)

    def broken(reference):
        raise DataError("the file is gone")

    with pytest.raises(DataError, match="example 'row0', image: the file is gone; run the step `manifest` again"):
        packed(tmp_path, examples(20), source=SimpleNamespace(open=broken), pool=LocalPool(1))
    assert not list(tmp_path.rglob(INDEX))


SLOW_SOURCE = SimpleNamespace(open=slow_open)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_kill_of_a_worker_or_of_the_command_at_any_moment_changes_no_shard(tmp_path, monkeypatch, seed):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_packing import *\n"
        "from bifocal.data import packing, samples\n"
        "if __name__ == '__main__':\n"
        "    packing.ROWS = samples.ROWS = 4\n"
        f"    packed(Path({str(tmp_path / 'runs')!r}), examples(80), 11, SLOW_SOURCE, LocalPool(2))\n"
    )
    rng = random.Random(seed)
    for _ in range(3):
        driver = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 4))
        listed = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
        victim = int(rng.choice([*(listed.read_text().split() if listed.exists() else []), driver.pid]))
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        driver.wait(120)
    assert subprocess.run([sys.executable, script]).returncode == 0
    packed(tmp_path / "whole", examples(80), 11)
    assert files(tmp_path / "runs") == files(tmp_path / "whole")
