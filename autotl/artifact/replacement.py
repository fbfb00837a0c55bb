"""Replace a model folder by a new one, so that one of the two loads at any time.

The old folder is moved aside, the new one moved in, and only then is the old one removed. A folder
is replaced only if it is a model folder: one that somebody else made is never touched.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotl import files
from autotl.errors import StoreError

FILES = ("config.json", "model.safetensors", "training_images.npy", "README.md")
"""The files that ``model_folder.save`` writes."""

INPUT_FOLDER = "input"
"""The folder with the files of the input; the members of an ensemble have ``input-1``, ..."""

KEYS = frozenset({"schema", "backbone", "head", "classes", "input"})
"""The entries of ``config.json`` by which a model folder is recognised."""


def is_model_config(content: Any) -> bool:
    """Whether the content of a ``config.json`` is that of a model folder of any version."""
    return isinstance(content, Mapping) and content.keys() >= KEYS


def check_replaceable(folder: Path) -> None:
    """Check that a path is free, an empty folder, or a model folder.

    Raises:
        StoreError: It is something else, which must not be removed.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    with suppress(OSError, ValueError):
        if folder.is_dir() and not any(folder.iterdir()):
            return
        if is_model_config(json.loads((folder / "config.json").read_text(encoding="utf-8"))):
            return
    raise StoreError(
        f"{folder} is not a model folder that AutoTL wrote, so it is not replaced; move it, or "
        "give another name with --study or another folder with --out"
    )


def replace(new: Path, folder: Path) -> Path | None:
    """Move a new model folder to its place.

    Args:
        new: The complete new folder, on the same file system.
        folder: Its place, where there may be an older model folder.

    Returns:
        Where the older folder is now, if it has files that ``save`` did not write, such as exports;
        None if there was none or it was removed.

    Raises:
        StoreError: There is a folder that is not a model folder.
        OSError: A folder cannot be moved; the older one is at its place.
    """
    restore(folder)
    check_replaceable(folder)
    aside = _aside(folder)
    files.replace_folder(new, folder, aside)
    return _retire(aside, folder)


def restore(folder: Path) -> None:
    """Finish what an earlier ``replace`` did not, because its process was killed."""
    aside = _aside(folder)
    if aside.is_dir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # somebody made it in the place of the model
        if folder.exists():
            _retire(aside, folder)
        else:
            aside.rename(folder)


def current(folder: Path) -> Path:
    """Return where the model folder is: aside, if a process was killed while it replaced it."""
    aside = _aside(folder)
    return aside if aside.is_dir() and not folder.exists() else folder


def _aside(folder: Path) -> Path:
    folder = folder if folder.name else folder.resolve()  # "." has no name
    return folder.parent / f".{folder.name}.autotl-old"


def _retire(aside: Path, folder: Path) -> Path | None:
    """Remove an old model folder, or keep it beside the new one if it has other files.

    A folder that cannot be removed is hidden, and removed the next time.
    """
    with suppress(OSError):
        if aside.is_symlink():
            aside.unlink()
        elif aside.is_dir():
            if any(not _is_own(path.name) for path in aside.iterdir()):
                return aside.rename(_free_name(folder))
            shutil.rmtree(aside)
    return None


def _is_own(name: str) -> bool:
    """Whether ``model_folder.save`` writes a file or folder of that name."""
    return name in FILES or re.fullmatch(rf"{INPUT_FOLDER}(-\d+)?", name) is not None


def _free_name(folder: Path) -> Path:
    """Return the first of ``model-old``, ``model-old-2``, ... that does not exist."""
    number, path = 1, folder.with_name(f"{folder.name}-old")
    while path.exists() or path.is_symlink():
        number += 1
        path = folder.with_name(f"{folder.name}-old-{number}")
    return path
