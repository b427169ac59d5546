"""How long it takes to look a picture up among a million known ones, and to read such a list.

Usage: python benchmarks/lists.py [--entries 1000000]
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bifocal.serve.known_pictures import KnownPictures
from bifocal.serve.settings import ListSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.csv"
        with open(path, "w") as f:
            for i in range(options.entries):
                f.write(f"{rng.bytes(32).hex()},e{i},2026-01-01T00:00:00+0000,tag\n")
        start = time.perf_counter()
        lists = KnownPictures([ListSettings(path=path, distance=31)])
        read = time.perf_counter() - start
        took = []
        for _ in range(50):
            asked = rng.bytes(32).hex()
            start = time.perf_counter()
            lists.match(asked, 100)
            took.append(1000 * (time.perf_counter() - start))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(lists):,} entries read in {read:.1f} s, {memory:.0f} MiB in all")
    print(f"a picture is looked up in {statistics.median(took):.1f} ms (p95 {sorted(took)[47]:.1f})")


if __name__ == "__main__":
    main()
