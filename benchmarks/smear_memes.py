"""Frozen experts and fusion on real memes over five seeds, beside logistic regression on the same Evidence.

Shows on `configs/smear-memes.yaml` whether the text expert holds up against a plain baseline, whether fusion beats
text here (with `concat` it does not), and what the decisions on test come to that are tuned on the 63 rows of val, on
cross-fitted train as well, and not at all (temperature 1, threshold 0.5): positives are 75% of train, 84% of val, 62.5%
of test. Reads the folder named by BIFOCAL_DATA; writes to runs/.

    python benchmarks/smear_memes.py [--seeds 5] [--runs runs]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bifocal.assess.predictions import calibrated
from bifocal.assess.run_data import RunData
from bifocal.config import RunConfig, load_config
from bifocal.data.shards import open_split
from bifocal.decide.calibration import softmax
from bifocal.evaluate.intervals import Weighted, over_resamples, percentile_interval
from bifocal.pipeline.train import run
from bifocal.system.preprocessing import build_modalities
from bifocal.workspace import Workspace, read_json

CONFIG = Path(__file__).parent.parent / "configs" / "smear-memes.yaml"


def baseline(space: Workspace, experts: list[str]) -> float:
    """Test AUROC of scikit-learn's default logistic regression on the experts' standardised features."""
    data = {s: [load_file(space.evidence(e, s)) for e in experts] for s in ("train", "test")}
    x = {s: np.hstack([e["features"] for e in evidence]) for s, evidence in data.items()}
    y = {s: evidence[0]["labels"] for s, evidence in data.items()}
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x["train"], y["train"])
    return float(roc_auc_score(y["test"], model.predict_proba(x["test"])[:, 1]))


def tfidf(space: Workspace, config: RunConfig) -> float:
    """Test AUROC of TF-IDF words and logistic regression on the same composed texts."""
    modalities = build_modalities(config)
    splits = {s: open_split(space.shards(s), modalities) for s in ("train", "test")}
    y = {s: load_file(space.evidence("text_expert", s))["labels"] for s in splits}
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=2000, C=10)
    )
    model.fit(list(splits["train"].values("text")), y["train"])
    return float(roc_auc_score(y["test"], model.predict_proba(list(splits["test"].values("text")))[:, 1]))


DECISIONS = ("untuned", "val", "cross_fit")
METRICS = ("macro_f1", "nll")
MODELS = ("text_expert", "vision_expert", "mm_fusion")
Decided = dict[tuple[str, str], Weighted]
"""Model and decision -> what is decided of test."""


def decided(data: RunData, decision: str) -> Decided:
    """By the policy of a finished run, and where it is cross-fitted also by none."""
    predictions, policy, found = data.predictions("test"), data.policy(), Decided()
    for model in MODELS:
        found[model, decision] = Weighted(predictions.labels, *calibrated(predictions, policy, model))
        if decision == "cross_fit":
            found[model, "untuned"] = Weighted(predictions.labels, softmax(predictions.logits[model]))
    return found


def tell_decisions(seeds: Sequence[Decided], groups: Sequence[str]) -> None:
    """Each decision's figures, means over the seeds, and what cross-fitting changes, with paired 95% intervals."""

    def measure(weights: np.ndarray) -> dict[tuple[str, str, str], np.ndarray]:
        found = [
            {(*key, m): figure for key, w in seed.items() for m, figure in w(weights, METRICS).items()}
            for seed in seeds
        ]
        return {key: np.mean([one[key] for one in found], axis=0) for key in found[0]}

    found = over_resamples(measure, groups, 1000, 0)
    for model in MODELS:
        for metric in METRICS:
            own = {decision: found[model, decision, metric] for decision in DECISIONS}
            told = "  ".join(f"{decision} {values[0]:.3f}" for decision, values in own.items())
            for other in ("untuned", "val"):
                change = own["cross_fit"] - own[other]
                ends = percentile_interval(float(change[0]), change[1:])
                told += f"  cross_fit - {other} {ends.value:+.3f} [{ends.low:+.3f}, {ends.high:+.3f}]"
            print(f"{model:14s} {metric:8s} {told}")
    value = {key: float(values[0]) for key, values in found.items() if key[0] == "mm_fusion"}
    change = found["mm_fusion", "cross_fit", "nll"] - found["mm_fusion", "val", "nll"]
    gained, excess = (value["mm_fusion", "cross_fit", m] - value["mm_fusion", "untuned", m] for m in METRICS)
    high = percentile_interval(float(change[0]), change[1:]).high
    for what, figure, holds in (
        ("macro-F1 above untuned", gained, gained > 0),
        ("NLL within 0.03 of untuned", excess, excess <= 0.03),
        ("NLL below that of val, by the upper end of its interval", high, high < 0),
    ):
        print(f"mm_fusion, {what}: {figure:+.3f}, {'holds' if holds else 'does not hold'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    rows, decisions = [], []
    for seed in range(given.seeds):
        asked = [f"seed={seed}", "run=smear-memes-seeds", "fusion.strategy=concat"]
        space = Workspace.of(run(load_config(CONFIG, [*asked, "decide.on=val"]), root=given.runs, until="calibrate"))
        on_val = decided(RunData.of(space.folder), "val")
        config = load_config(CONFIG, [*asked, "decide.on=cross_fit"])
        run(config, root=given.runs)
        data = RunData.of(space.folder)
        decisions.append(on_val | decided(data, "cross_fit"))
        results = read_json(space.results)
        rows.append({m: f["test"]["metrics"]["auroc"]["value"] for m, f in results["models"].items()} | results["gain"])
        print(f"seed {seed}: " + "  ".join(f"{m} {rows[-1][m]:.3f}" for m in MODELS))
    for model in MODELS:
        values = [row[model] for row in rows]
        print(f"{model:14s} mean test AUROC {np.mean(values):.3f} (std over seeds {np.std(values, ddof=1):.3f})")
    lr = {"text": baseline(space, ["text_expert"]), "vision": baseline(space, ["vision_expert"])}
    lr["both"] = baseline(space, ["text_expert", "vision_expert"])
    print("logistic regression on the same Evidence: " + "  ".join(f"{m} {v:.3f}" for m, v in lr.items()))
    print(f"TF-IDF + logistic regression on the same texts: {tfidf(space, config):.3f}")
    text = np.mean([row["text_expert"] for row in rows])
    print(f"text expert - logistic regression: {text - lr['text']:+.3f} (required: at least -0.02)")
    gains = [(row["value"], row["low"], row["high"]) for row in rows]
    print("fusion - best expert, per seed: " + "  ".join(f"{v:+.3f} [{a:+.3f}, {b:+.3f}]" for v, a, b in gains))
    tell_decisions(decisions, data.predictions("test").groups)


if __name__ == "__main__":
    main()
