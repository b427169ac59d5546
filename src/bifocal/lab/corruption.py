"""Inputs of a packed split disturbed and encoded again, beside the Evidence that was made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..diagnose.ablation import ROWS, SEVERITIES, Corrupted, Corrupting, Corruption, corrupt_inputs
from ..diagnose.scored_rows import Score
from ..errors import DataError
from ..evaluate.compare import Resampling
from ..example import UNLABELLED, Evidence
from ..models.window_rows import by_held_out_heads, take_rows

if TYPE_CHECKING:
    from ..contracts import Encoder, Modality
    from ..data.shards import Split, Values

Progress = Callable[[int, int | None], None]
STEPS = (1, 3, 5)
"""Severities at which training inputs are disturbed: a fusion is fitted for each."""


@dataclass(frozen=True, slots=True)
class PackedInputs:
    """What encoders read again.

    Attributes
    ----------
    encoders, modalities : mapping
        Modality -> the encoder that gave the Evidence, and how its values are unpacked and corrupted.
    splits : mapping
        The packed train, val and test, as they were encoded, with all their rows.
    """

    encoders: Mapping[str, Encoder]
    modalities: Mapping[str, Modality]
    splits: Mapping[str, Split]


def values_of(split: Split, name: str, part: Evidence) -> Values:
    """The values of one modality in the rows of its Evidence, read from the shards as they are asked for.

    Raises `DataError` where the split lacks a row.
    """
    places = {row: place for place, row in enumerate(split.ids)}
    if unknown := [row for row in part.ids if row not in places]:
        raise DataError(
            f"{len(unknown)} of {len(part)} rows of the Evidence of {name} are not in the packed split, {unknown[0]!r} "
            "for one: pass the split that was encoded"
        )
    return split.take(places[row] for row in part.ids).values(name)


def corrupt_parts(
    fusion: Score,
    inputs: PackedInputs,
    test: Mapping[str, Evidence],
    resampling: Resampling,
    *,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> dict[str, Corruption | None]:
    """What a fusion loses when the inputs of one modality are corrupted and encoded again; see `corrupt_inputs`.

    Parameters
    ----------
    test : mapping
        Modality -> Evidence of the rows that are judged.
    rows : int
        At most so many per modality: its encoder runs once per kind and severity.
    progress : callable, optional
        Takes the passes done and their number.

    Returns
    -------
    dict
        Modality -> what was found; None where the rows that have the part bear fewer than two classes.

    Raises
    ------
    DataError
        Where the split lacks a row, or encoding again does not give the Evidence.
    """
    found: dict[str, Corruption | None] = dict.fromkeys(inputs.modalities)
    judged = {name: m for name, m in inputs.modalities.items() if m.corruptions and _tells(test[name])}
    passes = _Counted(sum(1 + len(m.corruptions) * len(SEVERITIES) for m in judged.values()), progress)
    for name, modality in judged.items():
        encode = passes.of(inputs.encoders[name])
        corrupting = Corrupting(modality.corrupt, modality.corruptions, encode, rows=rows)
        values = values_of(inputs.splits["test"], name, test[name])
        found[name] = corrupt_inputs(fusion, test, name, values, corrupting, resampling)
    return found


class _Counted:
    """Counts passes of encoders."""

    def __init__(self, total: int, progress: Progress | None):
        self.done, self.total, self.progress = 0, total, progress

    def of(self, encoder: Encoder) -> Callable[[Sequence[Any]], dict[str, Tensor]]:
        def encode(values: Sequence[Any]) -> dict[str, Tensor]:
            encoded = encoder.encode(values)
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)
            return encoded

        return encode


def _tells(part: Evidence) -> bool:
    """Whether the annotated rows with this part bear two classes."""
    return len(part.labels[part.present & (part.labels != UNLABELLED)].unique()) > 1


# ------------------------------------------------------------------ in training


@dataclass(frozen=True, slots=True)
class Truncation:
    """How training inputs are cut: by a corruption of their modality at each severity.

    Of at most so many rows, drawn by the seed; in ``folds`` logits are cross-fitted.
    """

    kind: str
    severities: Sequence[int] = STEPS
    rows: int = ROWS
    folds: int = 5
    seed: int = 0


def truncated_levels(
    encoder: Encoder, modality: Modality, values: Sequence[Any], train: Evidence, truncation: Truncation
) -> dict[float, Evidence]:
    """Evidence of rows whose values were disturbed by one of their modality's corruptions, encoded again.

    As in `evidence_of`: on rows that a frozen encoder's head learned from, logits are cross-fitted, here on what was
    encoded of the disturbed values; elsewhere they are the expert's own.

    Parameters
    ----------
    values : sequence
        One per row of ``train``, read one by one and only where they are needed.
    train : Evidence
        Of annotated rows, of any split.

    Returns
    -------
    dict
        Severity -> Evidence; 0, the reference, is of the values as they are. All are of the same rows.

    Raises
    ------
    ConfigError
        Where the modality does not know the kind or a severity.
    """
    how, seed = truncation, truncation.seed
    chosen = sorted(np.random.default_rng(seed).permutation(len(train))[: how.rows].tolist())
    part = train.take(chosen)
    there = part.present.nonzero().flatten().tolist()
    levels = {}
    for severity in (0, *how.severities):
        read = Corrupted(values, [chosen[i] for i in there], modality.corrupt, how.kind, severity, seed)
        encoded = encoder.encode(read)
        features, logits = torch.zeros_like(part.features), torch.zeros_like(part.logits)
        features[there], logits[there] = encoded["features"], encoded["logits"]
        learned = [place for place, i in enumerate(there) if part.ids[i] in encoder.learned_from]
        if encoder.frozen and learned:
            own = [there[place] for place in learned]
            some = take_rows({name: tensor for name, tensor in encoded.items() if name != "logits"}, learned)
            groups = [part.groups[i] for i in own]
            held_out = by_held_out_heads(encoder, some, part.labels[own], groups, folds=how.folds, seed=seed)
            features[own], logits[own] = held_out["features"], held_out["logits"]
        levels[float(severity)] = replace(part, features=features, logits=logits)
    return levels
