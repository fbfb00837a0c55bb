"""Results by class, and the majority class as a baseline.

Where classes are unequal, a model that always predicts the most frequent class has a good score. A
score is therefore compared with that of constant probabilities, the frequencies of the classes: by
what the same examples contribute to both (see ``comparison``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.scoring import comparison, influence
from autotl.scoring.comparison import Interval
from autotl.scoring.metrics import (
    METRICS,
    Labels,
    Metric,
    Predictions,
    Probabilities,
    Targets,
    count_classes,
)

IMBALANCED = 1.5
"""Classes are unequal if the largest has more than this many times the smallest one's images."""


@dataclass(frozen=True)
class Baseline:
    """The majority class as a baseline of a model.

    Attributes:
        score: The score of the constant probabilities.
        difference: The score of the model minus that score, with a 95 % interval.
        is_beaten: Whether the model is better beyond chance.
    """

    score: float
    difference: Interval
    is_beaten: bool


def constant_probabilities(labels: Labels, classes: int) -> Probabilities:
    """The frequencies ``[C]`` of the classes, with one more example of each.

    Args:
        labels: The examples from which they are estimated, ``[N]``.
        classes: The number C of classes.
    """
    counts = np.bincount(labels, minlength=classes) + 1.0
    frequencies: Probabilities = (counts / counts.sum()).astype(np.float32)
    return frequencies


def constant_score(metric: Metric, targets: Targets, constant: Predictions) -> float:
    """The score of predicting ``constant [K]`` for every example ``[N]``."""
    return metric.score(targets, _repeat(metric, constant, len(targets)))


def _repeat(metric: Metric, constant: Predictions, count: int) -> Predictions:
    """The constant prediction for each of N examples, ``[N, K]``; without copies if it may be.

    Metrics of plugins get an ordinary array.
    """
    if METRICS.get(metric.name) is metric:
        return np.broadcast_to(constant, (count, len(constant)))
    return np.tile(constant, (count, 1))


def compare_with_constant(
    metric: Metric,
    targets: Targets,
    predictions: Predictions,
    constant: Predictions,
    units: NDArray[np.int64],
    runs: NDArray[np.int64] | None = None,
) -> Baseline | None:
    """Compare a model with a constant prediction.

    Args:
        metric: The metric of the scores.
        targets: ``[N, ...]``.
        predictions: The predictions of the model, ``[N, K]``.
        constant: The constant prediction, ``[K]``.
        units: The sampling unit of each example, ``[N]``.
        runs: The number of the repeat in which each example was predicted, from 0, ``[N]``; None
            for a single one.

    Returns:
        None if all examples have the same target.
    """
    if len(np.unique(targets, axis=0)) < 2:
        return None
    runs = np.zeros(len(targets), np.int64) if runs is None else runs
    both = (predictions, _repeat(metric, constant, len(targets)))
    numbers = np.unique(runs)
    # An index array would copy all predictions.
    parts: list[Any] = [runs == n for n in numbers] if len(numbers) > 1 else [slice(None)]
    scores = np.array([[metric.score(targets[p], each[p]) for p in parts] for each in both])
    values = np.zeros((2, len(targets)))
    for part in parts:
        for row, each in zip(values, both, strict=True):
            row[part] = influence.contributions(metric, targets[part], each[part])
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        return None
    numbers = np.unique(runs, return_inverse=True)[1]
    unit = comparison.difference_unit(metric.has_unit, float(scores[1].mean()))
    results = comparison.Results(scores, values, numbers, units, unit)
    _, other = comparison.compare(
        results, higher_is_better=metric.higher_is_better, reference=0
    ).standings
    gap = other.difference
    difference = Interval(-gap.mean, -gap.high, -gap.low)
    beaten = difference.low > 0 if metric.higher_is_better else difference.high < 0
    return Baseline(other.mean, difference, beaten)


def class_recalls(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The recall of each class: ``{"class", "n", "score"}``; the score is None without examples.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]``.
        classes: Names of the classes.
    """
    correct, actual, _ = count_classes(labels, probabilities)
    return [
        {"class": name, "n": n, "score": hits / n if n else None}
        for name, hits, n in zip(classes, correct.tolist(), actual.tolist(), strict=True)
    ]


def class_precisions(labels: Labels, probabilities: Probabilities) -> list[float | None]:
    """The precision of each class, ``[C]``; None for one that is never predicted.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]``.
    """
    correct, _, predicted = count_classes(labels, probabilities)
    pairs = zip(correct.tolist(), predicted.tolist(), strict=True)
    return [hits / n if n else None for hits, n in pairs]


def balanced_accuracy(recalls: Sequence[dict[str, Any]]) -> float | None:
    """The mean of the recalls that ``class_recalls`` returns; None without any."""
    scores = [each["score"] for each in recalls if each["score"] is not None]
    return sum(scores) / len(scores) if scores else None
