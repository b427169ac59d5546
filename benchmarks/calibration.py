"""What each calibration method is worth on test: NLL, Brier and debiased ECE before and after, with paired intervals.

Reads the cached predictions of finished runs, of any label; no encoder runs. Every method is fitted on val, as
`bifocal run` does, and judged on test by 1,000 paired resamples of groups. Other fusions of the same predictions are
fitted where they are named; the scores of `mean` are far from calibrated. The temperature is also fitted by
scikit-learn's `CalibratedClassifierCV(method="temperature")` on the same logits. Without a run named it first makes one
of generated memes, which both parts are needed for and every tenth label of which is wrong: 2,000 rows of train, 1,000
of val, 10,000 of test.

    python benchmarks/calibration.py --fusions mean weighted stacking boosted      # a quarter of an hour, then a minute
    python benchmarks/calibration.py runs/fashion runs/smear-memes --fusions mean                       # finished runs
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bifocal.assess.predictions import Predictions
from bifocal.assess.run_data import RunData
from bifocal.config import load_config, parse_config
from bifocal.decide.calibration import fit_temperature, softmax
from bifocal.decide.calibration_methods import METHODS, fit_calibration
from bifocal.evaluate.compare import paired_gain
from bifocal.evaluate.metrics import ece
from bifocal.example import UNLABELLED
from bifocal.fit.fusion import fit_fusion
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, read_json

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
MEMES = [
    "run=calibration",
    "ocr=never",
    "source={kind: synthetic, size: 13000, structure: and, cue: colour, overlay: false, label_noise: 0.1, seed: 0}",
    "splits={val: 0.0769, test: 0.7692}",
    "robustness={attacks: []}",
    "shard_size=2000",
]
HIGH = 0.05
"""A debiased ECE above it should at least be halved."""
FEW = 2000
"""Rows of test under which a calibration error is mostly chance."""


def rows_of(said: Predictions, model: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Logits, labels and groups of the annotated rows on which a model has an opinion."""
    rows = np.flatnonzero(said.has[model] & (said.labels != UNLABELLED))
    return said.logits[model][rows], said.labels[rows], [said.groups[row] for row in rows]


def sklearn_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Logits(ClassifierMixin, BaseEstimator):
        """A classifier whose decisions are its input: it makes scikit-learn fit on our logits."""

        def fit(self, x: np.ndarray, y: np.ndarray) -> Logits:
            self.classes_ = np.arange(x.shape[1])
            return self

        def decision_function(self, x: np.ndarray) -> np.ndarray:
            return x if x.shape[1] > 2 else (x[:, 1] - x[:, 0]) / 2  # it takes a margin m as [-m, m]

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(axis=1)

    logits = logits.astype(np.float64)
    frozen = FrozenEstimator(Logits().fit(logits, labels))
    fitted = CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels)
    beta: float = fitted.calibrated_classifiers_[0].calibrators[0].beta_
    return 1 / beta


def other_fusion(work: RunData, strategy: str) -> tuple[Predictions, Predictions]:
    """What another fusion of the run's experts says of val and test, fitted as the run fits its own."""
    config = work.config.fusion.model_copy(update={"strategy": strategy, "read": {}, "options": {}})
    train = work.evidence_of("train")
    clean = np.flatnonzero(~np.any([e.seen.numpy() for e in train.values()], axis=0)).tolist()
    train = {name: e.take(clean) for name, e in train.items()}
    fused = fit_fusion(config, train, val=work.evidence_of("val"), seed=work.config.seed, in_sample=False)
    tuned, tested = (
        Predictions.gather(work.evidence_of(split), work.expert_names, fused, strategy) for split in ("val", "test")
    )
    return tuned, tested


def judge(model: str, tuned: Predictions, tested: Predictions, resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row per method: figures on test, and their change with its interval."""
    logits, labels, groups = rows_of(tuned, model)
    z, y, test_groups = rows_of(tested, model)
    before = softmax(z)
    for method in (*METHODS, "auto"):
        fitted = fit_calibration(logits, labels, method, groups=groups).calibration
        after = fitted(z)
        row: dict[str, Any] = {"method": method if method != "auto" else f"auto: {fitted.method}", "fitted": fitted}
        for metric in ("nll", "brier"):
            row[metric] = paired_gain(y, before, after, test_groups, metric=metric, resamples=resamples, seed=seed)
        for kind in ("top_label", "positive"):
            row[kind] = [ece(y, p, kind=kind, debiased=True) for p in (before, after)]
        yield row


def tell(model: str, tuned: Predictions, tested: Predictions, resamples: int, seed: int) -> None:
    logits, labels, _ = rows_of(tuned, model)
    n = len(rows_of(tested, model)[1])
    few = ", too few rows: a calibration error is mostly chance" if n < FEW else ""
    print(f"  {model}: {len(labels):,} rows of val, {n:,} of test{few}")
    ours, theirs = fit_temperature(logits, labels, width=None), sklearn_temperature(logits, labels)
    print(
        f"    temperature {fit_temperature(logits, labels):.4f}; without its prior {ours:.4f}, scikit-learn's "
        f"{theirs:.4f}: {abs(ours / theirs - 1):.2%} apart (at most 2%)"
    )
    for row in judge(model, tuned, tested, resamples, seed):
        parts, short = [], []
        for metric in ("nll", "brier"):
            gain = row[metric]
            parts.append(f"{metric} {gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]")
            if gain["low"] > 0:
                short.append(f"{metric} is worse")
        for kind in ("top_label", "positive"):
            before, after = row[kind]
            parts.append(f"ece {kind} {before:.4f} -> {after:.4f}")
            if before > HIGH and after > before / 2:
                short.append(f"ece {kind} is not halved")
        print(f"    {row['method']:18} {'  '.join(parts)}{'   SHORT: ' if short else ''}{', '.join(short)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", help="finished runs; none = generated memes, made here")
    parser.add_argument("--fusions", nargs="*", default=[], metavar="STRATEGY", help="others, beside the run's own")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where they are made")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for folder in asked.folders or [run(load_config(CONFIG, MEMES), root=asked.runs)]:
        start = perf_counter()
        space = Workspace.of(folder)
        work = RunData.configured(parse_config(read_json(space.record)["config"], where=str(space.record)), space)
        tuned, tested = work.predictions(work.tuned_on), work.predictions(work.tested_on)
        classes, marks = len(work.label.classes), ", IN SAMPLE" if work.in_sample else ""
        print(f"{space.run}: {work.config.label}, {classes} classes; seed {asked.seed}{marks}")
        print(f"  on test, after less before: below 0 is better; 95% paired intervals, {asked.resamples:,} resamples")
        for model in work.models:
            tell(model, tuned, tested, asked.resamples, asked.seed)
        for strategy in asked.fusions:
            tell(strategy, *other_fusion(work, strategy), asked.resamples, asked.seed)
        print(f"  {perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
