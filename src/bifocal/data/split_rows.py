"""The rows of a run that are to be split, and the splits that its configuration asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import RunConfig
from ..contracts import PromisesSplits, Source
from ..example import UNLABELLED, Example, LabelValue, Taxonomy
from ..modalities import TEXT
from ..workspace import Workspace, atomic, file_sha256, read_jsonl, write_json
from .compose import compose_manifest, with_composed
from .dedup import duplicate_groups, picture_hash
from .earlier_splits import EarlierRun, NewRows, SplitRule, TakenOver, take_over
from .manifest import read_manifest
from .splits import assign_splits, splits_beside_official
from .stable_splits import carve_by_hash, carve_by_time, content_hash, times_of
from .transcribers import active_transcribers, transcripts


def labelled(space: Workspace, source: Source, config: RunConfig, *, keep: bool = False) -> Iterator[Example]:
    """The examples that bear one of the run's labels at least, their texts composed, streaming.

    To clean a text and tell its language costs more than all else that is done to it here: with ``keep`` what was
    composed is written beside the manifest, and without, what was kept of this very manifest is taken.
    """
    read, names = transcripts(space.folder, active_transcribers(config)), config.label_names
    key = {path.name: file_sha256(path) for path in (space.manifest, *read.values())}
    rows = None if keep else _kept(space, key)
    if rows is None:
        rows = compose_manifest(space.manifest, read, source.role_of)
    for example in _keeping(rows, space, key) if keep else rows:
        if any(example.labels.get(name) is not None for name in names):
            yield example


def _keeping(rows: Iterator[Example], space: Workspace, key: dict[str, str]) -> Iterator[Example]:
    with atomic(space.composed) as file:
        file.write(json.dumps(key) + "\n")
        for row in rows:
            file.write(json.dumps([row.parts.get(TEXT), row.meta["language"], row.meta.get("cut", False)]) + "\n")
            yield row


def _kept(space: Workspace, key: dict[str, str]) -> Iterator[Example] | None:
    """The manifest's examples as they were composed; None where that was not kept, or of other files."""
    if not space.composed.is_file():
        return None
    rows: Iterator[Any] = read_jsonl(space.composed)
    if next(rows, None) != key:
        return None
    return (with_composed(row, *kept) for row, kept in zip(read_manifest(space.manifest), rows, strict=True))


@dataclass
class SplitRows:
    """Labelled rows that bring a part that the run reads, column by column.

    Attributes
    ----------
    texts, hashes, own : lists, [n]
        What near-duplicates are found by: composed texts, PDQ hashes, the source's groups.
    official, promised : lists, [n]
        The split that the source has for each row, and that which its configuration says it has.
    brought : list, [n]
        The parts of each row that the run reads.
    contents : list of str, [n]
        Content hashes (`stable_splits.content_hash`).
    times : list, [n]
        What stands in the column ``splits.time``; None without one.
    samples : list, [n]
        How a row came to be judged, where it did (`sources.feedback`).
    unread : int
        Rows left out, as they bring no such part.
    """

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    hashes: list[str | None] = field(default_factory=list)
    own: list[str | None] = field(default_factory=list)
    official: list[str | None] = field(default_factory=list)
    promised: list[str | None] = field(default_factory=list)
    labels: list[dict[str, LabelValue]] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    brought: list[list[str]] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    times: list[object] = field(default_factory=list)
    samples: list[str | None] = field(default_factory=list)
    unread: int = 0

    def groups(self, rows: Sequence[int] | None = None) -> list[str]:
        """The group of near-duplicates of each row, or of some rows among themselves."""
        some = range(len(self.ids)) if rows is None else rows
        columns = (self.ids, self.texts, self.hashes, self.own)
        return duplicate_groups(*([column[i] for i in some] for column in columns))  # type: ignore[arg-type]


def read_rows(space: Workspace, source: Source, config: RunConfig) -> SplitRows:
    """The labelled rows of a manifest."""
    rows = SplitRows()
    promising = source if isinstance(source, PromisesSplits) else None
    for example in labelled(space, source, config, keep=True):
        parts = [name for name in config.parts if name in example.parts]
        if not parts:
            rows.unread += 1
            continue
        rows.brought.append(parts)
        rows.ids.append(example.id)
        rows.texts.append(example.parts.get(TEXT, ""))
        rows.hashes.append(picture_hash(example))
        rows.own.append(example.group)
        rows.official.append(example.split)
        rows.promised.append(promising.promised_split(example) if promising else None)
        rows.labels.append({name: example.labels.get(name) for name in config.label_names})
        rows.sources.append(example.meta.get("source"))
        rows.contents.append(content_hash(example))
        rows.times.append(_time(example, config.splits.time))
        rows.samples.append(example.meta.get("sample"))
    return rows


def _time(example: Example, column: str | None) -> object:
    if column is None:
        return None
    records = [part for part in example.parts.values() if isinstance(part, Mapping)]
    return example.meta.get(column, next((record[column] for record in records if column in record), None))


@dataclass
class DrawnSplits:
    """What became of the rows.

    Attributes
    ----------
    splits : dict
        Id -> split, of every row that has one.
    groups : list of str, [n]
        The group of each row; of rows that an earlier run's splits leave no place, as it was with them.
    rule : SplitRule
    taken : TakenOver or None
        Where the splits are those of an earlier run.
    untimed : int
        Rows without a time, by time.
    """

    splits: dict[str, str]
    groups: list[str]
    rule: SplitRule
    taken: TakenOver | None = None
    untimed: int = 0

    @property
    def kept(self) -> set[str]:
        """Rows that have their split from an earlier run, and keep it whatever comes."""
        return self.taken.old if self.taken else set()

    def counts(self) -> dict[str, object]:
        """For ``run.json``; nothing for splits drawn by the seed."""
        if self.taken is None and self.rule.by == "shuffle":
            return {}
        found: dict[str, object] = {"rule": asdict(self.rule)}
        if self.taken is not None:
            found["from"] = self.taken.counts
        if self.untimed:
            found["untimed"] = self.untimed
        return found


def draw_splits(
    rows: SplitRows, groups: list[str], classes: Sequence[int], taxonomy: Taxonomy, config: RunConfig
) -> DrawnSplits:
    """Splits as ``splits`` of the configuration asks for them; ``classes [n]`` are those of the run's first label.

    Raises
    ------
    DataError
        Where no row is left for train, a split by hash or time lacks a class, a time cannot be read, or no row is one
        of the run whose splits are to be taken over.
    """
    asked = config.splits
    if asked.from_run is not None:
        return _from_run(rows, groups, asked.from_run, asked.recent)
    rule = SplitRule.of(config, rows.official)
    shares = {"val": asked.val, "test": asked.test}
    promised = [split is not None for split in rows.promised]
    if asked.by == "shuffle":
        splits = assign_splits(rows.ids, groups, classes, rows.official, **shares, seed=config.seed, promised=promised)
        return DrawnSplits(splits, groups, rule)
    names = taxonomy[config.label].classes
    kinds = [None if i == UNLABELLED else str(names[i]) for i in classes]
    untimed = 0
    if asked.by == "hash":
        carve = carve_by_hash(groups, rows.contents, kinds, rule.key)
    else:
        times = times_of(rows.ids, rows.times, str(asked.time))
        untimed = times.count(None)
        carve = carve_by_time(groups, rows.contents, kinds, times, str(asked.time))
    drawn = splits_beside_official(groups, rows.official, promised, shares, carve)
    return DrawnSplits(dict(zip(rows.ids, drawn, strict=True)), groups, rule, untimed=untimed)


def _from_run(rows: SplitRows, groups: list[str], folder: str, recent: float) -> DrawnSplits:
    earlier = EarlierRun.of(folder)
    columns = NewRows(
        rows.ids, rows.contents, groups, rows.official, rows.promised, rows.sources, rows.labels, rows.samples
    )
    taken = take_over(columns, earlier, recent)
    there = [number for number, name in enumerate(rows.ids) if name in taken.splits]
    if len(there) < len(rows.ids):  # whom a row left out had joined are apart again
        groups = list(groups)
        for number, group in zip(there, rows.groups(there), strict=True):
            groups[number] = group
    return DrawnSplits(taken.splits, groups, earlier.rule, taken)


def write_record(space: Workspace, rows: SplitRows, drawn: DrawnSplits, splits: Mapping[str, str]) -> None:
    """Write what a later run needs to take over the splits, and what became of rows of the earlier one."""
    every = dict(zip(rows.ids, rows.contents, strict=True))
    contents = {name: one for name, one in every.items() if name in splits}
    recent = {name: every[name] for name in drawn.taken.recent} if drawn.taken else {}
    kept_aside = {"recent": recent} if recent else {}
    write_json(space.split_record, {"rule": asdict(drawn.rule), "contents": contents, **kept_aside})
    if drawn.taken is not None:
        with atomic(space.split_changes) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn.taken.changes)
