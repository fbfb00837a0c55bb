"""The budget: whatever a trial uses of it, there is time left for the refit and the report."""

from __future__ import annotations

import math

import pytest

from autotl.search.budget import LONGEST_TRIAL, Budget


class Clock:
    """A clock that only advances when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def test_time_is_counted_from_the_start(clock: Clock) -> None:
    budget = Budget(600)
    assert (budget.deadline, budget.spent, budget.left) == (1600.0, 0.0, 600.0)
    clock.now += 150
    assert (budget.deadline, budget.spent, budget.left) == (1600.0, 150.0, 450.0)
    clock.now += 500
    assert budget.left == -50.0


def test_a_long_test_reserves_a_fifth_of_the_budget() -> None:
    assert Budget(100).test_seconds(5.0) == 5.0
    assert Budget(100).test_seconds(500.0) == 20.0
    assert Budget(None).test_seconds(500.0) == 500.0


@pytest.mark.parametrize("seconds", [60, 600, 86400])
@pytest.mark.parametrize("refit", [1.0, 1.25, 3.0])
@pytest.mark.parametrize("used", [0.0, 0.5])
@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_the_longest_trial_leaves_time_to_refit_it(
    seconds: float, refit: float, used: float, fraction: float, clock: Clock
) -> None:
    budget = Budget(seconds, refit=refit, fixed=5.0)
    clock.now += used * seconds
    repeat = fraction * seconds
    trial = budget.available(repeat)
    assert 0 < trial < budget.left
    clock.now += trial
    clock.now += refit * repeat
    assert budget.left >= budget.fixed  # for the end
    assert budget.left <= budget.fixed + 0.1 * refit * repeat + 1e-6  # and no more is wasted


def test_what_changes_later_is_respected(clock: Clock) -> None:
    budget = Budget(600)
    before = budget.available(100)
    budget.refit, budget.fixed, budget.reserved_repeats = 2.0, 50.0, 30.0
    assert budget.available(100) < before
    clock.now += budget.available(100)
    assert budget.left == pytest.approx(budget.finish_seconds(100))


def test_time_for_the_test_is_reserved(clock: Clock) -> None:
    budget = Budget(600, refit=1.0, fixed=0.0)
    both = budget.available(100, test=100) + budget.finish_seconds(100, test=100)
    assert both == pytest.approx(600)
    assert budget.finish_seconds(0, test=100) == 100


def test_a_budget_may_have_begun_earlier(clock: Clock) -> None:
    assert Budget(600, began=990.0).spent == 10.0


def test_no_trial_fits_when_the_end_itself_would_not(clock: Clock) -> None:
    budget = Budget(60, fixed=10)
    clock.now += 55
    assert budget.available(0) < 0
    assert budget.fair_share(0) < 0


def test_one_trial_does_not_use_the_time_of_all_others(clock: Clock) -> None:
    budget = Budget(600)
    assert budget.fair_share(9) == LONGEST_TRIAL * 600 < budget.available(9)
    clock.now += 500
    assert budget.fair_share(9) == budget.available(9) < LONGEST_TRIAL * 600


def test_a_trial_without_a_refit_may_use_all_time_but_that_of_the_end(clock: Clock) -> None:
    budget = Budget(600, fixed=10)
    clock.now += 100
    assert budget.usable() == 490
    assert budget.usable(test=40) == 450
    budget.reserved_refit = budget.reserved_repeats = 100.0
    assert budget.usable(test=40) == 450  # it is better than the trials for which these are
    assert Budget(None).usable(test=40) == math.inf


def test_the_refit_must_end_before_the_deadline(clock: Clock) -> None:
    budget = Budget(600, fixed=20)
    assert budget.refit_deadline() == 1600.0 - 10
    assert budget.refit_deadline(test=60) == 1600.0 - 10 - 60


def test_no_budget_has_no_end(clock: Clock) -> None:
    budget = Budget(None)
    clock.now += 1e9
    assert (budget.deadline, budget.refit_deadline(), budget.spent) == (None, None, 1e9)
    assert budget.left == budget.available(9) == budget.fair_share(9) == math.inf


def test_stages_add_up(clock: Clock) -> None:
    budget = Budget(None)
    for seconds in (3, 4):
        with budget.stage("search"):
            clock.now += seconds
            with budget.stage("refit"):
                clock.now += 10
            clock.now += 1
        clock.now += 100
    assert budget.stages == {"search": 9.0, "refit": 20.0}  # every second is in one stage only


def test_the_time_of_a_stage_that_fails_is_counted(clock: Clock) -> None:
    budget = Budget(None)

    def interrupted() -> None:
        with budget.stage("search"), budget.stage("inner"):
            clock.now += 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert budget.stages == {"search": 0.0, "inner": 3.0}


def test_time_for_the_repeats_is_reserved(clock: Clock) -> None:
    budget = Budget(600, refit=1.0, fixed=0.0)
    budget.reserved_repeats = 180.0
    clock.now += budget.available(40)
    assert budget.left == pytest.approx(180 + 1.1 * 40) == budget.finish_seconds(40)


def test_time_for_the_refit_of_the_best_trial_is_reserved(clock: Clock) -> None:
    """A trial that is refitted faster must not use the time for it."""
    budget = Budget(600, refit=1.0, fixed=0.0)
    budget.reserved_refit = 90.0
    assert budget.finish_seconds(1.0) == budget.reserved_refit
    assert budget.finish_seconds(100.0) == budget.refit_seconds(100.0) > budget.reserved_refit
    assert budget.refit_seconds(100.0, test=5.0) == pytest.approx(1.1 * 100 + 5)
