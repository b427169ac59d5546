"""Whether reading shards starves an encoder: examples per second read and made ready, against those encoded.

Read: found in the tar, decoded, resized and normalised (or tokenised), batched, all as the encoder itself does it.
Encoded: the forward passes alone, over the very batches that were read. Both take turns, a few batches each, with the
threads that a run has: one per core. The models are the fastest ones at hand: MobileNetV2 for pictures, MiniLM for
texts.

    BIFOCAL_DATA=../shared python benchmarks/reading.py                  # a quick look
    BIFOCAL_DATA=../shared python benchmarks/reading.py --size 2000      # minutes
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

from bifocal import plugins
from bifocal.config import ExpertConfig, parse_config
from bifocal.contracts import Source
from bifocal.data.packing import pack
from bifocal.data.shards import open_split
from bifocal.example import BINARY, Example, Taxonomy
from bifocal.modalities.text import compose
from bifocal.sources.synthetic import Synthetic

MODELS = Path(os.environ.get("BIFOCAL_DATA") or "../shared") / "models"
ENCODERS = {"image": ("hf_image", "mobilenetv2-in1k"), "text": ("hf_text", "minilm-l6")}
PICTURES = Path(os.environ.get("BIFOCAL_DATA") or "../shared") / "data" / "smear_memes" / "img"
BATCHES_A_TURN = 4


class Memes:
    """Real memes where they are at hand, drawn ones where not, over and over until there are enough."""

    def __init__(self, size: int):
        self.size = size
        self.drawn = Synthetic(size=256)
        self.files = sorted(PICTURES.iterdir()) if PICTURES.is_dir() else []

    def __iter__(self) -> Iterator[Example]:
        for i in range(self.size):
            words = " ".join(self.drawn.example((i + k) % self.drawn.size).parts["text"] for k in range(3))
            parts = {"text": compose(words, "", "en"), "image": str(i)}
            yield Example(f"meme-{i}", parts, {}, group=str(i), split="train")

    def open(self, reference: str) -> bytes:
        i = int(reference)
        if self.files:
            return self.files[i % len(self.files)].read_bytes()
        return self.drawn.open(f"synthetic:{i % self.drawn.size}")


def compare(encoder: Any, values: Any) -> tuple[float, float]:
    """Examples per second read, and encoded."""
    reading = encoding = 0.0
    step = BATCHES_A_TURN * encoder.expert.encode_batch_size
    with torch.inference_mode():
        for _, inputs in encoder.batches(values[:step]):  # the first pass of a process is slow
            encoder.classifier(inputs)
        for start in range(0, len(values), step):
            begun = perf_counter()
            batches = [inputs for _, inputs in encoder.batches(values[start : start + step])]
            reading += perf_counter() - begun
            begun = perf_counter()
            for inputs in batches:
                encoder.classifier(inputs)
            encoding += perf_counter() - begun
    return len(values) / reading, len(values) / encoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch's")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    source = Memes(chosen.size)
    print(f"{chosen.size} memes, {'real' if source.files else 'drawn'}; torch with {chosen.threads} threads")
    for name, form in (("image", "png"), ("image", "webp"), ("image", "jpeg"), ("text", "png")):
        plugin, model = ENCODERS[name]
        if not (MODELS / model).is_dir():
            print(f"{name}: left out, there is no {MODELS / model}; set BIFOCAL_DATA")
            continue
        config = parse_config({"run": "benchmark", "source": {"kind": "synthetic"}, "image_format": form})
        modalities = {name: plugins.load("modalities", name).from_config(config)}
        with tempfile.TemporaryDirectory() as folder:
            pack(
                source,
                cast(Source, source),
                modalities,
                folder=Path(folder).joinpath,
                taxonomy=Taxonomy({}),
                shard_size=1000,
            )
            values = open_split(Path(folder) / "train", modalities).values(name)
            settings = ExpertConfig(model=str(MODELS / model), tune="head")
            encoder = plugins.load("encoders", plugin).create(settings, BINARY, 0, values)
            read, encoded = compare(encoder, values)
        print(
            f"{name} ({modalities[name].suffix}) for {model}: read {read:.0f}/s, encoded {encoded:.0f}/s, "
            f"ratio {read / encoded:.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
