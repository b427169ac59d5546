"""What a user would pick instead: AutoGluon's tabular predictor (LightGBM, n-grams) on the split of a run.

AutoGluon brings its own torch and pandas, so it gets an environment of its own:

    python -m venv /tmp/autogluon && /tmp/autogluon/bin/pip install 'autogluon.tabular[lightgbm]'
    python benchmarks/autogluon.py runs/airbnb /tmp/autogluon/bin/python [--write lab/airbnb]

Both learn from the rows of train; AutoGluon is given val as its tuning data, as the run had it for its choices. Its
models are its own LightGBM presets. What it says of the rows of test is kept in the run's folder, and the run's fusion
is measured beside it on the same resamples of groups; while that file is there, and the ids of test and --seconds are
the same, AutoGluon is not fitted again: remove it after other changes. With --write the figure is kept beside the set's
results, and `bifocal lab --write` tells of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bifocal.assess.predictions import calibrated
from bifocal.assess.run_data import RunData
from bifocal.evaluate.compare import paired_gain
from bifocal.evaluate.intervals import Figure, measure
from bifocal.lab.results import AUTOGLUON
from bifocal.modalities.text import TAG
from bifocal.workspace import read_json, write_json

LABEL = "label"
MODELS = {"GBM": [{}, {"extra_trees": True, "ag_args": {"name_suffix": "XT"}}]}
FIT = """
import json, sys, time
from importlib.metadata import version
import pandas as pd
from autogluon.tabular import TabularPredictor
folder, limit, models = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
paths = (f"{folder}/{split}.jsonl" for split in ("train", "val", "test"))
train, val, test = (pd.read_json(path, lines=True, convert_dates=False) for path in paths)
start = time.time()
predictor = TabularPredictor("label", eval_metric="roc_auc", path=f"{folder}/ag", verbosity=0)
predictor.fit(train, tuning_data=val, time_limit=limit, hyperparameters=models, num_gpus=0)
seconds = time.time() - start
probabilities = predictor.predict_proba(test)[1].tolist()
print(json.dumps({"version": version("autogluon.tabular"), "seconds": seconds, "best": predictor.model_best,
                  "with_predict": time.time() - start, "probabilities": probabilities}))
"""


def main(run: Path, python: str, limit: int, write: Path | None) -> None:
    data = RunData.of(run)
    config, test, kept = data.config, data.split("test"), run / AUTOGLUON
    found = read_json(kept) if kept.is_file() else {}
    key = {"ids": list(test.ids), "limit": limit}
    if {name: found.get(name) for name in key} == key:
        print(f"{config.run}: AutoGluon's predictions are kept from earlier, {found['seconds']:.0f} s then: {kept}")
    else:
        found = {**fit(data, python, limit), **key}
        write_json(kept, found)
    p, labels = np.array(found.pop("probabilities")), np.array(test.classes(config.label, data.label))
    theirs, how = np.stack([1 - p, p], axis=1), {"resamples": config.bootstrap, "seed": config.seed}
    auroc = measure(labels, theirs, test.groups, **how)["metrics"]["auroc"]
    print(f"{config.run}: AutoGluon {found['version']}, {found['best']}, {found['seconds']:.0f} s: test {_told(auroc)}")
    model = data.models[-1]
    ours = calibrated(data.predictions("test"), data.policy(), model, adjusted=False)[0]
    own = measure(labels, ours, test.groups, **how)["metrics"]["auroc"]
    steps = data.record["steps"]
    took = {name: steps[name]["seconds"] for name in ("experts", "evidence", "fusion", "calibrate")}
    told = ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())
    strategy = data.config.fusion.strategy
    print(f"{config.run}: {model}, {strategy}, {sum(took.values()):.0f} s ({told}): test {_told(own)}")
    every = {name: step["seconds"] for name, step in steps.items()}
    told, whole = ", ".join(f"{name} {seconds:.0f}" for name, seconds in every.items()), sum(every.values())
    print(f"{config.run}: from table to report {whole:.0f} s ({told})", end="")
    if "with_predict" in found:  # not in what earlier versions kept
        print(
            f": {whole / found['with_predict']:.2f}x of AutoGluon's fit and predict, {found['with_predict']:.0f} s",
            end="",
        )
    print()
    gain = paired_gain(labels, theirs, ours, test.groups, metric="auroc", **how)
    print(f"{config.run}: ours less AutoGluon's, paired: {_told(gain)}")
    if (results := run / "lab" / "results.json").is_file():
        lab = json.loads(results.read_text())
        best = next(m for m in lab["fusions"] if m["model"] == lab["best_fusion"])
        print(f"{config.run}: {best['model']} of the lab: test {_told(best['test']['auroc'])}")
    if write:
        write_json(
            write / AUTOGLUON, {**{name: found[name] for name in ("version", "seconds", "best")}, "auroc": auroc}
        )


def fit(data: RunData, python: str, limit: int) -> dict[str, Any]:
    """Version, seconds, best model and the probabilities of the rows of test."""
    with tempfile.TemporaryDirectory() as folder:
        for split, packed in data.packed.items():
            texts, records = packed.values("text"), packed.values("tabular")
            with open(Path(folder) / f"{split}.jsonl", "w", encoding="utf-8") as f:
                for i, label in enumerate(packed.classes(data.config.label, data.label)):
                    row = {"text": TAG.sub(" ", texts[i]).strip(), **records[i], LABEL: label}
                    f.write(json.dumps(row) + "\n")
        command = [python, "-c", FIT, folder, str(limit), json.dumps(MODELS)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def _told(figure: Figure) -> str:
    return f"{figure['value']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("python")
    parser.add_argument("--seconds", type=int, default=300, help="AutoGluon's time limit")
    parser.add_argument("--write", type=Path, help="the set's folder below lab/")
    asked = parser.parse_args()
    main(asked.run, asked.python, asked.seconds, asked.write)
