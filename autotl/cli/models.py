"""What the commands on a model folder share: where pictures come from, and a bar while they go."""

from __future__ import annotations

import glob
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from autotl.errors import DataError

if TYPE_CHECKING:
    from autotl.space.plugin import Example
    from autotl.space.registry import Registry

DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto")
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg"),
    *(".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"),
)


def pictures(names: Sequence[str]) -> Iterator[str]:
    """Files, the pictures below folders, what patterns match, and lines of stdin for ``-``.

    Raises:
        DataError: A folder has no pictures, or a pattern fits none.
    """
    for name in names:
        if name == "-":
            yield from (line.strip("\r\n") for line in sys.stdin if line.strip())
        elif Path(name).is_dir():
            inside = sorted(p for p in Path(name).rglob("*") if p.suffix.lower() in SUFFIXES)
            # What begins with a dot is what systems leave behind, such as macOS's ._photo.jpg.
            found = [str(p) for p in inside if not p.name.startswith(".")]
            if not found:
                raise DataError(f"{name}: no pictures in this folder; they end in {_SUFFIXES}")
            yield from found
        elif not Path(name).exists() and any(c in name for c in "*?["):
            found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute ones too
            if not found:
                raise DataError(f"no file fits the pattern {name!r}; check the path")
            yield from found
        else:
            yield name


_SUFFIXES = ", ".join(SUFFIXES)


def examples(source: str, plugins: Registry) -> list[Example]:
    """What a dataset plugin makes of ``source``."""
    found: list[Example] = list(plugins.dataset(source).call({"source": source}, {}))
    return found


class Bar:
    """A progress bar on stderr, if that is a terminal; errors are printed above it."""

    def __init__(self, label: str, total: int, hidden: bool = False) -> None:
        self.shown = sys.stderr.isatty() and not hidden
        self.done = 0
        self.bar = click.progressbar(
            length=total, label=label, file=sys.stderr, hidden=not self.shown
        )
        self.calm = warnings.catch_warnings()

    def __enter__(self) -> Bar:
        self.calm.__enter__()
        # Pillow warns of odd metadata and large pictures; what matters of it is an error.
        warnings.filterwarnings("ignore", module="PIL")
        self.bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.__exit__(kind, error, trace)
        self.calm.__exit__(kind, error, trace)

    def update(self, done: int) -> None:
        """So many are done."""
        self.bar.update(done - self.done)
        self.done = done

    def error(self, text: str) -> None:
        """Print an error."""
        click.echo(f"\r\x1b[KError: {text}" if self.shown else f"Error: {text}", err=True)
