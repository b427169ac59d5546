"""How much quicker each engine runs true-size encoders than eager torch in float32, in one process, engines in turn.

mDeBERTa-v3-base and SigLIP-base in their sizes, with random weights (speed does not know the difference), by what the
engines themselves run: `HfEncoder` with and without constant positions and in bfloat16, and the exported graphs.
Tokenizing and decoding are left out. Every round runs every engine once; what is told is the median over rounds of the
ratio within a round, since the speed of a shared host changes by the minute.

    python benchmarks/engines.py [--text] [--image 224 384] [--rounds 7] [--threads 2] [--layers 12]
"""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from transformers import SiglipConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from bifocal.config import ExpertConfig
from bifocal.deploy.export import quantise, write_graph
from bifocal.models.encoders.hf_image import HfImage
from bifocal.models.encoders.hf_text import HfText, train_tokenizer
from bifocal.models.pretrained import build, quiet
from bifocal.system.onnx_engine import open_session

EAGER = "torch, as transformers runs it"
Inputs = dict[str, torch.Tensor]
Engines = dict[str, Callable[[Inputs], Any]]


def text_encoder(layers: int) -> HfText:
    """mDeBERTa-v3-base without its learning."""
    configuration = HfText.known_configuration("base", HfText.settings())
    configuration.num_hidden_layers = layers
    tokenizer = train_tokenizer(["words to have a tokenizer at all", "and some more of them"] * 4, 100)
    return made(HfText, configuration, tokenizer)


def image_encoder(side: int, layers: int) -> HfImage:
    """SigLIP-base for pictures of this side."""
    configuration = SiglipConfig(
        vision_config={"image_size": side, "patch_size": 16, "num_hidden_layers": layers},
        text_config={"vocab_size": 2, "bos_token_id": 0, "eos_token_id": 1},
    )
    return made(HfImage, configuration, SiglipImageProcessorPil(size={"height": side, "width": side}))


def made(kind: Any, configuration: Any, processor: Any) -> Any:
    torch.manual_seed(0)
    with quiet():
        return kind(ExpertConfig(model="base"), [0, 1], 0, build(kind.auto, configuration, [0, 1]), processor)


def engines(encoder: Any, again: Any, folder: Path) -> Engines:
    """Name -> what runs inputs through the encoder; ``again`` is another of its kind, for bfloat16."""
    start = perf_counter()
    traced = encoder.exportable()
    write_graph(traced.module, traced.inputs, traced.axes, ["features", "logits"], folder / "model.onnx")
    exported = perf_counter()
    shutil.copy(folder / "model.onnx", folder / "int8.onnx")
    quantise(folder / "int8.onnx")
    sizes = ", ".join(
        f"{name} {(folder / name).stat().st_size / 2**20:,.0f} MiB" for name in ("model.onnx", "int8.onnx")
    )
    print(f"  exported in {exported - start:.0f} s, quantised in {perf_counter() - exported:.0f} s: {sizes}")
    prepared = copy.deepcopy(encoder)
    prepared.prepare_for_inference()
    again.prepare_for_inference(bfloat16=True)

    def eager(model: Any, cast: bool) -> Callable[[Inputs], Any]:
        def run(inputs: Inputs) -> Any:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
                return model.classifier(inputs)["features"]

        return run

    def graph(name: str) -> Callable[[Inputs], Any]:
        session = open_session(folder / name)
        names = {i.name for i in session.get_inputs()}
        return lambda inputs: session.run(["features"], {k: t.numpy() for k, t in inputs.items() if k in names})

    return {
        EAGER: eager(encoder, False),
        "torch": eager(prepared, False),
        "torch-bf16": eager(again, True),
        "onnx": graph("model.onnx"),
        "onnx-int8": graph("int8.onnx"),
    }


def compare(runs: Engines, inputs: Inputs, rounds: int) -> None:
    """Print seconds and ratios."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = perf_counter()
            run(inputs)
            if turn:  # the first is a warm-up
                times[name].append(perf_counter() - start)
    for name, found in times.items():
        ratios = [slow / quick for slow, quick in zip(times[EAGER], found, strict=True)]
        over_torch = [slow / quick for slow, quick in zip(times["torch"], found, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"  {name:32} {statistics.median(found) * 1000:8.1f} ms   {statistics.median(ratios):5.2f}x ({spread})"
            f"   {statistics.median(over_torch):5.2f}x of torch"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", action="store_true", help="text only, unless --image is given too")
    parser.add_argument("--image", type=int, nargs="*", default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides = options.image if options.image is not None else [] if options.text else [224, 384]
    with TemporaryDirectory() as folder:
        if options.text or options.image is None:
            print("mDeBERTa-v3-base")
            runs = engines(text_encoder(options.layers), text_encoder(options.layers), Path(folder))
            for tokens in (32, 128):
                for rows in (1, 8):
                    print(f" {tokens} tokens, {rows} at once")
                    ids = torch.randint(5, 100, (rows, tokens))
                    given = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
                    compare(runs, given | {"attention_mask": torch.ones_like(ids)}, options.rounds)
            del runs
        for side in sides:
            print(f"SigLIP-base, {side} x {side}")
            runs = engines(image_encoder(side, options.layers), image_encoder(side, options.layers), Path(folder))
            for rows in (1, 8):
                print(f" {rows} at once")
                compare(runs, {"pixel_values": torch.randn(rows, 3, side, side)}, options.rounds)
            del runs


if __name__ == "__main__":
    main()
