"""Metrics of several labels, of numbers and of ordered classes.

Those of a classification are in ``autotl.scoring.metrics``.

Shapes: N examples, C labels or classes, T numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from autotl import metric

Floats = NDArray[np.float64]
Array = NDArray[np.float32]

LABELS, NUMBERS, ORDERED = "multilabel", "regression", "ordinal"
INFINITE = math.inf

THRESHOLD = 0.5
"""The probability from which a label counts as predicted."""

EPSILON = float(np.finfo(np.float32).eps)
"""Probabilities are clipped to this before taking a logarithm."""


@metric(tasks=[LABELS])
def mean_average_precision(targets: Array, predictions: Array) -> float:
    """The average precision of each label, averaged over the labels that occur.

    It is the area under the precision-recall curve as a sum of steps, scikit-learn's
    ``average_precision_score``.
    """
    order = np.argsort(-predictions, axis=0, kind="stable")
    hits = np.take_along_axis(targets > THRESHOLD, order, axis=0)
    ranked = np.take_along_axis(predictions, order, axis=0)
    positives = hits.sum(0)
    correct = hits.cumsum(0).astype(np.float64)
    ranks = np.arange(1, len(targets) + 1)[:, None]
    # Examples with equal predictions have one threshold, that of the last of them.
    ends = np.ones(ranked.shape, dtype=bool)
    ends[:-1] = ranked[1:] != ranked[:-1]
    precision = np.where(ends, correct / ranks, 0.0)
    hits_so_far = np.where(ends, correct, 0.0)
    before = np.maximum.accumulate(
        np.vstack([np.zeros((1, hits_so_far.shape[1])), hits_so_far[:-1]]), axis=0
    )
    gained = np.where(ends, correct - before, 0.0)
    present = positives > 0
    if not present.any():
        return math.nan
    return float(((precision * gained).sum(0)[present] / positives[present]).mean())


@metric(tasks=[LABELS])
def micro_f1(targets: Array, predictions: Array) -> float:
    """F1 of all pairs of an example and a label together, with the threshold 0.5."""
    correct, actual, predicted = _count(targets, predictions)
    total = float((actual + predicted).sum())
    return 2 * float(correct.sum()) / total if total else math.nan


@metric(tasks=[LABELS])
def macro_f1(targets: Array, predictions: Array) -> float:
    """F1 of each label, averaged over those that occur or are predicted; the threshold is 0.5."""
    correct, actual, predicted = _count(targets, predictions)
    present = actual + predicted > 0
    if not present.any():
        return math.nan
    return float((2 * correct[present] / (actual + predicted)[present]).mean())


def _count(targets: Array, predictions: Array) -> tuple[Floats, Floats, Floats]:
    """Correct predictions, actual labels and predicted labels, each ``[C]``."""
    actual, predicted = targets > THRESHOLD, predictions >= THRESHOLD
    counts = (actual & predicted, actual, predicted)
    correct, true, positive = (each.sum(0).astype(np.float64) for each in counts)
    return correct, true, positive


@metric(tasks=[LABELS], per_example=True)
def subset_accuracy(targets: Array, predictions: Array) -> Floats:
    """The fraction of examples of which all labels are right, with the threshold 0.5."""
    right = (targets > THRESHOLD) == (predictions >= THRESHOLD)
    exact: Floats = right.all(1).astype(np.float64)
    return exact


@metric(tasks=[LABELS], per_example=True)
def label_accuracy(targets: Array, predictions: Array) -> Floats:
    """The fraction of pairs of an example and a label that are right: 1 minus the Hamming loss."""
    right = (targets > THRESHOLD) == (predictions >= THRESHOLD)
    fraction: Floats = right.mean(1)
    return fraction


@metric(tasks=[LABELS], per_example=True, direction="minimize", bounds=(0.0, INFINITE))
def log_loss(targets: Array, predictions: Array) -> Floats:
    """The binary cross-entropy in nats, averaged over the labels."""
    p = np.clip(predictions.astype(np.float64), EPSILON, 1 - EPSILON)
    losses: Floats = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(1)
    return losses


@metric(
    tasks=[NUMBERS],
    per_example=True,
    direction="minimize",
    bounds=(0.0, INFINITE),
    has_unit=True,
)
def mae(targets: Array, predictions: Array) -> Floats:
    """The mean absolute error, averaged over the numbers."""
    errors: Floats = np.abs(targets.astype(np.float64) - predictions).mean(1)
    return errors


@metric(tasks=[NUMBERS], direction="minimize", bounds=(0.0, INFINITE), has_unit=True)
def rmse(targets: Array, predictions: Array) -> float:
    """The root of the mean squared error of each number, averaged over the numbers."""
    squares = (targets.astype(np.float64) - predictions) ** 2
    return float(np.sqrt(squares.mean(0)).mean())


@metric(tasks=[NUMBERS], bounds=(-INFINITE, 1.0))
def r2(targets: Array, predictions: Array) -> float:
    """The coefficient of determination of each number, averaged over the numbers."""
    targets = targets.astype(np.float64)
    variances = targets.var(0)
    if not (variances > 0).all():
        return math.nan
    return float((1 - ((targets - predictions) ** 2).mean(0) / variances).mean())


@metric(tasks=[NUMBERS], bounds=(-1.0, 1.0))
def spearman(targets: Array, predictions: Array) -> float:
    """Spearman's rank correlation of each number, averaged over the numbers.

    That of equal predictions, which rank nothing, is 0.
    """
    from scipy.stats import rankdata

    a, b = rankdata(targets, axis=0), rankdata(predictions, axis=0)
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    if not ((a**2).sum(0) > 0).all():
        return math.nan
    products = (a * b).sum(0)
    return float(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0).mean())


@metric(tasks=[ORDERED], bounds=(-1.0, 1.0))
def quadratic_kappa(targets: NDArray[np.int64], predictions: Array) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968, Psychological Bulletin 70).

    It is 1 minus the mean squared difference between the indices of the labelled and the most
    probable class, relative to that of independent ones.
    """
    guesses = predictions.argmax(1)
    observed = float(((targets - guesses) ** 2).mean())
    expected = float(targets.var() + guesses.var() + (targets.mean() - guesses.mean()) ** 2)
    return 1 - observed / expected if expected > 0 else math.nan


@metric(tasks=[ORDERED], per_example=True, direction="minimize", bounds=(0.0, INFINITE))
def mean_rank_error(targets: NDArray[np.int64], predictions: Array) -> Floats:
    """The mean number of classes between the labelled and the most probable class."""
    errors: Floats = np.abs(targets - predictions.argmax(1)).astype(np.float64)
    return errors
