"""How trials stand: baselines, what they would take again, who is in the finals."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from autotl.scoring.metrics import METRICS
from autotl.search.budget import FINALS_SHARE, Budget
from autotl.search.leaderboard import FINALISTS, FINALISTS_UNHURRIED, SLACK, Leaderboard
from autotl.store import Store, TrialRow


class Stub(Leaderboard):
    """Trials that only know how long they took and who they are."""

    def __init__(self, seconds: list[float], budget: Budget, probe: int = 0) -> None:
        super().__init__(Store("sqlite://"), "s", METRICS["accuracy"], budget)
        row = TrialRow(0, "complete", "", {}, 0.5, 3, 1, 1, 0.0, datetime.now(UTC))
        rows = [
            replace(
                row, number=i, seconds=s, config={"head": {str(i): {}}}, facts={"probe": i == probe}
            )
            for i, s in enumerate(seconds)
        ]
        self.__dict__.update(rows=rows)

    def ranked(self) -> list[TrialRow]:
        return self.rows

    def again(self, row: TrialRow) -> float:
        return row.seconds


def test_the_field_fits_the_time() -> None:
    def field(seconds: float, *took: float, probe: int = 0) -> tuple[list[int], int]:
        stub = Stub(list(took), Budget(1000.0), probe)
        entrants, runs = stub.contest(seconds)
        return [row.number for row in entrants], runs

    assert field(300, *[1.0] * 9) == ([0, 1, 2, 3, 4], 3)
    assert field(11, *[1.0] * 9) == ([0, 1, 2], 3)  # rather fewer than fewer runs
    assert field(5, *[1.0] * 9) == ([0, 1], 2)
    assert field(3, *[1.0] * 9) == ([], 0)
    assert field(300, 1.0) == ([], 0)
    assert field(300, *[1.0] * 9, probe=8) == ([0, 1, 2, 3, 4, 8], 3)
    assert field(50, 10.0, 20.0, 1.0, probe=2) == ([0, 2], 3)  # the best and the linear probe


def test_the_default_recipe_is_left_out_rather_than_the_finals() -> None:
    stub = Stub([20.0, 20.0, 1.0], Budget(1000.0), probe=2)
    stub.rows[1] = replace(stub.rows[1], facts={"default": True})

    def field(seconds: float) -> tuple[list[int], int]:
        entrants, runs = stub.contest(seconds)
        return [row.number for row in entrants], runs

    assert field(85) == ([0, 1, 2], 2)
    assert field(50) == ([0, 2], 2)
    assert field(41) == ([], 0)


def test_without_a_budget_three_are_enough() -> None:
    entrants, runs = Stub([1.0] * 9, Budget(None)).contest(float("inf"))
    assert (len(entrants), runs) == (FINALISTS_UNHURRIED, 3)


def test_configurations_that_are_equal_take_part_once() -> None:
    stub = Stub([1.0] * 4, Budget(1000.0), probe=1)
    stub.rows[1] = replace(stub.rows[1], config=stub.rows[0].config)
    assert [row.number for row in stub.finalists(FINALISTS)] == [0, 2, 3]


def test_the_search_leaves_the_finals_their_share() -> None:
    budget = Budget(1000.0)
    assert Stub([], budget).for_finals(1000.0) == 0.0
    need = pytest.approx(SLACK * 5 * 3)
    assert Stub([1.0] * 9, budget).for_finals(1000.0) == need  # and no more than they need
    assert 0.8 < Stub([20.0] * 9, budget).for_finals(1000.0) / (FINALS_SHARE * 1000) <= SLACK
    assert Stub([200.0] * 9, budget).for_finals(1000.0) == 0.0  # they cannot be held anyway
    # what is left decides who takes part, and at last that the search may have it all
    assert Stub([1.0] * 9, budget).for_finals(7.0) == pytest.approx(SLACK * 2 * 3)
    assert Stub([1.0] * 9, budget).for_finals(3.0) == 0.0
    budget.runs = 100.0
    assert budget.finals(0.0) == 100.0 + budget.fixed


def test_the_search_leaves_the_best_so_far_its_refit(leaderboard: Leaderboard) -> None:
    """A trial that is refitted faster must not take the time for it."""
    budget = leaderboard.budget
    leaderboard.store.note_trial("s", 3, seconds_again=80.0, seconds_test=2.0)
    leaderboard.reserve()
    assert budget.runs == leaderboard.for_finals(500.0) > 0
    assert budget.leader == pytest.approx(1.1 * budget.refit * 80 + 2)
    assert budget.finals(1.0) == budget.runs + budget.leader + budget.fixed
    assert budget.finals(100.0) > budget.finals(1.0)


@pytest.fixture
def leaderboard() -> Leaderboard:
    """Four complete trials: two linear probes, the second better, and two others."""
    store = Store("sqlite://")
    store.begin("s", {})
    facts: list[dict[str, Any]] = [
        {"probe": True, "default": True},
        {"probe": True},
        {"default": True, "seconds_again": 3.0, "seconds_test": 2.0},
        {},
    ]
    for number, (score, known) in enumerate(zip((0.5, 0.6, 0.7, 0.9), facts, strict=True)):
        store.begin_trial("s", number, {"head": {str(number): {}}}, 3)
        store.note_trial("s", number, **known)
        store.end_trial("s", number, "complete", score=score, seconds=10.0)
    return Leaderboard(store, "s", METRICS["accuracy"], Budget(1000.0))


def test_the_best_comes_first(leaderboard: Leaderboard) -> None:
    assert [row.number for row in leaderboard.ranked()] == [3, 2, 1, 0]
    lower = Leaderboard(leaderboard.store, "s", METRICS["log_loss"], leaderboard.budget)
    assert [row.number for row in lower.ranked()] == [0, 1, 2, 3]


def test_the_baselines_are_the_best_of_their_kind(leaderboard: Leaderboard) -> None:
    assert leaderboard.baselines() == {"linear_probes": [1, 0], "default_trial": 2}
    assert [row.number for row in leaderboard.finalists(1)] == [3, 2, 1]


def test_what_a_trial_would_take_again(leaderboard: Leaderboard) -> None:
    known, unknown = (leaderboard.ranked()[i] for i in (1, 0))
    assert (leaderboard.again(known), leaderboard.again(unknown)) == (3.0, 10.0)
    assert (leaderboard.test_seconds(known), leaderboard.test_seconds(unknown)) == (2.0, 0.0)
    assert leaderboard.finals_seconds(known) == leaderboard.budget.finals(3.0, 2.0)
