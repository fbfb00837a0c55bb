"""Waiting for another program that writes to a SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from autotl.store import waiting
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
