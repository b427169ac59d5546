"""The decision log and the review queue, in SQLite or PostgreSQL by one path."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row, Table, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ..errors import BifocalError, RunError
from ..workspace import atomic
from .tables import decisions, events, feedback, items, originals, receipts

Reason = Literal["review", "audit", "appeal"]
Sort = Literal["uncertainty", "age"]
VERDICTS = ("allow", "block")
LEASE_S = 300
_SECRET = "secret"
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRIES = 20
_FULL = ("disk is full", "no space left", "disk full", "could not extend file")


class StoreError(BifocalError):
    """The decision log does not do what it was asked."""


class Unknown(StoreError):
    """There is no such decision."""


class NotYours(StoreError):
    """The decision was asked for by another client."""


class Conflict(StoreError):
    """The item is in another state, or in other hands."""


class StoreGone(StoreError):
    """The database cannot be reached."""


class StoreFull(StoreError):
    """The database, or its disk, has no room."""


@dataclass(frozen=True, slots=True)
class Original:
    """What was decided on, kept for those who review; never the bytes that came."""

    text: str | None
    """As the text expert read it."""
    picture: bytes | None
    """A PNG of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One decision, as it is logged.

    Attributes
    ----------
    client : str
        Who asked.
    subject : str or None
        The author, as the platform calls it; only a keyed hash of it is written.
    decision : dict
        What was answered, without the text.
    audit : bool
        Whether the decision joins the queue although nothing asks for it.
    weight : float
        Decisions that one like this stands for among the reviewed ones.
    shadow : dict or None
        What the shadow would have done.
    """

    id: str
    at: datetime
    client: str
    subject: str | None
    external_id: str | None
    text_hash: str | None
    image_hash: str | None
    decision: dict[str, Any]
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
    original: Original | None

    @property
    def distance(self) -> float:
        """How far the probability is from where the decision turns; the nearest are reviewed first."""
        if self.probability is None:
            return 1.0
        return abs(self.probability - (0.5 if self.threshold is None else self.threshold))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a decision."""

    kind: str
    who: str
    at: datetime
    what: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """A decision as the log has it."""

    id: str
    at: datetime
    client: str
    external_id: str | None
    body: dict[str, Any]
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
    verdict: str | None
    judged_by: str | None
    decision: Kept
    text: str | None
    has_picture: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a subject was forgotten, and what of it was deleted."""

    id: str
    at: datetime
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"id": self.id, "at": self.at.isoformat(timespec="seconds"), "deleted": self.counts}


def audited(decision: str, action: str | None, share: float) -> tuple[bool, float]:
    """Whether a decision joins the queue as a sample, and how many decisions it stands for once it is reviewed.

    Drawn by the decision's random id: the same one gives the same answer. Posts under review are all seen and stand
    for themselves; of all others the share that is drawn stands for the rest, without which retraining on what was
    reviewed would learn from doubtful posts alone (Horvitz and Thompson 1952).

    >>> audited("00000000" + "a" * 24, "allow", 0.01)
    (True, 100.0)
    """
    if action == "review":
        return False, 1.0
    drawn = int(decision[:8], 16) < share * 2**32
    return drawn, 1 / share if drawn else 0.0


def storable(text: str) -> str:
    """A text as every database takes it: no NUL, and U+FFFD for what UTF-8 cannot hold."""
    return _SURROGATE.sub("\ufffd", text.replace("\0", ""))


def read_secret(state: Path) -> bytes:
    """The key of the subjects' hashes, made at the first use and kept beside the log."""
    path = state / _SECRET
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        with atomic(path, "wb") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(secrets.token_bytes(32))
    secret = path.read_bytes()
    if len(secret) < 32:
        raise RunError(f"{path} holds no key of 32 bytes: put it back, or delete it and lose the link to old subjects")
    return secret


class Store:
    """The log and the queue behind a URL.

    Parameters
    ----------
    url : str
        ``sqlite:///decisions.sqlite``, ``postgresql+psycopg://user@host/name``; plain ``postgresql://`` means the same.
    secret : bytes
        Key of the subjects' hashes.

    Raises
    ------
    RunError
        Where the URL is none.
    """

    def __init__(self, url: str, *, secret: bytes):
        self.secret = secret
        self.gone = False
        """Whether the database could not be reached when it was last asked."""
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            parsed = sa.make_url(url)
            self.engine = _engine(parsed)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
            raise RunError(
                f"the decision log is a database such as sqlite:///FILE or postgresql://USER@HOST/NAME: {error}"
            ) from None
        self.name = parsed.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Bring the tables to their present form. Raises `StoreGone`, `StoreFull`."""
        from alembic import command
        from alembic.config import Config

        settings = Config()
        settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":  # two services that start at once
                connection.execute(select(func.pg_advisory_xact_lock(8_271_001)))
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def hashed(self, subject: str) -> str:
        """What is written of a subject: HMAC-SHA256."""
        return hmac.new(self.secret, subject.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    # ------------------------------------------------------------------ the log

    def record(self, rows: Sequence[Logged]) -> None:
        """Write decisions, all or none; one that is there already stays as it is.

        Those under review, and those drawn to be audited, join the queue.

        Raises
        ------
        StoreGone, StoreFull
        """
        if not rows:
            return
        with self._writing() as connection:
            made = set(connection.scalars(_new(connection, decisions, [self._row(row) for row in rows])))
            rows = [row for row in rows if row.id in made]
            if not rows:
                return
            asked = [row for row in rows if row.action == "review" or row.audit]
            if asked:
                connection.execute(insert(items), [_item(row) for row in asked])
            happened = [_event(row.id, "decided", row.client, row.at, action=row.action) for row in rows]
            connection.execute(insert(events), happened)
            kept = [
                {
                    "decision_id": row.id,
                    "at": row.at,
                    "text": None if row.original.text is None else storable(row.original.text),
                    "picture": row.original.picture,
                }
                for row in rows
                if row.original is not None
            ]
            if kept:
                connection.execute(insert(originals), kept)

    def _row(self, row: Logged) -> dict[str, Any]:
        written = {
            f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("original", "decision", "subject")
        }
        shadow = row.shadow or {}
        return written | {
            "body": row.decision,
            "external_id": None if row.external_id is None else storable(row.external_id),
            "subject": None if row.subject is None else self.hashed(row.subject),
            "disagrees": "action" in shadow and shadow["action"] != row.action,
        }

    def decision(self, number: str) -> Kept:
        """One decision. Raises `Unknown`, `StoreGone`."""
        with self._reading() as connection:
            return _kept(self._found(connection, number))

    def _found(self, connection: Connection, number: str) -> Row[Any]:
        row = connection.execute(select(decisions).where(decisions.c.id == number)).one_or_none()
        if row is None:
            raise Unknown(f"there is no decision {number[:64]!r}")
        return row

    def original(self, number: str) -> Original | None:
        """What was decided on, where it is kept. Raises `StoreGone`."""
        with self._reading() as connection:
            asked = select(originals.c.text, originals.c.picture).where(originals.c.decision_id == number)
            row = connection.execute(asked).one_or_none()
            return None if row is None else Original(row.text, row.picture)

    def history(self, number: str) -> list[Event]:
        """All that happened to a decision, in order. Raises `Unknown`, `StoreGone`."""
        with self._reading() as connection:
            self._found(connection, number)
            asked = select(events).where(events.c.decision_id == number).order_by(events.c.number)
            return [Event(row.kind, row.who, row.at, row.what) for row in connection.execute(asked)]

    # ------------------------------------------------------------------ the queue

    def queue(
        self,
        *,
        state: str = "open",
        reason: Reason | None = None,
        client: str | None = None,
        pattern: str | None = None,
        sort: Sort = "uncertainty",
        limit: int = 50,
        after: tuple[Any, str] | None = None,
    ) -> list[Item]:
        """A page of the queue.

        Parameters
        ----------
        state : {"open", "done"}
        sort : {"uncertainty", "age"}
            Nearest to where the decision turns first, or longest waiting first.
        after : (float or datetime, str), optional
            ``distance`` or ``since``, and ``id``, of the last item of the page before.

        Raises
        ------
        StoreGone
        """
        key = items.c.distance if sort == "uncertainty" else items.c.since
        asked = _ITEMS.where(items.c.state == state).order_by(key, items.c.decision_id).limit(limit)
        for column, value in ((items.c.reason, reason), (items.c.client, client), (items.c.pattern, pattern)):
            if value is not None:
                asked = asked.where(column == value)
        if after is not None:
            asked = asked.where(or_(key > after[0], (key == after[0]) & (items.c.decision_id > after[1])))
        with self._reading() as connection:
            return [_whole(row) for row in connection.execute(asked)]

    def item(self, number: str) -> Item:
        """One item. Raises `Unknown` where the decision is not in the queue, `StoreGone`."""
        with self._reading() as connection:
            return self._item(connection, number)

    def _item(self, connection: Connection, number: str) -> Item:
        row = connection.execute(_ITEMS.where(items.c.decision_id == number)).one_or_none()
        if row is None:
            raise Unknown(f"there is no decision {number[:64]!r} in the queue")
        return _whole(row)

    def claim(
        self,
        who: str,
        number: str | None = None,
        *,
        lease_s: float = LEASE_S,
        reason: Reason | None = None,
        client: str | None = None,
        pattern: str | None = None,
        sort: Sort = "uncertainty",
    ) -> Item | None:
        """Take an item into one's hands, so that nobody else is handed it.

        Parameters
        ----------
        number : str, optional
            None = the first that is free, in the order of ``sort``.
        lease_s : float
            After which it is free again.

        Returns
        -------
        Item or None
            None where none is free.

        Raises
        ------
        Conflict
            Where the item that was named is in other hands, or decided.
        Unknown, StoreGone
        """
        now = datetime.now(UTC)
        free = or_(items.c.claimed_until.is_(None), items.c.claimed_until < now, items.c.claimed_by == who)
        with self._writing() as connection:
            if number is not None:
                item = self._item(connection, number)
                if not self._take(connection, number, who, now, lease_s, free):
                    by = f"claimed by {item.claimed_by}" if item.state == "open" else f"{item.state} already"
                    raise Conflict(f"the item {number} is {by}: take another")
                return self._item(connection, number)
            key = items.c.distance if sort == "uncertainty" else items.c.since
            asked = select(items.c.decision_id).where(items.c.state == "open", free)
            for column, value in ((items.c.reason, reason), (items.c.client, client), (items.c.pattern, pattern)):
                if value is not None:
                    asked = asked.where(column == value)
            asked = asked.order_by(key, items.c.decision_id).limit(1)
            if connection.dialect.name == "postgresql":  # others look further instead of waiting for this one
                asked = asked.with_for_update(skip_locked=True)
            for _ in range(_TRIES):
                found = connection.scalar(asked)
                if found is None:
                    return None
                if self._take(connection, found, who, now, lease_s, free):
                    return self._item(connection, found)
            return None

    def _take(self, connection: Connection, number: str, who: str, now: datetime, lease_s: float, free: Any) -> bool:
        until = now + timedelta(seconds=lease_s)
        changed = connection.execute(
            update(items)
            .where(items.c.decision_id == number, items.c.state == "open", free)
            .values(claimed_by=who, claimed_until=until)
        )
        if changed.rowcount:
            connection.execute(insert(events), [_event(number, "claimed", who, now)])
        return bool(changed.rowcount)

    def release(self, number: str, who: str) -> None:
        """Put an item back. Raises `Conflict` where it is not in these hands, `Unknown`, `StoreGone`."""
        with self._writing() as connection:
            self._change(connection, number, who, "released", claimed_by=None, claimed_until=None)

    def verdict(self, number: str, who: str, action: str, reason: str = "", label: str | None = None) -> Event:
        """Decide an item that is in one's hands.

        Parameters
        ----------
        action : {"allow", "block"}
        label : str, optional
            The class that the post is of, where the action does not say it (several classes).

        Raises
        ------
        Conflict
            Where it is not, or not any more.
        Unknown, StoreGone
        """
        if action not in VERDICTS:
            raise StoreError(f"a verdict is {' or '.join(VERDICTS)}, found {action!r}")
        with self._writing() as connection:
            before = self._item(connection, number)
            told = {"action": action, "reason": storable(reason), "label": label, "decided": before.decision.action}
            return self._change(
                connection, number, who, "verdict", told, state="done", verdict=action, judged_by=who,
                claimed_by=None, claimed_until=None,
            )  # fmt: skip

    def _change(
        self,
        connection: Connection,
        number: str,
        who: str,
        kind: str,
        what: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Event:
        """Change an open item in ``who``'s hands, whose lease has not run out."""
        now = datetime.now(UTC)
        changed = connection.execute(
            update(items)
            .where(
                items.c.decision_id == number,
                items.c.state == "open",
                items.c.claimed_by == who,
                items.c.claimed_until >= now,
            )
            .values(**values)
        )
        if not changed.rowcount:
            item = self._item(connection, number)
            held = "decided already" if item.state == "done" else f"claimed by {item.claimed_by or 'nobody'}"
            raise Conflict(f"the item {number} is {held}, or {who}'s claim has run out: claim it first")
        row = _event(number, kind, who, now, **(what or {}))
        connection.execute(insert(events), [row])
        return Event(kind, who, now, row["what"])

    def undo(self, number: str, who: str) -> None:
        """Take one's own verdict back; the item is in one's hands again.

        Raises
        ------
        Conflict
            Where the last verdict is another's, or there is none.
        Unknown, StoreGone
        """
        now = datetime.now(UTC)
        with self._writing() as connection:
            changed = connection.execute(
                update(items)
                .where(items.c.decision_id == number, items.c.state == "done", items.c.judged_by == who)
                .values(
                    state="open", verdict=None, judged_by=None, claimed_by=who,
                    claimed_until=now + timedelta(seconds=LEASE_S),
                )
            )  # fmt: skip
            if not changed.rowcount:
                item = self._item(connection, number)
                raise Conflict(f"the item {number} was not decided by {who}, but by {item.judged_by or 'nobody'}")
            connection.execute(insert(events), [_event(number, "undone", who, now)])

    def appeal(self, number: str, who: str, reason: str, client: str | None = None) -> None:
        """Ask that a decision, or a verdict on it, be looked at again; it joins the queue.

        ``client`` None = whoever asked for the decision. Raises `Unknown`, `NotYours`, `Conflict` where it waits there
        already, `StoreGone`.
        """
        now = datetime.now(UTC)
        with self._writing() as connection:
            row = self._found(connection, number)
            _owned(row, client)
            changed = connection.execute(
                update(items)
                .where(items.c.decision_id == number, items.c.state == "done")
                .values(state="open", reason="appeal", since=now, claimed_by=None, claimed_until=None)
            )
            if not changed.rowcount:
                if connection.scalar(select(items.c.state).where(items.c.decision_id == number)) is not None:
                    raise Conflict(f"the decision {number} waits in the queue already")
                fresh = {
                    "decision_id": number, "since": now, "reason": "appeal", "state": "open", "client": row.client,
                    "pattern": row.pattern, "distance": _distance(row.probability, row.threshold),
                }  # fmt: skip
                connection.execute(insert(items), [fresh])
            connection.execute(insert(events), [_event(number, "appealed", who, now, reason=storable(reason))])

    def counts(self) -> dict[str, int]:
        """Items by reason that are open (``open.review``, ...), those claimed, and those done."""
        now = datetime.now(UTC)
        with self._reading() as connection:
            asked = select(items.c.state, items.c.reason, func.count()).group_by(items.c.state, items.c.reason)
            found: dict[str, int] = {}
            for state, reason, n in connection.execute(asked):
                name = f"open.{reason}" if state == "open" else "done"
                found[name] = found.get(name, 0) + n
            held = select(func.count()).where(items.c.state == "open", items.c.claimed_until >= now)
            return {**found, "claimed": connection.scalar(held) or 0}

    # ------------------------------------------------------------------ what becomes known later

    def feedback(self, number: str, client: str | None, label: str, reason: str = "") -> None:
        """Keep what a client says of a decision that it asked for; ``client`` None = whoever.

        Raises
        ------
        Unknown, NotYours, StoreGone, StoreFull
        """
        now = datetime.now(UTC)
        with self._writing() as connection:
            row = self._found(connection, number)
            _owned(row, client)
            label, reason = storable(label), storable(reason)
            said = {"decision_id": number, "at": now, "client": row.client, "label": label, "reason": reason}
            connection.execute(insert(feedback), [said])
            connection.execute(
                insert(events), [_event(number, "feedback", row.client, now, label=label, reason=reason)]
            )

    def labelled(self, run: str | None = None) -> Iterator[dict[str, Any]]:
        """What people said of decisions of a run: rows for retraining.

        Yields
        ------
        dict
            ``id``; ``label`` and ``action``, of which one may be None; ``by``; ``from``: ``verdict`` or ``feedback``;
            ``said``: the reason given; ``weight``; ``queued``: why it was in the queue; ``text``; ``picture``: PNG;
            ``decided``. The last verdict counts; without one, the last feedback.
        """
        asked = (
            select(decisions, items.c.reason, originals.c.text, originals.c.picture)
            .outerjoin(items, items.c.decision_id == decisions.c.id)
            .outerjoin(originals, originals.c.decision_id == decisions.c.id)
            .where(
                or_(
                    items.c.verdict.is_not(None),
                    select(feedback.c.number).where(feedback.c.decision_id == decisions.c.id).exists(),
                )
            )
            .order_by(decisions.c.at, decisions.c.id)
        )
        if run is not None:
            asked = asked.where(decisions.c.run == run)
        with self._reading() as connection:
            for row in connection.execution_options(yield_per=200).execute(asked):
                told = connection.execute(
                    select(events)
                    .where(events.c.decision_id == row.id, events.c.kind.in_(("verdict", "undone", "feedback")))
                    .order_by(events.c.number)
                ).all()
                yield _said(row, told)

    def forget(self, subject: str, client: str | None = None) -> Receipt:
        """Delete all that is held of an author, and keep a receipt that does not name it.

        ``client`` None = of all clients; else of what this one sent. Raises `StoreGone`, `StoreFull`.
        """
        name, now = self.hashed(subject), datetime.now(UTC)
        of_it = decisions.c.subject == name
        if client is not None:
            of_it &= decisions.c.client == client
        numbers = select(decisions.c.id).where(of_it)
        counts: dict[str, int] = {}
        with self._writing() as connection:
            for table in (originals, feedback, items, events):
                counts[table.name] = connection.execute(delete(table).where(table.c.decision_id.in_(numbers))).rowcount
            counts["decisions"] = connection.execute(delete(decisions).where(of_it)).rowcount
            receipt = Receipt(uuid.uuid4().hex, now, counts)
            row = {"id": receipt.id, "at": now, "subject": name, "client": client, "counts": counts}
            connection.execute(insert(receipts), [row])
        return receipt

    def purge(self, before: datetime) -> int:
        """Delete originals older than that; the number of them. Raises `StoreGone`."""
        with self._writing() as connection:
            old = connection.scalars(select(originals.c.decision_id).where(originals.c.at < before)).all()
            for start in range(0, len(old), 500):
                some = old[start : start + 500]
                connection.execute(delete(originals).where(originals.c.decision_id.in_(some)))
                now = datetime.now(UTC)
                connection.execute(insert(events), [_event(number, "purged", "", now) for number in some])
            return len(old)

    def summary(self, since: datetime) -> dict[str, Any]:
        """What happened since then.

        Returns
        -------
        dict
            ``decisions``: count by action; ``sources``, ``clients``, ``patterns``, ``policies``: count by name;
            ``hours``: list of ``[hour in UTC, action, count]``; ``shadow``: ``{"scored", "disagree"}``; ``verdicts``:
            ``{"allow", "block", "overturned"}``; ``feedback``: count; ``probability``: 20 counts, of 0.00..0.05 and on.
        """
        with self._reading() as connection:
            recent = decisions.c.at >= since

            def by(column: Any) -> dict[str, int]:
                asked = select(column, func.count()).where(recent).group_by(column).order_by(func.count().desc())
                return {str(name) if name is not None else "none": n for name, n in connection.execute(asked)}

            hour = _hour(connection, decisions.c.at)
            hours = select(hour, decisions.c.action, func.count()).where(recent).group_by(hour, decisions.c.action)
            cell = sa.cast(func.floor(decisions.c.probability * 20), sa.Integer)
            cells = select(cell, func.count()).where(recent, decisions.c.probability.is_not(None)).group_by(cell)
            histogram = [0] * 20
            for place, n in connection.execute(cells):
                histogram[min(19, int(place))] += n
            scored = select(func.count()).where(recent, decisions.c.shadow.is_not(None))
            differ = select(func.count()).where(recent, decisions.c.disagrees)
            said = select(feedback.c.number).where(feedback.c.at >= since)
            judged = select(events.c.what).where(events.c.kind == "verdict", events.c.at >= since)
            verdicts = {"allow": 0, "block": 0, "overturned": 0}
            for what in connection.scalars(judged):
                verdicts[what["action"]] += 1
                verdicts["overturned"] += what["decided"] in VERDICTS and what["decided"] != what["action"]
            return {
                "decisions": by(decisions.c.action),
                "sources": by(decisions.c.source),
                "clients": by(decisions.c.client),
                "patterns": by(decisions.c.pattern),
                "policies": by(decisions.c.policy_version),
                "hours": sorted([str(h), action or "none", n] for h, action, n in connection.execute(hours)),
                "shadow": {"scored": connection.scalar(scored) or 0, "disagree": connection.scalar(differ) or 0},
                "verdicts": verdicts,
                "feedback": connection.scalar(select(func.count()).select_from(said.subquery())) or 0,
                "probability": histogram,
            }

    def disagreements(self, limit: int = 20) -> list[Kept]:
        """The latest decisions that the shadow would have made otherwise. Raises `StoreGone`."""
        asked = select(decisions).where(decisions.c.disagrees).order_by(decisions.c.at.desc()).limit(limit)
        with self._reading() as connection:
            return [_kept(row) for row in connection.execute(asked)]

    # ------------------------------------------------------------------ reaching the database

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._named(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._named(), self.engine.connect().execution_options(writes=False) as connection:
            yield connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The database's own errors as ours."""
        try:
            yield
            self.gone = False
        except DBAPIError as error:
            told = str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__
            if any(sign in told.lower() for sign in _FULL) or getattr(error.orig, "sqlstate", "") == "53100":
                raise StoreFull(f"the decision log {self.name} has no room: {told}") from error
            if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated:
                self.gone = True
                raise StoreGone(f"the decision log {self.name} cannot be reached: {told}") from error
            raise


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, pool_size=5, connect_args={"connect_timeout": 3})
    if url.database and url.database != ":memory:":
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    engine = sa.create_engine(url, connect_args={"timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own begin comes too late for a write: see below
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and then writes fails at once where another has written meanwhile; one that
        # says so at its beginning waits its turn.
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes", True) else "BEGIN"
        )

    return engine


def _new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> Any:
    """An insert that leaves alone what is there, and returns the keys of what it made."""
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return make(table).values(rows).on_conflict_do_nothing().returning(table.c.id)


def _hour(connection: Connection, column: Any) -> Any:
    """A moment cut to its hour, as text in UTC."""
    if connection.dialect.name == "sqlite":
        return func.strftime("%Y-%m-%dT%H:00", column)
    return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:00')


def _item(row: Logged) -> dict[str, Any]:
    return {
        "decision_id": row.id,
        "since": row.at,
        "reason": "review" if row.action == "review" else "audit",
        "state": "open",
        "client": row.client,
        "pattern": row.pattern,
        "distance": row.distance,
    }


def _distance(probability: float | None, threshold: float | None) -> float:
    return 1.0 if probability is None else abs(probability - (0.5 if threshold is None else threshold))


def _event(number: str, kind: str, who: str, at: datetime, **what: Any) -> dict[str, Any]:
    return {"decision_id": number, "kind": kind, "who": who, "at": at, "what": what}


def _owned(row: Row[Any], client: str | None) -> None:
    if client is not None and row.client != client:
        raise NotYours(f"there is no decision {row.id!r}")  # that it exists is none of another's business


_ITEMS = (
    select(decisions, items, originals.c.text, originals.c.picture.is_not(None).label("has_picture"))
    .join(decisions, decisions.c.id == items.c.decision_id)
    .outerjoin(originals, originals.c.decision_id == items.c.decision_id)
)


def _kept(row: Row[Any]) -> Kept:
    # The columns by their tables: an item's client and pattern bear the same names.
    return Kept(**{f.name: row._mapping[decisions.c[f.name]] for f in fields(Kept)})


def _whole(row: Row[Any]) -> Item:
    found = row._mapping
    of_item = {f.name: found[items.c[f.name]] for f in fields(Item) if f.name in items.c}
    return Item(id=found[decisions.c.id], decision=_kept(row), text=row.text, has_picture=row.has_picture, **of_item)


def _said(row: Row[Any], told: Sequence[Row[Any]]) -> dict[str, Any]:
    verdict = heard = None
    for event in told:
        if event.kind == "feedback":
            heard = event
        else:
            verdict = event if event.kind == "verdict" else None
    last = cast(Any, verdict or heard)
    return {
        "id": row.id,
        "label": last.what.get("label"),
        "action": last.what.get("action"),
        "by": last.who,
        "from": last.kind,
        "said": last.what.get("reason", ""),
        "weight": row.weight or 1.0,
        "queued": row.reason,
        "text": row.text,
        "picture": row.picture,
        "decided": {"action": row.action, "label": row.label, "probability": row.probability, "at": row.at.isoformat()},
    }
