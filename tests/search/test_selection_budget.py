"""How much of the budget the end needs, and who takes part in a final selection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autotl.scoring.metrics import METRICS
from autotl.search.budget import SELECTION_FRACTION, SLACK, Budget
from autotl.search.leaderboard import Leaderboard
from autotl.search.selection_budget import (
    MAX_MEMBERS,
    MEMBER_FRACTION,
    MOST_CONTENDERS,
    SelectionBudget,
    repeat_seconds,
)
from autotl.store import Contender, DataFacts, Member, Store


@pytest.fixture(autouse=True)
def all_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any trial may be the best."""
    monkeypatch.setattr(Leaderboard, "tied", lambda self: set(self.rows))


def plan(
    seconds: list[float], budget: Budget, probe: int = 0, default: int | None = None, **facts: Any
) -> SelectionBudget:
    """Of trials that took so long, the best first."""
    store = Store("sqlite://")
    store.begin_study("s")
    for number, took in enumerate(seconds):
        store.begin_trial("s", number, {"head": {str(number): {}}}, 3)
        roles = {"is_probe": number == probe, "is_default": number == default}
        roles["backbone_frozen"] = number == probe
        score = 0.9 - 0.01 * number
        every = {**roles, **facts}
        store.finish_trial("s", number, "complete", score=score, seconds=took, **every)
    return SelectionBudget(Leaderboard(store, "s", METRICS["accuracy"]), budget)


def field(selection: SelectionBudget, seconds: float) -> tuple[list[int], int]:
    """The trials and the repeats that fit into so many seconds."""
    chosen = selection.choose_field(seconds)
    return [contender.lead for contender in chosen.contenders], chosen.repeats


def test_five_repeats_of_few_contenders_come_first() -> None:
    nine = plan([1.0] * 9, Budget(1000.0))
    assert field(nine, 300) == ([0, 1, 2, 3], 5)
    assert field(nine, 19) == ([0, 1, 2], 5)  # rather fewer contenders than fewer repeats
    assert field(nine, 10) == ([0, 1], 5)
    assert field(nine, 9) == ([0, 1, 2], 3)
    assert field(nine, 5) == ([0, 1], 2)
    assert field(nine, 3) == ([], 0)
    assert field(plan([1.0], Budget(1000.0)), 300) == ([], 0)
    assert field(plan([1.0] * 9, Budget(None)), float("inf")) == ([0, 1, 2, 3], 5)


def test_folds_are_the_repeats() -> None:
    nine = plan([1.0] * 9, Budget(1000.0))
    nine.leaderboard.store.update_study("s", data=DataFacts(folds=5))
    assert field(nine, 300) == ([], 0)
    nine.reserve()
    assert nine.budget.reserved_repeats == 0
    assert nine.budget.reserved_refit > 0


def test_the_baselines_take_part_before_the_next_best() -> None:
    nine = plan([1.0] * 9, Budget(1000.0), probe=8, default=6)
    assert field(nine, 300) == ([0, 6, 8, 1], 5)
    assert field(nine, 15) == ([0, 6, 8], 5)
    three = plan([10.0, 20.0, 1.0], Budget(1000.0), probe=2)
    assert field(three, 60) == ([0, 2], 5)  # the best and the linear probe


def test_a_trial_that_is_not_tied_takes_part_only_if_no_other_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Leaderboard, "tied", lambda self: {0, 2})
    assert field(plan([1.0] * 4, Budget(1000.0), probe=3), 300) == ([0, 3, 2], 5)
    monkeypatch.setattr(Leaderboard, "tied", lambda self: {0})
    assert field(plan([1.0] * 4, Budget(1000.0), probe=3), 300) == ([0, 3], 5)
    assert field(plan([1.0] * 4, Budget(1000.0), probe=9), 300) == ([0, 1], 5)
    assert MOST_CONTENDERS == 4


def test_the_default_recipe_is_left_out_rather_than_the_selection() -> None:
    selection = plan([20.0, 20.0, 1.0], Budget(1000.0), probe=2, default=1)
    assert field(selection, 85) == ([0, 1, 2], 2)
    assert field(selection, 50) == ([0, 2], 2)
    assert field(selection, 41) == ([], 0)


def test_time_for_the_repeats_is_reserved() -> None:
    budget = Budget(1000.0)
    assert plan([], budget).repeats_seconds(1000.0) == 0.0
    nine = plan([1.0] * 9, budget)
    assert nine.repeats_seconds(1000.0) == pytest.approx(SLACK * 4 * 5)  # no more than they need
    longer = plan([20.0] * 9, budget).repeats_seconds(1000.0)
    assert 0.8 < longer / (SELECTION_FRACTION * 1000) <= SLACK
    # No selection can be held anyway.
    assert plan([200.0] * 9, budget).repeats_seconds(1000.0) == 0.0
    # The time left decides who takes part, and at last that the search may use all of it.
    assert nine.repeats_seconds(7.0) == pytest.approx(SLACK * 2 * 3)
    assert nine.repeats_seconds(5.0) == 0.0  # for two repeats, which tell too little
    assert field(nine, 5.0) == ([0, 1], 2)  # but what is left at the end may be used for them
    assert nine.repeats_seconds(3.0) == 0.0
    assert plan([1.0] * 9, Budget(None)).repeats_seconds(float("inf")) == 0.0
    budget.reserved_repeats = 100.0
    assert budget.finish_seconds(0.0) == 100.0 + budget.fixed


def test_no_repeats_are_reserved_before_a_trial_that_trains_the_backbone() -> None:
    """Their time is for that trial, which is usually the best."""
    budget = Budget(1000.0)
    probes = plan([1.0] * 3, budget, backbone_frozen=True)
    assert probes.repeats_seconds(1000.0) == 0.0
    assert plan([1.0] * 3, budget).repeats_seconds(1000.0) > 0.0
    # A search whose trials cannot train it has no such trial to wait for.
    only_probes = replace(probes, fine_tunes=False)
    assert only_probes.repeats_seconds(1000.0) == pytest.approx(SLACK * 5 * 3)
    probes.reserve()
    assert budget.reserved_repeats == 0.0
    only_probes.reserve()
    assert budget.reserved_repeats == pytest.approx(SLACK * 5 * 3)


def test_time_for_the_refit_of_the_best_trial_is_reserved() -> None:
    """A trial that is refitted faster must not use the time for it."""
    budget = Budget(1000.0)
    selection = plan([10.0] * 4, budget, seconds_repeat=80.0, seconds_test=2.0)
    selection.reserve()
    left = budget.left - budget.reserved_refit - budget.fixed
    assert budget.reserved_repeats == selection.repeats_seconds(left) == 0.0
    assert budget.reserved_refit == pytest.approx(SLACK * budget.refit * 80 + 2)
    short = plan([10.0] * 4, budget, probe=3)
    short.reserve()
    assert budget.reserved_repeats == pytest.approx(SLACK * 4 * 5 * 10)
    # Time for a whole ensemble, because the others take only 3 % of the budget.
    assert budget.reserved_refit == pytest.approx(SLACK * budget.refit * 10 * MAX_MEMBERS)
    both = budget.reserved_repeats + budget.reserved_refit
    assert budget.finish_seconds(1.0) == both + budget.fixed
    assert budget.finish_seconds(100.0) > budget.finish_seconds(1.0)


def test_time_for_further_members_is_reserved_if_accuracy_is_preferred() -> None:
    """Otherwise there would be no time for an ensemble, although its other members are cheap."""
    budget = Budget(1000.0)
    selection = plan([10.0] * 3, budget)
    refit = SLACK * budget.refit * 10
    for seconds, expected in ((1000.0, 3 * refit), (refit / MEMBER_FRACTION - 1.0, refit)):
        budget.seconds = seconds
        selection.reserve()
        assert budget.reserved_refit == pytest.approx(expected)
    cheap = plan([10.0] * 3, budget)
    cheap.leaderboard.facts = cheap.leaderboard.facts.model_copy(update={"prefer": "cheap"})
    budget.seconds = 1000.0
    cheap.reserve()
    assert budget.reserved_refit == pytest.approx(refit)


def test_the_seconds_of_a_contender() -> None:
    budget = Budget(1000.0)
    measured = plan([10.0] * 2, budget, seconds_repeat=3.0, seconds_test=2.0)
    unknown = plan([10.0] * 2, budget)
    one = measured.leaderboard.finalists(1)[0]
    both = Contender(
        kind="ensemble", members=(Member(trial=0, weight=0.5), Member(trial=1, weight=0.5))
    )
    assert [repeat_seconds(s.leaderboard.rows[0]) for s in (measured, unknown)] == [3.0, 10.0]
    assert (measured.seconds(one), unknown.seconds(one)) == (3.0, 10.0)
    assert (measured.seconds(both), unknown.seconds(both)) == (6.0, 20.0)
    assert (measured.test_seconds(one), unknown.test_seconds(one)) == (2.0, 0.0)
    assert (measured.test_seconds(both), unknown.test_seconds(both)) == (4.0, 0.0)
    assert measured.finish_seconds(one) == budget.finish_seconds(3.0, 2.0)
    assert plan([1.0], budget, seconds_repeat=0.0).seconds(one) == 0.0  # measured, though nothing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_search_ends_when_the_end_would_not_fit_any_more(clock: list[float]) -> None:
    selection = plan([10.0] * 3, Budget(1000.0, refit=1.0, fixed=5.0), seconds_test=2.0)
    assert not selection.is_over()
    needed = SLACK * 3 * 5 * 10 + SLACK * 10 + 2 + 5 + 1
    clock[0] = 2000.0 - needed - 0.1
    assert not selection.is_over()
    clock[0] = 2000.0 - (SLACK * 10 + 2 + 5 + 1) + 0.1  # no time is left for repeats
    assert selection.is_over()
    assert not plan([10.0] * 3, Budget(None)).is_over()


def test_a_best_trial_that_cannot_be_refitted_does_not_end_the_search(clock: list[float]) -> None:
    """Its own model is used, so that only the time of its test is reserved."""
    budget = Budget(1000.0, refit=1.0, fixed=5.0)
    selection = plan([900.0], budget, seconds_test=2.0)
    clock[0] += 900.0
    assert not selection.is_over()
    assert budget.reserved_refit == 2.0
    clock[0] += 91.9
    assert not selection.is_over()
    clock[0] += 0.2  # 2 s for the test, 5 s for the report and one more are left
    assert selection.is_over()


def test_time_that_was_reserved_for_a_refit_stays_reserved(clock: list[float]) -> None:
    """Later trials must not use it up until the refit does not fit any more."""
    budget = Budget(1000.0, refit=1.0, fixed=5.0)
    selection = plan([400.0], budget)
    assert not selection.is_over()
    assert budget.reserved_refit == pytest.approx(SLACK * 400)
    clock[0] += 700.0
    assert selection.is_over()
    assert budget.reserved_refit == pytest.approx(SLACK * 400)


def test_a_new_best_trial_that_can_be_refitted_has_its_own_time(clock: list[float]) -> None:
    budget = Budget(1000.0, refit=1.0, fixed=5.0)
    selection = plan([900.0], budget)
    clock[0] += 500.0
    assert not selection.is_over()
    assert budget.reserved_refit == 0.0
    store = selection.leaderboard.store
    store.begin_trial("s", 1, {"head": {"1": {}}}, 3)
    store.finish_trial("s", 1, "complete", score=0.99, seconds=100.0, backbone_frozen=False)
    selection.leaderboard.refresh()
    assert not selection.is_over()
    assert budget.reserved_refit == pytest.approx(SLACK * 100)


def test_a_search_without_a_trial_ends_with_the_budget(clock: list[float]) -> None:
    selection = plan([], Budget(1000.0))
    assert not selection.is_over()
    clock[0] = 1999.5
    assert selection.is_over()
