"""A progress bar for the commands on a model folder."""

from __future__ import annotations

import sys
import warnings
from types import TracebackType

import click


class ProgressBar:
    """A progress bar on stderr, shown only on a terminal; errors are printed above it."""

    def __init__(self, label: str, total: int, hidden: bool = False) -> None:
        self._visible = sys.stderr.isatty() and not hidden
        self._done = 0
        self._bar = click.progressbar(
            length=total, label=label, file=sys.stderr, hidden=not self._visible
        )
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> ProgressBar:
        self._warnings.__enter__()
        # Pillow warns of unusual metadata and of large images, which can be read nevertheless.
        warnings.filterwarnings("ignore", module="PIL")
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._warnings.__exit__(kind, error, trace)

    def update(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` steps are done in all, of ``total`` where that was not known."""
        if total is not None:
            self._bar.length = total
        self._bar.update(done - self._done)
        self._done = done

    def print_error(self, message: str) -> None:
        """Print an error line without breaking the bar."""
        self._print(f"Error: {message}")

    def print_note(self, message: str) -> None:
        """Print a note without breaking the bar."""
        self._print(f"note: {message}")

    def _print(self, line: str) -> None:
        click.echo(f"\r\x1b[K{line}" if self._visible else line, err=True)
