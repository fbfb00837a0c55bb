"""The images that the commands on a model folder are given: files, or labelled examples."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.errors import DataError

if TYPE_CHECKING:
    from autotl.space.plugin import Example
    from autotl.space.registry import Registry

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg"),
    *(".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"),
)
"""Endings by which image files are recognised in a folder."""


def image_files(names: Sequence[str]) -> Iterator[str]:
    """Expand names of files, folders, glob patterns, and ``-`` for the lines of stdin.

    Raises:
        DataError: A folder has no images, or a pattern matches no file.
    """
    for name in names:
        if name == "-":
            yield from (line.strip("\r\n") for line in sys.stdin if line.strip())
        elif Path(name).is_dir():
            candidates = sorted(p for p in Path(name).rglob("*") if p.suffix.lower() in SUFFIXES)
            # Names that begin with a dot are metadata of the system, such as macOS's ._photo.jpg.
            files = [str(p) for p in candidates if not p.name.startswith(".")]
            if not files:
                endings = ", ".join(SUFFIXES)
                raise DataError(f"{name}: no images in this folder; expected files with {endings}")
            yield from files
        elif not Path(name).exists() and any(c in name for c in "*?["):
            files = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute ones too
            if not files:
                raise DataError(f"no file matches the pattern {name!r}; check the path")
            yield from files
        else:
            yield name


def load_examples(source: str, plugins: Registry) -> list[Example]:
    """Read the examples of a data source with the dataset plugin that matches it."""
    return list(plugins.dataset(source).call({"source": source}, {}))
