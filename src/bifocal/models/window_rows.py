"""What was encoded of texts together with their windows, among which a head that is fitted later chooses.

Beside a column ``[n, d]`` stand ``windows [n]``, how many each text has, and ``window_<column> [k, d]``: every window
of the texts that have several, one text after another. Where no text has several, none of this is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..example import UNLABELLED
from .linear import FOLDS
from .saved_encoder import WindowedEncoder
from .windows import fit_offsets, is_highest, join_windows

if TYPE_CHECKING:
    from ..contracts import Encoder

COUNTS = "windows"
PREFIX = "window_"
Encoded = Mapping[str, Tensor]


def with_windows(rows: Encoded, windows: Encoded, counts: Sequence[int]) -> dict[str, Tensor]:
    """Columns of texts ``[n, d]``, and of their windows ``[m, d]``, in one mapping; logits can be made again."""
    sizes = torch.tensor(counts)
    several = sizes.repeat_interleave(sizes) > 1
    kept = {f"{PREFIX}{name}": tensor[several] for name, tensor in windows.items() if name != "logits"}
    return {**rows, COUNTS: sizes, **kept}


def take_rows(encoded: Encoded, rows: Sequence[int]) -> dict[str, Tensor]:
    """The same for some texts, in the order given."""
    taken = {name: tensor[list(rows)] for name, tensor in encoded.items() if not name.startswith(PREFIX)}
    if COUNTS in encoded:
        sizes = torch.where(encoded[COUNTS] > 1, encoded[COUNTS], 0)
        starts = sizes.cumsum(0) - sizes
        places = [p for row in rows for p in range(int(starts[row]), int(starts[row] + sizes[row]))]
        taken |= {name: tensor[places] for name, tensor in encoded.items() if name.startswith(PREFIX)}
    return taken


def put_rows(whole: dict[str, Tensor], found: Encoded, rows: Sequence[int], n: int) -> None:
    """Put what was encoded of some of n texts in its place; logits are left out. Rows come in ascending order."""
    for name in found.keys() - {"logits"}:
        if name.startswith(PREFIX):
            whole[name] = torch.cat([whole[name], found[name]]) if name in whole else found[name]
            continue
        if name not in whole:
            whole[name] = torch.ones(n, dtype=torch.int64) if name == COUNTS else torch.zeros(n, found[name].shape[1])
        whole[name][list(rows)] = found[name]


def each_window(encoded: Encoded) -> tuple[dict[str, Tensor], Tensor]:
    """Every window as a row ``[m, d]``, and the text ``[m]`` that each is of."""
    if COUNTS not in encoded:
        return dict(encoded), torch.arange(len(encoded["features"]))
    sizes = encoded[COUNTS]
    texts = torch.arange(len(sizes)).repeat_interleave(sizes)
    several = sizes[texts] > 1
    windows = {}
    for name in encoded:
        if f"{PREFIX}{name}" in encoded:
            windows[name] = encoded[name][texts]
            windows[name][several] = encoded[f"{PREFIX}{name}"]
    return windows, texts


def _as_read(encoder: Encoder, encoded: Encoded) -> Encoded:
    """What a head reads that does not choose among windows, where another label's does: the mean over them."""
    if COUNTS not in encoded or not isinstance(encoder, WindowedEncoder) or is_highest(encoder.classes):
        return encoded
    windows = {name: tensor.numpy() for name, tensor in each_window(encoded)[0].items()}
    joined = join_windows(windows, encoded[COUNTS].tolist(), highest=False)
    return {name: torch.from_numpy(column) for name, column in joined.items()}


def fit_head(encoder: Encoder, encoded: Encoded, labels: Tensor, groups: Sequence[str]) -> list[dict[str, float]]:
    """As `Encoder.fit_head`, on the first window of each text: which one bears out the label is not known yet.

    On posts joined from 1 to 8 texts, one of which might be abuse, a head fitted on all windows, or once more on those
    that held-out heads had chosen, was not better beyond chance: AUROC 0.689, 0.686 and 0.695 in windows of 128 tokens
    (3,000 posts to learn from, 1,000 judged), 0.584, 0.623 and 0.604 in short ones (600 and 200).
    """
    windows, texts = each_window(_as_read(encoder, encoded))
    first = _is_first(texts)
    return encoder.fit_head({name: tensor[first] for name, tensor in windows.items()}, labels, groups)


def _is_first(texts: Tensor) -> Tensor:
    """Whether a window is the first of its text."""
    return torch.cat([torch.ones(1, dtype=torch.bool), texts[1:] != texts[:-1]])


def by_head(encoder: Encoder, encoded: Encoded) -> dict[str, Tensor]:
    """``features [n, d]`` and ``logits [n, C]`` of texts: of the window that the head chooses, where there are any."""
    encoded = _as_read(encoder, encoded)
    windows, _ = each_window(encoded)
    return _joined(encoder, windows["features"], encoder.head_logits(windows), encoded)


def by_held_out_heads(
    encoder: Encoder, encoded: Encoded, labels: Tensor, groups: Sequence[str], *, folds: int, seed: int
) -> dict[str, Tensor]:
    """As `by_head`, each text judged and its window chosen by a head that saw neither it nor its group."""
    encoded = _as_read(encoder, encoded)
    windows, texts = each_window(encoded)
    taught = torch.where(_is_first(texts), labels[texts], UNLABELLED)  # heads learn from what `fit_head` learns from
    logits = encoder.cross_fit(windows, taught, [groups[i] for i in texts], folds=folds, seed=seed)
    return _joined(encoder, windows["features"], logits, encoded)


def learn_offsets(encoder: Encoder, encoded: Encoded, labels: Tensor, groups: Sequence[str], *, seed: int) -> None:
    """Have an encoder lower the highest of several windows by what it exceeds one by chance (`fit_offsets`).

    By held-out heads where the encoder is frozen and the texts are those that its head learned from; of others by the
    head itself, and of texts that it has not seen.
    """
    if not isinstance(encoder, WindowedEncoder) or COUNTS not in _as_read(encoder, encoded):
        return
    encoder.window_offsets = []
    if encoder.frozen:
        found = by_held_out_heads(encoder, encoded, labels, groups, folds=FOLDS, seed=seed)
    else:
        found = by_head(encoder, encoded)
    odds = found["logits"][:, 1] - found["logits"][:, 0]
    counts = encoded[COUNTS].numpy()
    encoder.window_offsets = fit_offsets(odds.numpy(), counts, labels.numpy(), encoder.most_windows)


def _joined(encoder: Encoder, features: Tensor, logits: Tensor, encoded: Encoded) -> dict[str, Tensor]:
    columns = {"features": features, "logits": logits}
    if COUNTS not in encoded:
        return columns
    arrays = {name: tensor.numpy() for name, tensor in columns.items()}
    offsets = encoder.window_offsets if isinstance(encoder, WindowedEncoder) else ()
    joined = join_windows(arrays, encoded[COUNTS].tolist(), highest=True, offsets=offsets)
    return {name: torch.from_numpy(array) for name, array in joined.items()}
