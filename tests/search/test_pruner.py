"""Which trials are pruned, on studies whose learning curves are written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from autotl.search.pruner import MIN_TRIALS, PRUNED_PERCENT, make_pruner, warmup_epochs

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


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_it_decides_as_optunas_percentile_pruner(
    direction: Literal["maximize", "minimize"],
) -> None:
    rng, decisions = np.random.default_rng(0), set()
    study = optuna.create_study(direction=direction)
    ours = make_pruner(EPOCHS)
    optunas = optuna.pruners.PercentilePruner(
        100 - PRUNED_PERCENT,
        n_startup_trials=MIN_TRIALS,
        n_warmup_steps=warmup_epochs(EPOCHS),
        n_min_trials=MIN_TRIALS,
    )
    for _ in range(60):
        running, state, level = study.ask(), TrialState.COMPLETE, rng.random()
        for epoch in range(1, int(rng.integers(2, EPOCHS + 1)) + 1):
            running.report(round(level + 0.1 * rng.random(), 1), epoch)  # with ties
            reported = study.trials[running.number]
            decision = ours.prune(study, reported)
            assert decision == optunas.prune(study, reported)
            decisions.add(decision)
            state = TrialState.PRUNED if decision else state
        study.tell(running, 0.0 if state == TrialState.COMPLETE else None, state=state)
    assert decisions == {False, True}


def test_it_reads_the_study_once_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    study, reads, read = optuna.create_study(direction="maximize"), [], optuna.Study.get_trials
    study.add_trials([trial(curve) for curve in CURVES])

    def get_trials(self: optuna.Study, **options: bool) -> list[FrozenTrial]:
        reads.append(options)
        return read(self, **options)

    monkeypatch.setattr(optuna.Study, "get_trials", get_trials)
    pruner = make_pruner(EPOCHS)
    for number in range(2):
        running = trial([0.5], TrialState.RUNNING)
        running.number = number
        for epoch in range(2, EPOCHS + 1):
            running.intermediate_values[epoch] = 0.5
            pruner.prune(study, running)
        assert len(reads) == number + 1


def test_scores_that_are_not_numbers_do_not_count() -> None:
    earlier = [[math.nan, math.nan, math.inf]] * 20
    assert is_pruned([0.1, 0.29], [*CURVES, *earlier])
    assert not is_pruned([0.1, 0.31], [*CURVES, *earlier])
