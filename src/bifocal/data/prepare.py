"""From manifest and transcripts to packed splits: compose, group, split, pack."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from ..config import RunConfig
from ..contracts import Modality, Source
from ..errors import DataError
from ..example import SPLITS, Example, Label, LabelValue, Taxonomy
from ..modalities import TEXT
from ..workspace import Workspace, read_json, write_json
from .class_checks import check_splits
from .compose import compose_manifest
from .dedup import duplicate_groups, picture_hash, rows_in_shared_groups, rows_with_near_duplicates
from .manifest import read_manifest
from .packing import pack
from .shards import INDEX
from .splits import assign_splits, leaking_rows
from .transcribers import active_transcribers, transcripts


def labelled(space: Workspace, source: Source, config: RunConfig) -> Iterator[Example]:
    """The examples that bear the label, their texts composed, streaming."""
    read = transcripts(space.folder, active_transcribers(config))
    for example in compose_manifest(space.manifest, read, source.role_of):
        if example.labels.get(config.label) is not None:
            yield example


def write_splits(
    space: Workspace, source: Source, taxonomy: Taxonomy, config: RunConfig, holdout: float | None = None
) -> dict[str, Any]:
    """Group near-duplicates, assign splits, count (and on request drop) what leaks; writes splits and groups.

    Where a label's class is whether a number lies above train's median, that is known from here on: the splits are
    balanced by the median of all rows, and the taxonomy is written again with train's.

    Parameters
    ----------
    holdout : float, optional
        Share of train that will be kept aside for the fusion. None = to see whether each split shows enough of each
        class is left to later steps.

    Returns
    -------
    dict
        ``rows`` per split and ``by_class``, ``unread`` (left out: no part that the run reads), ``groups``,
        ``rows_in_shared_groups`` (the source's own groups included), ``near_duplicates`` (rows that have one),
        ``leakage``, ``medians``, ``untested`` (of several sources: name -> rows, all train, though others have splits),
        ``few`` (what a split has too little of, in sentences).

    Raises
    ------
    DataError
        Where no row bears the label, or rows that will be learned from or tuned on are all of one class.
    """
    ids: list[str] = []
    texts: list[str] = []
    hashes: list[str | None] = []
    own: list[str | None] = []
    official: list[str | None] = []
    values: list[LabelValue] = []
    sources: list[str | None] = []
    brought: list[list[str]] = []
    unread = 0
    for example in labelled(space, source, config):
        parts = [name for name in config.parts if name in example.parts]
        if not parts:
            unread += 1
            continue
        brought.append(parts)
        ids.append(example.id)
        texts.append(example.parts.get(TEXT, ""))
        hashes.append(picture_hash(example))
        own.append(example.group)
        official.append(example.split)
        values.append(example.labels[config.label])
        sources.append(example.meta.get("source"))
    if not ids:
        raise DataError(
            f"no row of the source bears both a {config.label} label and one of {', '.join(config.parts)}: "
            "set another `label` or `modalities`, or name a labelled source"
        )
    groups = duplicate_groups(ids, texts, hashes, own)
    shares = config.splits
    classes = _classes(values, taxonomy[config.label])
    splits = assign_splits(ids, groups, classes, official, val=shares.val, test=shares.test, seed=config.seed)
    leaking = leaking_rows(groups, [splits[i] for i in ids])
    leaks = Counter(splits[i] for i, leak in zip(ids, leaking, strict=True) if leak)
    if config.leakage == "drop":
        splits = {i: splits[i] for i, leak in zip(ids, leaking, strict=True) if not leak}
    medians = train_medians(space, taxonomy, splits)
    final = taxonomy.with_medians(medians)
    kinds = [str(final[config.label].class_of(value)) for value in values]
    rows = [
        (splits[i], kind, parts, group)
        for i, kind, parts, group in zip(ids, kinds, brought, groups, strict=True)
        if i in splits
    ]
    few: list[str] = []
    if holdout is not None:
        few = check_splits((row[:3] for row in rows), [row[3] for row in rows], config.label, holdout, config.seed)
    write_json(space.splits, splits)
    write_json(space.groups, dict(zip(ids, groups, strict=True)))
    write_json(space.taxonomy, final.to_json())
    counts = Counter(splits.values())
    return {
        "rows": {split: counts[split] for split in SPLITS if counts[split]},
        "by_class": _class_counts(values, ids, splits, final[config.label]),
        "unread": unread,
        "groups": len(set(groups)),
        "rows_in_shared_groups": rows_in_shared_groups(groups),
        "near_duplicates": rows_with_near_duplicates(ids, texts, hashes, own, groups),
        "leakage": {"action": config.leakage, "rows": dict(leaks)},
        "medians": medians,
        "few": few,
        "untested": _untested(sources, [splits.get(i) for i in ids]),
    }


def _untested(sources: Sequence[str | None], splits: Sequence[str | None]) -> dict[str, int]:
    """Sources whose rows are all train, since another source's official splits stand for val and test."""
    found: dict[str | None, Counter[str | None]] = defaultdict(Counter)
    for source, split in zip(sources, splits, strict=True):
        found[source][split] += 1
    tested = any(set(counts) - {"train", None} for counts in found.values())
    return {str(name): n["train"] for name, n in found.items() if tested and name and not set(n) - {"train", None}}


def _classes(values: Sequence[LabelValue], label: Label) -> list[int]:
    """Class index of each row; by the median of them all where train's is not known yet."""
    if label.above == "median":
        label = replace(label, above=median(value for value in values if isinstance(value, int | float)))
    return [label.index(label.class_of(value)) for value in values]


def _class_counts(
    values: Sequence[LabelValue], ids: Sequence[str], splits: Mapping[str, str], label: Label
) -> dict[str, int]:
    counts = Counter(label.class_of(value) for value, i in zip(values, ids, strict=True) if i in splits)
    return {str(value): counts[value] for value in label.classes}


def train_medians(space: Workspace, taxonomy: Taxonomy, splits: Mapping[str, str]) -> dict[str, float]:
    """Label name -> median over the train rows, for every label that asks for it."""
    asked = [name for name, label in taxonomy.labels.items() if label.above == "median"]
    found: dict[str, list[float]] = {name: [] for name in asked}
    for example in read_manifest(space.manifest) if asked else ():
        if splits.get(example.id) == "train":
            for name in asked:
                if isinstance(value := example.labels[name], int | float):
                    found[name].append(value)
    return {name: median(numbers) for name, numbers in found.items() if numbers}


def write_shards(
    space: Workspace,
    source: Source,
    modalities: Mapping[str, Modality],
    taxonomy: Taxonomy,
    config: RunConfig,
    progress: Callable[[int, int | None], None],
) -> dict[str, Any]:
    """Pack every assigned example; gives the counts per split and the SHA-256 of every shard."""
    splits = read_json(space.splits)
    groups = read_json(space.groups)

    def assigned() -> Iterator[Example]:
        for example in labelled(space, source, config):
            if example.id in splits:
                labels = taxonomy.classes_of(example.labels)
                yield replace(example, labels=labels, split=splits[example.id], group=groups[example.id])

    rows = pack(
        assigned(),
        source,
        modalities,
        folder=space.shards,
        taxonomy=taxonomy,
        shard_size=config.shard_size,
        progress=lambda done: progress(done, len(splits)),
    )
    hashes = {
        f"shards/{split}/{entry['name']}": entry["sha256"]
        for split in rows
        for entry in read_json(space.shards(split) / INDEX)["shards"]
    }
    return {"rows": rows, "sha256": hashes}
