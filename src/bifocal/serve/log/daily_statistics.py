"""What the decision log says of the last day: by action, hour, client and policy, of each label, and of the shadow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from .database import Database, hour_of
from .records import VERDICTS, LoggedDecision, storable
from .review_queue import to_decision, valid_verdicts
from .tables import decisions, events, feedback

NOT_ASKED = "not asked"
"""What stands for the action of a label on posts of which it is not asked."""


class DailyStatistics(Database):
    """Summaries of the log."""

    def summary(self, since: datetime, label: str | None = None) -> dict[str, Any]:
        """What happened since then.

        Parameters
        ----------
        label : str, optional
            Of several labels the one whose own answers are told of; None = what was done with the posts. Decisions
            that name no labels (a list's, and those of a run of one label) are no part of it.

        Returns
        -------
        dict
            ``decisions``: count by action, with `NOT_ASKED` for posts of which the label is not asked; ``classes``:
            count by class (of the first label); ``sources``, ``clients``, ``patterns``, ``policies``: count by name;
            ``hours``: list of ``[hour in UTC, action, count]``; ``shadow``: ``{"scored", "disagree"}``; ``verdicts``:
            ``{"allow", "block", "overturned"}``; ``feedback``: count; ``probability``: 20 counts, of 0.00..0.05 and on.
            Verdicts and feedback are of posts, whatever the label.
        """
        with self._reading() as connection:
            recent, told = decisions.c.at >= since, _Told.of(label)
            if label is not None:
                recent &= decisions.c.labels.is_not(None)
            of = (told.action, decisions.c.source, decisions.c.client, decisions.c.pattern, decisions.c.policy_version)
            by = (hour_of(connection, decisions.c.at), *of, told.chosen)
            groups: list[ColumnElement[Any]] = [column.label(f"group_{i}") for i, column in enumerate(by)]
            differ = func.sum(sa.cast(told.disagrees, sa.Integer)).label("differ")
            # One pass for all counts: a day may hold very many rows.
            count_scored = func.count(told.shadow).label("scored")
            asked: Select[Any] = select(*groups, func.count().label("n"), count_scored, differ)
            counted: Sequence[Row[Any]] = connection.execute(asked.where(recent).group_by(*groups)).all()
            cell = sa.cast(func.floor(told.probability * 20), sa.Integer).label("cell")
            cells = select(cell, func.count()).where(recent, told.probability.is_not(None)).group_by(cell)
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
                "classes": _tally([row for row in counted if row.group_6 is not None], lambda row: str(row.group_6)),
                "hours": sorted([hour, action, n] for (hour, action), n in hours.items()),
                "shadow": {
                    "scored": sum(row.scored for row in counted),
                    "disagree": sum(row.differ or 0 for row in counted),
                },
                "verdicts": _verdicts(connection, since),
                "feedback": connection.scalar(count) or 0,
                "probability": histogram,
            }

    def disagreements(self, limit: int = 20, label: str | None = None) -> list[LoggedDecision]:
        """The latest decisions that the shadow would have made otherwise, by one of several labels or at all.

        Raises `StoreGone`.
        """
        differ = _Told.of(label).disagrees
        asked = select(decisions).where(differ).order_by(decisions.c.at.desc()).limit(limit)
        with self._reading() as connection:
            return [to_decision(row) for row in connection.execute(asked)]


class _Told(NamedTuple):
    """The columns that say what is decided of a post: those of the whole decision, or of what one label answers."""

    action: ColumnElement[Any]
    chosen: ColumnElement[Any]
    """The class."""
    probability: ColumnElement[Any]
    shadow: ColumnElement[Any]
    """Null where the shadow says nothing."""
    disagrees: ColumnElement[Any]

    @classmethod
    def of(cls, label: str | None) -> _Told:
        row = decisions.c
        if label is None:
            return cls(row.action, row.label, row.probability, row.shadow, row.disagrees)
        answer, disagrees = row.labels[storable(label)], row.shadow["labels"][storable(label)]["disagrees"].as_boolean()
        chosen = answer["label"].as_string()
        action = sa.case((chosen.is_(None), NOT_ASKED), else_=answer["action"].as_string())
        return cls(action, chosen, answer["prob"].as_float(), disagrees, disagrees)


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
