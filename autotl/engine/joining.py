"""A worker that joins the search of another process, on this machine or another one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from autotl import models
from autotl.engine.beginning import identity_of
from autotl.engine.ending import conclude, hand_over, name_device_faults
from autotl.engine.search_space import fit_augmentations
from autotl.engine.steps import (
    load_plugins,
    prepare,
    search_and_finish,
    training_context,
)
from autotl.errors import StoreError, StudyError, did_you_mean
from autotl.events import Event, Listener, ScoreDecimals, Stage, ignore
from autotl.models import Device
from autotl.search import identity, resume
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.trials import quiet_optuna
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import RunFacts, Store, StudyFacts, default_url, join, living
from autotl.study import StudyConfig

WAIT_SECONDS = 60.0
"""How long a worker waits by default for a search to begin."""

STATE_SECONDS = 5.0
"""The time between two checks whether the study has ended."""


def work(
    study: str,
    storage: str | None = None,
    out: Path = Path("runs"),
    *,
    data: str | None = None,
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
    with (
        closing(Store(storage or default_url(out))) as store,
        store.convert_errors(),
        quiet_optuna(),
        name_device_faults(),
    ):
        facts, run = _wait_for_search(store, study, out, wait, listener)
        own = {"storage": storage, "out": out, "device": device}
        settings = _settings(run, facts, {**own, "data": data} if data else own)
        return _work(settings, store, facts, run, _stop_with_study(store, study, listener))


def _work(
    settings: StudyConfig, store: Store, facts: StudyFacts, run: RunFacts, listener: Listener
) -> bool:
    """Run trials until the study ends; return whether the user interrupted this worker."""
    name, plugins = settings.name, load_plugins(settings, None)
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
    listener(ScoreDecimals(facts.score_decimals))
    this = identity_of(settings, dataset, space, device)
    delete = f"autotl studies delete {shlex.quote(settings.name)}{store.options(settings.out)}"
    identity.require_same(settings.name, facts.identity or {}, this, delete)
    context = training_context(settings, store, dataset, metric, device, budget, fitting, listener)
    return context, fit_augmentations(space, store, context, listener)


def _wait_for_search(
    store: Store, study: str, out: Path, wait: float, listener: Listener
) -> tuple[StudyFacts, RunFacts]:
    """Wait until workers can join the search of a study.

    Raises:
        StudyError: No search of it is running.
    """
    until = time.monotonic() + wait
    while True:
        facts = store.find_study(study)
        if facts and facts.state == "running" and facts.run and living(store, study):
            return facts, facts.run
        if time.monotonic() > until and not living(store, study):
            near = did_you_mean(study, store.studies()) if facts is None else "start it with: "
            near += "" if facts is None else f"autotl search DATA --study {shlex.quote(study)}"
            raise StudyError(f"no search of study {study!r} is running; {near}")
        listener(Stage(f"waiting for the search of {study} to begin"))
        time.sleep(min(1.0, max(0.05, until - time.monotonic())))


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
