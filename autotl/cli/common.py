"""Options, option types and the handling of interrupts that several commands share.

Numbers that are settings of a study have their limits there, and none here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autotl.errors import StudyError, find_path_fault, shorten
from autotl.events import Event, Listener


class _Path(click.ParamType[Any]):
    """A path that a file can have: without null characters, not too long, of a user that exists.

    Args:
        path_type: ``Path``, or ``str`` for what need not be a path, such as a data source.
    """

    name = "path"

    def __init__(self, path_type: type[Path] | type[str]) -> None:
        self.path_type = path_type

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        """Convert the text of an option; a path that no file can have is a usage error."""
        if self.path_type is Path and not str(value).strip():
            self.fail("the path is empty; is a variable of the shell not set?", param, ctx)
        if fault := find_path_fault(value):
            self.fail(f"{shorten(value)} is not a valid path: {fault}.", param, ctx)
        return self.path_type(value)


PATH = _Path(Path)
SOURCE = _Path(str)
"""A data source, a plugin file or a name; whatever it is, a path that no file can have is none."""


def _split_data_options(
    ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str] | None:
    """Return the options by name; None without any."""
    for pair in pairs:
        if not re.match("[^=]+=", pair):
            raise click.BadParameter(f"{shorten(pair)} is not KEY=VALUE.", ctx, param)
    return dict(pair.split("=", 1) for pair in pairs) or None


QUIET = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    help="No output except warnings and errors (default: progress and result).",
)

PLUGIN = click.option(
    "--plugin",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Python file with additional plugins; repeatable (default: none).",
)
DATA_OPTION = click.option(
    "--data-option",
    "data_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_split_data_options,
    help="Setting of the plugin that reads DATA, e.g. classes=deepest for nested class folders; "
    "repeatable (default: the plugin's own).",
)
FORMAT = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    help="Format of the output (default: table).",
)
STORAGE_VARIABLE = "AUTOTL_STORAGE"
"""The environment variable for ``--storage``, whose password other users cannot read there."""

STORAGE = click.option(
    "--storage",
    metavar="URL",
    envvar=STORAGE_VARIABLE,
    help=f"Database URL of the studies (default: ${STORAGE_VARIABLE}, else OUT/autotl.db).",
)
TASK = click.option(
    "--task",
    metavar="NAME",
    help="What is predicted: classification, multilabel, regression, ordinal, or the task of a "
    "plugin (default: what the labels tell).",
)
SEED = click.option(
    "--seed", type=int, metavar="N", help="Seed of the random number generators (default: 0)."
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "tf32", "bfloat16", "float16"]),
    help="Floating-point format of the computation (default: auto, bfloat16 if the hardware "
    "supports it, float16 on older NVIDIA GPUs).",
)
WEIGHTS = click.option(
    "--weights",
    type=PATH,
    metavar="DIR",
    help="Folder of pretrained weights, each file named like its backbone "
    "(default: installed packages, then the Hugging Face cache and hub).",
)


class Duration(click.ParamType[float]):
    """A duration such as ``10m``, converted to seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert the text of an option to seconds; an invalid duration is a usage error."""
        from autotl import study

        try:
            return study.parse_duration(value)
        except StudyError as error:
            self.fail(str(error), param, ctx)


class DeviceName(click.ParamType[str]):
    """The name of a device, such as ``cuda:1``; whether there is one is checked later."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name unchanged; another one is a usage error."""
        from autotl import study

        if not re.match(study.DEVICES, value):
            self.fail(f"{value!r} {study.DEVICE_EXPECTED}", param, ctx)
        return str(value)


def device_option(default: str | None = None) -> Callable[[Any], Any]:
    """Return the option ``--device``; without a default, that of the study file is used."""
    return click.option(
        "--device",
        type=DeviceName(),
        default=default,
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Device for the computation (default: auto, the GPU if there is one).",
    )


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    return {k: v for k, v in options.items() if v is not None and v != ()}


@contextmanager
def interruptible(listener: Listener) -> Iterator[Listener]:
    """Wrap a listener so that SIGINT or SIGTERM raises KeyboardInterrupt at the next event.

    Events occur between two steps. If the exception were raised as soon as the signal arrives, it
    could abort a write to the database, or occur in a finaliser, where Python ignores it. A second
    signal before the next event interrupts immediately.
    """
    pending = False

    def handle_signal(*_: Any) -> None:
        nonlocal pending
        if pending:
            raise KeyboardInterrupt
        pending = True

    def listen(event: Event) -> None:
        nonlocal pending
        listener(event)
        if pending:
            pending = False
            raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle_signal) for number in signals]
    try:
        yield listen
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def printable(text: str) -> str:
    """Replace characters that a terminal cannot show, which file names may contain."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
