"""The network of a joint fusion: tokens of each modality attend to those of the others, and a layer decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .classifier import mean_states


class HeadOutput(NamedTuple):
    """What the network gives for B rows and M modalities.

    Attributes
    ----------
    logits : [B, C]
    alone : [B, M, C] or None
        What the linear head of each modality says by its own tokens, before any attention; meaningless where absent.
    weights : [B, M]
        Attention received from the other modalities: shares of 1 among the present ones, zeros where none is.
    """

    logits: Tensor
    alone: Tensor | None
    weights: Tensor


class CrossAttentionBlock(nn.Module):
    """Tokens of one modality gather from those of the others, in pre-norm residual form.

    ``X' = X + O softmax(Q K^T / sqrt(w / h)) V`` with ``Q = norm(X) Wq [L, w]``, ``K, V = norm(Y) Wk, Wv [K + 1, w]``,
    in h heads, then ``X'' = X' + F2 gelu(F1 norm(X'))``. The tokens Y of all other modalities stand side by side, and
    with them one learned token that holds nothing of the row: where there is nothing worth looking at (or nothing at
    all, the other parts being absent) a query rests there. So the mass that leaves it tells how much was looked at.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.rest = nn.Parameter(torch.randn(width) * 0.02)
        self.norm, self.norm_other, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, others: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, L, w]`` renewed, and attention ``[B, L, K]`` to others ``[B, K, w]`` (mean over heads)."""
        batch, width = tokens.shape[0], tokens.shape[2]
        others = torch.cat([self.norm_other(others), self.rest.expand(batch, 1, width)], dim=1)
        there = torch.cat([there, there.new_ones(batch, 1)], dim=1)
        q = self._split(self.query(self.norm(tokens)))
        k, v = self._split(self.key(others)), self._split(self.value(others))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        attention = scores.masked_fill(~there[:, None, None, :], torch.finfo(scores.dtype).min).softmax(dim=-1)
        gathered = (self.dropout(attention) @ v).transpose(1, 2).flatten(2)
        tokens = tokens + self.dropout(self.out(gathered))
        return tokens + self.dropout(self.feed(self.norm_after(tokens))), attention.mean(dim=1)[..., :-1]

    def _split(self, x: Tensor) -> Tensor:
        """``[B, heads, L, w / heads]`` of ``[B, L, w]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CoAttention(nn.Module):
    """Co-attention of any number of modalities (ViLBERT: Lu et al. 2019, arXiv:1908.02265, section 3.1).

    Tokens ``T_m [L_m, d_m]`` of modality m become ``X_m = norm(T_m) P_m + e_m [L_m, w]``, with a learned embedding
    ``e_m``. One `CrossAttentionBlock` per modality lets them look at the tokens of all others; their mean over the
    ``L_m`` tokens that count is ``z_m [w]``, and the logits are ``W dropout(gelu(F [z_1 .. z_M])) + c`` with
    ``F [w, M w]``. An absent part has no tokens to be looked at, and for ``z_m`` a learned vector, so that it is told
    from a part that says nothing.

    In training each part is taken away with probability ``modality_dropout``, but for one that always stays.

    Parameters
    ----------
    widths : sequence of int
        d of each modality.
    normal : sequence of bool
        Whether its tokens get a LayerNorm, or are standardised already.
    alone : bool
        Whether each modality gets a linear head ``[C, w]`` of its own, on the mean of ``X_m``.
    """

    def __init__(
        self,
        widths: Sequence[int],
        normal: Sequence[bool],
        classes: int,
        *,
        width: int,
        heads: int,
        dropout: float,
        modality_dropout: float,
        alone: bool,
    ):
        super().__init__()
        self.modality_dropout = modality_dropout
        scales = [nn.LayerNorm(d) if n else nn.Identity() for d, n in zip(widths, normal, strict=True)]
        self.projections = nn.ModuleList(
            nn.Sequential(scale, nn.Linear(d, width)) for scale, d in zip(scales, widths, strict=True)
        )
        self.embeddings = nn.Parameter(torch.randn(len(widths), width) * 0.02)
        self.absent = nn.Parameter(torch.randn(len(widths), width) * 0.02)
        self.attend = nn.ModuleList(CrossAttentionBlock(width, heads, dropout) for _ in widths)
        self.alone = nn.ModuleList(nn.Linear(width, classes) for _ in widths) if alone else None
        self.norm = nn.LayerNorm(width)
        self.out = nn.Sequential(
            nn.Linear(len(widths) * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, classes)
        )

    def forward(
        self, tokens: Sequence[Tensor | None], there: Sequence[Tensor | None], present: Tensor, *, detach: bool = False
    ) -> HeadOutput:
        """What is said of B rows.

        Parameters
        ----------
        tokens, there : per modality
            ``[b, L, d]`` and ``[b, L]`` bool of the b rows that have the part, in order; None where none has it.
        present : [B, M] bool
        detach : bool
            Keep the gradients of the heads of single modalities from what lies below them.
        """
        placed = [self._place(m, tokens[m], there[m], present[:, m]) for m in range(present.shape[1])]
        alone = self._alone(placed, detach)
        stays = self._stays(present)
        kept = [(x, mask & stays[:, m, None]) for m, (x, mask) in enumerate(placed)]
        states, looked = [], torch.zeros_like(stays, dtype=torch.float32)
        for m, (x, mask) in enumerate(kept):
            others = [j for j in range(len(kept)) if j != m]
            side = torch.cat([kept[j][0] for j in others] or [x[:, :0]], dim=1)
            side_mask = torch.cat([kept[j][1] for j in others] or [mask[:, :0]], dim=1)
            x, attention = self.attend[m](x, side, side_mask)
            z = self.norm(mean_states(x, mask))
            states.append(torch.where(stays[:, m, None], z, self.absent[m].to(z.dtype)))
            mass = mean_states(attention, mask).split([kept[j][0].shape[1] for j in others], dim=1)
            for j, part in zip(others, mass, strict=False):  # a modality without others gives one empty part
                looked = looked.index_add(1, torch.tensor([j], device=x.device), part.float().sum(dim=1, keepdim=True))
        return HeadOutput(self.out(torch.cat(states, dim=1)), alone, _shares(looked, stays))

    def _place(self, m: int, tokens: Tensor | None, there: Tensor | None, present: Tensor) -> tuple[Tensor, Tensor]:
        """Projected tokens ``[B, L, w]`` and which of them count; rows without the part have none."""
        if tokens is None or there is None:
            empty = self.embeddings.new_zeros(len(present), 1, self.embeddings.shape[1])
            return empty, present.new_zeros(len(present), 1)
        x = self.projections[m](tokens) + self.embeddings[m]
        mask = there.new_zeros(len(present), there.shape[1])
        mask[present] = there
        return x.new_zeros(len(present), *x.shape[1:]).index_put((present,), x), mask

    def _alone(self, placed: Sequence[tuple[Tensor, Tensor]], detach: bool) -> Tensor | None:
        if self.alone is None:
            return None
        means = [mean_states(x, mask) for x, mask in placed]
        return torch.stack([h(x.detach() if detach else x) for h, x in zip(self.alone, means, strict=True)], dim=1)

    def _stays(self, present: Tensor) -> Tensor:
        """Modality dropout on ``[B, M]``: of the parts that a row has, the one with the highest draw always stays."""
        if not (self.training and self.modality_dropout):
            return present
        draws = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
        return present & ((draws >= self.modality_dropout) | (draws == draws.amax(dim=1, keepdim=True)))


def _shares(looked: Tensor, present: Tensor) -> Tensor:
    """Shares of 1 of what each present modality received; a part that is alone has all of it."""
    looked = torch.where(present, looked, 0.0)
    total = looked.sum(dim=1, keepdim=True)
    even = present / present.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, looked / total.clamp(min=torch.finfo(looked.dtype).tiny), even)
