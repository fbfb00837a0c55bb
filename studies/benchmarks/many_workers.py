"""What several workers cost each other: the part of their time that is not training.

    python studies/benchmarks/many_workers.py [--storage URL] --seconds 60 --workers 1 16 64 256
    python studies/benchmarks/many_workers.py [--storage URL] --seconds 6 --workers 1 16 64 256

Training is replaced by waiting: a trial takes ``--seconds``, half as long or half as long again.
Workers are threads of one process, each with its own connections, its own leaderboard and its own
loop of trials, so that the time that Python needs for all of them is counted, which many machines
would share. They begin one after the other within the time of a trial. With trials of a minute the
table says which part of it is lost; with shorter ones, where the limit is: the queue (a lease that
one worker has at a time), the database, or this process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scaling import BUDGET, CLASSES, EPOCHS, VALIDATION, fake_plan, make_context, make_space
from scaling import predict as predict_randomly
from scaling import targets as true_classes

from autotl import events, training
from autotl.scoring import metrics
from autotl.search import resume, trial_training, trials
from autotl.search.budget import Budget
from autotl.search.leaderboard import Leaderboard
from autotl.store import DataFacts, Store, Worker, join
from autotl.study import StudyConfig
from autotl.training import Epoch

COLUMNS = (
    *("workers", "trials", "trials a second", "ideal", "lost", "CPU ms a trial"),
    *("queue used, ms", "queue waited, ms"),
)


class Queue:
    """How long workers hold the lease of the queue, and how long they wait for it."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self.waited: list[float] = []

    def watch(self, lease: Any) -> Any:
        """``Worker.lease`` that is timed."""

        def timed(worker: Worker, name: str) -> Any:
            return self._time(lease(worker, name))

        return timed

    def _time(self, context: Any) -> Any:
        queue = self

        class Timed:
            def __enter__(self) -> None:
                began = time.perf_counter()
                context.__enter__()
                self.began = time.perf_counter()
                queue.waited.append(self.began - began)

            def __exit__(self, *error: Any) -> None:
                context.__exit__(*error)
                queue.used.append(time.perf_counter() - self.began)

        return Timed()


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="", help="URL of an empty database")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of a trial")
    parser.add_argument("--rounds", type=int, default=3, help="trials of each worker")
    parser.add_argument("--out", type=Path, help="a JSON file for the measurements")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        url = options.storage or f"sqlite:///{Path(folder) / 'autotl.db'}"
        for count in options.workers:
            rows.append(run(url, Path(folder), count, options.seconds, options.rounds))
            print(f"| {' | '.join(rows[-1].values())} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


class Worktime:
    """How long each thread has trained, and from when to when it had trials."""

    def __init__(self) -> None:
        self.trained: dict[int, float] = {}
        self.active: dict[int, tuple[float, float]] = {}

    def train(self, seconds: float) -> None:
        """Wait instead of training."""
        thread, began = threading.get_ident(), time.perf_counter()
        time.sleep(seconds)
        ended = time.perf_counter()
        self.trained[thread] = self.trained.get(thread, 0.0) + ended - began
        self.active[thread] = (self.active.get(thread, (began, 0.0))[0], ended)

    def lost(self) -> float:
        """The fraction of the workers' time, up to the last epoch of each, that is not training."""
        active = sum(ended - began for began, ended in self.active.values())
        return 1 - sum(self.trained.values()) / active


def run(url: str, folder: Path, count: int, seconds: float, rounds: int) -> dict[str, str]:
    """Run a study with a number of workers; return a row of the table."""
    name, queue, worktime = f"workers-{count}-{seconds:g}", Queue(), Worktime()
    _, search_space = make_space()
    settings = StudyConfig(data=name, history=False, trials=count * rounds)
    durations = np.random.default_rng(count)

    def epochs(*_: Any) -> Iterator[Epoch]:
        predictions = predict_randomly(np.random.default_rng())
        score = float((predictions.argmax(1) == true_classes()).mean())
        duration = seconds * durations.uniform(0.5, 1.5)
        for number in range(1, EPOCHS + 1):
            worktime.train(duration / EPOCHS)
            yield Epoch(number, 1.0, score * number / EPOCHS, 5.0, 1000, predictions)

    with (
        closing(Store(url)) as store,
        trials.quiet_optuna(),
        patch.object(trial_training, "plan_trial", fake_plan),
        patch.object(training, "fine_tune", epochs),
        patch.object(Worker, "lease", queue.watch(Worker.lease)),
        patch.object(trials, "WAIT_SECONDS", 0.2),
    ):
        store.begin_study(name, data=data_facts(), identity={}, state="running")
        plugins, _ = make_space()
        resume.resume(store, settings, search_space, plugins, events.ignore)

        def work(number: int) -> None:
            time.sleep(seconds * number / count)
            with closing(Store(url)) as own, join(own, name, "cpu", folder) as worker:
                study = resume.load(own, settings, search_space)
                board = Leaderboard(own, name, metrics.get("accuracy"), 0)
                budget = Budget(BUDGET)
                context = make_context(settings)
                trials.TrialLoop(
                    own, study, search_space, context, board, budget, events.ignore, worker
                ).run()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
        used = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used = time.process_time() - used
        done = len([row for row in store.trials(name) if row.status != "running"])
    lost, ideal = worktime.lost(), count / seconds
    values = (
        *(str(count), str(done), f"{ideal * (1 - lost):.2f}", f"{ideal:.2f}", f"{lost:.1%}"),
        f"{1000 * used / done:.0f}",
        f"{1000 * statistics.median(queue.used):.0f}",
        f"{1000 * statistics.median(queue.waited):.0f}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def data_facts() -> DataFacts:
    """The data of the simulated study."""
    return DataFacts(
        classes=[str(i) for i in range(CLASSES)],
        train=1000,
        validation=VALIDATION,
        independent_validation=VALIDATION,
    )


if __name__ == "__main__":
    main()
