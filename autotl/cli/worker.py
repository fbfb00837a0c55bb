"""The ``worker`` command: join the search of another process or another machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from autotl.cli.common import (
    PATH,
    QUIET,
    SOURCE,
    STORAGE,
    Duration,
    device_option,
    given_options,
    interruptible,
)
from autotl.events import Stage


@click.command()
@click.argument("study", metavar="STUDY")
@STORAGE
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Parent folder of the run folders, which all machines share (default: runs).",
)
@click.option(
    "--data",
    type=SOURCE,
    metavar="DATA",
    help="Source of the data on this machine (default: that of the search).",
)
@click.option(
    "--target",
    type=SOURCE,
    metavar="DATA",
    help="Source of the examples of another domain on this machine (default: that of the search).",
)
@device_option()
@click.option(
    "--wait",
    type=Duration(),
    metavar="TIME",
    help="Time to wait for the search to begin, e.g. 10m (default: 60s).",
)
@QUIET
def worker(study: str, quiet: bool, **options: Any) -> None:
    """Run trials of STUDY, whose search runs in another process or on another machine.

    All processes use the same database and the same folder of runs. The command ends with the
    search; after Ctrl-C the others go on without it.
    """
    from autotl.cli import progress_view

    given = given_options(options)
    with (
        progress_view.show_progress(quiet, study) as view,
        interruptible(view) as listener,
    ):
        listener(Stage("loading libraries"))
        from autotl import engine

        storage, out = given.pop("storage", None), given.pop("out", Path("runs"))
        interrupted = engine.work(study, storage, out, listener=listener, **given)
    if interrupted:
        click.echo("interrupted; the search goes on without this worker", err=True)
        sys.exit(130)
    if not quiet:
        click.echo(f"the search has ended; its report is {out / study / 'report.html'}")
