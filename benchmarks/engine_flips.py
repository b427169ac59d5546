"""How many decisions each engine turns over, on thousands of tested posts, with trained heads.

MiniLM and MobileNetV2 (frozen, `tune: head`) on posts whose labels they do not get quite right, for it is near the
threshold that decisions turn: generated memes with noise in the labels, real posts (EDOS: sexism, text alone), and
real titles with pictures (fashion, 16 colours). Each run is made once, exported to every engine, and the parity report
of its test split is printed. The folder that holds data/ and models/ is read from BIFOCAL_DATA.

    python benchmarks/engine_flips.py [--runs memes edos fashion] [--engines onnx onnx-int8 torch-bf16] [--folder runs]

Engines choose their instructions by the processor. `older_processor.c` hides AVX-512, VNNI and AMX from a process, so
that one machine can show both; with ``--exported`` the bundles that are there are measured, not made anew:

    gcc -O2 -shared -fPIC -o older_processor.so benchmarks/older_processor.c
    python benchmarks/engine_flips.py
    LD_PRELOAD=$PWD/older_processor.so python benchmarks/engine_flips.py --exported
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import perf_counter
from typing import Any

from bifocal.config import parse_config
from bifocal.deploy.export import export
from bifocal.deploy.parity import measure
from bifocal.pipeline.train import run
from bifocal.system.bundle import bundle_of

DATA = os.environ.get("BIFOCAL_DATA", "../shared")
TEXT = {"model": f"{DATA}/models/minilm-l6", "tune": "head", "pooling": "mean"}
IMAGE = {"model": f"{DATA}/models/mobilenetv2-in1k", "tune": "head"}
SEARCH = {"learning_rates": [1e-3], "weight_decays": [0.01, 1.0], "epochs": 10}
RUNS: dict[str, dict[str, Any]] = {
    "memes": {
        "source": {"kind": "synthetic", "size": 12000, "structure": "and", "cue": "background", "label_noise": 0.1},
        "ocr": "never",
        "splits": {"val": 0.1, "test": 0.5},
        "experts": {"text": TEXT, "image": IMAGE},
        "fusion": {"strategy": "concat", "seeds": 3, "options": SEARCH},
    },
    "edos": {
        "label": "sexist",
        "source": {
            "kind": "table", "root": f"{DATA}/data/edos", "id": "rewire_id", "text": "text",
            "labels": {"sexist": {"column": "label_sexist", "map": {"sexist": 1, "not sexist": 0}}},
        },
        "splits": {"val": 0.1, "test": 0.3},
        "modalities": ["text"],
        "experts": {"text": TEXT},
    },
    "fashion": {
        "label": "colour",
        "source": {
            "kind": "table", "root": f"{DATA}/data/fashion_small", "file": "styles.csv", "images": "images.tar",
            "id": "id", "text": "title", "image": "image",
            "labels": {"colour": {"column": "baseColour", "min_rows": 200}},
        },
        "ocr": "never",
        "fit": "stretch",
        "splits": {"val": 0.1, "test": 0.3},
        "experts": {"text": TEXT, "image": IMAGE},
        "fusion": {"strategy": "concat", "seeds": 3, "options": SEARCH},
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--engines", nargs="+", default=["onnx", "onnx-int8", "torch-bf16"])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--exported", action="store_true", help="measure the bundles that are there")
    options = parser.parse_args()
    for name in options.runs:
        folder = run(parse_config({"run": f"flips-{name}", "bootstrap": 100, **RUNS[name]}), root=options.folder)
        for engine in options.engines:
            start = perf_counter()
            found = (
                measure(folder, bundle_of(folder, engine)) if options.exported else export(folder, engine, accept=True)
            )
            print(f"{name}, {engine} ({perf_counter() - start:.0f} s)", flush=True)
            for model, figures in {"all": found, **found["patterns"]}.items():
                flips, loss = figures["flips"], figures["nll"]
                print(
                    f"  {model:14} {flips['count']:4} of {figures['n']:,} ({flips['rate']:.2%}, {flips['low']:.2%} to "
                    f"{flips['high']:.2%})  largest {figures['largest']:.4f}  "
                    f"NLL {loss['run']:.4f} to {loss['engine']:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
