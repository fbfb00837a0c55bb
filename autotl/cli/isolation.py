"""``--isolate``: the search runs in a child process, which is started again if it crashes.

A crash, such as a segmentation fault in a kernel, ends a process without a Python exception. The
trial that was running is stored as crashed, and the study continues in a new process, which does
not repeat it. So no time is spent on starting a process for each trial, and a crash costs one
trial. A process that ends because the GPU failed, which only another one can use then, is followed
by another one too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from autotl.errors import GpuError, SearchError

if TYPE_CHECKING:
    from autotl.study import StudyConfig

MAX_CRASHES = 10
"""The number of crashes without a complete trial in between after which the search ends."""

CRASH_FILE = "crash.txt"
"""The file in the run folder with the place in the code of each crash."""

CHILD = """
import faulthandler, sys
faulthandler.enable(open(sys.argv.pop(1), "w", encoding="utf-8"), all_threads=False)
from autotl.cli import main
main(prog_name="autotl")
"""
"""The program of the child process; its first argument is a file for the place of a crash."""

LEAST_SECONDS = 30.0
"""The budget that a process has at least, to hand over the best model so far."""

WINDOWS_FAULTS = 0xC0000000
"""The smallest exit status of a process that Windows ended because of a fault."""


def run(settings: StudyConfig, words: Sequence[str], began: float) -> int:
    """Run the search in child processes until one of them ends by itself.

    Args:
        settings: The settings of the study.
        words: The words of the command line after ``autotl``, without ``--isolate``.
        began: The begin of the budget as a value of ``time.monotonic``.

    Returns:
        The exit status of the last process.

    Raises:
        SearchError: The search crashed ``MAX_CRASHES`` times without a complete trial in between.
    """
    crashes, complete, remaining = 0, -1, list[str]()
    while True:
        status, place = _run_child([*words, *remaining])
        if not _is_crash(status):
            return status
        before = complete
        failed, complete = _store_crash(settings, f"its process crashed: {_describe(status)}")
        crashes = crashes + 1 if complete <= before else 1
        names = " and ".join(f"trial {number}" for number in failed) or "the search"
        what = f"{names} crashed ({_describe(status)}{_write_place(settings, names, place)})"
        if crashes == MAX_CRASHES:
            raise SearchError(
                f"{what}, {crashes} times in a row without a complete trial; give --device cpu, or "
                "leave out what the crashed trials have in common"
            )
        click.echo(f"{what}; the search continues", err=True)
        remaining = _remaining_budget(settings, began)


def _run_child(words: Sequence[str]) -> tuple[int, str]:
    """Run the command line in a child process, which gets the signals of this one.

    Returns:
        Its exit status, and where it was in the code if it crashed.
    """
    with tempfile.TemporaryDirectory(prefix="autotl-") as folder:
        file = Path(folder, CRASH_FILE)
        command = [sys.executable, "-c", CHILD, str(file), *words]
        # In a session of its own, so that Ctrl-C in a terminal does not reach it twice.
        with subprocess.Popen(command, start_new_session=True) as child, _forward_signals(child):
            status = child.wait()
        return status, file.read_text("utf-8", errors="replace") if file.exists() else ""


def _write_place(settings: StudyConfig, names: str, place: str) -> str:
    """Append the place of a crash to the file in the run folder, and return what refers to it."""
    file = settings.folder / CRASH_FILE
    if not place or not settings.folder.is_dir():
        return ""
    with file.open("a", encoding="utf-8", errors="replace") as stream:
        stream.write(f"{names}:\n{place}\n")
    return f", see {file}"


@contextmanager
def _forward_signals(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, forward) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _is_crash(status: int) -> bool:
    return status < 0 or status >= WINDOWS_FAULTS or status == GpuError.exit_code


def _describe(status: int) -> str:
    """The name of the signal that ended a process, or its exit status."""
    if status == GpuError.exit_code:
        return "the GPU failed"
    if status >= 0:
        return f"exit status {status:#x}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _store_crash(settings: StudyConfig, reason: str) -> tuple[list[int], int]:
    """Store the running trials as crashed; return their numbers, and how many are complete."""
    from autotl.store import Store, default_url

    store = Store(settings.storage or default_url(settings.out))
    with closing(store), store.lock(settings.name, settings.folder), store.convert_errors():
        rows = store.trials(settings.name)
        running = [row.number for row in rows if row.status == "running"]
        for number in running:
            store.finish_trial(settings.name, number, "crashed", reason=reason)
    return running, sum(row.status == "complete" for row in rows)


def _remaining_budget(settings: StudyConfig, began: float) -> list[str]:
    """The option ``--budget`` with what is left of it; empty without a budget."""
    from autotl.study import DEFAULT_BUDGET

    budget = settings.budget
    if budget is None and settings.trials is None:
        budget = DEFAULT_BUDGET
    if budget is None:
        return []
    return ["--budget", f"{max(LEAST_SECONDS, budget - (time.monotonic() - began)):.0f}s"]
