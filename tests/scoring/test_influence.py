"""Contributions to a score average to it, and their variance is that of the score."""

from __future__ import annotations

import numpy as np
import pytest
from predictions import random_predictions

from autotl.scoring import metrics
from autotl.scoring.influence import contributions, sum_by_unit


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", [*metrics.METRICS, *metrics.WITHOUT_LABELS])
def test_the_mean_is_the_score_and_the_variance_that_of_the_jackknife(
    name: str, classes: int
) -> None:
    metric, n = {**metrics.METRICS, **metrics.WITHOUT_LABELS}[name], 150
    labels, p = random_predictions(n, classes, seed=classes)
    values = contributions(metric, labels, p)
    assert values.mean() == pytest.approx(metric.score(labels, p))
    rows = [np.arange(n) != i for i in range(n)]
    without = np.array([metric.score(labels[r], p[r]) for r in rows])
    jackknife = ((without - without.mean()) ** 2).sum() * (n - 1) / n
    assert values.var(ddof=1) / n == pytest.approx(jackknife, rel=0.06)


def test_tied_probabilities_count_half_in_an_auroc() -> None:
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.5, 0.5]] * 4, np.float32)
    assert contributions(metrics.get("auroc"), labels, p).tolist() == [0.5] * 4


def test_an_auroc_of_one_class_is_not_defined() -> None:
    labels, p = np.zeros(4, int), np.full((4, 2), 0.5, np.float32)
    assert np.isnan(contributions(metrics.get("auroc"), labels, p)).all()


def test_contributions_are_summed_by_sampling_unit() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    units = np.array([7, 7, 7, 2, 2, 9])
    by_unit = sum_by_unit(values, units)
    assert by_unit.mean() == pytest.approx(values.mean())
    deviations = [1 - 4 / 3, 2 - 2, 1 - 2 / 3]  # of units 2, 7 and 9, in examples
    assert (by_unit - values.mean()) * 2 == pytest.approx(deviations)
    assert sum_by_unit(values, np.arange(6)) == pytest.approx(values)
