"""Frozen tokens are read as they are, padded only while they are looked at."""

import pytest
import torch
from torch import nn

from bifocal.errors import DataError
from bifocal.example import Evidence
from bifocal.models.fusions.cross_attention import CrossAttention

QUICK = {"width": 16, "epochs": 12, "batch_size": 16, "learning_rate": 1e-2}


def rows(seed=0, n=120, width=6):
    """Whether a word and a patch bear the same mark, somewhere among others, is the label."""
    g = torch.Generator().manual_seed(seed)
    ids, nothing = tuple(f"{seed}-{i}" for i in range(n)), torch.zeros(n, dtype=torch.bool)
    labels = torch.arange(n) % 2
    found = {}
    for m, name in enumerate(("text", "image")):
        tokens = []
        for i in range(n):
            some = torch.randn(2 + (i + m) % 3, width, generator=g) * 0.1
            some[i % len(some), 0] = 3.0 if labels[i] else -3.0
            tokens.append(some)
        blank = torch.zeros(n, 2)
        found[name] = Evidence(ids, ids, blank, blank, ~nothing, labels, nothing, tuple(tokens))
    return found


def fitted(parts):
    return CrossAttention(**QUICK).fit(parts, parts["text"].labels, seeds=[0])


def test_a_mark_on_one_token_of_many_is_found():
    """Features say nothing here; only tokens do."""
    new = rows(1)
    assert (fitted(rows())(new).argmax(dim=1) == new["text"].labels).float().mean() > 0.95


def test_it_tunes_nothing_and_reads_tokens_only():
    fusion = fitted(rows(n=32))
    assert fusion.read == {"text": "tokens", "image": "tokens"} and fusion.dims == {"text": 6, "image": 6}
    assert sum(p.numel() for source in fusion.sources for p in source.parameters()) == 0
    assert all(isinstance(m, nn.Module) for m in fusion.sources)


def test_evidence_without_tokens_or_of_another_width_is_refused():
    fusion, new = fitted(rows(n=32)), rows(1, n=4)
    none = {m: Evidence(e.ids, e.groups, e.features, e.logits, e.present, e.labels, e.seen) for m, e in new.items()}
    with pytest.raises(DataError, match="reads the tokens of text, and its Evidence has none"):
        fusion(none)
    with pytest.raises(DataError, match="tokens of text have 5 columns; the fusion was fitted on 6"):
        fusion(rows(1, n=4, width=5))
