"""The engine of exported bundles: ONNX Runtime, and nothing of torch or transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
    """

    columns: frozenset[str] = frozenset()

    def __init__(
        self, name: str, folder: Path, experts: Mapping[str, Mapping[str, Any]], fusion: Mapping[str, Any] | None
    ):
        self.name = name
        self.names = {modality: expert["name"] for modality, expert in experts.items()}
        self.main = fusion["name"] if fusion else next(iter(self.names.values()))
        self._experts = dict(experts)
        self._sessions = {modality: open_session(folder / expert["file"]) for modality, expert in experts.items()}
        self._readers = {m: READERS[expert["reader"]](expert["settings"]) for m, expert in experts.items()}
        self._fusion = open_session(folder / fusion["file"], threads=1) if fusion else None
        self._read: Mapping[str, str] = fusion["read"] if fusion else {}

    def check(self, modality: str, value: Any) -> None:
        """Any text or picture that its modality reads will do."""

    def windows(self, modality: str, value: Any) -> Windows | None:
        return self._readers[modality].windows(value)

    def evidence(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Evidence]:
        n, result = len(posts), {}
        for name, expert in self._experts.items():
            rows = [i for i, values in enumerate(posts) if name in values]
            reader, widths = self._readers[name], {"features": expert["features"], "logits": expert["classes"]}
            counts, batches = reader.read([posts[i][name] for i in rows])
            full = {key: np.zeros((n, width), np.float32) for key, width in widths.items()}
            read = {key: np.zeros((sum(counts), width), np.float32) for key, width in widths.items()}
            for batch, inputs in batches:
                read["features"][batch], read["logits"][batch] = self._sessions[name].run(None, inputs)
            joined = join_windows(read, counts, highest=reader.highest, offsets=reader.offsets)
            for key, column in joined.items():
                full[key][rows] = column
            present = np.zeros(n, bool)
            present[rows] = True
            ids = ("",) * n
            arrays: Any = (full["features"], full["logits"], present, np.full(n, UNLABELLED), np.zeros(n, bool))
            result[name] = Evidence(ids, ids, *arrays)
        return result

    def logits(self, evidence: Mapping[str, Evidence], label: str | None = None) -> dict[str, NDArray[np.float32]]:
        logits: dict[str, Any] = {self.names[name]: np.asarray(part.logits) for name, part in evidence.items()}
        if self._fusion is not None:
            inputs = {name: _columns(evidence[name], what) for name, what in self._read.items()}
            there = np.stack([np.asarray(evidence[name].present) for name in self._read], axis=1)
            for name, x in inputs.items():
                if not np.isfinite(x[np.asarray(evidence[name].present)]).all():
                    raise DataError(f"{self._read[name]} of {name} are not finite")
            given = {**{f"input_{name}": x for name, x in inputs.items()}, "present": there}
            logits[self.main] = self._fusion.run(None, given)[0]
        return logits


def _columns(part: Evidence, what: str) -> NDArray[np.float32]:
    """Features, logits, or ``features+logits`` side by side."""
    return np.concatenate([np.asarray(getattr(part, name)) for name in what.split("+")], axis=1)
