"""How many epochs a trial gets, and what it takes again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autotl.errors import OutOfTime
from autotl.search.budget import LONGEST_TRIAL, Budget
from autotl.search.trial_budget import Plan, affordable
from autotl.training import Cost, Epoch


def cost(epoch: float, view: float = 0.0) -> Cost:
    return Cost(view=view, epoch=epoch, once=0.0, costly=1.0, predict=0.0)


def task(epochs: int = 12, views: int = 2) -> Any:
    return SimpleNamespace(epochs=epochs, views=views)


def epochs(seconds: float, budget: Budget, *, modest: bool = False) -> int:
    return affordable(cost(seconds), task(), budget, 0.0, modest)


def test_a_trial_gets_the_epochs_that_the_finals_can_repeat() -> None:
    budget = Budget(600)
    assert epochs(1.0, budget) == 12
    assert epochs(10.0, budget) == budget.repeatable // 10.0 == 6
    assert epochs(16.0, budget) == budget.repeatable // 16.0 == 4
    assert epochs(17.0, budget) == LONGEST_TRIAL * 600 // 17.0 == 10  # out of their reach anyway
    assert epochs(20.0, Budget(None)) == 12


def test_a_trial_that_takes_too_much_is_not_begun() -> None:
    with pytest.raises(OutOfTime, match=r"4 epochs would take 240 s, .* may take 180 s now"):
        epochs(60.0, Budget(600))
    assert epochs(100.0, Budget(600), modest=True) == 2  # better than nothing
    with pytest.raises(OutOfTime, match="1 epochs would take 500 s"):
        epochs(500.0, Budget(600), modest=True)


def done(*seconds: float) -> list[Epoch]:
    return [Epoch(i, 0.0, 0.0, took, 0) for i, took in enumerate(seconds, start=1)]


def plan(known: dict[str, Any], cost: Cost | None = None) -> Plan:
    network: Any = None
    return Plan(network, task(), False, known, cost)


def test_what_it_takes_again_is_what_its_later_epochs_took() -> None:
    known = {"seconds_again": 99.0}
    measured = plan(known, cost(epoch=9.0, view=8.0))
    new = 8.0 / 4  # a second view of the quarter of the pictures that is new
    assert measured.again(done(11.0, 11.0, 3.0, 3.0)) == new + 4 * 3.0
    assert measured.again(done(1.0, 1.0, 5.0, 3.0)) == new + 1.0 + 1.0 + 8.0  # frozen at first
    assert measured.again(done(11.0, 11.0)) == 99.0  # no epoch without new views
    assert measured.again(done(500.0)) == 500.0 - 8.0  # to solve for a head is in no estimate
    assert plan({}).again(done(2.0, 3.0)) == 5.0
