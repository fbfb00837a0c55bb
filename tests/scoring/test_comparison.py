"""Who is best and who is tied: right at the stated rates over many synthetic studies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotl.scoring import comparison
from autotl.scoring.comparison import Scores, Standing

FOLDS = 5
OVERLAP = 1 / (FOLDS - 1)
"""Of five folds: one scores for each four that train."""

NOISE = 0.02
"""The standard deviation of one run's accuracy."""


def compare_scores(scores: Scores, overlap: float, **more: Any) -> list[Standing]:
    """As the finals ask it, for runs that score so many pictures for each that trains."""
    return comparison.compare_scores(scores, 1 / scores.shape[1] + overlap, **more)


def studies(
    count: int, k: int, runs: int, better: float = 0.0, noisy: int = 0
) -> NDArray[np.float64]:
    """``[count, k, runs]`` scores of candidates that are equal but for the first, ``better``.

    They are correlated as real ones are: a run that is easy for one is easy for all, and what a
    candidate makes of these pictures stays with it, because the runs share them: scores of one
    candidate correlate by the share of pictures that a run scores (Nadeau & Bengio 2003). The
    first ``noisy`` candidates have twice the noise of the others.
    """
    random = np.random.default_rng(count + 100 * k + runs)
    share = 1 / FOLDS
    run = random.normal(size=(count, 1, runs))
    stays = random.normal(size=(count, k, 1)) * share**0.5
    own = random.normal(size=(count, k, runs)) * (1 - share) ** 0.5
    scale = np.where(np.arange(k) < noisy, 2.0, 1.0)[:, None]
    scores = 0.85 + NOISE * (1.5 * run + scale * (stays + own))
    scores[:, 0] += better
    return scores


def error(runs: int) -> float:
    """The standard error of a difference of two means."""
    share = 1 / FOLDS
    return NOISE * (2 * (share + (1 - share) / runs)) ** 0.5


def first(found: list[Standing]) -> int:
    return int(np.argmax([standing.score.mean for standing in found]))


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("k", [2, 4, 7])
def test_equals_are_called_tied(k: int, runs: int) -> None:
    tied = [
        all(standing.tied for standing in compare_scores(scores, OVERLAP))
        for scores in studies(800, k, runs)
    ]
    assert np.mean(tied) > 0.92  # 0.95 is meant, with a standard error of 0.008
    assert np.mean(tied) < 0.98


@pytest.mark.parametrize("runs", [3, 10])
@pytest.mark.parametrize("k", [2, 7])
def test_equals_of_unequal_noise_are_called_tied(k: int, runs: int) -> None:
    scores = studies(800, k, runs, noisy=1)
    assert np.mean([all(s.tied for s in compare_scores(m, OVERLAP)) for m in scores]) > 0.9


def test_plain_t_tests_would_find_differences_that_are_not_there() -> None:
    """Why the runs' common pictures and the number of candidates are reckoned with."""
    scores = studies(800, 7, 10)
    naive = [all(s.tied for s in compare_scores(m, overlap=0.0)) for m in scores]
    assert np.mean(naive) < 0.5
    pairs = [
        compare_scores(m[[first(compare_scores(m, OVERLAP)), i]], OVERLAP)[1].tied
        for m in scores[:100]
        for i in range(7)
    ]
    assert np.mean(np.reshape(pairs, (-1, 7)).all(1)) < 0.8


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("k", [2, 4, 7])
def test_one_that_is_better_by_three_standard_errors_is_found(k: int, runs: int) -> None:
    scores = studies(800, k, runs, better=3 * error(runs))
    assert np.mean([first(compare_scores(m, OVERLAP)) == 0 for m in scores]) > 0.95


@pytest.mark.parametrize(("k", "runs"), [(3, 5), (5, 5), (7, 10)])
def test_one_that_is_better_in_every_run_wins_alone(k: int, runs: int) -> None:
    """Five standard deviations of one run: the others are no longer tied with it."""
    scores = studies(300, k, runs, better=5 * NOISE)
    alone = [
        [s.tied for s in compare_scores(m, OVERLAP)] == [True] + [False] * (k - 1) for m in scores
    ]
    assert np.mean(alone) > 0.9


def test_the_interval_of_a_mean_holds_the_truth() -> None:
    scores = studies(800, 3, 5)
    found = [compare_scores(m, OVERLAP)[0].score for m in scores]
    covered = np.mean([s.low <= 0.85 <= s.high for s in found])
    assert covered > 0.94


def test_a_difference_is_candidate_minus_best_and_its_interval_is_around_it() -> None:
    scores = np.array([[0.80, 0.82, 0.81], [0.90, 0.91, 0.92], [0.89, 0.92, 0.91]])
    low, best, near = compare_scores(scores, OVERLAP)
    assert best.score.mean == pytest.approx(0.91)
    assert best.difference.mean == 0.0
    assert low.difference.mean == pytest.approx(-0.10)
    assert (low.tied, best.tied, near.tied) == (False, True, True)
    for standing in (low, best, near):
        assert standing.difference.low < standing.difference.mean < standing.difference.high
        assert standing.tied == (standing.difference.low <= 0 <= standing.difference.high)
        assert standing.score.low < standing.score.mean < standing.score.high


def test_losses_are_better_when_lower() -> None:
    scores = np.array([[0.50, 0.52, 0.51], [0.20, 0.21, 0.22]])
    high, low = compare_scores(scores, OVERLAP, higher_is_better=False)
    assert low.difference.mean == 0.0
    assert high.difference.mean == pytest.approx(0.30)
    assert not high.tied


def test_the_margin_is_tukeys_with_the_correction_for_overlap() -> None:
    """By hand: three candidates in three runs, q(0.95; 3, 4) = 5.04 in every table."""
    scores = np.array([[0.1, 0.2, 0.6], [0.3, 0.2, 0.4], [0.2, 0.5, 0.2]])
    noise = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
    expected = 5.04 * ((noise**2).sum() / 4 * (1 / 3 + OVERLAP)) ** 0.5
    difference = compare_scores(scores, OVERLAP)[0].difference
    assert difference.high - difference.mean == pytest.approx(expected, rel=1e-3)


def test_what_is_made_of_the_others_is_judged_beside_them() -> None:
    scores: Scores = np.array([[0.80, 0.81, 0.82], [0.79, 0.82, 0.80], [0.95, 0.96, 0.97]])
    found = compare_scores(scores, OVERLAP, rivals=2)
    assert found[0].difference.mean == 0.0
    assert found[2].difference.mean == pytest.approx(0.15)
    assert not found[2].tied


def test_no_noise_at_all_is_not_believed() -> None:
    """On 12 pictures one answer makes 0.083: two runs with the same gap may be luck."""
    scores = np.array([[1.0, 1.0], [1 - 1 / 12, 1 - 1 / 12]])
    assert not compare_scores(scores, OVERLAP)[1].tied
    assert compare_scores(scores, OVERLAP, step=1 / 12)[1].tied
    same = compare_scores(np.ones((3, 3)), OVERLAP)
    assert all(standing.tied for standing in same)


def test_choosing_on_other_runs_takes_the_flattery_away() -> None:
    scores = studies(800, 7, 3)
    picked = np.mean([m.mean(1).max() for m in scores])
    elsewhere = np.mean([comparison.nested_selection_score(m) for m in scores])
    lasting = (
        NOISE * (1 / FOLDS) ** 0.5
    )  # what a candidate keeps in all runs cannot be seen in them
    assert picked > 0.85 + 0.5 * NOISE
    assert elsewhere < 0.85 + lasting
    assert elsewhere < picked - 0.25 * NOISE
    losses = [comparison.nested_selection_score(-m, higher_is_better=False) for m in scores[:50]]
    assert losses == pytest.approx([-comparison.nested_selection_score(m) for m in scores[:50]])


@pytest.mark.parametrize(
    ("milliseconds", "parameters", "place"),
    [
        ([5.0, 2.0, 9.0], [1, 2, 3], 1),
        ([2.0, 2.1, 9.0], [5, 4, 1], 1),  # times within a tenth are the same; fewer parameters
        ([2.0, 2.3, 9.0], [5, 4, 1], 0),
        ([None, 3.0], [1, 9], 1),  # unknown is dear
        ([None, None], [3, 2], 1),
        ([None, None], [None, None], 0),
        ([1.0, 1.0], [2, 2], 0),
    ],
)
def test_the_cheapest(
    milliseconds: list[float | None], parameters: list[float | None], place: int
) -> None:
    assert comparison.index_of_cheapest(milliseconds, parameters) == place
