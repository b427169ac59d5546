"""Tokens of a modality for a joint fusion: hidden states of a copied backbone, or the features of an encoder.

What is frozen runs once. Blocks in front of the first one that learns are passed by in training: what leaves the last
of them is kept for each row, and played back into the model, whose remaining blocks then run as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, overload, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .classifier import mean_states
from .hf import HfEncoder
from .linear import FLAT

if TYPE_CHECKING:
    from pathlib import Path

    from ..contracts import Encoder

KEPT_BYTES = 2**29
"""Most that is kept of one modality of some rows; above it the frozen blocks run in every pass."""
SAME = 1e-3
"""Tokens that differ by less than this share of the largest are the same but for rounding."""
MASK = "attention_mask"
PLAYED = "played"
"""Among the inputs of a batch: what left the last frozen block."""
Kept = dict[int, Tensor]
Inputs = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class JointRows:
    """Posts as a joint fusion reads them.

    Attributes
    ----------
    values : mapping
        Modality -> values ``[n]``, read when they are asked for; what stands in for an absent part is never read.
    present : mapping
        Modality -> ``[n]`` bool.
    labels : Tensor or None
        Class indices ``[n]``.
    keep : bool
        Keep in ``memory`` what frozen layers make of the rows: for rows that several fusions learn from or judge.
    memory : dict
        Filled by fusions; at most `KEPT_BYTES` per modality and cut.
    """

    values: Mapping[str, Sequence[Any]]
    present: Mapping[str, Tensor]
    labels: Tensor | None = None
    keep: bool = False
    memory: dict[Any, Kept | None] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.present.values())))

    def without(self, name: str) -> JointRows:
        """The same rows with this part absent; the memory is shared."""
        present = {**self.present, name: torch.zeros_like(self.present[name])}
        return JointRows(self.values, present, self.labels, self.keep, self.memory)


@runtime_checkable
class JointFusion(Protocol):
    """Trains with (part of) the encoders, on their tokens (``models/joint/<name>.py``); knows modalities by name only.

    Built with keyword options; ready after `fit`. The encoders that are passed in stay as they are.
    """

    history: list[dict[str, float]]
    """Per epoch: ``epoch``, ``train_loss``, with val ``val_loss`` and ``val_macro_f1``, ``grad_norm``, ..."""

    def fit(
        self,
        encoders: Mapping[str, Encoder],
        train: JointRows,
        *,
        classes: int,
        seed: int,
        checkpoints: Path,
        val: JointRows | None = None,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> Self:
        """Learn from rows with class indices; ``val`` chooses the epoch. ``checkpoints`` is a folder of its own.

        Raises `DataError`, `ConfigError` where an encoder cannot be adapted, `ModelError` where training diverges.
        """

    def __call__(self, rows: JointRows) -> Tensor:
        """Logits ``[n, C]``, float32 on the CPU; any modality may be absent per row."""

    def explain(self, rows: JointRows) -> Mapping[str, Tensor]:
        """Weight given to each modality, name -> ``[n]``: shares of 1 among the present ones."""

    def parameters(self) -> dict[str, int]:
        """``{"total": …, "trained": …}``: all it takes to score a row, and what learned."""


@dataclass(frozen=True)
class Limit:
    """How much of a backbone learns.

    Attributes
    ----------
    learning : list of Module
        In training mode while training goes on (dropout), but for their BatchNorm.
    passed : list of Module
        Frozen blocks that follow one another up to the first that learns; empty where every pass runs through all.
    """

    learning: list[nn.Module]
    passed: list[nn.Module]


class TokenSource(nn.Module):
    """One modality's way from values to tokens."""

    width: int
    """d of the tokens."""
    normal: bool
    """Whether tokens are to be brought to one scale each (hidden states), or are so by column (features)."""
    key: str
    """What it keeps of a row depends on this alone."""

    def prepare(self, values: Sequence[Any], rows: Sequence[int]) -> Kept | None:
        """What needs to be computed once only, by row; None where that is nothing, or too much to be kept."""
        raise NotImplementedError

    def settle(self, kept: Kept | None) -> None:
        """Take scales from what was prepared of the training rows."""

    def batch(self, values: Sequence[Any], rows: Sequence[int], kept: Kept | None) -> Inputs:
        """What `forward` takes, for these rows."""
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Tokens ``[b, L, d]`` and which of them count ``[b, L]`` bool."""
        raise NotImplementedError

    def weights_below(self) -> int:
        """Weights that it takes without holding them as parameters."""
        return 0


class PooledToken(TokenSource):
    """The features of an encoder that has no tokens, as one frozen token, standardised by train."""

    normal = False
    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, width: int):
        super().__init__()
        self.encoder = encoder
        self.width = width
        self.key = f"features {encoder.fingerprint()}"
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def prepare(self, values: Sequence[Any], rows: Sequence[int]) -> Kept:
        features = self.encoder.encode(SelectedRows(values, rows))["features"]
        return dict(zip(rows, features, strict=True))

    def settle(self, kept: Kept | None) -> None:
        if kept:
            features = torch.stack(list(kept.values()))
            spread = features.std(dim=0, correction=0)
            self.mean.copy_(features.mean(dim=0))
            self.scale.copy_(torch.where(spread < FLAT, 1.0, spread))

    def batch(self, values: Sequence[Any], rows: Sequence[int], kept: Kept | None) -> Inputs:
        kept = kept or self.prepare(values, rows)
        return {"features": torch.stack([kept[i] for i in rows])}

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        tokens = ((inputs["features"] - self.mean) / self.scale).unsqueeze(1)
        return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)

    def weights_below(self) -> int:
        return self.encoder.parameters()["total"]


class Backbone(TokenSource):
    """A copy of a transformers encoder, part of which learns, without its heads.

    Parameters
    ----------
    encoder : HfEncoder
        Stays as it is; it turns values into inputs.
    model : PreTrainedModel
        The copy of its backbone; what may learn of it requires gradients.
    limit : Limit
    example : dict of Tensor
        Inputs of some value.
    width : int
    """

    normal = True

    def __init__(self, encoder: HfEncoder, model: nn.Module, limit: Limit, example: Inputs, width: int):
        super().__init__()
        self.encoder = encoder
        self.model = model
        self.width = width
        self.key = f"after {len(limit.passed)} blocks of {encoder.fingerprint()}"
        self._learning = limit.learning
        self._player = Player(limit.passed)
        # Where all inputs are numbers (pixels), only the blocks passed by would read them: any will do.
        numbers = all(t.is_floating_point() for t in example.values())
        self._blank = {name: torch.zeros_like(t[:1]) for name, t in example.items()} if numbers else None

    def train(self, mode: bool = True) -> Self:
        """As usual for what learns; the rest never has dropout, and BatchNorm keeps its statistics."""
        super().train(False)
        self.training = mode
        for module in self._learning:
            module.train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @torch.no_grad()
    def prepare(self, values: Sequence[Any], rows: Sequence[int]) -> Kept | None:
        """What leaves the last frozen block, without padding.

        None also where playing it back does not give the same tokens: a model whose blocks are more than a chain.
        """
        if not self._player.passed:
            return None
        self.eval()
        device = next(self.model.parameters()).device
        kept: Kept = {}
        held = 0
        for batch, inputs in self.encoder.batches(SelectedRows(values, rows)):
            tokens, there = self({name: t.to(device) for name, t in inputs.items()})
            states, mask = self._player.caught.cpu(), inputs.get(MASK)
            for j, i in enumerate(batch):
                kept[rows[i]] = (states[j] if mask is None else states[j][mask[j].bool()]).clone()
                held += kept[rows[i]].nbytes
            if held * len(rows) > KEPT_BYTES * len(kept):
                return None
            if len(kept) == len(batch):
                again = self.batch(values, [rows[i] for i in batch], kept)
                played, _ = self({name: t.to(device) for name, t in again.items()})
                if (played - tokens)[there].abs().max() > SAME * tokens[there].abs().max():
                    return None
        return kept

    def batch(self, values: Sequence[Any], rows: Sequence[int], kept: Kept | None) -> Inputs:
        if kept is None or self._blank is None:
            inputs = self.encoder.inputs([values[i] for i in rows])
        else:
            inputs = {name: t.expand(len(rows), *t.shape[1:]) for name, t in self._blank.items()}
        if kept is None:
            return inputs
        states = [kept[i] for i in rows]
        mask = inputs.get(MASK)
        if mask is None:
            return {**inputs, PLAYED: torch.stack(states)}
        played = states[0].new_zeros(*mask.shape, states[0].shape[-1])
        played[mask.bool()] = torch.cat(states)
        return {**inputs, PLAYED: played}

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        read = {name: t for name, t in inputs.items() if name != PLAYED}
        with self._player.playing(inputs.get(PLAYED)):
            states = first_of(self.model(**read))
        tokens = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
        mask = inputs.get(MASK)
        there = tokens.new_ones(tokens.shape[:2]) if mask is None else mask
        return tokens, there.bool()


class Player:
    """Plays back what left the last of some frozen blocks, past all of them."""

    def __init__(self, passed: Sequence[nn.Module]):
        self.passed = list(passed)
        self.caught: Tensor = torch.empty(0)
        self.parts = 0
        """Length of the tuple that a block gives; 0 where it gives a Tensor."""
        self._played: Tensor | None = None
        for block in self.passed:
            block.forward = self._past(block.forward, block is self.passed[-1])

    def playing(self, states: Tensor | None) -> _Playing:
        """While it lasts, these states stand for what leaves the last frozen block; None = all blocks run."""
        return _Playing(self, states)

    def _past(self, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def passed(*args: Any, **kwargs: Any) -> Any:
            if self._played is None:
                output = forward(*args, **kwargs)
                self.parts = len(output) if isinstance(output, tuple) else 0
                if last:
                    self.caught = first_of(output)
                return output
            states = self._played if last else args[0] if args else next(iter(kwargs.values()))
            return (states, *[None] * (self.parts - 1)) if self.parts else states

        return passed


class _Playing:
    def __init__(self, player: Player, states: Tensor | None):
        self.player, self.states = player, states

    def __enter__(self) -> None:
        self.player._played = self.states

    def __exit__(self, *_: object) -> None:
        self.player._played = None


class SelectedRows(Sequence[Any]):
    """Some of the values, read as they are asked for."""

    def __init__(self, values: Sequence[Any], rows: Sequence[int]):
        self._values = values
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> SelectedRows: ...
    def __getitem__(self, i: int | slice) -> Any:
        return SelectedRows(self._values, self._rows[i]) if isinstance(i, slice) else self._values[self._rows[i]]


def token_source(encoder: Encoder, value: Any, limit: Callable[[nn.Module], Limit]) -> TokenSource:
    """How a joint fusion reads a modality: by hidden states where its encoder has any, else by its features.

    Parameters
    ----------
    encoder : Encoder
        It is left as it is.
    value : object
        Some value that it reads; its tokens tell their shape.
    limit : callable
        Takes the copy of the backbone, freezes it but for what learns, and says what that is.
    """
    if isinstance(encoder, HfEncoder):
        model = deepcopy(encoder.classifier.encoder).eval()
        model._forward_hooks = OrderedDict()  # those by which the expert catches its features
        _, example = next(iter(encoder.batches([value])))
        with torch.no_grad():
            states = first_of(model(**{name: t.to(model.device) for name, t in example.items()}))
        if states.dim() > 2:
            width = states.shape[1] if states.dim() == 4 else states.shape[-1]
            return Backbone(encoder, model, limit(model), example, width)
    return PooledToken(encoder, encoder.encode([value])["features"].shape[1])


def first_of(output: Any) -> Tensor:
    """The hidden states in what a model or block gives."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states


def pooled(tokens: Tensor, there: Tensor) -> Tensor:
    """Mean ``[B, d]`` of the tokens ``[B, L, d]`` that are there ``[B, L]``; zeros where none is."""
    return mean_states(tokens, there)
