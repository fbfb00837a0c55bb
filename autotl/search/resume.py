"""Resume a study: load its trials, and enqueue those that were interrupted."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl import events
from autotl.errors import StudyError
from autotl.events import Listener
from autotl.search import rebuild
from autotl.search.pruner import make_pruner
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import EpochRow, Store, TrialRow
from autotl.study import StudyConfig

Study = optuna.Study
"""Optuna's study of a search."""

RECIPE = "recipe"
"""The attribute of an Optuna trial with the name of its recipe, in parts."""

RETRIED = "retried"
"""The attribute of an Optuna trial that is retried because the GPU failed in it."""

PROBED_WITH = "probed_with"
"""The attribute of an Optuna trial that was trained together with a probe: the probe's number."""


def resume(
    store: Store, settings: StudyConfig, space: Space, plugins: Registry, listener: Listener
) -> optuna.Study:
    """Load or create Optuna's study.

    Trials of a run that was killed are enqueued to be retried. If the search space has changed, the
    study is rebuilt. Trials that the limits of this run exclude are marked in the store.

    Args:
        store: The database.
        settings: The settings of the study.
        space: The search space of this run.
        plugins: The plugins of this run.
        listener: Called with a note if the search space has changed.
    """
    name = settings.name
    rebuild.finish(store.storage, name, space)
    study = _open(store, name, settings.epochs)
    _reconcile(study, store)
    if study.user_attrs.get("space", space.fingerprint) != space.fingerprint:
        count = rebuild.rebuild(store.storage, name, space)
        study = _open(store, name, settings.epochs)
        listener(events.Note(f"the search space has changed; {count} trials were carried over"))
    study.set_user_attr("space", space.fingerprint)
    _mark_excluded(store, settings, space, plugins)
    return study


def load(store: Store, settings: StudyConfig, space: Space) -> optuna.Study:
    """Load Optuna's study of a search that another worker has begun.

    Raises:
        StudyError: The search space is another one here.
    """
    study = _open(store, settings.name, settings.epochs)
    if study.user_attrs.get("space") != space.fingerprint:
        raise StudyError(
            f"the search space of study {settings.name!r} is another one on this machine; install "
            "the same versions of AutoTL, timm and the plugins as on the machine of the search"
        )
    return study


def _mark_excluded(store: Store, settings: StudyConfig, space: Space, plugins: Registry) -> None:
    """Store for each trial the reason why the limits of this run exclude it, if they do."""
    rows = store.trials(settings.name)
    used = {(kind, n) for row in rows for kind, names in row.config.items() for n in names}
    missing = {plugin for plugin in used if not plugins.has(*plugin)}
    for row in rows:
        reason = _excluded_by(row, settings, space) or _missing_plugin(row, missing)
        if row.facts.excluded != reason:
            store.update_trial(settings.name, row.number, excluded=reason)


def requeue(
    study: optuna.Study, number: int, params: Mapping[str, Any], attributes: Mapping[str, Any]
) -> None:
    """Enqueue an interrupted trial to be retried, as the same recipe if it was one.

    While workers run, the caller must hold the lease of the queue.

    Args:
        study: Optuna's study.
        number: The number of the trial.
        params: Its parameters.
        attributes: Its user attributes.
    """
    if PROBED_WITH in attributes:
        return  # when its probe is retried, that draws new trials to be trained with it
    later = (t for t in study.get_trials(deepcopy=False) if t.number > number)
    alone = (t for t in later if PROBED_WITH not in t.user_attrs)
    if any(t.system_attrs.get(rebuild.FIXED_PARAMS) == params for t in alone):
        return  # its own worker has enqueued it, and was killed then
    recipe = {key: attributes[key] for key in (RECIPE, RETRIED) if key in attributes}
    study.enqueue_trial(dict(params), user_attrs=recipe)


def too_many_parameters(parameters: int, maximum: int) -> str:
    """Return the reason why a model is excluded as too large."""
    return f"{parameters:,} parameters, more than {maximum:,}"


def _open(store: Store, name: str, epochs: int) -> optuna.Study:
    facts = store.study(name)
    study = optuna.create_study(
        study_name=name,
        storage=store.storage,
        direction=facts.direction,
        pruner=make_pruner(epochs),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([facts.metric])
    return study


def _reconcile(study: optuna.Study, store: Store) -> None:
    """Make Optuna and the store agree about the trials of a run that was killed.

    A trial that both have as running is marked as interrupted and enqueued to be retried. Of one
    that only one of them has as running, the other has the result.
    """
    name = study.study_name
    rows = {row.number: row for row in store.trials(name)}
    for trial in study.get_trials(deepcopy=False):
        row = rows.get(trial.number)
        if trial.state == TrialState.RUNNING:
            end_trial(study, store, trial, row)
        elif trial.state.is_finished() and row and row.status == "running":
            _copy_result(store, name, trial)


def end_trial(study: optuna.Study, store: Store, trial: FrozenTrial, row: TrialRow | None) -> None:
    """End a trial that is running in Optuna, with the result of the store if there is one.

    Optuna is told last: if this process is killed too, the next one does the same again.

    Args:
        study: Optuna's study.
        store: The database.
        trial: Optuna's trial, whose worker has ended.
        row: The trial in the store; None if it was killed before that was written.
    """
    status = row.status if row else "interrupted"
    if row and status == "running":
        status = "interrupted"
        store.finish_trial(study.study_name, trial.number, status, reason="its process ended")
    if status == "interrupted":
        # If the trial was killed before it had drawn all parameters, add the enqueued ones.
        params = {**trial.system_attrs.get(rebuild.FIXED_PARAMS, {}), **trial.params}
        requeue(study, trial.number, params, trial.user_attrs)
    state = optuna_state(status, trial.constraints or {})
    value = row.score if row and state == TrialState.COMPLETE else None
    study.tell(trial.number, value, state=state, skip_if_finished=True)


def _copy_result(store: Store, name: str, trial: FrozenTrial) -> None:
    """Store the result of a trial that only Optuna has, as a killed older version left it."""
    begin, end = trial.datetime_start, trial.datetime_complete
    seconds = (end - begin).total_seconds() if begin and end else 0.0
    default = "complete" if trial.state == TrialState.COMPLETE else "interrupted"
    store.finish_trial(
        name,
        trial.number,
        trial.user_attrs.get("status", default),
        reason=trial.user_attrs.get("reason", "" if trial.value is not None else "process ended"),
        score=trial.value if trial.state == TrialState.COMPLETE else None,
        seconds=seconds,
        trained_parameters=trial.user_attrs.get("trained_parameters"),
        epochs=[
            EpochRow(number, float("nan"), score, 0.0)
            for number, score in sorted(trial.intermediate_values.items())
        ],
    )


def optuna_state(status: str, constraints: Mapping[str, float]) -> TrialState:
    """Return Optuna's state of a trial; ``constraints`` are violated if they are above 0."""
    if any(value > 0 for value in constraints.values()):
        return TrialState.PRUNED  # as other samplers expect of trials that violate a constraint
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    return states.get(status, TrialState.FAIL)


def _excluded_by(row: TrialRow, settings: StudyConfig, space: Space) -> str:
    """Return the reason why the limits of this run exclude an earlier trial; empty without one."""
    most = settings.max_parameters
    if most is not None and (row.parameters or 0) > most:
        return too_many_parameters(row.parameters or 0, most)
    reasons = {plugin.name: plugin.reason for plugin in space.excluded if plugin.kind == "backbone"}
    here = {plugin.name for plugin in space.plugins["backbone"]}
    for name in row.config.get("backbone", {}):
        if name in reasons:
            return reasons[name]
        if name not in here and settings.licence:
            return "its backbone is not part of this run, so its licence was not checked"
        if name not in here and settings.max_latency is not None:
            return "its backbone is not part of this run, so its latency was not measured"
    return ""


def _missing_plugin(row: TrialRow, missing: Container[tuple[str, str]]) -> str:
    """Return the reason why the model of an earlier trial cannot be built; empty if it can."""
    used = ((kind, name) for kind, names in row.config.items() for name in names)
    plugin = next((plugin for plugin in used if plugin in missing), None)
    return "the {} plugin {!r} is not loaded in this run".format(*plugin) if plugin else ""
