"""What a run would do and cost, said before anything is downloaded, packed or trained (``--dry-run``)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from .. import plugins
from ..config import ExpertConfig, RunConfig
from ..contracts import Reporter, Source
from ..errors import BifocalError, DataError, ModelError
from ..example import Example
from ..files.folders import Files, FileSource
from ..sources.several import Several
from ..workspace import Workspace
from .checks import reach_models
from .context import Context
from .train import states, steps_of

ASSUMED_ROWS = 1000
"""Where the source cannot be read here, costs are given per this many rows."""
BACKWARD = 2
"""A backward pass costs about twice its forward pass (Kaplan et al. 2020, section 2.1)."""
ADAM_BYTES = 16
"""Bytes per trained parameter: weight, gradient and AdamW's two moments in float32."""


def plan(config: RunConfig, *, root: str | Path = "runs") -> dict[str, Any]:
    """Steps, rows, and per expert the parameters, FLOPs, hours and memory; runs nothing and writes nothing.

    Returns
    -------
    dict
        ``run, folder, steps`` (step -> ``done`` or ``to do``), ``rows`` (of several labels those that each learns from
        and is judged by under ``labels``), ``machine``, ``experts``, ``notes``.

    Raises
    ------
    BifocalError
        Where the configuration names a plug-in, an option, a label or a column that is not there, or a setting that
        its encoder would ignore.
    """
    work = Context.of(config, Workspace(Path(root) / config.run, config.run), Reporter())
    unreached = _unreached(work)
    rows, notes = _rows(work)
    gflops, device = measured_gflops()
    kept_aside = config.fusion.holdout if len(work.modalities) > 1 else 0
    experts, unknown = expert_costs(work, rows["n"], round(rows["n_train"] * (1 - kept_aside)), gflops)
    notes += unknown
    if unreached and not any(unreached in note for note in notes):
        notes.append(unreached)
    return {
        "run": config.run,
        "folder": str(work.space.folder),
        "steps": dict.fromkeys(steps_of(work.transcribers), "to do") if _is_absent(work.source) else states(work),
        "rows": rows,
        "machine": {"gflops": gflops, "device": device},
        "experts": experts,
        "notes": notes,
    }


def expert_costs(work: Context, n: int, n_train: int, gflops: float) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What each expert costs for so many rows, by its name; and why it cannot be told of some."""
    experts, notes = {}, []
    for name, rivals in work.candidates.items():
        for expert in rivals:
            shown = work.modalities[name].expert_name + (f" ({expert.encoder})" if len(rivals) > 1 else "")
            try:
                cost = plugins.load("encoders", str(expert.encoder)).cost(expert, len(work.label.classes))
            except BifocalError as error:
                notes.append(f"{shown}: {error}")
                continue
            experts[shown] = _costs(expert, cost, n, n_train, gflops)
    return experts, notes


def _unreached(work: Context) -> str | None:
    """Why a model is not to be had here, which only a real run must know. Raises `ConfigError` as a real run does."""
    try:
        reach_models(work.candidates)
    except ModelError as error:
        return str(error)
    return None


def _is_absent(source: Source) -> bool:
    """Whether the data are not on this machine at all, rather than other than the configuration says."""
    if isinstance(source, Several):
        return any(_is_absent(member) for member in source.members.values())
    return isinstance(source, FileSource) and not Files(source.root).exists()


def _rows(work: Context) -> tuple[dict[str, Any], list[str]]:
    limit, labels = work.config.limit, {work.config.label: work, **work.further}
    splits, counts = [], dict.fromkeys(labels, 0)
    try:
        for example in islice((row for row in work.source if isinstance(row, Example)), limit):
            bears = [name for name, of in labels.items() if _is_of(example, name, of, labels)]
            for name in bears:
                counts[name] += 1
            if any(example.labels.get(name) is not None for name in labels):
                splits.append(example.split)
    except DataError as error:
        if not _is_absent(work.source):
            raise
        n = limit or ASSUMED_ROWS
        shares = work.config.splits
        found = {
            "n": n,
            "n_train": round(n * (1 - shares.val - shares.test)),
            "from": "assumed: costs are per this many",
        }
        return found, [f"the source cannot be read here: {error}"]
    shares = work.config.splits
    free = sum(split in (None, "train") for split in splits)
    carved = sum(share for name, share in (("val", shares.val), ("test", shares.test)) if name not in splits)
    rows = {"n": len(splits), "n_train": round(free * (1 - carved)), "from": "counted in the source"}
    return {**rows, **({"labels": counts} if len(labels) > 1 else {})}, []


def _is_of(example: Example, name: str, of: Context, labels: Mapping[str, Context]) -> bool:
    """Whether a row counts for a label: it is annotated, and, where that requires another, positive by that one (which
    is not known before the run where its classes are made of numbers)."""
    parent = of.label.requires
    asked = parent is None or labels[parent].label.above is not None or example.labels.get(parent) == 1
    return asked and example.labels.get(name) is not None


def _costs(expert: ExpertConfig, cost: Mapping[str, float], n: int, n_train: int, gflops: float) -> dict[str, Any]:
    forward = cost["flops_per_example"] / 1e9
    passes = 0 if expert.tune == "head" else expert.epochs * (1 + BACKWARD)
    trained = cost["trained"]
    return {
        "model": expert.model,
        "tune": expert.tune,
        "parameters": int(cost["total"]),
        "trained": int(trained),
        "gflop_per_example": forward,
        "train_hours": n_train * forward * passes / gflops / 3600,
        "evidence_hours": n * forward / gflops / 3600,
        "memory_gib": (cost["total"] * 4 + trained * (ADAM_BYTES - 4)) / 2**30,
    }


def measured_gflops(seconds: float = 0.3) -> tuple[float, str]:
    """Matrix-product speed of this machine right now, and what it ran on; machines drift, so this is a rough guide."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 768
    a = torch.randn(size, size, device=device)
    a @ a  # the first product of a process is slow
    start, count = perf_counter(), 0
    while perf_counter() - start < seconds:
        product = a @ a
        count += 1
    if device == "cuda":
        product.sum().item()
    return count * 2 * size**3 / (perf_counter() - start) / 1e9, device
