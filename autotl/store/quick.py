"""Read the identity of a study from a SQLite file with Python's own library alone.

Optuna and SQLAlchemy take most of a second to load. An option that conflicts with the study is
reported before that.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

PREFIX = "sqlite:///"
"""The beginning of the URL of a SQLite file."""

IDENTITY = """
    SELECT value FROM autotl_study_fact WHERE study = :study AND name = 'identity' AND EXISTS (
        SELECT * FROM autotl_trial WHERE study = :study AND status = 'complete'
    )
"""


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None of another URL, or of a database in memory."""
    path = url.removeprefix(PREFIX).partition("?")[0]
    return Path(path) if url.startswith(PREFIX) and path not in ("", ":memory:") else None


def lock_file(database: Path | None, study: str, folder: Path) -> Path:
    """Return the file that a process locks while it runs a study.

    Args:
        database: The file of a SQLite database, which several run folders may share; the lock is
            next to it. None for another database: the lock is in the run folder.
        study: The name of the study.
        folder: The run folder.
    """
    if database is None:
        return folder / ".lock"
    database = database.resolve()  # which another command may name by a symbolic link
    digest = hashlib.sha256(study.encode()).hexdigest()[:12]  # names may be long
    return database.with_name(f".{database.name}.{digest}.lock")


def read_identity(database: Path, study: str) -> dict[str, Any] | None:
    """Return the identity of a study in a SQLite file, see ``StudyFacts``.

    Returns:
        None if the study has no complete trial, or if the file cannot be read: the errors of a
        database are reported when the store is opened.
    """
    if not database.is_file():
        return None
    address = f"{database.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0)) as connection:
            row = connection.execute(IDENTITY, {"study": study}).fetchone()
        identity = json.loads(row[0]) if row else None
    except (sqlite3.Error, ValueError):
        return None
    return identity if isinstance(identity, dict) else None
