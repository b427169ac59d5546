"""Do features of `tfidf_text` flatter the rows that they were made of, as a fusion learns from them?

Usage: python benchmarks/tfidf_features.py [--draws 8]

Terms, their weights and the components of `tfidf_text` are made of all training texts, without labels. A fusion that
learns from the features of these very rows is compared with one that learns from the same rows under an encoder that
was made of as many others: what it loses on new rows is what the features owe to the rows themselves. Generated texts
of a label that they alone decide (a fifth of the labels is wrong); AUROC on 1,500 new rows, means over draws. Beside it
what the head of all terms reaches, and what 64 columns of noise, as a part that tells nothing, cost.
"""

import argparse
import warnings
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from bifocal.config import ExpertConfig
from bifocal.example import Example
from bifocal.models.encoders.tfidf_text import TfidfText
from bifocal.sources.synthetic import Synthetic

TESTED, WIDTH = 1500, 64


def drawn(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    source = Synthetic(size=n, seed=seed, structures={"offensive": "unique_text"}, overlay=False, label_noise=0.2)
    rows = [row for row in source if isinstance(row, Example)]
    return [row.parts.get("text") or "" for row in rows], np.array([row.labels["offensive"] for row in rows])


def auroc(train: Any, labels: np.ndarray, new: Any, truth: np.ndarray) -> float:
    model = LogisticRegressionCV(Cs=[1e-3, 1e-2, 0.1, 1, 10], cv=3, scoring="neg_log_loss", max_iter=500)
    return float(roc_auc_score(truth, model.fit(train, labels).predict_proba(new)[:, 1]))


def scaled(train: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(new)


def draw(n: int, seed: int) -> dict[str, float]:
    """AUROC by what is learned from: all terms; features, whole and in principal components, of both encoders."""
    texts, labels = drawn(2 * n + TESTED, seed)
    train, new, y, truth = texts[:n], texts[2 * n :], labels[:n], labels[2 * n :]
    noise = [np.random.default_rng(seed).normal(size=(len(rows), WIDTH)) for rows in (train, new)]
    found = {}
    for name, made_of in (("own", train), ("other", texts[n : 2 * n])):
        encoder = TfidfText.create(ExpertConfig(encoder="tfidf_text"), (0, 1), seed, made_of)
        sides = [encoder.compute(encoder.inputs(rows))["features"].numpy() for rows in (train, new)]
        reduced = PCA(min(WIDTH, sides[0].shape[1]), random_state=0).fit(sides[0])
        few = [reduced.transform(side) for side in sides]
        for what, (before, after) in {
            "all components": sides,
            "64": few,
            "64 and noise": [np.hstack(pair) for pair in zip(few, noise, strict=True)],
        }.items():
            before, after = scaled(before, after)
            found[f"{what}, made of {name} rows"] = auroc(before, y, after, truth)
        if name == "own":
            found["all terms"] = auroc(encoder.inputs(train), y, encoder.inputs(new), truth)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for n in (300, 1000):
        draws = [draw(n, 100 + seed) for seed in range(options.draws)]
        print(f"{n} rows, {options.draws} draws")
        for name in draws[0]:
            print(f"  {name:<34} {np.mean([of[name] for of in draws]):.4f}")
        for what in ("all components", "64", "64 and noise"):
            gaps = [of[f"{what}, made of other rows"] - of[f"{what}, made of own rows"] for of in draws]
            error = np.std(gaps, ddof=1) / len(gaps) ** 0.5
            print(f"  {what}: other less own rows {np.mean(gaps):+.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    main()
