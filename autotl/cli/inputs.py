"""Find the images that a command gets as arguments: files, or labelled examples."""

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
"""The suffixes of image files in a folder."""


def image_files(names: Sequence[str]) -> Iterator[str]:
    """Yield the image files that are given as files, folders, glob patterns, or ``-`` for stdin.

    Args:
        names: The arguments of the command. ``-`` stands for the file names on stdin, one a line.

    Raises:
        DataError: A folder has no images, or a pattern matches no file.
    """
    for name in names:
        if name == "-":
            yield from (line.strip("\r\n") for line in sys.stdin if line.strip())
        elif Path(name).is_dir():
            candidates = sorted(p for p in Path(name).rglob("*") if p.suffix.lower() in SUFFIXES)
            # Files whose names begin with a dot are metadata, such as ._photo.jpg on macOS.
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
    """Read the examples of a data source with the dataset plugin that matches it.

    Raises:
        DataError: The source cannot be read.
        PluginError: No dataset plugin reads it.
    """
    return list(plugins.dataset(source).call({"source": source}, {}))
