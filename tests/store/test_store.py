"""One database for Optuna and for us: what goes in comes out, and every fault says what to do."""

from __future__ import annotations

import io
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic import command

from autotl import store
from autotl.errors import StoreError, StudyError
from autotl.store import Store, default_url, existing_url, migrations, opening
from autotl.store.migrations import tables

CONFIG = {"freeze": {"last_blocks": {"share": 0.25}}, "head": {"linear": {}}}


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return default_url(tmp_path / "runs")


@pytest.fixture
def db(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        result = connection.execute(sa.text(sql))
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def use_everything(db: Store) -> None:
    """Write by every method and read it back; run on SQLite and on PostgreSQL."""
    name = "é" * 512
    db.begin(name, {"seed": 0, "space": ["a", "b"], "worst": math.nan, "old": True})
    db.update(name, seed=1, deep={"x": [math.inf, 0.5], "nul": "\0", "file": "\udcff.jpg"})
    deep = {"x": [None, 0.5], "nul": "\0", "file": "\udcff.jpg"}
    facts = {"seed": 1, "space": ["a", "b"], "worst": None, "old": True, "deep": deep}
    assert db.facts(name) == db.require(name) == facts
    db.begin(name, {"seed": 2})
    assert db.facts(name) == {"seed": 2}
    assert db.studies() == [name]

    db.begin_trial(name, 1, CONFIG, 5)
    db.begin_trial(name, 0, CONFIG, 3)
    db.update_trial(name, 0, parameters=5_000_000_000, trained_parameters=770)
    db.add_epoch(name, 0, epoch=2, loss=math.nan, score=0.0, seconds=1.5)
    db.add_epoch(name, 0, epoch=1, loss=9.0, score=0.1, seconds=9.0)
    db.add_epoch(name, 0, epoch=1, loss=0.7, score=0.6, seconds=1.25)  # the same epoch, run again
    db.end_trial(name, 0, "diverged", reason="loss \udcff\0", score=math.inf, seconds=2.75)
    first, second = db.trials(name)
    assert (first.number, first.status, first.reason) == (0, "diverged", "loss \\udcff")
    assert (first.config, first.epochs, first.seconds) == (CONFIG, 3, 2.75)
    assert (first.score, first.parameters, first.trained_parameters) == (None, 5_000_000_000, 770)
    assert timedelta(0) <= datetime.now(UTC) - first.started < timedelta(minutes=1)
    assert (second.number, second.status, second.score, second.parameters) == (
        1,
        "running",
        None,
        None,
    )
    assert db.epochs(name, 0) == [
        store.EpochRow(1, 0.7, 0.6, 1.25),
        store.EpochRow(2, None, 0.0, 1.5),
    ]
    db.end_trial(name, 1, "complete", score=0.123456789012345, seconds=1.0)
    assert db.trials(name)[1].score == 0.123456789012345

    db.note_trial(name, 1, logme=0.25, costs={"forward_ms": math.nan})
    db.note_trial(name, 1, logme=0.5)
    assert [t.facts for t in db.trials(name)] == [{}, {"logme": 0.5, "costs": {"forward_ms": None}}]

    db.add_final(name, "ensemble", 0, score=0.9)
    db.add_final(name, "12", 1, trial=12, score=0.5, seconds=1.5)
    db.add_final(name, "12", 0, trial=12, score=0.7, facts={"n": 60})
    db.add_final(name, "12", 1, trial=12, score=0.8, seconds=2.5)  # the same run again
    assert db.finals(name) == [
        store.FinalRow("12", 0, 12, 0.7, 0.0, {"n": 60}),
        store.FinalRow("12", 1, 12, 0.8, 2.5, {}),
        store.FinalRow("ensemble", 0, None, 0.9, 0.0, {}),
    ]

    opening = db.open_test(name, 1, CONFIG)
    assert [(row.id, row.trial, row.config, row.facts) for row in db.tests(name)] == [
        (opening, 1, CONFIG, {})
    ]
    db.close_test(opening, score=0.9, low=0.85, high=math.nan, n=100)
    again = db.open_test(name, 0, CONFIG)
    assert [row.id for row in db.tests(name)] == [opening, again]
    assert db.tests(name)[0].facts == {"score": 0.9, "low": 0.85, "high": None, "n": 100}
    assert db.tests(name)[0].opened.tzinfo is UTC

    study = optuna.create_study(study_name=name, storage=db.storage, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    db.delete(name)
    assert (db.studies(), db.facts(name), db.trials(name)) == ([], None, [])
    assert (db.epochs(name, 0), db.finals(name), db.tests(name)) == ([], [], [])
    assert optuna.get_all_study_names(db.storage) == []


def test_what_goes_in_comes_out(db: Store) -> None:
    use_everything(db)


def test_in_memory() -> None:
    db = Store("sqlite://")
    use_everything(db)
    db.close()


def test_reopening_keeps_everything(url: str) -> None:
    db = Store(url)
    db.begin("s", {"seed": 3})
    db.begin_trial("s", 0, CONFIG, 2)
    db.open_test("s", 0, CONFIG, candidate="ensemble")  # and then it crashed
    before = db.trials("s"), db.tests("s")
    db.close()
    db = Store(url)
    assert db.facts("s") == {"seed": 3}
    assert (db.trials("s"), db.tests("s")) == before
    [opened] = db.tests("s")
    assert (opened.candidate, opened.done) == ("ensemble", False)
    db.close()


def test_a_trial_that_begins_again_begins_empty(db: Store) -> None:
    db.begin_trial("s", 0, CONFIG, 2)
    db.add_epoch("s", 0, epoch=1, loss=1.0, score=0.5, seconds=1.0)
    db.end_trial("s", 0, "interrupted", seconds=1.0)
    db.begin_trial("s", 0, CONFIG, 2)
    assert [row.status for row in db.trials("s")] == ["running"]
    assert db.epochs("s", 0) == []


def test_optuna_reads_the_same_file(db: Store, url: str) -> None:
    db.begin("s", {})
    study = optuna.create_study(study_name="s", storage=db.storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(optuna.load_study(study_name="s", storage=url).trials) == 1


def test_a_database_that_optuna_made(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    plain = optuna.create_study(study_name="plain", storage=url)
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    theirs = set(sa.inspect(sa.create_engine(url)).get_table_names())
    version = query(url, "SELECT * FROM alembic_version")
    db = Store(url)
    ours = set(sa.inspect(db.storage.engine).get_table_names()) - theirs
    assert ours == {*tables.METADATA.tables, migrations.VERSION_TABLE}
    assert all(name.startswith("autotl_") for name in ours)
    assert query(url, "SELECT * FROM alembic_version") == version
    assert len(optuna.load_study(study_name="plain", storage=db.storage).trials) == 3
    assert db.studies() == []
    with pytest.raises(StudyError, match="no study is called 'plain'"):
        db.delete("plain")  # not ours to delete
    assert optuna.get_all_study_names(db.storage) == ["plain"]
    assert capfd.readouterr() == ("", "")
    db.close()


def test_the_migrations_make_the_tables(db: Store) -> None:
    with db.storage.engine.connect() as connection:
        config = migrations.config()
        config.stdout = io.StringIO()
        config.attributes["connection"] = connection
        command.check(config)  # raises where tables.py says something else than the database


def test_the_migration_can_be_undone(db: Store) -> None:
    with tables.write(db.storage.engine) as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert not set(sa.inspect(db.storage.engine).get_table_names()) & set(tables.METADATA.tables)


def test_trials_of_an_older_schema_are_kept(url: str) -> None:
    db = Store(url)
    db.begin("s", {})
    db.begin_trial("s", 0, CONFIG, 3)
    with tables.write(db.storage.engine) as connection:
        config = migrations.config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    db.close()
    db = Store(url)
    [trial] = db.trials("s")
    assert (trial.config, trial.facts) == (CONFIG, {})
    db.note_trial("s", 0, logme=0.5)
    assert db.trials("s")[0].facts == {"logme": 0.5}
    db.close()


def test_a_newer_schema_is_left_alone(url: str) -> None:
    Store(url).close()
    query(url, "UPDATE autotl_alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"newer autotl.*9999.*pip install -U autotl"):
        Store(url)
    assert query(url, "SELECT version_num FROM autotl_alembic_version") == [("9999",)]


def test_unknown_names(db: Store) -> None:
    db.begin("flowers", {})
    for ask in (db.require, db.update, db.delete):
        with pytest.raises(StudyError, match=r"'flower' in .*autotl\.db; did you mean 'flowers'"):
            ask("flower")
    with pytest.raises(StudyError, match="'flowers' has no trial 7"):
        db.end_trial("flowers", 7, "failed")
    with pytest.raises(StudyError, match="opened as 7"):
        db.close_test(7, score=1.0)
    db.begin_trial("flowers", 0, CONFIG, 1)
    with pytest.raises(ValueError, match="did you mean 'complete'"):
        db.end_trial("flowers", 0, "completed")


@pytest.mark.parametrize("content", [b"no database\n", b"path,label\n" * 1000])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"labels\.csv: .*another kind.*--storage") as e:
        Store(f"sqlite:///{file}")
    assert "\n" not in str(e.value)
    assert file.read_bytes() == content


def test_a_folder_as_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} is a folder; name a file in it"):
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="unwritable; choose another --out"):
        default_url(tmp_path)


@pytest.mark.parametrize("folder", ["with space", "{braces}", "100%", "a#b", "ü"])
def test_odd_names_of_folders(tmp_path: Path, folder: str) -> None:
    db = Store(default_url(tmp_path / folder))
    db.begin("s", {})
    db.close()
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
    ],
)
def test_no_password_in_a_message(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as e:
        Store(url)
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)


def test_a_locked_file(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LOCK_SECONDS", 0.05)
    db = Store(url)
    other = sqlite3.connect(db.storage.engine.url.database or "")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match=r"autotl\.db: database is locked; another program"):
            Store(url)
        with pytest.raises(StoreError, match="another program is writing"):
            db.begin("s", {})
    finally:
        other.close()
    db.begin("s", {})
    db.close()


WORKER = """
import sys
from autotl.store import Store
url, worker = sys.argv[1], int(sys.argv[2])
db = Store(url)
db.begin("s", {})
for i in range(20):
    db.update("s", **{f"fact {worker} {i}": i})
    db.begin_trial("s", 2 * i + worker, {}, 1)
    db.add_epoch("s", 2 * i + worker, epoch=1, loss=0.5, score=0.5, seconds=1.0)
    db.end_trial("s", 2 * i + worker, "complete", score=0.5)
"""


def run_two_workers(url: str) -> None:
    """Both open a database that nobody has made, and lose nothing that they write."""
    command_line = [sys.executable, "-W", "error", "-c", WORKER, url]
    workers = [subprocess.Popen([*command_line, str(i)]) for i in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    db = Store(url)
    assert [(row.number, row.status) for row in db.trials("s")] == [
        (i, "complete") for i in range(40)
    ]
    assert all(len(db.epochs("s", i)) == 1 for i in range(40))
    db.close()


def test_two_processes_write_at_once(url: str) -> None:
    run_two_workers(url)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as these tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed", exc_type=ImportError)
    path = os.pathsep.join(
        [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
    )
    if not shutil.which("initdb", path=path):
        pytest.skip("no PostgreSQL server on this machine (initdb)")
    # Not tmp_path: a socket's path must be short, and the server's user must get in.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        user = {"user": "postgres"}

    def do(program: str, *arguments: str) -> None:
        line = [shutil.which(program, path=path) or program, *arguments]
        quiet = subprocess.DEVNULL
        subprocess.run(line, check=True, stdout=quiet, stderr=quiet, cwd=folder, **user)  # type: ignore[call-overload]

    do("initdb", "-D", "data", "-A", "trust", "-U", "autotl", "--no-sync")
    do(
        "pg_ctl",
        "-D",
        "data",
        "-w",
        "-l",
        "log",
        "-o",
        f"-c listen_addresses= -k {folder}",
        "start",
    )
    yield f"postgresql+psycopg://autotl:secret@/postgres?host={folder}"
    do("pg_ctl", "-D", "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_postgresql(postgresql: str) -> None:
    run_two_workers(postgresql)
    db = Store(postgresql)
    db.delete("s")
    use_everything(db)
    assert "secret" not in db.url
    db.close()


def test_postgresql_names_the_database_that_is_missing(postgresql: str) -> None:
    with pytest.raises(StoreError, match=r'"nowhere" does not exist.*check --storage') as e:
        Store(postgresql.replace("/postgres?", "/nowhere?"))
    assert "secret" not in str(e.value)


def test_only_a_database_of_autotl_is_looked_at(tmp_path: Path) -> None:
    """Opening another would make it one: a typo, a customer list, a picture."""
    file = tmp_path / "old.db"
    with pytest.raises(StoreError, match=r"--learn-from: there is no database .*old\.db"):
        existing_url(str(file), "--learn-from")
    foreign = sqlite3.connect(file)
    foreign.execute("create table customers (name text)")
    foreign.commit()
    foreign.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"old\.db is no database of AutoTL"):
        existing_url(str(file))
    assert file.read_bytes() == before
    file.write_text("x = 1\n" * 99)
    with pytest.raises(StoreError, match=r"not a database.* name a new one with --learn-from"):
        existing_url(str(file), "--learn-from")
    with pytest.raises(StoreError, match="pip install 'psycopg"):
        existing_url("nosuchdb://u:secret@h/x")


@pytest.mark.parametrize("folder", ["with space", "{braces}", "100%", "a#b", "ü?"])
def test_an_existing_database_is_found_by_all_its_names(tmp_path: Path, folder: str) -> None:
    out = tmp_path / folder
    url = default_url(out)
    Store(url).close()
    for place in (url, str(out), str(out / "autotl.db")):
        assert existing_url(place) == url


def test_what_a_command_needs_to_find_it(tmp_path: Path) -> None:
    out = tmp_path / "my runs"
    assert Store(default_url(out)).options(out) == f" --out '{out}'"
    other = Store(f"sqlite:///{tmp_path}/x.db")
    assert other.options(Path("runs")) == f" --storage sqlite:///{tmp_path}/x.db"
