"""Tokens of a modality for a fusion: those of its Evidence, or hidden states of a copied backbone that learns.

What is frozen runs once. Blocks in front of the first one that learns are passed by in training: what leaves the last
of them is kept for each row, and played back into the model, whose remaining blocks then run as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import DataError
from ..example import SelectedRows
from .classifier import token_states
from .hf import MASK, HfTokenEncoder, unpadded
from .linear import FLAT

if TYPE_CHECKING:
    from ..config import Reads
    from ..example import Evidence

KEPT_BYTES = 2**29
"""Most that is kept of one modality of some rows; above it the frozen blocks run in every pass."""
SAME = 1e-3
"""Tokens that differ by less than this share of the largest are the same but for rounding."""
PLAYED = "played"
"""Among the inputs of a batch: what left the last frozen block."""
TOKENS, THERE = "tokens", "there"
"""Inputs of a batch whose tokens are made already."""
Kept = dict[int, Tensor]
Inputs = dict[str, Tensor]


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
    """One modality's way from rows to tokens."""

    width: int
    """d of the tokens."""
    normal: bool
    """Whether tokens are to be brought to one scale each (hidden states), or are so by column (features)."""

    def prepare(self, part: Evidence) -> Kept | None:
        """What needs to be computed once only, by row; None where that is nothing, or too much to be kept."""
        return None

    def fit_scale(self, part: Evidence) -> None:
        """Take scales from the training rows."""

    def batch(self, part: Evidence, rows: Sequence[int], kept: Kept | None) -> Inputs:
        """What `forward` takes, for these rows, which have the part."""
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Tokens ``[b, L, d]`` and which of them count ``[b, L]`` bool."""
        return inputs[TOKENS], inputs[THERE]


class PooledToken(TokenSource):
    """Features or logits of an Evidence as one token, standardised by train."""

    normal = False
    mean: Tensor
    scale: Tensor

    def __init__(self, what: Reads, width: int):
        super().__init__()
        self.what = what
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit_scale(self, part: Evidence) -> None:
        x: Tensor = getattr(part, self.what)[part.present]
        spread = x.std(dim=0, correction=0)
        self.mean.copy_(x.mean(dim=0))
        self.scale.copy_(torch.where(spread < FLAT, 1.0, spread))

    def batch(self, part: Evidence, rows: Sequence[int], kept: Kept | None) -> Inputs:
        x: Tensor = getattr(part, self.what)[list(rows)]
        return {TOKENS: x.unsqueeze(1), THERE: torch.ones(len(x), 1, dtype=torch.bool)}

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return (inputs[TOKENS] - self.mean) / self.scale, inputs[THERE]


class FrozenTokens(TokenSource):
    """The tokens of an Evidence."""

    normal = True

    def __init__(self, name: str, width: int):
        super().__init__()
        self.name = name
        self.width = width

    def batch(self, part: Evidence, rows: Sequence[int], kept: Kept | None) -> Inputs:
        if part.tokens is None:
            raise DataError(
                f"this fusion reads the tokens of {self.name}, and its Evidence has none: encode it with tokens"
            )
        found = [part.tokens[i] for i in rows]
        if wrong := {t.shape[1] for t in found} - {self.width}:
            raise DataError(f"tokens of {self.name} have {wrong.pop()} columns; the fusion was fitted on {self.width}")
        there = torch.arange(max(map(len, found))) < torch.tensor([len(t) for t in found]).unsqueeze(1)
        return {TOKENS: nn.utils.rnn.pad_sequence(found, batch_first=True), THERE: there}


class Backbone(FrozenTokens):
    """A copy of a transformers encoder, part of which learns, without its heads; what it made already is not made anew.

    Parameters
    ----------
    encoder : HfTokenEncoder
        Stays as it is; it turns values into inputs.
    limit : callable
        Takes the copy of the backbone, freezes it but for what learns, and says what that is.
    width : int, optional
        Where it is known; else ``value``, one that the encoder reads, tells it.
    """

    def __init__(
        self,
        name: str,
        encoder: HfTokenEncoder,
        limit: Callable[[nn.Module], Limit],
        *,
        value: Any = None,
        width: int | None = None,
    ):
        model = deepcopy(encoder.classifier.encoder).eval()
        model._forward_hooks = OrderedDict()  # those by which the expert catches its features
        super().__init__(name, width or _width(encoder, model, value))
        limited = limit(model)
        self.encoder = encoder
        self.model = model
        self._learning = limited.learning
        self._player = Player(limited.passed)
        self._blank: Inputs | None = None

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
    def prepare(self, part: Evidence) -> Kept | None:
        """What leaves the last frozen block, without padding.

        None also where playing it back does not give the same tokens: a model whose blocks are more than a chain.
        """
        if not self._player.passed:
            return None
        self.eval()
        rows = part.present.nonzero().flatten().tolist()
        kept: Kept = {}
        held = 0
        for batch, inputs in self.encoder.batches(SelectedRows(_values(part), rows)):
            tokens, there = self(self._placed(inputs))
            states, mask = self._player.caught.cpu(), inputs.get(MASK)
            for j, i in enumerate(batch):
                kept[rows[i]] = (states[j] if mask is None else states[j][mask[j].bool()]).clone()
                held += kept[rows[i]].nbytes
            if held * len(rows) > KEPT_BYTES * len(kept):
                return None
            if len(kept) == len(batch):
                # Where all inputs are numbers (pixels), only the blocks passed by would read them: any will do.
                numbers = all(t.is_floating_point() for t in inputs.values())
                self._blank = {name: torch.zeros_like(t[:1]) for name, t in inputs.items()} if numbers else None
                played, _ = self(self._placed(self.batch(part, [rows[i] for i in batch], kept)))
                if (played - tokens)[there].abs().max() > SAME * tokens[there].abs().max():
                    return None
        return kept

    def batch(self, part: Evidence, rows: Sequence[int], kept: Kept | None) -> Inputs:
        if part.tokens is not None:
            return super().batch(part, rows, kept)
        if kept is None or self._blank is None:
            inputs = self.encoder.inputs([_values(part)[i] for i in rows])
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
        if TOKENS in inputs:
            return super().forward(inputs)
        read = {name: t for name, t in inputs.items() if name != PLAYED}
        with self._player.playing(inputs.get(PLAYED)):
            return token_states(first_of(self.model(**read)), inputs.get(MASK))

    @torch.inference_mode()
    def tokens(self, values: Sequence[Any], progress: Callable[[int], None] | None = None) -> list[Tensor]:
        """The tokens ``[L, d]`` of each value, float32 on the CPU."""
        self.eval()
        made = [torch.empty(0)] * len(values)
        done = 0
        for rows, inputs in self.encoder.batches(values):
            states = first_of(self.model(**self._placed(inputs)))
            for row, found in zip(rows, unpadded(states, inputs.get(MASK)), strict=True):
                made[row] = found
            done += len(rows)
            if progress:
                progress(done)
        return made

    def _placed(self, inputs: Inputs) -> Inputs:
        device = next(self.model.parameters()).device
        return {name: t.to(device) for name, t in inputs.items()}


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

    @contextmanager
    def playing(self, states: Tensor | None) -> Iterator[None]:
        """While it lasts, these states stand for what leaves the last frozen block; None = all blocks run."""
        self._played = states
        try:
            yield
        finally:
            self._played = None

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


def _values(part: Evidence) -> Sequence[Any]:
    if part.values is None:
        raise DataError("a fusion that tunes encoders learns from values, and this Evidence brings none")
    return part.values


def _width(encoder: HfTokenEncoder, model: nn.Module, value: Any) -> int:
    """Columns of the tokens that a backbone makes of a value."""
    _, example = next(iter(encoder.batches([value])))
    device = next(model.parameters()).device
    with torch.no_grad():
        states = first_of(model(**{name: t.to(device) for name, t in example.items()}))
    return states.shape[1] if states.dim() == 4 else states.shape[-1]


def first_of(output: Any) -> Tensor:
    """The hidden states in what a model or block gives."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states
