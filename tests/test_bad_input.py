"""Bad input from end to end, as a user meets it: one line that says what to do, the bad row kept, nothing else lost.

The one place where the whole list is found. What a single function refuses is tested beside that function.
"""

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as Pillow
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bifocal
from bifocal.cli.app import main
from bifocal.config import parse_config
from bifocal.contracts import Reporter
from bifocal.data.shards import INDEX, open_split
from bifocal.errors import BifocalError, DataError
from bifocal.example import Taxonomy
from bifocal.fit.evidence import _digest
from bifocal.modalities import build_modalities
from bifocal.models.pretrained import quiet
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, file_sha256, read_json, read_jsonl, write_json

GOOD = 24
"""Good rows around a bad one: with it, 4% are bad, and 5% are tolerated."""


class Notes(Reporter):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png(width, height, depth, colour_type, data):
    """A PNG written by hand, as nobody's camera would."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def bomb(side):
    """A black and white picture of one colour: a few KB that unfold to ``side * side`` pixels."""
    return png(side, side, 1, 0, bytes((side // 8 + 1) * side))


def scene(seed=0, size=(96, 72)):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Pillow.fromarray(noise).resize(size, Pillow.Resampling.BICUBIC)


SCENES = [encoded(scene(seed)) for seed in range(GOOD)]


@dataclass
class Memes:
    """A folder in the Hateful Memes layout, good rows first."""

    root: Path
    lines: list = field(default_factory=list)

    def __post_init__(self):
        (self.root / "img").mkdir(parents=True)
        for number, blob in enumerate(SCENES):
            self.add(
                {"id": f"good{number}", "label": number % 2, "text": f"the garden waits for visitor {number}"}, blob
            )

    def add(self, row, blob=None):
        """A row (an object, or its line as it is) and the file behind ``img``."""
        if isinstance(row, dict):
            row = {"label": 0, "text": "some words of a post", "img": f"img/{len(self.lines)}.png", **row}
            if blob is not None:
                (self.root / row["img"]).write_bytes(blob)
            row = json.dumps(row).encode()
        self.lines.append(row)
        (self.root / "train.jsonl").write_bytes(b"\n".join(self.lines) + b"\n")

    def content(self, **changes):
        """A configuration that reads the folder."""
        experts = {"text": {"model": "tiny"}, "image": {"model": "tiny"}}
        source = {"kind": "hateful_memes", "root": str(self.root)}
        return {"run": "memes", "source": source, "ocr": "never", "experts": experts, **changes}

    def path(self, content=None):
        """The YAML file of that configuration."""
        path = self.root.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(content or self.content()))
        return path

    def run(self, tmp_path, reporter=None, **options):
        return Workspace.of(run(parse_config(self.content()), root=tmp_path, reporter=reporter, **options))


@pytest.fixture
def memes(tmp_path):
    return Memes(tmp_path / "memes")


@pytest.fixture
def command(monkeypatch, capfd):
    """Call the command line in this process: ``(status, stdout, stderr)``."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["bifocal", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capfd.readouterr()

    return command


def refused(answer, *parts):
    """The command ended with status 2 and one line that holds these parts, and nothing else on the screen."""
    status, out, err = answer
    assert (status, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err
    return err


def one_line(error, *parts):
    assert isinstance(error, BifocalError) and "\n" not in str(error)
    for part in parts:
        assert part in str(error)


# ------------------------------------------------------------------ bad rows: quarantined by name, the others kept

JPEG = encoded(scene(99), "JPEG")
SECRET = "secret.png"


def link_out(memes):
    memes.root.with_name(SECRET).write_bytes(SCENES[0])
    (memes.root / "img" / "out.png").symlink_to(memes.root.with_name(SECRET))
    (memes.root / "away").symlink_to(memes.root.parent)


PICTURES = {
    "truncated PNG": (SCENES[0][:-300], "the PNG picture is truncated or damaged .*: replace the file"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "the JPEG picture is truncated or damaged .*: replace the file"),
    "100 Mpx in 12 KB": (bomb(10_000), "10000 x 10000 pixels; at most 50,000,000 are allowed: scale it down"),
    "196 Mpx": (bomb(14_000), "at most 50,000,000 pixels are allowed: scale the picture down"),
    "EPS": (encoded(scene(), "EPS"), "the file is no picture of an allowed format"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture of an allowed format .*: convert it"),
    "HTML": (b"<!DOCTYPE html><title>404</title>", "is no picture of an allowed format .*: convert it"),
    "empty": (b"", "an empty file is no picture of an allowed format"),
}
ROWS = {
    "missing picture": ({"img": "img/none.png"}, "none.png is missing or not a file"),
    "path out of the root": ({"img": f"../{SECRET}"}, "leads out of .*; only paths inside are read"),
    "absolute path": ({"img": "/etc/passwd"}, "leads out of .*; only paths inside are read"),
    "link out of the root": ({"img": "img/out.png"}, "leads out of .*; only paths inside are read"),
    "folder that leads out": ({"img": f"away/{SECRET}"}, "leads out of .*; only paths inside are read"),
    "NUL in a path": ({"img": "img/\0.png"}, "cannot be read"),
    "id of an earlier row": ({"id": "good3"}, "id 'good3' stands in an earlier row; ids must be unique"),
    "id that is no Unicode": ({"id": "a\ud800"}, "is not valid Unicode"),
    "10 MB of text": ({"text": "word " * 2_000_000}, "10,000,000 characters; at most 100,000 are allowed: shorten it"),
    "10 MB of nothing": ({"text": "\u200b" * 10_000_000}, "10,000,000 characters; at most 100,000 are allowed"),
    "text that is a number": ({"text": 5}, "text must be a string, found int: quote it, or leave the part out"),
    "unknown class": ({"label": 2}, "label value 2 is not in the taxonomy; allowed: 0, 1, or null"),
    "class as text": ({"label": "1"}, "label value '1' is not in the taxonomy; allowed: 0, 1, or null"),
}
LINES = {
    "broken JSON": (b'{"id": "bad", "img": "img/24.p', "not valid JSON"),
    "latin-1": ('{"id": "bad", "img": "img/24.png", "text": "caf\xe9"}'.encode("latin-1"), "not UTF-8"),
    "a list": (b'["bad", "img/24.png", 0]', "a JSON list where an object is expected"),
}
BAD = {
    **{name: ({}, blob, reason) for name, (blob, reason) in PICTURES.items()},
    **{name: (row, SCENES[0], reason) for name, (row, reason) in ROWS.items()},
    **{name: (line, None, reason) for name, (line, reason) in LINES.items()},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_kept_with_its_reason_and_costs_no_other(memes, tmp_path, command, name):
    row, blob, reason = BAD[name]
    link_out(memes)
    inside = isinstance(row, dict) and "img" not in row
    memes.add({"id": "bad", **row} if isinstance(row, dict) else row, blob if inside else None)
    notes = Notes()
    space = memes.run(tmp_path, notes, until="manifest")

    (bad,) = read_jsonl(space.quarantine)
    assert re.search(reason, bad["reason"]) and "\n" not in bad["reason"]
    assert bad["where"] in ("train.jsonl:25", "row 25 of the source") and bad["row"]
    if isinstance(row, dict):
        assert bad["id"] == row.get("id", "bad")
    assert [kept["id"] for kept in read_jsonl(space.manifest)] == [f"good{n}" for n in range(GOOD)]
    (note,) = notes.lines
    assert note.startswith("1 rows quarantined (1 x ") and str(space.quarantine) in note and "\n" not in note

    path = memes.path()
    where = f"{bad['where']}, id {bad['id']!r}: "
    refused(command("run", path, "--strict", "--runs", tmp_path, "--quiet"), where, str(space.quarantine))


def test_no_library_adds_a_line_of_its_own(memes, tmp_path):
    """In a process of its own: Pillow warns of a large picture on stderr, beside our line."""
    memes.add({"id": "bad"}, bomb(10_000))
    words = ["run", memes.path(), "--strict", "--runs", tmp_path, "--until", "manifest", "--quiet"]
    answer = subprocess.run([sys.executable, "-m", "bifocal", *map(str, words)], capture_output=True, text=True)
    refused((answer.returncode, answer.stdout, answer.stderr), "id 'bad': image: the PNG picture has 10000 x 10000")


def test_many_bad_rows_stop_the_run_and_every_one_is_kept_with_its_reason(memes, tmp_path, command):
    for name, (row, blob, _) in BAD.items():
        if isinstance(row, dict) and "text" not in row:
            memes.add({"id": name, **row}, blob if "img" not in row else None)
    path = memes.path()
    answer = command("run", path, "--runs", tmp_path, "--quiet")
    quarantine = tmp_path / "memes" / "quarantine.jsonl"
    bad = len(memes.lines) - GOOD
    refused(
        answer, f"{bad} of {len(memes.lines)} rows cannot be used, 5% are tolerated", str(quarantine), "mend the source"
    )
    assert sum(1 for _ in read_jsonl(quarantine)) == bad


# ------------------------------------------------------------------ tables

WORDS = [f"p{n},caf\xe9 number {n} by the river,{n % 2}" for n in range(GOOD)]


def table(tmp_path, content, name="posts.csv", **options):
    """The configuration of a run over one table, and its YAML file; ``content`` is the file's bytes."""
    (tmp_path / name).write_bytes(content)
    columns = {"id": "id", "text": "words", "labels": {"abuse_hate": {"column": "bad", "map": {"0": 0, "1": 1}}}}
    source = {"kind": "table", "root": str(tmp_path / name), **columns, **options}
    config = {"run": "posts", "source": source, "ocr": "never", "modalities": ["text"]}
    (tmp_path / "posts.yaml").write_text(yaml.safe_dump(config))
    return ["run", tmp_path / "posts.yaml", "--runs", tmp_path, "--until", "manifest"]


def csv_of(lines, encoding="utf-8", header="id,words,bad"):
    return "\r\n".join([header, *lines, ""]).encode(encoding)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (csv_of(WORDS).replace(b",", b";"), ["has the one column 'id;words;bad'", 'delimiter: ";"']),
        (csv_of(WORDS).replace(b",", b"\t"), ["has the one column", 'delimiter: "\\t"']),
        (csv_of(WORDS, "latin-1"), ["is not UTF-8 at byte", "0xe9, line 2", "encoding: latin-1"]),
        (csv_of(WORDS, "utf-16"), ["is not UTF-8 at byte 0"]),
        (csv_of(WORDS, header="id,word,bad"), ["'words'", "did you mean 'word'?"]),
        (csv_of(WORDS, header="id,words,bad,bad"), ["two columns of the name 'bad'"]),
        (csv_of(WORDS[1:], header=WORDS[0]), ["'words'"]),
        (b"", ["is empty; expected a line with the names of the columns"]),
        (csv_of([]), ["brought no rows"]),
    ],
)
def test_a_table_that_is_not_as_configured_is_one_line(tmp_path, command, content, parts):
    refused(command(*table(tmp_path, content), "--quiet"), *parts)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (csv_of(WORDS), {}),
        (b"\xef\xbb\xbf" + csv_of(WORDS), {}),
        (csv_of(WORDS).replace(b",", b";"), {"delimiter": ";"}),
        (csv_of(WORDS, "latin-1"), {"encoding": "latin-1"}),
        (csv_of(WORDS, "utf-16"), {"encoding": "utf-16"}),
    ],
    ids=["plain", "byte order mark", "semicolons", "latin-1", "UTF-16"],
)
def test_a_table_read_as_configured_is_whole(tmp_path, command, content, options):
    status, _, err = command(*table(tmp_path, content, **options))
    assert status == 0 and "quarantined" not in err
    rows = list(read_jsonl(tmp_path / "posts" / "data_manifest.jsonl"))
    assert [row["id"] for row in rows] == [f"p{n}" for n in range(GOOD)]
    assert rows[3]["parts"] == {"text": "caf\xe9 number 3 by the river"}
    assert [row["labels"]["abuse_hate"] for row in rows] == [n % 2 for n in range(GOOD)]


OBJECTS = [json.dumps({"id": f"p{n}", "words": f"number {n}", "bad": str(n % 2)}).encode() for n in range(GOOD)]
TABLE_ROWS = {
    "too many cells": ("posts.csv", b"bad,one, two,1", "4 cells where the header has 3"),
    "an open quote too many": ("posts.csv", b'bad,"never, closed,1', "4 cells where the header has 3"),
    "unknown class in CSV": ("posts.csv", b"bad,words,2", "'2'"),
    "id of an earlier row in CSV": ("posts.csv", b"p3,words,1", "ids must be unique"),
    "only zero-width signs": ("posts.csv", "bad,\u200b\u2060,1".encode(), "brings nothing to read"),
    "broken JSON": ("posts.jsonl", b'{"id": "bad", "words": "a', "not valid JSON"),
    "latin-1 in JSON": ("posts.jsonl", b'{"id": "bad", "words": "caf\xe9", "bad": 0}', "not UTF-8"),
    "nested without end": ("posts.jsonl", b"[" * 100_000, "not valid JSON"),
}


def test_every_line_that_an_open_quote_swallows_is_kept(tmp_path, command):
    lines = csv_of(WORDS).splitlines()
    lines[20] = b'p19,"never closed,1'
    refused(
        command(*table(tmp_path, b"\n".join(lines), quotes="standard"), "--quiet"),
        "5 of 24 rows cannot be used",
        "double the quotes inside",
    )
    rows = list(read_jsonl(tmp_path / "posts" / "quarantine.jsonl"))
    assert [row["where"] for row in rows] == [f"posts.csv:{n}" for n in range(21, 26)]
    assert [row["row"].strip() for row in rows] == [line.decode() for line in lines[20:25]]


@pytest.mark.parametrize("name", TABLE_ROWS)
def test_a_bad_row_of_a_table_costs_no_other(tmp_path, command, name):
    file, line, reason = TABLE_ROWS[name]
    lines = OBJECTS if file.endswith(".jsonl") else csv_of(WORDS).splitlines()
    status, _, err = command(*table(tmp_path, b"\n".join([*lines, line]), file))
    assert status == 0 and "1 rows quarantined" in " ".join(err.split())
    (bad,) = read_jsonl(tmp_path / "posts" / "quarantine.jsonl")
    assert reason in bad["reason"] and "\n" not in bad["reason"] and bad["row"]
    assert [row["id"] for row in read_jsonl(tmp_path / "posts" / "data_manifest.jsonl")] == [
        f"p{n}" for n in range(GOOD)
    ]


# ------------------------------------------------------------------ odd rows that are good: they come out right

RED, BLUE, GREY, WHITE = (255, 0, 0), (0, 0, 255), (64, 64, 64), (255, 255, 255)


def halves(left=RED, right=BLUE, mode="RGB", size=(80, 80)):
    picture = Pillow.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def palette():
    picture = Pillow.new("P", (80, 80), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (40, 0, 80, 80))
    return picture


def turned():
    exif = Pillow.Exif()
    exif[0x0112] = 6  # stored lying, to be shown upright
    return encoded(halves().transpose(Pillow.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def deep():
    return encoded(Pillow.fromarray(np.repeat([[64 * 257, 65_535]], 40, axis=1).repeat(80, axis=0).astype(np.uint16)))


GREEN = Pillow.new("RGB", (80, 80), (0, 255, 0))
ODD = {
    "16-bit grey": (deep(), GREY, WHITE),
    "16-bit RGB": (png(2, 1, 16, 2, b"\0" + b"\xff\xff\0\0\0\0" + b"\0\0\0\0\xff\xff"), RED, BLUE),
    "CMYK JPEG": (encoded(halves().convert("CMYK"), "JPEG", quality=95), RED, BLUE),
    "palette": (encoded(palette()), RED, BLUE),
    "hidden colours": (encoded(halves((255, 0, 0, 0), (0, 0, 255, 255), "RGBA")), WHITE, BLUE),
    "hidden colours in a palette": (encoded(palette(), transparency=0), WHITE, BLUE),
    "turned by EXIF": (turned(), RED, BLUE),
    "animated GIF": (encoded(halves(), "GIF", save_all=True, append_images=[GREEN]), RED, BLUE),
    "animated PNG": (encoded(halves(), save_all=True, append_images=[GREEN]), RED, BLUE),
    "animated PNG whose first picture no browser shows": (
        encoded(GREEN, save_all=True, append_images=[halves(), GREEN], default_image=True),
        RED,
        BLUE,
    ),
    "animated WEBP": (encoded(halves(), "WEBP", lossless=True, save_all=True, append_images=[GREEN]), RED, BLUE),
    "1 x 1": (encoded(Pillow.new("RGB", (1, 1), RED)), RED, RED),
    "1 x 20000": (encoded(Pillow.new("RGB", (1, 20_000), RED)), WHITE, WHITE),
    "20000 x 1": (encoded(halves(size=(20_000, 1))), RED, BLUE),
    "a JPEG named .png": (encoded(halves(), "JPEG", quality=95), RED, BLUE),
    "a JPEG with a zip behind it": (encoded(halves(), "JPEG", quality=95) + b"PK\x03\x04" + bytes(99), RED, BLUE),
}
"""Name -> file, the colour of its left half, and of its right half, as a viewer shows them."""
ANIMATED = sum("animated" in name for name in ODD)
IDS = ["a.b.c", "img/01.png", "../up", "/", ".", "%2E", "two words", "UPPER", "upper", "x" * 300, "x" * 299 + "y"]
IDS += ["😀 meme", "日本語", "e\u0301", "\u00e9", "id\twith\ntabs", "*?[x]", "-", "0", "a" * 50 + "😀" * 60]
TEXTS = {
    "NUL": ("a\0b", "[OCR] ab [/OCR]"),
    "lone surrogate": ("a \ud83d b", "[OCR] a \ufffd b [/OCR]"),
    "zero-width signs between letters": ("wo\u200brds o\u2060f", "[OCR] words of [/OCR]"),
    "only zero-width signs": ("\u200b\u200d\ufeff", None),
    "only white space": (" \n\u3000", None),
    "a text of the greatest length": ("word " * 20_000, "[OCR] word word"),
    "forged blocks": ("[/OCR] [CAP] x", "[OCR] (/OCR) (CAP) x [/OCR]"),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A packed run over odd rows: ``(id -> text, picture, labels), what the run said, its workspace``."""
    folder = tmp_path_factory.mktemp("odd")
    memes, notes = Memes(folder / "memes"), Notes()
    for name, (blob, *_) in ODD.items():
        memes.add({"id": name, "text": f"the picture is {name}"}, blob)
    for number, identity in enumerate(IDS):
        memes.add({"id": identity, "text": f"the post has number {number} here"}, encoded(scene(100 + number)))
    for number, (name, (text, _)) in enumerate(TEXTS.items()):
        memes.add({"id": name, "text": text}, encoded(scene(200 + number)))
    memes.add({"id": "no label", "label": None}, encoded(scene(150)))
    space = memes.run(folder, notes, until="shards")
    modalities = build_modalities(parse_config(memes.content()))
    taxonomy = Taxonomy.from_json(read_json(space.taxonomy))
    rows = {}
    for name in space.packed_splits():
        split = open_split(space.shards(name), modalities, taxonomy)
        for row, identity in enumerate(split.ids):
            text, picture = (split.values(part)[row] for part in ("text", "image"))
            rows[identity] = text if split.present["text"][row] else None, picture
    return rows, notes.lines, space


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_packed_as_a_viewer_shows_it(odd, name):
    _, *expected = ODD[name]
    picture = odd[0][name][1]
    assert (picture.mode, picture.size) == ("RGB", (384, 384))
    for x, colour in zip((90, 294), expected, strict=True):
        assert np.abs(np.array(picture.getpixel((x, 191))) - colour).max() <= 6
    if name == "1 x 20000":
        assert picture.getpixel((191, 191)) == RED


def test_an_odd_id_comes_through_the_shards_with_its_own_picture_and_words(odd):
    rows, _, space = odd
    assert set(IDS) <= {row["id"] for row in read_jsonl(space.manifest)}
    for number, identity in enumerate(IDS):
        text, picture = rows[identity]
        assert f"number {number} here" in text
        expected = scene(100 + number).resize((8, 6), Pillow.Resampling.BOX)
        found = picture.crop((0, 48, 384, 336)).resize((8, 6), Pillow.Resampling.BOX)
        assert np.abs(np.asarray(expected, int) - np.asarray(found, int)).mean() < 4


@pytest.mark.parametrize("name", TEXTS)
def test_an_odd_text_is_packed_as_a_reader_sees_it_or_as_absent(odd, name):
    expected = TEXTS[name][1]
    text = odd[0][name][0]
    assert text is None if expected is None else text.startswith(expected)


def test_what_was_read_in_part_or_not_at_all_is_told(odd):
    rows, notes, space = odd
    assert "no label" not in rows and "no label" in {row["id"] for row in read_jsonl(space.manifest)}
    assert "1 rows bear no abuse_hate: for scoring, not for training" in notes
    assert read_json(space.record)["steps"]["manifest"]["animated"] == ANIMATED == 4
    (told,) = (note for note in notes if "animated" in note)
    assert told.startswith(f"{ANIMATED} ") and "first frame" in told
    assert not any("quarantined" in note for note in notes)
    assert len(rows) == GOOD + len(ODD) + len(IDS) + len(TEXTS)


# ------------------------------------------------------------------ the same input, served


@pytest.fixture(scope="module")
def system(small_run):
    return bifocal.load(small_run)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every picture of this file, bad and good, under its name."""
    folder = tmp_path_factory.mktemp("files")
    for name, (blob, *_) in {**PICTURES, **ODD}.items():
        (folder / f"{name}.png").write_bytes(blob)
    return folder


@pytest.mark.parametrize("name", PICTURES)
def test_a_bad_picture_is_refused_by_name_in_serving_too(small_run, system, files, command, name):
    path = files / f"{name}.png"
    with pytest.raises(DataError, match=PICTURES[name][1]) as caught:
        system.predict(text="words", image_path=path)
    one_line(caught.value, str(path))
    refused(command("predict", small_run, "--text", "words", "--image", path), str(path))


@pytest.mark.parametrize("name", [*TEXTS, "5 is no text", "10 MB"])
def test_an_odd_text_is_served_as_the_run_would_read_it(system, name):
    expected = TEXTS.get(name, (None, None))[1]
    text = {"5 is no text": 5, "10 MB": "word " * 2_000_000}.get(name) or TEXTS[name][0]
    if expected:
        words = expected.replace("[OCR]", "").replace("[/OCR]", "").strip()  # the posts' own words in this run
        assert words in system.predict(text=text).text_used
        return
    with pytest.raises(DataError) as caught:
        system.predict(text=text)
    reason = {"5 is no text": "must be a string, found int", "10 MB": "at most 100,000 are allowed: shorten it"}
    one_line(caught.value, reason.get(name, "the post has none of it (or no words)"))


def test_a_table_of_good_and_bad_posts_comes_out_whole(small_run, files, tmp_path, command):
    names = [*PICTURES, *ODD]
    posts = [{"id": name, "image_path": str(files / f"{name}.png")} for name in names]
    posts += [{"id": identity, "text": "a quiet morning"} for identity in IDS]
    posts += [{"id": name, "text": text} for name, (text, _) in TEXTS.items()]
    posts += [{"id": "gone", "image_path": "gone.png"}, {"id": "a folder", "image_path": "."}, {"id": "nothing"}]
    posts += [{"id": "a pipe", "image_path": str(tmp_path / "pipe.png")}, {"id": "10 MB", "text": "word " * 2_000_000}]
    os.mkfifo(tmp_path / "pipe.png")
    lines = [*map(json.dumps, posts), '{"id": "cut", "te', "[]"]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines))
    for ending in ("jsonl", "csv"):
        output = tmp_path / f"out.{ending}"
        inside = ["--images", tmp_path.parent, "--json"]
        status, out, err = command("score", small_run, tmp_path / "posts.jsonl", "-o", output, *inside)
        counts = json.loads(out)
        assert (
            status == 2
            and "over 5% could not be decided" in err
            and counts["rows"] == len(lines)
            and counts["failed"] == len(PICTURES) + 2 + 5 + 2
        )
    rows = list(read_jsonl(tmp_path / "out.jsonl"))
    assert [row["id"] for row in rows[:-2]] == [post["id"] for post in posts]
    failed = {row["id"]: row["error"] for row in rows if row["error"]}
    assert not any("\n" in error for error in failed.values())
    assert set(PICTURES) <= set(failed) and not set(ODD) & set(failed) and not set(IDS) & set(failed)
    for name, (_, reason) in PICTURES.items():
        assert re.search(reason, failed[name]) and f"{name}.png" in failed[name]
    assert "posts.jsonl:" in rows[-1]["error"] and "posts.jsonl:" in rows[-2]["error"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("id,text\n1,caf\xe9\n".encode("latin-1"), "is not UTF-8 at byte 13 (0xe9, line 2)"),
        ("id,text\n1,words\n".encode("utf-16"), "is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8"),
        (b"id,txt\n1,words\n", "has the columns id, txt"),
        (b"", "posts.csv is empty"),
    ],
)
def test_a_table_that_cannot_be_scored_is_named(small_run, tmp_path, command, content, part):
    (tmp_path / "posts.csv").write_bytes(content)
    answer = command("score", small_run, tmp_path / "posts.csv", "-o", tmp_path / "out.csv", "--quiet")
    refused(answer, "posts.csv", part)
    assert not (tmp_path / "out.csv").exists()


def test_an_open_quote_or_a_comma_too_many_makes_no_other_posts_of_those_that_follow(small_run, tmp_path, command):
    lines = ["id,text,image_path", "1,words,", "2,words, and more,", '3,"never closed,', "4,words,", "5,words,"]
    (tmp_path / "posts.csv").write_text("\n".join(lines))
    status, out, err = command("score", small_run, tmp_path / "posts.csv", "-o", tmp_path / "out.jsonl", "--json")
    assert status == 2 and json.loads(out)["failed"] == 1 and "1 of 5 rows" in err
    rows = list(read_jsonl(tmp_path / "out.jsonl"))
    assert [row["id"] for row in rows] == ["1", "1", "3", "4", "5"] and "4 cells where" in rows[1]["error"]
    assert "never closed" in rows[2]["text_used"] and not any(row["error"] for row in rows[2:])


def test_a_byte_order_mark_is_no_matter(small_run, tmp_path, command):
    (tmp_path / "posts.csv").write_bytes(b"\xef\xbb\xbfid,text\r\n1,words\r\n")
    status, out, _ = command("score", small_run, tmp_path / "posts.csv", "-o", tmp_path / "out.csv", "--json")
    assert status == 0 and json.loads(out)["decided"] == 1


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["--set", "sourse.kind=x"], ["unknown key 'sourse'; did you mean 'source'?"]),
        (["--set", "experts.text.epoch=3"], ["unknown key 'experts.text.epoch'; did you mean 'epochs'?"]),
        (["--set", "source.rot=x"], ["'rot'; did you mean 'root'?"]),
        (["--set", "source.kind=hateful_meme"], ["did you mean 'hateful_memes'?"]),
        (["--set", "experts.text.epochs=many"], ["experts.text.epochs = 'many'", "valid integer"]),
        (["--set", "seed=[1]"], ["seed = [1]", "valid integer"]),
        (["--set", "limit=0"], ["limit = 0", "greater than or equal to 1"]),
        (["--set", "modalities=text"], ["modalities = 'text'", "takes a list"]),
        (["--set", "modalities=[text, sound]", "--set", "experts.image=null"], ["'sound'", "known: image"]),
        (["--set", "label=abuse_hat"], ["did you mean 'abuse_hate'?"]),
        (["--set", "run=../elsewhere"], ["run = '../elsewhere'"]),
        (["--set", "source.root=${NOWHERE_SET}"], ["${NOWHERE_SET}, which is not set: export NOWHERE_SET="]),
        (["--set", "source.root=nowhere"], ["nowhere does not exist; expected at least one of train.jsonl"]),
        (["--set", "epochs"], ["--set takes a.b=c, found 'epochs'"]),
        (["--until", "shard"], ["there is no step 'shard'; did you mean 'shards'?"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed_and_nothing_is_begun(memes, tmp_path, command, changes, parts):
    path = memes.path()
    refused(command("run", path, *changes, "--runs", tmp_path / "runs", "--quiet"), *parts)
    assert not list((tmp_path / "runs").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"run: [", "is not valid YAML in UTF-8"),
        (b"run: a\n\tlabel: b", "is not valid YAML in UTF-8"),
        ("run: caf\xe9".encode("latin-1"), "is not valid YAML in UTF-8"),
        (b"- run", "must hold a mapping of options, found list"),
        (b"", "must hold a mapping of options, found NoneType"),
        (b"run: a", "'source' is required"),
        (b"run: !!python/object/apply:os.system ['true']\n", "is not valid YAML in UTF-8"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, command, content, part):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    refused(command("run", path, "--runs", tmp_path, "--quiet"), str(path), part)


# ------------------------------------------------------------------ splits and classes


def words_only(memes, **changes):
    """A configuration whose one expert learns in a second."""
    return memes.content(
        modalities=["text"], experts={"text": {"model": "tiny", "tune": "head"}}, bootstrap=100, **changes
    )


def official(memes, **labels):
    """Rows of every official split with these labels."""
    for split, values in labels.items():
        rows = [
            {"id": f"{split}{n}", "img": f"img/{n % GOOD}.png", "label": y, "text": f"{split} {n} words {n * 7} {y}"}
            for n, y in enumerate(values)
        ]
        (memes.root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_to_learn_from_without_positives_is_named_and_what_was_done_stays(memes, tmp_path, command, split):
    labels = {"train": [0, 1] * 10, "dev": [0, 1] * 3, "test": [0, 1] * 3}
    name = {"train": "train", "val": "dev"}[split]
    official(memes, **{**labels, name: [0] * len(labels[name])})
    path = memes.path(words_only(memes))
    answer = command("run", path, "--runs", tmp_path, "--quiet")
    refused(answer, f"are or may become {split} are '0'", "two classes at least", "give more labelled rows")
    space = Workspace.of(tmp_path / "memes")
    assert "shards" not in read_json(space.record)["steps"]  # told before anything long is done


def test_a_fusion_that_could_not_learn_is_refused_before_its_experts_do(memes, tmp_path, command):
    official(memes, train=[0] * 30 + [1], dev=[0, 1] * 3, test=[0, 1] * 3)
    tiny = {"model": "tiny", "epochs": 1}
    path = memes.path(memes.content(experts={"text": tiny, "image": tiny}))
    answer = command("run", path, "--runs", tmp_path, "--quiet")
    refused(answer, "kept aside for the fusion", "two classes at least", "`fusion.holdout`", "`tune: head`")
    assert not (tmp_path / "memes" / "models").exists()


def test_a_test_split_without_positives_and_a_class_of_one_row_end_with_what_can_be_said(memes, tmp_path):
    official(memes, train=[0] * 20 + [1], dev=[0, 1] * 3, test=[0] * 6)
    space = Workspace.of(run(parse_config(words_only(memes)), root=tmp_path))
    measured = read_json(space.results)["models"]["text_expert"]
    assert measured["test"]["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    assert (measured["test"]["n"], measured["test"]["positives"]) == (6, 0)
    assert measured["train"]["positives"] == 1 and 0 <= measured["test"]["metrics"]["accuracy"]["value"] <= 1
    assert (space.report / "index.html").is_file()


# ------------------------------------------------------------------ models


class Evil:
    """Leaves a file behind where a pickle of it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_model_missing_offline_is_one_line_with_the_ways_out(memes, tmp_path, command, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = memes.path(words_only(memes))
    model = "experts.text.model=no-such-maker/no-such-model"
    answer = command("run", path, "--set", model, "--runs", tmp_path, "--quiet")
    refused(answer, "no-such-maker/no-such-model", "unset HF_HUB_OFFLINE", "copy the model's folder", "`model: tiny`")
    status, *_ = command("run", path, "--runs", tmp_path, "--until", "experts", "--quiet")
    assert status == 0


def stored(tmp_path):
    """A model folder as users download them."""
    import transformers

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with quiet():
        transformers.BertModel(transformers.BertConfig(vocab_size=20, **size)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        ("cut", ["its model.safetensors is damaged", "copy the model's folder again"]),
        ("flipped name", ["1 of 23 encoder tensors missing", "take a complete model"]),
        ("flipped exponents", ["holds infinity or no number at all", "copy the model's folder again"]),
        (
            "evil",
            ["pytorch_model.bin is damaged, or would run code when opened", "take the model in safetensors format"],
        ),
    ],
)
def test_a_damaged_or_evil_model_is_refused_before_it_is_used(memes, tmp_path, command, damage, parts):
    folder = stored(tmp_path)
    weights = folder / "model.safetensors"
    blob = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(blob[:-500])
    elif damage == "flipped name":
        weights.write_bytes(blob.replace(b"embeddings.word", b"embeddings.wOrd"))
    elif damage == "flipped exponents":
        weights.write_bytes(blob[:-400] + b"\xff" * 400)
    else:
        weights.unlink()
        torch.save({"pooler.dense.bias": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    path = memes.path(words_only(memes))
    answer = command("run", path, "--set", f"experts.text.model={folder}", "--runs", tmp_path, "--quiet")
    refused(answer, str(folder), *parts)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["text_expert/model.safetensors", "vision_expert/config.json", "mm_fusion/fusion_model.pt"]
)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_model_of_a_run_is_named_and_never_served(small_run, tmp_path, command, name, damage):
    shutil.copytree(small_run, tmp_path / "small")
    path = tmp_path / "small" / "models" / name
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(bytes(blob) if damage == "flipped" else blob[: len(blob) // 2])
    answer = command("predict", tmp_path / "small", "--text", "words")
    err = refused(answer, str(path))
    assert "again" in err


def test_an_evil_fusion_is_not_run_even_under_its_own_hash(small_run, tmp_path, command):
    shutil.copytree(small_run, tmp_path / "small")
    folder = tmp_path / "small" / "models" / "mm_fusion"
    torch.save({"weight": Evil(tmp_path / "ran")}, folder / "fusion_model.pt")
    card = read_json(folder / "config.json")
    write_json(folder / "config.json", card | {"sha256": file_sha256(folder / "fusion_model.pt")})
    refused(command("predict", tmp_path / "small", "--text", "words"), str(folder), "run the step `fusion` again")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------ shards and caches


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """``(memes, workspace)`` of a packed run with several shards; copy it, never write to it."""
    folder = tmp_path_factory.mktemp("packed")
    memes = Memes(folder / "memes")
    return memes, Workspace.of(run(parse_config(sharded(memes)), root=folder, until="shards"))


def sharded(memes):
    return words_only(memes, shard_size=5)


@pytest.fixture
def space(packed, tmp_path):
    shutil.copytree(packed[1].folder, tmp_path / "memes")
    return Workspace.of(tmp_path / "memes")


def shard(space, number=0):
    return space.shards("train") / f"shard-{number:06d}.tar"


def contents(space):
    """Name -> bytes of all that is packed."""
    return {p.name + p.parent.name: p.read_bytes() for p in sorted((space.folder / "shards").rglob("*")) if p.is_file()}


def rewrite(space, change):
    """The first shard, member by member, as a broken or an evil packer might have written it."""
    with tarfile.open(shard(space)) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(shard(space), "w") as tar:
        for name, blob in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))


def hide(space):
    """Bring the index and the record up to date, so that neither size nor hash tells of what was done."""
    index = read_json(space.shards("train") / INDEX)
    for entry in index["shards"]:
        entry["sha256"] = file_sha256(space.shards("train") / entry["name"])
    write_json(space.shards("train") / INDEX, index)
    record = read_json(space.record)
    outputs = record["steps"]["shards"]["outputs"]
    outputs |= {name: (space.folder / name).stat().st_size for name in outputs}
    write_json(space.record, record)


def cut_mid_member(space):
    shard(space).write_bytes(shard(space).read_bytes()[:700])


def cut_at_a_boundary(space):
    with tarfile.open(shard(space)) as tar:
        end = tar.getmembers()[4].offset  # after the second of five samples of two members
    shard(space).write_bytes(shard(space).read_bytes()[:end] + bytes(1024))


def flip_a_payload(space):
    blob = shard(space).read_bytes()
    at = blob.index(b"visitor")
    shard(space).write_bytes(blob[:at] + b"V" + blob[at + 1 :])


def double_a_key(space):
    rewrite(space, lambda members: [*members, members[0]])


def lose_a_member(space):
    rewrite(space, lambda members: members[1:])


def add_a_pickle(space):
    evil = pickle.dumps(Evil(space.folder / "ran"))
    rewrite(space, lambda members: [*members, (members[0][0].partition(".")[0] + ".pyd", evil)])


def lose_a_shard(space):
    shard(space).unlink()


def add_a_shard(space):
    shutil.copy(shard(space), shard(space, 99))


HIDDEN = {
    cut_mid_member: "is not a whole tar",
    cut_at_a_boundary: "holds 2 samples, index.json says 5",
    double_a_key: "is there twice",
    lose_a_member: "lacks its member",
    add_a_pickle: ".pyd' is none of <key>.txt, <key>.json as a plain file",
    add_a_shard: "shard-000099.tar is not in it",
}


@pytest.mark.parametrize("damage", [cut_mid_member, cut_at_a_boundary, lose_a_shard])
def test_damage_that_changes_a_shards_size_is_mended_by_the_next_run(packed, space, damage):
    before = contents(space)
    damage(space)
    assert contents(space) != before
    run(parse_config(sharded(packed[0])), root=space.folder.parent, until="shards")
    assert contents(space) == before


@pytest.mark.parametrize("damage", [flip_a_payload, *HIDDEN], ids=lambda damage: damage.__name__)
def test_damage_that_no_size_tells_of_is_refused_by_name_and_mended_as_the_line_says(packed, space, command, damage):
    before = contents(space)
    damage(space)
    if damage in HIDDEN:
        hide(space)
    words = ["run", packed[0].path(sharded(packed[0])), "--runs", space.folder.parent, "--quiet"]
    told = HIDDEN.get(damage, "was cut or altered")
    refused(command(*words, "--until", "experts"), str(shard(space).parent), told, "run the step `shards` again")
    assert not (space.folder / "ran").exists() and not space.models.exists()
    status, *_ = command(*words, "--from", "shards", "--until", "shards")
    assert status == 0 and contents(space) == before


def test_shards_of_another_taxonomy_are_refused_by_name(packed, space, tmp_path, command):
    memes, _ = packed
    content = sharded(memes)
    content = {**content, "run": "other", "label": "sarcasm", "source": {**content["source"], "label": "sarcasm"}}
    other = Workspace.of(run(parse_config(content), root=tmp_path, until="shards"))
    for split in space.packed_splits():
        shutil.rmtree(space.shards(split))
        shutil.copytree(other.shards(split), space.shards(split))
    hide(space)
    words = ["run", memes.path(sharded(memes)), "--runs", space.folder.parent, "--until", "experts", "--quiet"]
    refused(command(*words), "was packed with another taxonomy", "run the step `shards` again")


@pytest.mark.parametrize("damage", ["other weights", "flipped", "cut"])
def test_a_cache_that_is_not_these_weights_is_written_anew_and_changes_no_figure(
    small_config, small_run, tmp_path, damage
):
    folder = tmp_path / "small"
    shutil.copytree(small_run, folder)
    cache = folder / "evidence" / "text_expert" / "test.safetensors"
    good = cache.read_bytes()
    if damage == "cut":
        cache.write_bytes(good[: len(good) // 2])
    else:
        with safe_open(cache, "pt") as f:
            metadata = dict(f.metadata())
        tensors = {name: -t if t.is_floating_point() else t for name, t in load_file(cache).items()}
        if damage == "other weights":  # whole in itself, but of another encoder
            metadata |= {"encoder": "0" * 16, "sha256": _digest(tensors)}
        save_file(tensors, cache, metadata)
    run(parse_config(small_config), root=tmp_path, start="evaluate", until="evaluate")
    assert read_json(folder / "results_small.json") == read_json(small_run / "results_small.json")
    again = load_file(cache)
    for name, tensor in load_file(small_run / "evidence" / "text_expert" / "test.safetensors").items():
        assert torch.allclose(again[name].float(), tensor.float(), atol=1e-5)


def test_processes_that_cannot_share_memory_are_not_blamed_on_a_file(tmp_path, monkeypatch):
    """Python's processes share semaphores in /dev/shm, which some containers mount read-only."""
    import errno

    from bifocal.data import transcriber_pool
    from bifocal.data.transcribers import active_transcribers
    from bifocal.errors import RunError

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(transcriber_pool, "ProcessPoolExecutor", refuse)
    (active,) = active_transcribers(parse_config({"run": "pool", "source": {"kind": "synthetic"}}))
    work = transcriber_pool.TranscriberPool(None, active, None, print)
    work._processes = 2
    with pytest.raises(RunError, match=r"no OCR processes can be .*Read-only.* /dev/shm, .* or set ocr.workers: 1"):
        list(work._together(iter(())))
