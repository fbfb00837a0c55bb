"""Files that are complete or unchanged, temporary files that do not stay, and locks.

A file is written beside its place, in the same folder, and moved there when it is complete, so that
neither a full disk nor a kill leaves a truncated file where a good one was. The name of a temporary
file or folder says which process made it: what a killed process left is removed later.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

ABANDONED_AFTER_SECONDS = 86_400.0
"""The age in seconds at which a temporary file is abandoned, whatever process made it."""

MARK = ".autotl"
"""The file that marks a folder as AutoTL's, see ``claim``."""

WRITE_ERRORS = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EFBIG") if hasattr(errno, name)
)
"""Numbers of errors that only writing raises, such as that of a full disk."""

_TEMPORARY = re.compile(r"\.autotl-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
"""The name of a temporary file: digest of the machine, process, random digits."""


# -------------------------------------------------------------------- writing


def temporary_path(path: Path) -> Path:
    """Return a new temporary path in the folder of ``path``, on the same file system."""
    name = f".autotl-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    return path.with_name(name)


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end, what was written there replaces ``path``.

    After an error, ``path`` is unchanged and the temporary file is removed.

    Args:
        path: A file; its folder exists.

    Raises:
        OSError: The file cannot be moved to ``path``.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    r"""Replace a file by a UTF-8 text, in which lines end with ``\n``.

    Args:
        path: The file; its folder exists.
        text: The text.
        errors: What is done with surrogates; see ``str.encode``.

    Raises:
        OSError: The file cannot be written; an older one is unchanged.
    """
    with write_beside(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors))


def is_write_error(error: OSError, folder: Path) -> bool:
    """Whether an error tells that files in a folder cannot be written, and not something else.

    Args:
        error: The error of something that writes into the folder, and may read other files.
        folder: The folder.
    """
    named = (Path(os.fsdecode(n)) for n in (error.filename, error.filename2) if n is not None)
    return error.errno in WRITE_ERRORS or any(is_within(path, folder) for path in named)


def replace_folder(new: Path, folder: Path, aside: Path) -> None:
    """Move a complete new folder to its place, and what is there aside.

    Args:
        new: The new folder, on the same file system.
        folder: Its place; where there is nothing, nothing is moved aside.
        aside: A path that does not exist.

    Raises:
        OSError: A folder cannot be moved; the older one is at its place.
    """
    moved = folder.exists() or folder.is_symlink()
    if moved:
        folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        if moved:
            aside.rename(folder)
        raise


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside ``path``; it is removed at the end if it still exists."""
    temporary = temporary_path(path)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in ``folder`` that killed processes left."""
    with suppress(OSError):
        for path in folder.iterdir():
            if match := _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    age = time.time() - path.lstat().st_mtime
                    if age > ABANDONED_AFTER_SECONDS or _has_ended(match[1], int(match[2])):
                        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with everything in it; never what a link points to.

    Raises:
        OSError: It cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """A digest of what numbers of processes refer to: this boot of this machine or container."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _has_ended(machine: str, process: int) -> bool:
    """Whether a process of a machine has certainly ended."""
    if sys.platform == "win32" or machine != _machine():  # os.kill ends a process on Windows
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


# -------------------------------------------------------------------- places


def claim(folder: Path) -> None:
    """Create a folder and mark it as one whose files AutoTL may replace.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        write_text(folder / MARK, "AutoTL made this folder and replaces the files that it wrote.\n")


def is_within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or in it, with links resolved; neither needs to exist."""
    inner, outer = path.expanduser().resolve(), folder.expanduser().resolve()
    if inner.is_relative_to(outer):
        return True
    with suppress(OSError):  # names that differ in case only may be the same folder
        return any(p.exists() and p.samefile(outer) for p in (inner, *inner.parents))
    return False


# -------------------------------------------------------------------- locks and deletion


def lock(path: Path, *, shared: bool) -> int | None:
    """Lock a file or folder until the returned descriptor is closed or the process ends.

    Args:
        path: The file or folder.
        shared: Wait for a lock that others may share; otherwise try to get an exclusive one.

    Returns:
        The file descriptor; None if others hold the lock.

    Raises:
        OSError: There is no such file or folder.
    """
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            os.close(descriptor)
            return None
        # The file system has no locks: what is deleted while in use is computed again.
    return descriptor


def is_same_file(path: Path, descriptor: int) -> bool:
    """Whether what was locked is still at this path, and was not deleted since."""
    if fcntl is None:
        return True
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def delete_unused(path: Path) -> bool:
    """Delete a file or folder unless it is locked, in this process or another.

    Returns:
        Whether it no longer exists.
    """
    with suppress(OSError):
        if (descriptor := lock(path, shared=False)) is None:
            return False
        try:
            if is_same_file(path, descriptor):
                remove(path)
        finally:
            os.close(descriptor)
    return not path.exists()


def count_bytes(path: Path) -> int:
    """Count the bytes of a file, or of the files in a folder."""
    total = 0
    with suppress(OSError):
        for file in path.iterdir() if path.is_dir() else [path]:
            with suppress(OSError):
                total += file.stat().st_size
    return total


def mark_used(path: Path) -> None:
    """Record that a file or folder was used now."""
    with suppress(OSError):
        os.utime(path)


def last_used(path: Path) -> float:
    """The time when a file or folder was last used, in seconds since 1970; 0 if it is missing."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
