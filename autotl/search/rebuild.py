"""A study whose space has changed goes on with all the trials it has.

Optuna refuses a parameter whose choices have changed, even in their order. So its study is made
again, every trial with its number, state, values and attributes; what a trial had drawn and the
new space does not know is kept in its attributes alone, where it misleads no sampler.

A copy stands beside the study while that happens. A run that was killed half-way is found by it,
and the next one carries on from the copy.
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

from autotl.space.plugin import Hyperparameter
from autotl.space.space import Space

COPY = "{} (while its space changes)"
WHOLE = "autotl:whole"  # the copy has all trials; the numbers that the storage gave them
DRAWN = "drawn"  # what a trial had drawn in the space it was made in
QUEUED = "fixed_params"  # where Optuna keeps what a trial in the queue shall draw


def carry(storage: BaseStorage, name: str, space: Space) -> int:
    """Make Optuna's study ``name`` again for ``space``.

    Returns:
        How many trials were carried over.
    """
    mend(storage, name, space)
    copy = COPY.format(name)
    optuna.copy_study(
        from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=copy
    )
    known = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    whole = [trial._trial_id for trial in known]
    optuna.load_study(study_name=copy, storage=storage).set_user_attr(WHOLE, whole)
    return mend(storage, name, space)


def mend(storage: BaseStorage, name: str, space: Space) -> int:
    """Finish what a run that was killed had begun; returns how many trials that carried over."""
    copy, names = COPY.format(name), optuna.get_all_study_names(storage)
    if copy not in names:
        return 0
    old = optuna.load_study(study_name=copy, storage=storage)
    trials = old.get_trials(deepcopy=False)
    if (given := old.user_attrs.get(WHOLE)) is not None:
        if name in names:
            optuna.delete_study(study_name=name, storage=storage)
        new = optuna.create_study(study_name=name, storage=storage, direction=old.direction)
        for key, value in old.user_attrs.items():
            if key != WHOLE:
                new.set_user_attr(key, value)
        new.add_trials([_fitted(trial, space.hyperparameters) for trial in trials])
        _annotate(storage, new, storage.get_study_system_attrs(old._study_id), given)
    optuna.delete_study(study_name=copy, storage=storage)
    return len(trials)


def _annotate(
    storage: BaseStorage, new: optuna.Study, attributes: Mapping[str, Any], given: Sequence[int]
) -> None:
    """Carry the notes of Optuna Dashboard over, which may be somebody's own.

    Args:
        storage: Where the study is.
        new: The study.
        attributes: Where the dashboard keeps them, those of trials by the storage's numbers.
        given: The numbers that the storage had given to the trials.
    """
    now = [trial._trial_id for trial in new.get_trials(deepcopy=False)]
    places = {"dashboard": "dashboard"}
    places |= {f"dashboard:{a}": f"dashboard:{b}" for a, b in zip(given, now, strict=True)}
    for key, value in attributes.items():
        place, _, note = key.rpartition(":note_")
        if place in places:
            storage.set_study_system_attr(new._study_id, f"{places[place]}:note_{note}", value)


def _fitted(trial: FrozenTrial, hyperparameters: Mapping[str, Hyperparameter]) -> FrozenTrial:
    """The trial as the new space would have made it, all that it had drawn in its attributes."""
    drawn = {**trial.params, **trial.user_attrs.get(DRAWN, {})}
    known = {name: hyperparameters[name] for name in drawn if name in hyperparameters}
    params = {
        name: drawn[name] for name, question in known.items() if question.can_draw(drawn[name])
    }
    attributes, system = dict(trial.user_attrs), dict(trial.system_attrs)
    attributes.pop(DRAWN, None)
    if params != drawn:
        attributes[DRAWN] = drawn
    if QUEUED in system:
        asked: Mapping[str, Any] = system[QUEUED]
        system[QUEUED] = {
            name: value
            for name, value in asked.items()
            if name in hyperparameters and hyperparameters[name].can_draw(value)
        }
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=trial.value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions={name: distribution(known[name]) for name in params},
        user_attrs=attributes,
        system_attrs=system,
        intermediate_values=trial.intermediate_values,
        trial_id=-1,  # the storage gives it a new one
    )


def distribution(question: Hyperparameter) -> BaseDistribution:
    """What Optuna draws for a hyperparameter from."""
    if question.range is None:
        return CategoricalDistribution(question.choices or ())
    asked = question.range
    if question.type is int:
        step = int(asked.step or 1)
        return IntDistribution(int(asked.low), int(asked.high), log=asked.log, step=step)
    return FloatDistribution(asked.low, asked.high, log=asked.log, step=asked.step)
