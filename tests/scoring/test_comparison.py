"""Comparisons have their nominal error rates over many synthetic studies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotl.scoring import comparison
from autotl.scoring.comparison import Scores, Standing

FOLDS = 5
RATIO = 1 / (FOLDS - 1)
"""Validation images for each training image with this number of folds."""

NOISE = 0.02
"""The standard deviation of one run's accuracy."""


def compare_scores(scores: Scores, ratio: float, **options: Any) -> list[Standing]:
    """Compare as the final selection does.

    Args:
        scores: ``[k, runs]``.
        ratio: Validation images for each training image.
        options: Keyword arguments of ``comparison.compare_scores``.
    """
    return comparison.compare_scores(scores, 1 / scores.shape[1] + ratio, **options)


def synthetic_studies(
    count: int, k: int, runs: int, better: float = 0.0, noisy: int = 0
) -> NDArray[np.float64]:
    """Scores ``[count, k, runs]`` of candidates that are equal but for the first, ``better``.

    They are correlated as real ones are: a run that is easy for one candidate is easy for all, and
    a fraction of a candidate's variance persists, because the runs share images: the scores of one
    candidate correlate by the fraction of images that a run scores (Nadeau & Bengio 2003). The
    first ``noisy`` candidates have twice the noise of the others.
    """
    random = np.random.default_rng(count + 100 * k + runs)
    fraction = 1 / FOLDS
    run_effect = random.normal(size=(count, 1, runs))
    persistent = random.normal(size=(count, k, 1)) * fraction**0.5
    independent = random.normal(size=(count, k, runs)) * (1 - fraction) ** 0.5
    scale = np.where(np.arange(k) < noisy, 2.0, 1.0)[:, None]
    scores = 0.85 + NOISE * (1.5 * run_effect + scale * (persistent + independent))
    scores[:, 0] += better
    return scores


def standard_error(runs: int) -> float:
    """The standard error of a difference of two means."""
    fraction = 1 / FOLDS
    return NOISE * (2 * (fraction + (1 - fraction) / runs)) ** 0.5


def index_of_best(standings: list[Standing]) -> int:
    return int(np.argmax([standing.score.mean for standing in standings]))


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("k", [2, 4, 7])
def test_equal_candidates_are_tied_at_the_nominal_rate(k: int, runs: int) -> None:
    all_tied = [
        all(standing.tied for standing in compare_scores(scores, RATIO))
        for scores in synthetic_studies(800, k, runs)
    ]
    assert np.mean(all_tied) > 0.92  # 0.95 is nominal, with a standard error of 0.008
    assert np.mean(all_tied) < 0.98


@pytest.mark.parametrize("runs", [3, 10])
@pytest.mark.parametrize("k", [2, 7])
def test_equal_candidates_of_unequal_noise_are_tied(k: int, runs: int) -> None:
    studies = synthetic_studies(800, k, runs, noisy=1)
    assert np.mean([all(s.tied for s in compare_scores(m, RATIO)) for m in studies]) > 0.9


def test_uncorrected_tests_would_report_differences_between_equal_candidates() -> None:
    """Why the comparison corrects for shared images and for the number of candidates."""
    studies = synthetic_studies(800, 7, 10)
    uncorrected = [all(s.tied for s in compare_scores(m, ratio=0.0)) for m in studies]
    assert np.mean(uncorrected) < 0.5
    pairs = [
        compare_scores(m[[index_of_best(compare_scores(m, RATIO)), i]], RATIO)[1].tied
        for m in studies[:100]
        for i in range(7)
    ]
    assert np.mean(np.reshape(pairs, (-1, 7)).all(1)) < 0.8


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("k", [2, 4, 7])
def test_a_candidate_better_by_three_standard_errors_is_the_best(k: int, runs: int) -> None:
    studies = synthetic_studies(800, k, runs, better=3 * standard_error(runs))
    assert np.mean([index_of_best(compare_scores(m, RATIO)) == 0 for m in studies]) > 0.95


@pytest.mark.parametrize(("k", "runs"), [(3, 5), (5, 5), (7, 10)])
def test_a_candidate_better_by_five_standard_deviations_is_not_tied(k: int, runs: int) -> None:
    studies = synthetic_studies(300, k, runs, better=5 * NOISE)
    untied = [
        [s.tied for s in compare_scores(m, RATIO)] == [True] + [False] * (k - 1) for m in studies
    ]
    assert np.mean(untied) > 0.9


def test_the_interval_of_a_mean_covers_the_true_score() -> None:
    intervals = [compare_scores(m, RATIO)[0].score for m in synthetic_studies(800, 3, 5)]
    assert np.mean([s.low <= 0.85 <= s.high for s in intervals]) > 0.94


def test_a_difference_is_candidate_minus_best_within_its_interval() -> None:
    scores = np.array([[0.80, 0.82, 0.81], [0.90, 0.91, 0.92], [0.89, 0.92, 0.91]])
    low, best, near = compare_scores(scores, RATIO)
    assert best.score.mean == pytest.approx(0.91)
    assert best.difference.mean == 0.0
    assert low.difference.mean == pytest.approx(-0.10)
    assert (low.tied, best.tied, near.tied) == (False, True, True)
    for standing in (low, best, near):
        assert standing.difference.low < standing.difference.mean < standing.difference.high
        assert standing.tied == (standing.difference.low <= 0 <= standing.difference.high)
        assert standing.score.low < standing.score.mean < standing.score.high


def test_the_lowest_loss_is_the_best() -> None:
    scores = np.array([[0.50, 0.52, 0.51], [0.20, 0.21, 0.22]])
    high, low = compare_scores(scores, RATIO, higher_is_better=False)
    assert low.difference.mean == 0.0
    assert high.difference.mean == pytest.approx(0.30)
    assert not high.tied


def test_the_margin_is_tukeys_with_the_correction_for_shared_images() -> None:
    """By hand: three candidates in three runs, q(0.95; 3, 4) = 5.04 in every table."""
    scores = np.array([[0.1, 0.2, 0.6], [0.3, 0.2, 0.4], [0.2, 0.5, 0.2]])
    residuals = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
    expected = 5.04 * ((residuals**2).sum() / 4 * (1 / 3 + RATIO)) ** 0.5
    difference = compare_scores(scores, RATIO)[0].difference
    assert difference.high - difference.mean == pytest.approx(expected, rel=1e-3)


def test_the_best_is_selected_among_the_candidates_and_compared_with_all_rows() -> None:
    scores: Scores = np.array([[0.80, 0.81, 0.82], [0.79, 0.82, 0.80], [0.95, 0.96, 0.97]])
    standings = compare_scores(scores, RATIO, num_candidates=2)
    assert standings[0].difference.mean == 0.0
    assert standings[2].difference.mean == pytest.approx(0.15)
    assert not standings[2].tied
    to_second = compare_scores(scores, RATIO, num_candidates=2, reference=1)
    assert to_second[1].difference.mean == 0.0


def test_the_variance_is_at_least_that_of_rounding() -> None:
    """On 12 images one prediction makes 0.083: the same gap in two runs may be chance."""
    scores = np.array([[1.0, 1.0], [1 - 1 / 12, 1 - 1 / 12]])
    assert not compare_scores(scores, RATIO)[1].tied
    assert compare_scores(scores, RATIO, resolution=1 / 12)[1].tied
    assert all(standing.tied for standing in compare_scores(np.ones((3, 3)), RATIO))


def test_nested_selection_removes_selection_bias() -> None:
    studies = synthetic_studies(800, 7, 3)
    biased = np.mean([m.mean(1).max() for m in studies])
    nested = np.mean([comparison.nested_selection_score(m) for m in studies])
    # What persists for a candidate in all runs cannot be detected in them.
    persistent = NOISE * (1 / FOLDS) ** 0.5
    assert biased > 0.85 + 0.5 * NOISE
    assert nested < 0.85 + persistent
    assert nested < biased - 0.25 * NOISE
    losses = [comparison.nested_selection_score(-m, higher_is_better=False) for m in studies[:50]]
    assert losses == pytest.approx([-comparison.nested_selection_score(m) for m in studies[:50]])


@pytest.mark.parametrize(
    ("milliseconds", "parameters", "index"),
    [
        ([5.0, 2.0, 9.0], [1, 2, 3], 1),
        ([2.0, 2.1, 9.0], [5, 4, 1], 1),  # latencies within a tenth are equal; fewer parameters
        ([2.0, 2.3, 9.0], [5, 4, 1], 0),
        ([None, 3.0], [1, 9], 1),  # unknown counts as slowest
        ([None, None], [3, 2], 1),
        ([None, None], [None, None], 0),
        ([1.0, 1.0], [2, 2], 0),
    ],
)
def test_the_cheapest_has_the_lowest_latency_then_the_fewest_parameters(
    milliseconds: list[float | None], parameters: list[float | None], index: int
) -> None:
    assert comparison.index_of_cheapest(milliseconds, parameters) == index
