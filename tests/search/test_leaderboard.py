"""How trials are ranked and compared, and that the leaderboard reads each of them once."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from autotl.scoring.intervals import wilson_interval
from autotl.scoring.metrics import METRICS
from autotl.search import leaderboard, trial_budget
from autotl.search.leaderboard import (
    PASSING,
    Leaderboard,
    baselines,
    compare_on_validation,
    contender,
    distinct,
    finalists,
    is_fine_tuned,
    rank,
    search_winner,
    validation_interval,
)
from autotl.search.portfolio import Portfolio
from autotl.store import (
    STATUSES,
    DataFacts,
    Store,
    StudyFacts,
    TrialFacts,
    TrialRow,
)
from autotl.store.rows import CONTRIBUTION_TYPE

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def trial(number: int, score: float | None = 0.5, **changes: Any) -> TrialRow:
    """A complete trial with a configuration of its own; ``facts`` are those of ``TrialFacts``."""
    facts = TrialFacts(**changes.pop("facts", {}))
    row = TrialRow(
        number, "complete", "", {"head": {str(number): {}}}, score, 3, 100, 10, 7.5, NOW, facts
    )
    return replace(row, **changes)


def numbers(rows: list[TrialRow]) -> list[int]:
    return [row.number for row in rows]


# ---------------------------------------------------------------- ranking


def test_the_best_trial_comes_first() -> None:
    rows = [trial(n, score) for n, score in enumerate((0.5, 0.6, 0.7, 0.9))]
    assert numbers(rank(rows, "maximize")) == [3, 2, 1, 0]
    assert numbers(rank(rows, "minimize")) == [0, 1, 2, 3]


def test_of_equal_scores_the_smaller_model_comes_first() -> None:
    rows = [
        trial(0, parameters=None, trained_parameters=None),
        trial(1, parameters=200, trained_parameters=5),
        trial(2, parameters=100, trained_parameters=20),
        trial(3, parameters=100, trained_parameters=10),
        trial(4, parameters=100, trained_parameters=10),
        trial(5, parameters=100, trained_parameters=None),
    ]
    for direction in ("maximize", "minimize"):
        for _ in range(5):
            assert numbers(rank(rows, direction)) == [3, 4, 2, 5, 1, 0]
            random.Random(0).shuffle(rows)


def test_a_trial_without_all_folds_comes_last() -> None:
    rows = [trial(n, 0.9 - n / 10, facts={"folds": count}) for n, count in enumerate((2, 5, 5))]
    assert numbers(rank(rows, "maximize")) == [1, 2, 0]
    assert numbers(rank(rows, "minimize")) == [2, 1, 0]


def test_only_complete_trials_within_the_limits_are_ranked() -> None:
    rows = [trial(n, None, status=status) for n, status in enumerate(STATUSES) if n != 1]
    rows += [trial(20, facts={"excluded": "too large"}), trial(21)]
    assert numbers(rank(rows, "maximize")) == [21]


def test_configurations_that_are_equal_count_once() -> None:
    rows = [trial(0), trial(1), trial(2, config=trial(0).config), trial(3)]
    assert numbers(distinct(rows)) == [0, 1, 3]
    assert numbers(distinct(rows, 2)) == [0, 1]
    assert distinct([]) == []


def test_a_trial_as_a_contender() -> None:
    row = trial(7, 0.9, facts={"ms_per_item": 1.5})
    one = contender(row, "default_recipe")
    assert (one.name, one.trials, one.role) == ("trial 7", (7,), "default_recipe")
    assert (one.config, one.parameters, one.ms_per_item) == (row.config, 100, 1.5)
    assert (one.scores, one.seconds, one.standing) == ((0.9,), 7.5, None)
    assert contender(trial(7, None)).scores == ()


# ---------------------------------------------------------------- baselines and finalists

BASELINES = [
    trial(3, 0.9),
    trial(2, 0.7, facts={"is_default": True}),
    trial(4, 0.65, facts={"is_default": True}),
    trial(1, 0.6, facts={"is_probe": True}),
    trial(0, 0.5, facts={"is_probe": True, "is_default": True}),
]


def test_the_baselines_are_the_best_of_their_kind() -> None:
    assert baselines(BASELINES) == {2: "default_recipe", 1: "linear_probe"}
    assert baselines(BASELINES[:1]) == {}
    # A probe is not the default recipe, though its recipe is a well-known one.
    assert baselines([BASELINES[-1]]) == {0: "linear_probe"}


def test_the_finalists_are_the_best_trials_and_the_baselines() -> None:
    def roles(count: int, **options: bool) -> dict[int, str]:
        return {c.lead: c.role for c in finalists(BASELINES, count, **options)}

    default, probe = {2: "default_recipe"}, {1: "linear_probe"}
    assert roles(1) == {3: "finalist", **default, **probe}
    assert list(roles(1)) == [3, 2, 1]
    assert roles(3) == {3: "finalist", **default, 4: "finalist", **probe}
    assert roles(1, default=False) == {3: "finalist", **probe}
    assert roles(2, default=False) == {3: "finalist", **default, **probe}
    assert roles(9) == {**roles(3), 0: "linear_probe"}
    assert finalists([], 3) == []


def test_a_baseline_whose_configuration_is_a_finalists_takes_part_once() -> None:
    rows = [trial(0), trial(1, config=trial(0).config, facts={"is_probe": True}), trial(2)]
    assert [c.lead for c in finalists(rows, 1)] == [0]
    assert [c.lead for c in finalists(rows, 5)] == [0, 2]


# ---------------------------------------------------------------- comparison on one split

FACTS = StudyFacts(data=DataFacts(independent_validation=100))


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    interval = validation_interval(trial(0, 0.9), FACTS)
    assert (interval.low, interval.high) == wilson_interval(0.9, 100)
    assert interval.low < interval.mean == 0.9 < interval.high


def test_the_stored_interval_of_a_score_is_used() -> None:
    row = trial(0, 0.3, facts={"low": 0.2, "high": 0.5})
    interval = validation_interval(row, StudyFacts(metric="log_loss", direction="minimize"))
    assert (interval.low, interval.mean, interval.high) == (0.2, 0.3, 0.5)


def stored(values: Any) -> bytes:
    """Contributions as the store has them."""
    return np.asarray(values, CONTRIBUTION_TYPE).tobytes()


def test_trials_are_compared_by_their_predictions() -> None:
    """Two trials of one score: one is wrong where the best is, the other on other images."""
    best = np.ones(100)
    best[:10] = 0
    alike, other, worse = best.copy(), np.ones(100), best.copy()
    alike[10] = worse[10:25] = 0
    other[-11:] = 0
    rows = [
        trial(number, values.mean(), contributions=stored(values))
        for number, values in enumerate((best, alike, other, worse))
    ]
    standings = [c.standing for c in compare_on_validation(rows, FACTS) if c.standing]
    assert [s.tied for s in standings] == [True, True, True, False]
    widths = [s.difference.high - s.difference.low for s in standings]
    assert widths[0] == 0 < 2 * widths[1] < widths[2]
    losses = StudyFacts(metric="log_loss", direction="minimize", data=FACTS.data)
    rows = [
        trial(number, float(np.mean(values)), contributions=stored(values))
        for number, values in enumerate((best, 1.01 * best, 2 * best))
    ]
    ties = [c.standing.tied for c in compare_on_validation(rows, losses) if c.standing]
    assert ties == [True, True, False]


def simulate_folds(
    random: np.random.Generator, accuracies: list[float], facts: StudyFacts
) -> list[tuple[float, bool]]:
    """Scores of cross-validated trials, and whether each is tied; the best one comes first."""
    folds = np.array(facts.unit_folds)
    rows = []
    hard = random.normal(size=len(folds))  # the same images are hard for all
    for number, accuracy in enumerate(accuracies):
        of_fold = random.normal(0, 0.02, folds.max() + 1)[folds]  # the noise of training
        own = 0.6 * hard + 0.8 * random.normal(size=len(folds))
        right = own < NormalDist().inv_cdf(accuracy) + of_fold
        contributions = right.astype(CONTRIBUTION_TYPE).tobytes()
        rows.append(trial(number, float(right.mean()), contributions=contributions))
    compared = compare_on_validation(rank(rows, "maximize"), facts)
    return [(c.mean, c.standing.tied) for c in compared if c.standing]


def test_folds_are_compared_like_repeats() -> None:
    facts = StudyFacts(unit_folds=[n % 5 for n in range(120)])
    random = np.random.default_rng(0)
    equal = [simulate_folds(random, [0.85] * 4, facts) for _ in range(300)]
    assert np.mean([all(tied for _, tied in each) for each in equal]) >= 0.93
    scores = [score for each in equal for score, _ in each]
    assert all(each[0][0] == max(score for score, _ in each) for each in equal)
    assert 0.8 < np.mean(scores) < 0.9
    better = [simulate_folds(random, [0.85, 0.6], facts) for _ in range(100)]
    assert np.mean([not each[1][1] for each in better]) >= 0.9


def test_the_scores_of_folds_have_the_score_as_their_mean() -> None:
    runs = np.array([0, 0, 0, 1, 1, 2])
    contributions = np.array([[1.0, 0, 1, 1, 0, 1], [0.0, 0, 1, 1, 1, 1]])
    scores = contributions.mean(1, keepdims=True)
    by_run = leaderboard._scores_by_run(scores, contributions, runs)
    np.testing.assert_allclose(by_run.mean(1), scores[:, 0])
    assert by_run[0, 2] > by_run[0, 1]  # 1 of 1 and 1 of 2


@pytest.mark.parametrize("facts", [StudyFacts(), StudyFacts(metric="log_loss", data=FACTS.data)])
def test_other_scores_have_an_interval_without_width(facts: StudyFacts) -> None:
    interval = validation_interval(trial(0, 0.9), facts)
    assert (interval.low, interval.mean, interval.high) == (0.9, 0.9, 0.9)


def test_trials_are_tied_when_their_interval_contains_the_best_score() -> None:
    rows = [trial(0, 0.90), trial(1, 0.88), trial(2, 0.88, config=trial(1).config), trial(3, 0.7)]
    compared = compare_on_validation(rows, FACTS)
    standings = [c.standing for c in compared if c.standing]
    assert [c.lead for c in compared] == [0, 1, 3]
    assert [s.tied for s in standings] == [True, True, False]
    scores = [validation_interval(rows[number], FACTS) for number in (0, 1, 3)]
    assert [s.score for s in standings] == scores
    difference, score = standings[2].difference, standings[2].score
    assert difference.mean == pytest.approx(-0.2)
    assert difference.low == pytest.approx(score.low - 0.9)
    assert difference.high == pytest.approx(score.high - 0.9)
    assert [c.lead for c in compare_on_validation(rows, FACTS, 2)] == [0, 1]
    assert compare_on_validation([], FACTS) == []
    many = [trial(n) for n in range(leaderboard.FINALISTS + 2)]
    assert len(compare_on_validation(many, FACTS)) == leaderboard.FINALISTS


def test_the_winner_of_a_search_is_the_best_or_the_smallest_that_is_tied() -> None:
    rows = [
        trial(0, 0.90, parameters=500),
        trial(1, 0.88, parameters=200, trained_parameters=15),
        trial(2, 0.87, parameters=200, trained_parameters=5),
        trial(3, 0.70, parameters=10),
    ]
    assert search_winner(rows, FACTS).number == 0
    cheap = FACTS.model_copy(update={"prefer": "cheap"})
    assert search_winner(rows, cheap).number == 2
    assert search_winner(rows[:1], cheap).number == 0
    # Without an interval nothing is tied with the best but itself.
    assert search_winner(rows, StudyFacts(prefer="cheap")).number == 0


# ---------------------------------------------------------------- the leaderboard of a study


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


# ---------------------------------------------------------------- a fine-tuned trial is preferred

FACTS = StudyFacts(data=DataFacts(independent_validation=100), metric="accuracy")


def with_predictions(number: int, correct: int, frozen: bool, shift: int = 0) -> TrialRow:
    """A trial that is right about ``correct`` of 100 examples, the first ones but ``shift``."""
    right = np.roll(np.arange(100) < correct, shift).astype(CONTRIBUTION_TYPE)
    row = trial(number, correct / 100, facts={"backbone_frozen": frozen})
    return replace(row, contributions=right.tobytes())


@pytest.mark.parametrize(("tuned", "winner"), [(85, 2), (84, 2), (60, 1)])
def test_a_fine_tuned_trial_within_a_standard_error_is_preferred(tuned: int, winner: int) -> None:
    rows = [with_predictions(1, 86, True), with_predictions(2, tuned, False, shift=10)]
    assert search_winner(rows, FACTS).number == winner


def test_among_fine_tuned_trials_the_best_one_wins() -> None:
    rows = [with_predictions(1, 86, False), with_predictions(2, 85, False, shift=10)]
    assert search_winner(rows, FACTS).number == 1
    frozen = [with_predictions(1, 86, True), with_predictions(2, 85, True, shift=10)]
    assert search_winner(frozen, FACTS).number == 1
    cheap = FACTS.model_copy(update={"prefer": "cheap"})
    both = [with_predictions(1, 86, True), with_predictions(2, 85, False, shift=10)]
    both[0] = replace(both[0], parameters=10)
    assert search_winner(both, cheap).number == 1


def test_the_winner_is_compared_whatever_its_rank() -> None:
    rows = [trial(n, 0.9 - n / 100) for n in range(8)]
    compared = compare_on_validation(rows, FACTS, 3, including=7)
    assert [c.lead for c in compared] == [0, 1, 7]
    assert [c.lead for c in compare_on_validation(rows, FACTS, 3, including=1)] == [0, 1, 2]


def test_a_trial_of_an_older_version_is_fine_tuned_if_it_trained_more_than_a_head() -> None:
    assert is_fine_tuned(trial(1, parameters=1000, trained_parameters=500))
    assert not is_fine_tuned(trial(1, parameters=1000, trained_parameters=50))
    assert not is_fine_tuned(trial(1, parameters=None, trained_parameters=None))
    same = [trial(1, 0.9), trial(2, 0.9, facts={"backbone_frozen": False})]
    same[1] = replace(same[1], config=same[0].config)
    assert search_winner(same, FACTS).number == 1


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
    few = leaderboard.Representatives(lambda row: leaderboard.rank_key(row, "maximize"))
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
