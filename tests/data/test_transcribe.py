import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from bifocal.config import TranscriberConfig
from bifocal.data.transcribe import transcribe
from bifocal.data.transcriber_pool import duration
from bifocal.data.transcribers import ActiveTranscriber, wanted
from bifocal.errors import DataError, MissingExtra, PictureError, RunError
from bifocal.example import Example
from bifocal.transcribe import _ocr_models as ocr_models
from bifocal.transcribe import ocr
from bifocal.transcribe._ocr_models import engine_name
from bifocal.transcribe.ocr import Reading

VOCABULARY = [
    "river",
    "garden",
    "wooden",
    "quiet",
    "morning",
    "letter",
    "silver",
    "carpet",
    "window",
    "travel",
    "dinner",
]
MEMES = 10


def meme(seed):
    """A caption above and below, white with a black stroke, on a noisy gradient; and its words."""
    rng = np.random.default_rng(seed)
    words = random.Random(seed).sample(VOCABULARY, 6)
    ramp = np.linspace(40, 200, 384)
    background = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], ramp[None] / 2), axis=-1)
    noisy = (background + rng.normal(0, 12, background.shape)).clip(0, 255).astype(np.uint8)
    picture = Pillow.fromarray(noisy)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=28)
    for y, line in ((12, words[:3]), (336, words[3:])):
        draw.text((192, y), " ".join(line), font=font, fill="white", stroke_width=2, stroke_fill="black", anchor="ma")
    return picture, words


def letters(text):
    return "".join(text.casefold().split())


class Folder:
    """A source whose references are paths, and which notes what was opened."""

    def __init__(self, text_role="transcript"):
        self.text_role = text_role
        self.opened = []

    def role_of(self, example):
        return self.text_role

    def open(self, reference):
        self.opened.append(Path(reference).stem)
        try:
            return Path(reference).read_bytes()
        except FileNotFoundError:
            raise DataError(f"{reference} is missing") from None


def write_manifest(folder, *parts):
    """A manifest of pictures ``p0, p1, ...``; a plain white one is drawn where none is there."""
    rows = []
    for i, extra in enumerate(parts):
        path = folder / f"p{i}.png"
        if not path.exists():
            Pillow.new("RGB", (8, 8), "white").save(path)
        rows.append(Example(f"p{i}", {"image": str(path), **extra}, {}).to_json())
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def read_pictures(manifest, source, out, *, cache=None, progress=None, note=None, **settings):
    """OCR as a run with these settings has it."""
    config = TranscriberConfig(**settings)
    active = ActiveTranscriber("ocr", ocr.Ocr.from_config(config), config)
    return transcribe(manifest, source, active, out, cache=cache, progress=progress, note=note)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------ the engine itself


@pytest.fixture(scope="module")
def memes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memes")
    for i in range(MEMES):
        meme(i)[0].save(folder / f"p{i}.png")
    return write_manifest(folder, *[{}] * MEMES)


@pytest.fixture(scope="module")
def whole(memes):
    """What one uninterrupted process makes of the memes."""
    out = memes.parent / "whole.jsonl"
    counts = read_pictures(memes, Folder(), out, when="auto", workers=1)
    assert counts.pop("seconds_per_picture") > 0
    none = dict.fromkeys(("skipped", "resumed", "cached", "unread", "captions", "repeated"), 0)
    assert counts == {"pictures": MEMES, "read": MEMES, "with_text": MEMES, **none}
    return out


def test_drawn_captions_are_read(whole):
    rows = rows_of(whole)
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(MEMES)]
    right = sum(letters(row["text"]) == "".join(meme(i)[1]) for i, row in enumerate(rows))
    assert right >= 0.9 * MEMES
    for row in rows:
        assert list(row) == ["id", "text", "boxes", "confidence", "engine", "unread", "language"]
        assert row["engine"].startswith("rapidocr 3.")
        assert 0.5 < row["confidence"] <= 1
        (top, bottom) = row["boxes"]
        assert np.shape(top) == np.shape(bottom) == (4, 2)
        assert max(y for _, y in top) < 192 < min(y for _, y in bottom)


def test_a_reader_takes_any_size_and_finds_nothing_on_nothing(caplog, capfd):
    reader = ocr.Ocr()
    empty = reader.read_picture(Pillow.new("RGB", (300, 20), "white"))
    assert empty == Reading("", [], None, reader.engine)
    large, words = meme(3)
    assert letters(reader.read_picture(large.resize((1200, 1200))).text) == "".join(words)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def _alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SCRIPT = """
import sys
from pathlib import Path
from bifocal.config import TranscriberConfig
from bifocal.data.transcribe import transcribe
from bifocal.data.transcribers import ActiveTranscriber
from bifocal.transcribe.ocr import Ocr

class Folder:
    def role_of(self, example):
        return "transcript"
    def open(self, reference):
        return Path(reference).read_bytes()

active = ActiveTranscriber("ocr", Ocr(), TranscriberConfig(workers=2))
transcribe(Path(sys.argv[1]), Folder(), active, Path(sys.argv[2]))
"""


def test_a_killed_run_goes_on_where_it_was(memes, whole):
    out = memes.parent / "ocr.jsonl"
    partial = memes.parent / ".ocr.jsonl.partial"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(memes), str(out)])
    try:
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.read_bytes().count(b"\n") >= 3):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    finished = [row["id"] for row in rows_of(partial)]
    assert 3 <= len(finished) < MEMES
    with open(partial, "a") as f:
        f.write('{"id": "p9", "te')  # as a write cut short leaves it

    source = Folder()
    counts = read_pictures(memes, source, out, when="auto", workers=1)
    assert source.opened == [f"p{i}" for i in range(len(finished), MEMES)]
    assert counts["resumed"] == len(finished)
    assert counts["read"] == MEMES
    assert out.read_bytes() == whole.read_bytes()  # also: two processes read what one does, in the same order
    assert not partial.exists()

    deadline = time.monotonic() + 10
    while any(map(_alive, children)):
        assert time.monotonic() < deadline, "processes outlive their killed parent"
        time.sleep(0.05)


def test_a_dying_process_ends_the_run_and_keeps_what_was_read(memes):
    out = memes.parent / "crash.jsonl"

    def kill_a_process(done, total):
        for victim in multiprocessing.active_children()[:1]:
            with contextlib.suppress(ProcessLookupError):  # the one that was killed before, just buried
                os.kill(victim.pid, signal.SIGKILL)

    with pytest.raises(RunError, match=r"an OCR process died at or near row 'p\d'.*`ocr.workers`"):
        read_pictures(memes, Folder(), out, when="auto", workers=2, progress=kill_a_process)
    assert not out.exists()
    assert rows_of(memes.parent / ".crash.jsonl.partial")[0]["id"] == "p0"
    assert not multiprocessing.active_children()


# ------------------------------------------------------------------ what is read, and how often


class FakeReader(ocr.Ocr):
    read_text = "seen words"

    unread = 0

    def load(self):
        """No engine."""

    def key(self):
        return f"key of {self.languages}"

    def read_picture(self, picture):
        boxes = [[[1, 1], [9, 1], [9, 4], [1, 4]]] if self.read_text else []
        return Reading(self.read_text, boxes, 1.0, engine_name(), self.unread)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(ocr, "Ocr", FakeReader)


@pytest.mark.parametrize(
    ("when", "role", "read"),
    [
        ("auto", "transcript", ["p0", "p2"]),
        ("auto", "caption", ["p0", "p1", "p2"]),  # the post's own words are no transcript
        ("always", "transcript", ["p0", "p1", "p2"]),
        ("never", "caption", []),
    ],
)
def test_which_pictures_are_read(tmp_path, fake, when, role, read):
    manifest = write_manifest(tmp_path, {}, {"text": "a transcript"}, {"text": " \u200b"})
    with open(manifest, "a") as f:
        f.write(json.dumps(Example("words", {"text": "no picture"}, {}).to_json()) + "\n")
    source, seen = Folder(role), []
    out = tmp_path / "ocr.jsonl"
    counts = read_pictures(manifest, source, out, when=when, workers=1, progress=lambda *p: seen.append(p))
    assert source.opened == [row["id"] for row in rows_of(out)] == read
    assert seen == [(i + 1, len(read)) for i in range(len(read))]
    seconds = counts.pop("seconds_per_picture")
    assert (seconds > 0) == bool(read)
    n = len(read)
    captions = int(role == "caption" and n > 1)
    found = {"with_text": n, "unread": 0, "captions": captions, "repeated": 0}
    assert counts == {"pictures": 3, "read": n, "skipped": 3 - n, "resumed": 0, "cached": 0, **found}


def test_wanted_serves_a_single_post_too():
    assert wanted("auto", None, "transcript")
    assert not wanted("auto", "words", "transcript")
    assert wanted("auto", "words", "caption")
    assert not wanted("never", None, "caption")


def test_the_language_of_a_reading_is_noted(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(FakeReader, "read_text", "das Wetter ist heute\nwirklich sehr schön")
    read_pictures(write_manifest(tmp_path, {}), Folder(), tmp_path / "ocr.jsonl", when="auto", workers=1)
    assert rows_of(tmp_path / "ocr.jsonl")[0]["language"] == "de"


def _interrupted(tmp_path, lines):
    """A manifest of four pictures, and what an interrupted call left of them."""
    manifest = write_manifest(tmp_path, {}, {}, {}, {})
    (tmp_path / ".ocr.jsonl.partial").write_text("".join(lines), encoding="utf-8")
    return manifest


def _line(identity, engine=None):
    row = {
        "id": identity,
        "text": "earlier",
        "boxes": [],
        "confidence": None,
        "engine": engine or engine_name(),
        "unread": 0,
    }
    return json.dumps(row) + "\n"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([], 0),
        ([_line("p0"), _line("p1")], 2),
        ([_line("p0"), _line("p1")[:-1]], 1),  # whole, but for the line's end
        ([_line("p0"), '{"id": "p1", "te'], 1),
        ([_line("p0"), "\x00\x00\x00\n", _line("p2")], 1),
        ([_line("p0"), _line("p2")], 1),  # of another manifest
        ([_line("p0", "rapidocr 1.0"), _line("p1")], 0),  # of another engine
        ([_line("p0").replace('"unread"', '"other"'), _line("p1")], 0),  # of a Bifocal that did not tell
        ([_line(f"p{i}") for i in range(4)], 4),
        ([_line(f"p{i}") for i in range(5)], 4),
    ],
)
def test_only_rows_that_still_hold_are_kept(tmp_path, fake, lines, kept):
    source, out = Folder(), tmp_path / "ocr.jsonl"
    counts = read_pictures(_interrupted(tmp_path, lines), source, out, when="auto", workers=1)
    assert counts["resumed"] == kept
    assert source.opened == [f"p{i}" for i in range(kept, 4)]
    rows = rows_of(out)
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert [row["text"] for row in rows] == ["earlier"] * kept + ["seen words"] * (4 - kept)


def test_a_manifest_written_since_makes_all_readings_suspect(tmp_path, fake):
    manifest = _interrupted(tmp_path, [_line("p0")])
    later = time.time() + 5
    os.utime(manifest, (later, later))
    assert read_pictures(manifest, Folder(), tmp_path / "ocr.jsonl", when="auto", workers=1)["resumed"] == 0


def test_an_older_result_is_replaced_at_the_end_only(tmp_path, fake):
    out = tmp_path / "ocr.jsonl"
    out.write_text("old")
    manifest = write_manifest(tmp_path, {}, {})
    (tmp_path / "p1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"row 'p1': .* no picture of an allowed format") as error:
        read_pictures(manifest, Folder(), out, when="auto", workers=1)
    assert isinstance(error.value.__cause__, PictureError)
    assert out.read_text() == "old"
    Pillow.new("RGB", (8, 8)).save(tmp_path / "p1.png")
    assert read_pictures(manifest, Folder(), out, when="auto", workers=1)["resumed"] == 1
    assert [row["id"] for row in rows_of(out)] == ["p0", "p1"]


def test_a_missing_picture_names_its_row(tmp_path, fake):
    manifest = write_manifest(tmp_path, {})
    (tmp_path / "p0.png").unlink()
    with pytest.raises(DataError, match=r"row 'p0': .* is missing"):
        read_pictures(manifest, Folder(), tmp_path / "ocr.jsonl", when="auto", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_without_rapidocr_the_extra_is_named_unless_nothing_is_to_be_read(tmp_path, monkeypatch, workers):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(ocr_models, "version", missing)
    manifest = write_manifest(tmp_path, {}, {})
    with pytest.raises(MissingExtra, match=r"pip install 'bifocal\[ocr\]'"):
        read_pictures(manifest, Folder(), tmp_path / "ocr.jsonl", when="auto", workers=workers)
    with pytest.raises(MissingExtra, match=r"pip install 'bifocal\[ocr\]'"):
        ocr.Ocr().load()
    assert read_pictures(manifest, Folder(), tmp_path / "ocr.jsonl", when="never", workers=workers)["read"] == 0
    assert (tmp_path / "ocr.jsonl").read_bytes() == b""


# ------------------------------------------------------------------ readings that runs share, and what is told


def _other_run(tmp_path, name, manifest, **options):
    """A run that reads the same pictures into a folder of its own, with the cache that lies beside."""
    notes = []
    (tmp_path / name).mkdir()
    out = tmp_path / name / "ocr.jsonl"
    options = {"when": "always", "workers": 1, "cache": tmp_path / "cache.sqlite", **options}
    counts = read_pictures(manifest, Folder("caption"), out, note=notes.append, **options)
    return counts, rows_of(out), notes


def _colourful(tmp_path, *parts):
    for i in range(len(parts)):
        Pillow.new("RGB", (8, 8), (20 * i, 90, 90)).save(tmp_path / f"p{i}.png")
    return write_manifest(tmp_path, *parts)


def test_a_picture_is_read_once_for_all_runs(tmp_path, fake, monkeypatch):
    manifest = _colourful(tmp_path, *[{}] * 3)
    first, rows, _ = _other_run(tmp_path, "one", manifest)
    assert (first["read"], first["cached"]) == (3, 0)
    monkeypatch.setattr(FakeReader, "read_text", "read anew")
    second, same, notes = _other_run(tmp_path, "two", manifest)
    assert same == rows
    assert (second["read"], second["cached"], second["seconds_per_picture"]) == (3, 3, 0.0)
    assert notes == []  # nothing is to be read
    third, _, _ = _other_run(tmp_path, "three", manifest, languages=["en"])
    assert third["cached"] == 0, "other models may read other words"
    fourth, _, _ = _other_run(tmp_path, "four", manifest, cache=None)
    assert fourth["cached"] == 0
    Pillow.new("RGB", (8, 8), "red").save(tmp_path / "p1.png")  # the same name, another picture
    fifth, changed, _ = _other_run(tmp_path, "five", manifest)
    assert fifth["cached"] == 2
    assert [row["text"] for row in changed] == ["seen words", "read anew", "seen words"]


@pytest.mark.parametrize("known", [False, True])
def test_what_it_will_cost_is_told_before_it_is_spent(tmp_path, fake, known):
    if known:
        _other_run(tmp_path, "before", _colourful(tmp_path, *[{}] * 9))
    for i in range(12):
        Pillow.new("RGB", (9, 9), (20 * i, 10, 90)).save(tmp_path / f"p{i}.png")
    manifest = write_manifest(tmp_path, *[{}] * 12)
    done = []
    notes = []
    read_pictures(
        manifest,
        Folder(),
        tmp_path / "ocr.jsonl",
        when="always",
        workers=1,
        cache=tmp_path / "cache.sqlite",
        progress=lambda n, total: done.append(n),
        note=lambda text: notes.append((len(done), text)),
    )
    ((when, text),) = notes
    assert text == "12 pictures to read, about 1 s"
    assert when == (0 if known else 7)  # from earlier readings, or from the first of these


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (42.4, "42 s"), (240, "4 min"), (5000, "83 min"), (7300, "2.0 h")]
)
def test_a_duration_is_told_in_one_unit(seconds, told):
    assert duration(seconds) == told


def test_unread_pictures_are_kept_apart_from_wordless_ones(tmp_path, fake, monkeypatch):
    manifest = write_manifest(tmp_path, {}, {"text": "own \u2028 words \ud800"})
    with open(manifest, "a") as f:
        f.write(json.dumps(Example("words", {"text": "no picture"}, {}, meta={"author": "ada"}).to_json()) + "\n")
    before, times = rows_of(manifest), manifest.stat().st_mtime_ns
    out = tmp_path / "ocr.jsonl"
    monkeypatch.setattr(FakeReader, "read_text", "")
    monkeypatch.setattr(FakeReader, "unread", 2)
    counts = read_pictures(manifest, Folder("caption"), out, when="auto", workers=1)
    assert (counts["with_text"], counts["unread"]) == (0, 2)
    assert [row["unread"] for row in rows_of(out)] == [2, 2]
    marked = rows_of(manifest)
    assert [row["meta"].pop("unread", None) for row in marked] == [True, True, None]
    assert marked == before
    assert manifest.stat().st_mtime_ns == times, "a later manifest makes readings suspect"
    out.unlink()
    monkeypatch.setattr(FakeReader, "unread", 0)
    assert read_pictures(manifest, Folder("caption"), out, when="auto", workers=1)["unread"] == 0
    assert rows_of(manifest) == before


def test_texts_that_say_what_stands_on_their_pictures_are_counted(tmp_path, fake):
    texts = ["Seen words!", "SEEN  WORD", "quite another thing", ""]
    manifest = write_manifest(tmp_path, *({"text": text} for text in texts))
    counts = read_pictures(manifest, Folder("caption"), tmp_path / "ocr.jsonl", when="always", workers=1)
    assert (counts["captions"], counts["repeated"]) == (3, 2)
    counts = read_pictures(manifest, Folder("transcript"), tmp_path / "again.jsonl", when="always", workers=1)
    assert counts["captions"] == 0
