"""The decision log, in SQLite or PostgreSQL by one path: what was decided, became known, is forgotten."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select

from ...errors import RunError
from .daily_statistics import DailyStatistics
from .database import insert_new, serialize_transactions, upsert
from .records import (
    Event,
    KeptPost,
    LogEntry,
    LoggedDecision,
    NotStorable,
    Receipt,
    storable_json,
)
from .review_queue import NUMBER, ReviewQueue, check_client, decision_row, event, item_of, to_decision, valid_verdicts
from .sessions import Sessions
from .tables import decisions, events, feedback, forgotten, items, originals, receipts, storable_row

SECRET = "secret"
"""The file of the state folder with the key of the subjects' hashes."""
_AT_ONCE = 200
"""Rows that are handled together where there may be very many."""
_LATEST = timedelta(days=90)
"""How long it is remembered that an author was forgotten of whom nothing was held; see `DecisionStore.forget`."""
KEPT = tuple(column.name for column in originals.c if column.name not in ("decision_id", "at"))
"""The columns that hold what is kept of a post."""
_COLUMNS = {column.name: "decision" if column.name == "body" else column.name for column in decisions.c}


def read_secret(state: Path) -> bytes:
    """The key of the subjects' hashes, made at the first use and kept beside the log.

    Raises
    ------
    RunError
        Where the file was damaged.
    """
    path = state / SECRET
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{SECRET}.{uuid.uuid4().hex}.part")
        with open(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as f:
            f.write(secrets.token_bytes(32))
            f.flush()
            os.fsync(f.fileno())
        try:
            os.link(made, path)  # of two that start at once, the first one's counts
        except FileExistsError:
            pass
        finally:
            made.unlink()
    secret = path.read_bytes()
    if len(secret) < 32:
        raise RunError(f"{path} holds no key of 32 bytes: put it back, or delete it and lose the link to old subjects")
    return secret


def hash_subject(secret: bytes, subject: str) -> str:
    """What is written of a subject: HMAC-SHA256."""
    return hmac.new(secret, subject.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def check_entry(row: LogEntry) -> LogEntry:
    """A decision as every log takes it. Raises `NotStorable`."""
    if not isinstance(row.id, str) or not NUMBER.fullmatch(row.id):
        raise NotStorable("the decision log refuses: a decision's id has 1 to 64 visible characters of ASCII")
    named = {name: getattr(row, field) for name, field in _COLUMNS.items() if hasattr(row, field)}
    values = {_COLUMNS[name]: v for name, v in storable_row(decisions, {**named, "subject": row.subject_hash}).items()}
    values["subject_hash"], values["subject"] = values["subject"], row.subject
    if not (
        isinstance(values["decision"], dict)
        and isinstance(values["shadow"], dict | None)
        and isinstance(values["labels"], dict | None)
        and isinstance(row.last_forgotten, int | None)
        and isinstance(row.subject, str | None)
    ):
        raise NotStorable("the decision log refuses: this is no decision")
    if row.original is not None:
        values["original"] = KeptPost(**storable_row(originals, row.original.columns))
    return replace(row, **values)


class DecisionStore(ReviewQueue, DailyStatistics, Sessions):
    """Log, queue and figures behind a URL (`Database`).

    Parameters
    ----------
    secret : bytes
        Key of the subjects' hashes.
    """

    def __init__(self, url: str, *, secret: bytes):
        super().__init__(url)
        self.secret = secret
        self.last_forgotten: int | None = None
        """The number of the last author that is known here to be forgotten; None = not asked yet."""

    # ------------------------------------------------------------------ what was decided

    def record(self, rows: Sequence[LogEntry], seal: Callable[[], None] = lambda: None) -> None:
        """Write decisions, all or none; one that is there already stays as it is.

        Those under review, and those drawn to be audited, join the queue. One that waited in the `Spool`, and whose
        author was forgotten meanwhile, is not written any more.

        Parameters
        ----------
        seal : callable, optional
            Called when nothing is left but to commit: what it raises keeps all of it out of the log.

        Raises
        ------
        NotStorable
            Where a row of them is refused.
        StoreGone, StoreFull
        """
        fresh: dict[str, LogEntry] = {}
        for row in rows:
            fresh.setdefault(row.id, check_entry(row))
        if not fresh:
            return
        with self._writing() as connection:
            written = self._remembered(connection, [self._row(row) for row in fresh.values()], fresh)
            made = insert_new(connection, decisions, written)
            new = [row for row in fresh.values() if row.id in made]
            queued = [row for row in new if row.action == "review" or row.audit]
            for table, content in (
                (items, [item_of(r.id, "review" if r.action == "review" else "audit", r.at, r) for r in queued]),
                (events, [event(row.id, "decided", row.client, row.at, {"action": row.action}) for row in new]),
                (
                    originals,
                    [{"decision_id": r.id, "at": r.at, **r.original.columns} for r in new if r.original is not None],
                ),
            ):
                if content:
                    connection.execute(insert(table), content)
            seal()

    def _row(self, row: LogEntry) -> dict[str, Any]:
        shadow = row.shadow or {}
        return {
            **{name: getattr(row, field) for name, field in _COLUMNS.items() if hasattr(row, field)},
            "subject": row.subject_hash if row.subject is None else hash_subject(self.secret, row.subject),
            "disagrees": "action" in shadow and shadow["action"] != row.action,
        }

    def _remembered(
        self, connection: Connection, rows: list[dict[str, Any]], of: Mapping[str, LogEntry]
    ) -> list[dict[str, Any]]:
        """Without rows that waited, of subjects that were forgotten meanwhile."""
        known = {number: row.last_forgotten for number, row in of.items() if row.last_forgotten is not None}
        subjects = {row["subject"] for row in rows if row["id"] in known} - {None}
        if not subjects:
            return rows
        serialize_transactions(connection)  # else one who is being forgotten would come back
        later = connection.execute(select(forgotten).where(forgotten.c.subject.in_(subjects))).all()
        return [
            row
            for row in rows
            if row["id"] not in known
            or not any(
                f.subject == row["subject"] and f.client in (None, row["client"]) and f.number > known[row["id"]]
                for f in later
            )
        ]

    def sync(self) -> None:
        """Hear the database's clock, and who was forgotten last. Raises `StoreGone`."""
        with self._reading() as connection:
            self._hear(connection)
            self.last_forgotten = connection.scalar(select(func.max(forgotten.c.number))) or 0

    def decision(self, number: str) -> LoggedDecision:
        """One decision. Raises `UnknownDecision`, `StoreGone`."""
        with self._reading() as connection:
            return to_decision(decision_row(connection, number))

    def original(self, number: str) -> KeptPost | None:
        """What was decided on, where it is kept. Raises `StoreGone`."""
        with self._reading() as connection:
            row = connection.execute(select(originals).where(originals.c.decision_id == number)).one_or_none()
            return None if row is None else KeptPost(**{name: row._mapping[name] for name in KEPT})

    def history(
        self, number: str, *, newest: int | None = None, before: int | None = None, kind: str | None = None
    ) -> list[Event]:
        """What happened to a decision: all of it in order, or the ``newest`` so many events, the last one first.

        ``before`` is the number of an event: of those that went before it. Raises `UnknownDecision`, `StoreGone`.
        """
        asked = select(events).where(events.c.decision_id == number)
        if before is not None:
            asked = asked.where(events.c.number < before)
        if kind is not None:
            asked = asked.where(events.c.kind == kind)
        order = events.c.number if newest is None else events.c.number.desc()
        with self._reading() as connection:
            decision_row(connection, number)
            rows = connection.execute(asked.order_by(order).limit(newest))
            return [Event(row.kind, row.who, row.at, row.what, row.number) for row in rows]

    # ------------------------------------------------------------------ what becomes known later

    def feedback(
        self,
        number: str,
        client: str | None,
        label: str,
        reason: str = "",
        *,
        who: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what a client says of a decision that it asked for, in the place of what it said before.

        Parameters
        ----------
        client : str or None
            None = whoever asked for the decision.
        label : str
            The class by the run's first label; empty = nothing is said of that.
        labels : mapping, optional
            Of further labels the classes by them.
        who : str, optional
            Who says it; None = who asked for the decision.

        Raises
        ------
        UnknownDecision, WrongClient, StoreGone, StoreFull
        """
        with self._writing() as connection:
            row = decision_row(connection, number)
            check_client(row, client)
            said = {"label": label, "labels": dict(sorted(labels.items())) if labels else None, "reason": reason}
            values = storable_row(feedback, {"decision_id": number, "client": who or row.client, **said})
            what = {name: values[name] for name in said}
            now = self._moment(connection).at
            if upsert(connection, feedback, {**values, "at": now}, key=("decision_id", "client"), new=tuple(what)):
                told = {name: value for name, value in what.items() if value is not None}
                connection.execute(insert(events), [event(number, "feedback", values["client"], now, told)])

    def labelled(self, run: str | None = None) -> Iterator[dict[str, Any]]:
        """What people said of decisions of a run: rows for retraining.

        Yields
        ------
        dict
            ``id``; ``label`` and ``action``, of which one may be None; ``labels``: classes by name of those that were
            named; ``acting``: of several labels those by which it was blocked or put under review; ``by``; ``from``:
            ``verdict`` or ``feedback``; ``said``: the reason given; ``judged``: when; ``sample``: how the decision came
            to be looked at by design, ``review`` or ``audit``, or None where somebody reported it or appealed;
            ``weight``: the decisions that it
            stands for in that sample; ``queued``; ``text``; ``picture``: PNG; ``tabular``; ``parts``; ``decided``. The
            last verdict counts; without one, the last feedback.
        """
        reported = select(feedback.c.number).where(feedback.c.decision_id == decisions.c.id).exists()
        asked = (
            select(decisions, items.c.reason, *(originals.c[name] for name in KEPT))
            .outerjoin(items, items.c.decision_id == decisions.c.id)
            .outerjoin(originals, originals.c.decision_id == decisions.c.id)
            .where(or_(items.c.verdict.is_not(None), reported))
            .order_by(decisions.c.at, decisions.c.id)
        )
        if run is not None:
            asked = asked.where(decisions.c.run == storable_row(decisions, {"run": run})["run"])
        with self._reading() as connection:
            for rows in connection.execution_options(yield_per=_AT_ONCE).execute(asked).partitions():
                told = connection.execute(
                    select(events)
                    .where(events.c.decision_id.in_([row.id for row in rows]))
                    .where(events.c.kind.in_(("verdict", "undone", "feedback")))
                    .order_by(events.c.number)
                ).all()
                for row in rows:
                    yield _labelled_row(row, [one for one in told if one.decision_id == row.id])

    # ------------------------------------------------------------------ what is forgotten

    def forget(self, subject: str, client: str | None = None) -> Receipt:
        """Delete all that is held of an author, and keep a receipt that does not name it.

        Where nothing is held there is no receipt. That the author was forgotten is noted either way, once for each, for
        decisions made before that are still on their way (`Spool`); where there was nothing, for 90 days.

        ``client`` None = of all clients; else of what this one sent. Raises `StoreGone`, `StoreFull`.
        """
        name = hash_subject(self.secret, subject)
        of_it = decisions.c.subject == name
        if client is not None:
            of_it &= decisions.c.client == client
        numbers = select(decisions.c.id).where(of_it)
        counts: dict[str, int] = {}
        with self._writing() as connection:
            serialize_transactions(connection)  # numbers are in the order in which they are seen
            now = self._moment(connection).at
            for table in (originals, feedback, items, events):
                counts[table.name] = connection.execute(delete(table).where(table.c.decision_id.in_(numbers))).rowcount
            counts["decisions"] = connection.execute(delete(decisions).where(of_it)).rowcount
            receipt = Receipt(uuid.uuid4().hex if any(counts.values()) else None, now, counts)
            if receipt.id is not None:
                row = {"id": receipt.id, "at": now, "subject": name, "client": client, "counts": counts}
                connection.execute(insert(receipts), [row])
            before = forgotten.c.subject == name, forgotten.c.client.is_not_distinct_from(client)
            connection.execute(delete(forgotten).where(*before))
            noted = insert(forgotten).values(subject=name, client=client, at=now).returning(forgotten.c.number)
            last = connection.scalar(noted)
        self.last_forgotten = last
        if receipt.id is not None:
            self._overwrite()
        return receipt

    def purge(self, before: datetime) -> int:
        """Delete originals older than that, some at a time; the number of them. Raises `StoreGone`, `StoreFull`.

        By the log's own `clock`. What is noted of authors of whom nothing was held goes too, after 90 days.
        """
        old = select(originals.c.decision_id).where(originals.c.at < before).limit(_AT_ONCE)
        purged = 0
        while True:
            with self._writing() as connection:
                numbers = connection.scalars(old).all()
                if numbers:
                    connection.execute(delete(originals).where(originals.c.decision_id.in_(numbers)))
                    now = self._moment(connection).at
                    connection.execute(insert(events), [event(number, "purged", "", now) for number in numbers])
            if not numbers:
                break
            purged += len(numbers)
        with self._writing() as connection:
            proved = select(receipts.c.id).where(receipts.c.subject == forgotten.c.subject).exists()
            unproved = forgotten.c.at < self._moment(connection).at - _LATEST, ~proved
            connection.execute(delete(forgotten).where(*unproved))
        if purged:
            self._overwrite()
        return purged


def _kept(row: Row[Any]) -> dict[str, Any]:
    found = {name: row._mapping[name] for name in KEPT}  # logs of old hold NaN and the like
    return {name: part if isinstance(part, bytes) else storable_json(part) for name, part in found.items()}


def _labelled_row(row: Row[Any], told: Sequence[Row[Any]]) -> dict[str, Any]:
    last = [*(one for one in told if one.kind == "feedback"), *valid_verdicts(told)][-1]
    return {
        "id": row.id,
        "label": last.what.get("label"),
        "labels": last.what.get("labels") or {},
        "action": last.what.get("action"),
        "acting": [
            name for name, one in (row.labels or {}).items() if one is not None and one["action"] in ("review", "block")
        ],
        "by": last.who,
        "from": last.kind,
        "said": last.what.get("reason", ""),
        "judged": last.at.isoformat(),
        "sample": "review" if row.action == "review" else "audit" if row.audit else None,
        "weight": row.weight or 1.0,
        "queued": row.reason,
        **_kept(row),
        "decided": {
            "action": row.action,
            "label": row.label,
            "probability": row.probability,
            "at": row.at.isoformat(),
            "source": row.source,
            "policy_version": row.policy_version,
        },
    }
