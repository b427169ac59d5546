"""The engine that a run was trained with: its experts and its fusion as they lie in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch

from ..contracts import EncoderTuner, TokenEncoder
from ..errors import RunError
from ..example import UNLABELLED, Evidence
from ..fit.expert import load_expert
from ..fit.fusion import MODEL, load_fusion
from ..fit.token_cache import spread
from ..models.saved_encoder import FasterForInference, WindowReader
from ..workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..contracts import Encoder, Fusion, Modality
    from ..models.windows import Windows
    from .engine import Engine

BFLOAT16 = "torch-bf16"


class TorchEngine:
    """See `bifocal.system.engine.Engine`.

    Parameters
    ----------
    experts : mapping
        Modality -> encoder.
    names : mapping
        Modality -> the name of its expert.
    fusion : Fusion or None
        None where there is one modality.
    name : {"torch", "torch-bf16"}
        The latter runs the encoders' matrix products in bfloat16 (autocast); the fusion stays in float32.
    """

    def __init__(
        self, experts: Mapping[str, Encoder], names: Mapping[str, str], fusion: Fusion | None, *, name: str = "torch"
    ):
        self.name = name
        self.experts = dict(experts)
        self.names = dict(names)
        self.fusion = fusion
        self.main = MODEL if fusion else next(iter(self.names.values()))
        self.columns = frozenset(column for expert in self.experts.values() for column in expert.columns or ())

    @classmethod
    def load(cls, space: Workspace, modalities: Mapping[str, Modality], *, name: str = "torch") -> Self:
        """The models of a finished run. Raises as `load_expert` and `load_fusion`."""
        names = {name: modality.expert_name for name, modality in modalities.items()}
        experts = {name: load_expert(space.expert(expert)) for name, expert in names.items()}
        fusion = load_fusion(space.fusion, encoders=experts) if len(experts) > 1 else None
        for expert in experts.values():
            if isinstance(expert, FasterForInference):
                expert.prepare_for_inference(bfloat16=name == BFLOAT16)
        return cls(experts, names, fusion, name=name)

    def check(self, modality: str, value: Any) -> None:
        self.experts[modality].check(value)

    def windows(self, modality: str, value: Any) -> Windows | None:
        expert = self.experts[modality]
        if not isinstance(expert, WindowReader):
            return None
        found = expert.windows(value)
        tuned = isinstance(self.fusion, EncoderTuner)  # its own encoders read the first window alone
        return replace(found, whole=False) if tuned and len(found.texts) > 1 else found

    def evidence(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Evidence]:
        n = len(posts)
        blank = torch.zeros(n, dtype=torch.bool)
        result = {}
        for name in self.experts:
            rows = [i for i, values in enumerate(posts) if name in values]
            encoded, tokens = self.encode(name, [posts[i][name] for i in rows])
            full = {}
            for key in ("features", "logits"):
                full[key] = torch.zeros(n, encoded[key].shape[1])
                full[key][rows] = encoded[key]
            present = blank.clone()
            present[rows] = True
            labels = torch.full((n,), UNLABELLED)
            result[name] = Evidence(("",) * n, ("",) * n, full["features"], full["logits"], present, labels, blank)
            if tokens is not None:
                result[name] = replace(result[name], tokens=spread(tokens, rows, n))
        return result

    @property
    def reads_tokens(self) -> bool:
        """Whether the fusion reads tokens, its own or those of the experts."""
        return self.fusion is not None and self.fusion.reads == "tokens"

    def encode(self, name: str, values: Sequence[Any]) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        """What an expert gives of values, and the tokens that the fusion reads of them; None where it reads none.

        One pass gives both, but where the fusion has an encoder of its own, which runs beside.
        """
        expert = self.experts[name]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.name == BFLOAT16):
            if isinstance(self.fusion, EncoderTuner):
                return expert.encode(values), self.fusion.tokens(name, values)
            if self.reads_tokens and isinstance(expert, TokenEncoder):
                return expert.encode_tokens(values)
            return expert.encode(values), None

    def logits(self, evidence: Mapping[str, Evidence]) -> dict[str, NDArray[np.float32]]:
        logits = {self.names[name]: part.logits for name, part in evidence.items()}
        if self.fusion is not None:
            logits[self.main] = self.fusion(evidence)
        return {model: rows.numpy() for model, rows in logits.items()}


def torch_engine(engine: Engine) -> TorchEngine:
    """The engine that holds the trained models themselves. Raises `RunError` where they were exported."""
    if not isinstance(engine, TorchEngine):
        raise RunError(f"this needs the models as they were trained, not {engine.name}: name the run's folder")
    return engine
