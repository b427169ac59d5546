"""`bifocal score` of a generated table of texts: rows a second by one and two processes, memory, and a kill at half.

A TF-IDF expert is trained on texts of an invented vocabulary; the table is Parquet. Every scoring is a process of its
own. CPU seconds hold on a busy machine, rows a second only on a quiet one. The last scoring is ended by SIGKILL when
half of its rows are done, then loses a worker to SIGKILL while it goes on; its output is the others' to the byte.

    python benchmarks/scoring.py                        # 100,000 rows, ten minutes
    python benchmarks/scoring.py --rows 1000000         # a million
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

WORDS = 20_000
LETTERS = list("eeeeeetttaaaoooiiinnnsssrrrhhhlllddduuuccmmffyywwggppbbvk")


class Texts:
    """Texts of 6 to 40 words, few of which are common, as in a language; some have HTML, few are empty."""

    def __init__(self) -> None:
        draw = np.random.default_rng(7)
        self.words = ["".join(draw.choice(LETTERS, size=int(draw.integers(2, 10)))) for _ in range(WORDS)]

    def draw(self, draw: np.random.Generator) -> str:
        text = " ".join(self.words[n - 1] for n in np.minimum(draw.zipf(1.3, size=int(draw.integers(6, 40))), WORDS))
        chance = draw.random()
        return "" if chance > 0.995 else f"{text} &amp; caf\u00e9 \u2764" if chance < 0.05 else text


def write_table(texts: Texts, path: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    schema = pyarrow.schema([("id", pyarrow.string()), ("text", pyarrow.string())])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            numbers = range(start, min(start + 10_000, rows))
            made = {"id": [f"post-{n:07d}" for n in numbers], "text": [texts.draw(draw) for _ in numbers]}
            writer.write_table(pyarrow.table(made, schema=schema))


def train(texts: Texts, place: Path, rows: int) -> Path:
    from bifocal.config import parse_config
    from bifocal.pipeline.train import run

    draw = np.random.default_rng(1)
    with (place / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "flagged", "part"])
        for i in range(rows):
            flagged = draw.random() < 0.4
            cue = texts.words[(200 if flagged ^ (draw.random() < 0.15) else 400) + int(draw.integers(50))]
            part = ("train", "train", "train", "val", "test")[i % 5]
            writer.writerow([i, f"{texts.draw(draw)} {cue}", int(flagged), part])
    source = {
        "kind": "table", "root": str(place / "train.csv"), "id": "id", "text": "text", "split": "part",
        "labels": {"flagged": "flagged"},
    }  # fmt: skip
    experts = {"text": {"encoder": "tfidf_text"}}
    config = {"run": "scoring", "label": "flagged", "source": source, "modalities": ["text"], "experts": experts}
    run(parse_config({**config, "bootstrap": 100}), root=place / "runs")
    return place / "runs" / "scoring"


def command(run: Path, table: Path, output: Path, workers: int) -> list[str]:
    words = [str(run), str(table), "-o", str(output), "--workers", str(workers), "--force", "--json"]
    return [sys.executable, "-m", "bifocal", "score", *words]


def measure(words: Sequence[str], rows: int, what: str) -> float:
    """Prints what a scoring took; gives the MiB of its largest process."""
    start = time.perf_counter()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {child.returncode}")
    wall, cpu, size = time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10
    print(f"{what}: {wall:.0f} s, {rows / wall:.0f} rows a second; CPU {cpu:.0f} s; largest process {size:.0f} MiB")
    return size


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(run: Path, table: Path, output: Path, rows: int) -> None:
    """Two processes: end the one that drives at half of the rows; then go on, and end a worker."""
    parts, words = output.with_name(f".{output.name}.parts"), command(run, table, output, 2)
    expected = -(-rows // 1984)

    def done() -> int:
        return len(list(parts.glob("*.receipt")))

    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while done() < expected / 2:
        if driver.poll() is not None:
            raise SystemExit("it ended before half of its rows were done")
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    print(f"killed with {done()} of {expected} units done")
    driver = subprocess.Popen(words, stdout=subprocess.PIPE)
    while done() < expected * 0.7:
        time.sleep(0.1)
    workers = [pid for pid in children(driver.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    print(f"killed a worker with {done()} of {expected} units done")
    told, _ = driver.communicate()
    print(told.decode().strip())


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, texts = Path(folder), Texts()
        run = train(texts, place, arguments.train)
        few, many = min(10_000, arguments.rows), arguments.rows
        for rows, name in ((few, "few.parquet"), (many, "many.parquet")):
            write_table(texts, place / name, rows)
        small = measure(command(run, place / "few.parquet", place / "few.jsonl", 1), few, f"{few:,} rows, one process")
        size = measure(
            command(run, place / "many.parquet", place / "one.jsonl", 1), many, f"{many:,} rows, one process"
        )
        print(f"memory: {size / small:.2f} times that of {few:,} rows")
        measure(command(run, place / "many.parquet", place / "two.jsonl", 2), many, f"{many:,} rows, two processes")
        kill(run, place / "many.parquet", place / "killed.jsonl", many)
        one = (place / "one.jsonl").read_bytes()
        count = one.count(b"\n")
        same = [(place / f"{name}.jsonl").read_bytes() == one for name in ("two", "killed")]
        print(f"bytes of one process: {count:,} rows; of two the same: {same[0]}; killed twice: {same[1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--train", type=int, default=6_000, help="rows that the run is made of")
    main(parser.parse_args())
