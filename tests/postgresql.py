"""A PostgreSQL server for tests: a new cluster in a temporary folder, on a free port.

A test gets it by the fixture ``postgresql_server`` of `conftest.py`, and is skipped where
PostgreSQL is not installed (``apt-get install postgresql``) or the driver is missing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

USER, PASSWORD = "autotl", "s3cret@/pass"
SERVICE_USERS = ("postgres", "nobody")
"""The users as whom the server runs if the tests run as root, which it refuses."""


def find_binaries() -> Path | None:
    """Return the folder with the newest PostgreSQL's programs; None if there is none."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: float(folder.parent.name), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").is_file()), None)


def missing() -> str:
    """Return why there can be no server here; empty if there can."""
    if find_binaries() is None:
        return "needs PostgreSQL: apt-get install postgresql"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "needs a driver: pip install 'psycopg[binary]'"
    return ""


@dataclass(frozen=True)
class Server:
    """A server that listens on ``port`` of the loopback interface, with its data in ``folder``."""

    folder: Path
    port: int

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """Return the URL of a database, with the password."""
        address = sa.URL.create(
            "postgresql+psycopg", USER, password, "127.0.0.1", self.port, database
        )
        return address.render_as_string(hide_password=False)

    def create(self, database: str) -> str:
        """Create an empty database; return its URL."""
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
            connection.exec_driver_sql(f'CREATE DATABASE "{database}"')
        engine.dispose()
        return self.url(database)

    def initialize(self) -> None:
        """Create the cluster, whose only user has a password."""
        file = self.folder / "password"
        file.write_text(PASSWORD)
        if user := _service_user():
            for path in (self.folder, file):
                shutil.chown(path, user)
        options = ["-A", "scram-sha-256", "-U", USER, f"--pwfile={file}", "--no-sync"]
        self._run("initdb", *options, "--encoding=UTF8", "--locale=C")

    def restart(self) -> None:
        """Start the server, stopped or running, and wait until it accepts connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-m", "immediate", "-l", log, "-o", options, "restart")

    def stop(self) -> None:
        """Stop the server at once; its clients lose their connections."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        binaries, user = find_binaries(), _service_user()
        assert binaries is not None
        command = [str(binaries / program), "-D", str(self.folder / "data"), *arguments]
        options: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        subprocess.run(
            command, check=True, cwd=self.folder, capture_output=True, timeout=120, **options
        )


def _service_user() -> str:
    """Return the user as whom the server runs; empty for that of the tests."""
    if os.geteuid() != 0:
        return ""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in SERVICE_USERS if name in names)


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server inside."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Folders of pytest cannot be entered by another user.
    with tempfile.TemporaryDirectory(prefix="autotl-postgresql-") as folder:
        server = Server(Path(folder), port)
        server.initialize()
        server.restart()
        try:
            yield server
        finally:
            server.stop()
