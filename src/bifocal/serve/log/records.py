"""What the decision log takes and gives: records of decisions, queue items, events, and the errors it answers with."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from ...errors import BifocalError

Reason = Literal["review", "audit", "appeal"]
Sort = Literal["uncertainty", "age"]
VERDICTS = ("allow", "block")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DEPTH = 50
"""Lists and objects within each other; a database's own limit is deeper."""


class StoreError(BifocalError):
    """The decision log does not do what it was asked."""


class UnknownDecision(StoreError):
    """There is no such decision."""


class WrongClient(StoreError):
    """The decision was asked for by another client."""


class Conflict(StoreError):
    """The item is in another state, or in other hands."""


class StoreGone(StoreError):
    """The database cannot be reached."""


class StoreFull(StoreError):
    """The database, or its disk, has no room."""


class NotStorable(StoreError):
    """A value that no log can hold: it is refused, and whatever came with it is written."""


@dataclass(frozen=True, slots=True)
class KeptPost:
    """What was decided on, kept for those who review; never the bytes that came."""

    text: str | None = None
    """As the text expert read it."""
    picture: bytes | None = None
    """A PNG of ours."""
    tabular: dict[str, Any] | None = None
    """The post's record."""
    parts: dict[str, Any] | None = None
    """Any other part, by its name."""

    @property
    def columns(self) -> dict[str, Any]:
        """Column of the log -> what it holds."""
        return {column.name: getattr(self, column.name) for column in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _DecisionFields:
    """What the log takes and gives of a decision.

    Attributes
    ----------
    client : str
        Who asked.
    audit : bool
        Whether the decision joins the queue although nothing asks for it.
    weight : float
        Decisions that one like this stands for among the reviewed ones.
    shadow : dict or None
        What the shadow would have done.
    labels : dict or None
        What each of several labels answers, as `Decision.to_dict` has it; None = the run has one label.
    """

    id: str
    at: datetime
    client: str
    external_id: str | None
    action: str | None
    label: str | None
    probability: float | None
    threshold: float | None
    pattern: str
    run: str
    policy_version: str
    source: str
    match: dict[str, Any] | None
    audit: bool
    weight: float
    shadow: dict[str, Any] | None
    labels: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry(_DecisionFields):
    """One decision, as it is logged.

    Attributes
    ----------
    subject : str or None
        The author, as the platform calls it; only a keyed hash of it is ever written.
    subject_hash : str or None
        That hash, where it was made before (by the `Spool`).
    decision : dict
        What was answered, without the text.
    last_forgotten : int or None
        Of a decision that waited in the `Spool`: the number of the last author that was known to be forgotten when it
        was made. It is not written where its author was forgotten later. None = it did not wait.
    """

    subject: str | None
    text_hash: str | None
    image_hash: str | None
    decision: dict[str, Any]
    original: KeptPost | None
    subject_hash: str | None = None
    last_forgotten: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a decision."""

    kind: str
    who: str
    at: datetime
    what: dict[str, Any]
    number: int = 0
    """Its place among all events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision(_DecisionFields):
    """A decision as the log has it."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """A decision in the review queue."""

    id: str
    since: datetime
    reason: str
    state: str
    client: str
    pattern: str
    distance: float
    claimed_by: str | None
    claimed_until: datetime | None
    """For people; whether the claim still runs says `ReviewQueue.left_s`."""
    lease: float | None
    lease_clock: str | None
    verdict: str | None
    judged_by: str | None
    decision: LoggedDecision
    words: str | None
    has_picture: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a subject was forgotten, and what of it was deleted."""

    id: str | None
    """None where nothing was held: there is nothing to keep a receipt of."""
    at: datetime
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"id": self.id, "at": self.at.isoformat(timespec="seconds"), "deleted": self.counts}


def distance(probability: float | None, threshold: float | None) -> float:
    """How far a decision is from turning; the nearest are reviewed first.

    From the threshold; where the likeliest class wins, and there is none, the lower its probability, the nearer. What a
    list decided, without a probability, comes last.
    """
    if probability is None or math.isnan(probability):  # which logs of old may hold
        return 1.0
    return probability if threshold is None else abs(probability - threshold)


def audited(decision: str, action: str | None, share: float) -> tuple[bool, float]:
    """Whether a decision joins the queue as a sample, and how many decisions it stands for once it is reviewed.

    Drawn by the decision's random id: the same one gives the same answer. Posts under review are all seen and stand
    for themselves; of the allowed ones the share that is drawn stands for the rest, without which retraining on what
    was reviewed would learn from doubtful posts alone (Horvitz and Thompson 1952).

    >>> audited("00000000" + "a" * 24, "allow", 0.01)
    (True, 100.0)
    """
    if action in ("review", "block"):
        return False, 1.0 if action == "review" else 0.0
    drawn = int(decision[:8], 16) < share * 2**32
    return drawn, 1 / share if drawn else 0.0


def storable(words: str) -> str:
    """A text as every database takes it: no NUL, and U+FFFD for what UTF-8 cannot hold."""
    if words.isascii() and "\0" not in words:
        return words
    return _SURROGATE.sub("\ufffd", words.replace("\0", ""))


def storable_json(value: Any, depth: int = _DEPTH) -> Any:
    """A value as every database, and every reader of JSON, takes it: texts as `storable`, null for NaN and infinity.

    Raises
    ------
    NotStorable
        Where it is no value of JSON, or is nested too deeply.

    >>> storable_json({"age": float("nan"), "place": "a\\0b"})
    {'age': None, 'place': 'ab'}
    """
    if isinstance(value, str):
        return storable(value)
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int | float):
        return value if abs(value) <= sys.float_info.max else None
    if depth == 0:
        raise NotStorable(f"lists and objects within each other go {_DEPTH} deep at most")
    if isinstance(value, Mapping):
        return {storable(str(name)): storable_json(one, depth - 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(one, depth - 1) for one in value]
    raise NotStorable(f"a {type(value).__name__} is no value of JSON")
