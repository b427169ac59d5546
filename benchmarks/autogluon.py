"""What a user would pick instead: AutoGluon's tabular predictor (LightGBM, n-grams) on the split of a run.

AutoGluon brings its own torch and pandas, so it gets an environment of its own:

    python -m venv /tmp/autogluon && /tmp/autogluon/bin/pip install 'autogluon.tabular[lightgbm]'
    python benchmarks/autogluon.py runs/airbnb /tmp/autogluon/bin/python [SECONDS]

Both learn from the rows of train; AutoGluon is given val as its tuning data, as the run had it for its choices.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LABEL = "label"
FIT = """
import json, sys
import pandas as pd
from autogluon.tabular import TabularPredictor
folder, seconds, models = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
paths = (f"{folder}/{split}.jsonl" for split in ("train", "val", "test"))
train, val, test = (pd.read_json(path, lines=True, convert_dates=False) for path in paths)
predictor = TabularPredictor("label", eval_metric="roc_auc", path=f"{folder}/ag", verbosity=0)
predictor.fit(train, tuning_data=val, time_limit=seconds, hyperparameters=models, num_gpus=0)
print(json.dumps({"val": float(predictor.evaluate(val)["roc_auc"]), "test": float(predictor.evaluate(test)["roc_auc"]),
                  "best": predictor.model_best}))
"""


def main(run: Path, python: str, seconds: int) -> None:
    from bifocal.config import parse_config
    from bifocal.contracts import Reporter
    from bifocal.modalities.text import TAG
    from bifocal.steps import Run
    from bifocal.workspace import Workspace, read_json

    config = parse_config(read_json(run / "run.json")["config"])
    work = Run(config, Workspace(run, config.run), Reporter())
    with tempfile.TemporaryDirectory() as folder:
        for split, packed in work.packed.items():
            texts, records = packed.values("text"), packed.values("tabular")
            classes = packed.classes(config.label, work.label)
            with open(Path(folder) / f"{split}.jsonl", "w", encoding="utf-8") as f:
                for i, label in enumerate(classes):
                    row = {"text": TAG.sub(" ", texts[i]).strip(), **records[i], LABEL: label}
                    f.write(json.dumps(row) + "\n")
        models = json.dumps({"GBM": [{}, {"extra_trees": True, "ag_args": {"name_suffix": "XT"}}]})
        command = [python, "-c", FIT, folder, str(seconds), models]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    print(f"{config.run}: AutoGluon {found['best']}: AUROC val {found['val']:.4f}, test {found['test']:.4f}")
    results = run / "lab" / "results.json"
    if results.is_file():
        lab = json.loads(results.read_text())
        best = next(m for m in lab["fusions"] if m["model"] == lab["best_fusion"])
        auroc = best["test"]["auroc"]
        print(f"{config.run}: {best['model']}: test {auroc['value']:.4f} [{auroc['low']:.4f}, {auroc['high']:.4f}]")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 300)
