"""Which trials the pruner ends, on studies whose curves are written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from autotl.search.pruner import WorstTenthPruner

FREEZE = CategoricalDistribution(["probe", "full"])
Curve = Sequence[float]


def trial(
    curve: Curve,
    freeze: str | None = "full",
    epochs: int | None = 4,
    state: TrialState = TrialState.COMPLETE,
) -> FrozenTrial:
    """A trial that reported ``curve`` from epoch 1 on; without ``freeze`` it has another name."""
    named = {"x": 0.5} if freeze is None else {"freeze": freeze}
    kinds = {"x": FloatDistribution(0, 1)} if freeze is None else {"freeze": FREEZE}
    return optuna.create_trial(
        state=state,
        value=curve[-1] if state == TrialState.COMPLETE else None,
        params=named,
        distributions=kinds,
        user_attrs={} if epochs is None else {"epochs": epochs},
        intermediate_values=dict(enumerate(curve, start=1)),
    )


def prunes(
    now: FrozenTrial, before: Sequence[FrozenTrial], direction: str = "maximize", **how: Any
) -> bool:
    study = optuna.create_study(direction=direction)
    study.add_trials(before)
    now.state = TrialState.RUNNING
    now.number = len(before)
    return WorstTenthPruner(**how).prune(study, now)


# At epoch 1 the worst tenth ends at 0.2, at epoch 2 at 0.3, at epoch 3 at 0.4.
LEVELS = tuple(level / 10 for level in range(1, 12))
BEFORE = [trial([x, x + 0.1, x + 0.2, x + 0.3]) for x in LEVELS]


def test_the_worst_tenth_ends() -> None:
    assert prunes(trial([0.19]), BEFORE)
    assert not prunes(trial([0.2]), BEFORE)
    assert prunes(trial([0.2, 0.29]), BEFORE)
    assert not prunes(trial([0.2, 0.31]), BEFORE)
    assert prunes(trial([0.59]), BEFORE, worst=0.5)
    assert not prunes(trial([0.61]), BEFORE, worst=0.5)


def test_a_few_trials_must_be_there_first() -> None:
    assert prunes(trial([0.0]), BEFORE[:3])
    assert not prunes(trial([0.0]), BEFORE[:2])
    assert prunes(trial([0.0]), BEFORE[:2], fewest=2)


def test_the_best_of_a_slow_kind_goes_on() -> None:
    probes = [trial([x, x, x, x], "probe") for x in (0.7, 0.75, 0.8, 0.85)]
    assert not prunes(trial([0.1]), probes)  # the first of its kind
    slow = trial([0.1, 0.3, 0.6, 0.9])
    assert prunes(trial([0.09]), [*probes, slow])
    assert not prunes(trial([0.1]), [*probes, slow])
    assert not prunes(trial([0.11]), [*probes, slow])
    assert prunes(trial([0.11, 0.2]), [*probes, slow])  # it was overtaken
    assert prunes(trial([0.6], "probe"), probes)


def test_where_nothing_makes_trials_alike_all_are() -> None:
    before = [trial(list(t.intermediate_values.values()), None) for t in BEFORE]
    assert prunes(trial([0.1], None), before)
    assert not prunes(trial([0.25], None), before)
    assert not prunes(trial([0.1]), before)  # the only one with a kind


def test_schedules_are_compared_at_the_same_share() -> None:
    # 2 of 4 epochs is 4 of 8, and halfway between 1 and 2 of 3.
    for other in ([0.0, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.6], [0.3, 0.5, 0.6]):
        before = [trial(other, epochs=len(other))] * 3
        assert prunes(trial([0.1, 0.39]), before)
        assert not prunes(trial([0.1, 0.41]), before)


def test_a_share_that_others_had_not_reached_with_their_first_epoch_is_not_compared() -> None:
    before = [trial([0.4, 0.5], epochs=2)] * 3
    assert not prunes(trial([0.0], epochs=8), before)
    assert prunes(trial([0.0, 0.0, 0.0, 0.0], epochs=8), before)


def test_pruned_trials_count_as_long_as_they_lasted() -> None:
    pruned = [trial([0.1, 0.1], state=TrialState.PRUNED)] * 7
    assert not prunes(trial([0.15]), [*BEFORE, *pruned])
    assert prunes(trial([0.15, 0.2, 0.29]), [*BEFORE, *pruned])
    others = [trial([0.5], state=state) for state in (TrialState.FAIL, TrialState.RUNNING)] * 3
    assert not prunes(trial([0.1]), others)


def test_trials_of_unknown_length() -> None:
    unknown = [trial(list(t.intermediate_values.values()), epochs=None) for t in BEFORE]
    assert prunes(trial([0.1]), unknown)  # the last epoch of a complete one tells
    assert not prunes(trial([0.1], epochs=None), BEFORE)
    pruned = [trial([0.5] * 4, epochs=None, state=TrialState.PRUNED)] * 3
    assert not prunes(trial([0.1]), pruned)


def test_lower_is_better_when_minimised() -> None:
    before = [trial([3 - x, 2 - x, 1 - x, 0.5]) for x in LEVELS]
    assert prunes(trial([2.85]), before, "minimize")
    assert not prunes(trial([2.75]), before, "minimize")
    assert not prunes(trial([1.0]), before, "minimize")


def test_what_is_no_number_is_passed_over() -> None:
    nan = math.nan
    assert not prunes(trial([nan], state=TrialState.PRUNED), BEFORE)
    assert prunes(trial([0.0, 0.29]), [trial([0.2, nan, 0.4, 0.6])] * 3)  # across it, a line
    assert not prunes(trial([0.0]), [trial([nan, 0.3, 0.4, 0.5])] * 3)  # nothing known of epoch 1
    assert prunes(trial([0.1]), [*BEFORE, trial([nan, nan, nan, 0.5])])
    silent = optuna.create_trial(
        value=0.2, params={"freeze": "full"}, distributions={"freeze": FREEZE}
    )
    assert not prunes(trial([0.1]), [silent] * 3)


def test_nothing_is_pruned_before_its_first_epoch_or_after_its_last() -> None:
    assert not prunes(trial([], state=TrialState.PRUNED), BEFORE)
    assert prunes(trial([0.1, 0.1, 0.1]), BEFORE)
    assert not prunes(trial([0.1, 0.1, 0.1, 0.1]), BEFORE)


def test_it_prunes_in_a_study() -> None:
    def objective(asked: optuna.Trial) -> float:
        level = asked.suggest_float("level", 0, 1)
        asked.suggest_categorical("freeze", ["full"])
        asked.set_user_attr("epochs", 5)
        for epoch in range(1, 6):
            asked.report(level * epoch, epoch)
            if asked.should_prune():
                raise optuna.TrialPruned
        return 5 * level

    found = []
    for _ in range(2):
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=WorstTenthPruner(),
        )
        study.optimize(objective, n_trials=40)
        found.append([(t.state, t.last_step) for t in study.trials])
        assert study.best_params["level"] == max(t.params["level"] for t in study.trials)
    assert found[0] == found[1]
    assert 10 < sum(state == TrialState.PRUNED for state, _ in found[0]) < 30
