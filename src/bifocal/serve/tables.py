"""The tables of the decision log and the review queue, for SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import UTC, datetime
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
    Column("verdict", String(10)),
    Column("judged_by", String(100)),
    Index("ix_items_distance", "state", "distance", "decision_id"),
    Index("ix_items_since", "state", "since", "decision_id"),
)
"""The review queue: what state each of its items is in now. How it came there stands in the events."""

originals = Table(
    "originals",
    metadata,
    Column("decision_id", String(64), ForeignKey("decisions.id", ondelete="CASCADE"), primary_key=True),
    Column("at", Utc, nullable=False),
    Column("text", Text),
    Column("picture", LargeBinary),
    Column("tabular", JSON(none_as_null=True)),
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
    Index("ix_feedback_decision_id", "decision_id"),
)

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
