"""The connection to a database, and its clock."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from autotl.store import quick
from autotl.store.lock import lock
from autotl.store.migrations import tables
from autotl.store.opening import (
    DATABASE_ERRORS,
    convert_damage,
    convert_damage_of_optuna,
    convert_errors,
    merge_write_ahead_log,
    open_database,
)
from autotl.store.optuna_storage import TrialStorage


class clock(GenericFunction[float]):
    """The time of the database in seconds since 1970, which all machines share."""

    type = sa.Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _of_sqlite(element: clock, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _of_postgresql(element: clock, compiler: Any, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(clock, "mysql", "mariadb")
def _of_mysql(element: clock, compiler: Any, **_: Any) -> str:
    return "(UNIX_TIMESTAMP(SYSDATE(6)) + 0e0)"


class Database:
    """An open database: ``storage`` is Optuna's storage, ``url`` the URL without the password.

    Every method raises ``StoreError`` if the database cannot be used, because it is locked for a
    minute or read-only, the disk is full, or the server does not respond.
    """

    storage: TrialStorage
    url: str

    def __init__(self, url: str) -> None:
        """Open or create a database, and migrate AutoTL's tables to the schema of this version.

        Raises:
            StoreError: It cannot be opened, or a newer version of AutoTL created it.
        """
        database = open_database(url)
        self.storage, self.url, self.label = database.storage, database.public_url, database.label

    def options(self, out: Path) -> str:
        """Return the options that select this database and the run folders in ``out``."""
        parts = [] if out == Path("runs") else ["--out", str(out)]
        if self.label != str(out / "autotl.db"):
            parts += ["--storage", self.url]
        return "".join(f" {shlex.quote(part)}" for part in parts)

    def lock_file(self, study: str, folder: Path) -> Path:
        """Return the file that a process locks while it runs the study, see ``quick``."""
        engine = self.storage.engine
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        return quick.lock_file(Path(file) if file else None, study, folder)

    def lock(self, study: str, folder: Path, advice: str = "") -> AbstractContextManager[None]:
        """Lock the study, see ``store.lock``; ``folder`` is its run folder.

        Raises:
            StudyInUse: Another process runs the study.
            StoreError: The lock file cannot be written.
        """
        return lock(self.lock_file(study, folder), study, advice)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self.storage.remove_session()
        self.storage.engine.dispose()
        merge_write_ahead_log(self.storage.engine)

    def now(self) -> float:
        """Return the time of the database in seconds since 1970."""
        with self.read() as connection:
            return float(connection.scalar(sa.select(clock())) or 0.0)

    @contextmanager
    def convert_errors(self) -> Iterator[None]:
        """Convert errors of the database that Optuna raises inside to StoreError."""
        with convert_errors(self.label), convert_damage_of_optuna(self.label):
            yield

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a connection that only reads."""
        with (
            convert_errors(self.label, (*DATABASE_ERRORS, exc.DatabaseError)),
            convert_damage(self.label),
            self.storage.engine.connect() as connection,
        ):
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Begin a transaction that writes, see ``tables.write_transaction``."""
        with (
            convert_errors(self.label),
            tables.write_transaction(self.storage.engine) as connection,
        ):
            yield connection
