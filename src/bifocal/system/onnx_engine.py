"""The engine of exported bundles: ONNX Runtime, and nothing of torch or transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import DataError, ModelError
from ..example import UNLABELLED, Evidence
from ..models.windows import Windows, join_windows
from .onnx_inputs import READERS
from .onnx_weights import check_whole


def open_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A model, ready to run on the CPU. Raises `ModelError` where the file is none, or keeps weights in others."""
    check_whole(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS", 0))  # 0 = all cores
    # Threads that spin while they wait take the other core from whoever decodes pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path} is no model that ONNX Runtime reads: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, slots=True)
class OnnxFusion:
    """The fusion of one label, and what it reads of each modality."""

    session: onnxruntime.InferenceSession
    read: Mapping[str, str]

    def __call__(self, evidence: Mapping[str, Evidence]) -> NDArray[np.float32]:
        """Logits ``[n, C]``. Raises `DataError` where what it reads is not finite."""
        inputs = {name: _columns(evidence[name], what) for name, what in self.read.items()}
        there = np.stack([np.asarray(evidence[name].present) for name in self.read], axis=1)
        for name, x in inputs.items():
            if not np.isfinite(x[np.asarray(evidence[name].present)]).all():
                raise DataError(f"{self.read[name]} of {name} are not finite")
        given = {**{f"input_{name}": x for name, x in inputs.items()}, "present": there}
        logits: NDArray[np.float32] = self.session.run(None, given)[0]
        return logits


class OnnxExpert:
    """One expert of a bundle, with the heads of further labels in its graph.

    Parameters
    ----------
    folder : Path
        Of the bundle.
    card : mapping
        ``{"name", "file", "reader", "settings", "features", "classes"}``.
    heads : mapping
        Further label -> ``{"output", "classes", "highest", "offsets"}``: the graph's output that holds its logits, and
        how its head chooses among the windows of a text (`join_windows`).
    """

    def __init__(self, folder: Path, card: Mapping[str, Any], heads: Mapping[str, Mapping[str, Any]]):
        self.session = open_session(folder / card["file"])
        self.reader = READERS[card["reader"]](card["settings"])
        self.heads = dict(heads)
        self.widths = {"features": card["features"], "logits": card["classes"]}
        self.widths |= {head["output"]: head["classes"] for head in heads.values()}

    def evidence(self, values: Sequence[Any], rows: Sequence[int], n: int) -> Evidence:
        """Of n posts, of which those in ``rows`` have a value."""
        counts, batches = self.reader.read(values)
        read = {name: np.zeros((sum(counts), width), np.float32) for name, width in self.widths.items()}
        for batch, inputs in batches:
            for name, found in zip(self.widths, self.session.run(list(self.widths), inputs), strict=True):
                read[name][batch] = found
        columns = {name: read[name] for name in ("features", "logits")}
        joined = join_windows(columns, counts, highest=self.reader.highest, offsets=self.reader.offsets)
        further = {}
        for label, head in self.heads.items():
            columns = {"features": read["features"], "logits": read[head["output"]]}
            own = join_windows(columns, counts, highest=head["highest"], offsets=head["offsets"])
            further[label] = _placed(own, rows, n)
        return replace(_placed(joined, rows, n), further=further)


def _placed(columns: Mapping[str, NDArray[np.float32]], rows: Sequence[int], n: int) -> Evidence:
    full = {name: np.zeros((n, column.shape[1]), np.float32) for name, column in columns.items()}
    for name, column in columns.items():
        full[name][rows] = column
    present = np.zeros(n, bool)
    present[rows] = True
    arrays: Any = (full["features"], full["logits"], present, np.full(n, UNLABELLED), np.zeros(n, bool))
    return Evidence(("",) * n, ("",) * n, *arrays)


class OnnxEngine:
    """See `bifocal.system.engine.Engine`; the arrays in its Evidence are numpy's.

    Parameters
    ----------
    name : str
    folder : Path
        Of the bundle.
    experts : mapping
        Modality -> ``{"name", "file", "reader", "settings", "features", "classes"}``.
    fusion : mapping or None
        ``{"name", "file", "read": modality -> "features", "logits" or "features+logits"}``.
    further : mapping
        Further label -> ``experts`` and ``fusion`` of the same form; of an expert that is a head of the first label's,
        ``{"name", "output", "classes", "highest", "offsets"}``.
    """

    columns: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        folder: Path,
        experts: Mapping[str, Mapping[str, Any]],
        fusion: Mapping[str, Any] | None,
        further: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.name = name
        self.names = {modality: expert["name"] for modality, expert in experts.items()}
        self.main = fusion["name"] if fusion else next(iter(self.names.values()))
        labels = dict(further or {})
        self._experts, self._own = {}, dict[tuple[str, str], OnnxExpert]()
        for modality, expert in experts.items():
            others = {label: of["experts"][modality] for label, of in labels.items()}
            heads = {label: card for label, card in others.items() if "output" in card}
            self._experts[modality] = OnnxExpert(folder, expert, heads)
            for label in others.keys() - heads.keys():
                self._own[modality, label] = OnnxExpert(folder, others[label], {})
        fusions: dict[str | None, Mapping[str, Any] | None] = {label: of["fusion"] for label, of in labels.items()}
        fusions[None] = fusion
        self._fusions = {
            label: OnnxFusion(open_session(folder / card["file"], threads=1), card["read"])
            for label, card in fusions.items()
            if card
        }

    def check(self, modality: str, value: Any) -> None:
        """Any text or picture that its modality reads will do."""

    def windows(self, modality: str, value: Any) -> Windows | None:
        return self._experts[modality].reader.windows(value)

    def evidence(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Evidence]:
        n, result = len(posts), {}
        for name, expert in self._experts.items():
            rows = [i for i, values in enumerate(posts) if name in values]
            values = [posts[i][name] for i in rows]
            found = expert.evidence(values, rows, n)
            own = {label: e.evidence(values, rows, n) for (of, label), e in self._own.items() if of == name}
            result[name] = replace(found, further={**found.further, **own})
        return result

    def logits(self, evidence: Mapping[str, Evidence], label: str | None = None) -> dict[str, NDArray[np.float32]]:
        if label is not None:
            evidence = {name: part.further[label] for name, part in evidence.items()}
        logits: dict[str, Any] = {self.names[name]: np.asarray(part.logits) for name, part in evidence.items()}
        if label in self._fusions:
            logits[self.main] = self._fusions[label](evidence)
        return logits


def _columns(part: Evidence, what: str) -> NDArray[np.float32]:
    """Features, logits, or ``features+logits`` side by side."""
    return np.concatenate([np.asarray(getattr(part, name)) for name in what.split("+")], axis=1)
