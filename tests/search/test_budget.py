"""The budget: whatever a trial takes of it, there is time left for the refit and the end."""

from __future__ import annotations

import math

import pytest

from autotl.search.budget import FINALS_SHARE, LONGEST_TRIAL, Budget


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def test_time_passes(clock: Clock) -> None:
    budget = Budget(600)
    assert (budget.deadline, budget.spent, budget.left) == (1600.0, 0.0, 600.0)
    clock.now += 150
    assert (budget.deadline, budget.spent, budget.left) == (1600.0, 150.0, 450.0)
    clock.now += 500
    assert budget.left == -50.0


@pytest.mark.parametrize("seconds", [60, 600, 86400])
@pytest.mark.parametrize("refit", [1.0, 1.25, 3.0])
@pytest.mark.parametrize("used", [0.0, 0.5])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_longest_trial_leaves_time_to_refit_it(
    seconds: float, refit: float, used: float, share: float, clock: Clock
) -> None:
    budget = Budget(seconds, refit=refit, fixed=5.0)
    clock.now += used * seconds
    again = share * seconds
    trial = budget.longest_trial(again)
    assert 0 < trial < budget.left
    clock.now += trial
    clock.now += refit * again
    assert budget.left >= budget.fixed  # for the end
    assert budget.left <= budget.fixed + 0.1 * refit * again + 1e-6  # and no more is wasted


def test_what_is_known_later_counts(clock: Clock) -> None:
    budget = Budget(600)
    before = budget.longest_trial(100)
    budget.refit, budget.fixed, budget.runs = 2.0, 50.0, 30.0
    assert budget.longest_trial(100) < before
    clock.now += budget.longest_trial(100)
    assert budget.left == pytest.approx(budget.finals(100))


def test_the_test_has_its_time(clock: Clock) -> None:
    budget = Budget(600, refit=1.0, fixed=0.0)
    assert budget.longest_trial(100, test=100) + budget.finals(100, test=100) == pytest.approx(600)
    assert budget.finals(0, test=100) == 100


def test_it_may_have_begun_before(clock: Clock) -> None:
    assert Budget(600, began=990.0).spent == 10.0


def test_no_trial_fits_when_the_end_itself_would_not(clock: Clock) -> None:
    budget = Budget(60, fixed=10)
    clock.now += 55
    assert budget.longest_trial(0) < 0
    assert budget.fair_share(0) < 0


def test_one_trial_does_not_take_the_time_of_all(clock: Clock) -> None:
    budget = Budget(600)
    assert budget.fair_share(9) == LONGEST_TRIAL * 600 < budget.longest_trial(9)
    clock.now += 500
    assert budget.fair_share(9) == budget.longest_trial(9) < LONGEST_TRIAL * 600


def test_the_finals_can_repeat_a_trial_twice(clock: Clock) -> None:
    assert 2 * Budget(600).repeatable < FINALS_SHARE * 600 < 3 * Budget(600).repeatable
    assert Budget(None).repeatable == math.inf


def test_the_refit_must_end_before_the_deadline(clock: Clock) -> None:
    budget = Budget(600, fixed=20)
    assert budget.grace() == 1600.0 - 10
    assert budget.grace(test=60) == 1600.0 - 10 - 60


def test_no_budget_has_no_end(clock: Clock) -> None:
    budget = Budget(None)
    clock.now += 1e9
    assert (budget.deadline, budget.grace(), budget.spent) == (None, None, 1e9)
    assert budget.left == budget.longest_trial(9) == budget.fair_share(9) == math.inf


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


def test_a_stage_that_fails_took_its_time(clock: Clock) -> None:
    budget = Budget(None)

    def interrupted() -> None:
        with budget.stage("search"), budget.stage("inner"):
            clock.now += 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert budget.stages == {"search": 0.0, "inner": 3.0}


def test_the_search_leaves_the_runs_of_the_finals_their_time(clock: Clock) -> None:
    budget = Budget(600, refit=1.0, fixed=0.0)
    budget.runs = 180.0
    clock.now += budget.longest_trial(40)
    assert budget.left == pytest.approx(180 + 1.1 * 40) == budget.finals(40)
