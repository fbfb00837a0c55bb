"""Confidence intervals have their nominal coverage, also for clustered images."""

from __future__ import annotations

import numpy as np
import pytest
from predictions import random_predictions

from autotl.scoring import intervals, metrics
from autotl.scoring.intervals import effective_sample_size, score_interval, wilson_interval
from autotl.scoring.metrics import Labels, Metric, Probabilities


def mean_probability(labels: Labels, probabilities: Probabilities) -> float:
    return float(probabilities[np.arange(len(labels)), labels].mean())


MEAN_PROBABILITY = Metric("mean_probability", "maximize", mean_probability)
"""Of the label. It is a mean over the images, so that its standard error is known."""


@pytest.mark.parametrize(
    ("accuracy", "n", "low", "high"),
    [  # Wilson 1927 by hand: (s + z^2/2n +- z sqrt(s(1-s)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96
        (0.9, 100, 0.8256, 0.9448),
        (0.5, 10, 0.2366, 0.7634),
        (0.29, 100, 0.2101, 0.3854),  # 0.29 * 100 is a little less than 29
        (1.0, 10, 0.7225, 1.0),
        (0.0, 10, 0.0, 0.2775),
    ],
)
def test_wilson_intervals_equal_those_computed_by_hand(
    accuracy: float, n: int, low: float, high: float
) -> None:
    assert wilson_interval(accuracy, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_intervals_have_their_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    covered = []
    for truth in (0.7, 0.9, 0.97):
        for correct in random.binomial(60, truth, 200):
            low, high = wilson_interval(correct / 60, 60)
            covered.append(low <= truth <= high)
    assert 0.92 < np.mean(covered) < 0.98


def test_the_interval_of_accuracy_is_wilsons() -> None:
    labels, p = random_predictions(50, 3)
    metric = metrics.get("accuracy")
    assert score_interval(metric, labels, p) == wilson_interval(metric.score(labels, p), 50)


def test_a_bootstrap_interval_contains_the_score_and_narrows_with_the_number_of_images() -> None:
    widths = []
    for n in (40, 640):
        labels, p = random_predictions(n, 3)
        low, high = score_interval(MEAN_PROBABILITY, labels, p)
        assert low < mean_probability(labels, p) < high
        widths.append(high - low)
        # The standard error of a mean, nearly: the strata are fixed.
        error = p[np.arange(n), labels].std() / np.sqrt(n)
        assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert 3 < widths[0] / widths[1] < 5.5  # the square root of 16 is 4


def test_the_bootstrap_is_stratified_by_class() -> None:
    labels, p = random_predictions(30, 3)
    class_counts = set()

    def record(labels: Labels, probabilities: Probabilities) -> float:
        class_counts.add(tuple(np.bincount(labels, minlength=3)))
        return mean_probability(labels, probabilities)

    score_interval(Metric("recording", "maximize", record), labels, p)
    assert class_counts == {tuple(np.bincount(labels))}


def test_the_seed_determines_the_bootstrap_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    labels, p = random_predictions(30, 3)
    one, same, other = (score_interval(MEAN_PROBABILITY, labels, p, seed) for seed in (1, 1, 2))
    assert one == same != other


def test_the_interval_of_log_loss_contains_the_score() -> None:
    labels, p = random_predictions(60, 2)
    metric = metrics.get("log_loss")
    low, high = score_interval(metric, labels, p)
    assert low < metric.score(labels, p) < high


@pytest.mark.parametrize(("groups", "each"), [(20, 15), (40, 5)])
def test_the_interval_of_clustered_images_has_its_nominal_coverage(groups: int, each: int) -> None:
    """Images of one patient tend to be right or wrong together."""
    random, metric = np.random.default_rng(0), metrics.get("accuracy")
    units = np.repeat(np.arange(groups), each)
    labels = units % 2
    covered: list[bool] = []
    covered_ignoring_units: list[bool] = []
    for accuracies in random.beta(2.7, 0.3, (1000, groups)):  # with a mean of 0.9
        correct = random.random(len(units)) < accuracies[units]
        p = np.eye(2, dtype=np.float32)[np.where(correct, labels, 1 - labels)]
        for results, given in ((covered, units), (covered_ignoring_units, None)):
            low, high = score_interval(metric, labels, p, units=given)
            results.append(low <= 0.9 <= high)
    assert np.mean(covered_ignoring_units) < 0.85
    assert np.mean(covered) > 0.93


def test_the_bootstrap_draws_whole_sampling_units() -> None:
    """Five copies of each image contain no more information than one."""
    labels, p = random_predictions(60, 3)
    width = np.subtract(*score_interval(MEAN_PROBABILITY, labels, p))
    units = np.repeat(np.arange(60), 5)
    clustered = score_interval(MEAN_PROBABILITY, labels[units], p[units], units=units)
    assert np.subtract(*clustered) == pytest.approx(width, rel=0.1)
    unclustered = score_interval(MEAN_PROBABILITY, labels[units], p[units])
    assert np.subtract(*unclustered) == pytest.approx(width / 5**0.5, rel=0.1)


def test_the_effective_sample_size_is_between_the_numbers_of_units_and_images() -> None:
    correct = np.array([True] * 9 + [False])
    assert effective_sample_size(correct, np.arange(10)) == 10
    assert effective_sample_size(correct, np.zeros(10, int)) == 1
    assert effective_sample_size(np.ones(10, bool), np.arange(10) // 2) == 5
