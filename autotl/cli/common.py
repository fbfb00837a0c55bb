"""What several commands share: types and options of the command line, and how they end."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autotl.errors import StudyError

FILE = click.Path(path_type=Path)
PLUGIN = click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")


class Span(click.ParamType[float]):
    """A time span such as ``10m``."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The span in seconds."""
        from autotl import study

        try:
            return study.parse_duration(value)
        except StudyError as error:
            self.fail(str(error), param, ctx)


def asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {k: v for k, v in options.items() if v is not None and v != ()}


@contextmanager
def interruptible(listener: Any) -> Iterator[Any]:
    """A listener that raises a Ctrl-C, or what a scheduler sends instead, at its next event.

    There nothing is half done. Raised where it arrives, it could tear a write to the database, or
    fall into a finaliser, where Python drops it. Whoever asks twice is not kept waiting.
    """
    asked = False

    def interrupted(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def watch(event: Any) -> None:
        nonlocal asked
        listener(event)
        if asked:
            asked = False
            raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupted) for number in signals]
    try:
        yield watch
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def legible(text: str) -> str:
    """A name for the terminal: a file's or folder's may hold control characters, or be no text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
