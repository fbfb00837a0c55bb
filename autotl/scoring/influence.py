"""What each example contributes to a score, so that variances follow from predictions.

The contributions of N examples are numbers whose mean is the score, and whose variance over N is
that of the score: for an accuracy whether each prediction is correct, for a mean loss the losses,
and for other metrics the score plus the influence of each example on it (Hampel 1974, JASA 69).
Scores of two models on the same examples are compared by the differences of their contributions,
which need far fewer examples than a comparison of two means: what is hard for one model is mostly
hard for the other.

Shapes: N examples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.metrics import Metric, Predictions, Targets

Contributions = NDArray[np.float64]
"""What each example contributes to a score, ``[N]``."""

GROUPS = 200
"""The number of groups of examples that are left out in turn, for metrics of other kinds."""


def contributions(metric: Metric, targets: Targets, predictions: Predictions) -> Contributions:
    """Compute what each example contributes to a score.

    Args:
        metric: The metric of the score.
        targets: ``[N, ...]``.
        predictions: ``[N, K]``.

    Returns:
        ``[N]``; their mean is the score.
    """
    if metric.per_example is not None:
        return metric.per_example(targets, predictions)
    return _jackknife(metric, targets, predictions)


def _jackknife(metric: Metric, targets: Targets, predictions: Predictions) -> Contributions:
    """Contributions to any score, by leaving out each of ``GROUPS`` groups (Tukey 1958).

    A group is a systematic sample of the examples, and its pseudo-value is divided among them such
    that the variance of their mean is that of the jackknife.
    """
    n = len(targets)
    groups = np.arange(n) % min(n, GROUPS)
    score = metric.score(targets, predictions)
    count = int(groups.max()) + 1
    if count < 2:
        return np.full(n, score)
    left_out = np.array(
        [metric.score(targets[groups != g], predictions[groups != g]) for g in range(count)]
    )
    deviations = (count - 1) * (left_out.mean() - left_out)
    values: Contributions = score + deviations[groups] * np.sqrt(n / count)
    values += score - values.mean()
    return values


def sum_by_unit(values: Contributions, units: NDArray[np.int64]) -> Contributions:
    """Sum contributions by sampling unit (cluster), because only those are independent.

    Args:
        values: ``[N]``.
        units: The sampling unit of each example, ``[N]``.

    Returns:
        What each of the U units contributes, ``[U]``; the mean is the score.
    """
    _, unit = np.unique(units, return_inverse=True)
    sums = np.bincount(unit, values - values.mean()) * (int(unit.max()) + 1) / len(values)
    return np.asarray(values.mean() + sums, np.float64)
