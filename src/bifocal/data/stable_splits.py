"""Splits that rest on what a group of near-duplicates is, or when it came, and not on what other rows there are."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from ..errors import DataError
from ..example import Example
from ..modalities import TEXT, inputs
from .splits import Carve, Ints

KEYS_TRIED = 100
"""Other keys among which one is sought that gives every split every class."""


def content_hash(example: Example) -> str:
    """What identifies a post whatever it is called: its composed text, its pictures' perceptual hashes, its record.

    Files count by the hash that the manifest has of them, so that moving or renaming them changes nothing.
    """
    facts: Mapping[str, Mapping[str, object]] = example.meta.get("facts", {})
    parts: dict[str, object] = {}
    for name, part in example.parts.items():
        known = facts.get(name, {})
        is_file = name != TEXT and name in inputs() and inputs()[name].is_file
        parts[name] = known.get("pdq") or known.get("sha256") or part if is_file else part
    said = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def keyed_share(key: str, content: str) -> float:
    """Where in [0, 1) a content lies under a key: as if drawn evenly, and the same every time (HMAC-SHA-256)."""
    return int.from_bytes(hmac.digest(key.encode(), content.encode(), "sha256")[:8]) / 2**64


def least_contents(groups: Sequence[str], contents: Sequence[str]) -> dict[str, str]:
    """Group -> the least content hash of its rows, which stands for it whatever its rows are called or their order."""
    least: dict[str, str] = {}
    for group, content in zip(groups, contents, strict=True):
        least[group] = min(least.get(group, content), content)
    return least


def split_of_share(share: float, shares: Mapping[str, float]) -> str:
    """The split of a group that lies at ``share``: test from below, val from above, so that neither's share moves the
    other."""
    if share < shares.get("test", 0):
        return "test"
    return "val" if share >= 1 - shares.get("val", 0) else "train"


def carve_by_hash(groups: Sequence[str], contents: Sequence[str], kinds: Sequence[str | None], key: str) -> Carve:
    """For `splits_beside_official`: each group by the keyed hash of its least content.

    It raises `DataError` where a split lacks a class (``kinds``, by name; None = not annotated) of which there are
    groups enough, as nothing balances them, and names a key under which none does.
    """
    least = least_contents(groups, contents)

    def carve(rows: Sequence[int], shares: Mapping[str, float]) -> Ints:
        def under(one: str) -> list[str]:
            split = {g: split_of_share(keyed_share(one, least[g]), shares) for g in {groups[i] for i in rows}}
            return [split[groups[i]] for i in rows]

        of, said = [groups[i] for i in rows], [kinds[i] for i in rows]
        splits, wanted = under(key), ["train", *shares]
        if lacking := _lacking(splits, of, said, wanted):
            others = (f"{key}-{number}" for number in range(1, KEYS_TRIED + 1))
            good = next((other for other in others if not _lacking(under(other), of, said, wanted)), None)
            remedy = f"none of {KEYS_TRIED} other keys does better; give more rows of it, or set splits.by: shuffle"
            if good is not None:
                remedy = f"set splits.key: {json.dumps(good)}, under which none is lacking"
            raise DataError(
                f"no {lacking[0]} row is {lacking[1]!r} under splits.key: {json.dumps(key)}, and splits by hash are "
                f"not balanced by class: {remedy}"
            )
        return _places(splits, shares)

    return carve


def carve_by_time(
    groups: Sequence[str],
    contents: Sequence[str],
    kinds: Sequence[str | None],
    times: Sequence[float | None],
    column: str,
) -> Carve:
    """For `splits_beside_official`: the latest rows are test, those before them val, a group being as late as its
    latest row; groups without a time are train.

    It raises `DataError` where a split lacks a class of which there are groups enough.
    """
    least = least_contents(groups, contents)
    latest: dict[str, float] = {}
    for group, time in zip(groups, times, strict=True):
        if time is not None:
            latest[group] = max(latest.get(group, -math.inf), time)

    def carve(rows: Sequence[int], shares: Mapping[str, float]) -> Ints:
        sizes = Counter(groups[i] for i in rows if groups[i] in latest)
        test, val = shares.get("test", 0), shares.get("val", 0)
        newer, split = 0, {}
        for group in sorted(sizes, key=lambda g: (latest[g], least[g]), reverse=True):
            share = (newer + sizes[group] / 2) / sizes.total()
            split[group] = "test" if share < test else "val" if share < test + val else "train"
            newer += sizes[group]
        splits = [split.get(groups[i], "train") for i in rows]
        if lacking := _lacking(splits, [groups[i] for i in rows], [kinds[i] for i in rows], ["train", *shares]):
            raise DataError(
                f"no {lacking[0]} row is {lacking[1]!r} by the times of {column!r}, and splits by time are not "
                "balanced by class: raise splits.val and splits.test, name another column, or set splits.by: hash"
            )
        return _places(splits, shares)

    return carve


def _places(splits: Sequence[str], shares: Mapping[str, float]) -> Ints:
    places = {name: number for number, name in enumerate(shares)}
    return np.array([places.get(split, -1) for split in splits], dtype=np.int64)


def _lacking(
    splits: Sequence[str], groups: Sequence[str], kinds: Sequence[str | None], wanted: Sequence[str]
) -> tuple[str, str] | None:
    """A split and a class that it lacks though there are groups enough of it for all that are wanted."""
    shown: dict[str, set[str]] = defaultdict(set)
    held: dict[str, set[str]] = defaultdict(set)
    for split, group, kind in zip(splits, groups, kinds, strict=True):
        if kind is not None:
            shown[kind].add(split)
            held[kind].add(group)
    lacking = (
        (split, kind)
        for kind in sorted(held)
        if len(held[kind]) >= len(wanted)
        for split in wanted
        if split not in shown[kind]
    )
    return next(lacking, None)


def times_of(ids: Sequence[str], raw: Sequence[object], column: str) -> list[float | None]:
    """Cells of a column of times as seconds; None where one is empty.

    Dates and times are read as ISO 8601 (without a zone: UTC), or all are numbers, of whatever unit.

    Raises
    ------
    DataError
        Naming the first row whose cell is neither, or is of the other kind; where no row has a time.
    """
    found: list[float | None] = []
    kinds: dict[str, str] = {}
    for name, value in zip(ids, raw, strict=True):
        if value is None or not str(value).strip():
            found.append(None)
            continue
        kind, seconds = _time(name, value, column)
        kinds.setdefault(kind, name)
        found.append(seconds)
    if not kinds:
        raise DataError(
            f"splits.time = {column!r}: no row has anything there; name a column of the source that has no other role "
            "and is not dropped"
        )
    if len(kinds) > 1:
        shown = " and ".join(f"{kind} (row {name!r})" for kind, name in sorted(kinds.items()))
        raise DataError(f"splits.time = {column!r} holds {shown}: write all in one way")
    return found


def _time(name: str, value: object, column: str) -> tuple[str, float]:
    text = str(value).strip()
    try:
        if math.isfinite(number := float(text)):
            return "numbers", number
    except ValueError:
        pass
    try:
        read = datetime.fromisoformat(text)
        return "dates", (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise DataError(
            f"splits.time = {column!r}: row {name!r} has {text[:80]!r}, which is no time as ISO 8601 has it "
            "(2026-03-01T12:00:00Z) and no number"
        ) from None
