"""Waiting for another program that writes to a SQLite file, and for a server."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError

from autotl.errors import StoreError, StudyError
from autotl.store import waiting
from autotl.store.optuna_storage import TRANSACTIONS
from autotl.store.waiting import WaitingConnection


def connect(file: Path) -> sqlite3.Connection:
    timeout = waiting.NOTICE_SECONDS
    return sqlite3.connect(str(file), timeout=timeout, factory=WaitingConnection)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.05)
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE t (x)")
    return tmp_path / "a.db"


def test_a_statement_waits_beyond_the_notice_until_the_lock_is_free(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = sqlite3.connect(file, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    told = threading.Event()

    class Release(logging.Handler):
        def emit(self, record: object) -> None:
            told.set()

    handler = Release()
    waiting.log.addHandler(handler)
    thread = threading.Thread(target=lambda: (told.wait(), other.rollback()))
    thread.start()
    with closing(connect(file)) as connection:
        connection.cursor().execute("INSERT INTO t VALUES (1)")
        connection.commit()
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
    thread.join()
    other.close()
    waiting.log.removeHandler(handler)
    assert len(caplog.messages) == 1


def test_an_error_that_waiting_cannot_end_is_raised_at_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction that has read an old state cannot write any more."""
    with closing(connect(file)) as one, closing(connect(file)) as other:
        one.execute("PRAGMA journal_mode = WAL")
        one.execute("BEGIN")
        one.execute("SELECT * FROM t").fetchall()
        other.execute("INSERT INTO t VALUES (1)")
        other.commit()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            one.execute("INSERT INTO t VALUES (2)")
    assert not caplog.messages


class Calls:
    """Methods that fail as often as the test says, each time with a connection that was lost."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error

    def read(self, value: int) -> int:
        """Fail, or return the value."""
        if self.failures:
            self.failures -= 1
            raise self.error
        return value


def lost() -> Exception:
    return OperationalError("SELECT 1", {}, Exception("closed"), connection_invalidated=True)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, in which no time passes but that of a clock."""
    made: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", made.append)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: sum(made))
    return made


def test_a_call_whose_connection_is_lost_is_repeated(pauses: list[float]) -> None:
    calls = waiting.repeat_lost_calls()(type("Own", (Calls,), {"read": Calls.read}))
    assert calls(3, lost()).read(7) == 7
    assert pauses == [0.25, 0.5, 1.0]


def test_the_cause_of_an_error_counts(pauses: list[float]) -> None:
    error = StoreError("cannot use the database")
    error.__cause__ = lost()
    calls = waiting.repeat_lost_calls(["read"])(type("Own", (Calls,), {}))
    assert calls(1, error).read(7) == 7
    assert len(pauses) == 1


def test_calls_are_not_repeated_for_ever(pauses: list[float]) -> None:
    calls = waiting.repeat_lost_calls(["read"])(type("Own", (Calls,), {}))
    with pytest.raises(OperationalError):
        calls(1000, lost()).read(7)
    assert waiting.LOCK_SECONDS / 2 < sum(pauses) <= waiting.LOCK_SECONDS


@pytest.mark.parametrize(
    "error", [StudyError("no study"), OperationalError("SELECT 1", {}, Exception("locked"))]
)
def test_other_errors_are_raised_at_once(pauses: list[float], error: Exception) -> None:
    calls = waiting.repeat_lost_calls(["read"])(type("Own", (Calls,), {}))
    with pytest.raises(type(error)):
        calls(1, error).read(7)
    assert pauses == []


def test_all_methods_that_optuna_calls_exist() -> None:
    assert [name for name in TRANSACTIONS if not hasattr(RDBStorage, name)] == ["_insert"]
