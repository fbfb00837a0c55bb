"""Comparisons have their nominal error rates over many synthetic studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotl.scoring import comparison
from autotl.scoring.comparison import Comparison, Results, Scores, Standing, compare

IMAGES = 200
"""In each run."""

NOISE = 0.005
"""The standard deviation of an accuracy between trainings."""


def synthetic_study(
    random: np.random.Generator,
    k: int,
    runs: int,
    better: float = 0.0,
    *,
    best: int = 1,
    noise: float = NOISE,
    group: int = 1,
) -> Results:
    """Results of candidates with an accuracy of 0.85; the first ``best`` are better by ``better``.

    What is hard for one candidate is mostly hard for the others, and a training moves the accuracy
    of a candidate in a run. The images of a ``group`` are copies of one image.
    """
    limits = np.full((k, 1, 1), 0.85) + random.normal(0, noise, (k, runs, 1))
    limits[:best] += better
    units = IMAGES // group
    # Uniform ranks: with a probability of 0.8, a candidate has that of the image.
    common = random.random((1, runs, units))
    own = np.where(random.random((k, runs, units)) < 0.8, common, random.random((k, runs, units)))
    correct = (own < limits).repeat(group, axis=2).astype(np.float64)
    evaluations = np.arange(runs * units).repeat(group)
    return Results(
        correct.mean(2), correct.reshape(k, -1), np.arange(runs).repeat(IMAGES), evaluations
    )


def ties(comparison: Comparison) -> list[bool]:
    return [standing.tied for standing in comparison.standings]


def rate_of_ties(wanted: Sequence[bool], studies: int, **options: Any) -> float:
    """How often exactly these candidates are tied."""
    random = np.random.default_rng(len(wanted))
    compared = [
        ties(compare(synthetic_study(random, len(wanted), **options))) for _ in range(studies)
    ]
    return float(np.mean([each == list(wanted) for each in compared]))


@pytest.mark.parametrize("noise", [0.0, NOISE, 2 * NOISE])
@pytest.mark.parametrize("runs", [1, 2, 5])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_equal_candidates_are_tied(k: int, runs: int, noise: float) -> None:
    rate = rate_of_ties([True] * k, 300, runs=runs, noise=noise)
    # 0.95 is nominal, with a standard error of 0.013; one more wrong prediction makes it higher.
    assert rate > 0.91


@pytest.mark.parametrize("k", [4, 7])
def test_the_best_of_several_groups_of_candidates_are_tied(k: int) -> None:
    """Steps after the first must not exclude one of two best candidates."""
    random = np.random.default_rng(0)
    kept = [
        all(ties(compare(synthetic_study(random, k, 3, better=gap, best=2)))[:2])
        for gap in (0.02, 0.04, 0.06)
        for _ in range(200)
    ]
    assert np.mean(kept) > 0.93


@pytest.mark.parametrize(("k", "runs", "minimum"), [(2, 5, 0.9), (3, 5, 0.9), (5, 3, 0.6)])
def test_a_candidate_better_by_five_points_is_alone(k: int, runs: int, minimum: float) -> None:
    wanted = [True] + [False] * (k - 1)
    assert rate_of_ties(wanted, 200, runs=runs, better=0.05) > minimum


def test_copies_of_images_are_no_evidence() -> None:
    """As many images, but only a quarter as many different ones."""
    assert rate_of_ties([True] * 3, 300, runs=3, group=4) > 0.91
    random, ratios = np.random.default_rng(0), []
    for _ in range(50):
        study = synthetic_study(random, 3, 3, group=4)
        images = np.arange(len(study.units))
        separate = compare(Results(study.scores, study.contributions, study.runs, images))
        ratios.append(half_width(compare(study).standings) / half_width(separate.standings))
    assert np.median(ratios) > 1.5  # less than 2, because runs differ more than images explain


def test_no_mean_is_beyond_the_scores() -> None:
    """A run of one candidate says nothing about the others."""
    scores = np.full((4, 3), np.nan)
    scores[:, :2] = [[0.917, 1.0], [1.0, 1.0], [1.0, 0.95], [0.9, 1.0]]
    scores[0, 2] = 1.0
    assert comparison.additive_means(scores) == pytest.approx(scores[:, :2].mean(1))
    scores[1:, 1] = np.nan
    means = comparison.additive_means(scores)
    assert ((means >= 0.9) & (means <= 1.0)).all()


def half_width(standings: Sequence[Standing]) -> float:
    """The widest margin of a difference."""
    return max(s.difference.high - s.difference.mean for s in standings)


def test_noise_between_trainings_widens_intervals() -> None:
    random = np.random.default_rng(0)
    widths, variances = [], []
    for noise in (0.0, 0.04):
        compared = [compare(synthetic_study(random, 3, 5, noise=noise)) for _ in range(100)]
        widths.append(np.median([half_width(c.standings) for c in compared]))
        variances.append(np.median([c.standings[0].training_variance for c in compared]))
    assert widths[1] > 1.7 * widths[0]
    # The variance of a mean of five runs, shrunk to what is usual.
    assert 0.4 < variances[1] / (0.04**2 / 5) < 1
    assert variances[0] < 0.1 * variances[1]


def unstable_study(random: np.random.Generator, accuracies: Sequence[float]) -> Results:
    """Five runs of forty images; the accuracy of the last candidate is anything in each run."""
    limits = np.repeat(np.array(accuracies)[:, None, None], 5, axis=1)
    limits[-1, :, 0] = random.permutation(np.linspace(0.1, 1.0, 5))
    correct = (random.random((len(accuracies), 5, 40)) < limits).astype(np.float64)
    runs = np.arange(5).repeat(40)
    return Results(correct.mean(2), correct.reshape(len(accuracies), -1), runs, np.arange(200))


def test_an_unstable_candidate_does_not_hide_what_is_known_about_the_others() -> None:
    """A candidate that loses all runs is not tied because of the noise of another one."""
    random = np.random.default_rng(0)
    studies = [unstable_study(random, [1.0, 0.98, 0.75, 0.55]) for _ in range(50)]
    compared = [compare(study) for study in studies]
    assert np.mean([ties(c)[2] for c in compared]) < 0.1
    # The noise of the pair of stable candidates is that of a study without the unstable one.
    for study, each in zip(studies[:10], compared, strict=False):
        stable = Results(study.scores[:3], study.contributions[:3], study.runs, study.units)
        alone = compare(stable).standings[2].difference
        both = each.standings[2].difference
        assert (both.high - both.mean) / (alone.high - alone.mean) < 1.3
    # That of the unstable one is its own, in its differences and in its mean.
    margins = [c.standings[3].difference for c in compared]
    assert np.median([m.high - m.mean for m in margins]) > 0.4
    variances = np.array([[s.training_variance for s in c.standings] for c in compared])
    assert np.median(variances[:, 3] / variances[:, 0].clip(1e-4)) > 20


def test_unequal_noise_is_rarely_seen_where_there_is_none() -> None:
    random = np.random.default_rng(1)
    factors = [
        {s.training_variance for s in compare(synthetic_study(random, 4, 5)).standings}
        for _ in range(300)
    ]
    assert np.mean([len(each) > 1 for each in factors]) < 0.08


def test_simultaneous_intervals_contain_the_differences() -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        study = synthetic_study(random, 4, 5, better=0.02)
        standings = compare(study, reference=0).standings[1:]
        covered.append(all(s.difference.low <= -0.02 <= s.difference.high for s in standings))
    assert np.mean(covered) > 0.93


def by_hand(scores: NDArray[np.float64], **options: Any) -> list[Standing]:
    """Compare candidates whose errors in runs of ten images are on different images."""
    k, runs = scores.shape
    contributions = np.ones((k, runs, 10))
    for i in range(k):
        for run in range(runs):
            contributions[i, run, : round(10 * (1 - scores[i, run]))] = 0
    results = Results(
        scores, contributions.reshape(k, -1), np.arange(runs).repeat(10), np.arange(10 * runs)
    )
    return compare(results, **options).standings


def test_the_margin_by_hand() -> None:
    """Two candidates in two runs of ten images that differ in one image of each.

    The variance of a difference between images is 0.09 in each run, so that of the mean difference
    is 2 * 10 * 0.09 / 20**2 * 20 / 19 plus 1 / 20**2. The runs do not differ, so the factor is
    12 * 1.25 / 13 with 13 degrees of freedom; q(0.95; 2, 13) = 3.06 in every table.
    """
    first, second = by_hand(np.array([[0.9, 0.9], [0.8, 0.8]]))
    assert (first.difference.low, first.difference.high, first.tied) == (0.0, 0.0, True)
    variance = 15 / 13 * (2 * 10 * 0.09 / 20**2 * 20 / 19 + 1 / 20**2)
    assert second.difference.mean == pytest.approx(-0.1)
    assert second.difference.high - second.difference.mean == pytest.approx(
        3.06 * (variance / 2) ** 0.5, rel=2e-3
    )


def test_a_difference_is_candidate_minus_best_within_its_interval() -> None:
    low, best, near = by_hand(np.array([[0.1, 0.2, 0.1], [0.9, 0.9, 1.0], [0.9, 0.8, 1.0]]))
    assert best.mean == pytest.approx(2.8 / 3)
    assert low.difference.mean == pytest.approx(-0.8)
    assert (low.tied, best.tied, near.tied) == (False, True, True)
    assert low.difference.low < low.difference.mean < low.difference.high < 0
    assert near.difference.low < near.difference.mean < 0 < near.difference.high


def test_the_lowest_loss_is_the_best() -> None:
    high, low = by_hand(np.array([[0.9, 1.0], [0.1, 0.2]]), higher_is_better=False)
    assert low.difference.mean == 0.0
    assert high.difference.mean == pytest.approx(0.8)
    assert not high.tied


def test_the_best_is_selected_among_the_candidates_and_compared_with_all_rows() -> None:
    scores: Scores = np.array([[0.4, 0.4, 0.5], [0.4, 0.5, 0.3], [0.9, 1.0, 1.0]])
    standings = by_hand(scores, num_candidates=2)
    assert standings[0].difference.mean == 0.0
    assert standings[2].difference.mean == pytest.approx(1.6 / 3)
    assert [s.tied for s in standings] == [True, True, False]
    assert by_hand(scores, num_candidates=2, reference=1)[1].difference.mean == 0.0


def test_equal_predictions_are_tied_with_an_interval() -> None:
    """Two models with the same predictions for ten images may differ in the eleventh."""
    first, second = by_hand(np.full((2, 1), 0.9))
    assert first.tied
    assert second.tied
    assert second.difference.low < 0 < second.difference.high


def test_a_candidate_without_all_runs_is_compared_in_those_it_has() -> None:
    random = np.random.default_rng(0)
    study = synthetic_study(random, 3, 5)
    study.scores[2, 1:] = np.nan
    study.contributions[2, IMAGES:] = np.nan
    compared = compare(study, reference=0)
    first, second, short = compared.standings
    assert first.mean == pytest.approx(study.scores[0].mean())
    # As if it differed from the others in all runs as in its own.
    others = study.scores[:2]
    expected = study.scores[2, 0] - others[:, 0].mean() + others.mean()
    assert short.mean == pytest.approx(expected)
    widths = [s.difference.high - s.difference.low for s in (second, short)]
    assert widths[1] > 1.7 * widths[0]


def test_equal_candidates_are_tied_though_one_has_a_single_run() -> None:
    random = np.random.default_rng(0)
    tied = []
    for _ in range(300):
        study = synthetic_study(random, 3, 3)
        study.scores[2, 1:] = np.nan
        study.contributions[2, IMAGES:] = np.nan
        tied.append(all(ties(compare(study))))
    assert np.mean(tied) > 0.91


def test_smaller_differences_than_the_detectable_one_are_not_seen() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        compared = compare(synthetic_study(random, 2, 2, better=0.03))
        gap = max(abs(s.difference.mean) for s in compared.standings)
        assert all(ties(compared)) == (gap <= compared.detectable)


def test_nested_selection_removes_selection_bias() -> None:
    random = np.random.default_rng(0)
    studies = [synthetic_study(random, 7, 3, noise=0.02).scores for _ in range(400)]
    biased = np.mean([m.mean(1).max() for m in studies])
    nested = np.mean([comparison.nested_selection_score(m) for m in studies])
    assert biased > 0.865
    assert abs(nested - 0.85) < 0.004
    losses = [comparison.nested_selection_score(-m, higher_is_better=False) for m in studies[:50]]
    assert losses == pytest.approx([-comparison.nested_selection_score(m) for m in studies[:50]])


def around(milliseconds: float, spread: float = 0.01) -> tuple[float, float, float]:
    return milliseconds, milliseconds * (1 - spread), milliseconds * (1 + spread)


@pytest.mark.parametrize(
    ("milliseconds", "parameters", "index"),
    [
        ([around(5), around(2), around(9)], [1, 2, 3], 1),
        ([around(2), around(2.1), around(9)], [5, 4, 1], 1),  # within a tenth: fewer parameters
        ([around(2), around(2.3), around(9)], [5, 4, 1], 0),
        ([around(2, 0.2), around(2.5, 0.2), around(9)], [5, 4, 1], 1),  # their quartiles overlap
        ([None, around(3)], [1, 9], 1),  # unknown counts as slowest
        ([None, None], [3, 2], 1),
        ([None, None], [None, None], 0),
        ([around(1), around(1)], [2, 2], 0),
    ],
)
def test_the_cheapest_is_faster_beyond_the_spread_or_has_the_fewest_parameters(
    milliseconds: list[tuple[float, float, float] | None],
    parameters: list[float | None],
    index: int,
) -> None:
    assert comparison.index_of_cheapest(milliseconds, parameters) == index
