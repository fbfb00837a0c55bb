"""Databases for tests of the store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from postgresql import Server

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


@pytest.fixture
def postgresql(postgresql_server: Server) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgresql_server.create("store")


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
