"""How long the search for near-duplicates takes over 200,000 pictures' hashes, and how much memory it needs.

Three crowds, each in a process of its own: pictures without words, no two of them alike; pictures with captions, a
tenth of them reposts (up to 31 of 256 bits turned over, a word changed), which have to be found; and captions on a
thousand templates, where every picture has 200 near ones. No table of all pairs (4 x 10^10 of them) is built.

    python benchmarks/near_duplicates.py                   # 20,000 rows: seconds
    python benchmarks/near_duplicates.py --size 200000     # a minute or two
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from time import perf_counter

import numpy as np

from bifocal.data.dedup import NEAR_BITS, duplicate_groups

REPOSTS = 0.1
TEMPLATES = 0.005
"""Of the rows."""
CROWDS = ("wordless", "captions", "templates")


def hashes(rng: np.random.Generator, n: int) -> np.ndarray:
    """``[n, 256]`` random bits."""
    return np.unpackbits(rng.integers(0, 256, (n, 32), dtype=np.uint8), axis=1)


def turned(rng: np.random.Generator, bits: np.ndarray, most: int) -> np.ndarray:
    """The hashes with up to ``most`` bits of each turned over."""
    result = bits.copy()
    for start in range(0, len(bits), 5000):  # the search's memory is to be seen, not this one's
        piece = result[start : start + 5000]
        order = rng.random(piece.shape, dtype=np.float32).argsort(axis=1)
        piece ^= order < rng.integers(0, most + 1, (len(piece), 1))
    return result


def crowd(kind: str, n: int) -> tuple[list[str], list[str], int]:
    """Texts and hashes, and how many rows at the end are reposts of the first ones."""
    rng = np.random.default_rng(0)
    words = rng.zipf(1.2, (n, 20)) % 100_000
    texts = [" ".join(f"word{w}" for w in row[: 6 + i % 14]) for i, row in enumerate(words)]
    if kind == "wordless":
        return [""] * n, written(hashes(rng, n)), 0
    if kind == "templates":
        templates = hashes(rng, max(int(TEMPLATES * n), 1))
        return texts, written(turned(rng, templates[rng.integers(0, len(templates), n)], 10)), 0
    planted = int(REPOSTS * n)
    bits = hashes(rng, n)
    bits[-planted:] = turned(rng, bits[:planted], NEAR_BITS)
    texts[-planted:] = [f"{text} {text} once" for text in texts[:planted]]
    texts[:planted] = [f"{text} {text} twice" for text in texts[:planted]]
    return texts, written(bits), planted


def written(bits: np.ndarray) -> list[str]:
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def measure(kind: str, n: int) -> dict[str, float]:
    """Seconds, groups and peak MiB of one search."""
    texts, pictures, planted = crowd(kind, n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ids = [str(i) for i in range(n)]
    start = perf_counter()
    groups = duplicate_groups(ids, texts, pictures, [None] * n)
    seconds = perf_counter() - start
    assert all(groups[n - planted + k] == groups[k] for k in range(planted)), "a planted repost was missed"
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "groups": len(set(groups)), "planted": planted, "before": before, "peak": after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--alone", choices=CROWDS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        return print(json.dumps(measure(chosen.alone, chosen.size)))
    for kind in CROWDS:
        command = [sys.executable, __file__, "--alone", kind, "--size", str(chosen.size)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        print(
            f"{kind}, {chosen.size:,} hashes: {found['seconds']:.1f} s, {found['groups']:,} groups "
            f"({found['planted']:,} reposts planted, all found); peak {found['peak']:.0f} MiB, {found['before']:.0f} "
            "before the search",
            flush=True,
        )


if __name__ == "__main__":
    main()
