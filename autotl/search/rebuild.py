"""Rebuild an Optuna study for a search space that has changed.

Optuna rejects a parameter whose choices, or their order, have changed. The study is therefore
created again with the same trials: their numbers, states, values and attributes. Parameters of a
trial that are not in the new space are moved to its attributes, where the sampler ignores them.

During the rebuild a copy of the study exists. If a run is killed meanwhile, the next run detects
the copy and finishes the rebuild.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autotl.space.hyperparameter import Hyperparameter
from autotl.space.space import Space

COPY = "{} (while its space changes)"
COMPLETE_COPY = "autotl:complete_copy"  # attribute of a complete copy: the storage ids of trials
ORIGINAL_PARAMS = "original_params"  # attribute of a trial: its parameters in its first space
FIXED_PARAMS = "fixed_params"  # Optuna's system attribute with the parameters of an enqueued trial


def rebuild(storage: BaseStorage, name: str, space: Space) -> int:
    """Rebuild Optuna's study ``name`` for ``space``.

    Returns:
        The number of trials.
    """
    finish(storage, name, space)
    copy = COPY.format(name)
    optuna.copy_study(
        from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=copy
    )
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    ids = [trial._trial_id for trial in trials]
    optuna.load_study(study_name=copy, storage=storage).set_user_attr(COMPLETE_COPY, ids)
    return finish(storage, name, space)


def finish(storage: BaseStorage, name: str, space: Space) -> int:
    """Finish the rebuild of a run that was killed; return the number of trials, 0 without one."""
    copy, names = COPY.format(name), optuna.get_all_study_names(storage)
    if copy not in names:
        return 0
    old = optuna.load_study(study_name=copy, storage=storage)
    trials = old.get_trials(deepcopy=False)
    if (ids := old.user_attrs.get(COMPLETE_COPY)) is not None:
        if name in names:
            optuna.delete_study(study_name=name, storage=storage)
        new = optuna.create_study(study_name=name, storage=storage, direction=old.direction)
        for key, value in old.user_attrs.items():
            if key != COMPLETE_COPY:
                new.set_user_attr(key, value)
        new.add_trials([_adapt(trial, space.hyperparameters) for trial in trials])
        _annotate(storage, new, storage.get_study_system_attrs(old._study_id), ids)
    optuna.delete_study(study_name=copy, storage=storage)
    return len(trials)


def _annotate(
    storage: BaseStorage, new: optuna.Study, attributes: Mapping[str, Any], ids: Sequence[int]
) -> None:
    """Copy the notes of Optuna Dashboard, some of which the user may have written.

    Args:
        storage: The storage of the study.
        new: The rebuilt study.
        attributes: The old system attributes, whose keys have the storage ids of trials.
        ids: The old storage ids of the trials.
    """
    new_ids = [trial._trial_id for trial in new.get_trials(deepcopy=False)]
    prefixes = {"dashboard": "dashboard"}
    prefixes |= {f"dashboard:{a}": f"dashboard:{b}" for a, b in zip(ids, new_ids, strict=True)}
    for key, value in attributes.items():
        prefix, _, note = key.rpartition(":note_")
        if prefix in prefixes:
            storage.set_study_system_attr(new._study_id, f"{prefixes[prefix]}:note_{note}", value)


def _adapt(trial: FrozenTrial, hyperparameters: Mapping[str, Hyperparameter]) -> FrozenTrial:
    """Copy a trial with the parameters that the new space has; its attributes have all of them."""
    attributes, system = dict(trial.user_attrs), dict(trial.system_attrs)
    original = attributes.pop(ORIGINAL_PARAMS, None) or system.pop(ORIGINAL_PARAMS, None) or {}
    drawn = {**trial.params, **original}
    common = {name: hyperparameters[name] for name in drawn if name in hyperparameters}
    params = {name: drawn[name] for name, h in common.items() if h.can_draw(drawn[name])}
    if params != drawn:  # Optuna Dashboard's page would be as wide as these as a user attribute
        system[ORIGINAL_PARAMS] = drawn
    if FIXED_PARAMS in system:
        fixed: Mapping[str, Any] = system[FIXED_PARAMS]
        system[FIXED_PARAMS] = {
            name: value
            for name, value in fixed.items()
            if name in hyperparameters and hyperparameters[name].can_draw(value)
        }
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=trial.value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions={name: distribution(common[name]) for name in params},
        user_attrs=attributes,
        system_attrs=system,
        intermediate_values=trial.intermediate_values,
        trial_id=-1,  # the storage assigns a new id
    )


def distribution(hyperparameter: Hyperparameter) -> BaseDistribution:
    """Return Optuna's distribution of a hyperparameter."""
    if hyperparameter.range is None:
        return CategoricalDistribution(hyperparameter.choices or ())
    domain = hyperparameter.range
    if hyperparameter.type is int:
        step = int(domain.step or 1)
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
