"""Milliseconds of bookkeeping for each trial, as the study grows.

Training is replaced by ready-made epochs, so what remains is what a search does besides: asking
Optuna, drawing parameters, reading and writing the database, ranking, choosing recipes, reserving
time for the end of the search.

    python studies/benchmarks/scaling.py [--storage URL] [--sizes 10 300 3000] [--out FILE.json]

Without ``--storage`` the database is a SQLite file in a temporary folder; otherwise it should be an
empty database on PostgreSQL. One study grows from size to size by simulated trials; at each size
the loop of a search is made anew, as a process that continues the study makes it, and runs
``WARMUP`` trials and then ``TRIALS`` trials, whose median is printed. CPU time is that of this
process; wall-clock time includes waiting for the disk and for the server.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import sqlalchemy as sa
from numpy.typing import NDArray
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from torch import nn

from autotl import events, training
from autotl.scoring import metrics
from autotl.search import resume, sampler, trial_budget, trial_training, trials
from autotl.search.best_model import BestModel
from autotl.search.budget import Budget
from autotl.search.leaderboard import Leaderboard
from autotl.search.portfolio import Portfolio
from autotl.search.selection_budget import SelectionBudget
from autotl.search.trial_budget import TrialPlan
from autotl.search.trial_queue import TrialQueue
from autotl.space import registry, space
from autotl.space.space import Config, Space
from autotl.store import DataFacts, Store, Worker, join
from autotl.store.migrations import tables
from autotl.study import StudyConfig
from autotl.training import Epoch

WARMUP = 5
"""Trials at each size before those that are timed; the first one reads the whole study."""

TRIALS = 15
"""Trials that are timed at each size."""

RECIPES = 40
"""Trials before all, so that no recipe is left."""

EPOCHS = 12
CLASSES = 10
VALIDATION = 300
BUDGET = 1e6  # seconds; the loop reserves time for the end of the search, and is never out of it
NAME = "scaling"
STATUSES = {8: "pruned", 9: "diverged"}  # of simulated trials, by the last digit; others complete
SCRATCH = [f"resnet{depth}" for depth in (18, 34, 50)]  # backbones that are never built


# ---------------------------------------------------------------- where the time goes


@dataclass
class Clock:
    """The CPU and wall-clock seconds of each section, without those of sections inside it."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    _stack: list[str] = field(default_factory=lambda: ["other"])
    _last: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """Forget all sections and begin with ``other``."""
        self.cpu, self.wall = {}, {}
        self._last = time.process_time(), time.perf_counter()

    def lap(self) -> None:
        """Count what has passed since the last call to the innermost section."""
        now = time.process_time(), time.perf_counter()
        for total, before, after in zip((self.cpu, self.wall), self._last, now, strict=True):
            total[self._stack[-1]] = total.get(self._stack[-1], 0.0) + after - before
        self._last = now

    def timed(self, section: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time counts to a section."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.lap()
            self._stack.append(section)
            try:
                return function(*args, **kwargs)
            finally:
                self.lap()
                self._stack.pop()

        return call


SECTIONS: dict[str, Sequence[tuple[Any, str]]] = {
    "draw": [
        (sampler.ParzenSampler, "infer_relative_search_space"),
        (sampler.ParzenSampler, "sample_relative"),
        (sampler.ParzenSampler, "sample_independent"),
    ],
    "ask": [(optuna.Study, "ask"), (Space, "suggest")],
    "enqueue": [(optuna.Study, "enqueue_trial"), (TrialQueue, "_enqueue_next")],
    "recipes": [(Portfolio, "next_recipe")],
    "leaderboard": [(Leaderboard, "refresh")],
    "store": [
        (Store, name) for name in ("begin_trial", "update_trial", "finish_trial", "add_predictions")
    ],
    "attributes": [(optuna.Trial, "set_user_attr"), (optuna.Trial, "set_constraint")],
    "report": [(optuna.Trial, "report")],
    "prune": [(optuna.Trial, "should_prune")],
    "tell": [(optuna.Study, "tell")],
    "winner": [(BestModel, "keep")],
    "workers": [(Worker, "try_lease"), (Worker, "release"), (TrialQueue, "_take_over")],
    "selection": [(SelectionBudget, "is_over")],
}
"""The functions whose time counts to each section."""


@contextmanager
def stubbed(clock: Clock) -> Iterator[None]:
    """Time the sections, and train nothing."""
    with ExitStack() as stack:
        for section, functions in SECTIONS.items():
            for owner, name in functions:
                timed = clock.timed(section, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
        stack.enter_context(patch.object(trial_training, "plan_trial", fake_plan))
        stack.enter_context(patch.object(training, "fine_tune", fake_epochs))
        yield


# ---------------------------------------------------------------- a study without training


def make_space() -> tuple[registry.Registry, Space]:
    """The built-in plugins, with three backbones that are never built."""
    installed = registry.load()
    backbones = [installed.get_untrained("backbone", name) for name in SCRATCH]
    others = [plugin for plugin in installed if plugin.kind != "backbone"]
    plugins = registry.Registry([*others, *backbones])
    return plugins, space.build_space(plugins, {}, {}).without_kind("unlabelled")


def targets() -> NDArray[np.int64]:
    """The classes of the validation split."""
    return np.arange(VALIDATION) % CLASSES


def predict(rng: np.random.Generator) -> NDArray[np.float32]:
    """Predictions of which between half and nine tenths are right."""
    right = rng.random(VALIDATION) < rng.uniform(0.5, 0.9)
    classes = np.where(right, targets(), (targets() + 1) % CLASSES)
    predictions = np.full((VALIDATION, CLASSES), 0.02, np.float32)
    predictions[np.arange(VALIDATION), classes] = 1 - 0.02 * (CLASSES - 1)
    return predictions


def plan_facts(config: Config) -> dict[str, Any]:
    """What the plan of a trial stores, as if it had been measured."""
    frozen = config["freeze"].name == "linear_probe"
    return {
        "input": (224, "224"),
        "backbone_frozen": frozen,
        "effective_config": trial_budget.effective_config(config, closed_form=False),
        "views": 1,
        "costs": {"forward_ms": 2.0, "backward_ms": 4.0, "step_ms": 0.1},
        "ms_per_item": 1.0 + len(config["backbone"].name) % 3,
        "seconds_test": 1.0,
        "seconds_needed": 60.0,
        "seconds_repeat": 5.0 if frozen else 60.0,
    }


def fill(store: Store, study: optuna.Study, search_space: Space, numbers: range) -> None:
    """Add finished trials to Optuna's study and to ours: of ten, eight complete and one pruned."""
    rng = np.random.default_rng(numbers.start)
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=numbers.start))
    rows, predictions, frozen = [], [], []
    for number in numbers:
        trial = source.ask()
        config = search_space.suggest(trial)
        predicted = predict(rng)
        right = (predicted.argmax(1) == targets()).astype(np.float64)
        score, status = float(right.mean()), STATUSES.get(number % 10, "complete")
        epochs = EPOCHS if status == "complete" else EPOCHS // 2
        frozen.append(
            optuna.trial.create_trial(
                state=resume.optuna_state(status, {}),
                params=trial.params,
                distributions=trial.distributions,
                value=score if status == "complete" else None,
                user_attrs={"epochs": EPOCHS, "parameters": 11_000_000, "status": status},
                intermediate_values={e: score * e / epochs for e in range(1, epochs + 1)},
            )
        )
        row = {
            "study": NAME,
            "number": number,
            "status": status,
            "reason": "",
            "config": space.to_json(config),
            "score": score if status == "complete" else None,
            "epochs": EPOCHS,
            "parameters": 11_000_000 + number,
            "trained_parameters": 1000,
            "seconds": 60.0,
            "started": datetime.now(UTC),
            "facts": {**plan_facts(config), "low": score - 0.04, "high": score + 0.04},
            "contributions": right.astype("<f4").tobytes(),
        }
        rows.append(row)
        data = predicted.astype("<f2").tobytes()
        keys = {"study": NAME, "number": number, "outputs": CLASSES}
        predictions.append({**keys, "predictions": data, "number_type": "<f2"})
    add_to_optuna(store.storage, study, frozen, numbers)
    if rows:
        with tables.write_transaction(store.storage.engine) as connection:
            connection.execute(tables.TRIAL.insert(), rows)
            connection.execute(tables.PREDICTION.insert(), predictions)


def add_to_optuna(
    storage: RDBStorage,
    study: optuna.Study,
    frozen: Sequence[optuna.trial.FrozenTrial],
    numbers: range,
) -> None:
    """Add trials to Optuna's tables, which takes a hundredth of the time of ``add_trials``."""
    rows: dict[Any, list[dict[str, Any]]] = {models.TrialModel: []}
    key = storage.get_study_id_from_name(study.study_name)
    start = datetime.now(UTC).replace(tzinfo=None)
    for number, trial in zip(numbers, frozen, strict=True):
        times = {"datetime_start": start, "datetime_complete": start}
        row = {"study_id": key, "number": number, "state": trial.state, **times}
        rows[models.TrialModel].append(row)
    engine = storage.engine
    with tables.write_transaction(engine) as connection:
        insert_all(connection, rows)
        trials_of_study = models.TrialModel.__table__
        query = sa.select(trials_of_study.c.number, trials_of_study.c.trial_id)
        ids = {number: trial_id for number, trial_id in connection.execute(query)}
        insert_all(
            connection, optuna_rows({ids[n]: t for n, t in zip(numbers, frozen, strict=True)})
        )


def optuna_rows(
    by_id: Mapping[int, optuna.trial.FrozenTrial],
) -> dict[Any, list[dict[str, Any]]]:
    """The rows of finished trials in Optuna's tables besides that of trials, by model."""
    rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    scores, values = models.TrialIntermediateValueModel, models.TrialValueModel
    for trial_id, trial in by_id.items():
        own = {"trial_id": trial_id}
        if trial.value is not None:
            value, kind = values.value_to_stored_repr(trial.value)
            rows[values].append({**own, "objective": 0, "value": value, "value_type": kind})
        for name, distribution in trial.distributions.items():
            row = {"param_name": name, "distribution_json": distribution_to_json(distribution)}
            value = distribution.to_internal_repr(trial.params[name])
            rows[models.TrialParamModel].append({**own, **row, "param_value": value})
        for name, attribute in trial.user_attrs.items():
            row = {"key": name, "value_json": json.dumps(attribute)}
            rows[models.TrialUserAttributeModel].append({**own, **row})
        for step, score in trial.intermediate_values.items():
            value, kind = scores.intermediate_value_to_stored_repr(score)
            row = {"intermediate_value": value, "intermediate_value_type": kind}
            rows[scores].append({**own, "step": step, **row})
    return rows


def insert_all(connection: sa.Connection, rows: Mapping[Any, list[dict[str, Any]]]) -> None:
    """Insert the rows of each model."""
    for model, its_rows in rows.items():
        if its_rows:
            connection.execute(model.__table__.insert(), its_rows)


def fake_plan(model: Any, config: Config, *_: Any, **__: Any) -> TrialPlan:
    """A plan of epochs that take no time."""
    job: Any = SimpleNamespace(epochs=EPOCHS, views=1, checkpoint=None)
    return TrialPlan(model, job, False, plan_facts(config))


def fake_epochs(*_: Any) -> Iterator[Epoch]:
    """Epochs that take no time."""
    predictions = predict(np.random.default_rng())
    score = float((predictions.argmax(1) == targets()).mean())
    for number in range(1, EPOCHS + 1):
        yield Epoch(number, 1.0, score * number / EPOCHS, 5.0, 1000, predictions)


def make_context(settings: StudyConfig) -> Any:
    """The context of trainings that never run."""
    dataset = SimpleNamespace(
        targets=targets(),
        units=list(range(VALIDATION)),
        folds=None,
        scored_split="validation",
        validation_has_labels=True,
        task=SimpleNamespace(has_probabilities=True),
        indices=lambda *_: np.arange(VALIDATION),
    )
    return SimpleNamespace(
        settings=settings,
        metric=metrics.get("accuracy"),
        dataset=dataset,
        first_fold=None,
        tries_unlabelled="",
        build=lambda *_: nn.Linear(2, 2),
        checkpoint=lambda *_: SimpleNamespace(delete=lambda: None),
        micro_batch_sizes={},
        measured_costs={},
    )


# ---------------------------------------------------------------- measuring


@dataclass
class Measurement:
    """Milliseconds for each trial of a study of some size, medians of ``TRIALS`` trials.

    Attributes:
        trials: The number of earlier trials.
        start: Milliseconds to open the study and to read its trials, once for each process.
        cpu: CPU time of the client.
        least: The least CPU time without that of drawing, which other processes disturb least.
        wall: Wall-clock time.
        sections: CPU time of the client, by section.
    """

    trials: int
    start: float
    cpu: float
    least: float
    wall: float
    sections: dict[str, float]

    @property
    def bookkeeping(self) -> float:
        """CPU time without that of drawing."""
        return self.cpu - self.sections["draw"]


def run_trials(store: Store, finished: int, count: int, clock: Clock) -> list[Clock]:
    """Run the loop of a search for some more trials; return the clock of each."""
    plugins, search_space = make_space()
    settings = StudyConfig(data=NAME, history=False, trials=finished + count)
    study = resume.resume(store, settings, search_space, plugins, events.ignore)
    laps: list[Clock] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TrialFinished):
            clock.lap()
            laps.append(Clock(clock.cpu, clock.wall))
            clock.start()

    leaderboard = Leaderboard(store, NAME, metrics.get("accuracy"))
    context, budget = make_context(settings), Budget(BUDGET)
    clock.start()
    folder = Path(store.storage.engine.url.database or ".").parent
    with join(store, NAME, "cpu", folder) as worker, stubbed(clock):
        loop = trials.TrialLoop(
            store, study, search_space, context, leaderboard, budget, listen, worker
        )
        loop.run()
    return laps


def measure(store: Store, size: int) -> Measurement:
    """Let the study grow to a size, and measure there."""
    plugins, search_space = make_space()
    settings = StudyConfig(data=NAME, history=False)
    study = resume.resume(store, settings, search_space, plugins, events.ignore)
    finished = len(store.trials(NAME))
    fill(store, study, search_space, range(finished, size))
    if not finished:
        run_trials(store, size, RECIPES, Clock())
    began = time.perf_counter()
    laps = run_trials(store, len(store.trials(NAME)), WARMUP + TRIALS, Clock())
    start = time.perf_counter() - began - sum(sum(lap.wall.values()) for lap in laps)
    laps = laps[-TRIALS:]
    sections = {
        name: 1000 * statistics.median(lap.cpu.get(name, 0.0) for lap in laps)
        for name in (*SECTIONS, "other")
    }
    return Measurement(
        size,
        1000 * start,
        1000 * statistics.median(sum(lap.cpu.values()) for lap in laps),
        1000 * min(sum(lap.cpu.values()) - lap.cpu.get("draw", 0.0) for lap in laps),
        1000 * statistics.median(sum(lap.wall.values()) for lap in laps),
        sections,
    )


def print_head() -> None:
    """Print the head of the table in Markdown."""
    names = [*SECTIONS, "other"]
    print(f"| trials | bookkeeping | least | CPU | wall | {' | '.join(names)} | start |")
    print("|" + "---|" * (len(names) + 6))


def print_row(m: Measurement) -> None:
    """Print a measurement as a row of the table."""
    parts = " | ".join(f"{m.sections[name]:.1f}" for name in (*SECTIONS, "other"))
    print(f"| {m.trials} | {m.bookkeeping:.0f} | {m.least:.0f} | {m.cpu:.0f} ", end="")
    print(f"| {m.wall:.0f} | {parts} | {m.start:.0f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="", help="URL of an empty database")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 300, 1000, 3000, 5000])
    parser.add_argument("--out", type=Path, help="a JSON file for the measurements")
    arguments = parser.parse_args()
    with trials.quiet_optuna(), tempfile.TemporaryDirectory() as folder:
        store = Store(arguments.storage or f"sqlite:///{Path(folder) / 'autotl.db'}")
        data = DataFacts(
            classes=[str(i) for i in range(CLASSES)],
            train=1000,
            validation=VALIDATION,
            independent_validation=VALIDATION,
        )
        store.begin_study(NAME, data=data, identity={})
        print_head()
        measurements = []
        for size in sorted(arguments.sizes):
            measurements.append(measure(store, size))
            print_row(measurements[-1])
        store.close()
    if arguments.out:
        rows = [{**vars(m), "bookkeeping": m.bookkeeping} for m in measurements]
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
