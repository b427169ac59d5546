"""Reaching the decision log: an engine for SQLite or PostgreSQL, transactions, and the databases' errors as ours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Select, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ...errors import RunError
from .records import NotStorable, StoreError, StoreFull, StoreGone

_FULL = ("disk is full", "no space left", "disk full", "could not extend file")
_FULL_STATE = "53100"
"""PostgreSQL's code for a full disk."""
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError)
_READ_ONLY = "25006"
"""PostgreSQL's code where it is, for now, a copy of another."""
_BEYOND_LIMITS = "54"
"""PostgreSQL's class of codes for values beyond its limits; its driver calls them operational."""
_HEARD = timedelta(seconds=10)
"""So long the steady clock of a machine goes as the database's does."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_MIGRATING = 8_271_001
_ORDERED = 8_271_002
_BUSY_S = 10
_CONNECT_S = 3
_SILENT_MS = 10_000
_PATIENCE_MS = 200


@dataclass(frozen=True, slots=True)
class DatabaseTime:
    """Now, as the database has it; hosts' own clocks may differ, and are set anew."""

    at: datetime
    """For people."""
    tick: float
    """Seconds of the clock that claims run by."""
    clock: str
    """Which clock that is; ticks of two clocks are not compared."""


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
        self._ahead = timedelta(0)
        """Of our steady clock, how far the database's is; see `clock`."""
        self._heard: datetime | None = None
        """When it was heard, by our steady clock."""
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

    def migrate(self, form: str = "head") -> None:
        """Bring the tables to their present form, or to an earlier one; all of it or nothing.

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
                command.upgrade(settings, form)
            except CommandError as error:
                raise RunError(
                    f"the decision log {self.name} has tables of another version of Bifocal ({error}): "
                    "update Bifocal, or name another database"
                ) from None

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def clock(self) -> datetime:
        """The time by the database's clock, as it was heard last; never asks, and never goes back with a host's.

        SQLite has no clock of its own: the host's.
        """
        return _steady() + self._ahead if self._heard else datetime.now(UTC)

    def _tick(self) -> tuple[float, str]:
        """Seconds of the clock that claims run by, and which it is; never asks."""
        if self.engine.dialect.name == "sqlite":  # its processes share a machine, whose steady clock nobody sets
            return _steady().timestamp(), _boot()
        return self.clock().timestamp(), "database"

    def _hear(self, connection: Connection) -> None:
        if connection.dialect.name != "sqlite":
            at: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            self._heard = _steady()
            self._ahead = at - self._heard

    def _moment(self, connection: Connection) -> DatabaseTime:
        if connection.dialect.name != "sqlite" and (self._heard is None or _steady() - self._heard > _HEARD):
            self._hear(connection)
        return DatabaseTime(self.clock(), *self._tick())

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
            state = getattr(error.orig, "sqlstate", None) or ""
            if any(sign in told.lower() for sign in _FULL) or state == _FULL_STATE:
                raise StoreFull(f"the decision log {self.name} has no room: {told}") from error
            # SQLite says DatabaseError itself, and no kind of it, where the file is damaged or no database.
            away = isinstance(error, _AWAY) or error.connection_invalidated or type(error) is sa.exc.DatabaseError
            beyond = state.startswith(_BEYOND_LIMITS)
            if (away and not beyond) or state == _READ_ONLY:
                self.gone = True
                raise StoreGone(f"the decision log {self.name} cannot be reached: {told}") from error
            of_values = beyond or isinstance(error, sa.exc.DataError | sa.exc.IntegrityError)
            raise (NotStorable if of_values else StoreError)(f"the decision log {self.name} refuses: {told}") from error
        except (sa.exc.StatementError, UnicodeError, OverflowError) as error:  # of the driver, before it asks
            told = str(getattr(error, "orig", None) or type(error).__name__)  # without the values themselves
            raise NotStorable(f"the decision log {self.name} refuses: {told}") from error


def _steady() -> datetime:
    """Time since the machine was started, sleep included, as a moment of the first hours of 1970."""
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    return datetime.fromtimestamp(seconds, UTC)


@lru_cache(maxsize=1)
def _boot() -> str:
    """Which start of the machine that is; empty where the system does not say."""
    return _BOOT.read_text().strip()[:36] if _BOOT.is_file() else ""


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


def upsert(
    connection: Connection, table: Table, row: dict[str, Any], *, key: tuple[str, ...], new: tuple[str, ...]
) -> bool:
    """Insert a row, or let it take the place of that of the same ``key``; False where that is as ``new`` already."""
    made = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
    changed = {name: made.excluded[name] for name in row if name not in key}
    differs = sa.or_(  # as text: PostgreSQL compares no JSON
        *(sa.cast(table.c[name], sa.Text).is_distinct_from(sa.cast(made.excluded[name], sa.Text)) for name in new)
    )
    asked = made.on_conflict_do_update(index_elements=key, set_=changed, where=differs).returning(table.c.number)
    return connection.scalar(asked, row) is not None


def serialize_transactions(connection: Connection) -> None:
    """Let no two transactions past here at once; SQLite has one writer at a time."""
    if connection.dialect.name != "sqlite":
        connection.execute(select(func.pg_advisory_xact_lock(_ORDERED)))


def skip_locked(connection: Connection, asked: Select[Any]) -> Select[Any]:
    """The same rows, without those that another transaction is about to change; SQLite has one writer at a time."""
    return asked if connection.dialect.name == "sqlite" else asked.with_for_update(skip_locked=True)


def hour_of(connection: Connection, column: Any) -> Any:
    """A moment cut to its hour, as text in UTC."""
    if connection.dialect.name == "sqlite":
        return func.strftime("%Y-%m-%dT%H:00", column)
    return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:00')
