"""``--workers``: further processes on this machine run trials of the same study.

This process begins the search and is the first worker. It starts the others, and starts another one
in the place of one that dies. When it ends, so do they.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from autotl.cli import process
from autotl.cli.common import STORAGE_VARIABLE
from autotl.errors import GpuError, StudyError, shorten
from autotl.events import Listener, Note
from autotl.study import StudyConfig

THREADS_PER_WORKER = 4
"""The number of CPU cores for each worker with ``auto``: two workers on four cores each are faster
than eight on one, because each needs memory and reads the data for itself."""

MOST_WORKERS = 1024
"""The maximum number of workers of one command."""

MOST_CRASHES = 5
"""The number of crashes of one worker after which it is not started again."""

END_SECONDS = 30.0
"""How long a worker may take to end at the end of the search before it is killed."""

CHILD = "from autotl.cli import local_workers; local_workers.run_child()"
"""The program of another worker. Its arguments are those of the command line."""


@dataclass(frozen=True)
class Plan:
    """What each worker uses: its device, the first one that of this process, and CPU threads."""

    devices: tuple[str, ...]
    threads: int


def plan(settings: StudyConfig, workers: str, per_gpu: int) -> Plan:
    """Plan the workers of a search.

    Args:
        settings: The settings of the study.
        workers: Their number, or ``auto``: one for each GPU, or else one for four CPU cores.
        per_gpu: The number of workers for each GPU with ``auto``.

    Raises:
        StudyError: ``workers`` is not a number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = 0
    if settings.device in ("auto", "cuda"):
        from autotl import models

        gpus = models.count_gpus()
    if workers == "auto":
        alone = per_gpu if settings.device.startswith("cuda:") else 0
        count = gpus * per_gpu or alone or max(1, (cores or 1) // THREADS_PER_WORKER)
    else:
        count = parse_count(workers)
    devices = [settings.device] * count
    if gpus and count > 1:
        devices = [f"cuda:{i % gpus}" for i in range(count)]
    return Plan(tuple(devices), max(1, (cores or 1) // count))


def parse_count(workers: str) -> int:
    """Parse the number of workers.

    Raises:
        StudyError: It is not a number from 1 to ``MOST_WORKERS``.
    """
    if re.fullmatch("[0-9]{1,4}", workers) and 0 < int(workers) <= MOST_WORKERS:
        return int(workers)
    raise StudyError(
        f"--workers = {shorten(workers)}: is not a number of workers from 1 to {MOST_WORKERS}, or "
        "auto"
    )


@contextmanager
def start(settings: StudyConfig, plan: Plan, listener: Listener) -> Iterator[None]:
    """Run the workers of a plan, except the first, which is this process, until the end inside.

    Args:
        settings: The settings of the study.
        plan: The devices and the threads.
        listener: Called from other threads with what the workers have to say.
    """
    os.environ["OMP_NUM_THREADS"] = str(plan.threads)
    if "torch" in sys.modules:  # it reads the variable when it is loaded
        from autotl import models

        models.limit_threads(plan.threads)
    workers = [_LocalWorker(settings, device, listener) for device in plan.devices[1:]]
    try:
        for worker in workers:
            worker.thread.start()
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


@dataclass
class _LocalWorker:
    """Another worker: its process, and the thread that watches it."""

    settings: StudyConfig
    device: str
    listener: Listener
    thread: threading.Thread = field(init=False)
    _process: subprocess.Popen[str] | None = None
    _ends: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def terminate(self) -> None:
        """End the process as Ctrl-C does."""
        self._ends.set()
        if self._process:
            self._process.terminate()

    def wait(self) -> None:
        """Wait until the process has ended, and kill it if that takes too long."""
        self.thread.join(END_SECONDS)
        if self.thread.is_alive() and self._process:
            self._process.kill()
            self.thread.join()

    def _watch(self) -> None:
        """Run the process, and start it again after a crash."""
        for _ in range(MOST_CRASHES):
            if self._ends.is_set():
                return
            status = self._run()
            if self._ends.is_set() or (status >= 0 and status != GpuError.exit_code):
                return
            text = f"a worker on {self.device} died (status {status}); another one takes its place"
            self.listener(Note(text, warning=True))
        text = f"the worker on {self.device} died {MOST_CRASHES} times and is not started again"
        self.listener(Note(text, warning=True))

    def _run(self) -> int:
        """Run the process until it ends, and report its warnings; return its exit status."""
        # In a group of its own: after Ctrl-C this process tells it when to end.
        with subprocess.Popen(
            command(self.settings, self.device),
            env=environment(self.settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        ) as self._process:
            assert self._process.stderr is not None
            for line in self._process.stderr:
                if (text := line.strip()) and not self._ends.is_set():
                    text = text.removeprefix("warning: ")
                    self.listener(Note(f"a worker on {self.device}: {text}", warning=True))
            return self._process.wait()


def command(settings: StudyConfig, device: str) -> Sequence[str]:
    """Return the command line of another worker of a study on this machine."""
    words = ["worker", settings.name, "--out", str(settings.out), "--wait", "1h", "--quiet"]
    words += ["--device", device, "--data", settings.data]
    return [sys.executable, "-c", CHILD, *words]


def environment(settings: StudyConfig) -> dict[str, str]:
    """Return the environment of another worker: the URL of the database may have a password."""
    own = {STORAGE_VARIABLE: settings.storage} if settings.storage else {}
    return {**os.environ, **own}


def run_child() -> None:
    """Run the command line in a process that ends with the one that started it."""
    process.end_with_parent()
    from autotl.cli import main

    main(prog_name="autotl")
