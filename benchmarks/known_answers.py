"""The verdict of each label of one run against its known answer, over seeds of the generator, on two mixed structures.

Each seed draws new memes and splits: frozen encoders read them once, and the lab judges each label by itself, as
`configs/lab-and.yaml` says for one. What is finished is taken from ``--runs``. Prints a line of JSON a label.

    python benchmarks/known_answers.py --seeds 20 [--set source.size=4000 …] [--runs FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bifocal.config import RunConfig, parse_config, read_settings, set_option
from bifocal.lab.results import read_results, results_files
from bifocal.lab.study import lab

MIXES = {
    "and": {"abuse_hate": "and", "offensive": "unique_text"},
    "xor": {"abuse_hate": "xor", "offensive": "unique_image"},
}
EXPECTED = {
    "and": "worth it, additive",
    "xor": "worth it, interacting",
    "unique_text": "not worth it",
    "unique_image": "not worth it",
}
"""Structure -> verdict."""


def configured(mix: str, seed: int, overrides: Sequence[str]) -> RunConfig:
    """The yardstick of the lab, of several labels; what runs encoders again is left out, as no verdict rests on it."""
    settings = read_settings(Path(__file__).parents[1] / "configs" / "lab-and.yaml")
    del settings["label"], settings["source"]["structure"], settings["lab"]["about"], settings["lab"]["probes"]
    settings["source"] |= {"structures": MIXES[mix], "seed": seed}
    settings |= {"run": f"mix-{mix}-{seed}", "labels": list(MIXES[mix]), "seed": seed}
    settings["lab"] |= {"corrupt": False, "weaken": False, "joint": False}
    for override in overrides:
        set_option(settings, override)
    return parse_config(settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--mixes", nargs="+", default=list(MIXES), choices=MIXES)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="A.B=C")
    asked = parser.parse_args()
    right: Counter[tuple[str, str]] = Counter()
    for mix in asked.mixes:
        for seed in range(asked.seeds):
            folder = lab(configured(mix, seed, asked.overrides), root=asked.runs)
            for found in map(read_results, results_files(folder)):
                expected = EXPECTED[MIXES[mix][found.label]]
                right[mix, found.label] += found.verdict.full == expected
                line = {"mix": mix, "seed": seed, "label": found.label, "expected": expected}
                print(json.dumps({**line, "found": found.verdict.full, "told": found.verdict.sentence}), flush=True)
    for (mix, label), n in right.items():
        print(f"{mix}, {label} ({MIXES[mix][label]}): {n} of {asked.seeds} as expected")


if __name__ == "__main__":
    main()
