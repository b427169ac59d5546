"""Shards come out whole and alike, or not at all."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import webdataset

from bifocal.data import packing
from bifocal.data.packing import pack
from bifocal.data.shards import INDEX, key_of, open_split
from bifocal.errors import DataError, RunError, ShardError
from bifocal.example import LABELS, Example, Taxonomy

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


def packed(folder, rows, shard_size=4, source=SOURCE):
    return pack(rows, source, MODALITIES, folder=folder.joinpath, taxonomy=TAXONOMY, shard_size=shard_size)


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
            ours.write(key, sample)
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
    header = packing._header

    def full(name, size):
        if name.startswith(b"row6."):
            raise OSError(errno.ENOSPC, "No space left on device")
        return header(name, size)

    packed(tmp_path, examples(3))
    monkeypatch.setattr(packing, "_header", full)
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
