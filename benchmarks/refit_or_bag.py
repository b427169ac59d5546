"""What to deploy of a cross-fitted fusion: one refit on all rows of train, or the bag of the folds' members.

The sets, draws and Evidence of `small_val.py`. Both have the options that all folds chose, and five seeds: the refit
is five models, the bag 25, each fitted without one of five folds, whose probabilities are averaged. Negative
log-likelihood is at the temperature of the cross-fitted predictions, which is what a policy would have, and at the one
that test itself would choose. A cell is one line of --out; one that stands there is not done again.

    export OMP_NUM_THREADS=1
    python benchmarks/refit_or_bag.py --out refit_or_bag.jsonl --cache runs/small-val
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from small_val import GRID, SETS, CrossFits, Drawn, Pool, read
from torch import Tensor

from bifocal import plugins
from bifocal.decide.calibration import fit_temperature, softmax
from bifocal.evaluate.metrics import auroc, nll
from bifocal.models.composite_fusion import mean_of_picks
from bifocal.models.heads import Recipe

STRATEGIES = ("concat", "hadamard", "linear", "stacking", "weighted")
SEEDS = range(5)
FIGURES = ("auroc", "nll", "nll_best")
WORTH = 0.005
"""Of AUROC or NLL, by which the bag would have to win."""


def measure_cell(drawn: Drawn, strategy: str) -> dict[str, dict[str, float]]:
    """Figures on test of the refit and of the bag."""
    kind, heard = plugins.load("fusions", strategy), CrossFits.of(drawn.train).rows
    options = GRID if issubclass(kind.Options, Recipe) else {}
    found = kind(**options).fit_folds(heard, seeds=SEEDS, read={})
    settings = found.settings.model_dump(mode="json")
    labels = next(iter(drawn.test.values())).labels.numpy()
    temperature = fit_temperature(found.logits[-1].numpy(), heard.labels.numpy())

    def figures(logits: Tensor) -> dict[str, float]:
        z = logits.numpy()
        best = fit_temperature(z, labels, width=None)
        losses = (nll(labels, softmax(z, t)) for t in (temperature, best))
        return dict(zip(FIGURES, (auroc(labels, softmax(z)), *losses), strict=True))

    refit = kind(**settings).fit(drawn.train, heard.labels, seeds=SEEDS)
    members = [kind(**settings).fit(*heard.without_fold(k), seeds=SEEDS)(drawn.test) for k in range(heard.folds)]
    bag = mean_of_picks(torch.stack(members), [1] * heard.folds)
    return {"refit": figures(refit(drawn.test)), "bag": figures(bag)}


def summarise(path: Path) -> None:
    """By set and size, and over all: what the bag has more than the refit, in AUROC and less NLL."""
    rows = read(path)
    names = dict.fromkeys((row["set"], row["size"]) for row in rows)
    print(f"the bag's AUROC, and NLL at both temperatures, less the refit's; thousandths, {len(rows)} cells")
    for name in [*names, *dict.fromkeys(("all", size) for _, size in names)]:
        own = [row for row in rows if name[0] in ("all", row["set"]) and row["size"] == name[1]]
        each = np.array([[row["bag"][f] - row["refit"][f] for f in FIGURES] for row in own]) * 1000
        error = each.std(axis=0, ddof=1) / len(each) ** 0.5 if len(each) > 1 else each[0] * np.nan
        told = ", ".join(f"{m:+.1f} ± {e:.1f}" for m, e in zip(each.mean(axis=0), error, strict=True))
        print(f"{name[0]:22} {name[1]:5} {told}")
    means = {s: [np.mean([r["bag"][f] - r["refit"][f] for r in rows if r["strategy"] == s]) for f in FIGURES]
             for s in dict.fromkeys(row["strategy"] for row in rows)}  # fmt: skip
    for strategy, found in means.items():
        print(f"{strategy:22} {'':5} " + ", ".join(f"{1000 * m:+.1f}" for m in found))
    mean = np.mean([[row["bag"][f] - row["refit"][f] for f in FIGURES] for row in rows], axis=0)
    print(f"the bag wins by {WORTH} in the mean: {bool(mean[0] > WORTH or -mean[1] > WORTH)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("refit_or_bag.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("runs/small-val"), help="of small_val.py")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["set"], row["size"], row["draw"], row["strategy"]) for row in read(asked.out)}
    pools = {name: Pool.of(name, asked.cache) for name in asked.sets}
    for number in range(asked.draws):
        for name, pool in pools.items():
            for size in asked.sizes:
                cells = [(name, size, number, strategy) for strategy in STRATEGIES]
                if all(cell in done for cell in cells):
                    continue
                drawn = Drawn.of(pool, number, size)
                for cell in cells:
                    if cell not in done:
                        found = dict(zip(("set", "size", "draw", "strategy"), cell, strict=True))
                        with asked.out.open("a") as file:
                            file.write(json.dumps(found | measure_cell(drawn, cell[3])) + "\n")
    summarise(asked.out)


if __name__ == "__main__":
    main()
