"""Who is signed in on the moderator's page, kept beside the log: a session ends for every service that shares it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, insert, select

from .database import Database
from .tables import sessions


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in."""

    name: str
    key_hash: str
    """Of the key that was shown; empty where none is needed."""


class Sessions(Database):
    """Begins, finds and ends sessions. Of what the browser holds only a hash is written: a copy of it opens nothing."""

    def begin_session(self, token: str, who: Session, lasting: timedelta) -> None:
        """Remember who bears a token; sessions that ran out are cleared away. Raises `StoreGone`, `StoreFull`."""
        with self._writing() as connection:
            now = self._moment(connection).at
            connection.execute(delete(sessions).where(sessions.c.until < now))
            until = now + lasting
            row = {"id": _hash(token), "name": who.name, "key_hash": who.key_hash, "until": until}
            connection.execute(insert(sessions), [row])

    def session(self, token: str) -> Session | None:
        """Who bears a token; None where its session ended or never was. Raises `StoreGone`."""
        with self._reading() as connection:
            of_it = sessions.c.id == _hash(token), sessions.c.until >= self._moment(connection).at
            row = connection.execute(select(sessions).where(*of_it)).one_or_none()
        return None if row is None else Session(row.name, row.key_hash)

    def end_session(self, token: str) -> None:
        """End a session, if there is one. Raises `StoreGone`, `StoreFull`."""
        with self._writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.id == _hash(token)))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
