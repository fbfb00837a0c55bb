"""How many epochs a trial gets, and how long its retraining will take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autotl.errors import OutOfTime
from autotl.search.budget import LONGEST_TRIAL, Budget
from autotl.search.trial_budget import TrialPlan, affordable_epochs
from autotl.training import Cost, Epoch


def cost(epoch: float, view: float = 0.0) -> Cost:
    return Cost(
        view_seconds=view,
        epoch_seconds=epoch,
        setup_seconds=0.0,
        backbone_epoch_fraction=1.0,
        prediction_seconds=0.0,
    )


def task(epochs: int = 12, views: int = 2) -> Any:
    return SimpleNamespace(epochs=epochs, views=views)


def epochs(seconds: float, budget: Budget, *, first: bool = False) -> int:
    return affordable_epochs(cost(seconds), 12, 2, budget, 0.0, first)


def test_a_trial_gets_as_many_epochs_as_the_final_selection_can_repeat() -> None:
    budget = Budget(600)
    assert epochs(1.0, budget) == 12
    assert epochs(10.0, budget) == budget.longest_repeat // 10.0 == 6
    assert epochs(16.0, budget) == budget.longest_repeat // 16.0 == 4
    assert epochs(17.0, budget) == LONGEST_TRIAL * 600 // 17.0 == 10  # it cannot be repeated anyway
    assert epochs(20.0, Budget(None)) == 12


def test_a_trial_that_takes_too_long_is_not_begun() -> None:
    with pytest.raises(OutOfTime, match=r"4 epochs would take 240 s, .* may take 180 s now"):
        epochs(60.0, Budget(600))
    assert epochs(100.0, Budget(600), first=True) == 2  # better than nothing
    with pytest.raises(OutOfTime, match="1 epochs would take 500 s"):
        epochs(500.0, Budget(600), first=True)


def trained(*seconds: float) -> list[Epoch]:
    return [Epoch(i, 0.0, 0.0, took, 0) for i, took in enumerate(seconds, start=1)]


def plan(facts: dict[str, Any], cost: Cost | None = None) -> TrialPlan:
    model: Any = None
    return TrialPlan(model, task(), False, facts, cost)


def test_the_time_of_a_retraining_is_that_of_the_later_epochs() -> None:
    facts = {"seconds_repeat": 99.0}
    measured = plan(facts, cost(epoch=9.0, view=8.0))
    new = 8.0 / 4  # a second view of the quarter of the images that is new
    assert measured.repeat_seconds(trained(11.0, 11.0, 3.0, 3.0)) == new + 4 * 3.0
    # The backbone was frozen at first.
    assert measured.repeat_seconds(trained(1.0, 1.0, 5.0, 3.0)) == new + 1.0 + 1.0 + 8.0
    assert measured.repeat_seconds(trained(11.0, 11.0)) == 99.0  # no epoch without new views
    # Fitting a closed-form head is in no estimate.
    assert measured.repeat_seconds(trained(500.0)) == 500.0 - 8.0
    assert plan({}).repeat_seconds(trained(2.0, 3.0)) == 5.0
