"""Which trials are pruned, on studies whose learning curves are written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from autotl.search.pruner import MIN_TRIALS, make_pruner

EPOCHS = 4
# The worst tenth has reported less than 0.3 at epoch 2, less than 0.4 at epoch 3.
CURVES = [[x / 10, x / 10 + 0.1, x / 10 + 0.2, x / 10 + 0.3] for x in range(1, 12)]


def trial(curve: Sequence[float], state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    """A trial that reported ``curve`` from epoch 1 on."""
    value = curve[-1] if state == TrialState.COMPLETE else None
    values = dict(enumerate(curve, start=1))
    return optuna.create_trial(state=state, value=value, intermediate_values=values)


def is_pruned(
    curve: Sequence[float],
    earlier: Sequence[Sequence[float]] = CURVES,
    direction: Literal["maximize", "minimize"] = "maximize",
    epochs: int = EPOCHS,
) -> bool:
    """Whether a trial is pruned after what it reported so far."""
    study = optuna.create_study(direction=direction)
    study.add_trials([trial(other) for other in earlier])
    return make_pruner(epochs).prune(study, trial(curve, TrialState.RUNNING))


def test_the_worst_tenth_is_pruned() -> None:
    assert is_pruned([0.1, 0.29])
    assert not is_pruned([0.1, 0.31])
    assert is_pruned([0.1, 0.2, 0.39])
    assert not is_pruned([0.1, 0.2, 0.41])


def test_lower_is_better_when_minimised() -> None:
    earlier = [[-score for score in curve] for curve in CURVES]
    assert is_pruned([-0.1, -0.29], earlier, "minimize")
    assert not is_pruned([-0.1, -0.31], earlier, "minimize")


@pytest.mark.parametrize(("epochs", "first"), [(4, 2), (8, 4), (7, 4), (1, 1)])
def test_the_first_half_of_the_epochs_is_never_pruned(epochs: int, first: int) -> None:
    earlier = [[0.9] * epochs] * MIN_TRIALS
    pruned = [is_pruned([0.1] * n, earlier, epochs=epochs) for n in range(1, epochs + 1)]
    assert pruned == [n >= first for n in range(1, epochs + 1)]


def test_a_trial_with_a_good_epoch_goes_on() -> None:
    assert not is_pruned([0.9, 0.1, 0.1])


def test_nothing_is_pruned_before_enough_trials_reported_the_same_epoch() -> None:
    assert is_pruned([0.0, 0.0], CURVES[:MIN_TRIALS])
    assert not is_pruned([0.0, 0.0], CURVES[: MIN_TRIALS - 1])
    short = [curve[:2] for curve in CURVES]
    assert is_pruned([0.0, 0.0], short)
    assert not is_pruned([0.0, 0.0, 0.0], short)  # no other trial was as long


def test_it_prunes_in_a_study() -> None:
    def objective(trial: optuna.Trial) -> float:
        level = trial.suggest_float("level", 0, 1)
        for epoch in range(1, 6):
            trial.report(level * epoch, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 5 * level

    states = []
    for _ in range(2):
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=make_pruner(5),
        )
        study.optimize(objective, n_trials=60)
        states.append([(t.state, t.last_step) for t in study.trials])
        assert study.best_params["level"] == max(t.params["level"] for t in study.trials)
    assert states[0] == states[1]
    assert 10 < sum(state == TrialState.PRUNED for state, _ in states[0]) < 30
