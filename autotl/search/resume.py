"""What a study brings along from earlier runs: its trials, those cut short, and what limits bar."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from autotl import events
from autotl.errors import StudyError
from autotl.events import Listener
from autotl.scoring.metrics import Metric
from autotl.search import rebuild
from autotl.search.portfolio import RECIPE
from autotl.search.pruner import WorstTenthPruner
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import Store, TrialRow
from autotl.study import StudyConfig

BESIDE = "beside"
"""The attribute of a trial that was run with a probe, whose number it holds."""

PROCESS = "process"
"""The attribute of a trial that says who runs it: the machine and the process's number."""


def resume(
    store: Store,
    settings: StudyConfig,
    space: Space,
    metric: Metric,
    plugins: Registry,
    listener: Listener,
) -> optuna.Study:
    """Optuna's study, made if it is not there, with all that earlier runs left in it.

    Trials of a run that was killed are put back in the queue, those of another space are carried
    over, and those that the limits of this run leave out are marked.

    Raises:
        StudyError: Another process is running it.
    """
    name = settings.name
    rebuild.mend(store.storage, name, space)
    study = _open(store, name, metric)
    _clear_zombies(study, store)
    was = study.user_attrs.get("space", space.fingerprint)
    if was != space.fingerprint:
        count = rebuild.carry(store.storage, name, space)
        study = _open(store, name, metric)
        known = (store.facts(name) or {}).get("annotated") or {}
        # Pictures stand under numbers that trials have no more; notes came along.
        store.update(name, annotated={key: known[key] for key in known if "/" not in key})
        listener(events.Note(f"the space has changed; {count} trials were carried over"))
    study.set_user_attr("space", space.fingerprint)
    rows = store.trials(name)
    used = {(kind, n) for row in rows for kind, names in row.config.items() for n in names}
    gone = {plugin for plugin in used if not plugins.has(*plugin)}
    for row in rows:
        reason = _limited(row, settings, space) or _unknown(row, gone)
        if row.facts.get("barred", "") != reason:
            store.note_trial(name, row.number, barred=reason)  # the report goes by it too
    return study


def requeue(study: optuna.Study, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Put an interrupted trial back in the queue, still known as the recipe it was."""
    if BESIDE in attributes:
        return  # the probe that it was run with will take others along
    known = {key: attributes[key] for key in (RECIPE,) if key in attributes}
    study.enqueue_trial(dict(params), user_attrs=known)


def process() -> list[Any]:
    """Who runs the trials of this process."""
    return [platform.node(), os.getpid()]


def too_many(parameters: int, most: int) -> str:
    """Why a model is too large."""
    return f"{parameters / 1e6:.2f} M parameters, more than {most / 1e6:.2f} M"


def _open(store: Store, name: str, metric: Metric) -> optuna.Study:
    study = optuna.create_study(
        study_name=name,
        storage=store.storage,
        direction=metric.direction,
        pruner=WorstTenthPruner(),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([metric.name])
    return study


def _clear_zombies(study: optuna.Study, store: Store) -> None:
    """File the trials of a run that was killed, and put them back in the queue."""
    name = study.study_name
    begun = {row.number for row in store.trials(name)}
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        who = trial.user_attrs.get(PROCESS, ["", 0])
        _refuse(who, name)
        # One that was killed before it had drawn all has the rest of what it was to draw.
        params = {**trial.system_attrs.get(rebuild.QUEUED, {}), **trial.params}
        requeue(study, params, trial.user_attrs)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.number in begun:
            store.end_trial(name, trial.number, "interrupted", reason="its process ended")


def _limited(row: TrialRow, settings: StudyConfig, space: Space) -> str:
    """Why a trial of an earlier run could not be used now; empty if it could."""
    most = settings.max_parameters
    if most is not None and (row.parameters or 0) > most:
        return too_many(row.parameters or 0, most)
    known = {left.name: left.reason for left in space.excluded if left.kind == "backbone"}
    here = {plugin.name for plugin in space.plugins["backbone"]}
    for name in row.config.get("backbone", {}):
        if name in known:
            return known[name]
        if name not in here and settings.licence:
            return "its backbone is not in this run, so that its licence was not looked at"
        if name not in here and settings.max_latency is not None:
            return "its backbone is not in this run, so that its latency was not measured"
    return ""


def _unknown(row: TrialRow, gone: Container[tuple[str, str]]) -> str:
    """Why the model of a trial of an earlier run could not be made again; empty if it could."""
    used = ((kind, name) for kind, names in row.config.items() for name in names)
    missing = next((plugin for plugin in used if plugin in gone), None)
    return "the {} plugin {!r} is not loaded in this run".format(*missing) if missing else ""


def refuse_running(store: Store, name: str) -> None:
    """Raise StudyError if another process of this machine runs the study."""
    facts = store.facts(name) or {}
    if facts.get("state") == "running":
        _refuse(facts.get("process", ["", 0]), name)


def _refuse(who: Sequence[Any], name: str) -> None:
    if list(who) != process() and who[0] == platform.node() and _alive(who[1]):
        raise StudyError(
            f"study {name!r} is being run by process {who[1]} on this machine; wait for it, or "
            "choose another name with --study"
        )


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, OverflowError):
        return False
    return True
