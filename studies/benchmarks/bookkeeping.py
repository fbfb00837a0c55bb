"""Milliseconds of bookkeeping for each trial, as the study grows.

Training is replaced by ready-made epochs, so what remains is what a search does besides: asking
Optuna, reading and writing the database, ranking, choosing recipes. The time of the sampler and of
the pruner is listed apart: it is computation, not bookkeeping.

    python studies/benchmarks/bookkeeping.py [--storage sqlite:///FILE.db] [--sizes 10 300 3000]

Each row is a study with so many trials, in which the recipes of the portfolio and then ``TRIALS``
more are run; figures are medians of the latter. CPU time is that of this process, wall-clock time
includes waiting for the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import optuna
from torch import nn

from autotl import training
from autotl.scoring import metrics
from autotl.search import resume, sampler, trials
from autotl.search.budget import Budget
from autotl.search.leaderboard import Leaderboard
from autotl.search.trial_budget import TrialPlan
from autotl.space import registry, space
from autotl.space.space import Space
from autotl.store import DataFacts, Store
from autotl.store.migrations import tables
from autotl.study import StudyConfig
from autotl.training import Epoch

TRIALS = 15
"""Trials that are timed, in each study."""

EPOCHS = 12
NAME = "bookkeeping"


def make_space() -> tuple[registry.Registry, Space]:
    """The built-in plugins, with three backbones that are never built."""
    installed = registry.load()
    names = ("resnet18", "resnet34", "resnet50")
    backbones = [installed.get_untrained("backbone", name) for name in names]
    others = [plugin for plugin in installed if plugin.kind != "backbone"]
    plugins = registry.Registry([*others, *backbones])
    return plugins, space.build_space(plugins, {}, {})


def fill(store: Store, study: optuna.Study, search_space: Space, count: int) -> None:
    """Add finished trials to Optuna's study and to ours, with random parameters and scores."""
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rows, frozen = [], []
    for number in range(count):
        trial = source.ask()
        config = search_space.suggest(trial)
        score = 0.5 + 0.4 * (number * 7919 % 1000) / 1000
        frozen.append(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=score,
                user_attrs={"epochs": EPOCHS, "status": "complete"},
                intermediate_values={epoch: score for epoch in range(1, EPOCHS + 1)},
            )
        )
        rows.append(
            {
                "study": NAME,
                "number": number,
                "status": "complete",
                "reason": "",
                "config": space.to_json(config),
                "score": score,
                "epochs": EPOCHS,
                "parameters": 1000 + number,
                "trained_parameters": 1000,
                "seconds": 1.0,
                "started": datetime.now(UTC),
                "facts": {},
            }
        )
    study.add_trials(frozen)
    with tables.write_transaction(store.storage.engine) as connection:
        connection.execute(tables.TRIAL.insert(), rows)


class Clock:
    """Adds up the wall-clock and CPU time that is spent in some functions."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time added up."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began
                self.cpu += time.process_time() - cpu

        return call


def fake_plan(model: Any, *_: Any, **__: Any) -> TrialPlan:
    """A plan of epochs that take no time."""
    job: Any = SimpleNamespace(epochs=EPOCHS, views=1)
    return TrialPlan(model, job, False, {"views": 1})


def fake_epochs(*_: Any) -> Iterator[Epoch]:
    """Epochs that take no time."""
    for number in range(1, EPOCHS + 1):
        yield Epoch(number, 1.0, 0.6 + 0.02 * number, 0.0, 1000)


def measure(url: str, size: int) -> list[float]:
    """Milliseconds for each trial: bookkeeping, its CPU time, the sampler and the pruner."""
    store, (plugins, search_space) = Store(url), make_space()
    settings = StudyConfig(data=NAME, history=False, trials=size + 10 * TRIALS)
    store.begin_study(NAME, data=DataFacts(independent_validation=300), identity={})
    study = resume.resume(store, settings, search_space, plugins, print)
    fill(store, study, search_space, size)
    context: Any = SimpleNamespace(
        settings=settings,
        build=lambda *_: nn.Linear(2, 2),
        micro_batch_sizes={},
        measured_costs={},
    )
    leaderboard = Leaderboard(store, NAME, metrics.get("accuracy"))
    budget = Budget(None)
    loop = trials.TrialLoop(
        store, study, search_space, context, leaderboard, budget, lambda event: None
    )
    while loop.portfolio.next_recipe(leaderboard.ranked, leaderboard.recipes):
        run_one(loop, Clock(), Clock())
    columns: list[list[float]] = [[], [], [], []]
    for _ in range(TRIALS):
        clocks = Clock(), Clock()
        began = time.perf_counter(), time.process_time()
        run_one(loop, *clocks)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        apart = sum(clock.seconds for clock in clocks)
        parts = (wall - apart, cpu - sum(c.cpu for c in clocks), *(c.seconds for c in clocks))
        for column, seconds in zip(columns, parts, strict=True):
            column.append(1000 * seconds)
    store.close()
    return [statistics.median(column) for column in columns]


def run_one(loop: trials.TrialLoop, sampling: Clock, pruning: Clock) -> None:
    """Run a trial, as the loop does."""
    make = sampler.make_sampler

    def timed_sampler(seed: int) -> optuna.samplers.BaseSampler:
        made: Any = make(seed)
        for name in ("infer_relative_search_space", "sample_relative", "sample_independent"):
            setattr(made, name, sampling.timed(getattr(made, name)))
        return made

    pruner: Any = loop.study.pruner
    with ExitStack() as stack:
        stack.enter_context(patch.object(sampler, "make_sampler", timed_sampler))
        stack.enter_context(patch.object(pruner, "prune", pruning.timed(pruner.prune)))
        stack.enter_context(patch.object(trials, "plan_trial", fake_plan))
        stack.enter_context(patch.object(training, "fine_tune", fake_epochs))
        assert not loop._is_done()
        loop._enqueue_recipe()
        loop._run_trial(loop._ask())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="", help="URL of an empty database")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 300, 3000])
    arguments = parser.parse_args()
    print("| trials | bookkeeping, ms | of it CPU, ms | ratio of CPU | sampler, ms | pruner, ms |")
    print("|---|---|---|---|---|---|")
    first = 0.0
    with trials.quiet_optuna():
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                url = arguments.storage or f"sqlite:///{Path(folder) / 'autotl.db'}"
                wall, cpu, sampling, pruning = measure(url, size)
            first = first or cpu
            figures = f"{wall:.0f} | {cpu:.0f} | {cpu / first:.2f} | {sampling:.0f} | {pruning:.1f}"
            print(f"| {size} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
