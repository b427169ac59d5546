"""Is the threshold with the best macro-F1 on few tuning rows better chosen by something smoother than those rows' own?

Compared, all on the grid 0.10 to 0.90 by 0.05 and after a temperature fitted on the same rows:

- `none`: the best macro-F1 on the tuning rows;
- `expected`: the best macro-F1 where each row counts as positive by its calibrated probability, whatever its label;
- `fitted`: the same by probabilities that a logistic regression on the calibrated log-odds gives (slope and bias, which
  the temperature lacks), while the threshold stays on the calibrated ones;
- `median`: the median of the best over 200 resamples of the groups of the tuning rows.

Generated scores are normal in each class, with four areas under the ROC curve and four base rates, as logits that are
`true`, twice too large (`sharp`), 0.7 too high (`shifted`), or twice too large above 0 and 0.7 times below (`bent`),
which no temperature mends; one row in four stands twice, as a group. Real ones are those of TF-IDF and logistic
regression learned from 1,000 texts of EDOS (sexist or not) and of women's clothing (recommended or not), whose folder
is read from BIFOCAL_DATA. 50 to 1,000 rows tune, 20,000 others (of real texts: all others) judge. Tuning rows
of one class alone are drawn again.

A figure is macro-F1 on the judging rows, in thousandths below that of the best threshold for them, averaged over draws;
Beside it what each choice gains over `none`, with 2 standard errors (paired; four draws of real texts share a model).

    python benchmarks/threshold_choice.py                      # minutes, on one core
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np

from bifocal.decide.calibration_methods import fit_calibration
from bifocal.decide.thresholds import GRID, best_macro_f1_threshold
from bifocal.evaluate.intervals import bootstrap_weights

DATA = Path(os.environ.get("BIFOCAL_DATA", "../shared")) / "data"
SIZES = (50, 150, 300, 500, 1000)
AREAS, BASE_RATES = (0.65, 0.75, 0.85, 0.95), (0.1, 0.3, 0.5, 0.75)
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "true": lambda z: z,
    "sharp": lambda z: 2 * z,
    "shifted": lambda z: z + 0.7,
    "bent": lambda z: np.where(z > 0, 2 * z, 0.7 * z),
}
LEARN, JUDGE, RESAMPLES = 1000, 20_000, 200
CHOICES = ("none", "expected", "fitted", "median")

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Log-odds, labels and groups, [n] each."""


def generated(area: float, base_rate: float, kind: str, n: int, rng: np.random.Generator) -> Rows:
    apart = np.sqrt(2) * NormalDist().inv_cdf(area)
    group = np.arange(n) if n > max(SIZES) else np.repeat(np.arange(n), np.where(np.arange(n) % 4, 1, 2))[:n]
    y = (rng.random(n) < base_rate).astype(int)[group]
    score = rng.normal(size=n)[group] + apart * (y - 0.5)
    return KINDS[kind](apart * score + np.log(base_rate / (1 - base_rate))), y, group


def texts(name: str) -> tuple[list[str], np.ndarray]:
    places = {
        "edos": ("edos/edos_labelled_aggregated.csv", "text", "label_sexist", "sexist"),
        "womens_clothing": ("womens_clothing/reviews.csv", "Review Text", "Recommended IND", "1"),
    }
    path, text, label, positive = places[name]
    with open(DATA / path, encoding="utf-8", newline="") as f:
        found = {row[text]: row[label] == positive for row in csv.DictReader(f) if row[text].strip()}  # no copies
    return list(found), np.array(list(found.values()), dtype=int)


@cache
def scored_texts(name: str, seed: int) -> Rows:
    """Of the texts that were not learned from."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    posts, y = texts(name)
    order = np.random.default_rng(seed).permutation(len(posts))
    learn, rest = order[:LEARN], order[LEARN:]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10))
    model.fit([posts[i] for i in learn], y[learn])
    return model.decision_function([posts[i] for i in rest]), y[rest], np.arange(len(rest))


def thresholds(p: np.ndarray, y: np.ndarray, group: np.ndarray, seed: int) -> dict[str, float]:
    """By each choice."""
    ones, zeros = np.ones(len(p), dtype=int), np.zeros(len(p), dtype=int)
    drawn = [weights for chunk in bootstrap_weights(group.tolist(), RESAMPLES, seed) for weights in chunk]
    found = [best_macro_f1_threshold(y, p, weights) for weights in drawn if 0 < weights @ y < weights.sum()]
    both, ends = np.append(ones, zeros), np.append(p, p)
    return {
        "none": best_macro_f1_threshold(y, p),
        "expected": best_macro_f1_threshold(both, ends, np.append(p, 1 - p)),
        "fitted": best_macro_f1_threshold(y, p, smoothed=True),
        "median": float(np.median(found)),
    }


def macro_f1(y: np.ndarray, p: np.ndarray, threshold: float) -> float:
    flags, positives = p >= threshold, int(y.sum())
    hits, flagged = int(y[flags].sum()), int(flags.sum())
    right = len(y) - flagged - positives + hits
    return hits / (flagged + positives) + right / (2 * len(y) - flagged - positives)


def lost(tune: Rows, judge: Rows, seed: int) -> list[float]:
    """Macro-F1 below that of the best threshold of the grid, by each choice; then at 0.5 and no temperature."""
    calibration = fit_calibration(_two(tune[0]), tune[1], "temperature").calibration
    p, y = calibration(_two(judge[0]))[:, 1], judge[1]
    best = max(macro_f1(y, p, threshold) for threshold in GRID)
    chosen = thresholds(calibration(_two(tune[0]))[:, 1], tune[1], tune[2], seed)
    return [best - macro_f1(y, p, threshold) for threshold in (*(chosen[name] for name in CHOICES), 0.5)]


def _two(odds: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros(len(odds)), odds], axis=1)


def generated_draws(n: int, draws: int, seed: int) -> Iterator[tuple[dict[str, str], list[float]]]:
    for cell, (area, base_rate, kind) in enumerate(product(AREAS, BASE_RATES, KINDS)):
        rng = np.random.default_rng((seed, n, cell))
        judge = generated(area, base_rate, kind, JUDGE, rng)
        for draw in range(draws):
            tune = generated(area, base_rate, kind, n, rng)
            while not 0 < tune[1].sum() < n:
                tune = generated(area, base_rate, kind, n, rng)
            yield {"logits": kind, "AUROC": f"{area}", "positive": f"{base_rate:.0%}"}, lost(tune, judge, draw)


def real_draws(n: int, draws: int, seed: int) -> Iterator[tuple[dict[str, str], list[float]]]:
    for name in ("edos", "womens_clothing"):
        for draw in range(draws):
            z, y, group = scored_texts(name, seed + draw // 4)
            order = np.random.default_rng((seed, n, draw)).permutation(len(y))
            tune, judge = order[:n], order[n:]
            yield {"texts": name}, lost((z[tune], y[tune], group[tune]), (z[judge], y[judge], group[judge]), draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="of tuning rows, of each kind of scores and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="how many rows tune")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"macro-F1 lost, in thousandths; {asked.draws} draws, seed {asked.seed}")
    print(
        f"{'':28}"
        + "".join(f"{name:>10}" for name in (*CHOICES, "0.5"))
        + "".join(f"{name:>18}" for name in CHOICES[1:])
    )
    for n in asked.sizes:
        found: dict[str, list[list[float]]] = {}
        for draws in (generated_draws(n, asked.draws, asked.seed), real_draws(n, asked.draws, asked.seed)):
            for of, figures in draws:
                kinds = [f"{name} {value}" for name, value in of.items()]
                for kind in (*kinds, *(["all generated"] if "logits" in of else [])):
                    found.setdefault(kind, []).append(figures)
        for kind, rows in found.items():
            lost_by = 1000 * np.array(rows)
            gained = (lost_by[:, :1] - lost_by)[:, 1 : len(CHOICES)]
            errors = 2 * gained.std(axis=0, ddof=1) / np.sqrt(len(gained))
            told = "".join(
                f"{mean:+11.2f} ± {error:4.2f}" for mean, error in zip(gained.mean(axis=0), errors, strict=True)
            )
            print(f"{n:5,} {kind:22}" + "".join(f"{mean:10.1f}" for mean in lost_by.mean(axis=0)) + told, flush=True)


if __name__ == "__main__":
    main()
