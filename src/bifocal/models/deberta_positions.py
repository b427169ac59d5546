"""DeBERTa's projections of relative positions, which no input changes, computed once instead of at every pass.

Each layer of DeBERTa (He et al. 2021, arXiv:2006.03654, section 3.2) projects the embeddings of all 512 relative
positions to keys and queries: of a text of 32 tokens that is most of the work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, DisentangledSelfAttention

SHARED, OWN = ("query_proj", "key_proj"), ("pos_query_proj", "pos_key_proj")


def remember_positions(model: PreTrainedModel) -> int:
    """Let a model remember these projections, for as long as its weights stay as they are: for inference alone.

    Other models are left as they are. Its modules and the names of its weights do not change.

    Returns
    -------
    int
        The projections that are remembered.
    """
    found = 0
    for encoder in (m for m in model.modules() if isinstance(m, DebertaV2Encoder)):
        if not encoder.relative_attention:
            continue
        with torch.inference_mode():
            positions = encoder.get_rel_embedding().clone()
        encoder.get_rel_embedding = lambda positions=positions: positions
        for attention in (m for m in encoder.modules() if isinstance(m, DisentangledSelfAttention)):
            for name in SHARED if attention.share_att_key else OWN:
                if (layer := getattr(attention, name, None)) is not None:
                    layer.forward = _remembering(layer, positions)
                    found += 1
    return found


def _remembering(layer: nn.Linear, positions: Tensor) -> Callable[[Tensor], Tensor]:
    """The layer's forward; of the positions it computes the answer once for each kind of numbers."""
    compute = layer.forward
    known: dict[torch.dtype | None, Tensor] = {}

    def forward(x: Tensor) -> Tensor:
        if x.data_ptr() != positions.data_ptr():  # nothing else lies where the positions lie
            return compute(x)
        numbers = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        answer = known.get(numbers)
        if answer is None or answer.shape[:-1] != x.shape[:-1]:
            answer = known[numbers] = compute(x)
        return answer

    return forward
