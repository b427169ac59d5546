"""The same command takes in what came, went or changed since, and does nothing again where nothing did."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from bifocal.config import parse_config
from bifocal.contracts import Reporter
from bifocal.data import file_stamps as stamps
from bifocal.pipeline.train import run
from bifocal.sources.hateful_memes import HatefulMemes
from bifocal.workspace import Workspace, read_json, read_jsonl

OLD = 1_600_000_000


class Diary(Reporter):
    def __init__(self):
        self.performed, self.notes = [], []

    def step(self, name, skipped):
        self.performed += [] if skipped else [name]

    def note(self, text):
        self.notes.append(text)


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def memes(tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "SETTLED", -1e9)  # these files are trusted, young as they are
    lines = [{"id": i, "img": f"img/{i}.png", "label": i % 2, "text": f"the garden waits {i}"} for i in range(30)]
    for i in range(30):
        picture(tmp_path / "memes" / "img" / f"{i}.png", i)
    (tmp_path / "memes" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "memes"


def again(root, until="splits"):
    diary = Diary()
    config = {"run": "r", "label": "abuse_hate", "source": {"kind": "hateful_memes", "root": str(root)}, "ocr": "never"}
    folder = run(parse_config(config), root=root.parent / "runs", until=until, reporter=diary)
    counts = read_json(folder / "run.json")["steps"]["manifest"]
    return diary, counts


def test_pictures_that_come_change_or_go_are_taken_in(memes):
    (memes / "img" / "3.png").rename(memes / "held.png")
    assert again(memes)[1]["quarantined"] == 1
    assert again(memes)[0].performed == []
    (memes / "held.png").rename(memes / "img" / "3.PNG")  # be it under another spelling
    diary, counts = again(memes)
    assert counts["quarantined"] == 0 and diary.performed == ["manifest", "ocr", "splits"]
    assert any("1 files were missing and are there" in note for note in diary.notes)
    assert any("'img/3.png': 'img/3.PNG'" in note for note in diary.notes)
    picture(memes / "img" / "4.png", 99)
    diary, _ = again(memes)
    assert diary.performed and any("1 files hold other bytes" in note for note in diary.notes)
    (memes / "img" / "5.png").unlink()
    diary, counts = again(memes)
    assert counts["quarantined"] == 1 and any("1 files are gone" in note for note in diary.notes)
    assert again(memes)[0].performed == []


def test_other_bytes_of_the_same_size_and_time_are_seen(memes):
    again(memes)
    path, table = memes / "img" / "0.png", memes / "train.jsonl"
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    blob = bytearray(path.read_bytes())
    blob[-20] ^= 1  # damaged now
    path.write_bytes(bytes(blob))
    os.utime(path, ns=times)
    assert again(memes)[1]["quarantined"] == 1
    times = (table.stat().st_atime_ns, table.stat().st_mtime_ns)
    table.write_text(table.read_text().replace("waits 7", "walks 7"))
    os.utime(table, ns=times)
    assert again(memes)[0].performed == ["manifest", "ocr", "splits"]


def test_a_damaged_picture_is_looked_at_again_only_where_it_changed(memes):
    (memes / "img" / "3.png").write_bytes(b"no picture")
    assert again(memes)[1]["quarantined"] == 1
    (memes / "img" / "3.png").touch()
    assert again(memes)[0].performed == []
    picture(memes / "img" / "3.png", 3)
    assert again(memes)[1]["quarantined"] == 0


def test_what_was_only_touched_is_read_once_and_nothing_is_done_again(memes, monkeypatch):
    again(memes)
    opened = []
    read = HatefulMemes.open
    monkeypatch.setattr(HatefulMemes, "open", lambda self, name: opened.append(name) or read(self, name))
    assert again(memes)[0].performed == opened == []
    for path in (memes / "train.jsonl", memes / "img" / "1.png", memes / "img" / "2.png"):
        os.utime(path, (OLD, OLD))
    assert again(memes)[0].performed == []
    assert sorted(opened) == ["img/1.png", "img/2.png"]
    assert again(memes)[0].performed == [] and len(opened) == 2


def test_what_is_too_young_to_be_trusted_is_compared_by_its_bytes(memes, monkeypatch):
    monkeypatch.undo()
    again(memes)
    noted = list(read_jsonl(Workspace(memes.parent / "runs" / "r", "r").stamps))
    assert all(entry["stamp"][2:] == [0, 0] for entry in noted)
    assert again(memes)[0].performed == []
    picture(memes / "img" / "4.png", 99)
    assert again(memes)[0].performed == ["manifest", "ocr", "splits"]


def test_an_archive_that_changed_is_read_and_one_that_was_touched_does_nothing_again(memes):
    def pack(*left_out):
        with zipfile.ZipFile(memes.parent / "memes.zip", "w") as archive:
            for path in sorted(memes.rglob("*")):
                if path.is_file() and path.name not in left_out:
                    archive.write(path, path.relative_to(memes))
        return memes.parent / "memes.zip"

    archive = pack("3.png")
    assert again(archive)[1]["quarantined"] == 1
    os.utime(archive, (OLD, OLD))
    assert again(archive)[0].performed == []
    assert again(pack())[1]["quarantined"] == 0
    picture(memes / "img" / "4.png", 99)
    diary, _ = again(pack())
    assert diary.performed == ["manifest", "ocr", "splits"]
