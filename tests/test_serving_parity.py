"""A post served again gets what the run measured: through OCR, as a transcript, and on pictures that are no squares."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import bifocal
from bifocal.config import parse_config
from bifocal.modalities.image import Image as ImageModality
from bifocal.pipeline.train import run
from bifocal.sources.synthetic import Synthetic
from bifocal.transcribe.ocr import Reading
from bifocal.workspace import Workspace, read_jsonl

TINY = {"model": "tiny", "epochs": 1, "batch_size": 8}
COMMON = {
    "ocr": "auto",
    "experts": {"text": {**TINY, "learning_rate": 2e-3}, "image": {**TINY, "learning_rate": 1e-3}},
    "fusion": {"seeds": 1, "options": {"epochs": 5}},
    "bootstrap": 100,
}


def error_table(folder):
    with open(Workspace.of(folder).errors, newline="") as f:
        return {row["id"]: row for row in csv.DictReader(f)}


def check_parity(decision, row):
    said = {"text": "text_expert", "vision": "vision_expert", "fusion": "mm_fusion"}
    for prefix, model in said.items():
        assert (model in decision.models) == bool(row[f"{prefix}_prob"])
        if model in decision.models:
            assert decision.models[model].probability == pytest.approx(float(row[f"{prefix}_prob"]), abs=1e-4)
            assert decision.models[model].label == int(row[f"{prefix}_pred"])
    if "text_expert" in decision.models:
        assert decision.text_used == row["text"]


def test_pictures_with_words_on_them_are_read_again_and_decided_alike(tmp_path):
    """Only picture files are posted: what the text expert reads comes from OCR, in the run and in serving."""
    options = {"size": 30, "overlay": True}
    config = parse_config({**COMMON, "run": "drawn", "source": {"kind": "synthetic", **options}})
    folder = run(config, root=tmp_path)
    read = {row["id"]: row["text"] for row in read_jsonl(Workspace.of(folder).ocr)}
    system, source = bifocal.load(folder), Synthetic(**options)
    table = error_table(folder)
    assert len(table) == 6 and sum(bool(read[i]) for i in table) >= 5
    for i, row in table.items():
        picture = tmp_path / "post.png"
        picture.write_bytes(source.open(f"synthetic:{int(i.removeprefix('syn-'))}"))
        decision = system.predict(image_path=picture)
        check_parity(decision, row)
        assert " ".join(read[i].split()) in decision.text_used


@pytest.fixture(scope="module")
def memes(tmp_path_factory):
    """Wide and tall pictures whose ends differ from their middle, with a transcript each but for a few."""
    root = tmp_path_factory.mktemp("memes")
    (root / "img").mkdir()
    rng = np.random.default_rng(0)
    number = 0
    for name, n in (("train", 40), ("dev", 12), ("test", 12)):
        rows = []
        for _ in range(n):
            label = number % 2
            pixels = np.zeros((100, 300, 3), np.uint8)
            pixels[:, :100], pixels[:, 100:200], pixels[:, 200:] = rng.integers(0, 256, (3, 3))
            pixels[40:60, 140:160] = (255, 0, 0) if label else (0, 0, 255)
            if number % 3 == 0:
                pixels = pixels.transpose(1, 0, 2)
            picture = f"img/{number}.png"
            Image.fromarray(pixels).save(root / picture)
            word = "storm" if label else "calm"
            row = {"id": f"row{number}", "img": picture, "label": label, "text": f"{word} over hill number {number}"}
            if number % 10 == 5:
                del row["text"]
            rows.append(row)
            number += 1
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def transcribed(memes, tmp_path_factory):
    """A run on them that takes the text for a transcript and crops."""
    source = {"kind": "hateful_memes", "root": str(memes), "text_role": "transcript"}
    config = parse_config({**COMMON, "run": "crop", "source": source, "fit": "crop"})
    return run(config, root=tmp_path_factory.mktemp("runs"))


class Reader:
    """Stands in for OCR and counts."""

    def __init__(self, text=""):
        self.text, self.calls = text, 0

    def __call__(self, _):
        self.calls += 1
        return Reading(self.text, [], None, "rapidocr")


def test_posts_with_cropped_pictures_and_transcripts_are_decided_as_in_the_run(memes, transcribed):
    table = error_table(transcribed)
    system = bifocal.load(transcribed)
    assert system.modalities["image"].fit == "crop"
    rows = [json.loads(line) for line in (memes / "test.jsonl").read_text().splitlines()]
    assert set(table) == {row["id"] for row in rows} and not all("text" in row for row in rows)
    for row in rows:
        check_parity(system.predict(row.get("text"), memes / row["img"]), table[row["id"]])


def test_these_pictures_tell_the_ways_to_fit_apart(memes, transcribed):
    """Without this the test above would also pass where serving pads what the run cropped."""
    system = bifocal.load(transcribed)
    table = error_table(transcribed)
    system.modalities["image"] = ImageModality("pad")
    rows = [json.loads(line) for line in (memes / "test.jsonl").read_text().splitlines()]
    padded = [system.predict(row.get("text"), memes / row["img"]).models["vision_expert"] for row in rows]
    said = [float(table[row["id"]]["vision_prob"]) for row in rows]
    assert max(abs(a.probability - b) for a, b in zip(padded, said, strict=True)) > 1e-3


def test_a_transcript_goes_into_the_ocr_block_and_spares_the_ocr(memes, transcribed, read_by):
    system = bifocal.load(transcribed)
    reader = Reader("words off the picture")
    read_by(system, reader)
    decision = system.predict(text="storm over hill", image_path=memes / "img/0.png")
    assert decision.text_used.startswith("[OCR] storm over hill [/OCR] [CAP] [/CAP]")
    assert reader.calls == 0
    read = system.predict(image_path=memes / "img/0.png")
    assert read.text_used.startswith("[OCR] words off the picture [/OCR] [CAP] [/CAP]")
    assert reader.calls == 1


def test_the_posts_own_words_leave_the_picture_to_be_read(memes, transcribed, read_by):
    """The same system told that texts are captions, as the record of another run would tell it."""
    system = bifocal.load(transcribed)
    system.preprocessor.text_role, reader = "caption", Reader("words off the picture")
    read_by(system, reader)
    decision = system.predict(text="my holiday", image_path=memes / "img/0.png")
    assert decision.text_used.startswith("[OCR] words off the picture [/OCR] [CAP] my holiday [/CAP]")
    assert reader.calls == 1
