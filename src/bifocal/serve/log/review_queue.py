"""The review queue: who has which post in hand, what was decided on it, and what is asked to be looked at again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, insert, literal, or_, select, tuple_, update

from .database import Database, DatabaseTime, skip_locked
from .records import (
    VERDICTS,
    Conflict,
    Event,
    Item,
    LoggedDecision,
    Reason,
    Sort,
    StoreError,
    UnknownDecision,
    WrongClient,
    distance,
    storable,
)
from .tables import decisions, events, items, originals, storable_row

LEASE_S = 300
_TRIES = 20
NUMBER = re.compile(r"[!-~]{1,64}")


class ReviewQueue(Database):
    """Items, and the events of their decisions; `DecisionStore` adds the log behind them."""

    def queue(
        self,
        *,
        state: str = "open",
        reason: Reason | None = None,
        client: str | None = None,
        pattern: str | None = None,
        label: str | None = None,
        sort: Sort = "uncertainty",
        limit: int = 50,
        after: tuple[Any, str] | None = None,
    ) -> list[Item]:
        """A page of the queue.

        Parameters
        ----------
        state : {"open", "done"}
        label : str, optional
            Posts alone that this one of several labels puts under review.
        sort : {"uncertainty", "age"}
            Nearest to where the decision turns first, or longest waiting first.
        after : (float or datetime, str), optional
            ``distance`` or ``since``, and ``id``, of the last item of the page before.

        Raises
        ------
        StoreGone
        """
        key = _key(sort)
        order = key, items.c.decision_id
        page = _filtered(select(items.c.decision_id).where(items.c.state == state), reason, client, pattern, label)
        if after is not None:
            page = page.where(tuple_(*order) > tuple_(literal(after[0], key.type), storable(after[1])))
        # The page first, off its index, then what belongs to it: joined first, PostgreSQL would sort the whole queue.
        asked = _ITEMS.where(items.c.decision_id.in_(page.order_by(*order).limit(limit))).order_by(*order)
        with self._reading() as connection:
            return [_whole(row) for row in connection.execute(asked)]

    def item(self, number: str) -> Item:
        """One item. Raises `UnknownDecision` where the decision is not in the queue, `StoreGone`."""
        with self._reading() as connection:
            return self._item(connection, number)

    def _item(self, connection: Connection, number: str) -> Item:
        row = None
        if NUMBER.fullmatch(number):
            row = connection.execute(_ITEMS.where(items.c.decision_id == number)).one_or_none()
        if row is None:
            decision_row(connection, number)
            raise UnknownDecision(f"the decision {number!r} is not in the queue")
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
        label: str | None = None,
        sort: Sort = "uncertainty",
        exclude: Sequence[str] = (),
    ) -> Item | None:
        """Take an item into one's hands, so that nobody else is handed it.

        Parameters
        ----------
        number : str, optional
            None = the first that is free, in the order of ``sort``.
        lease_s : float
            After which it is free again, by the database's clock.
        exclude : sequence of str, optional
            Items that are passed over.

        Returns
        -------
        Item or None
            None where none is free.

        Raises
        ------
        Conflict
            Where the item that was named is in other hands, or decided.
        UnknownDecision, StoreGone
        """
        who = storable(who)
        with self._writing() as connection:
            now = self._moment(connection)
            free = or_(~_held(now), items.c.claimed_by == who)
            if number is not None:
                item = self._item(connection, number)
                if not self._take(connection, number, who, now, lease_s, free):
                    by = f"claimed by {item.claimed_by}" if item.state == "open" else f"{item.state} already"
                    raise Conflict(f"the item {number} is {by}: take another")
                return self._item(connection, number)
            asked = _filtered(
                select(items.c.decision_id).where(items.c.state == "open", free), reason, client, pattern, label
            )
            if exclude:
                asked = asked.where(items.c.decision_id.not_in([n for n in exclude if NUMBER.fullmatch(n)]))
            asked = skip_locked(connection, asked.order_by(_key(sort), items.c.decision_id).limit(1))
            for _ in range(_TRIES):
                first = connection.scalar(asked)
                if first is None:
                    return None
                if self._take(connection, first, who, now, lease_s, free):
                    return self._item(connection, first)
            return None

    def _take(
        self, connection: Connection, number: str, who: str, now: DatabaseTime, lease_s: float, free: Any
    ) -> bool:
        changed = connection.execute(
            update(items)
            .where(items.c.decision_id == number, items.c.state == "open", free)
            .values(_hold(who, now, lease_s))
        )
        if changed.rowcount:
            connection.execute(insert(events), [event(number, "claimed", who, now.at)])
        return bool(changed.rowcount)

    def keep(self, number: str, who: str, lease_s: float = LEASE_S) -> datetime:
        """Keep an item in one's hands for longer, also where its lease ran out and nobody else took it; no event.

        Returns
        -------
        datetime
            Until when.

        Raises
        ------
        Conflict
            Where it is in other hands, or decided.
        UnknownDecision, StoreGone
        """
        who = storable(who)
        with self._writing() as connection:
            held = _hold(who, self._moment(connection), lease_s)
            mine = items.c.decision_id == number, items.c.state == "open", items.c.claimed_by == who
            if not connection.execute(update(items).where(*mine).values(held)).rowcount:
                item = self._item(connection, number)
                by = "decided already" if item.state == "done" else f"claimed by {item.claimed_by or 'nobody'}"
                raise Conflict(f"the item {number} is {by}: claim it first")
        until: datetime = held["claimed_until"]
        return until

    def waiting(
        self,
        who: str,
        *,
        reason: Reason | None = None,
        client: str | None = None,
        pattern: str | None = None,
        label: str | None = None,
        exclude: Sequence[str] = (),
        most: int = 1000,
    ) -> int:
        """How many items ``who`` could be handed, counted up to ``most``. Raises `StoreGone`."""
        with self._reading() as connection:
            free = or_(~_held(self._moment(connection)), items.c.claimed_by == storable(who))
            asked = _filtered(
                select(items.c.decision_id).where(items.c.state == "open", free), reason, client, pattern, label
            )
            asked = asked.where(items.c.decision_id.not_in(exclude)).limit(most)
            return connection.scalar(select(func.count()).select_from(asked.subquery())) or 0

    def left_s(self, item: Item) -> float | None:
        """Seconds that a claim still runs, by the clock that it runs by; None where the item is in nobody's hands."""
        tick, clock = self._tick()
        if item.claimed_by is None or item.lease is None or item.lease_clock != clock or item.lease < tick:
            return None
        return item.lease - tick

    def release(self, number: str, who: str) -> None:
        """Put an item back. Raises `Conflict` where it is not in these hands, `UnknownDecision`, `StoreGone`."""
        with self._writing() as connection:
            self._change(connection, number, who, "released", _FREE)

    def verdict(
        self,
        number: str,
        who: str,
        action: str,
        reason: str = "",
        label: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Event:
        """Decide an item that is in one's hands.

        Parameters
        ----------
        action : {"allow", "block"}
        label : str, optional
            The class that the post is of, where the action does not say it (several classes).
        labels : mapping, optional
            Of several labels the classes by those of which it is said.

        Raises
        ------
        Conflict
            Where it is not, or not any more.
        UnknownDecision, StoreGone
        """
        if action not in VERDICTS:
            raise StoreError(f"a verdict is {' or '.join(VERDICTS)}, found {action!r}")
        who = storable(who)
        with self._writing() as connection:
            before = self._item(connection, number)
            told: dict[str, object] = {"action": action, "reason": storable(reason), "label": label}
            told |= {"decided": before.decision.action, **({"labels": dict(labels)} if labels else {})}
            values = {"state": "done", "verdict": action, "judged_by": who, **_FREE}
            return self._change(connection, number, who, "verdict", values, told)

    def _change(
        self,
        connection: Connection,
        number: str,
        who: str,
        kind: str,
        values: Mapping[str, object],
        what: Mapping[str, object] | None = None,
    ) -> Event:
        """Change an open item in ``who``'s hands, whose claim has not run out."""
        who, now = storable(who), self._moment(connection)
        changed = connection.execute(
            update(items)
            .where(
                items.c.decision_id == number,
                items.c.state == "open",
                items.c.claimed_by == who,
                _held(now),
            )
            .values(values)
        )
        if not changed.rowcount:
            item = self._item(connection, number)
            held = "decided already" if item.state == "done" else f"claimed by {item.claimed_by or 'nobody'}"
            raise Conflict(f"the item {number} is {held}, or {who}'s claim has run out: claim it first")
        row = event(number, kind, who, now.at, what)
        connection.execute(insert(events), [row])
        return Event(kind, row["who"], now.at, row["what"])

    def undo(self, number: str, who: str) -> None:
        """Take one's own verdict back; the item is in one's hands again, and an earlier verdict, if any, stands.

        Raises
        ------
        Conflict
            Where the last verdict is another's, or there is none.
        UnknownDecision, StoreGone
        """
        who = storable(who)
        with self._writing() as connection:
            now = self._moment(connection)
            asked = select(events).where(events.c.decision_id == number).order_by(events.c.number)
            before = valid_verdicts(connection.execute(asked).all())[:-1]
            verdict, by = (before[-1].what["action"], before[-1].who) if before else (None, None)
            changed = connection.execute(
                update(items)
                .where(items.c.decision_id == number, items.c.state == "done", items.c.judged_by == who)
                .values(state="open", verdict=verdict, judged_by=by, **_hold(who, now, LEASE_S))
            )
            if not changed.rowcount:
                item = self._item(connection, number)
                by = f"was decided by {item.judged_by}" if item.state == "done" else "waits in the queue"
                raise Conflict(f"the item {number} {by}: only {who}'s own last verdict is taken back")
            connection.execute(insert(events), [event(number, "undone", who, now.at)])

    def appeal(self, number: str, who: str, reason: str, client: str | None = None) -> None:
        """Ask that a decision, or a verdict on it, be looked at again; it joins the queue.

        ``client`` None = whoever asked for the decision. Raises `UnknownDecision`, `WrongClient`, `Conflict` where it
        waits there already, `StoreGone`.
        """
        with self._writing() as connection:
            row = decision_row(connection, number)
            check_client(row, client)
            now = self._moment(connection).at
            changed = connection.execute(
                update(items)
                .where(items.c.decision_id == number, items.c.state == "done")
                .values(state="open", reason="appeal", since=now, **_FREE)
            )
            if not changed.rowcount:
                if connection.scalar(select(items.c.state).where(items.c.decision_id == number)) is not None:
                    raise Conflict(f"the decision {number} waits in the queue already")
                connection.execute(insert(items), [item_of(number, "appeal", now, row)])
            connection.execute(insert(events), [event(number, "appealed", who, now, {"reason": storable(reason)})])

    def counts(self) -> dict[str, int]:
        """Items by reason that are open (``open.review``, ...), those claimed, and those done."""
        with self._reading() as connection:
            now = self._moment(connection)
            asked = select(items.c.state, items.c.reason, func.count()).group_by(items.c.state, items.c.reason)
            found: dict[str, int] = {}
            for state, reason, n in connection.execute(asked):
                name = f"open.{reason}" if state == "open" else "done"
                found[name] = found.get(name, 0) + n
            held = select(func.count()).where(items.c.state == "open", _held(now))
            return {**found, "claimed": connection.scalar(held) or 0}


def valid_verdicts(told: Iterable[Any]) -> list[Any]:
    """Of an item's events, in their order, the verdicts that were not taken back."""
    verdicts: list[Any] = []
    for one in told:
        if one.kind == "verdict":
            verdicts.append(one)
        elif one.kind == "undone" and verdicts:
            verdicts.pop()
    return verdicts


def event(number: str, kind: str, who: str, at: datetime, what: Mapping[str, object] | None = None) -> dict[str, Any]:
    """A row of the events."""
    return storable_row(events, {"decision_id": number, "kind": kind, "who": who, "at": at, "what": what or {}})


def item_of(number: str, reason: Reason, since: datetime, decision: Any) -> dict[str, Any]:
    """A row of the queue for a decision, `LogEntry` or as the log has it."""
    return {
        "decision_id": number,
        "since": since,
        "reason": reason,
        "state": "open",
        "client": decision.client,
        "pattern": decision.pattern,
        "distance": _distance(decision),
    }


def _distance(decision: Any) -> float:
    """How far a decision is from turning, by whichever of several labels puts it under review."""
    under_review = [one for one in (decision.labels or {}).values() if one and one["action"] == "review"]
    found = [distance(one["prob"], one["threshold"]) for one in under_review]
    return min(found, default=distance(decision.probability, decision.threshold))


def decision_row(connection: Connection, number: str) -> Row[Any]:
    """The row of a decision. Raises `UnknownDecision`."""
    row = None
    if NUMBER.fullmatch(number):  # a NUL, or a surrogate, is more than a database takes
        row = connection.execute(select(decisions).where(decisions.c.id == number)).one_or_none()
    if row is None:
        raise UnknownDecision(f"there is no decision {number[:64]!r}")
    return row


def check_client(row: Row[Any], client: str | None) -> None:
    """Raise `WrongClient` where a client is named and the decision is another's."""
    if client is not None and row.client != client:
        raise WrongClient(f"there is no decision {row.id!r}")  # that it exists is none of another's business


def to_decision(row: Row[Any]) -> LoggedDecision:
    """A decision as the log has it; columns by their tables, as an item's client and pattern bear the same names."""
    return LoggedDecision(**{f.name: row._mapping[decisions.c[f.name]] for f in fields(LoggedDecision)})


_FREE = {"claimed_by": None, "claimed_until": None, "lease": None, "lease_clock": None}


def _hold(who: str, now: DatabaseTime, lease_s: float) -> dict[str, Any]:
    until = now.at + timedelta(seconds=lease_s)
    return {"claimed_by": who, "claimed_until": until, "lease": now.tick + lease_s, "lease_clock": now.clock}


def _held(now: DatabaseTime) -> ColumnElement[bool]:
    """Whether an item is in somebody's hands. A claim by a clock that runs no more (of a machine that was started anew
    since, or of an earlier form of these tables) has ended."""
    return and_(
        items.c.claimed_by.is_not(None),
        func.coalesce(items.c.lease_clock, "-") == now.clock,
        func.coalesce(items.c.lease, 0.0) >= now.tick,
    )


_ITEMS = (
    select(decisions, items, originals.c.text, originals.c.picture.is_not(None).label("has_picture"))
    .join(decisions, decisions.c.id == items.c.decision_id)
    .outerjoin(originals, originals.c.decision_id == items.c.decision_id)
)


def _filtered(
    asked: Select[Any], reason: Reason | None, client: str | None, pattern: str | None, label: str | None
) -> Select[Any]:
    if label is not None:
        under_review = decisions.c.labels[storable(label)]["action"].as_string() == "review"
        asked = asked.where(select(decisions.c.id).where(decisions.c.id == items.c.decision_id, under_review).exists())
    for column, value in ((items.c.reason, reason), (items.c.client, client), (items.c.pattern, pattern)):
        if value is not None:
            asked = asked.where(column == storable(value))
    return asked


def _key(sort: Sort) -> ColumnElement[Any]:
    return items.c.distance if sort == "uncertainty" else items.c.since


def _whole(row: Row[Any]) -> Item:
    mapped = row._mapping
    of_item = {f.name: mapped[items.c[f.name]] for f in fields(Item) if f.name in items.c}
    return Item(
        id=mapped[decisions.c.id], decision=to_decision(row), words=row.text, has_picture=row.has_picture, **of_item
    )
