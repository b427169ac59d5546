"""All seeds and grid points of a fusion's head as one batched program, beside training them one by one, in one process.

Generated Evidence of 20,000 rows, two modalities of the same width; 5 seeds x 4 grid points of every fusion that learns
by gradient, batch 256. One by one is a plain torch loop: the module, cross-entropy, torch.optim.AdamW. Of its models
some are timed and stand for all; epochs are few, and the same for both. What does not learn by gradient is fitted once
and takes the same time either way: its seconds are printed, and counted in the last line for both.

    python benchmarks/heads.py [--inputs 64 128 256 1664] [--rows 20000] [--epochs 2] [--singles 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch
from torch import nn

from bifocal import plugins
from bifocal.example import Evidence
from bifocal.models.evidence_fusion import LearnedFusion
from bifocal.models.heads import Parts, Recipe, Scaling, fit_heads, flagged

BATCH, SEEDS, WIDTH = 256, range(5), 128
RATES, DECAYS = (1e-3, 3e-3), (0.01, 1.0)


def evidence(rows: int, width: int) -> dict[str, Evidence]:
    """Noise with an AND in its first columns."""
    g = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (2, rows), generator=g)
    ids, there = tuple(map(str, range(rows))), torch.ones(rows, dtype=torch.bool)
    labels = bits[0] & bits[1]
    result = {}
    for name, bit in zip(("text", "image"), bits, strict=True):
        x = torch.randn(rows, width, generator=g)
        x[:, :4] += 2 * bit[:, None]
        logits = torch.stack([-x[:, 0], x[:, 0]], dim=1)
        result[name] = Evidence(ids, ids, x, logits, there, labels, ~there)
    return result


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def one_by_one(head: nn.Module, inputs: dict, present: dict, labels: torch.Tensor, epochs: int) -> None:
    """The loop that a notebook would hold."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)
    head.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(BATCH):
            x = flagged({m: t[rows] for m, t in inputs.items()}, {m: p[rows] for m, p in present.items()})
            loss = nn.functional.cross_entropy(head(x, {m: p[rows] for m, p in present.items()}), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def compare(strategy: str, parts: Parts, epochs: int, singles: int) -> tuple[float, float]:
    """Seconds of all models batched, and one by one."""
    recipe = Recipe(batch_size=BATCH, learning_rates=RATES, weight_decays=DECAYS, epochs=epochs, patience=epochs)
    fusion, scaling = plugins.load("fusions", strategy)(), Scaling.of(parts)
    dims = {m: scaling.width(m) for m in parts.inputs}
    few = Parts(
        {m: x[:512] for m, x in parts.inputs.items()},
        {m: p[:512] for m, p in parts.present.items()},
        parts.labels[:512],
    )

    def build() -> nn.Module:
        return fusion.head(dims, 2, WIDTH)

    def batched(rows: Parts, val: Parts) -> None:
        fit_heads(build, rows, val, seeds=SEEDS, recipe=recipe, scaling=scaling)

    def plain(rows: Parts, passes: int) -> None:
        one_by_one(build(), scaling.prepared(rows.inputs), rows.present, rows.labels, passes)

    batched(few, few)  # the first pass in a process is slower
    plain(few, 1)
    together = seconds(lambda: batched(parts, few))
    apart = min(seconds(lambda: plain(parts, epochs)) for _ in range(singles))
    return together, apart * len(SEEDS) * len(recipe.grid())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, nargs="+", default=[64, 128, 256, 1664], help="columns of all parts")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--singles", type=int, default=2, help="models timed one by one; the fastest stands for all")
    asked = parser.parse_args()
    names = plugins.names("fusions")
    learned = [n for n in names if issubclass(plugins.load("fusions", n), LearnedFusion)]
    models = len(SEEDS) * len(RATES) * len(DECAYS)
    print(f"{torch.get_num_threads()} threads, {asked.rows:,} rows, {models} models of each fusion")
    for inputs in asked.inputs:
        rows = evidence(asked.rows, inputs // 2)
        labels = rows["text"].labels
        parts = Parts({m: e.features for m, e in rows.items()}, {m: e.present for m, e in rows.items()}, labels)
        batched = apart = 0.0
        for name in learned:
            times = compare(name, parts, asked.epochs, asked.singles)
            batched, apart = batched + times[0], apart + times[1]
            tell(inputs, name, *times)
        tell(inputs, "by gradient", batched, apart)
        for name in sorted(set(names) - set(learned)):
            fit = plugins.load("fusions", name)().fit
            took = seconds(partial(fit, rows, labels, seeds=SEEDS))
            batched, apart = batched + took, apart + took
            tell(inputs, name, took, took)
        tell(inputs, "all", batched, apart)


def tell(inputs: int, name: str, batched: float, apart: float) -> None:
    print(f"{inputs:5} inputs  {name:11} {batched:7.1f} s batched, {apart:7.1f} s one by one: {apart / batched:.1f}x")


if __name__ == "__main__":
    main()
