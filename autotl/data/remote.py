"""Data at a URL, such as ``s3://bucket/photos``: fetched once for each machine."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from autotl import files
from autotl.errors import DataError

VERSION_KEYS = ("size", "mtime", "LastModified", "updated", "ETag", "etag", "checksum")
"""What file systems say about a file that tells whether it has changed."""

INSTALL = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}
"""The packages of file systems."""


def is_remote(source: str) -> bool:
    """Whether a data source is a URL of a file system that fsspec knows."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in fsspec.available_protocols()


def cache_folder() -> Path:
    """The folder of this machine with the copies of remote data; it may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "autotl" / "data"


@cache
def fetch(source: str) -> str:
    """Return the path of a copy of remote data on this machine; other sources are unchanged.

    A copy belongs to the names, sizes and versions of the files, so that data that have changed are
    fetched again. Processes that need it at the same time wait for the first.

    Args:
        source: A data source.

    Raises:
        DataError: It cannot be read, or the package of its file system is not installed.
    """
    if not is_remote(source):
        return source
    try:
        system, path = fsspec.core.url_to_fs(source)
        entries = system.find(path, detail=True)
    except ImportError as error:
        scheme = source.partition("://")[0].lower()
        advice = f"pip install {INSTALL[scheme]}" if scheme in INSTALL else str(error)
        raise DataError(f"{source} cannot be read without another package: {advice}") from None
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"{source} cannot be read: {_describe(error)}") from error
    if not entries:
        raise DataError(f"there is no file or folder {source!r}")
    versions = {name: _version(facts) for name, facts in entries.items()}
    text = json.dumps([source, sorted(versions.items())], default=str)
    folder = cache_folder() / hashlib.sha256(text.encode()).hexdigest()[:24]
    copy = folder / Path(path.rstrip("/")).name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            files.remove_leftovers(folder.parent)
            if not folder.exists():
                _copy(system, path, copy)
    except Exception as error:
        raise DataError(f"{source} cannot be copied to {folder}: {_describe(error)}") from error
    return str(copy)


def _copy(system: Any, path: str, copy: Path) -> None:
    """Copy a file or a folder, so that the parent folder of the copy is complete if it exists."""
    with files.folder_beside(copy.parent) as unfinished:
        system.get(path, str(unfinished / copy.name), recursive=True)
        unfinished.rename(copy.parent)


def _version(facts: dict[str, Any]) -> list[str]:
    return [str(facts[key]) for key in VERSION_KEYS if key in facts]


def _describe(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
