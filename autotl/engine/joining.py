"""Workers that join the search of another process, on this machine or another one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from autotl import models, report
from autotl.engine.beginning import identity_of
from autotl.engine.ending import conclude, hand_over, name_device_faults
from autotl.engine.search_space import fit_augmentations, load_plugins
from autotl.engine.steps import (
    Result,
    prepare,
    run,
    search_and_finish,
    training_context,
)
from autotl.errors import StoreError, StudyError, StudyInUse, did_you_mean
from autotl.events import Event, Listener, Note, Stage, ignore
from autotl.models import Device
from autotl.search import identity, resume
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.trials import quiet_optuna
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import RunFacts, Store, StudyFacts, default_url, join, last_seen, living
from autotl.study import StudyConfig

WAIT_SECONDS = 60.0
"""How long a worker waits by default for a search to begin."""

STATE_SECONDS = 5.0
"""The time between two checks whether the study has ended."""

OWN = ("data", "target", "storage", "out", "device", "cache_size")
"""The settings that may differ between the machines of a study."""


def work(
    study: str,
    storage: str | None = None,
    out: Path = Path("runs"),
    *,
    data: str | None = None,
    target: str | None = None,
    device: str = "auto",
    wait: float = WAIT_SECONDS,
    listener: Listener = ignore,
) -> bool:
    """Join the search of a study, until it ends.

    The search must have begun, with ``autotl.search`` or ``autotl search``, on this machine or on
    another one that uses the same database. The run folders must be shared too.

    Args:
        study: The name of the study.
        storage: The URL of its database; None for ``autotl.db`` in ``out``.
        out: The parent folder of the run folders.
        data: The data source on this machine; None for that of the search.
        target: The same for the examples of another domain.
        device: The device.
        wait: Seconds to wait until the search begins.
        listener: Called with the events of the progress.

    Returns:
        Whether the user interrupted the worker.

    Raises:
        StudyError: No search of the study is running, or the data, the plugins or the precision
            differ from those of the search.
        AutoTLError: Another error that the user can resolve; the message says how.
    """
    with _open(storage, out) as store:
        begun = _wait_for_search(store, study, wait, listener)
        if begun is None:
            raise _no_search(store, study)
        own = {"storage": storage, "out": out, "device": device}
        if target and not begun[1].settings.get("target"):
            raise StudyError(f"the search of {study!r} has no target; leave out --target")
        own |= {name: given for name, given in (("data", data), ("target", target)) if given}
        return _work(own, store, *begun, listener)


def run_or_join(
    settings: StudyConfig,
    listener: Listener = ignore,
    plugins: Registry | None = None,
    command: str = "",
    began: float | None = None,
) -> Result:
    """Run a search by any number of processes that all call this function.

    The first one begins or continues the search, and the others join it. A study that is done with
    this budget and this number of trials is left as it is. The budget includes the time of runs
    that ended before the study was done. Ctrl-C ends this process; the others go on.

    Args:
        settings: The settings of the study.
        listener: Called with the events of the progress.
        plugins: The plugins with which the search begins; None for those of ``settings``.
        command: The command line, for the report.
        began: The begin of the budget as a value of ``time.monotonic``; None for now.

    Returns:
        The result; after Ctrl-C, the result so far with ``interrupted`` set.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    name, wait = settings.name, 0.0
    began = time.monotonic() if began is None else began
    while True:
        with _open(settings.storage, settings.out) as store:
            if begun := _wait_for_search(store, name, wait, listener):
                own = {key: getattr(settings, key) for key in OWN}
                return _result(settings, store, _work(own, store, *begun, listener))
            earlier = store.find_study(name)
            if earlier and _is_done(settings, earlier):
                text = f"study {name!r} is done; for more, give a larger --budget or more --trials"
                listener(Note(text))
                return _result(settings, store)
            spent = _seconds_before(store, name, earlier)
        try:
            from_now = min(began, time.monotonic() - spent)
            return run(settings, listener, plugins, command, from_now, joinable=True)
        except StudyInUse:  # by a process that began in the meantime
            wait = STATE_SECONDS


def _is_done(settings: StudyConfig, facts: StudyFacts) -> bool:
    """Whether a search with this budget, number of trials and student has completed."""
    limits: dict[str, Any] = {"budget": settings.budget, "trials": settings.trials}
    if settings.student:
        limits |= {"student": settings.student, "student_size": settings.student_size}
    last = facts.run.settings if facts.run else {}
    return facts.state == "done" and limits.items() <= last.items()


def _seconds_before(store: Store, study: str, facts: StudyFacts | None) -> float:
    """Return the seconds of the last run, if it ended before the study was done."""
    if facts is None or facts.run is None or facts.state == "done":
        return 0.0
    return max(0.0, last_seen(store, study) - facts.run.began)


def _result(settings: StudyConfig, store: Store, interrupted: bool = False) -> Result:
    """Return the result of a study that other processes run, too."""
    summary = report.summarise(store, settings.name)
    return Result(summary, settings.folder, load_plugins(settings, None), interrupted)


@contextmanager
def _open(storage: str | None, out: Path) -> Iterator[Store]:
    """Open the database of a study."""
    with (
        closing(Store(storage or default_url(out))) as store,
        store.convert_errors(),
        quiet_optuna(),
        name_device_faults(),
    ):
        yield store


def _work(
    own: Mapping[str, Any], store: Store, facts: StudyFacts, run: RunFacts, listener: Listener
) -> bool:
    """Run trials with settings of this machine until the study ends.

    Returns:
        Whether the user interrupted this worker.
    """
    settings = _settings(run, facts, own)
    name, plugins = settings.name, load_plugins(settings, None)
    listener = _stop_with_study(store, name, listener)
    device = models.select_device(settings.device, settings.precision)
    spent = store.now() - run.began
    budget = Budget(facts.budget_seconds, began=time.monotonic() - spent)
    with (
        join(store, name, str(device), settings.folder) as worker,
        store.expect_study(name),
        hand_over(store, settings, budget, listener, run.command, worker),
    ):
        try:
            context, space = _prepare(
                settings, plugins, store, facts, run, device, budget, listener
            )
            trials = resume.load(store, settings, space)
            leaderboard = Leaderboard(store, name, context.metric, run.first_trial)
            interrupted = search_and_finish(
                store, trials, space, context, leaderboard, worker, joined=True
            )
        except KeyboardInterrupt:
            interrupted = True
        if store.state(name) != "running":
            return False
        if not (interrupted and worker.others()):
            conclude(store, settings, budget, interrupted, run.command)
        return interrupted


def _prepare(
    settings: StudyConfig,
    plugins: Registry,
    store: Store,
    facts: StudyFacts,
    run: RunFacts,
    device: Device,
    budget: Budget,
    listener: Listener,
) -> tuple[TrainingContext, Space]:
    """Read the data, and check that data and settings are those of the search.

    Raises:
        StudyError: They are not.
    """
    settings, fitting, dataset, metric, space, _ = prepare(
        settings, plugins, store, facts, device, budget, listener, run.device_type
    )
    this = identity_of(settings, dataset, space, device)
    delete = f"autotl studies delete {shlex.quote(settings.name)}{store.options(settings.out)}"
    identity.require_same(settings.name, facts.identity or {}, this, delete)
    context = training_context(settings, store, dataset, metric, device, budget, fitting, listener)
    return context, fit_augmentations(space, store, context, listener)


def _wait_for_search(
    store: Store, study: str, wait: float, listener: Listener
) -> tuple[StudyFacts, RunFacts] | None:
    """Wait until workers can join the search of a study; return None if no search of it runs."""
    until = time.monotonic() + wait
    while True:
        facts, workers = store.find_study(study), living(store, study)
        if facts and facts.state == "running" and facts.run and workers:
            return facts, facts.run
        if time.monotonic() >= until and not workers:
            return None
        listener(Stage(f"waiting for the search of {study} to begin"))
        time.sleep(min(1.0, max(0.05, until - time.monotonic())))


def _no_search(store: Store, study: str) -> StudyError:
    """Return the error that no search of a study is running."""
    advice = f"start it with: autotl search DATA --study {shlex.quote(study)}"
    if store.find_study(study) is None:
        advice = did_you_mean(study, store.studies())
    return StudyError(f"no search of study {study!r} is running; {advice}")


def _settings(run: RunFacts, facts: StudyFacts, own: Mapping[str, Any]) -> StudyConfig:
    """Return the settings of the search on this machine: its precision is that of the search."""
    stored = str((facts.identity or {}).get("precision"))
    precision = identity.PRECISIONS.get(stored, "auto")
    return StudyConfig.model_validate({**run.settings, "precision": precision, **own})


def _stop_with_study(store: Store, study: str, listener: Listener) -> Listener:
    """Wrap a listener so that it interrupts this worker when the study has ended."""
    checked = time.monotonic()

    def listen(event: Event) -> None:
        nonlocal checked
        listener(event)
        if time.monotonic() - checked > STATE_SECONDS:
            checked = time.monotonic()
            with suppress(StoreError):  # the database may respond again
                if store.state(study) not in ("running", ""):
                    raise KeyboardInterrupt

    return listen
