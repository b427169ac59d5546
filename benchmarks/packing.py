"""What packing costs beside the work that cannot be avoided: OCR where it reads, else decode + resize + encode.

Three questions, each answered by ratios within one process, the ways taking turns on the same pictures:

- with ``ocr: always``, the steps manifest, ocr, splits and shards against RapidOCR alone in a loop, one worker, and
  what a second one brings to either. Loading the engine and starting processes count on both sides, so take many;
- without OCR, the step shards against Pillow's decode + resize + PNG in as many threads, and in one;
- ``image_format``: bytes, and milliseconds to write and to read, per picture, in one thread.

    BIFOCAL_DATA=../shared python benchmarks/packing.py                                     # a quick look, minutes
    BIFOCAL_DATA=../shared python benchmarks/packing.py --size 2000 --ocr-size 800 --turns 4
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image as Pillow

from bifocal.config import parse_config
from bifocal.contracts import Modality
from bifocal.data.manifest import write_manifest
from bifocal.data.prepare import write_shards, write_splits
from bifocal.data.transcribe import transcribe
from bifocal.data.transcribers import active_transcribers
from bifocal.example import LABELS, Example, Taxonomy
from bifocal.modalities.image import SIDE, Image, decode
from bifocal.modalities.text import Text
from bifocal.sources.synthetic import Synthetic
from bifocal.transcribe.ocr import Ocr
from bifocal.workspace import Workspace

LABEL = "abuse_hate"
TAXONOMY = Taxonomy({LABEL: LABELS[LABEL]})
SETTINGS = {"run": "benchmark", "source": {"kind": "synthetic"}}
CONFIG = parse_config(SETTINGS)
MODALITIES: dict[str, Modality] = {"text": Text(), "image": Image()}
PICTURES = Path(os.environ.get("BIFOCAL_DATA") or "../shared") / "data" / "smear_memes" / "img"
CORES = len(os.sched_getaffinity(0))


class Memes:
    """Real memes where they are at hand, else drawn ones with words on them, over and over until there are enough."""

    text_role = "caption"

    def __init__(self, size: int):
        self.files = sorted(PICTURES.iterdir()) if PICTURES.is_dir() else []
        drawn = Synthetic(size=64, overlay=True)
        self.drawn = [] if self.files else [drawn.open(f"synthetic:{i}") for i in range(drawn.size)]
        self.rows = range(size)

    def role_of(self, example: Example) -> str:
        return self.text_role

    def piece(self, turn: int, turns: int) -> Memes:
        """The rows of one turn."""
        some = Memes(0)
        some.rows = self.rows[turn::turns]
        return some

    def __iter__(self) -> Iterator[Example]:
        for i in self.rows:
            yield Example(f"meme-{i}", {"text": f"post number {i}", "image": str(i)}, {LABEL: i % 2})

    def open(self, reference: str) -> bytes:
        i = int(reference)
        return self.files[i % len(self.files)].read_bytes() if self.files else self.drawn[i % len(self.drawn)]

    def blobs(self) -> list[bytes]:
        return [self.open(str(i)) for i in self.rows]


def seconds(work: Callable[[], Any]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


class Steps:
    """The steps of a run over some memes, in a folder of their own."""

    def __init__(self, source: Any, folder: Path):
        self.source = source
        self.space = Workspace(folder, "benchmark")

    def prepare(self, when: Any, workers: int) -> None:
        """All before the shards."""
        out = self.space.manifest, self.space.quarantine
        write_manifest(self.source, MODALITIES, *out, taxonomy=TAXONOMY, label=LABEL, limit=None, strict=True)
        (ocr,) = active_transcribers(parse_config({**SETTINGS, "ocr": {"when": when, "workers": workers}}))
        transcribe(self.space.manifest, self.source, ocr, self.space.ocr)
        write_splits(self.space, self.source, TAXONOMY, CONFIG)

    def shards(self) -> None:
        write_shards(self.space, self.source, MODALITIES, TAXONOMY, CONFIG, lambda done, total: None)


def whole(source: Any, workers: int) -> None:
    """Everything up to the shards, OCR always."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(source, Path(folder))
        steps.prepare("always", workers)
        steps.shards()


def bare_ocr(pictures: Sequence[Any]) -> None:
    """RapidOCR as Bifocal asks it, over pictures that are decoded."""
    reader = Ocr()
    for picture in pictures:
        reader.read_picture(picture)


def bare_ocr_in_two(pictures: Sequence[Any]) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare_ocr, (pictures[::2], pictures[1::2])))


def ready(blob: bytes) -> Any:
    return decode(blob)


def compare_ocr(source: Memes, turns: int) -> None:
    ways = ("steps, 1 worker", "OCR alone", "steps, 2 workers", "OCR alone, 2 processes")
    spent = dict.fromkeys(ways, 0.0)
    ratios = []
    whole(Memes(8), 1)  # imports, and the models of languages, are loaded once in a process
    for turn in range(turns):
        piece = source.piece(turn, turns)
        pictures = [ready(blob) for blob in piece.blobs()]
        works = (
            lambda piece=piece: whole(piece, 1),
            lambda pictures=pictures: bare_ocr(pictures),
            lambda piece=piece: whole(piece, 2),
            lambda pictures=pictures: bare_ocr_in_two(pictures),
        )
        took = {way: seconds(work) for way, work in zip(ways, works, strict=True)}
        ratios.append(took[ways[0]] / took[ways[1]])
        spent = {way: spent[way] + took[way] for way in ways}
    n = len(source.rows)
    for way in ways:
        print(f"  {way}: {1e3 * spent[way] / n:.0f} ms a picture")
    one, alone, two, alone_two = spent.values()
    print(f"  steps / OCR alone, one worker: {one / alone:.2f}x (turns: {', '.join(f'{r:.2f}' for r in ratios)})")
    print(f"  a second worker: steps {one / two:.2f}x, OCR alone {alone / alone_two:.2f}x", flush=True)


def bare_packing(blob: bytes) -> bytes:
    """The same work by Pillow alone."""
    file = Pillow.open(io.BytesIO(blob))
    file.draft(None, (2 * SIDE, 2 * SIDE))
    picture = file.convert("RGB")
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = Pillow.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(picture.resize(size, Pillow.Resampling.BICUBIC), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pack_by_threads(pool: ThreadPoolExecutor, blobs: Sequence[bytes]) -> None:
    list(pool.map(bare_packing, blobs))


def compare_packing(source: Memes, turns: int) -> None:
    spent = {"shards": 0.0, "threads": 0.0, "one": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns + 1):
            piece = source.piece(max(turn - 1, 0), turns)
            steps = Steps(piece, Path(folder) / str(turn))
            steps.prepare("never", 1)
            blobs = piece.blobs()
            with ThreadPoolExecutor(min(8, CORES)) as pool:
                threads = seconds(partial(pack_by_threads, pool, blobs))
            took = {
                "shards": seconds(steps.shards),
                "threads": threads,
                "one": seconds(partial(list, map(bare_packing, blobs))),
            }
            if turn:  # the first is to warm up
                spent = {way: spent[way] + took[way] for way in spent}
    rate = {way: len(source.rows) / total for way, total in spent.items()}
    print(
        f"  shards {rate['shards']:.0f}/s; Pillow alone {rate['threads']:.0f}/s in {min(8, CORES)} threads, "
        f"{rate['one']:.0f}/s in one: {rate['shards'] / rate['threads']:.2f}x and {rate['shards'] / rate['one']:.2f}x"
    )


def compare_formats(source: Memes) -> None:
    formats = {form: Image(image_format=form) for form in ("png", "webp", "jpeg")}
    rows: dict[str, list[tuple[float, float, float]]] = {form: [] for form in formats}
    for blob in source.blobs():
        value = Image().read(blob)
        for form, modality in formats.items():
            start = perf_counter()
            packed = modality.pack(value)
            wrote = perf_counter()
            modality.unpack(packed)
            rows[form].append((len(packed), 1e3 * (wrote - start), 1e3 * (perf_counter() - wrote)))
    for form, found in rows.items():
        size, write, read = (statistics.mean(column) for column in zip(*found, strict=True))
        print(f"  {form}: {size / 1024:.0f} KiB, written in {write:.1f} ms, read in {read:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=200, help="pictures without OCR")
    parser.add_argument("--ocr-size", type=int, default=40, help="pictures with OCR; 0 leaves it out")
    parser.add_argument("--turns", type=int, default=2)
    chosen = parser.parse_args()
    source = Memes(chosen.size)
    print(f"{chosen.size} memes, {'real' if source.files else 'drawn'}, {CORES} cores")
    print("Without OCR:")
    compare_packing(source, chosen.turns)
    print("Formats, per picture:")
    compare_formats(source)
    if chosen.ocr_size:
        print(f"OCR of {chosen.ocr_size}:", flush=True)
        compare_ocr(Memes(chosen.ocr_size), chosen.turns)


if __name__ == "__main__":
    main()
