"""The tables of the decision log and the review queue, for SQLite and PostgreSQL alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

from ...modalities import PARTS, inputs
from .records import NotStorable, storable, storable_json


class Utc(TypeDecorator[datetime]):
    """A moment, always in UTC; SQLite forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself in an INTEGER only

decisions = Table(
    "decisions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", Utc, nullable=False),
    Column("client", String(100), nullable=False),
    Column("subject", String(64)),
    Column("external_id", String(200)),
    Column("text_hash", String(64)),
    Column("image_hash", String(64)),
    Column("body", JSON, nullable=False),
    Column("action", String(10)),
    Column("label", String(200)),
    Column("probability", Float),
    Column("threshold", Float),
    Column("pattern", String(200), nullable=False),
    Column("run", String(200), nullable=False),
    Column("policy_version", String(64), nullable=False),
    Column("source", String(10), nullable=False),
    Column("match", JSON(none_as_null=True)),
    Column("audit", Boolean, nullable=False),
    Column("weight", Float, nullable=False),
    Column("shadow", JSON(none_as_null=True)),
    Column("disagrees", Boolean, nullable=False),
    Column("labels", JSON(none_as_null=True)),
    Index("ix_decisions_at", "at"),
    Index("ix_decisions_subject", "subject"),
)
"""One row per decision; a row is never changed, and goes only when its subject is forgotten."""

events = Table(
    "events",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("decision_id", String(64), ForeignKey("decisions.id", ondelete="CASCADE"), nullable=False),
    Column("at", Utc, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("who", String(100), nullable=False),
    Column("what", JSON, nullable=False),
    Index("ix_events_decision_id", "decision_id"),
    Index("ix_events_at", "at"),
)
"""What happened to a decision, in order; never changed."""

items = Table(
    "items",
    metadata,
    Column("decision_id", String(64), ForeignKey("decisions.id", ondelete="CASCADE"), primary_key=True),
    Column("since", Utc, nullable=False),
    Column("reason", String(10), nullable=False),
    Column("state", String(10), nullable=False),
    Column("client", String(100), nullable=False),
    Column("pattern", String(200), nullable=False),
    Column("distance", Float, nullable=False),
    Column("claimed_by", String(100)),
    Column("claimed_until", Utc),
    Column("lease", Float),
    Column("lease_clock", String(36)),
    Column("verdict", String(10)),
    Column("judged_by", String(100)),
    Index("ix_items_distance", "state", "distance", "decision_id"),
    Index("ix_items_since", "state", "since", "decision_id"),
)
"""The review queue: what state each of its items is in now. How it came there stands in the events.

``lease`` is when a claim ends, in seconds of the clock ``lease_clock``; ``claimed_until`` tells it to people.
"""

_KEPT: dict[str, Any] = {"words": Text(), "file": LargeBinary(), "record": JSON(none_as_null=True)}

originals = Table(
    "originals",
    metadata,
    Column("decision_id", String(64), ForeignKey("decisions.id", ondelete="CASCADE"), primary_key=True),
    Column("at", Utc, nullable=False),
    *(Column(one.kept_as, _KEPT[one.form]) for one in inputs().values() if one.kept_as != PARTS),
    Column(PARTS, JSON(none_as_null=True)),
    Index("ix_originals_at", "at"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("decision_id", String(64), ForeignKey("decisions.id", ondelete="CASCADE"), nullable=False),
    Column("at", Utc, nullable=False),
    Column("client", String(100), nullable=False),
    Column("label", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("labels", JSON(none_as_null=True)),
    Index("ix_feedback_decision_id", "decision_id", "client", unique=True),
)
"""What each client says of a decision now; what it said before stands in the events.

``label`` is the class by the run's first label, empty where nothing is said of it; ``labels`` the classes by others.
"""

receipts = Table(
    "receipts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", Utc, nullable=False),
    Column("subject", String(64), nullable=False),
    Column("client", String(100)),
    Column("counts", JSON, nullable=False),
    Index("ix_receipts_subject", "subject"),
)
"""That a subject was forgotten; its name is not in it."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("key_hash", String(64), nullable=False),
    Column("until", Utc, nullable=False),
)
"""Who is signed in on the moderator's page; ``id`` is a hash of what the browser holds."""


forgotten = Table(
    "forgotten",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("subject", String(64), nullable=False),
    Column("client", String(100)),
    Column("at", Utc, nullable=False),
    Index("ix_forgotten_subject", "subject"),
    sqlite_autoincrement=True,
)
"""In what order authors were forgotten: what comes later of decisions made before is not written."""


def storable_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a table's columns as both databases take them.

    Texts lose what `storable` takes away and are cut to the width of their column, a number that is none becomes null.

    Raises
    ------
    NotStorable
        Where a value is of another kind, or null where it may not be.
    """
    rules = _rules(table)
    fits = {}
    for name, value in row.items():
        rule, nullable, null_for_bad = rules[name]
        one = None if value is None else rule(value)
        if one is None and not (nullable and (value is None or null_for_bad)):
            found = "null" if value is None else f"this {type(value).__name__}"
            raise NotStorable(f"the decision log refuses: {table.name}.{name} cannot be {found}")
        fits[name] = one
    return fits


@cache
def _rules(table: Table) -> dict[str, tuple[Callable[[Any], Any], bool, bool]]:
    """Of each column: a value as it fits, or None; whether null may stand there; and instead of what does not fit."""
    return {c.name: (_rule(c), bool(c.nullable), isinstance(c.type, Float)) for c in table.c}


def _rule(column: Column[Any]) -> Callable[[Any], Any]:
    kind = column.type
    if isinstance(kind, JSON):
        return storable_json
    if isinstance(kind, String):  # Text is one
        return partial(_text, width=kind.length, whole=bool(column.primary_key or column.foreign_keys))
    if isinstance(kind, Float):
        return _number
    if isinstance(kind, Utc):
        return _moment
    kinds = {Boolean: bool, LargeBinary: bytes}
    return partial(_of_kind, kind=next((ours for theirs, ours in kinds.items() if isinstance(kind, theirs)), int))


def _text(value: Any, width: int | None, whole: bool) -> str | None:
    if not isinstance(value, str):
        return None
    text = storable(value)
    if width is None or len(text) <= width:
        return text
    return None if whole else text[:width]


def _number(value: Any) -> float | None:
    """As the databases have it; null for what is none, in a column that may be null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotStorable(f"the decision log refuses: a {type(value).__name__} is no number")
    return float(value) if abs(value) <= sys.float_info.max else None


def _moment(value: Any) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    # A day from the calendar's ends is none elsewhere.
    return (value if value.tzinfo else value.replace(tzinfo=UTC)) if 1000 < value.year < 9000 else None


def _of_kind(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else None
