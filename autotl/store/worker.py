"""Workers: processes that run the trials of one study, and what only one of them may do at a time.

A worker shows that it lives by a heartbeat, whose time is that of the database, because the clocks
of machines differ. On its own machine its end is noticed at once, by a lock that the system
releases. What a dead worker was doing, another one takes over: its leases, and its trials, which
``bury`` ends as interrupted. A worker that was only slow, or whose machine was asleep, goes on, but
the result of a trial that was taken from it is not stored (``Store.finish_trial``).
"""

from __future__ import annotations

import logging
import random
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import exc

from autotl.errors import StoreError
from autotl.store.connection import Database, clock
from autotl.store.migrations.tables import LEASE, TRIAL, WORKER
from autotl.store.waiting import repeat_lost_calls

HEARTBEAT_SECONDS = 5.0
"""The time between two heartbeats."""

DEAD_SECONDS = 60.0
"""The time without a heartbeat after which a worker counts as dead."""

POLL_SECONDS = 0.02, 1.0
"""The shortest and the longest pause before a lease is asked for again."""

POLL_FRACTION = 0.25
"""The fraction of the time that a worker has waited after which it asks again: many that wait long
ask rarely."""

QUEUE = "queue"
"""The lease of the worker that chooses the next trial, which takes some milliseconds."""

SCREENING = "screening"
"""The lease of the worker that compares backbones on samples, which takes minutes."""

FINISH = "finish"
"""The lease of the worker that chooses the winner, refits it and tests it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerRow:
    """A worker of a study; ``began`` is by the clock of the database, ``lock`` is its file."""

    number: int
    host: str
    lock: str
    device: str
    began: float


@contextmanager
def join(store: Database, study: str, device: str, folder: Path) -> Iterator[Worker]:
    """Make this process a worker of a study inside.

    Args:
        store: The database.
        study: The name of the study.
        device: The device on which the worker computes, as text.
        folder: The run folder.

    Raises:
        StoreError: The lock file cannot be written.
    """
    beside = store.lock_file(study, folder)
    file = beside.absolute().with_name(f"{beside.name}.{secrets.token_hex(6)}")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error.strerror}; choose another --out") from None
    worker: Worker | None = None
    try:
        worker = Worker(store, study, _add(store, study, device, file))
        with worker.beating():
            yield worker
    finally:
        lock.release()
        if worker is None or worker.has_left:  # otherwise the file tells that it has ended
            file.unlink(missing_ok=True)


def _add(store: Database, study: str, device: str, file: Path) -> int:
    """Add a worker to the table; return its number."""
    last = sa.select(sa.func.max(WORKER.c.number)).where(WORKER.c.study == study)
    while True:
        with suppress(exc.IntegrityError), store.write() as connection:
            number = int(connection.scalar(last) or 0) + 1
            values = {"host": socket.gethostname(), "lock": str(file), "device": device}
            times = {"began": clock(), "seen": clock()}
            connection.execute(
                WORKER.insert().values(study=study, number=number, **values, **times)
            )
            return number


@repeat_lost_calls(("try_lease", "release", "holder", "others", "bury"))
class Worker:
    """This process as a worker of a study, see ``join``.

    Attributes:
        number: Its number among all workers that the study ever had, from 1.
        has_left: Whether it is stored that the worker has ended.
    """

    def __init__(self, store: Database, study: str, number: int) -> None:
        self.store, self.study, self.number = store, study, number
        self.has_left = False

    # ---------------------------------------------------------------- leases

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Wait until no other worker that lives has a lease, and hold it inside."""
        (shortest, longest), waited = POLL_SECONDS, 0.0
        while not self.try_lease(name):
            pause = min(max(shortest, POLL_FRACTION * waited), longest)
            time.sleep(pause * random.uniform(0.5, 1.5))  # not all workers at once
            waited += pause
        try:
            yield
        finally:
            self.release(name)

    def try_lease(self, name: str) -> bool:
        """Take a lease if no other worker that lives has it; return whether this one has it."""
        holder = self.holder(name)  # reading waits for nobody: most calls of many workers end here
        if holder is None:
            with suppress(exc.IntegrityError), self.store.write() as connection:
                row = {"study": self.study, "name": name, "worker": self.number}
                connection.execute(LEASE.insert().values(**row))
                return True
            return False  # another worker was faster
        if holder == self.number or not self._dead({holder}):
            return holder == self.number
        same = LEASE.c.study == self.study, LEASE.c.name == name, LEASE.c.worker == holder
        with self.store.write() as connection:
            change = LEASE.update().where(*same).values(worker=self.number)
            return bool(connection.execute(change).rowcount)

    def release(self, name: str) -> None:
        """Release a lease, unless another worker has taken it over."""
        own = LEASE.c.study == self.study, LEASE.c.name == name, LEASE.c.worker == self.number
        with self.store.write() as connection:
            connection.execute(LEASE.delete().where(*own))

    def holder(self, name: str) -> int | None:
        """Return the number of the worker that has a lease, dead or alive; None if nobody has."""
        same = LEASE.c.study == self.study, LEASE.c.name == name
        with self.store.read() as connection:
            return connection.scalar(sa.select(LEASE.c.worker).where(*same))

    # ---------------------------------------------------------------- other workers

    def others(self) -> list[WorkerRow]:
        """Return the other workers of the study that live, by number."""
        return living(self.store, self.study, self.number)

    def bury(self) -> list[int]:
        """End the running trials of dead workers as interrupted; return their numbers.

        Trials of a version without workers are those of a process that has ended, too.
        """
        running = TRIAL.c.study == self.study, TRIAL.c.status == "running"
        with self.store.read() as connection:
            query = sa.select(TRIAL.c.number, TRIAL.c.worker).where(*running)
            owners = {number: owner for number, owner in connection.execute(query)}
        dead = self._dead({owner for owner in owners.values() if owner is not None})
        lost = [n for n, owner in owners.items() if owner is None or owner in dead]
        if lost:
            change = TRIAL.update().where(*running, TRIAL.c.number.in_(lost))
            end = {"status": "interrupted", "reason": "its process ended"}
            with self.store.write() as connection:
                connection.execute(change.values(**end))
        return lost

    def _dead(self, numbers: Collection[int]) -> set[int]:
        """Return those of these workers that have ended or do not respond."""
        others = set(numbers) - {self.number}
        return others - {row.number for row in self.others()} if others else set()

    # ---------------------------------------------------------------- heartbeat

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show at regular intervals inside that this worker lives, and at the end that it ended."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            own = LEASE.c.study == self.study, LEASE.c.worker == self.number
            with suppress(StoreError), self.store.write() as connection:
                connection.execute(self._update().values(ended=clock()))
                connection.execute(LEASE.delete().where(*own))
                self.has_left = True

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                with self.store.write() as connection:
                    connection.execute(self._update().values(seen=clock()))
            except StoreError as error:  # the next one may succeed
                log.warning("no heartbeat: %s", error)

    def _update(self) -> sa.Update:
        return WORKER.update().where(WORKER.c.study == self.study, WORKER.c.number == self.number)


def living(store: Database, study: str, but: int = 0) -> list[WorkerRow]:
    """Return the workers of a study that live, by number.

    Args:
        store: The database.
        study: The name of the study.
        but: The number of a worker that is left out.
    """
    columns = [WORKER.c[field.name] for field in fields(WorkerRow)]
    seen_since = clock() - WORKER.c.seen < DEAD_SECONDS
    these = WORKER.c.study == study, WORKER.c.number != but, WORKER.c.ended.is_(None), seen_since
    with store.read() as connection:
        query = sa.select(*columns).where(*these).order_by(WORKER.c.number)
        rows = [WorkerRow(*row) for row in connection.execute(query)]
    died = [row for row in rows if _has_died_here(row)]
    if died:
        numbers = WORKER.c.number.in_([row.number for row in died])
        with store.write() as connection:
            end = WORKER.update().where(WORKER.c.study == study, numbers)
            connection.execute(end.values(ended=clock()))
        for row in died:
            Path(row.lock).unlink(missing_ok=True)
    return [row for row in rows if row not in died]


def last_seen(store: Database, study: str) -> float:
    """Return when a worker of a study was last seen alive, in seconds since 1970; 0 without any."""
    query = sa.select(sa.func.max(WORKER.c.seen)).where(WORKER.c.study == study)
    with store.read() as connection:
        return float(connection.scalar(query) or 0.0)


def _has_died_here(row: WorkerRow) -> bool:
    """Whether the process of a worker was on this machine and has ended."""
    if row.host != socket.gethostname() or not Path(row.lock).exists():
        return False  # only its heartbeat can tell
    try:
        with FileLock(row.lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False
