"""From a finished run to a bundle for one engine, and how far the engine decides as the run does."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, plugins
from ..assess.predictions import Predictions, actions, calibrated
from ..assess.related_labels import flagged_rows
from ..assess.run_data import RunData
from ..assess.tuning import joined, training_scores
from ..contracts import Reporter
from ..data.content import ContentHashes, contents_of
from ..decide.calibration_methods import Calibration, fit_calibration
from ..decide.policy import POOLED, Policy, now, pattern_of, patterns
from ..errors import ModelError, RunError, extras_named, nearest
from ..evaluate.metrics import nll
from ..example import UNLABELLED
from ..fit.fusion import MODEL
from ..system.bundle import (
    CARD,
    CONTENT,
    ENGINES,
    FORMAT,
    PARITY,
    POLICIES,
    POLICY,
    REFERENCE,
    bundle_of,
    load_bundle,
    new_bundle,
    reference_of,
)
from ..system.engine import logits_by_label
from ..system.onnx_engine import OnnxEngine
from ..system.parity_probe import keep_probe, named
from ..system.torch_engine import LabelModels, TorchEngine, is_head
from ..workspace import Workspace, file_sha256, write_json

if TYPE_CHECKING:
    from ..data.shards import Split
    from ..decide.tuning_rows import Scores
    from ..models.exportable import Exportable, FusionModule
    from ..system.engine import Engine

MAX_FLIPS = 0.005
"""An engine that decides otherwise on more of the test posts is exported only where that is accepted."""
AT_ONCE = 256
PRODUCTS = ("MatMul", "Gemm")
"""What becomes integers. Not Gather: an embedding is looked up. Not Conv: MobileNetV2 took ten times as long, and the
cosine of its features to the true ones was 0.3."""
OPSET = 18


def export(
    run_folder: str | Path,
    engine: str,
    *,
    output: Path | None = None,
    accept: bool = False,
    reporter: Reporter | None = None,
    allow_plugins: Collection[str] = (),
) -> dict[str, Any]:
    """Export a finished run for an engine, compare the two on the run's test posts, and keep the report in the bundle.

    Calibration is fitted anew, by the run's method and on the split that the run tuned on, to the logits that the
    engine gives; thresholds, bands and whatever a person set stay as they are. A few of the test posts stay in the
    bundle with what the engine says of them here; loading it asks again (`bifocal.system.parity_probe`).

    Parameters
    ----------
    run_folder : path
    engine : str
        Of `ENGINES`.
    output : Path, optional
        None = ``bundles/<engine>/`` in the run's folder.
    accept : bool
        Take the engine even where it turns over more than `MAX_FLIPS` of the decisions.
    reporter : Reporter, optional
        Told of steps and progress.
    allow_plugins : as `System.load`

    Returns
    -------
    dict
        What ``parity.json`` holds, and ``bundle``: the folder. Of several labels that of the first, and the same of
        each further one under ``labels`` (of a label that requires another, on posts where it is asked). ``n``,
        ``flips``: ``{"count", "rate", "low", "high"}`` (95%, Clopper and Pearson 1934), ``largest``: difference of a
        calibrated probability, ``nll``: of the run and of the engine, ``patterns``: the same by presence pattern,
        ``seconds_per_post``: of the run and of the engine, ``probe``: the processor, and how many posts are kept.

    Raises
    ------
    RunError
        Where the run is not finished, there is no such engine, or decisions flip and that is not accepted.
    ModelError
        Where an expert or the fusion cannot be exported.
    """
    if engine not in ENGINES:
        raise RunError(f"there is no engine {engine!r}; {nearest(engine, ENGINES)}")
    reporter = reporter or Reporter()
    run, before = _finished(run_folder, allow_plugins)
    folder = output or bundle_of(run.space.folder, engine)
    reporter.step(f"export {engine}", False)
    with new_bundle(folder) as part:
        card = _models(run, engine, part, reporter)
        with plugins.restrict(part, run.allowed):
            made = _opened(run, engine, part, card)
        reporter.step("calibrate", False)
        policy = _recalibrated(run, before, made, reporter.progress).model_copy(
            update={"versions": {**before.versions, **card["versions"]}, "date": now()}
        )
        for label, of in card.get("further", {}).items():
            fitted = policy.of_label(label)
            versions = {**fitted.versions, **of["versions"]}
            policy = policy.with_label(fitted.model_copy(update={"versions": versions, "date": policy.date}))
        reporter.step("compare", False)
        report = parity(run, before, made, policy, reporter.progress)
        if not accept:
            _refuse_flips(report, engine, run)
        spread = calibrated(run.predictions(run.tested_on), before, made.main)[0][:, -1].tolist()
        report["probe"] = keep_probe(part, run.packed[run.tested_on], spread, made, policy)
        policy.save(part / POLICY)
        _carry(folder, part, policy, reporter)
        write_json(part / CARD, card)
        shutil.copy(run.space.reference, part / REFERENCE)
        for of in run.further.values():
            shutil.copy(of.space.reference, part / reference_of(of.space.label_ending))
        seen = {name: contents_of(split) for name, split in run.packed.items() if name != "test"}
        write_json(part / CONTENT, ContentHashes.of(seen).model_dump())
        write_json(part / PARITY, report)
        (part / "parity.md").write_text(parity_markdown(report), encoding="utf-8")
    return {**report, "bundle": str(folder)}


def _refuse_flips(report: Mapping[str, Any], engine: str, run: RunData) -> None:
    """Raise `RunError` where an engine turns over too many decisions by any label."""
    for label, of in {"": report, **report.get("labels", {})}.items():
        if of["flips"]["rate"] > MAX_FLIPS:
            by = f" by {label!r}" if label else ""
            raise RunError(
                f"{engine} decides otherwise{by} on {of['flips']['count']} of {of['n']} {run.tested_on} posts "
                f"({of['flips']['rate']:.2%}, at most {MAX_FLIPS:.1%} are allowed): take another engine, or say "
                "--accept; a run that an earlier version calibrated wants `bifocal evaluate CONFIG` first"
            )


def _finished(run_folder: str | Path, allow_plugins: Collection[str] = ()) -> tuple[RunData, Policy]:
    """A finished run with its shards open, and its policy."""
    run = RunData.of(run_folder, allow_plugins)
    run.packed  # noqa: B018 - damaged shards are told of before anything is exported
    return run, run.policy()


def measure(run_folder: str | Path, bundle: Path) -> dict[str, Any]:
    """How far a bundle decides as its run on this machine, wherever it was exported; as `export` reports it."""
    run, before = _finished(run_folder)
    opened = load_bundle(bundle)
    return parity(run, before, opened.engine, opened.policy, lambda *_: None)


def _carry(folder: Path, part: Path, policy: Policy, reporter: Reporter) -> None:
    """Keep the record of what was set by hand in the bundle that is replaced, and say what does not hold any more."""
    if not (folder / POLICIES).is_dir():
        return
    shutil.copytree(folder / POLICIES, part / POLICIES)
    with suppress(RunError):  # a damaged one, or a label or model that this run has not
        there = Policy.load(folder / POLICY)
        for label in there.label_names:
            changes = [c for c in there.of_label(label).changes if c.review is None]
            own, by = policy.of_label(label), "" if label == policy.label else f" by {label!r}"
            for change in {(c.model, c.pattern): c for c in changes}.values():
                if (now_it_is := own.threshold(change.model, change.pattern)) != change.after:
                    reporter.note(
                        f"the threshold {change.after:g} of {change.model} ({change.pattern}){by}, set by {change.by} "
                        f"in the bundle that was there, is {now_it_is} again, as in the run; the record is kept in "
                        f"{POLICIES}/"
                    )


def _models(run: RunData, engine: str, part: Path, reporter: Reporter) -> dict[str, Any]:
    """Write the models, and say what they are."""
    torch_like = engine.startswith("torch")
    files = _copied(run, part) if torch_like else _traced(run, engine, part, reporter)
    entries = type(run.taxonomy)({of.config.label: of.label for of in (run, *run.further.values())}).to_json()
    label = entries.pop(run.config.label)
    base = {"run": run.config.run, "engine": engine}
    further = {name: {**of, "versions": {**base, **of["versions"]}} for name, of in files["further"].items()}
    return {
        "format": FORMAT,
        "engine": engine,
        "bifocal": __version__,
        "config": run.record["config"],
        "label": label,
        "text_role": run.record["text_role"],
        "experts": files["experts"],
        "fusion": files["fusion"],
        "versions": {**base, **files["versions"]},
        **({"labels": entries, "further": further} if further else {}),
    }


def _copied(run: RunData, part: Path) -> dict[str, Any]:
    """The models as they lie in the run's folder."""
    from ..system.system import model_versions

    there, names = Workspace(part, run.config.run), list(run.expert_names.values())
    found = {}
    for label, of in {"": run, **run.further}.items():
        place = there.for_label(label)
        for expert in names:
            if (own := of.space.own_expert(expert)).is_dir():
                shutil.copytree(own, place.own_expert(expert))
        if of.fused is not None:
            shutil.copytree(of.space.fusion, place.fusion)
        found[label] = {"experts": None, "fusion": None, "versions": model_versions(of.space, names)}
    return {**found.pop(""), "further": found}


def _traced(run: RunData, engine: str, part: Path, reporter: Reporter) -> dict[str, Any]:
    """Every encoder and every fusion as ONNX."""
    fused = {}  # one that cannot says so before long work
    for label, of in {"": run, **run.further}.items():
        with _naming(label):
            fused[label] = _traced_fusion(of)
    found: dict[str, Any] = {label: {"experts": {}, "fusion": None, "versions": {}} for label in fused}
    made = {name: _exportables(run, name) for name in run.encoders}
    for done, (modality, encoders) in enumerate(made.items()):
        for label, card in _write_experts(run, modality, encoders, part, quantised=engine == "onnx-int8").items():
            found[label]["experts"][modality] = card
            found[label]["versions"][card["name"]] = file_sha256(part / card["file"])[:16]
            if "output" in card:  # a head: it lies in the first label's file
                del card["file"]
        reporter.progress(done + 1, len(made) + 1)
    for label, fusion in fused.items():
        if fusion is not None:
            path = part / f"{MODEL}{run.space.for_label(label).label_ending}.onnx"
            inputs = {name if name == "present" else f"input_{name}": x for name, x in fusion.examples().items()}
            write_graph(fusion, inputs, dict.fromkeys(inputs, ("batch", None)), ["logits"], path)
            found[label]["fusion"] = {"name": MODEL, "file": path.name, "read": dict(fusion.fusion.read)}
            found[label]["versions"][MODEL] = file_sha256(path)[:16]
    return {**found.pop(""), "further": found}


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Have what cannot be exported named with the further label that it is of."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"label {label!r}: {error}" if label else str(error)) from None


def _traced_fusion(run: RunData) -> FusionModule | None:
    from ..models.exportable import traced_fusion

    return None if run.fused is None else traced_fusion(run.fused)


def _exportables(run: RunData, modality: str) -> dict[str, Exportable]:
    """What the expert of a modality hands over, and that of each further label."""
    from ..models.exportable import exportable

    found = {}
    for label, of in {"": run, **run.further}.items():
        with _naming(label):
            found[label] = exportable(modality, of.encoders[modality])
    return found


def _write_experts(
    run: RunData, modality: str, made: Mapping[str, Exportable], part: Path, *, quantised: bool
) -> dict[str, dict[str, Any]]:
    """Write the expert of a modality with its heads, and those of further labels that have one of their own.

    Gives what the bundle says of each, by label; "" = the first.
    """
    from ..models.exportable import WithHeads

    name, first, further = run.expert_names[modality], run.encoders[modality], run.further
    heads = {label: made[label] for label, of in further.items() if is_head(of.encoders[modality], first)}
    for label, head in heads.items():
        if head.head is None:
            raise ModelError(f"label {label!r}: {type(first).__name__} hands over no head of its own to be exported")
    found: dict[str, dict[str, Any]] = {}
    for label in [label for label in made if label not in heads]:
        encoder, path = made[label], part / f"{name}{run.space.for_label(label).label_ending}.onnx"
        outputs, module = ["features", "logits"], encoder.module
        if heads and not label:
            outputs += [f"logits_{number + 1}" for number in range(len(heads))]
            module = WithHeads(module, [head.head for head in heads.values() if head.head is not None])
        write_graph(module, encoder.inputs, encoder.axes, outputs, path)
        if quantised:
            quantise(path)
        features, logits = encoder.module(*encoder.inputs.values())
        found[label] = {
            "name": name,
            "file": path.name,
            "reader": encoder.reader,
            "settings": encoder.settings,
            "features": features.shape[1],
            "classes": logits.shape[1],
        }
    for number, (label, head) in enumerate(heads.items()):
        found[label] = {
            "name": name,
            "file": found[""]["file"],
            "output": f"logits_{number + 1}",
            "classes": len(further[label].label.classes),
            "highest": head.settings.get("highest", False),
            "offsets": list(head.settings.get("offsets", ())),
        }
    return found


def write_graph(
    module: Any, inputs: Mapping[str, Any], axes: Mapping[str, Sequence[str | None]], outputs: list[str], path: Path
) -> None:
    """Trace a module into an ONNX file; ``axes`` names the dimensions of its inputs that may vary (None: fixed).

    Raises `MissingExtra` without the packages of ``bifocal[export]``.
    """
    import torch

    with extras_named():
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    names = {axis for dims in axes.values() for axis in dims if axis}
    dims = {name: torch.export.Dim(name) for name in sorted(names)}
    shapes = tuple({i: dims[axis] for i, axis in enumerate(axes[name]) if axis} for name in inputs)
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=(shapes,),  # one more level: the modules take *inputs
            external_data=False,
            opset_version=OPSET,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words on what it did not need."""
    import logging

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def quantise(path: Path) -> None:
    """Weights of matrix products as integers of 7 bits, a scale for each column; activations are scaled as they come.

    A scale per tensor costs MiniLM's features a cosine of 0.917 to their own, one per channel 0.983.

    Why not 8 bits: processors with AVX2 alone multiply unsigned by signed bytes and add two products in 16 bits
    (vpmaddubsw), which hold 2 x 255 x 64 and not 2 x 255 x 127. What is more is cut off in silence: products of random
    full-range bytes were off by up to 90% there, and exact on processors with VNNI (ONNX Runtime's documentation, "When
    and why do I need to try U8U8?"). Unsigned weights do not saturate either, but took 4 to 10 times as long with VNNI
    and AMX.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    # Shapes that the exporter noted before it turned weights round; the quantiser trips over them.
    del model.graph.value_info[:]
    with _quiet():
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_exclude=[*_head(model.graph), *_stacked(model.graph)],
        )


def _stacked(graph: Any) -> list[str]:
    """Names of products of several matrices at once, which the library cannot run in integers."""
    dims = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in PRODUCTS and dims.get(node.input[1], 2) != 2]


def _head(graph: Any) -> list[str]:
    """Names of the nodes that make logits of features, which stay in float32: they cost nothing."""
    made = {output: node for node in graph.node for output in node.output}
    names, wanted = [], [output.name for output in graph.output if output.name != "features"]
    while wanted:
        node = made.get(wanted.pop())
        if node is not None:
            names.append(node.name)
            if node.op_type not in PRODUCTS:  # the sum with a bias, or a new name
                wanted += node.input
    return names


def _opened(run: RunData, engine: str, part: Path, card: Mapping[str, Any]) -> Engine:
    further = card.get("further", {})
    if engine.startswith("torch"):
        return TorchEngine.load(Workspace(part, run.config.run), run.modalities, name=engine, further=list(further))
    return OnnxEngine(engine, part, card["experts"], card["fusion"], further)


@dataclass(frozen=True)
class _Answers:
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


def _predict(
    engine: Engine, split: Split, modalities: Sequence[str], labels: Sequence[str], progress: Any
) -> tuple[dict[str, _Answers], float]:
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
    return {label: _Answers(_whole(models[label]), _whole(blanked[label])) for label in labels}, seconds


def _whole(pieces: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate(rows) for name, rows in pieces.items()}


def _recalibrated(run: RunData, policy: Policy, engine: Engine, progress: Any) -> Policy:
    """The policy with every calibration of every label fitted anew to what the engine says."""
    split = run.packed[run.tuned_on]
    answers, _ = _predict(engine, split, list(run.modalities), run.config.label_names, progress)
    for label, of in answers.items():
        policy = policy.with_label(_refitted(run.for_label(label), policy.of_label(label), of, engine.main))
    return policy


def _refitted(run: RunData, policy: Policy, answers: _Answers, main: str) -> Policy:
    """The policy of one label, of which a run sees what is its own."""
    split, reference = run.packed[run.tuned_on], run.predictions(run.tuned_on)
    blanked = {**answers.blanked, pattern_of(run.modalities): answers.models[main]}
    more = training_scores(run) if policy.tuned_on else {}

    def anew(model: str, pattern: str, said: Scores, method: str) -> Calibration:
        """On what the engine says of val and, where the policy rests on it too, what was cross-fitted of train."""
        rows = joined(said, more.get(model, {}).get(pattern))
        return fit_calibration(*rows, method, from_few=run.in_sample).calibration

    fitted = {}
    for name, fit in policy.models.items():
        own = {}
        for pattern, part in fit.patterns.items():
            has = np.all([split.present[modality] for modality in pattern.split("+")], axis=0)
            found = anew(name, pattern, (blanked[pattern][has], reference.labels[has]), part.calibration.method)
            own[pattern] = part.model_copy(update={"calibration": found})
        has = reference.has[name]
        found = anew(name, POOLED, (answers.models[name][has], reference.labels[has]), fit.calibration.method)
        fitted[name] = fit.model_copy(update={"calibration": found, "patterns": own})
    return policy.model_copy(update={"models": fitted})


def parity(run: RunData, before: Policy, engine: Engine, policy: Policy, progress: Any) -> dict[str, Any]:
    """A run and an engine on the same posts, each with its policy; what `export` reports but for the probe."""
    split, labels = run.packed[run.tested_on], run.config.label_names
    answers, seconds = _predict(engine, split, list(run.modalities), labels, progress)
    models = {label: LabelModels(of.encoders, of.fused) for label, of in run.further.items()}
    original = TorchEngine(run.encoders, run.expert_names, run.fused, further=models)
    rows = split.take(range(min(AT_ONCE, len(split))))
    took = _predict(original, rows, list(run.modalities), labels, lambda *_: None)[1] / len(rows)
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
