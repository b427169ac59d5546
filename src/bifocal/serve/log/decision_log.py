"""The decision log as the service keeps it: the database, and a spool for as long as that cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ..settings import DECISIONS, ServeConfig
from .batch_writer import BatchWriter
from .decision_store import DecisionStore, read_secret
from .records import LogEntry, StoreGone
from .spool import Spool


class DecisionLog:
    """Writes decisions into the store, or into the spool where it is gone, and brings them home.

    Parameters
    ----------
    refuse : bool
        Whether posts are refused while the store is gone; else their decisions wait in the spool.
    """

    def __init__(self, store: DecisionStore, spool: Spool, *, refuse: bool):
        self.store = store
        self.spool = spool
        self.refuse = refuse
        self.writer = BatchWriter(self._write)

    @classmethod
    def of(cls, settings: ServeConfig, state: Path) -> Self:
        """The log of a service, SQLite in its state folder unless the settings name a database."""
        url = settings.database or f"sqlite:///{(state / DECISIONS).resolve()}"
        store = DecisionStore(url, secret=read_secret(state))
        return cls(store, Spool(state), refuse=settings.database_gone == "refuse")

    @property
    def gone(self) -> bool:
        """Whether no decision can be logged."""
        return self.refuse and self.store.gone

    def open(self) -> None:
        """Bring the tables to this version; blocks. Raises `BifocalError`."""
        try:
            self.store.migrate()
            self.store.sync()
            self._tell_spool()
        except StoreGone:
            if self.refuse:
                raise

    def maintain(self) -> None:
        """What the log needs now and then; blocks. Raises `BifocalError`."""
        if self.store.gone:
            self.store.migrate()
        self.store.sync()
        self._tell_spool()
        if self.spool.pending:
            self.spool.replay(self.store.record)

    def close(self) -> None:
        self.store.close()

    def _write(self, rows: Sequence[LogEntry], seal: Callable[[], None]) -> None:
        try:
            self.store.record(rows, seal)
        except StoreGone:
            if self.refuse:
                raise
            self._tell_spool()
            self.spool.append(rows, seal)

    def _tell_spool(self) -> None:
        if self.store.last_forgotten is not None:
            self.spool.remember_forgotten(self.store.last_forgotten)
