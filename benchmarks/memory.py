"""Peak memory of each step for few and for many generated examples: what is streamed does not grow.

Every step runs in a process of its own, which loads no more than that step needs; its peak is the kernel's (maximum
resident set; that of children, OCR's workers, apart). The pictures are small and cheap to make, the texts are sentences
of a large vocabulary. Features ``[n, d]`` are an array by design: Evidence grows by them, and by them once.

    python benchmarks/memory.py                                                  # a quick look, minutes
    python benchmarks/memory.py --few 2000 --many 20000 --rows 200000            # an hour, most of it MobileNetV2
    python benchmarks/memory.py --steps ocr --ocr-few 2000 --ocr-many 20000      # hours
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a process imports counts as its memory, and a child's peak begins at its parent's
    from bifocal.config import RunConfig
    from bifocal.example import Example, Taxonomy
    from bifocal.workspace import Workspace

LABEL = "abuse_hate"
MODEL = Path(os.environ.get("BIFOCAL_DATA") or "../shared") / "models" / "mobilenetv2-in1k"
MIB = 2**20


class Posts:
    """A source of ``size`` rows: a sentence and, but for ``words``, a small picture that is made when it is opened."""

    text_role = "caption"

    def __init__(self, size: int, words: bool):
        self.size = size
        self.words = words

    def role_of(self, example: Example) -> str:
        return self.text_role

    def __iter__(self) -> Iterator[Example]:
        import numpy as np

        from bifocal.example import Example

        for i in range(self.size):
            rng = np.random.default_rng(i)
            # As in a language: few words are common, most are rare.
            sentence = " ".join(f"word{n}" for n in rng.zipf(1.2, size=int(rng.integers(6, 20))) % 100_000)
            parts = {"text": sentence} if self.words else {"text": sentence, "image": f"picture {i}"}
            yield Example(f"post-{i:07d}", parts, {LABEL: i % 2})

    def open(self, reference: str) -> bytes:
        import numpy as np
        from PIL import Image

        rng = np.random.default_rng(int(reference.split()[1]))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()


class Memes(Posts):
    """The same with words on the pictures, for OCR."""

    def open(self, reference: str) -> bytes:
        from PIL import Image, ImageDraw, ImageFont

        picture = Image.new("RGB", (384, 384), "white")
        font = ImageFont.load_default(32)
        ImageDraw.Draw(picture).text((20, 160), f"meme {reference.split()[1]}\nso true", "black", font)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG")
        return buffer.getvalue()


class Step:
    """One step of a run over generated rows, in the folder that the steps before it wrote."""

    def __init__(self, folder: Path, size: int, words: bool):
        from bifocal.config import parse_config
        from bifocal.example import LABELS, Taxonomy
        from bifocal.workspace import Workspace

        self.space: Workspace = Workspace(folder, "benchmark")
        self.source: Any = Posts(size, words)
        self.taxonomy: Taxonomy = Taxonomy({LABEL: LABELS[LABEL]})
        self.config: RunConfig = parse_config(
            {
                "run": "benchmark",
                "source": {"kind": "synthetic"},
                "modalities": ["text"] if words else ["text", "image"],
                "splits": {"val": 0.1, "test": 0.2},
            }
        )

    def modalities(self) -> dict[str, Any]:
        from bifocal import plugins

        return {n: plugins.load("modalities", n).from_config(self.config) for n in self.config.modalities}

    def manifest(self) -> None:
        from bifocal.data.manifest import write_manifest

        out = self.space.manifest, self.space.quarantine
        write_manifest(
            self.source, self.modalities(), *out, taxonomy=self.taxonomy, label=LABEL, limit=None, strict=True
        )
        self.space.ocr.write_text("")

    def splits(self) -> None:
        from bifocal.data.prepare import write_splits

        write_splits(self.space, self.source, self.taxonomy, self.config)

    def shards(self) -> None:
        from bifocal.data.prepare import write_shards

        write_shards(self.space, self.source, self.modalities(), self.taxonomy, self.config, lambda done, total: None)

    def ocr(self) -> None:
        from bifocal.config import TranscriberConfig
        from bifocal.data.transcribe import transcribe
        from bifocal.data.transcribers import ActiveTranscriber
        from bifocal.transcribe.ocr import Ocr

        self.source = Memes(self.source.size, False)
        ocr = ActiveTranscriber("ocr", Ocr(), TranscriberConfig(when="always", workers=1))
        transcribe(self.space.manifest, self.source, ocr, self.space.ocr)

    def evidence(self) -> None:
        """Of the train split, by a frozen MobileNetV2."""
        from bifocal import plugins
        from bifocal.config import ExpertConfig
        from bifocal.data.shards import open_split
        from bifocal.fit.evidence import evidence_of

        split = open_split(self.space.shards("train"), self.modalities(), self.taxonomy)
        label = self.taxonomy[LABEL]
        settings = ExpertConfig(model=str(MODEL), tune="head")
        encoder = plugins.load("encoders", "hf_image").create(settings, label.classes, 0, split.values("image")[:8])
        evidence_of(encoder, split, "image", LABEL, label, self.space.evidence("vision_expert", "train"))


def run_alone(step: str, folder: Path, size: int, words: bool = False) -> dict[str, float]:
    """Peak MiB of a step and of its children, in a process of its own; and its seconds."""
    command = [sys.executable, __file__, "--alone", step, str(folder), str(size), "words" if words else "pictures"]
    start = perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step} failed:\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": perf_counter() - start}


def alone(step: str, folder: str, size: str, kind: str) -> None:
    """What `run_alone` starts."""
    getattr(Step(Path(folder), int(size), kind == "words"), step)()
    peaks = {who: resource.getrusage(getattr(resource, f"RUSAGE_{who.upper()}")) for who in ("self", "children")}
    print(json.dumps({who: usage.ru_maxrss * 1024 / MIB for who, usage in peaks.items()}))


def compare(step: str, folders: dict[int, Path], words: bool = False) -> None:
    """Print the peaks of one step for few and many rows."""
    few, many = (run_alone(step, folder, size, words) for size, folder in folders.items())
    sizes = " and ".join(f"{size:,}" for size in folders)
    children = f", children {few['children']:.0f} and {many['children']:.0f} MiB" if many["children"] else ""
    print(
        f"{step}, {sizes} {'texts' if words else 'posts'}: {few['self']:.0f} and {many['self']:.0f} MiB, "
        f"ratio {many['self'] / few['self']:.2f}x{children} ({few['seconds']:.0f} and {many['seconds']:.0f} s)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of text alone, for manifest and splits")
    parser.add_argument("--ocr-few", type=int, default=20)
    parser.add_argument("--ocr-many", type=int, default=200)
    parser.add_argument("--steps", nargs="*", default=["manifest", "splits", "shards", "evidence", "texts", "ocr"])
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        return alone(*chosen.alone)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = {size: folder / f"pictures-{size}" for size in (chosen.few, chosen.many)}
        for step in ("manifest", "splits", "shards", "evidence"):
            if step == "evidence" and not MODEL.is_dir():
                print(f"evidence: left out, there is no {MODEL}; set BIFOCAL_DATA")
            elif step in chosen.steps:
                compare(step, folders)
        if "texts" in chosen.steps:
            texts = {size: folder / f"texts-{size}" for size in (chosen.few, chosen.rows)}
            for step in ("manifest", "splits"):
                compare(step, texts, words=True)
        if "ocr" in chosen.steps:
            read = {size: folder / f"ocr-{size}" for size in (chosen.ocr_few, chosen.ocr_many)}
            for size, place in read.items():
                run_alone("manifest", place, size)
            compare("ocr", read)


if __name__ == "__main__":
    main()
