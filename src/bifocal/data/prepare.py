"""From manifest and transcripts to packed splits: compose, group, split, pack."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple, TypedDict

from ..config import RunConfig
from ..contracts import Modality, Source
from ..errors import DataError
from ..example import SPLITS, UNLABELLED, Example, Label, LabelValue, Taxonomy
from ..scale.local import LocalPool
from ..workspace import Workspace, read_json, write_json
from .class_checks import NO_TEST, REMEDY, SplitRow, asked_of, check_splits, remedy_of, rows_aside
from .dedup import rows_in_shared_groups, rows_with_near_duplicates
from .label_relations import contradictions_of, gaps_of, pairs_of
from .manifest import read_manifest
from .packing import pack
from .shards import INDEX
from .split_rows import draw_splits, labelled, read_rows, write_record
from .splits import leaking_rows


def taxonomy_of_run(taxonomy: Taxonomy, config: RunConfig) -> Taxonomy:
    """The same with what the run's labels require of each other."""
    asked = {name: config.of_run(name, taxonomy[name]) for name in config.labels}
    return Taxonomy({**taxonomy.labels, **asked})


def write_splits(
    space: Workspace, source: Source, taxonomy: Taxonomy, config: RunConfig, holdout: float | None = None
) -> dict[str, Any]:
    """Group near-duplicates, assign splits, count (and on request drop) what leaks; writes splits and groups.

    Of several labels splits are balanced by the first, rows without it being a class of their own. Where a label's
    class is whether a number lies above train's median, that is known from here on: the splits are balanced by the
    median of all rows, and the taxonomy is written again with train's.

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
        ``few`` (what a split has too little of, in sentences). Of several labels ``by_class`` and ``few`` are of the
        first; there are ``labels`` (name -> ``rows``, ``by_class``, ``few``) for the others, ``pairs``,
        ``contradictions`` and ``gaps`` (`label_relations`).

    Raises
    ------
    DataError
        Where no row bears a label, or rows that will be learned from or tuned on are all of one class.
    """
    taxonomy = taxonomy_of_run(taxonomy, config)
    rows = read_rows(space, source, config)
    ids = rows.ids
    _check_borne(rows.labels, config)
    groups = rows.groups()
    near_duplicates = rows_with_near_duplicates(ids, rows.texts, rows.hashes, rows.own, groups)
    first_label = taxonomy.with_medians(_medians(rows.labels, taxonomy))
    drawn = draw_splits(rows, groups, _indices(rows.labels, config.label, first_label), first_label, config)
    splits, groups = drawn.splits, drawn.groups
    there = [n for n, i in enumerate(ids) if i in splits]
    leaking = leaking_rows([groups[n] for n in there], [splits[ids[n]] for n in there])
    leaks = {ids[n]: splits[ids[n]] for n, leak in zip(there, leaking, strict=True) if leak}
    if config.leakage == "drop":
        splits = {i: split for i, split in splits.items() if i not in leaks or i in drawn.kept}
    medians = train_medians(space, taxonomy, splits)
    final = taxonomy.with_medians(medians)
    kept = [n for n, i in enumerate(ids) if i in splits]
    assigned = _Assigned(
        [splits[ids[n]] for n in kept],
        [groups[n] for n in kept],
        [rows.brought[n] for n in kept],
        [rows.labels[n] for n in kept],
    )
    first, *further = _counts_of_labels(assigned, final, config, holdout).values()
    write_json(space.splits, splits)
    write_json(space.groups, dict(zip(ids, groups, strict=True)))
    write_record(space, rows, drawn, splits)
    write_json(space.taxonomy, final.to_json())
    counts = Counter(splits.values())
    return {
        "rows": {split: counts[split] for split in SPLITS if counts[split]},
        "by_class": first["by_class"],
        "unread": rows.unread,
        "groups": len(set(groups)),
        "rows_in_shared_groups": rows_in_shared_groups(groups),
        "near_duplicates": near_duplicates,
        "leakage": {"action": config.leakage, "rows": dict(Counter(leaks.values()))},
        "medians": medians,
        "few": first["few"],
        "untested": _untested(rows.sources, [splits.get(i) for i in ids]),
        **drawn.counts(),
        **(_relations(assigned, final, config, further) if further else {}),
    }


class _Assigned(NamedTuple):
    """The rows that have a split, column by column."""

    splits: list[str]
    groups: list[str]
    parts: list[list[str]]
    labels: list[dict[str, LabelValue]]


class LabelCounts(TypedDict):
    """What the splits hold of one label."""

    rows: dict[str, int]
    """Split -> rows that bear it."""
    by_class: dict[str, int]
    few: list[str]


def _check_borne(labels: Sequence[Mapping[str, LabelValue]], config: RunConfig) -> None:
    for name in config.label_names:
        if all(row[name] is None for row in labels):
            instead = "leave it out of `labels`, set other" if config.labels else "set another `label` or"
            raise DataError(
                f"no row of the source bears both a {name} label and one of {', '.join(config.parts)}: "
                f"{instead} `modalities`, or name a labelled source"
            )


def _counts_of_labels(
    rows: _Assigned, taxonomy: Taxonomy, config: RunConfig, holdout: float | None
) -> dict[str, LabelCounts]:
    """Of each label, which must show two classes wherever it is learned from or tuned on. Raises `DataError`."""
    found: dict[str, LabelCounts] = {}
    aside: list[bool] = []
    for name in config.label_names:
        label = taxonomy[name]
        index = _indices(rows.labels, name, taxonomy)
        kinds = [None if i == UNLABELLED else str(label.classes[i]) for i in index]
        seen = [SplitRow(*row) for row in zip(rows.splits, kinds, rows.parts, strict=True)]
        if holdout and name == config.label:
            aside = rows_aside(seen, rows.groups, holdout, config.seed)
        counts, there = Counter(kinds), Counter(row.split for row in seen if row.kind is not None)
        found[name] = {
            "rows": {split: there[split] for split in SPLITS if there[split]},
            "by_class": {str(value): counts[str(value)] for value in label.classes},
            "few": [] if holdout is None else check_splits(seen, aside, *_named(name, label, seen, config)),
        }
    if holdout is not None and "test" not in rows.splits:
        found[config.label]["few"].append(NO_TEST)
    return found


def _named(name: str, label: Label, rows: Sequence[SplitRow], config: RunConfig) -> tuple[str, str]:
    """How messages call a label, and what they say can be done about it."""
    if len(config.label_names) == 1:
        return name, REMEDY
    found: dict[str, Counter[str]] = {}
    for row in rows:
        if row.kind is not None:
            found.setdefault(row.split, Counter())[row.kind] += 1
    return asked_of(name, label.requires), remedy_of(found, asked_of(name, label.requires))


def _relations(
    rows: _Assigned, taxonomy: Taxonomy, config: RunConfig, further: Sequence[LabelCounts]
) -> dict[str, object]:
    names = config.label_names
    classes = [taxonomy.classes_of(row) for row in rows.labels]
    return {
        "labels": dict(zip(names[1:], further, strict=True)),
        "pairs": pairs_of(classes, names, taxonomy),
        "contradictions": contradictions_of(classes, names, taxonomy),
        "gaps": gaps_of(classes, rows.groups, names, taxonomy),
    }


def _untested(sources: Sequence[str | None], splits: Sequence[str | None]) -> dict[str, int]:
    """Sources whose rows are all train, since another source's official splits stand for val and test."""
    found: dict[str | None, Counter[str | None]] = defaultdict(Counter)
    for source, split in zip(sources, splits, strict=True):
        found[source][split] += 1
    tested = any(set(counts) - {"train", None} for counts in found.values())
    return {str(name): n["train"] for name, n in found.items() if tested and name and not set(n) - {"train", None}}


def _indices(labels: Iterable[Mapping[str, LabelValue]], name: str, taxonomy: Taxonomy) -> list[int]:
    """Class index of each row by one of its labels."""
    return [taxonomy[name].of_row(name, taxonomy.classes_of(row)) for row in labels]


def train_medians(space: Workspace, taxonomy: Taxonomy, splits: Mapping[str, str]) -> dict[str, float]:
    """Label name -> median over the train rows, for every label that asks for it."""
    if all(label.above != "median" for label in taxonomy.labels.values()):
        return {}
    train = (example.labels for example in read_manifest(space.manifest) if splits.get(example.id) == "train")
    return _medians(train, taxonomy)


def _medians(labels: Iterable[Mapping[str, LabelValue]], taxonomy: Taxonomy) -> dict[str, float]:
    asked = [name for name, label in taxonomy.labels.items() if label.above == "median"]
    found: dict[str, list[float]] = {name: [] for name in asked}
    for row in labels:
        for name in asked:
            if isinstance(value := row.get(name), int | float):
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
        pool=LocalPool(),
        progress=lambda done: progress(done, len(splits)),
    )
    hashes = {
        f"shards/{split}/{entry['name']}": entry["sha256"]
        for split in rows
        for entry in read_json(space.shards(split) / INDEX)["shards"]
    }
    space.composed.unlink(missing_ok=True)
    return {"rows": rows, "sha256": hashes}
