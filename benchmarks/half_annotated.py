"""A label that half of the rows lack at random, in a run of two labels, beside a run on its annotated rows alone.

Dress reviews with their record: whether the author recommends the dress, and whether it is one (the label of which half
is taken away, anew in each draw). 2,000 of the rows are test, on which both runs are judged whole; train loses half.
Told of each model over the draws: AUROC of the run of two labels minus that of the label alone, as mean and interval
(Student's t over draws); the aim is an interval inside 0.01 of zero.

    python benchmarks/half_annotated.py --draws 20 [--rows 10000]

The folder that holds data/ is read from BIFOCAL_DATA.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import t

from bifocal.assess.run_data import RunData
from bifocal.config import RunConfig, parse_config
from bifocal.decide.calibration import softmax
from bifocal.evaluate.metrics import auroc
from bifocal.pipeline.train import run

DATA = Path(os.environ.get("BIFOCAL_DATA", "../shared")) / "data" / "womens_clothing"
TEST = 2000
KEPT = ("Title", "Review Text", "Age", "Positive Feedback Count", "Recommended IND")


def write_table(path: Path, rows: list[dict[str, str]], draw: int) -> None:
    """The rows with a split, and with the label that half of train and val lack."""
    rng = np.random.default_rng(draw)
    split = np.full(len(rows), "train", dtype=object)
    order = rng.permutation(len(rows))
    split[order[:TEST]], split[order[TEST : TEST + 1000]] = "test", "val"
    gone = (rng.random(len(rows)) < 0.5) & (split != "test")
    with path.open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow([*KEPT, "is_dress", "part"])
        for i, row in enumerate(rows):
            dress = "" if gone[i] else int(row["Department Name"] == "Dresses")
            table.writerow([*(row[column] for column in KEPT), dress, split[i]])


def configured(table: Path, name: str, labels: list[str]) -> RunConfig:
    """Of both labels, or of the annotated rows of one alone."""
    columns = {"recommended": "Recommended IND", "dress": "is_dress"}
    source = {
        "kind": "table",
        "root": str(table),
        "text": ["Title", "Review Text"],
        "tabular": ["Age", "Positive Feedback Count"],
        "labels": {label: columns[label] for label in labels},
        "split": "part",
    }
    return parse_config(
        {
            "run": name,
            "labels": labels,
            "source": source,
            "modalities": ["text", "tabular"],
            "experts": {"text": {"encoder": "tfidf_text"}, "tabular": {"encoder": "linear_tabular"}},
            "fusion": {"strategy": "stacking", "seeds": 1},
            "bootstrap": 100,
        }
    )


def reached(folder: Path, label: str) -> dict[str, float]:
    """Model -> AUROC on test."""
    said = RunData.of(folder).for_label(label).predictions("test")
    rows = said.labels >= 0
    return {model: auroc(said.labels[rows], softmax(of[rows])) for model, of in said.logits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10000, help="train, val and test together")
    asked = parser.parse_args()
    with next(DATA.glob("*.csv")).open(newline="", encoding="utf-8") as f:
        rows = [row for row in csv.DictReader(f) if row["Review Text"] and row["Department Name"]][: asked.rows]
    found: dict[str, list[float]] = defaultdict(list)
    for draw in range(asked.draws):
        with TemporaryDirectory() as scratch:
            table = Path(scratch) / "reviews.csv"
            write_table(table, rows, draw)
            both = run(configured(table, "both", ["recommended", "dress"]), root=Path(scratch))
            one = run(configured(table, "alone", ["dress"]), root=Path(scratch))
            together, alone = reached(both, "dress"), reached(one, "dress")
        for model in alone:
            found[model].append(together[model] - alone[model])
        print(
            json.dumps({"draw": draw, **{model: round(values[-1], 5) for model, values in found.items()}}), flush=True
        )
    for model, values in found.items():
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5 * float(t.ppf(0.975, len(values) - 1))
        mean, worst = float(np.mean(values)), float(np.abs(values).max())
        print(f"{model}: {mean:+.4f} [{mean - error:+.4f}, {mean + error:+.4f}], largest of a draw {worst:.4f}")


if __name__ == "__main__":
    main()
