"""Waiting for a database: for another program that writes to SQLite, or for a server."""

from __future__ import annotations

import functools
import inspect
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

NOTICE_SECONDS = 2.0
"""How long to wait without a message."""

LOCK_SECONDS = 60.0
"""How long to wait for another program that is writing, in all."""

PAUSES = 0.25, 5.0
"""The first and the longest pause between two tries to reach a server, in seconds."""

Result = TypeVar("Result")
Class = TypeVar("Class", bound=type)

log = logging.getLogger(__name__)


class _Cursor(sqlite3.Cursor):
    """A cursor whose statements wait for other writers."""

    def execute(self, *args: Any) -> Any:
        """Execute a statement."""
        return _wait(lambda: super(_Cursor, self).execute(*args), self.connection)

    def executemany(self, *args: Any) -> Any:
        """Execute a statement with many rows."""
        return _wait(lambda: super(_Cursor, self).executemany(*args), self.connection)


class WaitingConnection(sqlite3.Connection):
    """A connection that waits up to ``LOCK_SECONDS``, with a message after ``NOTICE_SECONDS``.

    It must be opened with ``timeout=NOTICE_SECONDS``.
    """

    file = ""

    def __init__(self, database: str, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        self.file = database

    def cursor(self, *_: Any) -> Any:
        """Make a cursor."""
        return super().cursor(_Cursor)

    def execute(self, *args: Any) -> Any:
        """Execute a statement."""
        return _wait(lambda: super(WaitingConnection, self).execute(*args), self)

    def commit(self) -> None:
        """Commit the transaction."""
        _wait(super().commit, self)


def _wait(step: Callable[[], Result], connection: sqlite3.Connection) -> Result:
    """Do a step, and again while another program holds the lock that it needs."""
    began, is_logged = time.monotonic(), False
    while True:
        this_began = time.monotonic()
        try:
            return step()
        except sqlite3.OperationalError as error:
            now = time.monotonic()
            is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            # SQLite does not wait where that would be in vain.
            has_waited = now - this_began > NOTICE_SECONDS / 2
            if not is_busy or not has_waited or now - began + NOTICE_SECONDS > LOCK_SECONDS:
                raise
            if not is_logged:
                file = getattr(connection, "file", "the database")
                log.warning(
                    "another program is writing to %s; waiting for it, for up to %.0f s",
                    file,
                    LOCK_SECONDS,
                )
                is_logged = True


def wait_for_server(engine: sa.Engine) -> None:
    """Let new connections wait up to ``LOCK_SECONDS`` for a server that is started again, say.

    After it was waited for in vain, it is not waited for again until it has responded.
    """
    gave_up = False

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: object, words: Any, options: Any) -> Any:
        nonlocal gave_up
        began, (pause, longest), is_logged = time.monotonic(), PAUSES, False
        while True:
            try:
                connection = dialect.connect(*words, **options)
                gave_up = False
                return connection
            except dialect.loaded_dbapi.OperationalError:
                if gave_up or time.monotonic() - began + pause > LOCK_SECONDS:
                    gave_up = True
                    raise
                if not is_logged:
                    text = "the database does not respond; waiting for it, for up to %.0f s"
                    log.warning(text, LOCK_SECONDS)
                    is_logged = True
            time.sleep(pause)
            pause = min(2 * pause, longest)


def repeat_lost_calls(names: Iterable[str] = ()) -> Callable[[Class], Class]:
    """Return a decorator of a class: methods whose connection is lost are called again.

    They must be transactions of their own. A server that is started again loses the connections
    that are in use; others are checked before they are used. They are called for up to
    ``LOCK_SECONDS``.

    Args:
        names: The names of methods, also inherited ones; by default the class's own public ones.
    """

    def decorate(cls: Class) -> Class:
        own = [n for n, f in vars(cls).items() if inspect.isfunction(f) and not n.startswith("_")]
        for name in names or own:
            method = getattr(cls, name)
            if not hasattr(method, "__wrapped__"):  # a context manager is none
                setattr(cls, name, _repeat_lost_call(method))
        return cls

    return decorate


def _repeat_lost_call(method: Callable[..., Result]) -> Callable[..., Result]:
    @functools.wraps(method)
    def call(*args: Any, **keywords: Any) -> Result:
        (pause, longest), waited = PAUSES, 0.0
        while True:
            try:
                return method(*args, **keywords)
            except Exception as error:
                if not _is_lost(error) or waited + pause > LOCK_SECONDS:
                    raise
            time.sleep(pause)
            waited += pause
            pause = min(2 * pause, longest)

    return call


def _is_lost(error: BaseException | None) -> bool:
    """Whether the cause of an error is a connection that was lost."""
    while error is not None:
        if isinstance(error, exc.PendingRollbackError):
            return True
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False
