"""What reading long posts in windows does to false alarms, calibration and recall, and what it costs short ones.

MiniLM, frozen, reads texts of EDOS (sexism). Its head learns from 600 posts: either single texts, as the set is, or
posts joined from 1, 2, 4 or 8 of them, of which, in one post in three, one is sexist. Temperature and threshold (20%
false alarms) are fitted on 200 more of the same kind; each with offsets by the number of windows and without. Judged:

- 200 innocent posts each of 1, 2, 4 and 8 texts: how many are flagged, and the mean probability;
- 200 sexist texts alone, behind 200 plain words, and the latter by the first window only: how many are flagged;
- 100 texts of one window: seconds with windows and without, passes, and whether the features are the same to the bit.

What was encoded is kept in a folder, so that a second call goes on where the first was stopped. The folder that holds
data/ and models/ is read from BIFOCAL_DATA.

    python benchmarks/windows.py [--folder windows]            # half an hour on a busy core
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bifocal.config import ExpertConfig
from bifocal.decide.calibration import fit_temperature, softmax
from bifocal.evaluate.metrics import auroc
from bifocal.modalities.text import clean, compose
from bifocal.models.encoders.hf_text import HfText
from bifocal.models.window_rows import COUNTS, Encoded, by_head, fit_head, learn_offsets
from bifocal.workspace import replaced

DATA = os.environ.get("BIFOCAL_DATA", "../shared")
MODEL: dict[str, Any] = {"model": f"{DATA}/models/minilm-l6", "tune": "head", "pooling": "mean"}
TEXTS = (1, 2, 4, 8)
SHARE, FALSE_ALARMS = 1 / 3, 0.2
LEARN, TUNE, JUDGE, FILLED = 600, 200, 200, 200
PLAIN = (
    "the river runs past the old mill and people walk along the bank in the morning while a small boat waits near the "
    "wooden bridge and children carry baskets of apples to the market square where the baker opens his shop before the "
    "first train leaves for the city"
)


class Posts(NamedTuple):
    texts: list[str]
    labels: np.ndarray


class Texts:
    """The texts of one split of EDOS by their label."""

    def __init__(self, split: str):
        with open(f"{DATA}/data/edos/edos_labelled_aggregated.csv", encoding="utf-8", newline="") as f:
            rows = [row for row in csv.DictReader(f) if row["split"] == split]
        sexist = [row["label_sexist"] == "sexist" for row in rows]
        words = [clean(row["text"]) for row in rows]
        self.innocent = np.array([w for w, s in zip(words, sexist, strict=True) if not s], dtype=object)
        self.sexist = np.array([w for w, s in zip(words, sexist, strict=True) if s], dtype=object)

    def posts(self, n: int, texts: Sequence[int], share: float, seed: int) -> Posts:
        """Joined posts, a share of them with one sexist text."""
        rng = np.random.default_rng(seed)
        labels = (rng.random(n) < share).astype(int)
        made = []
        for label in labels:
            parts = list(rng.choice(self.innocent, rng.choice(texts), replace=False))
            if label:
                parts[rng.integers(len(parts))] = rng.choice(self.sexist)
            made.append(compose("", " ".join(parts), "en"))
        return Posts(made, labels)


def encoded(encoder: HfText, name: str, texts: Sequence[str], folder: Path) -> Encoded:
    """What the encoder gives of texts, kept; logits are of no fitted head and left out."""
    path = folder / name / "encoded.safetensors"
    if not path.exists():
        began = perf_counter()
        found = {key: tensor for key, tensor in encoder.encode(texts).items() if key != "logits"}
        with replaced(path.parent) as part:
            save_file(found, part / path.name)
        print(f"  encoded {name}: {len(texts)} posts in {perf_counter() - began:.0f} s", flush=True)
    return load_file(path)


class Judge:
    """A head, offsets, temperature and threshold as a run would fit them."""

    def __init__(
        self, encoder: Any, learn: Encoded, learned: np.ndarray, tune: Encoded, tuned: np.ndarray, *, offsets: bool
    ):
        self.encoder = encoder
        encoder.window_offsets = []
        groups, labels = [str(i) for i in range(len(learned))], torch.from_numpy(learned)
        fit_head(encoder, learn, labels, groups)
        if offsets:
            learn_offsets(encoder, learn, labels, groups, seed=0)
        self.temperature = fit_temperature(self.logits(tune), tuned)
        p = self(tune)
        self.threshold = float(np.quantile(p[tuned == 0], 1 - FALSE_ALARMS))
        self.auroc = float(auroc(tuned, p))

    def logits(self, posts: Encoded) -> np.ndarray:
        return by_head(self.encoder, posts)["logits"].double().numpy()

    def __call__(self, posts: Encoded) -> np.ndarray:
        return softmax(self.logits(posts) / self.temperature)[:, 1]

    def flagged(self, posts: Encoded) -> float:
        return float((self(posts) >= self.threshold).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("windows"))
    folder = parser.parse_args().folder
    encoder = HfText.create(ExpertConfig(**MODEL), (0, 1), 0, [])
    train, dev, test = Texts("train"), Texts("dev"), Texts("test")
    innocent = {k: encoded(encoder, f"innocent-{k}", test.posts(JUDGE, [k], 0.0, 10 + k).texts, folder) for k in TEXTS}
    alone = list(test.sexist[np.random.default_rng(5).permutation(len(test.sexist))[:FILLED]])
    plain = " ".join((PLAIN.split() * 10)[:200])
    behind = [compose("", f"{plain} {text}", "en") for text in alone]
    single = encoded(encoder, "alone", [compose("", text, "en") for text in alone], folder)
    filled = encoded(encoder, "filled", behind, folder)
    first = encoded(encoder, "first", [encoder.windows(text).texts[0] for text in behind], folder)
    counts = {k: posts.get(COUNTS, torch.ones(1)).double().mean().item() for k, posts in innocent.items()}
    print("windows a post:", ", ".join(f"{count:.1f} of {k} texts" for k, count in counts.items()))
    for kind, texts in (("single texts", [1]), ("posts of 1 to 8 texts", TEXTS)):
        learn, tune = train.posts(LEARN, texts, SHARE, 1), dev.posts(TUNE, texts, SHARE, 2)
        learned, tuned = (
            encoded(encoder, f"{name}-{len(texts)}", posts.texts, folder)
            for name, posts in (("learn", learn), ("tune", tune))
        )
        for offsets in (False, True):
            judge = Judge(encoder, learned, learn.labels, tuned, tune.labels, offsets=offsets)
            told = ", ".join(f"{x:.2f}" for x in encoder.window_offsets) or "none"
            print(f"\nlearned from and tuned on {kind}, offsets: {told}")
            print(f"  AUROC {judge.auroc:.3f}, T {judge.temperature:.2f}, threshold {judge.threshold:.2f}")
            base = judge.flagged(innocent[1])
            for k, posts in innocent.items():
                rate, mean = judge.flagged(posts), judge(posts).mean()
                print(
                    f"  {k} innocent texts: flagged {rate:.3f} ({rate / base:.2f} of one), mean probability {mean:.3f}"
                )
            rates = [judge.flagged(posts) for posts in (single, filled, first)]
            print(
                "  sexist text: flagged alone {:.3f}, behind 200 words {:.3f}, by the first window {:.3f}".format(
                    *rates
                )
            )
    costs(encoder, test.posts(100, [1], 0.5, 3).texts)


def costs(encoder: HfText, texts: list[str]) -> None:
    """Texts of one window, with windows and without, by turns."""
    short = [text for text in texts if len(encoder.windows(text).texts) == 1]
    plain = HfText.create(ExpertConfig(**MODEL, options={"windows": 1}), (0, 1), 0, [])
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(3):
        for name, one in (("with", encoder), ("without", plain)):
            one.examples_encoded = 0
            began = perf_counter()
            found = one.encode(short)["features"]
            seconds[name].append(perf_counter() - began)
            assert one.examples_encoded == len(short)
    same = torch.equal(found, encoder.encode(short)["features"])
    ratio = min(seconds["with"]) / min(seconds["without"])
    print(f"\n{len(short)} texts of one window: one pass each, {ratio:.2f} of the seconds, features the same: {same}")


if __name__ == "__main__":
    main()
