"""What each example contributes to the metrics of classes; see ``influence``.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.chunks import chunks, predict_classes

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]
Contributions = NDArray[np.float64]
"""What each example contributes to a score, ``[N]``."""

MAX_NEIGHBOURS = 2048
"""The maximum number of examples whose neighbourhoods are compared, of which each has all others:
the time and the memory grow with their square, and an ensemble needs hundreds of scores."""

NEIGHBOUR_TEMPERATURE = 0.05
"""The divisor of the similarities of predictions, as in the paper: only close ones are neighbours.
"""


def accuracy(labels: Labels, probabilities: Probabilities) -> Contributions:
    """Whether each prediction is correct, 1 or 0."""
    correct: Contributions = (predict_classes(probabilities) == labels).astype(np.float64)
    return correct


def balanced_accuracy(labels: Labels, probabilities: Probabilities) -> Contributions:
    """Correct or not, with the weight of the class.

    It is compared with the score and not with the recall of the class, which in a small class is
    too close to its few examples.
    """
    weights = class_weights(labels)
    correct = accuracy(labels, probabilities)
    score = float((weights * correct).mean())
    values: Contributions = score + weights * (correct - score)
    return values


def class_weights(labels: Labels) -> NDArray[np.float64]:
    """The weight ``[N]`` of each example in a mean over the classes; the mean weight is 1."""
    counts = np.bincount(labels)
    weights: NDArray[np.float64] = len(labels) / (counts > 0).sum() / counts[labels]
    return weights


def macro_f1(labels: Labels, probabilities: Probabilities) -> Contributions:
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


def auroc(labels: Labels, probabilities: Probabilities) -> Contributions:
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


def mutual_information(labels: Labels, probabilities: Probabilities) -> Contributions:
    """The divergence of each prediction from their mean, over the logarithm of the classes.

    Its mean is the mutual information of example and class, from 0 where all predictions are equal
    to 1 where each is certain and all classes are equally frequent (Bridle et al. 1991, NIPS; as a
    score for another domain Musgrave et al. 2022, arXiv:2208.07360). Labels are not used.
    """
    mean = np.maximum(probabilities.mean(0, dtype=np.float64), np.finfo(np.float64).tiny)
    values, scale = np.zeros(len(probabilities)), max(np.log(probabilities.shape[1]), 1e-12)
    for part in chunks(probabilities.shape[1], len(probabilities)):
        own = probabilities[:, part].astype(np.float64)
        safe = np.maximum(own, np.finfo(np.float64).tiny)
        values += (own * (np.log(safe) - np.log(mean[part]))).sum(1)
    scaled: Contributions = values / scale
    return scaled


def soft_neighbourhood_density(labels: Labels, probabilities: Probabilities) -> Contributions:
    """How many others predictions are close to, and what each example changes in that.

    Their mean is the mean entropy of the similarities of an example's prediction to all others,
    minus that of equal similarities (Saito et al. 2021, arXiv:2108.10860, whose score is greater by
    this constant). So it does not depend on the number of examples: 0 where all predictions are
    equal, ``-log(C)`` where each is certain and all classes are equally frequent, and less where
    they are scattered. Of more than ``MAX_NEIGHBOURS`` examples, a systematic sample is compared.
    Labels are not used.
    """
    total = len(probabilities)
    step = -(-total // MAX_NEIGHBOURS)
    sample = probabilities[::step]
    if len(sample) < 2:
        return np.zeros(total)
    unit = sample / np.linalg.norm(sample, axis=1, keepdims=True)
    own, influence = np.zeros((2, count := len(sample)))
    for part in chunks(count, count):
        logs = unit[part] @ unit.T / NEIGHBOUR_TEMPERATURE
        weights = np.exp(logs)
        weights[np.arange(len(logs)), np.arange(count)[part]] = 0  # none is its own neighbour
        sums = weights.sum(1, dtype=np.float64)
        weights /= sums[:, None]
        means = (weights * logs).sum(1, dtype=np.float64)
        own[part] = np.log(sums) - means
        # The derivatives of all entropies by the weight of each neighbour; their mean is 1.
        influence += (weights * (1 + means[:, None] - logs)).sum(0)
    score = own.mean() - np.log(count - 1)
    values: Contributions = np.full(total, score)
    values[::step] += (own - own.mean() + influence - influence.mean()) * (total / count)
    return values


def log_loss(labels: Labels, probabilities: Probabilities) -> Contributions:
    """The cross-entropy of each example in nats."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: Contributions = -np.log(np.maximum(of_label, np.finfo(probabilities.dtype).eps))
    return losses
