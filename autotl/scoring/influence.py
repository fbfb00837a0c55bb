"""What each example contributes to a score, so that variances follow from predictions.

The contributions of N examples are numbers whose mean is the score, and whose variance over N is
that of the score: for an accuracy whether each prediction is correct, for a mean loss the losses,
and for other metrics the score plus the influence of each example on it (Hampel 1974, JASA 69).
Scores of two models on the same examples are compared by the differences of their contributions,
which need far fewer examples than a comparison of two means: what is hard for one model is mostly
hard for the other.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.metrics import (
    Labels,
    Metric,
    Predictions,
    Probabilities,
    Targets,
    chunks,
    is_built_in,
    predict_classes,
)

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
    if is_built_in(metric):
        return _FUNCTIONS[metric.name](targets, predictions)
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


def _accuracy(labels: Labels, probabilities: Probabilities) -> Contributions:
    correct: Contributions = (predict_classes(probabilities) == labels).astype(np.float64)
    return correct


def _balanced_accuracy(labels: Labels, probabilities: Probabilities) -> Contributions:
    """Correct or not, with the weight of the class.

    It is compared with the score and not with the recall of the class, which in a small class is
    too close to its few examples.
    """
    weights = class_weights(labels)
    correct = _accuracy(labels, probabilities)
    score = float((weights * correct).mean())
    values: Contributions = score + weights * (correct - score)
    return values


def class_weights(labels: Labels) -> NDArray[np.float64]:
    """The weight ``[N]`` of each example in a mean over the classes; the mean weight is 1."""
    counts = np.bincount(labels)
    weights: NDArray[np.float64] = len(labels) / (counts > 0).sum() / counts[labels]
    return weights


def _macro_f1(labels: Labels, probabilities: Probabilities) -> Contributions:
    """The derivative of F1 = 2 correct / (actual + predicted), averaged over the classes."""
    classes, predicted = probabilities.shape[1], predict_classes(probabilities)
    correct = predicted == labels
    counts = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    present = counts > 0
    counts = np.maximum(counts, 1)
    f1 = 2 * np.bincount(labels[correct], minlength=classes) / counts
    influence = 2 * correct / counts[labels]
    influence -= f1[labels] / counts[labels] + f1[predicted] / counts[predicted]
    values: Contributions = f1[present].mean() + influence * (len(labels) / present.sum())
    return values


def _auroc(labels: Labels, probabilities: Probabilities) -> Contributions:
    """The placement values of DeLong et al. 1988 (Biometrics 44), averaged over the classes."""
    n, classes = len(labels), probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    defined = np.flatnonzero((counts > 0) & (counts < n))
    if not len(defined):
        return np.full(n, np.nan)
    scores, sums = np.zeros(len(defined)), np.zeros(n)
    for part in chunks(len(defined), n):
        columns = defined[part]
        is_class = (labels[:, None] == np.arange(classes))[:, columns]
        scores[part], influence = _rank(is_class, probabilities[:, columns], counts[columns])
        sums += influence.sum(1)
    values: Contributions = scores.mean() + sums / len(defined)
    return values


def _rank(
    is_class: NDArray[np.bool_], predicted: Probabilities, positives: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The AUROC of each of some classes, ``[C]``, and the influence of each example, ``[N, C]``.

    Args:
        is_class: Whether an example is of the class, ``[N, C]``.
        predicted: The probabilities of the classes, ``[N, C]``.
        positives: The number of examples of each class, ``[C]``.
    """
    from scipy.stats import rankdata

    n = len(predicted)
    # The rank among those of the own group, positives or negatives: all others come after them.
    within = [
        rankdata(np.where(group, predicted, np.inf), axis=0) for group in (is_class, ~is_class)
    ]
    ranks = rankdata(predicted, axis=0) - np.where(is_class, *within)
    # The fraction of the other group that is ranked correctly relative to each example.
    placements = np.where(is_class, ranks / (n - positives), 1 - ranks / positives)
    scores = (placements * is_class).sum(0) / positives
    sizes = np.where(is_class, positives, n - positives)
    return scores, (placements - scores) * (n / sizes)


def _log_loss(labels: Labels, probabilities: Probabilities) -> Contributions:
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: Contributions = -np.log(np.maximum(of_label, np.finfo(probabilities.dtype).eps))
    return losses


_FUNCTIONS: dict[str, Callable[[Labels, Probabilities], Contributions]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "auroc": _auroc,
    "log_loss": _log_loss,
}
