"""How long `bifocal --help` takes beside a bare interpreter; of a run or bundle also the first `predict` of a process.

    python benchmarks/start_up.py [RUN --text "a post"]

The first answer is measured in CPU seconds, beside a process that imports torch and transformers and reads the run's
weights, and one that imports torch alone and reads them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

WEIGHTS = """
from pathlib import Path
from safetensors.torch import load_file
for path in Path({folder!r}).glob("models/*/*.safetensors"):
    load_file(path)
"""
FIRST = "import bifocal; bifocal.load({folder!r}).predict(text={text!r})"


def seconds(*command: str, runs: int = 9) -> float:
    """Median wall time after one warm-up."""
    times = []
    for _ in range(runs + 1):
        start = perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(perf_counter() - start)
    return statistics.median(times[1:])


def cpu_seconds(code: str, runs: int = 5) -> float:
    """Median CPU time of a process that runs some code, after one warm-up."""
    times = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--text", default="a post of a few words")
    asked = parser.parse_args()
    bare = seconds(sys.executable, "-c", "pass")
    ours = seconds(sys.executable, "-m", "bifocal", "--help")
    print(f"bifocal --help: {ours:.3f} s; python -c pass: {bare:.3f} s; ratio {ours / bare:.1f}x")
    if asked.run:
        read = WEIGHTS.format(folder=str(asked.run))
        first = cpu_seconds(FIRST.format(folder=str(asked.run), text=asked.text))
        both, torch = (
            cpu_seconds(f"import torch, transformers.modeling_utils\n{read}"),
            cpu_seconds(f"import torch\n{read}"),
        )
        print(
            f"first predict: {first:.2f} s of CPU; "
            f"torch, transformers and weights: {both:.2f} s ({first / both:.2f}x); "
            f"torch and weights: {torch:.2f} s ({first / torch:.2f}x)"
        )


if __name__ == "__main__":
    main()
