"""Metrics of labels, numbers and ordered classes: the values of scikit-learn, and intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy.stats import spearmanr
from toy import REGISTRY

from autotl import metric as declare
from autotl.errors import PluginError, StudyError
from autotl.scoring.influence import contributions
from autotl.scoring.intervals import score_interval
from autotl.scoring.metrics import Metric
from autotl.space.registry import Registry
from autotl.tasks import CLASSIFICATION, find_metric, find_task, metrics_for, numbered_classes

RANDOM = np.random.default_rng(0)
N = 120
LABELS = (RANDOM.random((N, 4)) < 0.3).astype(np.float32)
P = np.clip(0.5 * LABELS + RANDOM.random((N, 4)) * 0.6, 0, 1).round(2).astype(np.float32)  # ties
NUMBERS = RANDOM.normal(5, 3, (N, 2)).astype(np.float32)
GUESSES = (NUMBERS + RANDOM.normal(0, 1, (N, 2))).astype(np.float32)
CLASSES = RANDOM.integers(5, size=N)
SOFT = RANDOM.dirichlet(np.ones(5), N).astype(np.float32)
SOFT[np.arange(N), np.clip(CLASSES + RANDOM.integers(-1, 2, N), 0, 4)] += 1
SOFT /= SOFT.sum(1, keepdims=True)
DATA: dict[str, tuple[Any, Any]] = {
    "multilabel": (LABELS, P), "regression": (NUMBERS, GUESSES), "ordinal": (CLASSES, SOFT)
}  # fmt: skip
PAIRS = [
    (task, name)
    for task in DATA
    for name in metrics_for(find_task(task, REGISTRY), REGISTRY)
    if name in REGISTRY.names("metric") and REGISTRY.get("metric", name).suits(task)
]


def get(task: str, name: str) -> Metric:
    return find_metric(name, find_task(task, REGISTRY), REGISTRY)


EXPECTED = {
    "mean_average_precision": lambda y, p: reference.average_precision_score(y, p, average="macro"),
    "micro_f1": lambda y, p: reference.f1_score(y, p >= 0.5, average="micro"),
    "macro_f1": lambda y, p: reference.f1_score(y, p >= 0.5, average="macro"),
    "subset_accuracy": lambda y, p: reference.accuracy_score(y, p >= 0.5),
    "label_accuracy": lambda y, p: 1 - reference.hamming_loss(y, p >= 0.5),
    "log_loss": lambda y, p: np.mean([
        reference.log_loss(y[:, i], np.clip(p[:, i].astype(float), 1.2e-7, 1 - 1.2e-7))
        for i in range(y.shape[1])
    ]),
    "mae": reference.mean_absolute_error,
    "rmse": reference.root_mean_squared_error,
    "r2": reference.r2_score,
    "spearman": lambda y, p: np.mean([
        spearmanr(y[:, i], p[:, i]).statistic for i in range(y.shape[1])
    ]),
    "quadratic_kappa": lambda y, p: reference.cohen_kappa_score(
        y, p.argmax(1), weights="quadratic"
    ),
    "mean_rank_error": lambda y, p: np.abs(y - p.argmax(1)).mean(),
}  # fmt: skip


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_the_score_is_that_of_scikit_learn(task: str, name: str) -> None:
    assert get(task, name).score(*DATA[task]) == pytest.approx(
        EXPECTED[name](*DATA[task]), abs=1e-5
    )


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_contributions_have_the_score_as_their_mean(task: str, name: str) -> None:
    metric = get(task, name)
    values = contributions(metric, *DATA[task])
    assert values.shape == (N,)
    assert values.mean() == pytest.approx(metric.score(*DATA[task]), abs=1e-6)
    low, high = score_interval(metric, *DATA[task])
    assert metric.bounds[0] <= low < values.mean() < high <= metric.bounds[1]


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_the_variance_of_contributions_is_that_of_the_score(task: str, name: str) -> None:
    """The bootstrap's standard error, which takes a thousand scores."""
    metric, (targets, predictions) = get(task, name), DATA[task]
    random = np.random.default_rng(1)
    scores = []
    for _ in range(400):
        drawn = random.integers(N, size=N)
        scores.append(metric.score(targets[drawn], predictions[drawn]))
    error = contributions(metric, targets, predictions).std(ddof=1) / N**0.5
    assert error == pytest.approx(np.std(scores), rel=0.25)


def test_intervals_of_numbers_have_their_coverage() -> None:
    """95 % of intervals of a mean absolute error contain that of the population."""
    metric, random, inside = get("regression", "mae"), np.random.default_rng(2), []
    for _ in range(400):
        errors = random.normal(0, 1, (60, 1)).astype(np.float32)
        low, high = score_interval(metric, np.zeros_like(errors), errors)
        inside.append(low <= (2 / np.pi) ** 0.5 <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.04)


def test_metrics_are_those_of_the_task() -> None:
    labels = find_task("multilabel", REGISTRY)
    assert "accuracy" in metrics_for(numbered_classes(3), REGISTRY)
    assert "accuracy" in metrics_for(find_task("ordinal", REGISTRY), REGISTRY)
    assert "accuracy" not in metrics_for(labels, REGISTRY)
    with pytest.raises(StudyError, match="'accuracy' does not suit multilabel; did you mean"):
        find_metric("accuracy", labels, REGISTRY)
    with pytest.raises(StudyError, match=r"no metric is called 'micro_f'; did you mean 'micro_f1'"):
        find_metric("micro_f", labels, REGISTRY)


def test_an_error_of_a_metric_names_it_and_its_line() -> None:
    @declare(tasks=["classification"])
    def broken(targets: Any, predictions: Any) -> float:
        return float(targets / missing)  # type: ignore[name-defined]  # noqa: F821

    chosen = find_metric("broken", CLASSIFICATION, Registry([broken]))
    message = r"the metric plugin 'broken', line \d+ raises NameError: name 'missing' is not"
    with pytest.raises(PluginError, match=message):
        chosen.score(np.zeros(2, np.int64), np.ones((2, 2), np.float32))
