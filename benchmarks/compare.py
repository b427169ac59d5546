"""`bifocal compare`: seconds on 100,000 posts, how often its intervals cover, and which pairs pass its gate.

Simulated: the truth, and two models' scores, whose difference in F1, AUROC, NLL and Brier is known from 4 million
posts. Each redraw is 2,000 posts with new scores. "Worse by the margin": the new model's noise is such that its F1 is
lower by exactly the margin; "equal": both are alike, with noise of their own.

    python benchmarks/compare.py [--redraws 500] [--resamples 1000] [--posts 100000]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

import numpy as np

from bifocal.assess.comparison import compare_models
from bifocal.assess.label_comparison import CompareSettings, judged_figures
from bifocal.assess.scored_posts import ModelLabel
from bifocal.evaluate.intervals import Weighted
from bifocal.evaluate.paired import Answers, PairedSettings, compare_answers, verdict_of

ROWS, KNOWN, MARGIN = 2000, 4_000_000, 0.01
FIGURES = judged_figures(ModelLabel((0, 1), None, None), [])


def draw(n: int, noise: tuple[float, float], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Truth ``[n]``, and the calibrated probabilities of an old and a new model ``[n]``.

    Both see the same signal through noise of their own; with Gaussian noise the true posterior is a sigmoid.
    """
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(np.int64)
    shared = rng.normal(size=n)
    found = []
    for sigma in noise:
        spread = np.hypot(1, sigma)
        x = 2.6 * (y - 0.5) + shared + sigma * rng.normal(size=n)
        found.append(1 / (1 + np.exp(-(2.6 * x / spread**2 + np.log(0.3 / 0.7)))))
    return y, found


def figures_of(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    scorer, flags = Weighted(y, p), p >= 0.5
    counts = [np.array([float(v)]) for v in (flags.sum(), (flags & (y == 1)).sum(), y.sum(), len(y))]
    names = [f.name for f in FIGURES if f.of is None]
    found = {name: float(v[0]) for name, v in scorer(np.ones((1, len(y))), names).items()}
    return found | {f.name: float(f.of(*counts)[0]) for f in FIGURES if f.of is not None}


def differences(noise: tuple[float, float]) -> dict[str, float]:
    """New less old, of many posts."""
    y, (old, new) = draw(KNOWN, noise, seed=10**6)
    before, after = figures_of(y, old), figures_of(y, new)
    return {name: after[name] - before[name] for name in before}


def worse_by(margin: float, old: float) -> float:
    """The noise of a model whose F1 is lower by the margin."""
    low, high = old, old + 1
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if differences((old, middle))["f1"] > -margin else (low, middle)
    return (low + high) / 2


def redraw(noise: tuple[float, float], redraws: int, resamples: int, name: str) -> None:
    """Coverage of every figure, verdicts, and the share that passes."""
    covered, verdicts = Counter[str](), Counter[str]()
    known = dict.fromkeys((f.name for f in FIGURES), 0.0) if noise[0] == noise[1] else differences(noise)
    for seed in range(redraws):
        y, sides = draw(ROWS, noise, seed)
        old, new = (Answers((p >= 0.5).astype(np.int64), np.stack([1 - p, p], axis=1)) for p in sides)
        settings = PairedSettings(MARGIN, resamples, seed)
        found = compare_answers(y, old, new, range(ROWS), FIGURES, settings)
        for figure, told in found.items():
            covered[figure] += told["difference"]["low"] <= known[figure] <= told["difference"]["high"]
        verdicts[verdict_of(found.values())] += 1
    print(f"{name}, {redraws} redraws of {ROWS} posts, {resamples} resamples each")
    for figure, difference in known.items():
        print(f"  {figure:<10} difference {difference:+.4f}  covered {covered[figure] / redraws:.1%}")
    passed = verdicts["better"] + verdicts["no worse"]
    print(f"  verdicts {dict(verdicts)}; pass the gate: {passed / redraws:.1%}")


def seconds(posts: int) -> None:
    """Two tables of scores, from reading to all figures and slices."""
    y, sides = draw(posts, (0.3, 0.3), seed=0)
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{name}.csv" for name in ("old", "new")]
        for path, p in zip(paths, sides, strict=True):
            with path.open("w", newline="") as f:
                writer = csv.writer(f)
                writer.writerow(["id", "prob", "abuse", "language", "text"])
                writer.writerows(
                    [i, f"{p[i]:.6f}", y[i], ("en", "de", "fr")[i % 3], f"post number {i} of this table"]
                    for i in range(posts)
                )
        began = perf_counter()
        found = compare_models(paths, truth="abuse", settings=CompareSettings())
        took = perf_counter() - began
    print(f"{posts:,} posts in two tables: {took:.1f} s, {found.verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redraws", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--posts", type=int, default=100_000)
    asked = parser.parse_args()
    seconds(asked.posts)
    worse = worse_by(MARGIN, 0.3)
    redraw((0.3, 0.3), asked.redraws, asked.resamples, "equal")
    redraw((0.3, worse), asked.redraws, asked.resamples, f"worse by {MARGIN:g} of F1 (noise {worse:.3f})")


if __name__ == "__main__":
    main()
