"""Seconds and memory of everything that turns cached predictions into decisions, on 100,000 rows of val and of test.

A real run of generated posts (words in four languages, and a record of three columns; some lack one of the two) with
three models: experts and fusion are made beforehand, in a process of their own, and not counted. Then, in this process,
the run's steps calibrate (method `auto`, precision under a bound with confidence, review band, expected figures),
evaluate (1,000 resamples for every model and split, slices, fairness, curves) and report, `bifocal drift` on 100,000
scored posts, and `bifocal policy set` and `diff`. The peak is the kernel's maximum resident set, imports included.

    python benchmarks/decisions.py                    # half an hour, most of it the run beforehand; afterwards minutes
    python benchmarks/decisions.py --rows 5000 --resamples 100                                       # a quick look
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

if TYPE_CHECKING:  # what this process imports counts as its memory
    from bifocal.config import RunConfig

TRAIN = 20_000
SEED = 0
RUN = "decisions"
LANGUAGES = ("en", "de", "es", "fr")
REGIONS = ("north", "south", "east", "west", "coast", "hills", "islands", "abroad")
CHANNELS = ("app", "web", "mail", "forum", "partner")
TARGETS = ("none", "none", "none", "none", "neighbours", "drivers", "visitors", "gardeners")
HEAD = ("id", "words", "reports", "age", "hour", "thread", "part", "label", "region", "channel", "weekday", "speaks_of")
PARTS = {
    "1 calibration": [("decide.policy_fit", "fit_calibration")],
    "2 thresholds": [("decide.policy_fit", "choose_threshold"), ("decide.policy_fit", "expected_figures")],
    "3 review band": [("decide.policy_fit", "_band"), ("pipeline.steps.evaluate", "measure_actions")],
    "  figures and intervals": [
        ("pipeline.steps.evaluate", "measure_models"),
        ("pipeline.steps.evaluate", "gains_over_experts"),
        ("pipeline.steps.evaluate", "measure_rule"),
    ],
    "4 slices, fairness": [("pipeline.steps.evaluate", "measure_parts")],
    "9 curves": [("pipeline.steps.evaluate", "draw_curves")],
    "9 error table": [("pipeline.steps.evaluate", "write_error_table")],
    "9 page, figures": [("pipeline.steps.report", "write_report")],
}
"""What is timed by itself inside the steps: part -> functions."""


def write_posts(path: Path, rows: int) -> None:
    """Posts whose label both parts tell something of, a few rows to a thread."""
    from bifocal.sources._synthetic_texts import VOCABULARIES

    rng = np.random.default_rng(SEED)
    with open(path, "w", encoding="utf-8", newline="") as f:
        table = csv.writer(f)
        table.writerow(HEAD)
        for part, size in (("train", TRAIN), ("val", rows), ("test", rows)):
            hidden, lack = rng.normal(size=size), rng.random(size)
            label = hidden + rng.normal(scale=0.7, size=size) > 1
            for i in range(size):
                words = VOCABULARIES[LANGUAGES[rng.integers(len(LANGUAGES))]]
                text = [words.caption(int(hidden[i] + rng.normal() > 0.8), rng) for _ in range(int(rng.integers(1, 4)))]
                text.append(f"w{rng.integers(10**6)} w{rng.integers(10**6)}")  # no two posts are the same
                record = [rng.poisson(np.exp(0.6 * hidden[i])), int(rng.integers(14, 80)), int(rng.integers(24))]
                table.writerow([
                    f"{part}-{i}", "" if lack[i] < 0.05 else " ".join(text),
                    *(("", "", "") if lack[i] > 0.95 else record), f"{part}-{i // 2 if i % 10 < 4 else -i}", part,
                    int(label[i]), REGIONS[rng.integers(8)], CHANNELS[rng.integers(5)], int(rng.integers(7)),
                    TARGETS[rng.integers(8)],
                ])  # fmt: skip


def configuration(table: Path, resamples: int, columns: int) -> RunConfig:
    from bifocal.config import parse_config

    return parse_config(
        {
            "run": RUN,
            "label": "abuse_hate",
            "seed": SEED,
            "source": {
                "kind": "table", "root": str(table), "id": "id", "text": "words",
                "tabular": ["reports", "age", "hour"], "group": "thread", "split": "part",
                "labels": {"abuse_hate": "label"},
            },
            "shard_size": 10_000,
            "modalities": ["text", "tabular"],
            "experts": {
                "text": {"encoder": "tfidf_text", "options": {"components": columns // 2, "terms_kept": columns // 2}},
                "tabular": {"encoder": "linear_tabular"},
            },
            "fusion": {"strategy": "stacking", "seeds": 3},
            "decide": {
                "calibration": "auto",
                "threshold": {"by": "precision", "bound": 0.6, "confidence": 0.9},
                "review": {"fnr": 0.1, "fpr": 0.02},
            },
            "bootstrap": resamples,
            "slices": {"columns": ["region", "channel", "weekday"], "groups": "speaks_of"},
        }
    )  # fmt: skip


def prepare(folder: Path, rows: int, resamples: int, columns: int) -> None:
    """Everything up to the cached predictions, and the scored posts that drift looks at."""
    from bifocal.pipeline.train import run
    from bifocal.system.score import score_file
    from bifocal.system.system import System

    table = folder / "posts.csv"
    if not table.is_file():
        write_posts(table, rows)
    place = run(configuration(table, resamples, columns), root=folder, until="calibrate")
    with open(table, encoding="utf-8", newline="") as whole, open(folder / "new.csv", "w", encoding="utf-8") as new:
        posts = csv.DictReader(whole)
        out = csv.DictWriter(new, HEAD)
        out.writeheader()
        out.writerows(row for row in posts if row["part"] == "test")
    score_file(System.load(place), folder / "new.csv", folder / "new.jsonl", batch_size=2048)


@contextmanager
def timed_parts(seconds: dict[str, float]) -> Iterator[None]:
    """Adds up what the functions of `PARTS` take."""
    from importlib import import_module

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def call(*args: Any, **settings: Any) -> Any:
            start = perf_counter()
            try:
                return work(*args, **settings)
            finally:
                seconds[part] += perf_counter() - start

        return call

    with ExitStack() as stack:
        for part, places in PARTS.items():
            for module, name in places:
                at = import_module(f"bifocal.{module}")
                stack.enter_context(patch.object(at, name, timed(part, getattr(at, name))))
        yield


def decide(folder: Path, rows: int, resamples: int, columns: int) -> None:
    from bifocal.deploy.policies import compare, set_threshold
    from bifocal.monitor.drift import measure_drift
    from bifocal.pipeline.train import run
    from bifocal.workspace import read_json

    config = configuration(folder / "posts.csv", resamples, columns)
    parts: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = {}
    place = folder / RUN
    with timed_parts(parts):
        start, begun = perf_counter(), process_time()
        run(config, root=folder, start="calibrate")
        seconds["steps calibrate, evaluate, report"] = perf_counter() - start
    start = perf_counter()
    drift = measure_drift(place, folder / "new.jsonl")
    seconds["7 drift"] = perf_counter() - start
    start = perf_counter()
    before = read_json(place / f"policy_{RUN}.json")["version"]
    set_threshold(place, None, 0.9, pattern="tabular+text", by="benchmark", why="another to compare with")
    diff = compare(place / "policies" / f"{before}.json", place)
    seconds["8 policy set, diff"] = perf_counter() - start
    busy = process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    results = read_json(place / f"results_{RUN}.json")
    print(f"{rows:,} rows of val and of test, {TRAIN:,} of train; {resamples:,} resamples; seed {SEED}")
    print(f"{len(results['slices']['slices'])} slices, {len(results['fairness']['groups'])} groups of people")
    print(f"{drift['new']['compared']:,} new posts, {diff['changed']:,} of {diff['n']:,} decisions changed")
    for part, took in (*parts.items(), *seconds.items()):
        print(f"{took:7.1f} s  {part}")
    print(f"{sum(seconds.values()):7.1f} s  in all (at most 60), {busy:.1f} s of one processor")
    print(f"{peak:7.2f} GB at the peak (at most 2)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of val, and of test")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=128, help="of the text's features, which fill the memory")
    parser.add_argument("--folder", type=Path, help="is kept, and used again; by default runs/decisions-<rows>")
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.folder or Path("runs") / f"decisions-{asked.rows}"
    if asked.prepare:
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, asked.rows, asked.resamples, asked.columns)
        return
    if not (folder / "new.jsonl").is_file():
        again = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--prepare"]
        subprocess.run(again, check=True)
    decide(folder, asked.rows, asked.resamples, asked.columns)


if __name__ == "__main__":
    main()
