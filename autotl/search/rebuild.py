"""Carries the trials of a study over to another search space.

Optuna refuses a parameter whose choices have changed, even in their order. So its study is created
anew, every trial with its number, state, values and attributes; parameters that a trial has and the
new space does not know are moved to its attributes, where they do not mislead the sampler.

A copy exists beside the study while that happens. A run that was killed half-way is recognised by
it, and the next one continues from the copy.
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
COMPLETE_COPY = "autotl:complete_copy"  # set once the copy has all trials: their ids in storage
ORIGINAL_PARAMS = "original_params"  # the parameters of a trial in the space it was drawn in
FIXED_PARAMS = "fixed_params"  # where Optuna stores the parameters of an enqueued trial


def rebuild(storage: BaseStorage, name: str, space: Space) -> int:
    """Create Optuna's study ``name`` anew for ``space``.

    Returns:
        The number of trials that were carried over.
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
    """Finish the rebuild that a killed run left unfinished; return the number of its trials."""
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
        new.add_trials([_adapted(trial, space.hyperparameters) for trial in trials])
        _annotate(storage, new, storage.get_study_system_attrs(old._study_id), ids)
    optuna.delete_study(study_name=copy, storage=storage)
    return len(trials)


def _annotate(
    storage: BaseStorage, new: optuna.Study, attributes: Mapping[str, Any], ids: Sequence[int]
) -> None:
    """Carry the notes of Optuna Dashboard over; the user may have written some.

    Args:
        storage: Where the study is.
        new: The study.
        attributes: Where the dashboard stores them, those of trials by their ids in storage.
        ids: The old ids of the trials.
    """
    new_ids = [trial._trial_id for trial in new.get_trials(deepcopy=False)]
    places = {"dashboard": "dashboard"}
    places |= {f"dashboard:{a}": f"dashboard:{b}" for a, b in zip(ids, new_ids, strict=True)}
    for key, value in attributes.items():
        place, _, note = key.rpartition(":note_")
        if place in places:
            storage.set_study_system_attr(new._study_id, f"{places[place]}:note_{note}", value)


def _adapted(trial: FrozenTrial, hyperparameters: Mapping[str, Hyperparameter]) -> FrozenTrial:
    """The trial with the parameters that the new space knows; all of them are in its attributes."""
    drawn = {**trial.params, **trial.user_attrs.get(ORIGINAL_PARAMS, {})}
    common = {name: hyperparameters[name] for name in drawn if name in hyperparameters}
    params = {name: drawn[name] for name, h in common.items() if h.can_draw(drawn[name])}
    attributes, system = dict(trial.user_attrs), dict(trial.system_attrs)
    attributes.pop(ORIGINAL_PARAMS, None)
    if params != drawn:
        attributes[ORIGINAL_PARAMS] = drawn
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
        trial_id=-1,  # the storage gives it a new one
    )


def distribution(hyperparameter: Hyperparameter) -> BaseDistribution:
    """Optuna's distribution of a hyperparameter."""
    if hyperparameter.range is None:
        return CategoricalDistribution(hyperparameter.choices or ())
    domain = hyperparameter.range
    if hyperparameter.type is int:
        step = int(domain.step or 1)
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
