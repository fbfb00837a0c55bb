"""``--isolate``: the search runs in a child process, which is started again if it crashes.

A crash, such as a segmentation fault in a kernel, ends a process without a Python exception. The
trial that was running is stored as crashed, and the study continues in a new process, which does
not repeat it. So no time is spent on starting a process for each trial, and a crash costs one
trial. A process that ends because the GPU failed, which only another one can use then, is followed
by another one too.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from autotl import files
from autotl.cli import process
from autotl.errors import GpuError, SearchError
from autotl.study import CRASH_FILE, DEFAULT_BUDGET, ERROR_FILE, StudyConfig

if TYPE_CHECKING:
    from autotl.store import Store

MAX_TRIAL_CRASHES, MAX_OTHER_CRASHES = 10, 2
"""The number of crashes without a complete trial in between after which the search ends: of crashes
in trials, and of those elsewhere, where the next process would crash again."""

ENDED = "the process ended by itself"
"""What a child process writes into the file for the place of a crash if it does not crash."""

CHILD = "from autotl.cli import isolation; isolation.run_child()"
"""The program of a child process. Its arguments are that file, and the seconds that were spent
before."""

_spent_before: float | None = None  # in this process, if it is a child


def is_child() -> bool:
    """Whether this process is a child of one that supervises the search."""
    return _spent_before is not None


def spent_before() -> float:
    """The seconds of the budget that were spent before this process began."""
    return _spent_before or 0.0


def run_child() -> None:
    """Run the command line in a child process."""
    global _spent_before
    file, spent = Path(sys.argv.pop(1)), sys.argv.pop(1)
    _spent_before = float(spent)
    if hasattr(signal, "SIGTTOU"):  # it is not in the foreground of the terminal, and may print
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with file.open("w", encoding="utf-8") as stream:
        faulthandler.enable(stream, all_threads=False)
        process.end_with_parent()
        from autotl.cli import main

        try:
            main(prog_name="autotl")
        finally:
            stream.write(ENDED)


def run(settings: StudyConfig, words: Sequence[str], began: float) -> int:
    """Run the search in child processes until one of them ends by itself.

    Args:
        settings: The settings of the study.
        words: The words of the command line after ``autotl``.
        began: The begin of the budget as a value of ``time.monotonic``.

    Returns:
        The exit status of the last process; 130 if a signal ended it.

    Raises:
        SearchError: The search crashed too often without a complete trial in between, or after the
            end of its budget.
    """
    crashes, complete = {True: 0, False: 0}, -1
    while True:
        late = time.monotonic() - began > (_budget(settings) or float("inf"))
        status, place = _run_child(words, time.monotonic() - began)
        if place is None or status == 130:
            return status
        before = complete
        reason = "the GPU failed" if status == GpuError.exit_code else f"crash: {_describe(status)}"
        numbers, complete = _store_crash(settings, f"its process ended: {reason}")
        if complete > before:
            crashes = {True: 0, False: 0}
        in_trial = bool(numbers) or status == GpuError.exit_code
        crashes[in_trial] += 1
        names = " and ".join(f"trial {number}" for number in numbers) or "the search"
        what = f"{names} ended with its process ({reason}{_write_place(settings, names, place)})"
        most = MAX_TRIAL_CRASHES if in_trial else MAX_OTHER_CRASHES
        if late or crashes[in_trial] == most:
            _give_up(settings, what)
            raise SearchError(
                f"{what}, "
                + ("after the budget" if late else f"{most} times without a complete trial")
                + "; leave out what crashes, or give another --device"
            )
        click.echo(f"{what}; the search continues in another one", err=True)


def _budget(settings: StudyConfig) -> float | None:
    """The budget in seconds; None for no limit."""
    if settings.budget is None and settings.trials is None:
        return DEFAULT_BUDGET
    return settings.budget


def _run_child(words: Sequence[str], spent: float) -> tuple[int, str | None]:
    """Run the command line in a child process, which gets the signals of this one.

    Returns:
        Its exit status, and where it was in the code if it crashed; None if it ended by itself, or
        130 if it was ended by a signal.
    """
    with tempfile.TemporaryDirectory(prefix="autotl-") as folder:
        file = Path(folder, CRASH_FILE)
        command = [sys.executable, "-c", CHILD, str(file), f"{spent:.3f}", *words]
        # In a group of its own, so that Ctrl-C in a terminal does not reach it twice.
        with (
            subprocess.Popen(command, process_group=0) as child,
            _forward_signals(child) as forwarded,
        ):
            status = child.wait()
        place = file.read_text("utf-8", errors="replace") if file.exists() else ""
    if status < 0 and (forwarded or -status in _ENDING_SIGNALS):
        return 130, None
    if place.endswith(ENDED) and status != GpuError.exit_code:
        return status, None
    return status, place.removesuffix(ENDED)


_ENDING_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
]


@contextmanager
def _forward_signals(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let the child end as after Ctrl-C at each signal that would end this process.

    After Ctrl-Z it stops and continues with this process.

    Yields:
        The signals so far that end it.
    """
    forwarded: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        forwarded.append(number)
        with suppress(ProcessLookupError):
            child.terminate() if number != signal.SIGINT else child.send_signal(number)

    def stop(*_: object) -> None:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            if number == signal.SIGSTOP:
                os.kill(os.getpid(), number)  # the next line runs when this process continues

    handlers: dict[int, Any] = dict.fromkeys(_ENDING_SIGNALS, forward)
    if hasattr(signal, "SIGTSTP"):
        handlers[signal.SIGTSTP] = stop
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        del handlers[signal.SIGHUP]  # nohup
    previous = [(number, signal.signal(number, new)) for number, new in handlers.items()]
    try:
        yield forwarded
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _describe(status: int) -> str:
    """The name of the signal that ended a process, or its exit status."""
    if status >= 0:
        return f"exit status {status if status < 256 else hex(status)}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


@contextmanager
def _locked_store(settings: StudyConfig) -> Iterator[Store]:
    """Open the database, which no other process may use for this study meanwhile."""
    from autotl.store import Store, default_url

    store = Store(settings.storage or default_url(settings.out))
    with closing(store), store.lock(settings.name, settings.folder), store.convert_errors():
        yield store


def _store_crash(settings: StudyConfig, reason: str) -> tuple[list[int], int]:
    """Store the running trials of the process that crashed as crashed.

    Returns:
        Their numbers, and how many trials are complete.
    """
    from autotl.store import living

    with _locked_store(settings) as store:
        rows, others = store.trials(settings.name), living(store, settings.name)
        alive = {worker.number for worker in others}
        running = [r.number for r in rows if r.status == "running" and r.worker not in alive]
        for number in running:
            store.finish_trial(settings.name, number, "crashed", reason=reason)
    return running, sum(row.status == "complete" for row in rows)


def _write_place(settings: StudyConfig, names: str, place: str) -> str:
    """Append the place of a crash to the file in the run folder; return it in few words."""
    with suppress(OSError):  # after an error of the GPU; the next process removes it
        place = place or (settings.folder / ERROR_FILE).read_text("utf-8", errors="replace")
    if not place:
        return ""
    file = settings.folder / CRASH_FILE
    files.claim(settings.folder)
    with file.open("a", encoding="utf-8", errors="replace") as stream:
        stream.write(f"{names}:\n{place}\n")
    lines = re.findall(r'File "([^"]+)", line (\d+)', place)
    own = [f"{Path(name).name}, line {n}" for name, n in lines if not _is_installed(name)]
    return f" in {own[0]}; see {file}" if own else f"; see {file}"


def _is_installed(file: str) -> bool:
    """Whether a file is of Python, of an installed package or of AutoTL itself."""
    ours = Path(__file__).parents[1]
    return (
        "site-packages" in file
        or "<" in file
        or Path(file).is_relative_to(ours)
        or (Path(file).is_relative_to(sys.base_prefix))
    )


def _give_up(settings: StudyConfig, reason: str) -> None:
    """Store why the search ended, and write the report of what is known."""
    from autotl import report

    with _locked_store(settings) as store:
        if store.find_study(settings.name):
            store.update_study(settings.name, state="failed", reason=reason)
            report.write(store, settings.name, settings.folder)
