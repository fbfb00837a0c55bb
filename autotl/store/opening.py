"""Where a database is, how it is opened, and what to do about one that cannot be used."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import exc

from autotl.errors import StoreError, did_you_mean
from autotl.store.migrations import migrate
from autotl.store.migrations.tables import STUDY

LOCK_SECONDS = 60  # how long to wait for another process that is writing to a SQLite file
FAULTS = (exc.OperationalError, StorageInternalError)  # what befalls an open database
ADVICE = {  # by what the driver says; the last one fits everything
    "not a database": "it is a file of another kind, name a new one with --storage",
    "locked": "another program is writing to it, try again when that is done",
    "readonly": "give yourself the right to write there, or name another with --storage",
    "unable to open": "check that its folder is there and may be read and written",
    "disk is full": "make room and run the command again",
    "no module named": "install the driver, for PostgreSQL pip install 'psycopg[binary]'",
    "pq wrapper": "install the whole driver with pip install 'psycopg[binary]'",
    "can't load plugin": "write sqlite:///FILE.db, or postgresql+psycopg://... and "
    "pip install 'psycopg[binary]'",
    "optuna version": "keep a copy of the database before you do so",
    "": "check --storage: the server or file, the name, the user, the password and their rights",
}


def default_url(out: Path) -> str:
    """The URL of the database in the folder ``out``, which is made where it is missing.

    Raises:
        StoreError: The folder cannot be made, or not written to.
    """
    file = out / "autotl.db"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot make the folder {out}: {e.strerror}; choose another --out") from e
    if not file.exists() and not os.access(out, os.W_OK | os.X_OK):
        raise StoreError(f"the folder {out} is unwritable; choose another --out")
    return sa.URL.create("sqlite", database=str(file)).render_as_string()


def existing_url(place: str, option: str = "--storage") -> str:
    """The URL of a database of AutoTL that is there already; opening another would make it one.

    Args:
        place: A URL, the file of a SQLite database, or a folder with ``autotl.db``.
        option: Of the command line that named it, for messages.

    Raises:
        StoreError: There is no such file, or it cannot be read, or has no studies.
    """
    if "://" not in place:
        place = str(Path(place) / "autotl.db") if Path(place).is_dir() else place
        place = sa.URL.create("sqlite", database=place).render_as_string()
    try:
        at = _locate(place)
        file = Path(at.place)
        if at.url.get_backend_name() == "sqlite" and not file.is_file():
            near = did_you_mean(file.name, (f.name for f in file.parent.glob("*.db")))
            raise StoreError(f"{option}: there is no database {file}; {near}")
        with explained(at.place, (*FAULTS, exc.SQLAlchemyError, ImportError)):
            engine = sa.create_engine(at.url, **at.options)
            ours = sa.inspect(engine).has_table(STUDY.name)
        engine.dispose()
    except StoreError as e:
        raise StoreError(str(e).replace("--storage", option)) from e
    if not ours:
        raise StoreError(f"{option}: {at.place} is no database of AutoTL; name another")
    return place


def without_passwords(text: str) -> str:
    """A command line as it may be shown: what URLs of databases in it have as passwords is ***."""
    text = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
    return re.sub(r"([?&]passw(?:or)?d=)[^&\s'\"]*", r"\1***", text)


@dataclass(frozen=True)
class _Place:
    """Where a database is: for the engine, for people without the password, what to call it."""

    url: sa.URL
    hidden: str
    place: str
    options: dict[str, Any]  # of the engine


@dataclass(frozen=True)
class Opened:
    """An open database: Optuna's storage, its URL without the password, and what to call it."""

    storage: RDBStorage
    url: str
    place: str


def open_database(url: str) -> Opened:
    """Open a database, made if missing, and bring our tables to this program's schema.

    Raises:
        StoreError: It cannot be opened, or a newer autotl made it.
    """
    at = _locate(url)
    with explained(at.place, (*FAULTS, exc.SQLAlchemyError, ImportError, RuntimeError)):
        return Opened(_open(url, at.options, at.place), at.hidden, at.place)


def _locate(url: str) -> _Place:
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):
        # Neither the URL nor the cause is shown: a password may stand in either.
        raise StoreError(
            "the storage is not a database URL; write sqlite:///FILE.db or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME, where %40 is an @ in the password"
        ) from None
    public = parsed.difference_update_query(["password", "passwd"])
    hidden = public.render_as_string(hide_password=True)
    local = parsed.get_backend_name() == "sqlite"
    place = (parsed.database if local else None) or hidden
    if local and Path(place).is_dir():
        raise StoreError(f"the database {place} is a folder; name a file in it")
    options = {"connect_args": {"timeout": LOCK_SECONDS}} if local else {"pool_pre_ping": True}
    return _Place(parsed, hidden, place, options)


@contextmanager
def explained(place: str, faults: tuple[type[Exception], ...] = FAULTS) -> Iterator[None]:
    """Turns faults of a database that the user can mend into a StoreError that says how."""
    try:
        yield
    except faults as e:
        first: BaseException = e  # the error that the others wrap has the plainest words
        while first.__cause__:
            first = first.__cause__
        message = (str(first).splitlines() or [type(first).__name__])[0]
        advice = next(do for part, do in ADVICE.items() if part in message.lower())
        raise StoreError(f"cannot use the database {place}: {message}; {advice}") from e


def _open(url: str, options: dict[str, Any], place: str, tries: int = 5) -> RDBStorage:
    try:
        # Optuna calls str.format on the URL; a folder may have braces in its name.
        storage = RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
        try:
            migrate(storage.engine, place)
        except Exception:
            storage.engine.dispose()
            raise
        _speed_up(storage.engine)
    except exc.DBAPIError as e:
        # Workers that start together all find no tables, and only one of them can make them.
        lost_race = isinstance(e, exc.IntegrityError) or "already exists" in str(e)
        if not lost_race or tries == 1:
            raise
        time.sleep(0.2)
        return _open(url, options, place, tries - 1)
    return storage


def _speed_up(engine: sa.Engine) -> None:
    """Have SQLite append to a log instead of waiting for the disk at each of many small writes.

    A trial makes some fifty of them, which took a third of the time with the write-ahead log.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        # A read-only database and some network drives refuse; there it stays slow and safe.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

    engine.dispose()  # connections that are made from now on


def merge_log(engine: sa.Engine) -> None:
    """Merge SQLite's write-ahead log into the database file, unless another process uses it.

    Then the study is one file, which can be copied, and read from a folder that is read-only.
    """
    file = engine.url.database
    if engine.dialect.name != "sqlite" or not file or not Path(file).is_file():
        return
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(file, timeout=0)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
