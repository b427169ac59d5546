"""Decisions and choices on small data: tuned on a small val, on cross-fitted training rows too, and not at all.

Five sets of two classes: `airbnb`, `womens-clothing`, `fashion` (black or another colour) and two of generated
memes, whose label is that both cues are on, or the text's, a tenth of them turned. Of each a pool is packed and run
through its frozen encoders once, kept under --cache. A draw takes whole groups from it: 2,000 test rows, 150 for val
(50 among them), and 3,000, 1,000 and 300 for train, each part of the one before. Heads, TF-IDF and tabular columns are
fitted on the draw's own train rows, so that Evidence is that of a run of this size. Draws of one set share rows of its
pool, so that intervals over draws are of these pools. Heads that train by gradient have one seed and a narrow grid.

A cell is a set, a size, a draw and a strategy. Its model is judged on test, threshold by macro-F1:

- `untuned`: fitted as `decide.on: cross_fit` fits it, temperature 1 and threshold 0.5;
- `cross_fit`: the same model, tuned on cross-fitted train and val;
- `val_only`: the same model, tuned on val;
- `val`: what `decide.on: val` deploys: early stopping and grid on val too (`auto` and `ensemble` choose by
  cross-fitting all the same).

Strategies that train by gradient or grow trees, `auto` and `ensemble` have the first --learned draws; the latter two
hear what the former said, so that nothing is cross-fitted twice. Each cell is one line of --out; one that stands there
is not done again. `small_val_summary.py` tells what they show.

    export OMP_NUM_THREADS=1
    python benchmarks/small_val.py --out small_val.jsonl --jobs 2
    python benchmarks/small_val.py --out small_val.jsonl --summary
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from small_val_summary import CHOOSING, SIMPLE, VALS, summarise
from torch import Tensor

from bifocal import plugins
from bifocal.assess.run_data import RunData
from bifocal.config import FusionConfig, RunConfig, ThresholdConfig, load_config
from bifocal.data.splits import fold_of
from bifocal.decide.calibration import fit_temperature, softmax
from bifocal.decide.policy import POOLED, patterns
from bifocal.decide.policy_fit import fit_policy
from bifocal.decide.tuning_rows import PolicySettings, TuningRows
from bifocal.evaluate.metrics import auroc, ece, macro_f1, nll
from bifocal.example import Evidence
from bifocal.fit.evidence import features_of
from bifocal.fit.fusion import MODEL, fit_fusion
from bifocal.models.composite_fusion import CompositeFusion
from bifocal.models.folds import CrossFittable, FoldPredictions, FoldRows
from bifocal.models.heads import Recipe
from bifocal.models.window_rows import by_head, by_held_out_heads, fit_head, take_rows
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace

CONFIGS = Path(__file__).parent.parent / "configs"
GENERATED = ("lab-unique-text", ["source.size=5600"])
SETS: dict[str, tuple[str, list[str]]] = {
    "airbnb": ("airbnb", []),
    "womens-clothing": ("womens-clothing", []),
    "fashion": ("fashion", ["limit=7000"]),
    "generated-and": GENERATED,
    "generated-unique-text": GENERATED,
}
"""Name -> configuration and what is set otherwise in it."""
CUES = {"generated-and": ("cue_text", "cue_image"), "generated-unique-text": ("cue_text",)}
"""The label is 1 where all of these are on, which are drawn independently, but for `TURNED` of the rows."""
TURNED = 0.1
POSITIVE = {"fashion": "Black"}
"""The class that is told from all others."""
SIZES, TEST = (300, 1000, 3000), 2000
FOLDS, SEEDS = 5, range(1)
GRID = {"learning_rates": [1e-3, 3e-3], "weight_decays": [0.01]}
"""Of every head that is trained by gradient. With it and one seed a strategy is by itself what `auto` compares."""
RULE = ThresholdConfig(by="macro_f1")


@dataclass(frozen=True)
class Pool:
    """All rows of a set.

    Attributes
    ----------
    values : mapping
        Modality -> values ``[n]``, of encoders that are made of the training rows.
    encoders, encoded : mapping
        Modality -> pretrained encoder, whose head is fitted anew for each draw, and what it gave ``[n, d]`` by column.
    """

    config: RunConfig
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: np.ndarray
    present: Mapping[str, np.ndarray]
    values: Mapping[str, Sequence[Any]]
    encoders: Mapping[str, Any]
    encoded: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, name: str, cache: Path) -> Pool:
        """Packed and encoded on the first call; read from the cache after that."""
        config = load_config(CONFIGS / f"{SETS[name][0]}.yaml", SETS[name][1])
        space = Workspace.of(run(config, root=cache, until="shards"))
        data = RunData.configured(config, space)
        splits = list(data.packed.values())
        asked = {label: data.taxonomy[label] for label in CUES.get(name, (config.label,))}
        each = [np.concatenate([split.classes(*label) for split in splits]) for label in asked.items()]
        labels = np.prod(each, axis=0)
        if name in POSITIVE:
            one = asked[config.label].classes.index(POSITIVE[name])
            labels = np.where(labels < 0, labels, labels == one)
        if name in CUES:
            labels ^= np.random.default_rng(0).random(len(labels)) < TURNED
        values, encoders, encoded = {}, {}, {}
        for modality in config.modalities:
            if _is_made_of_rows(config, modality):
                values[modality] = [value for split in splits for value in split.values(modality)]
                continue
            encoders[modality] = _encoder(config, modality, [])
            paths = {name: space.folder / "pool" / f"{modality}.{name}.safetensors" for name in data.packed}
            found = [features_of(encoders[modality], data.packed[name], modality, path) for name, path in paths.items()]
            # No text of these is longer than a window.
            encoded[modality] = {column: torch.cat([part[column] for part in found]) for column in found[0]}
        return cls(
            config,
            tuple(row for split in splits for row in split.ids),
            tuple(group for split in splits for group in split.groups),
            labels,
            {m: np.concatenate([split.present[m] for split in splits]) for m in config.modalities},
            values,
            encoders,
            encoded,
        )

    def draw(self, number: int) -> dict[str, np.ndarray]:
        """Rows of ``test``, ``val`` and ``train``: whole groups, in a random order."""
        where: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(self.labels >= 0):
            where[self.groups[row]].append(int(row))
        wanted = [("test", TEST), *((f"val{n}", n - before) for before, n in zip((0, *VALS), VALS, strict=False))]
        wanted += [(f"train{n}", n - before) for before, n in zip((0, *SIZES), SIZES, strict=False)]
        left, taken = dict(wanted), {name: list[int]() for name, _ in wanted}
        names = sorted(where)
        for place in np.random.default_rng(number).permutation(len(names)):
            rows = where[names[place]]
            fits = next((name for name, free in left.items() if len(rows) <= free), None)
            if fits:
                taken[fits] += rows
                left[fits] -= len(rows)
        if any(left.values()):
            raise SystemExit(f"{self.config.run}: too few rows for a draw, {left} are missing")
        return {name: np.array(rows) for name, rows in taken.items()}


def _is_made_of_rows(config: RunConfig, modality: str) -> bool:
    """Whether an encoder is made of the training rows, and costs nothing to run again."""
    return config.expert(modality).encoder in ("tfidf_text", "linear_tabular")


def _encoder(config: RunConfig, modality: str, values: Sequence[Any]) -> Any:
    expert = config.expert(modality)
    kind = plugins.load("encoders", expert.encoder or plugins.load("modalities", modality).from_config(config).encoder)
    return kind.create(expert, [0, 1], 0, values)


@dataclass(frozen=True)
class Drawn:
    """What the experts of one draw and size say: modality -> Evidence, of each kind of rows."""

    train: dict[str, Evidence]
    val: dict[int, dict[str, Evidence]]
    test: dict[str, Evidence]
    seconds: float

    @classmethod
    def of(cls, pool: Pool, number: int, size: int) -> Drawn:
        start, rows = process_time(), pool.draw(number)
        train = np.concatenate([rows[f"train{n}"] for n in SIZES if n <= size])
        others = np.concatenate([rows["test"], *(rows[f"val{n}"] for n in VALS)])
        found = {m: _evidence(pool, m, train, others) for m in pool.config.modalities}
        later = {m: two[1] for m, two in found.items()}
        val = {n: {m: e.take(range(len(rows["test"]), len(rows["test"]) + n)) for m, e in later.items()} for n in VALS}
        test = {m: e.take(range(len(rows["test"]))) for m, e in later.items()}
        return cls({m: two[0] for m, two in found.items()}, val, test, process_time() - start)


def _evidence(pool: Pool, modality: str, train: np.ndarray, others: np.ndarray) -> tuple[Evidence, Evidence]:
    """Of the expert of a modality fitted on some rows: of these, cross-fitted, and of others."""
    there = {"train": pool.present[modality][train], "others": pool.present[modality][others]}
    usable = {"train": train[there["train"]], "others": others[there["others"]]}
    if modality in pool.encoded:
        encoder = pool.encoders[modality]
        encoded = {name: take_rows(pool.encoded[modality], rows.tolist()) for name, rows in usable.items()}
    else:
        values = pool.values[modality]
        encoder = _encoder(pool.config, modality, [values[i] for i in usable["train"]])
        encoded = {name: encoder.encode([values[i] for i in rows]) for name, rows in usable.items()}
    labels, groups = torch.from_numpy(pool.labels), [pool.groups[i] for i in usable["train"]]
    fit_head(encoder, encoded["train"], labels[usable["train"]], groups)
    found = {
        "train": by_held_out_heads(encoder, encoded["train"], labels[usable["train"]], groups, folds=FOLDS, seed=0),
        "others": by_head(encoder, encoded["others"]),
    }
    result = []
    for name, rows in (("train", train), ("others", others)):
        present = torch.from_numpy(there[name])
        whole = {column: torch.zeros(len(rows), tensor.shape[1]) for column, tensor in found[name].items()}
        for column, tensor in found[name].items():
            whole[column][present] = tensor
        ids, own = (tuple(names[i] for i in rows) for names in (pool.ids, pool.groups))
        seen = torch.zeros(len(rows), dtype=torch.bool)
        result.append(Evidence(ids, own, whole["features"], whole["logits"], present, labels[rows], seen))
    return result[0], result[1]


# ---------------------------------------------------------------------- measure


@dataclass(frozen=True)
class CrossFits:
    """What the strategies of one draw said of its train rows, for those that choose among them."""

    rows: FoldRows
    found: dict[str, FoldPredictions]
    seconds: dict[str, float]

    @classmethod
    def of(cls, train: Mapping[str, Evidence]) -> CrossFits:
        first = next(iter(train.values()))
        fold = torch.tensor(fold_of(first.groups, first.labels.tolist(), FOLDS, 0))
        return cls(FoldRows(train, first.labels, fold, patterns(train)), {}, {})

    def of_strategy(self, name: str) -> FoldPredictions:
        """Cross-fitted now; `auto` and `ensemble` hear what their candidates said already, if all did."""
        start, fusion = process_time(), plugins.load("fusions", name)(**_options(name))
        if isinstance(fusion, CompositeFusion) and set(self.found) >= set(strategies()) - set(CHOOSING):
            left_out = fusion.left_out(self.rows.evidence, {})
            heard = {n: one for n, one in self.found.items() if n not in left_out}
            found = fusion.compose(heard, self.rows, seeds=SEEDS, read={})
            self.seconds[name] = process_time() - start + sum(self.seconds[n] for n in heard)
            return found
        found = fusion.fit_folds(self.rows, seeds=SEEDS, read={})
        self.seconds[name] = process_time() - start
        if name not in CHOOSING:
            self.found[name] = found
        return found


def _options(strategy: str) -> dict[str, Any]:
    if strategy in CHOOSING:
        each = {name: _options(name) for name in strategies() if name not in CHOOSING}
        return {"options": {name: own for name, own in each.items() if own}}
    return GRID if issubclass(plugins.load("fusions", strategy).Options, Recipe) else {}


def measure_cell(drawn: Drawn, strategy: str, cross_fits: CrossFits) -> dict[str, Any]:
    """One strategy on one draw: the decisions of its models on test, by number of val rows."""
    config = FusionConfig(strategy=strategy, seeds=len(SEEDS), options=_options(strategy))
    found = cross_fits.of_strategy(strategy)
    chosen: dict[str, Any] = {"strategy": found.strategy or strategy, "options": found.settings.model_dump(mode="json")}
    start = process_time()
    model = fit_fusion(config.model_copy(update=chosen), drawn.train, val=None, seed=SEEDS[0])
    seconds = {"experts": drawn.seconds, "cross_fit": cross_fits.seconds[strategy], "fit": process_time() - start}
    rows = _Judged(drawn.test, model(drawn.test).numpy())
    result: dict[str, Any] = {
        "taken": chosen["options"].get("members", chosen["strategy"]),
        "auroc": auroc(rows.labels, softmax(rows.logits)),
        "untuned": rows.figures(softmax(rows.logits), None),
    }
    heard = _Judged(drawn.train, found.logits[-1].numpy())  # the last set of parts is all of them
    for n, val in drawn.val.items():
        told = _Judged(val, model(val).numpy())
        result[f"val_only{n}"] = rows.decided_by([told])
        result[f"cross_fit{n}"] = rows.decided_by([told, heard])
        if strategy in CHOOSING:
            result[f"val{n}"] = result[f"val_only{n}"]
            continue
        start = process_time()
        early = fit_fusion(config, drawn.train, val=val, seed=SEEDS[0])
        seconds[f"fit_val{n}"] = process_time() - start
        own, on_val = (_Judged(e, early(e).numpy()) for e in (drawn.test, val))
        result[f"val{n}"] = own.decided_by([on_val])
    return {**result, "seconds": seconds}


@dataclass(frozen=True)
class _Judged:
    """What the experts and a fusion say of some rows."""

    evidence: Mapping[str, Evidence]
    logits: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return next(iter(self.evidence.values())).labels.numpy()

    def figures(self, probabilities: np.ndarray, predictions: np.ndarray | None) -> dict[str, float]:
        best = softmax(self.logits, fit_temperature(self.logits, self.labels, width=None))
        return {
            "macro_f1": macro_f1(self.labels, probabilities, predictions=predictions),
            "nll": nll(self.labels, probabilities),
            "ece": ece(self.labels, probabilities, kind="positive", debiased=True),
            "excess_nll": nll(self.labels, probabilities) - nll(self.labels, best),
        }

    def decided_by(self, tuning: Sequence[_Judged]) -> dict[str, float]:
        """Figures by the policy that other rows give, and what is wrong with the gain that these state."""
        scores = np.concatenate([t.logits for t in tuning]), np.concatenate([t.labels for t in tuning])
        about = PolicySettings("small", "label", (0, 1), "probability", False, {}, rule=RULE)
        policy = fit_policy(TuningRows({MODEL: {POOLED: scores}}), about).policy
        probabilities = policy.probabilities(MODEL, self.logits, POOLED)
        found = self.figures(probabilities, policy.predictions(MODEL, probabilities, POOLED))
        return {**found, "gain_error": gain(tuning) - gain([self])}


def gain(rows: Sequence[_Judged]) -> float:
    """The least gain of a fusion over an expert, in AUROC.

    A row without an expert's part counts with even odds here; `gains_over_experts` takes train's class shares.
    """
    labels = np.concatenate([r.labels for r in rows])
    own = auroc(labels, softmax(np.concatenate([r.logits for r in rows])))
    experts = [np.concatenate([r.evidence[m].logits.numpy() for r in rows]) for m in rows[0].evidence]
    return own - max(auroc(labels, softmax(logits)) for logits in experts)


def strategies() -> list[str]:
    """Every one that can be cross-fitted, those that choose among the others last."""
    found = [name for name in plugins.names("fusions") if issubclass(plugins.load("fusions", name), CrossFittable)]
    return sorted(found, key=lambda name: (name in CHOOSING, name not in SIMPLE, name))


Cell = tuple[str, int, int, str]
"""Set, size, draw, strategy."""


def measure_draw(pools: Mapping[str, Pool], out: Path, lock: Any, cells: Sequence[Cell]) -> None:
    """All cells of one set, size and draw, each written as it is done."""
    name, size, number, _ = cells[0]
    drawn = Drawn.of(pools[name], number, size)
    cross_fits = CrossFits.of(drawn.train)
    for cell in cells:
        found = dict(zip(("set", "size", "draw", "strategy"), cell, strict=True))
        found |= measure_cell(drawn, cell[3], cross_fits)
        with lock, out.open("a") as file:
            file.write(json.dumps(found) + "\n")


def measure(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {(r["set"], r["size"], r["draw"], r["strategy"]) for r in read(asked.out)}
    names, tasks = asked.strategies or strategies(), []
    for number in range(max(asked.draws, asked.learned)):
        own = [s for s in names if number < (asked.draws if s in SIMPLE else asked.learned)]
        for name in asked.sets:
            for size in sorted(asked.sizes, reverse=True):
                if cells := [cell for s in own if (cell := (name, size, number, s)) not in done]:
                    tasks.append(cells)
    pools = {name: Pool.of(name, asked.cache) for name in dict.fromkeys(cells[0][0] for cells in tasks)}
    print(f"{sum(map(len, tasks))} cells to do, {len(done)} done", flush=True)
    context = multiprocessing.get_context("fork")  # the pools are shared
    lock, running = context.Lock(), list[Any]()
    while tasks or running:
        ended = [process for process in running if not process.is_alive()]
        if failed := [process for process in ended if process.exitcode]:
            raise SystemExit(f"{len(failed)} failed; what is done is in {asked.out}")
        running = [process for process in running if process not in ended]
        if tasks and len(running) < asked.jobs:
            running.append(context.Process(target=measure_draw, args=(pools, asked.out, lock, tasks.pop(0))))
            running[-1].start()
        elif running:
            multiprocessing.connection.wait([process.sentinel for process in running])


def read(path: Path) -> list[dict[str, Any]]:
    """The cells in a file; a last line cut short by a kill is no cell."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("small_val.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("runs/small-val"), help="packed pools and their features")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--learned", type=int, default=5, help="draws of strategies that learn by steps, or choose")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--strategies", nargs="+", help="default: all that can be cross-fitted")
    parser.add_argument("--summary", action="store_true", help="tell what --out holds, and measure nothing")
    parser.add_argument(
        "--tables", action="store_true", help="with --summary: a table of strategies for each set and size"
    )
    asked = parser.parse_args()
    if not asked.summary:
        measure(asked)
        return
    summarise(read(asked.out), tables=asked.tables)


if __name__ == "__main__":
    main()
