"""Splits taken over from an earlier run: its rows keep theirs, and no new row comes near those that judge."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypedDict

from ..config import RunConfig, recorded_config
from ..errors import DataError, RunError
from ..example import SPLITS, LabelValue
from ..sources import build_source
from ..sources.feedback import AUDITED
from ..workspace import Workspace, read_json
from .compose import compose_manifest
from .dedup import joined_groups
from .manifest import read_manifest
from .splits import carved_shares
from .stable_splits import content_hash, keyed_share, least_contents, split_of_share
from .transcribers import active_transcribers, transcripts

JUDGING = ("val", "test")


@dataclass(frozen=True)
class SplitRule:
    """How a run's rows without an official split got theirs, as ``split_record.json`` has it."""

    by: Literal["shuffle", "hash", "time"]
    key: str
    """Of ``hash``; of others what a later run hashes by, where it has to."""
    shares: dict[str, float]
    """Of the splits that were carved."""

    @classmethod
    def of(cls, config: RunConfig, official: Sequence[str | None]) -> SplitRule:
        """The rule of a run that takes over none."""
        asked = config.splits
        shares = carved_shares(official, {"val": asked.val, "test": asked.test})
        return cls(asked.by, key_of(config), shares)


def key_of(config: RunConfig) -> str:
    """The key of splits by hash."""
    return config.splits.key or str(config.seed)


class ChangedRow(TypedDict):
    """A line of ``split_changes.jsonl``."""

    id: str
    what: Literal["left out", "recent", "gone", "relabelled"]
    """``recent``: kept aside to judge by."""
    split: str | None
    """That it has, or had; None of one left out or kept aside."""
    why: str
    near: list[str]
    """Old rows that are why it is left out, one of each split."""


class EarlierCounts(TypedDict):
    """What taking over the splits of a run came to."""

    run: str
    matched: dict[str, int]
    """By ``content``, or by ``id`` where the content has changed."""
    new: dict[str, int]
    """Split -> rows that the earlier run did not have."""
    left_out: dict[str, int]
    """Why -> rows."""
    recent: int
    """Audited rows that are kept aside to judge by."""
    gone: dict[str, int]
    """Split -> rows that are no more."""
    relabelled: dict[str, int]


@dataclass(frozen=True)
class EarlierRun:
    """What a run has to know of another to take over its splits.

    Attributes
    ----------
    splits : dict
        Id -> split, of every row that had one.
    contents : dict
        Id -> content hash of the same.
    labels : dict
        Id -> labels as its source gave them.
    recent : set of str
        Content hashes of the audited rows that it kept aside.
    """

    name: str
    rule: SplitRule
    splits: dict[str, str]
    contents: dict[str, str]
    labels: dict[str, dict[str, LabelValue]]
    recent: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: str | Path) -> EarlierRun:
        """Read off a run's folder; of a run from before contents were noted, worked out from its manifest.

        Raises
        ------
        RunError
            Where it is no run, or one whose splits were not drawn yet.
        """
        space = Workspace.of(folder)
        splits = read_json(space.splits)
        if space.split_record.is_file():
            rule, contents, recent = _recorded(space)
        else:
            config = recorded_config(read_json(space.record)["config"], where=str(space.record))
            rule = SplitRule("shuffle", key_of(config), {"val": config.splits.val, "test": config.splits.test})
            contents, recent = _contents(space, config), frozenset()
        labels = {row.id: row.labels for row in read_manifest(space.manifest) if row.id in splits}
        if lacking := next((name for name in splits if name not in contents or name not in labels), None):
            raise RunError(
                f"{space.folder} has row {lacking!r} in splits.json alone: run it again, or name another run"
            )
        return cls(space.run, rule, splits, {name: contents[name] for name in splits}, labels, recent)


def _recorded(space: Workspace) -> tuple[SplitRule, dict[str, str], frozenset[str]]:
    record = read_json(space.split_record)
    try:
        return SplitRule(**record["rule"]), record["contents"], frozenset(record.get("recent", {}).values())
    except (KeyError, TypeError):
        raise RunError(f"{space.split_record} is not as a run writes it: run it again, or name another run") from None


def _contents(space: Workspace, config: RunConfig) -> dict[str, str]:
    """Id -> content hash, of every row of a manifest; what would need code from outside, a folder may not name."""
    members = config.source.options.get("sources", [])
    kinds = [config.source.kind, *(one.get("kind") for one in members if isinstance(one, dict)), *config.transcribe]
    if outside := [kind for kind in kinds if ":" in str(kind)]:
        raise RunError(
            f"{space.folder} is from before contents were noted, and reads by {outside[0]}, which is no part of "
            "Bifocal: run it again with `bifocal run`, then take over its splits"
        )
    read = transcripts(space.folder, active_transcribers(config))
    return {
        row.id: content_hash(row) for row in compose_manifest(space.manifest, read, build_source(config.source).role_of)
    }


@dataclass
class NewRows:
    """The rows of a run that takes over splits, column by column.

    ``official`` are the splits of their source, ``promised`` those of its configuration, and ``samples`` say how a row
    came to be judged.
    """

    ids: Sequence[str]
    contents: Sequence[str]
    groups: Sequence[str]
    official: Sequence[str | None]
    promised: Sequence[str | None]
    sources: Sequence[str | None]
    labels: Sequence[Mapping[str, LabelValue]]
    samples: Sequence[str | None]


@dataclass
class TakenOver:
    """The splits of the rows that have one, and what became of the others.

    ``old`` are the rows that the earlier run had, and ``recent`` those that are kept aside to judge by.
    """

    splits: dict[str, str]
    old: set[str]
    recent: list[str]
    changes: list[ChangedRow]
    counts: EarlierCounts = field(init=False)


def take_over(rows: NewRows, earlier: EarlierRun, recent: float = 0) -> TakenOver:
    """Give each row that an earlier run had its split of then, and each new one a split that harms none of those.

    A new row that shares a group with an old row of val or test is left out: it would give away what judges, or be
    judged as what was learned. One that is official val or test is left out beside old train rows, too. Other new rows
    have their source's split, or follow old train rows of their group, or go by the earlier run's hash, or are train.
    A row that is an old one by its id alone, its content being another, is checked like a new one of that split.

    ``recent`` is the share of what was audited since, whole groups without an old row by the keyed hash, that is kept
    aside; so is what the earlier run kept aside. Other new rows of such a group are left out.

    Raises
    ------
    DataError
        Where none of the rows was in the earlier run, or none is train.
    """
    found = _matches(rows, earlier)
    # Equal posts are one group here, those of too few words to be compared, too.
    rows = replace(rows, groups=joined_groups(rows.groups, rows.contents))
    splits, beside, changes = _place_old(rows, found, earlier)
    if not splits:
        raise DataError(
            f"no row is one of {earlier.name}, neither by its content nor by its id: splits.from takes an earlier run "
            "on the same posts"
        )
    old_ids = {name for name, old in zip(rows.ids, found, strict=True) if old is not None}
    aside = _recent_groups(rows, beside, earlier, recent)
    changes += _place_new(rows, old_ids, beside, earlier, splits, aside)
    if "train" not in splits.values():
        raise DataError(f"none of the rows of {earlier.name} that are still there is train: name another run")
    kept_aside = [row["id"] for row in changes if row["what"] == "recent"]
    taken = TakenOver({name: splits[name] for name in rows.ids if name in splits}, old_ids, kept_aside, changes)
    taken.changes += _gone_and_relabelled(rows, found, earlier)
    taken.counts = _counts(rows, found, earlier, taken)
    return taken


def _place_old(
    rows: NewRows, found: Sequence[str | None], earlier: EarlierRun
) -> tuple[dict[str, str], dict[str, dict[str, str]], list[ChangedRow]]:
    """The splits of the rows that the earlier run had; group -> split -> one of them; and those that are left out."""
    changes: list[ChangedRow] = []
    splits: dict[str, str] = {}
    beside: dict[str, dict[str, str]] = defaultdict(dict)
    known = [(n, old, earlier.contents[old] != rows.contents[n]) for n, old in enumerate(found) if old is not None]
    # Those whose content has changed last, and of these first what judges.
    known.sort(key=lambda row: (row[2], -SPLITS.index(earlier.splits[row[1]]), rows.ids[row[0]]))
    for number, old, changed in known:
        name, group, promised, split = rows.ids[number], rows.groups[number], rows.promised[number], earlier.splits[old]
        near = {one: row for one, row in beside[group].items() if one != split}
        why = _why_not(split, near) if changed else None
        if promised is not None and promised != split:
            why, near = f"{promised} by its source's configuration, and {split} in the earlier run", {split: old}
        if why is None:
            splits[name] = split
        else:
            changes.append({"id": name, "what": "left out", "split": None, "why": why, "near": _rows_of(near)})
        if why is None or promised is not None:
            beside[group].setdefault(split, name)
    return splits, beside, changes


def _matches(rows: NewRows, earlier: EarlierRun) -> list[str | None]:
    """Of each row which old one it is, each being one at most: by content, of several equal ones that of its id; then
    by id alone, with its source's name or without, but for ids that are numbers."""
    by_content: dict[str, deque[str]] = defaultdict(deque)
    # Of fewer equal rows than there were those stay that judge.
    for name in sorted(earlier.splits, key=lambda one: (-SPLITS.index(earlier.splits[one]), one)):
        by_content[earlier.contents[name]].append(name)
    found: list[str | None] = [None] * len(rows.ids)
    free = set(earlier.splits)

    def take(number: int, old: str) -> None:
        free.remove(old)
        found[number] = old

    def waiting(content: str) -> str | None:
        """The first old row of a content that none has taken yet."""
        names = by_content.get(content, deque())
        while names and names[0] not in free:
            names.popleft()
        return names[0] if names else None

    # A copy that was promised to train never takes the place of the row that judges.
    for promised in (False, True):
        some = [n for n in range(len(rows.ids)) if (rows.promised[n] is not None) is promised]
        for same_content in (True, False):
            for number in some:
                for one in _names(rows.ids[number], rows.sources[number]) if found[number] is None else ():
                    # Perhaps a row's number, which another post has by now.
                    if not same_content and one.rpartition(":")[2].isdecimal():
                        continue
                    if one in free and (not same_content or earlier.contents[one] == rows.contents[number]):
                        take(number, one)
                        break
            for number in sorted(some, key=lambda n: rows.ids[n]) if same_content else ():
                if found[number] is None and (old := waiting(rows.contents[number])) is not None:
                    take(number, old)
    return found


def _names(name: str, source: str | None) -> list[str]:
    """What a row may have been called: one of several sources bears its source's name before its own."""
    prefix = f"{source}:"
    return [name, name.removeprefix(prefix)] if source and name.startswith(prefix) else [name]


def _place_new(
    rows: NewRows,
    old: set[str],
    beside: Mapping[str, Mapping[str, str]],
    earlier: EarlierRun,
    splits: dict[str, str],
    aside: Collection[str],
) -> list[ChangedRow]:
    """Give the new rows their splits; those that are left out, or kept aside with their group, are the answer."""
    left_out: list[ChangedRow] = []
    official: dict[str, set[str]] = defaultdict(set)
    fixed: set[str] = set()
    for name, group, own, promised in zip(rows.ids, rows.groups, rows.official, rows.promised, strict=True):
        if name not in old and own is not None:
            official[group].add(own)
        if own in JUDGING or promised is not None:
            fixed.add(group)
    least = least_contents(rows.groups, rows.contents)
    for name, group, own, sample in zip(rows.ids, rows.groups, rows.official, rows.samples, strict=True):
        if name in old:
            continue
        if group in aside:
            judging = sample == AUDITED and group not in beside
            why = "audited, and kept aside to judge by" if judging else "near a row that is kept aside to judge by"
            what: Literal["recent", "left out"] = "recent" if judging else "left out"
            left_out.append({"id": name, "what": what, "split": None, "why": why, "near": []})
            continue
        near = beside.get(group, {})
        if earlier.rule.by == "hash" and not near and group not in fixed:
            split = split_of_share(keyed_share(earlier.rule.key, least[group]), earlier.rule.shares)
        else:
            split = own or next((one for one in SPLITS if one in official[group]), "train")
        if reason := _why_not(split, near):
            left_out.append({"id": name, "what": "left out", "split": None, "why": reason, "near": _rows_of(near)})
        else:
            splits[name] = split
    return left_out


def _recent_groups(rows: NewRows, beside: Mapping[str, object], earlier: EarlierRun, share: float) -> frozenset[str]:
    """The groups that are kept aside: of what was audited since, those without an old row, which may have been learned
    from; and all that hold what the earlier run kept aside, whoever brings it now."""
    least = least_contents(rows.groups, rows.contents)
    found = set()
    for group, content, sample in zip(rows.groups, rows.contents, rows.samples, strict=True):
        drawn = keyed_share(f"{earlier.rule.key}/recent", least[group]) < share
        if content in earlier.recent or (sample == AUDITED and drawn and group not in beside):
            found.add(group)
    return frozenset(found)


def _rows_of(near: Mapping[str, str]) -> list[str]:
    """A row of each split, in the splits' order."""
    return [near[one] for one in SPLITS if one in near]


def _why_not(own: str, near: Mapping[str, str]) -> str | None:
    """Why a new row, with a split of its own, cannot stand beside old ones (split -> a row of it)."""
    if len(near) > 1:
        return f"near old {' and '.join(split for split in SPLITS if split in near)} rows"
    for split in near:
        if split in JUDGING or own in JUDGING:
            return f"near an old {split} row"
    return None


def _gone_and_relabelled(rows: NewRows, found: Sequence[str | None], earlier: EarlierRun) -> list[ChangedRow]:
    changed: list[ChangedRow] = []
    for name, old, labels in zip(rows.ids, found, rows.labels, strict=True):
        if old is None:
            continue
        before = earlier.labels[old]
        both = labels.keys() & before.keys()
        if other := [
            f"{key}: {before[key]!r}, now {labels[key]!r}" for key in sorted(both) if before[key] != labels[key]
        ]:
            split = earlier.splits[old]
            changed.append({"id": name, "what": "relabelled", "split": split, "why": "; ".join(other), "near": []})
    there = set(found)
    for name, split in earlier.splits.items():
        if name not in there:
            why = "in the earlier run alone"
            changed.append({"id": name, "what": "gone", "split": split, "why": why, "near": []})
    return changed


def _counts(rows: NewRows, found: Sequence[str | None], earlier: EarlierRun, taken: TakenOver) -> EarlierCounts:
    matched = Counter(
        "content" if earlier.contents[old] == content else "id"
        for old, content in zip(found, rows.contents, strict=True)
        if old is not None
    )
    reasons: Counter[str] = Counter()
    of: dict[str, Counter[str]] = {"gone": Counter(), "relabelled": Counter()}
    for row in taken.changes:
        if row["what"] == "recent":
            continue
        if row["what"] == "left out":
            reasons[row["why"]] += 1
        else:
            of[row["what"]][str(row["split"])] += 1
    new = Counter(split for name, split in taken.splits.items() if name not in taken.old)
    return {
        "run": earlier.name,
        "matched": dict(matched),
        "new": _in_order(new),
        "left_out": dict(reasons),
        "recent": len(taken.recent),
        "gone": _in_order(of["gone"]),
        "relabelled": _in_order(of["relabelled"]),
    }


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {split: counts[split] for split in SPLITS if counts[split]}


def told_of(counts: EarlierCounts) -> list[str]:
    """What a person should know of splits that were taken over, in sentences."""
    run, told = counts["run"], []
    if n := counts["matched"].get("id"):
        told.append(f"{n} rows are those of {run} by their ids alone: their content has changed")
    for what, of in (("gone", counts["gone"]), ("labelled otherwise", counts["relabelled"])):
        if of:
            shown = ", ".join(f"{n} of {split}" for split, n in of.items())
            told.append(f"rows of {run} that are {what}: {shown}; see split_changes.jsonl")
    if n := counts["recent"]:
        told.append(f"{n} audited rows are kept aside to judge by, and neither learned from nor tuned on")
    if out := counts["left_out"]:
        shown = ", ".join(f"{n} {why}" for why, n in sorted(out.items()))
        told.append(f"{sum(out.values())} rows are left out ({shown}): see split_changes.jsonl")
    return told
