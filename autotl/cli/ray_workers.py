"""``--ray``: the search and its workers run in a Ray cluster, and this process shows the progress.

Ray places the workers on machines with free GPUs or CPU cores, and starts the search or a worker
again whose machine or process has failed. The trials are those of the database, as with all
workers; Ray has none of them.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.cli.common import interruptible
from autotl.cli.local_workers import END_SECONDS, THREADS_PER_WORKER, parse_count
from autotl.errors import AutoTLError, SearchError, StudyError
from autotl.events import Event, Listener, Note, Stage, StepCompleted, ignore
from autotl.store import quick
from autotl.study import StudyConfig

if TYPE_CHECKING:
    from autotl.engine import Result

POLL_SECONDS = 0.5
"""The time between two looks at what the search reports."""

RETRIES = 5
"""How often Ray starts the search or a worker again whose machine or process has failed."""

CONNECT_SECONDS = 10.0
"""How long to wait for the address of the cluster to respond."""

WAIT_SECONDS = 3600.0
"""How long a worker waits for the search to begin."""


@dataclass(frozen=True)
class Shares:
    """The number of workers, the search among them, and what each of them gets."""

    workers: int
    num_cpus: int
    num_gpus: float


class Search:
    """The search in a process of the cluster. Ray calls its methods in several threads."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._is_interrupted = False

    def run(self, settings: StudyConfig, command: str) -> tuple[dict[str, Any], bool]:
        """Run the search, or join it if this process takes the place of one that has died.

        Returns:
            The summary, and whether the search was interrupted.
        """
        import ray

        from autotl import engine

        if ray.get_runtime_context().was_current_actor_reconstructed:
            text = "the process of the search died; another one takes its place"
            self._listen(Note(text, warning=True))
            result = engine.run_or_join(settings, self._listen, command=command)
        else:
            result = engine.run(settings, self._listen, command=command)
        return dict(result.summary), result.interrupted

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def interrupt(self) -> None:
        """End the search as Ctrl-C does."""
        self._is_interrupted = True

    def _listen(self, event: Event) -> None:
        self._events.append(event)
        if self._is_interrupted:
            self._is_interrupted = False
            raise KeyboardInterrupt


def work(settings: StudyConfig) -> None:
    """Join the search as a worker, in a process of the cluster."""
    from autotl import engine

    with interruptible(ignore) as listener:  # Ray cancels a task by SIGINT
        engine.work(
            settings.name,
            settings.storage,
            settings.out,
            data=settings.data,
            device=settings.device,
            wait=WAIT_SECONDS,
            listener=listener,
        )


def run(
    settings: StudyConfig,
    address: str,
    workers: str,
    per_gpu: int,
    command: str,
    view: Listener,
    listener: Listener,
) -> Result:
    """Run a search in a Ray cluster.

    Args:
        settings: The settings of the study.
        address: The address of the cluster; ``auto`` for the one that this machine is part of.
        workers: The number of workers, or ``auto``: one for each GPU, or for four CPU cores.
        per_gpu: The number of workers for each GPU with ``auto``.
        command: The command line, for the report.
        view: Called with the events of the search.
        listener: Called between them; it raises KeyboardInterrupt after Ctrl-C.

    Raises:
        StudyError: Ray is not installed, there is no such cluster, or its machines cannot share the
            database.
        SearchError: The process of the search died ``RETRIES`` times and once more.
        AutoTLError: An error of the search.
    """
    with _connect(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        settings = _for_cluster(settings, len(nodes))
        shares = share(nodes, workers, per_gpu, settings.device)
        options = {"num_cpus": shares.num_cpus, "num_gpus": shares.num_gpus}
        restarts = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
        actor = ray.remote(Search).options(max_concurrency=2, **restarts, **options).remote()
        searching = actor.run.remote(settings, command)
        task = ray.remote(work).options(max_retries=RETRIES, **options)
        working = [task.remote(settings) for _ in range(shares.workers - 1)]
        view(Note(_describe(shares.workers, len(nodes))))
        summary, interrupted = _wait(ray, actor, searching, working, view, listener)
        _end(ray, working)
    from autotl import engine
    from autotl.space import registry

    return engine.Result(summary, settings.folder, registry.load(settings.plugin), interrupted)


def share(
    nodes: Sequence[Mapping[str, float]], workers: str, per_gpu: int = 1, device: str = "auto"
) -> Shares:
    """Share the resources of the machines of a cluster among workers.

    Args:
        nodes: What each machine has, as Ray counts it.
        workers: The number of workers, or ``auto``: one for each GPU, or for four CPU cores.
        per_gpu: The number of workers for each GPU with ``auto``.
        device: The device of the study; with ``cpu`` no GPU is used.

    Raises:
        StudyError: ``workers`` is not a number from 1, or no machine has a CPU core for them.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [0 if device == "cpu" else int(node.get("GPU", 0)) for node in nodes]
    if workers == "auto":
        count = sum(gpus) * per_gpu or sum(max(1, n // THREADS_PER_WORKER) for n in cpus if n)
    else:
        count = parse_count(workers)
    if not any(cpus):
        raise StudyError("the machines of the Ray cluster have no CPU cores for workers")
    each = math.ceil(count / sum(gpus)) if any(gpus) else 0  # the workers on one GPU

    def places(num_cpus: int) -> int:
        """How many workers have a place, with so many cores each."""
        by_cpu = [n // num_cpus for n in cpus]
        return sum(min(n, m * each) if each else n for n, m in zip(by_cpu, gpus, strict=True))

    fitting = (n for n in range(THREADS_PER_WORKER, 0, -1) if places(n) >= count)
    return Shares(count, next(fitting, 1), 1 / each if each else 0.0)


def _describe(workers: int, machines: int) -> str:
    """Say how many workers there are, on how many machines."""
    who = "1 worker" if workers == 1 else f"{workers} workers"
    where = "1 machine" if machines == 1 else f"{machines} machines"
    return f"{who} in a Ray cluster of {where}"


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    """Connect to a cluster inside; yield the module ``ray``.

    Raises:
        StudyError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise StudyError("--ray needs Ray: pip install 'autotl[ray]'") from None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _require_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StudyError(
            f"there is no Ray cluster at {address!r} ({reason}); start one with: ray start --head"
        ) from None
    try:
        signal.signal(signal.SIGTERM, handler)  # Ray's would end the process at once
        yield ray
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)


def _require_reachable(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, which Ray would try for more than a minute."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _for_cluster(settings: StudyConfig, nodes: int) -> StudyConfig:
    """Return the settings with absolute paths, as processes of the cluster have other folders.

    Raises:
        StudyError: Several machines would write to one SQLite file.
    """
    if nodes > 1 and (settings.storage or "sqlite").startswith("sqlite"):
        raise StudyError(
            "the machines of a Ray cluster need a server for their database: give --storage "
            "postgresql+psycopg://..., see docs/workers.md"
        )
    data = settings.data
    if Path(data).exists():
        data = str(Path(data).absolute())
    plugin = tuple(file.expanduser().absolute() for file in settings.plugin)
    values = {"data": data, "plugin": plugin, "out": settings.out.absolute()}
    if settings.storage and (database := quick.sqlite_file(settings.storage)):
        values["storage"] = f"{quick.PREFIX}{database.absolute()}"
    return settings.model_copy(update={**values, "study": settings.name})


def _wait(
    ray: Any, actor: Any, searching: Any, working: Sequence[Any], view: Listener, listener: Listener
) -> tuple[dict[str, Any], bool]:
    """Show the events of the search until it ends.

    Returns:
        Its summary, and whether it was interrupted.

    Raises:
        SearchError: Its process died too often.
        AutoTLError: An error of the search.
    """
    view(Stage("waiting for free resources of the cluster"))
    left, events = list(working), actor.take_events.remote()
    while True:
        try:
            done, _ = ray.wait([searching], timeout=POLL_SECONDS)
            if done or ray.wait([events], timeout=0)[0]:
                for event in ray.get(events):
                    view(event)
                events = actor.take_events.remote()
            if done:
                for event in ray.get(events):  # since the call before
                    view(event)
                return _result(ray, searching)
        except ray.exceptions.RayActorError:
            raise SearchError(
                f"the process of the search died {RETRIES + 1} times in the Ray cluster; its "
                "trials are stored; repeat the command to go on"
            ) from None
        ended, left = ray.wait(left, num_returns=len(left), timeout=0) if left else ([], [])
        for reference in ended:
            _report_error(ray, reference, view)
        try:
            listener(StepCompleted())  # which shows nothing
        except KeyboardInterrupt:
            view(Stage("ending the workers"))
            actor.interrupt.remote()
            for reference in left:
                ray.cancel(reference)


def _result(ray: Any, searching: Any) -> tuple[dict[str, Any], bool]:
    """Return the result of the search, or raise its error."""
    try:
        result: tuple[dict[str, Any], bool] = ray.get(searching)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return result


def _report_error(ray: Any, working: Any, view: Listener) -> None:
    """Report the error that has ended a worker; the others go on."""
    try:
        ray.get(working)
    except ray.exceptions.TaskCancelledError:
        return
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        text = str(cause) if isinstance(cause, AutoTLError) else repr(cause)
    except ray.exceptions.RayError:
        text = f"its process died {RETRIES + 1} times"
    else:
        return
    view(Note(f"a worker ended with an error: {text}", warning=True))


def _end(ray: Any, working: Sequence[Any]) -> None:
    """End the workers, and those that never had a place in the cluster."""
    for is_forced in (False, True):
        for reference in working:
            ray.cancel(reference, force=is_forced)
        _, working = ray.wait(list(working), num_returns=len(working), timeout=END_SECONDS)
        if not working:
            return
