"""What the decision log says of the last day: by action, hour, client and policy, and of the shadow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import func, select

from .database import Database, hour_of
from .queue import kept
from .records import VERDICTS, Kept
from .tables import decisions, events, feedback


class Figures(Database):
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

            def by(column: Any) -> dict[str, int]:
                asked = select(column, func.count()).where(recent).group_by(column).order_by(func.count().desc())
                return {str(name) if name is not None else "none": n for name, n in connection.execute(asked)}

            hour = hour_of(connection, decisions.c.at)
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
            return [kept(row) for row in connection.execute(asked)]
