"""Reaching the decision log: an engine for SQLite or PostgreSQL, transactions, and the databases' errors as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Select, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ..errors import RunError
from .records import StoreError, StoreFull, StoreGone

_FULL = ("disk is full", "no space left", "disk full", "could not extend file")
_FULL_STATE = "53100"
"""PostgreSQL's code for a full disk."""
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError)
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_MIGRATING = 8_271_001
_BUSY_S = 10
_CONNECT_S = 3
_SILENT_MS = 10_000
_PATIENCE_MS = 200


class Database:
    """The database behind a URL. All that SQLite and PostgreSQL do differently stands in this file.

    Parameters
    ----------
    url : str
        ``sqlite:///decisions.sqlite``, ``postgresql+psycopg://user@host/name``; plain ``postgresql://`` means the same.

    Raises
    ------
    RunError
        Where the URL is none, or of another kind of database.
    """

    def __init__(self, url: str):
        self.gone = False
        """Whether the database could not be reached when it was last asked."""
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        allowed = "the decision log is a database such as sqlite:///FILE or postgresql://USER@HOST/NAME"
        try:
            parsed = sa.make_url(url)
            if parsed.drivername not in _DRIVERS:
                raise RunError(f"{allowed}, found {parsed.drivername}://: sqlite and postgresql are allowed")
            self.engine = _engine(parsed)
        except sa.exc.ArgumentError as error:
            raise RunError(f"{allowed}: {error}") from None
        self.name = parsed.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Bring the tables to their present form; all of it or nothing.

        Raises
        ------
        RunError
            Where a newer Bifocal made the tables.
        StoreGone, StoreFull
        """
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        settings = Config()
        settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":  # two services that start at once
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
            settings.attributes["connection"] = connection
            try:
                command.upgrade(settings, "head")
            except CommandError as error:
                raise RunError(
                    f"the decision log {self.name} has tables of another version of Bifocal ({error}): "
                    "update Bifocal, or name another database"
                ) from None

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._named(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._named(), self.engine.connect().execution_options(writes=False) as connection:
            yield connection

    def _overwrite(self) -> None:
        """Have what was deleted leave SQLite's write-ahead log too, unless somebody is reading it just now."""
        if self.engine.dialect.name != "sqlite":
            return
        with self._named():
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")  # writers wait while this waits for readers
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000}")
            finally:
                connection.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The database's own errors as ours."""
        try:
            yield
            self.gone = False
        except sa.exc.TimeoutError as error:  # of the pool: all its connections are busy
            raise StoreGone(f"the decision log {self.name} is busy: try again") from error
        except DBAPIError as error:
            told = str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__
            if any(sign in told.lower() for sign in _FULL) or getattr(error.orig, "sqlstate", "") == _FULL_STATE:
                raise StoreFull(f"the decision log {self.name} has no room: {told}") from error
            # SQLite says DatabaseError itself, and no kind of it, where the file is damaged or no database.
            if isinstance(error, _AWAY) or error.connection_invalidated or type(error) is sa.exc.DatabaseError:
                self.gone = True
                raise StoreGone(f"the decision log {self.name} cannot be reached: {told}") from error
            raise StoreError(f"the decision log {self.name} refuses: {told}") from error


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        waits = {"connect_timeout": _CONNECT_S, "tcp_user_timeout": _SILENT_MS}
        return sa.create_engine(url, pool_pre_ping=True, pool_size=5, connect_args=waits)
    if url.database and url.database != ":memory:":
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_S})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own begin comes too late for a write: see below
        # What is deleted is overwritten (secure_delete): who asks to be forgotten is not left in free pages.
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and then writes fails at once where another has written meanwhile; one that
        # says so at its beginning waits its turn.
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes", True) else "BEGIN"
        )

    return engine


def insert_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> set[str]:
    """Insert rows but those whose ``id`` is there already; the ids of those that were inserted."""
    if not rows:
        return set()
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return set(connection.scalars(make(table).on_conflict_do_nothing().returning(table.c.id), rows))


def free_ones(connection: Connection, asked: Select[Any]) -> Select[Any]:
    """The same rows, without those that another transaction is about to change; SQLite has one writer at a time."""
    return asked if connection.dialect.name == "sqlite" else asked.with_for_update(skip_locked=True)


def hour_of(connection: Connection, column: Any) -> Any:
    """A moment cut to its hour, as text in UTC."""
    if connection.dialect.name == "sqlite":
        return func.strftime("%Y-%m-%dT%H:00", column)
    return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:00')
