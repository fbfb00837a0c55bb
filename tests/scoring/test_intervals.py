"""Confidence intervals have their nominal coverage, also for clustered images."""

from __future__ import annotations

import numpy as np
import pytest
from predictions import random_predictions

from autotl.scoring import metrics
from autotl.scoring.influence import contributions
from autotl.scoring.intervals import (
    effective_sample_size,
    mean_interval,
    score_interval,
    wilson_interval,
)
from autotl.scoring.metrics import Metric


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


METRICS = [m for m in metrics.METRICS.values() if m.name != "accuracy"]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_interval_contains_the_score_and_narrows_with_the_number_of_images(
    metric: Metric,
) -> None:
    widths = []
    for n in (60, 960):
        labels, p = random_predictions(n, 3)
        low, high = score_interval(metric, labels, p)
        assert low < metric.score(labels, p) < high
        widths.append(high - low)
    assert 3 < widths[0] / widths[1] < 6  # the square root of 16 is 4


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda metric: metric.name)
@pytest.mark.parametrize("right", [True, False])
def test_no_interval_is_without_width(metric: Metric, right: bool) -> None:
    """All predictions are correct and certain, or all are wrong."""
    labels = np.arange(12) % 3
    p = np.eye(3, dtype=np.float32)[labels if right else (labels + 1) % 3]
    low, high = score_interval(metric, labels, p)
    assert low <= metric.score(labels, p) <= high
    assert high - low > 0.05


def test_a_balanced_accuracy_is_as_certain_as_its_smallest_classes() -> None:
    """C^2 / sum(1 / n_c) images: with 90 and 10 of two classes 36, by hand."""
    labels = np.repeat([0, 1], [90, 10])
    p = np.eye(2, dtype=np.float32)[labels]
    p[:9], p[90] = p[9:18][:, ::-1], [1, 0]  # recalls of 0.9 in both
    assert score_interval(metrics.get("balanced_accuracy"), labels, p) == pytest.approx(
        wilson_interval(0.9, 36)
    )


def test_classes_of_one_image_do_not_narrow_an_interval() -> None:
    labels = np.arange(20)
    p = np.eye(20, dtype=np.float32)[labels]
    p[:2] = p[[1, 0]]
    for name in ("balanced_accuracy", "macro_f1"):
        low, high = score_interval(metrics.get(name), labels, p)
        assert high - low > 0.25  # as for the accuracy of 20 images


def test_an_undefined_score_has_no_interval() -> None:
    labels, p = np.zeros(5, int), np.full((5, 2), 0.5, np.float32)
    assert np.isnan(score_interval(metrics.get("auroc"), labels, p)).all()


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda metric: metric.name)
def test_the_variance_of_the_training_widens_an_interval(metric: Metric) -> None:
    labels, p = random_predictions(300, 3)
    values = contributions(metric, labels, p)
    widths = [
        np.diff(mean_interval(metric, values, labels, None, 3, variance))[0]
        for variance in (0.0, 0.05**2)
    ]
    assert widths[1] ** 2 - widths[0] ** 2 == pytest.approx((2 * 1.96 * 0.05) ** 2, rel=0.15)


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
    assert np.mean(covered) > 0.92


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_copies_of_images_are_no_evidence(metric: Metric) -> None:
    """Five copies of each image contain no more information than one."""
    labels, p = random_predictions(120, 3)
    width = np.subtract(*score_interval(metric, labels, p))
    units = np.repeat(np.arange(120), 5)
    clustered = score_interval(metric, labels[units], p[units], units=units)
    assert np.subtract(*clustered) == pytest.approx(width, rel=0.1)
    unclustered = score_interval(metric, labels[units], p[units])
    assert np.subtract(*unclustered) == pytest.approx(width / 5**0.5, rel=0.15)


def test_the_effective_sample_size_is_between_the_numbers_of_units_and_images() -> None:
    correct = np.array([True] * 9 + [False])
    assert effective_sample_size(correct, np.arange(10)) == 10
    assert effective_sample_size(correct, np.zeros(10, int)) == 1
    assert effective_sample_size(np.ones(10, bool), np.arange(10) // 2) == 5


def test_a_fraction_of_examples_has_the_interval_of_their_number() -> None:
    labels, p = random_predictions(80, 3)
    accuracy = metrics.get("accuracy")
    by_number = score_interval(accuracy, labels, p)
    assert by_number == wilson_interval(accuracy.score(labels, p), 80)
    other = metrics.Metric("hits", "maximize", accuracy.score, accuracy.per_example)
    assert score_interval(other, labels, p) == pytest.approx(by_number, abs=2e-3)
    assert score_interval(other, labels, p) != by_number  # its variance is estimated
