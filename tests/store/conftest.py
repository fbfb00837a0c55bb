"""Databases for tests of the store."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from autotl.store import Store, default_url

Query = Callable[[str, str], list[tuple[object, ...]]]


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a SQLite database that does not exist yet."""
    return default_url(tmp_path / "runs")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty SQLite database."""
    opened = Store(url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def query() -> Query:
    """Runs SQL on the database of a URL and returns the rows."""

    def run(url: str, sql: str) -> list[tuple[object, ...]]:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            result = connection.execute(sa.text(sql))
            rows = [tuple(row) for row in result] if result.returns_rows else []
        engine.dispose()
        return rows

    return run


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as these tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed", exc_type=ImportError)
    path = os.pathsep.join(
        [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
    )
    if not shutil.which("initdb", path=path):
        pytest.skip("no PostgreSQL server on this machine (initdb)")
    # Not tmp_path: the path of a socket must be short, and the server's user must have access.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        user = {"user": "postgres"}

    def do(program: str, *arguments: str) -> None:
        line = [shutil.which(program, path=path) or program, *arguments]
        quiet = subprocess.DEVNULL
        subprocess.run(line, check=True, stdout=quiet, stderr=quiet, cwd=folder, **user)  # type: ignore[call-overload]

    options = f"-c listen_addresses= -k {folder}"
    do("initdb", "-D", "data", "-A", "trust", "-U", "autotl", "--no-sync")
    do("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
    yield f"postgresql+psycopg://autotl:secret@/postgres?host={folder}"
    do("pg_ctl", "-D", "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of an ordinary user, which this process is while the test runs.

    The superuser may write everywhere; pytest's own folders are closed to other users.
    """
    Store("sqlite://").close()  # so that everything is imported: an interpreter may be closed too
    folder = Path(tempfile.mkdtemp(prefix="autotl"))
    superuser = os.geteuid() == 0
    if superuser:
        os.chown(folder, 65534, 65534)
        os.setresuid(65534, 65534, 0)
    try:
        if not os.access(optuna.__file__, os.R_OK):
            pytest.skip("the installed packages are closed to other users")
        yield folder
    finally:
        folder.chmod(0o700)
        if superuser:
            os.setresuid(0, 0, 0)
        shutil.rmtree(folder)
