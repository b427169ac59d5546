"""From a finished run to a bundle for one engine, and how far the engine decides as the run does."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, plugins
from ..assess.predictions import calibrated
from ..assess.run_data import RunData
from ..assess.tuning import joined, training_scores, tuning_predictions, tuning_weights
from ..contracts import Reporter
from ..data.content import ContentHashes, contents_of
from ..decide.calibration_methods import Calibration, fit_calibration
from ..decide.policy import POOLED, Policy, now, pattern_of
from ..errors import ModelError, RunError, extras_named, nearest
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
    new_bundle,
    reference_of,
)
from ..system.onnx_engine import OnnxEngine
from ..system.parity_probe import keep_probe
from ..system.torch_engine import TorchEngine, is_head
from ..workspace import Workspace, file_sha256, write_json
from .parity import Answers, finished, parity, parity_markdown, predict_split

if TYPE_CHECKING:
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
    run, before = finished(run_folder, allow_plugins)
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
            names += [node.name, f"{node.name}_MatMul"]  # as the library calls it once it has parted a Gemm
            if node.op_type not in PRODUCTS:  # the sum with a bias, or a new name
                wanted += node.input
    return names


def _opened(run: RunData, engine: str, part: Path, card: Mapping[str, Any]) -> Engine:
    further = card.get("further", {})
    if engine.startswith("torch"):
        return TorchEngine.load(Workspace(part, run.config.run), run.modalities, name=engine, further=list(further))
    return OnnxEngine(engine, part, card["experts"], card["fusion"], further)


def _recalibrated(run: RunData, policy: Policy, engine: Engine, progress: Any) -> Policy:
    """The policy with every calibration of every label fitted anew to what the engine says."""
    split = run.packed[run.tuned_on]
    answers, _ = predict_split(engine, split, list(run.modalities), run.config.label_names, progress)
    for label, of in answers.items():
        policy = policy.with_label(_refitted(run.for_label(label), policy.of_label(label), of, engine.main))
    return policy


def _refitted(run: RunData, policy: Policy, answers: Answers, main: str) -> Policy:
    """The policy of one label, of which a run sees what is its own."""
    split, reference = run.packed[run.tuned_on], run.predictions(run.tuned_on)
    blanked = {**answers.blanked, pattern_of(run.modalities): answers.models[main]}
    more = training_scores(run) if policy.tuned_on else {}
    weights = tuning_weights(run, tuning_predictions(run))

    def anew(model: str, pattern: str, said: Scores, method: str) -> Calibration:
        """On what the engine says of val and, where the policy rests on it too, what was cross-fitted of train."""
        rows = joined(said, more.get(model, {}).get(pattern))
        sampled = None if weights is None else weights[model][pattern]
        return fit_calibration(*rows, method, from_few=run.in_sample, weights=sampled).calibration

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
