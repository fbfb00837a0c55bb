"""A database is found and opened, and every fault says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from postgresql import PASSWORD, Server

from autotl.errors import StoreError
from autotl.store import (
    Store,
    default_url,
    existing_url,
    migrations,
    waiting,
    without_passwords,
)
from autotl.store.migrations import tables

Query = Callable[[str, str], list[tuple[object, ...]]]


def test_a_database_that_optuna_made_is_extended(
    url: str, query: Query, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = optuna.create_study(study_name="plain", storage=url)
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    theirs = set(sa.inspect(sa.create_engine(url)).get_table_names())
    version = query(url, "SELECT * FROM alembic_version")
    store = Store(url)
    ours = set(sa.inspect(store.storage.engine).get_table_names()) - theirs
    assert ours == {*tables.METADATA.tables, migrations.VERSION_TABLE}
    assert all(name.startswith("autotl_") for name in ours)
    assert query(url, "SELECT * FROM alembic_version") == version
    assert len(optuna.load_study(study_name="plain", storage=store.storage).trials) == 3
    assert store.studies() == []
    assert capfd.readouterr() == ("", "")
    store.close()


@pytest.mark.parametrize("content", [b"no database\n", b"path,label\n" * 1000])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"labels\.csv: .*another kind.*--storage") as e:
        Store(f"sqlite:///{file}")
    assert "\n" not in str(e.value)
    assert file.read_bytes() == content


def test_a_folder_as_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} is a folder; give a file in it"):
        Store(f"sqlite:///{tmp_path}")


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone/a\.db: unable to open.*check that its folder"):
        Store(f"sqlite:///{tmp_path}/gone/a.db")


def test_an_out_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/runs: .*choose another --out"):
        default_url(tmp_path / "file" / "runs")
    with pytest.raises(StoreError, match=r"file: File exists; choose another --out"):
        default_url(tmp_path / "file")


def test_an_out_that_is_unwritable(unprivileged: Path) -> None:
    unprivileged.chmod(0o500)
    with pytest.raises(StoreError, match="not writable; choose another --out"):
        default_url(unprivileged)


@pytest.mark.parametrize("folder", ["with space", "{braces}", "100%", "a#b", "ü"])
def test_folders_may_have_unusual_names(tmp_path: Path, folder: str) -> None:
    store = Store(default_url(tmp_path / folder))
    store.begin_study("s")
    store.close()
    assert (tmp_path / folder / "autotl.db").stat().st_size > 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+nosuchdriver://u:secret@h/x", r"u:\*\*\*@h/x: .*pip install 'psycopg"),
        ("nosuchdb://u:secret@h/x", "pip install 'psycopg"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "psycopg|127.0.0.1.*--storage"),
        ("postgresql+nosuchdriver://h/x?user=u&password=secret", "pip install 'psycopg"),
        ("postgresql://u:secret@h:port/x", "not a database URL; write sqlite:///"),
        ("secret.db", "not a database URL; write sqlite:///"),
        ("postgresql://u:p@ssecret@h/x", "with %40 for an @ in the password"),
        ("postgresql+psycopg://u@127.0.0.1:1/x?sslpassword=secret", "psycopg|127.0.0.1"),
        ("mysql://u:secret@h/x", r"mysql\+pymysql://\.\.\. and run: pip install pymysql"),
        ("sqlite:///{tmp}/x.db?mode=ro&timeout=abc", "could not convert string to float"),
        ("sqlite:///{tmp}/x.db?check_same_thread=maybe", "is not true/false"),
        ("sqlite:///%00x", "is not a valid path: it has a null character"),
        ("sqlite:///" + "x" * 300, "file name too long"),
        ("sqlite:///~nosuchuser/x.db", "there is no user 'nosuchuser'"),
        ("sqlite:///{tmp}/\udcff.db", "not a database URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_its_password(
    url: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=says) as e:
        Store(url.replace("{tmp}", str(tmp_path)))
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)


def test_a_file_that_another_program_locks(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 0.2)
    store = Store(url)
    file = store.storage.engine.url.database or ""
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match=r"autotl\.db: database is locked; another program"):
            Store(url)
        assert f"another program is writing to {file}; waiting for it" in caplog.messages[0]
        with pytest.raises(StoreError, match="another program is writing"):
            store.begin_study("s")
    finally:
        other.close()
    caplog.clear()
    store.begin_study("s")
    store.close()
    assert not caplog.messages


def test_a_postgresql_database_that_is_missing_is_named(postgresql_server: Server) -> None:
    with pytest.raises(StoreError, match=r'"nowhere" does not exist.*check --storage') as e:
        Store(postgresql_server.url("nowhere"))
    assert PASSWORD not in str(e.value)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """Opening it would add tables to it."""
    file = tmp_path / "old.db"
    with pytest.raises(StoreError, match=r"--learn-from: there is no database .*old\.db"):
        existing_url(str(file), "--learn-from")
    foreign = sqlite3.connect(file)
    foreign.execute("create table customers (name text)")
    foreign.commit()
    foreign.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"old\.db is not an AutoTL database"):
        existing_url(str(file))
    assert file.read_bytes() == before
    file.write_text("x = 1\n" * 99)
    with pytest.raises(StoreError, match=r"not a database.* choose a new file with --learn-from"):
        existing_url(str(file), "--learn-from")
    with pytest.raises(StoreError, match="pip install 'psycopg"):
        existing_url("nosuchdb://u:secret@h/x")


@pytest.mark.parametrize("folder", ["with space", "{braces}", "100%", "a#b", "ü?"])
def test_a_database_is_found_by_its_url_folder_and_file(tmp_path: Path, folder: str) -> None:
    out = tmp_path / folder
    url = default_url(out)
    Store(url).close()
    for place in (url, str(out), str(out / "autotl.db")):
        assert existing_url(place) == url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--storage postgresql://u:secret@h/x", "--storage postgresql://u:***@h/x"),
        ("--storage 'postgresql://h/x?user=u&password=secret'",
         "--storage 'postgresql://h/x?user=u&password=***'"),
        ("postgresql://u:p@ssecret@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u:a:secret/b@h/x", "postgresql://u:***@h/x"),
        ("postgresql://:secret@h/x", "postgresql://:***@h/x"),
        ("--storage 'postgresql://u:secret secret@h/x' x@y",
         "--storage 'postgresql://u:***@h/x' x@y"),
        ("""'postgresql://u:secret'"'"' secret@h/x'""", "'postgresql://u:***@h/x'"),
        ("mysql://h/x?ssl_ca=a&pwd=secret&b=1", "mysql://h/x?ssl_ca=a&pwd=***&b=1"),
        ("postgresql://h/x?sslpassword=secret", "postgresql://h/x?sslpassword=***"),
        ("postgresql://h/x?Passwd=secret;auth_token=secret",
         "postgresql://h/x?Passwd=***;auth_token=***"),
        ("postgresql://h/x?options=-cpassword%3Dsecret", "postgresql://h/x?options=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret&a=1",
         "mssql+pyodbc:///?odbc_connect=***&a=1"),
        ("invalid dsn: host=h password=secret", "invalid dsn: host=h password=***"),
        ("search sqlite://h?a=b --out=monkeys", "search sqlite://h?a=b --out=monkeys"),
        ("autotl search photos@home --study a:b --storage sqlite:///a.db",
         "autotl search photos@home --study a:b --storage sqlite:///a.db"),
        ("autotl search photos --storage sqlite:///a.db",
         "autotl search photos --storage sqlite:///a.db"),
    ],
)  # fmt: skip
def test_a_command_line_is_shown_without_passwords(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_sqlite_is_opened_with_a_write_ahead_log(url: str) -> None:
    store = Store(url)
    with store.storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    store.close()
