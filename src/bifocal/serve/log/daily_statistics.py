"""What the decision log says of the last day: by action, hour, client and policy, and of the shadow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row, func, select

from .database import Database, hour_of
from .records import VERDICTS, LoggedDecision
from .review_queue import to_decision, valid_verdicts
from .tables import decisions, events, feedback


class DailyStatistics(Database):
    """Summaries of the log."""

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
            of = (decisions.c.action, decisions.c.source, decisions.c.client, decisions.c.pattern)
            groups = hour_of(connection, decisions.c.at), *of, decisions.c.policy_version
            differ = func.sum(sa.cast(decisions.c.disagrees, sa.Integer)).label("differ")
            # One pass for all counts: a day may hold very many rows.
            asked = select(*groups, func.count().label("n"), func.count(decisions.c.shadow).label("scored"), differ)
            counted: Sequence[Row[Any]] = connection.execute(asked.where(recent).group_by(*groups)).all()
            cell = sa.cast(func.floor(decisions.c.probability * 20), sa.Integer)
            cells = select(cell, func.count()).where(recent, decisions.c.probability.is_not(None)).group_by(cell)
            histogram = [0] * 20
            for place, n in connection.execute(cells):
                histogram[min(19, int(place))] += n
            count = select(func.count()).select_from(feedback).where(feedback.c.at >= since)
            hours = _tally(counted, lambda row: (row[0], _named(1)(row)))
            return {
                **{
                    name: _tally(counted, _named(i))
                    for i, name in enumerate(("decisions", "sources", "clients", "patterns", "policies"), start=1)
                },
                "hours": sorted([hour, action, n] for (hour, action), n in hours.items()),
                "shadow": {
                    "scored": sum(row.scored for row in counted),
                    "disagree": sum(row.differ for row in counted),
                },
                "verdicts": _verdicts(connection, since),
                "feedback": connection.scalar(count) or 0,
                "probability": histogram,
            }

    def disagreements(self, limit: int = 20) -> list[LoggedDecision]:
        """The latest decisions that the shadow would have made otherwise. Raises `StoreGone`."""
        asked = select(decisions).where(decisions.c.disagrees).order_by(decisions.c.at.desc()).limit(limit)
        with self._reading() as connection:
            return [to_decision(row) for row in connection.execute(asked)]


def _named(column: int) -> Callable[[Row[Any]], str]:
    return lambda row: "none" if row[column] is None else row[column]


def _tally(counted: Sequence[Row[Any]], key: Callable[[Row[Any]], Any]) -> dict[Any, int]:
    """Counts by a key, the largest first."""
    tally: Counter[Any] = Counter()
    for row in counted:
        tally[key(row)] += row.n
    return dict(sorted(tally.items(), key=lambda item: (-item[1], item[0])))


def _verdicts(connection: Connection, since: datetime) -> dict[str, int]:
    """Verdicts that were not taken back, and those of them that say otherwise than the decision."""
    asked = (
        select(events).where(events.c.kind.in_(("verdict", "undone")), events.c.at >= since).order_by(events.c.number)
    )
    told: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(asked):
        told.setdefault(row.decision_id, []).append(row)
    counts = {"allow": 0, "block": 0, "overturned": 0}
    for what in (verdict.what for of_it in told.values() for verdict in valid_verdicts(of_it)):
        counts[what["action"]] += 1
        counts["overturned"] += what["decided"] in VERDICTS and what["decided"] != what["action"]
    return counts
