"""The lock of a study: one process, and one thread of it, runs a study at a time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autotl.errors import StoreError, StudyInUse


@contextmanager
def lock(path: Path, study: str, advice: str = "") -> Iterator[None]:
    """Lock a study; the system releases the lock if the process dies.

    Args:
        path: The lock file, see ``Store.lock_file``.
        study: The name of the study, for the message.
        advice: What to do if another process runs the study; by default for a search.

    Raises:
        StudyInUse: Another process, or another thread, runs the study.
        StoreError: The lock file cannot be written.
    """
    lock_ = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_.acquire()
        if not path.exists():  # ``delete`` removed it before it was locked here
            lock_.release()
            lock_.acquire()
    except Timeout:
        join = f"join it with: autotl worker {shlex.quote(study)}"
        advice = advice or f"wait for it, choose another name with --study, or {join}"
        raise StudyInUse(f"study {study!r} is being run by another process; {advice}") from None
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    try:
        yield
    finally:
        lock_.release()
