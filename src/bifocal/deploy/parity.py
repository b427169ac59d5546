"""How far an engine decides as the run that it was exported from: both on the run's test posts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..assess.predictions import Predictions, actions, calibrated
from ..assess.related_labels import flagged_rows
from ..assess.run_data import RunData
from ..decide.policy import Policy, pattern_of, patterns
from ..evaluate.metrics import nll
from ..example import UNLABELLED
from ..system.bundle import load_bundle
from ..system.engine import logits_by_label
from ..system.parity_probe import named
from ..system.torch_engine import LabelModels, TorchEngine

if TYPE_CHECKING:
    from ..data.shards import Split
    from ..system.engine import Engine

AT_ONCE = 256


def finished(run_folder: str | Path, allow_plugins: Collection[str] = ()) -> tuple[RunData, Policy]:
    """A finished run with its shards open, and its policy."""
    run = RunData.of(run_folder, allow_plugins)
    run.packed  # noqa: B018 - damaged shards are told of before anything is exported
    return run, run.policy()


def measure(run_folder: str | Path, bundle: Path) -> dict[str, Any]:
    """How far a bundle decides as its run on this machine, wherever it was exported; as `export` reports it."""
    run, before = finished(run_folder)
    opened = load_bundle(bundle)
    return parity(run, before, opened.engine, opened.policy, lambda *_: None)


def parity(run: RunData, before: Policy, engine: Engine, policy: Policy, progress: Any) -> dict[str, Any]:
    """A run and an engine on the same posts, each with its policy; what `export` reports but for the probe."""
    split, labels = run.packed[run.tested_on], run.config.label_names
    answers, seconds = predict_split(engine, split, list(run.modalities), labels, progress)
    models = {label: LabelModels(of.encoders, of.fused) for label, of in run.further.items()}
    original = TorchEngine(run.encoders, run.expert_names, run.fused, further=models)
    rows = split.take(range(min(AT_ONCE, len(split))))
    took = predict_split(original, rows, list(run.modalities), labels, lambda *_: None)[1] / len(rows)
    by_label = {}
    for label in labels:
        pair = (before.of_label(label), policy.of_label(label))
        asked = flagged_rows(run.for_label(label), run.tested_on)
        by_label[label] = _parity_of(run.for_label(label), pair, answers[label].models, engine.main, asked)
    first = by_label.pop(run.config.label)
    return {
        "engine": engine.name,
        "run": run.config.run,
        "split": run.tested_on,
        **first,
        "seconds_per_post": {"run": took, "engine": seconds / len(split)},
        "policies": {"run": before.version, "engine": policy.version},
        **({"labels": by_label} if by_label else {}),
    }


def _parity_of(
    run: RunData, policies: tuple[Policy, Policy], logits: Mapping[str, np.ndarray], main: str, asked: np.ndarray
) -> dict[str, Any]:
    """What `parity` tells of one label, by the policies of the run and of the engine."""
    ours = run.predictions(run.tested_on)
    pairs = list(zip((ours, replace(ours, logits={name: logits[name] for name in ours.logits})), policies, strict=True))
    has = ours.has[main] & asked
    p, q = (calibrated(predictions, by, main)[0] for predictions, by in pairs)
    done, redone = (actions(predictions, by, main) for predictions, by in pairs)
    by_pattern = np.array(ours.patterns)
    return {
        **_compared(has, p, q, done, redone, ours),
        "patterns": {
            str(pattern): _compared(has & (by_pattern == pattern), p, q, done, redone, ours)
            for pattern in np.unique(by_pattern[has])
        },
    }


def _compared(
    rows: np.ndarray, p: np.ndarray, q: np.ndarray, done: np.ndarray, redone: np.ndarray, ours: Predictions
) -> dict[str, Any]:
    from scipy.stats import binomtest

    n, flips = int(rows.sum()), int((done[rows] != redone[rows]).sum())
    interval = binomtest(flips, n).proportion_ci(0.95, method="exact") if n else None
    labelled = rows & (ours.labels != UNLABELLED)
    found = {}
    for name, probabilities in (("run", p), ("engine", q)):
        found[name] = float(nll(ours.labels[labelled], probabilities[labelled])) if labelled.any() else None
    return {
        "n": n,
        "flips": {
            "count": flips,
            "rate": flips / n if n else 0.0,
            "low": interval.low if interval else 0.0,
            "high": interval.high if interval else 1.0,
        },
        "largest": float(np.abs(p[rows] - q[rows]).max()) if n else 0.0,
        "nll": found,
    }


@dataclass(frozen=True)
class Answers:
    """What an engine says of a split by one label.

    Attributes
    ----------
    models : dict
        Model -> logits.
    blanked : dict
        Pattern -> logits of the deciding model with the other parts blanked.
    """

    models: dict[str, np.ndarray]
    blanked: dict[str, np.ndarray]


def predict_split(
    engine: Engine, split: Split, modalities: Sequence[str], labels: Sequence[str], progress: Any
) -> tuple[dict[str, Answers], float]:
    """What an engine says of a split by each label, from one pass of its encoders; and the seconds that it took."""
    values = {name: split.values(name) for name in modalities}
    kept = [keep for keep in patterns(modalities) if len(keep) < len(modalities)]
    models: dict[str, dict[str, list[np.ndarray]]] = {label: {} for label in labels}
    blanked: dict[str, dict[str, list[np.ndarray]]] = {label: {} for label in labels}
    seconds = 0.0
    for start in range(0, len(split), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(split)))
        posts = [{name: values[name][i] for name in modalities if split.present[name][i]} for i in rows]
        began = perf_counter()
        evidence = engine.evidence(posts)
        found = logits_by_label(engine, evidence, labels)
        seconds += perf_counter() - began
        for label, of in found.items():
            for model, logits in of.items():
                models[label].setdefault(model, []).append(logits)
        for keep in kept:
            left = {name: e if name in keep else e.without() for name, e in evidence.items()}
            for label, of in logits_by_label(engine, left, labels).items():
                blanked[label].setdefault(pattern_of(keep), []).append(of[engine.main])
        progress(start + len(posts), len(split))
    return {label: Answers(_whole(models[label]), _whole(blanked[label])) for label in labels}, seconds


def _whole(pieces: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(rows) for name, rows in pieces.items()}


def parity_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"# {report['engine']} beside the run {report['run']}",
        "",
        f"On the {report['n']} posts of {report['split']}, each with its own calibration and the same thresholds.",
        "",
        "| posts with | n | decisions that flip (95%) | largest difference of a probability | NLL run | NLL engine |",
        "|---|---|---|---|---|---|",
    ]
    tables = {"all": report, **report["patterns"]}
    for label, of in report.get("labels", {}).items():
        tables |= {f"{label}: {name}": row for name, row in {"all": of, **of["patterns"]}.items()}
    for name, row in tables.items():
        flips = row["flips"]
        losses = ["-" if row["nll"][who] is None else f"{row['nll'][who]:.4f}" for who in ("run", "engine")]
        lines.append(
            f"| {name} | {row['n']} | {flips['count']} = {flips['rate']:.2%} [{flips['low']:.2%}, {flips['high']:.2%}] "
            f"| {row['largest']:.4f} | {' | '.join(losses)} |"
        )
    took = report["seconds_per_post"]
    ratio = took["run"] / took["engine"] if took["engine"] else float("nan")
    probe = report["probe"]
    return "\n".join(
        [
            *lines,
            "",
            f"Encoders and fusion took 1/{ratio:.2f} of the run's time, in one process.",
            "",
            f"Exported on {named(probe['processor'])}. "
            f"{probe['posts']} of the posts are kept in the bundle and asked again where it is loaded; a probability "
            f"that differs by more than {probe['tolerance']:g} is told.",
            "",
        ]
    )
