"""Find and open a database, and explain to the user why one cannot be used."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.distributions import json_to_distribution
from optuna.exceptions import StorageInternalError
from sqlalchemy import exc

from autotl.errors import StoreError, did_you_mean, find_path_fault, shorten
from autotl.store import waiting
from autotl.store.migrations import migrate
from autotl.store.migrations.tables import STUDY
from autotl.store.optuna_storage import TrialStorage

DATABASE_ERRORS = (exc.OperationalError, StorageInternalError)
"""The errors that an open database can raise, such as a full disk."""

OPENING_ERRORS = (
    *(*DATABASE_ERRORS, exc.SQLAlchemyError, ImportError, RuntimeError),
    *(TypeError, ValueError),  # parameters in the URL that the driver does not accept
)
"""The errors that opening a database can raise."""

STORAGES = "optuna.storages"
"""The package of Optuna that reads its tables."""

SECRET = "pass|pwd|secret|token|credential|key"
"""Words in a parameter of a URL whose value is not shown."""

SHELL_WORD = r"(?:'[^']*'|\"[^\"]*\"|\S)+"
"""A word of a command line; blanks are part of it if they are quoted."""

HINTS = {
    "not a database": "it is another kind of file; choose a new file with --storage",
    "locked": "another program is writing to it; run the command again when that has finished",
    "readonly": "make the file and its folder writable, or choose another one with --storage",
    "unable to open": "check that its folder exists and that you may read and write it",
    "disk is full": "free some disk space and run the command again",
    "server closed the connection": "the server has stopped or was restarted; run the command "
    "again when it runs",
    "connection refused": "start the database server, or check --storage: its host and port",
    "no module named 'mysqldb'": "write mysql+pymysql://... and run: pip install pymysql",
    "no module named 'pymysql'": "install the driver: pip install pymysql",
    "no module named 'psycopg2'": "write postgresql+psycopg://... and run: "
    "pip install 'psycopg[binary]'",
    "no module named 'psycopg'": "install the driver: pip install 'psycopg[binary]'",
    "no module named": "install the driver of this kind of database with pip",
    "pq wrapper": "install the complete driver: pip install 'psycopg[binary]'",
    "can't load plugin": "write sqlite:///FILE.db, postgresql+psycopg://... (pip install "
    "'psycopg[binary]') or mysql+pymysql://... (pip install pymysql)",
    "optuna version": "copy the database before you upgrade it",
    "": "check --storage: the server or file, the name, the user, the password and the permissions",
}
"""What to do about an error, by a part of its message; the last hint applies to all others."""


def default_url(out: Path) -> str:
    """Return the URL of the database in the folder ``out``; create the folder if necessary.

    Raises:
        StoreError: The folder cannot be created or written to.
    """
    file = out / "autotl.db"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot create {out}: {e.strerror}; choose another --out") from e
    if not file.exists() and not os.access(out, os.W_OK | os.X_OK):
        raise StoreError(f"the folder {out} is not writable; choose another --out")
    try:
        return sa.URL.create("sqlite", database=str(file)).render_as_string()
    except UnicodeEncodeError:  # SQLite opens files by names in UTF-8
        raise StoreError(f"the name of {out} is not valid Unicode; choose another --out") from None


def existing_url(database: str, option: str = "--storage") -> str:
    """Return the URL of an existing AutoTL database, without creating files or tables.

    Args:
        database: A URL, the file of a SQLite database, or a folder with ``autotl.db``.
        option: The command-line option with which it was given, for messages.

    Raises:
        StoreError: It does not exist, cannot be read, or has no AutoTL tables.
    """
    if "://" not in database:
        if fault := find_path_fault(database):
            raise StoreError(f"{option}: {shorten(database)} is not a valid path: {fault}")
        database = str(Path(database) / "autotl.db") if Path(database).is_dir() else database
        database = sa.URL.create("sqlite", database=database).render_as_string()
    try:
        address = _parse_address(database)
        file = Path(address.label)
        if address.url.get_backend_name() == "sqlite" and not file.is_file():
            near = did_you_mean(file.name, (f.name for f in file.parent.glob("*.db")))
            raise StoreError(f"{option}: there is no database {file}; {near}")
        with convert_errors(address.label, OPENING_ERRORS):
            engine = sa.create_engine(address.url, **address.engine_options)
            has_tables = sa.inspect(engine).has_table(STUDY.name)
        engine.dispose()
    except StoreError as e:
        raise StoreError(str(e).replace("--storage", option)) from e
    if not has_tables:
        raise StoreError(f"{option}: {address.label} is not an AutoTL database; choose another")
    return database


def without_passwords(text: str) -> str:
    """Replace the passwords of the database URLs in a text, such as a command line, by ``***``.

    Everything between the user and the last ``@`` of a URL counts as the password, because one that
    is not encoded may contain ``@``, ``:`` and ``/``. So do the values of keys that look like it.

    >>> without_passwords("postgresql://me:p@ss@host/x?sslpassword=a&timeout=3")
    'postgresql://me:***@host/x?sslpassword=***&timeout=3'
    """
    return re.sub(SHELL_WORD, lambda word: _hide_passwords(word[0]), text)


def _hide_passwords(word: str) -> str:
    if ":/" not in word:  # a driver's message may have the parameters of the connection
        return re.sub(r"(\w*(?:passw|pwd)\w*=)[^\s'\"&;]*", r"\1***", word, flags=re.IGNORECASE)
    word = re.sub(r"(:/+[^:/@?]*):.*@", r"\1:***@", word, flags=re.DOTALL)

    def hide(pair: re.Match[str]) -> str:
        return f"{pair[1]}***" if re.search(SECRET, pair[0], re.IGNORECASE) else pair[0]

    return re.sub(r"([?&;][^=&;]*=)[^&;'\"]*", hide, word)


@dataclass(frozen=True)
class _Address:
    """The address of a database.

    Attributes:
        url: The complete URL.
        public_url: The URL without the password.
        label: The SQLite file, or ``public_url``, for messages.
        engine_options: Keywords of ``sqlalchemy.create_engine``.
    """

    url: sa.URL
    public_url: str
    label: str
    engine_options: dict[str, Any]


@dataclass(frozen=True)
class OpenDatabase:
    """An open database.

    Attributes:
        storage: Optuna's storage.
        public_url: The URL without the password.
        label: The SQLite file, or ``public_url``, for messages.
    """

    storage: TrialStorage
    public_url: str
    label: str


def open_database(url: str) -> OpenDatabase:
    """Open or create a database, and migrate AutoTL's tables to the schema of this version.

    Raises:
        StoreError: It cannot be opened, or a newer version of AutoTL created it.
    """
    address = _parse_address(url)
    with convert_errors(address.label, OPENING_ERRORS):
        storage = _open(url, address.engine_options, address.label)
        return OpenDatabase(storage, address.public_url, address.label)


def _parse_address(url: str) -> _Address:
    try:
        parsed = sa.make_url(url)
        if "@" in (parsed.host or ""):  # the password has an @, and its end would be the host
            raise ValueError
        public_url = without_passwords(parsed.render_as_string(hide_password=True))
    except (exc.ArgumentError, ValueError):
        # The message contains neither the URL nor the cause: both may contain a password.
        raise StoreError(
            "the storage is not a database URL; write sqlite:///FILE.db or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME, with %40 for an @ in the password"
        ) from None
    is_sqlite = parsed.get_backend_name() == "sqlite"
    label = (parsed.database if is_sqlite else None) or public_url
    if is_sqlite and (fault := find_path_fault(label)):
        raise StoreError(f"the database {shorten(label)} is not a valid path: {fault}")
    if is_sqlite and Path(label).is_dir():
        raise StoreError(f"the database {label} is a folder; give a file in it")
    connect = {"timeout": waiting.NOTICE_SECONDS, "factory": waiting.WaitingConnection}
    options: dict[str, Any] = {"connect_args": connect} if is_sqlite else {}
    return _Address(parsed, public_url, label, options)


@contextmanager
def convert_damage(label: str) -> Iterator[None]:
    """Convert errors of reading what is stored, such as text that is no JSON, to a StoreError.

    Args:
        label: The database, for the message.

    Raises:
        StoreError: What is stored cannot be read.
    """
    try:
        yield
    except ValueError as error:  # of the json module, and of pydantic
        raise _damage(label, error) from error


@contextmanager
def convert_damage_of_optuna(label: str) -> Iterator[None]:
    """Convert errors of Optuna in reading what is stored, such as text that is no JSON.

    Args:
        label: The database, for the message.

    Raises:
        StoreError: What is stored in Optuna's tables cannot be read.
    """
    try:
        yield
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        is_reading = any(f.f_globals.get("__name__", "").startswith(STORAGES) for f in frames)
        is_value = isinstance(error, json.JSONDecodeError) or type(error) is LookupError  # of enums
        if not is_reading or not (
            is_value or any(f.f_code is json_to_distribution.__code__ for f in frames)
        ):
            raise
        raise _damage(label, error) from error


def _damage(label: str, error: Exception) -> StoreError:
    lines = [line.strip() for line in str(error).splitlines()][:3]
    return StoreError(
        f"the database {label} is damaged: {': '.join(lines)}; use a backup of it, or choose "
        "another one with --storage"
    )


@contextmanager
def convert_errors(
    label: str, errors: tuple[type[Exception], ...] = DATABASE_ERRORS
) -> Iterator[None]:
    """Convert errors of a database to a StoreError that says what to do.

    Args:
        label: The database, for the message.
        errors: The types of the errors that are converted.

    Raises:
        StoreError: One of ``errors`` was raised inside.
    """
    try:
        yield
    except errors as e:
        cause: BaseException = e  # the innermost error has the shortest message
        while cause.__cause__:
            cause = cause.__cause__
        message = without_passwords((str(cause).splitlines() or [type(cause).__name__])[0])
        hint = next(hint for part, hint in HINTS.items() if part in message.lower())
        raise StoreError(f"cannot use the database {label}: {message}; {hint}") from e


def _open(url: str, options: dict[str, Any], label: str, tries: int = 5) -> TrialStorage:
    try:
        # Optuna calls str.format on the URL, and the name of a folder may contain braces.
        storage = TrialStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
        try:
            migrate(storage.engine, label)
        except Exception:
            storage.engine.dispose()
            raise
        _use_write_ahead_log(storage.engine)
        if storage.engine.dialect.name != "sqlite":  # from now on: a wrong address is told at once
            waiting.wait_for_server(storage.engine)
    except exc.DBAPIError as e:
        # Of several processes that start at once, only one can create the tables.
        lost_race = isinstance(e, exc.IntegrityError) or "already exists" in str(e)
        if not lost_race or tries == 1:
            raise
        time.sleep(0.2)
        return _open(url, options, label, tries - 1)
    return storage


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Make SQLite append to a write-ahead log instead of waiting for the disk at each write.

    A trial writes about fifty times; with the log this took a third of the time.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        # Read-only databases and some network drives do not support it: they keep the default.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

    engine.dispose()  # the settings apply to connections that are opened from now on


def merge_write_ahead_log(engine: sa.Engine) -> None:
    """Merge SQLite's write-ahead log into the database file, unless another process uses it.

    The database is then a single file, which can be copied, and read in a read-only folder.
    """
    file = engine.url.database
    if engine.dialect.name != "sqlite" or not file or not Path(file).is_file():
        return
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(file, timeout=0)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
