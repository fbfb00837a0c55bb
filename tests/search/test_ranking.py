"""How trials are ranked and compared."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from trial_rows import numbers, stored, trial

from autotl.scoring.intervals import wilson_interval
from autotl.search import ranking
from autotl.search.ranking import (
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
from autotl.store import (
    STATUSES,
    DataFacts,
    StudyFacts,
    TrialRow,
)
from autotl.store.rows import CONTRIBUTION_TYPE


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

FACTS = StudyFacts(data=DataFacts(independent_validation=100), metric="accuracy")


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    interval = validation_interval(trial(0, 0.9), FACTS)
    assert (interval.low, interval.high) == wilson_interval(0.9, 100)
    assert interval.low < interval.mean == 0.9 < interval.high


def test_the_stored_interval_of_a_score_is_used() -> None:
    row = trial(0, 0.3, facts={"low": 0.2, "high": 0.5})
    interval = validation_interval(row, StudyFacts(metric="log_loss", direction="minimize"))
    assert (interval.low, interval.mean, interval.high) == (0.2, 0.3, 0.5)


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
    by_run = ranking._scores_by_run(scores, contributions, runs)
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
    many = [trial(n) for n in range(ranking.FINALISTS + 2)]
    assert len(compare_on_validation(many, FACTS)) == ranking.FINALISTS


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


# ---------------------------------------------------------------- a fine-tuned trial is preferred


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
