"""Frozen experts and fusion on real memes over five seeds, beside logistic regression on the same Evidence.

Shows on `configs/smear-memes.yaml` whether the text expert holds up against a plain baseline, and whether fusion beats
text here (with `concat` it does not). Reads the folder named by BIFOCAL_DATA; writes to runs/.

    python benchmarks/smear_memes.py [--seeds 5] [--runs runs]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bifocal.config import RunConfig, load_config
from bifocal.data.shards import open_split
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        config = load_config(CONFIG, [f"seed={seed}", "run=smear-memes-seeds", "fusion.strategy=concat"])
        space = Workspace.of(run(config, root=given.runs))
        results = read_json(space.results)
        rows.append({m: f["test"]["metrics"]["auroc"]["value"] for m, f in results["models"].items()} | results["gain"])
        print(
            f"seed {seed}: "
            + "  ".join(f"{m} {rows[-1][m]:.3f}" for m in ("text_expert", "vision_expert", "mm_fusion"))
        )
    for model in ("text_expert", "vision_expert", "mm_fusion"):
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


if __name__ == "__main__":
    main()
