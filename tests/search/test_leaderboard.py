"""The leaderboard reads each trial once, and what is tried next depends on few of them."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from trial_rows import numbers, stored, trial

from autotl.scoring.metrics import METRICS
from autotl.search import ranking, trial_budget
from autotl.search.leaderboard import Leaderboard, Representatives
from autotl.search.portfolio import Portfolio
from autotl.search.ranking import (
    PASSING,
    rank,
)
from autotl.store import (
    STATUSES,
    Store,
    TrialFacts,
    TrialRow,
)


@pytest.fixture
def store() -> Store:
    store = Store("sqlite://")
    store.begin_study("s")
    return store


def state(board: Leaderboard) -> tuple[Any, ...]:
    # Failed trials count in the run that they are of, and in no later one.
    failed = [
        n for n, row in board.rows.items() if row.status == "failed" and n >= board.first_trial
    ]
    counts = board.finished - len(failed), board.interrupted
    return board.rows, board.ranked, board.best, board.recipes, counts


def finish(store: Store, number: int, status: str, score: float | None) -> None:
    store.finish_trial("s", number, status, score=score if status == "complete" else None)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("seed", range(3))
def test_a_leaderboard_in_step_equals_a_new_one(store: Store, metric: str, seed: int) -> None:
    dice, running = random.Random(seed), list[int]()
    board = Leaderboard(store, "s", METRICS[metric])
    number = 0
    for _ in range(40):
        if dice.random() < 0.6 or not running:
            recipe = dice.choice([["a", "b"], ["a", "c"], []])
            facts = TrialFacts(recipe=recipe)
            store.begin_trial("s", number, {"head": {str(number % 7): {}}}, 3, facts)
            running.append(number)
            number += 1
        else:
            one = running.pop(dice.randrange(len(running)))
            parameters = {"parameters": dice.choice([100, 200])}
            store.update_trial("s", one, parameters, is_probe=dice.random() < 0.3)
            status = dice.choice(["complete"] * 5 + ["pruned", "interrupted", "failed"])
            finish(store, one, status, dice.choice([0.5, 0.6, 0.7]))
        board.refresh()
        fresh = Leaderboard(store, "s", METRICS[metric])
        assert state(board) == state(fresh)
        assert board.finalists(3) == fresh.finalists(3)
        assert board.ranked == rank(store.trials("s"), METRICS[metric].direction)


def test_the_leaderboard_counts_trials(store: Store) -> None:
    board = Leaderboard(store, "s", METRICS["accuracy"])
    for number, status in enumerate(STATUSES):
        store.begin_trial("s", number, {}, 3)
        if status != "running":
            finish(store, number, status, 0.5)
    board.refresh()
    assert (board.finished, board.interrupted) == (len(STATUSES) - 2, 1)
    assert board.best == board.rows[STATUSES.index("complete")]
    later = Leaderboard(store, "s", METRICS["accuracy"])
    assert later.first_trial == len(STATUSES)
    assert later.finished == board.finished - len(PASSING)


def test_trials_of_several_workers(store: Store) -> None:
    board = Leaderboard(store, "s", METRICS["accuracy"])
    for number, worker in enumerate((1, 2, 2)):
        store.begin_trial("s", number, {}, 3, worker=worker)
    finish(store, 1, "complete", 0.5)
    board.refresh()
    assert {number: row.worker for number, row in board.running.items()} == {0: 1, 2: 2}
    assert [row.number for row in board.take_news()] == [1]
    assert board.take_news() == []
    joined = Leaderboard(store, "s", METRICS["accuracy"], first_trial=0)
    assert (joined.first_trial, joined.take_news()) == (0, [])
    finish(store, 0, "failed", 0.0)
    joined.refresh()
    assert joined.finished == 2, "a trial of this run that failed is not tried again"


def test_a_trial_that_waited_to_be_retried_begins_after_one_with_a_larger_number(
    store: Store,
) -> None:
    board = Leaderboard(store, "s", METRICS["accuracy"])
    for number in (0, 3, 1):
        store.begin_trial("s", number, {}, 3)
        finish(store, number, "complete", number / 10)
        board.refresh()
        assert number in board.rows
    later = Leaderboard(store, "s", METRICS["accuracy"])
    assert later.first_trial == 4
    store.begin_trial("s", 2, {}, 3)
    later.refresh()
    assert (list(later.running), numbers(later.ranked)) == ([2], [3, 1, 0])


def test_an_empty_leaderboard(store: Store) -> None:
    board = Leaderboard(store, "s", METRICS["accuracy"])
    assert state(board) == ({}, [], None, {}, (0, 0))
    assert board.finalists(3) == []


def test_a_refresh_reads_new_and_unfinished_trials_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        store.begin_trial("s", number, {}, 3)
        if number != 4:
            finish(store, number, "complete", 0.5)
    board = Leaderboard(store, "s", METRICS["accuracy"])
    statements: list[str] = []
    engine = store.storage.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    read: list[int] = []
    real = store.trials

    def trials(*arguments: Any) -> list[TrialRow]:
        rows = real(*arguments)
        read.extend(numbers(rows))
        return rows

    monkeypatch.setattr(store, "trials", trials)
    board.refresh()
    assert (read, len(statements)) == ([4], 1)
    store.begin_trial("s", 20, {}, 3)
    store.begin_trial("s", 21, {}, 3)
    finish(store, 4, "failed", None)
    finish(store, 20, "complete", 0.9)
    read.clear()
    board.refresh()
    assert read == [4, 20, 21]
    read.clear()
    board.refresh()
    assert read == [21]
    assert board.best == board.rows[20]


def random_trials(count: int) -> list[TrialRow]:
    """Trials of three backbones, three strategies and two heads, with what was measured of each."""
    rng = random.Random(0)
    sizes = {"a": 100, "b": 30, "c": 10}
    rows = []
    for number in range(count):
        backbone, freeze, head = rng.choice("abc"), rng.choice("pqr"), rng.choice("lm")
        facts: dict[str, Any] = {"backbone_frozen": freeze == "p"}
        if rng.random() < 0.8:
            facts["ms_per_item"] = sizes[backbone] / 10
            facts["costs"] = {"backward_ms": 0.0 if freeze == "p" else rng.uniform(1, 9)}
        if rng.random() < 0.1:
            facts["logme"] = float(sizes[backbone])
        config = {"backbone": {backbone: {}}, "freeze": {freeze: {}}, "head": {head: {}}}
        score = round(rng.uniform(0.5, 0.9), 2)
        row = trial(number, score, config=config, parameters=sizes[backbone], facts=facts)
        rows.append(replace(row, contributions=stored(np.arange(100) < 100 * score)))
    return rows


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_the_next_trial_is_the_same_by_the_representatives_as_by_all_trials(count: int) -> None:
    ranked = rank(random_trials(count), "maximize")
    few = Representatives(lambda row: ranking.rank_key(row, "maximize"))
    for row in ranked:
        few.add(row)
    chosen = few.ranked()
    assert chosen == [row for row in ranked if row in chosen]
    assert len(chosen) <= min(count, 4 * 18)
    plugins = {
        kind: tuple(SimpleNamespace(name=name) for name in names)
        for kind, names in (("backbone", "abc"), ("freeze", "pqr"), ("head", "lm"))
    }
    space: Any = SimpleNamespace(
        plugins=plugins, default_order=lambda kind: [plugin.name for plugin in plugins[kind]]
    )
    portfolio = Portfolio(space, dict)
    assert portfolio._promising(chosen) == portfolio._promising(ranked)
    assert trial_budget.fewest_epochs(9, chosen) == trial_budget.fewest_epochs(9, ranked)
    for backbone in "abc":
        for freeze in "qrs":
            config = {"backbone": {backbone: {}}, "freeze": {freeze: {}}}
            by_few, by_all = (
                trial_budget._predict_backward_ms(config, rows) for rows in (chosen, ranked)
            )
            assert by_few == by_all
