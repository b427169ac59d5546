"""Seconds and peak memory of what follows the predictions, on generated rows: each part in a process of its own.

python benchmarks/decisions.py [--rows 100000] [--parts slices fairness]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

MIB = 2**20
GROUPS_OF_PEOPLE = 20


def decided(rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities of class 1 of a model with AUROC 0.9, and groups: every tenth row has a near-duplicate."""
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.3).astype(int)
    probabilities = 1 / (1 + np.exp(-(1.8 * (labels - 0.5) + rng.normal(0, 1, rows)) * 1.8 + 0.8))
    groups = np.arange(rows)
    groups[::20] = groups[1::20][: len(groups[::20])]
    return labels, probabilities, [f"group {g}" for g in groups]


def slices(rows: int) -> Callable[[], str]:
    """Ten columns cut into forty slices; four of them of numbers."""
    from bifocal.evaluate.slices import measure_slices
    from bifocal.slicing import cut

    labels, probabilities, groups = decided(rows)
    rng = np.random.default_rng(1)
    columns = [rng.lognormal(4, 1, rows).tolist() for _ in range(4)]
    columns += [rng.choice(list("abcd"), rows, p=[0.7, 0.2, 0.09, 0.01]).tolist() for _ in range(6)]

    def work() -> str:
        found = {(f"column {i}", name): part for i, c in enumerate(columns) for name, part in cut(c, 30).items()}
        measured = measure_slices(labels, probabilities, None, groups, found)
        return f"{len(found)} slices, {measured['comparisons']} comparisons, 1,000 resamples"

    return work


def fairness(rows: int) -> Callable[[], str]:
    """Twenty groups of people, named by three words each, looked for in texts of twelve words."""
    from bifocal.evaluate.slices import measure_gaps
    from bifocal.slicing import mentions

    labels, probabilities, groups = decided(rows)
    rng = np.random.default_rng(1)
    drawn = rng.integers(3000, size=(rows, 12))
    texts = [f"[OCR] {' '.join(f'word{w}' for w in row)} [/OCR] [CAP] [/CAP] <lang=en>" for row in drawn]
    terms = {f"people {g}": [f"word{3 * g + k}" for k in range(3)] for g in range(GROUPS_OF_PEOPLE)}

    def work() -> str:
        found = measure_gaps(labels, probabilities, None, groups, mentions(texts, terms))
        return f"{len(terms)} groups of three words, {found['comparisons']} comparisons, 1,000 resamples"

    return work


PARTS = {"slices": slices, "fairness": fairness}
"""Part -> what makes its rows, and gives the work that is timed, which says what it did."""


def measure(part: str, rows: int) -> None:
    work = PARTS[part](rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    start = perf_counter()
    done = work()
    took, peak = perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    print(f"{part:<12} {took:6.1f} s, {peak:5.0f} MiB at the most ({before:.0f} before): {done}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        measure(asked.parts[0], asked.rows)
        return
    print(f"{asked.rows:,} rows")
    for part in asked.parts:
        command = [sys.executable, __file__, "--here", "--rows", str(asked.rows), "--parts", part]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
