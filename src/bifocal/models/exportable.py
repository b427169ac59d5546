"""What an encoder or a fusion hands over to be run without torch; one that does not know how is not exported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..config import Reads
from ..contracts import Encoder, Fusion
from ..errors import ModelError


@dataclass(frozen=True)
class Exportable:
    """A module that can be traced, and how its inputs are made.

    Attributes
    ----------
    module : nn.Module
        Takes the inputs in their order and returns ``features [n, d]`` and ``logits [n, C]``.
    inputs : dict
        Name -> an example ``[2, ...]``.
    axes : dict
        Name -> the names of its dimensions; ``None`` = one of fixed size.
    reader : str
        Of `bifocal.system.onnx_inputs`: what makes inputs of values.
    settings : dict
        JSON-able, for that reader.
    head : nn.Module, optional
        What of the module makes the logits of the features, in an encoder that has heads of several labels.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: Mapping[str, Sequence[str | None]]
    reader: str
    settings: dict[str, Any] = field(default_factory=dict)
    head: nn.Module | None = None


@runtime_checkable
class ExportableEncoder(Protocol):
    """An encoder that can be run without torch."""

    def exportable(self) -> Exportable: ...


@runtime_checkable
class TracedFusion(Protocol):
    """A fusion whose logits can be written as tensor operations alone; see `EvidenceFusion.traced`."""

    read: Mapping[str, Reads]
    dims: Mapping[str, int]
    known: Collection[str]

    def traced(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor: ...


def exportable(name: str, model: Encoder) -> Exportable:
    """What an expert hands over. Raises `ModelError` where its encoder does not know how."""
    if not isinstance(model, ExportableEncoder):
        raise ModelError(
            f"the {name} expert ({type(model).__name__}) cannot be exported to ONNX: hf_text and hf_image can; "
            "export for the engine torch, serve the run itself, or train that expert with one of these"
        )
    return model.exportable()


class WithHeads(nn.Module):
    """An encoder's module whose outputs are followed by the logits of further heads over the same features."""

    def __init__(self, module: nn.Module, heads: Iterable[nn.Module]):
        super().__init__()
        self.module, self.heads = module, nn.ModuleList(heads)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features, logits = self.module(*inputs)
        return features, logits, *(head(features) for head in self.heads)


def traced_fusion(fusion: Fusion) -> FusionModule:
    """A fusion that can be exported, tried on two rows. Raises `ModelError` where its strategy cannot."""
    module = FusionModule(fusion)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            module(*module.examples().values())
    except ModelError:
        raise
    except Exception as error:  # of a strategy from outside: it trains and decides all the same
        raise ModelError(f"fusion {type(fusion).__name__} cannot be exported to ONNX: {error!r}") from error
    return module


class FusionModule(nn.Module):
    """A fusion on Evidence as a module of plain tensors.

    Takes, for each modality in the fusion's order, its input ``[n, d]``, and after them ``present [n, M]``; returns
    logits ``[n, C]``. Raises `ModelError` where the strategy cannot be traced.
    """

    def __init__(self, fusion: Fusion):
        super().__init__()
        if not isinstance(fusion, TracedFusion):
            raise ModelError(
                f"fusion {type(fusion).__name__} cannot be exported to ONNX: export for the engine torch, or serve the "
                "run itself"
            )
        self.fusion: TracedFusion = fusion
        self.names = list(fusion.read)

    def forward(self, *given: Tensor) -> Tensor:
        *inputs, there = given
        present = {name: there[:, i] for i, name in enumerate(self.names)}
        known = {name: flag if name in self.fusion.known else flag & False for name, flag in present.items()}
        zeroed = {name: x * known[name].unsqueeze(1) for name, x in zip(self.names, inputs, strict=True)}
        return self.fusion.traced(zeroed, known)

    def examples(self) -> dict[str, Tensor]:
        """Inputs of two rows, ``present`` after them."""
        inputs: Mapping[str, Tensor] = {name: torch.randn(2, self.fusion.dims[name]) for name in self.names}
        return {**inputs, "present": torch.tensor([[True] * len(self.names), [True] + [False] * (len(self.names) - 1)])}
