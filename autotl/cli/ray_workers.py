"""``--ray``: the search and its workers run in a Ray cluster, and this process shows the progress.

Ray places the workers on machines with free GPUs or CPU cores, and starts a worker again whose
machine has failed. The trials are those of the database, as with all workers; Ray has none of them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.cli.local_workers import END_SECONDS, THREADS_PER_WORKER
from autotl.errors import StudyError
from autotl.events import Event, Listener, Note, Stage, StepCompleted
from autotl.study import StudyConfig

if TYPE_CHECKING:
    from autotl.engine import Result

POLL_SECONDS = 0.5
"""The time between two looks at what the search reports."""

RETRIES = 5
"""How often Ray starts a worker again whose machine or process has failed."""


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
        """Run the search; return its summary, and whether it was interrupted."""
        from autotl import engine

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

    engine.work(
        settings.name, settings.storage, settings.out, data=settings.data, wait=3600.0
    )  # Ray has chosen the device by CUDA_VISIBLE_DEVICES


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
        AutoTLError: An error of the search.
    """
    ray = _connect(address)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        settings = _for_cluster(settings, len(nodes))
        shares = share(ray.cluster_resources(), workers, per_gpu)
        options = {"num_cpus": shares.num_cpus, "num_gpus": shares.num_gpus}
        actor = ray.remote(Search).options(max_concurrency=2, **options).remote()
        searching = actor.run.remote(settings, command)
        task = ray.remote(work).options(max_retries=RETRIES, **options)
        working = [task.remote(settings) for _ in range(shares.workers - 1)]
        view(Note(f"{shares.workers} workers on {len(nodes)} machines of the Ray cluster"))
        result = _wait(ray, actor, searching, working, view, listener)
        _end(ray, working)
    finally:
        ray.shutdown()
    summary, interrupted = result or (_read_summary(settings), False)
    from autotl import engine
    from autotl.space import registry

    return engine.Result(summary, settings.folder, registry.load(settings.plugin), interrupted)


def share(resources: dict[str, float], workers: str, per_gpu: int) -> Shares:
    """Share the resources of a cluster among workers.

    Raises:
        StudyError: ``workers`` is no number from 1.
    """
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if workers == "auto":
        count = gpus * per_gpu or max(1, cpus // THREADS_PER_WORKER)
    elif workers.isdecimal() and int(workers) > 0:
        count = int(workers)
    else:
        raise StudyError(f"--workers = {workers!r}: is not a number of workers from 1, or auto")
    each = 0.0 if not gpus else 1.0 if count <= gpus else round(gpus / count, 4)
    return Shares(count, max(1, min(THREADS_PER_WORKER, cpus // count)), each)


def _connect(address: str) -> Any:
    """Connect to a cluster; return the module ``ray``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise StudyError("--ray needs Ray: pip install 'autotl[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(
            f"there is no Ray cluster at {address!r} ({reason}); start one with: ray start --head"
        ) from None
    return ray


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
    plugin = tuple(file.absolute() for file in settings.plugin)
    values = {"data": data, "plugin": plugin, "out": settings.out.absolute()}
    return settings.model_copy(update={**values, "study": settings.name})


def _wait(
    ray: Any, actor: Any, searching: Any, working: Sequence[Any], view: Listener, listener: Listener
) -> tuple[dict[str, Any], bool] | None:
    """Show the events of the search until it ends.

    Returns:
        Its summary, and whether it was interrupted. None if the machine of the search failed, so
        that the other workers have finished the study.
    """
    view(Stage("waiting for free resources of the cluster"))
    try:
        while True:
            done, _ = ray.wait([searching], timeout=POLL_SECONDS)
            for event in ray.get(actor.take_events.remote()):
                view(event)
            if done:
                return _result(ray, searching)
            try:
                listener(StepCompleted())  # which shows nothing
            except KeyboardInterrupt:
                ray.get(actor.interrupt.remote())
    except ray.exceptions.RayActorError:
        view(Note("the machine of the search failed; the other workers go on", warning=True))
    ray.wait(list(working), num_returns=len(working))
    return None


def _read_summary(settings: StudyConfig) -> dict[str, Any]:
    """Read the summary of a study that another worker has finished.

    Raises:
        StudyError: There is none.
    """
    file = settings.folder / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StudyError(
            "all workers of the search failed; its trials are stored; repeat the command to go on"
        ) from None
    return summary


def _result(ray: Any, searching: Any) -> tuple[dict[str, Any], bool]:
    """Return the result of the search, or raise its error."""
    try:
        result: tuple[dict[str, Any], bool] = ray.get(searching)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return result


def _end(ray: Any, working: Sequence[Any]) -> None:
    """Wait for the workers, and cancel those that never had a place in the cluster."""
    _, left = ray.wait(list(working), num_returns=len(working), timeout=END_SECONDS)
    for reference in left:
        ray.cancel(reference, force=True)
