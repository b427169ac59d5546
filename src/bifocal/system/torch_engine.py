"""The engine that a run was trained with: its experts and its fusion as they lie in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch

from ..contracts import EncoderTuner, MultiLabelEncoder, TokenEncoder
from ..errors import RunError
from ..example import UNLABELLED, Evidence
from ..fit.expert import label_experts, load_expert
from ..fit.fusion import MODEL, load_fusion
from ..fit.token_cache import spread
from ..models.saved_encoder import FasterForInference, WindowReader
from ..models.window_rows import by_head
from ..workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..contracts import Encoder, Fusion, Modality
    from ..models.windows import Windows
    from .engine import Engine

BFLOAT16 = "torch-bf16"
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class LabelModels:
    """What decides by a further label.

    Attributes
    ----------
    experts : mapping
        Modality -> a head of the first label's expert, or an expert of its own.
    fusion : Fusion or None
        None where there is one modality.
    """

    experts: Mapping[str, Encoder]
    fusion: Fusion | None


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
    further : mapping
        Further label -> its experts and its fusion.
    """

    def __init__(
        self,
        experts: Mapping[str, Encoder],
        names: Mapping[str, str],
        fusion: Fusion | None,
        *,
        name: str = "torch",
        further: Mapping[str, LabelModels] | None = None,
    ):
        self.name = name
        self.experts = dict(experts)
        self.names = dict(names)
        self.fusion = fusion
        self.further = dict(further or {})
        self.main = MODEL if fusion else next(iter(self.names.values()))
        self._windowed = {name: one for name, one in self.experts.items() if isinstance(one, WindowReader)}
        self.columns = frozenset(column for expert in self.experts.values() for column in expert.columns or ())

    @classmethod
    def load(
        cls,
        space: Workspace,
        modalities: Mapping[str, Modality],
        *,
        name: str = "torch",
        further: Sequence[str] = (),
    ) -> Self:
        """The models of a finished run, with those of its ``further`` labels.

        Raises as `load_expert`, `label_experts` and `load_fusion`.
        """
        names = {name: modality.expert_name for name, modality in modalities.items()}
        experts = {name: load_expert(space.expert(expert)) for name, expert in names.items()}

        def fusion_in(place: Workspace, fused: Mapping[str, Encoder]) -> Fusion | None:
            return load_fusion(place.fusion, encoders=fused) if len(fused) > 1 else None

        fusion, others = fusion_in(space, experts), {}
        for label in further:
            place = space.for_label(label)
            heads = label_experts(experts, place, names)
            others[label] = LabelModels(heads, fusion_in(place, heads))
        own = [e for of in others.values() for m, e in of.experts.items() if not is_head(e, experts[m])]
        for expert in (*experts.values(), *own):
            if isinstance(expert, FasterForInference):
                expert.prepare_for_inference(bfloat16=name == BFLOAT16)
        return cls(experts, names, fusion, name=name, further=others)

    def check(self, modality: str, value: Any) -> None:
        self.experts[modality].check(value)

    def windows(self, modality: str, value: Any) -> Windows | None:
        if modality not in self._windowed:
            return None
        found = self._windowed[modality].windows(value)
        tuned = isinstance(self.fusion, EncoderTuner)  # its own encoders read the first window alone
        return replace(found, whole=False) if tuned and len(found.texts) > 1 else found

    def evidence(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Evidence]:
        result = {}
        for name, expert in self.experts.items():
            rows = [i for i, values in enumerate(posts) if name in values]
            values = [posts[i][name] for i in rows]
            encoded, tokens = self._encode(name, values)
            read = self._tokens_of(self.fusion, name, values, tokens)
            further = {}
            for label, models in self.further.items():
                own = models.experts[name]
                found = by_head(own, encoded) if is_head(own, expert) else self._run(own.encode, values)
                of = self._tokens_of(models.fusion, name, values, tokens)
                further[label] = _placed(found, of, rows, len(posts))
            result[name] = replace(_placed(encoded, read, rows, len(posts)), further=further)
        return result

    @property
    def reads_tokens(self) -> bool:
        """Whether the fusion reads tokens, its own or those of the experts."""
        return self.fusion is not None and self.fusion.reads == "tokens"

    def encode(self, name: str, values: Sequence[Any]) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        """What an expert gives of values, and the tokens that the fusion reads of them; None where it reads none.

        One pass gives both, but where the fusion has an encoder of its own, which runs beside.
        """
        encoded, tokens = self._encode(name, values)
        return encoded, self._tokens_of(self.fusion, name, values, tokens)

    def _encode(self, name: str, values: Sequence[Any]) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        """One pass of an expert, with its tokens where the fusion of any label reads those."""
        expert, fusions = self.experts[name], [self.fusion, *(models.fusion for models in self.further.values())]
        if isinstance(expert, TokenEncoder) and any(map(_reads_expert_tokens, fusions)):
            return self._run(expert.encode_tokens, values)
        return self._run(expert.encode, values), None

    def _tokens_of(
        self, fusion: Fusion | None, name: str, values: Sequence[Any], tokens: list[Tensor] | None
    ) -> list[Tensor] | None:
        """The tokens that a fusion reads: by an encoder of its own, or those of the expert."""
        if isinstance(fusion, EncoderTuner):
            return self._run(partial(fusion.tokens, name), values)
        return tokens if _reads_expert_tokens(fusion) else None

    def _run(self, work: Callable[[Sequence[Any]], Found], values: Sequence[Any]) -> Found:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.name == BFLOAT16):
            return work(values)

    def logits(self, evidence: Mapping[str, Evidence], label: str | None = None) -> dict[str, NDArray[np.float32]]:
        fusion = self.fusion if label is None else self.further[label].fusion
        if label is not None:
            evidence = {name: part.further[label] for name, part in evidence.items()}
        logits = {self.names[name]: part.logits for name, part in evidence.items()}
        if fusion is not None:
            logits[self.main] = fusion(evidence)
        return {model: rows.numpy() for model, rows in logits.items()}


def _reads_expert_tokens(fusion: Fusion | None) -> bool:
    return fusion is not None and fusion.reads == "tokens" and not isinstance(fusion, EncoderTuner)


def is_head(own: Encoder, expert: Encoder) -> bool:
    """Whether the expert of a further label is a head of the first one's, and what that encodes is its too."""
    return isinstance(expert, MultiLabelEncoder) and any(own is head for head in expert.heads.values())


def _placed(encoded: Mapping[str, Tensor], tokens: list[Tensor] | None, rows: Sequence[int], n: int) -> Evidence:
    """Evidence of n posts, of which those in ``rows`` have the part."""
    full = {}
    for key in ("features", "logits"):
        full[key] = torch.zeros(n, encoded[key].shape[1])
        full[key][rows] = encoded[key]
    blank = torch.zeros(n, dtype=torch.bool)
    present = blank.clone()
    present[rows] = True
    labels = torch.full((n,), UNLABELLED)
    found = Evidence(("",) * n, ("",) * n, full["features"], full["logits"], present, labels, blank)
    return found if tokens is None else replace(found, tokens=spread(tokens, rows, n))


def torch_engine(engine: Engine) -> TorchEngine:
    """The engine that holds the trained models themselves. Raises `RunError` where they were exported."""
    if not isinstance(engine, TorchEngine):
        raise RunError(f"this needs the models as they were trained, not {engine.name}: name the run's folder")
    return engine
