"""Metrics: those of classification by name, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autotl.errors import StudyError, did_you_mean
from autotl.scoring import class_contributions as each
from autotl.scoring.chunks import chunks, predict_classes

Labels = each.Labels
Probabilities = each.Probabilities
Counts = NDArray[np.int64]
Targets = NDArray[Any]
"""The targets of a task, ``[N, ...]``; the labels ``int64 [N]`` of a classification."""
Predictions = NDArray[np.float32]
"""What a task predicts, ``[N, K]``; the probabilities ``[N, C]`` of a classification."""

MAX_MATRIX_CLASSES = 150
"""The maximum number of classes of a confusion matrix that is stored."""

MAX_PAIRS = 100
"""The maximum number of pairs of confused classes that are stored instead."""


@dataclass(frozen=True)
class Metric:
    """A metric of predictions against targets.

    Attributes:
        name: Name of the metric.
        direction: Which scores are better, in Optuna's terms.
        score: Computes the score from targets ``[N, ...]`` and predictions ``[N, K]``.
        per_example: Computes what each example contributes, ``float64 [N]``, whose mean is the
            score; None if that is to be estimated, see ``influence``.
        bounds: The smallest and the largest score.
        has_unit: Whether scores are in the unit of the targets, such as an error in degrees. What
            is a small difference then depends on the data.
        fraction_of: What the score is a fraction of, whose number its interval follows from: of
            the ``examples``, as an accuracy, or of those of each of the ``classes``, over which it
            is averaged. Empty if that is unknown; its variance is then estimated.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    score: Callable[[Any, Any], float]
    per_example: Callable[[Any, Any], NDArray[np.float64]] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    has_unit: bool = False
    fraction_of: Literal["examples", "classes", ""] = ""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is the better one."""
        return self.direction == "maximize"

    def gain(self, a: float, b: float) -> float:
        """Return the difference of the scores ``a`` and ``b``; positive if ``a`` is better."""
        return a - b if self.higher_is_better else b - a

    def is_better(self, a: float, b: float) -> bool:
        """Whether the score ``a`` is better than ``b``."""
        return self.gain(a, b) > 0


# Own implementations, because an interval needs a thousand scores and an ensemble hundreds, and
# most of the 2 to 7 ms that scikit-learn takes for one goes into checks. The tests compare them
# with scikit-learn's.


def _accuracy(labels: Labels, probabilities: Probabilities) -> float:
    return float((predict_classes(probabilities) == labels).mean())


def _balanced_accuracy(labels: Labels, probabilities: Probabilities) -> float:
    correct, actual, _ = count_classes(labels, probabilities)
    present = actual > 0
    return float((correct[present] / actual[present]).mean())


def _macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    correct, actual, predicted = count_classes(labels, probabilities)
    present = actual + predicted > 0
    return float((2 * correct[present] / (actual + predicted)[present]).mean())


def _auroc(labels: Labels, probabilities: Probabilities) -> float:
    """One-vs-rest AUROC, averaged over the classes for which it is defined.

    Each is computed as the rank-sum statistic (Hanley & McNeil 1982, Radiology 143).
    """
    from scipy.stats import rankdata

    classes = probabilities.shape[1]
    positives = np.bincount(labels, minlength=classes)
    rank_sums = np.zeros(classes)
    for part in chunks(classes, len(labels)):
        is_class = labels[:, None] == np.arange(classes)[part]
        rank_sums[part] = (rankdata(probabilities[:, part], axis=0) * is_class).sum(0)
    defined = (positives > 0) & (positives < len(labels))
    if not defined.any():
        return float("nan")
    positives = positives[defined]
    u_statistics = rank_sums[defined] - positives * (positives + 1) / 2
    return float((u_statistics / (positives * (len(labels) - positives))).mean())


def _log_loss(labels: Labels, probabilities: Probabilities) -> float:
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(of_label, np.finfo(probabilities.dtype).eps)).mean())


def count_classes(labels: Labels, probabilities: Probabilities) -> tuple[Counts, Counts, Counts]:
    """Number of correct predictions, of images and of predictions, each by class ``[C]``."""
    classes = probabilities.shape[1]
    predicted = predict_classes(probabilities)
    correct = np.bincount(labels[predicted == labels], minlength=classes)
    return (
        correct,
        np.bincount(labels, minlength=classes),
        np.bincount(predicted, minlength=classes),
    )


METRICS = {
    m.name: m
    for m in (
        Metric("accuracy", "maximize", _accuracy, each.accuracy, fraction_of="examples"),
        Metric(
            "balanced_accuracy",
            "maximize",
            _balanced_accuracy,
            each.balanced_accuracy,
            fraction_of="classes",
        ),
        Metric("macro_f1", "maximize", _macro_f1, each.macro_f1, fraction_of="classes"),
        Metric("auroc", "maximize", _auroc, each.auroc, fraction_of="classes"),
        Metric("log_loss", "minimize", _log_loss, each.log_loss, bounds=(0.0, float("inf"))),
    )
}


def _mutual_information(labels: Labels, probabilities: Probabilities) -> float:
    return float(each.mutual_information(labels, probabilities).mean())


def _soft_neighbourhood_density(labels: Labels, probabilities: Probabilities) -> float:
    return float(each.soft_neighbourhood_density(labels, probabilities).mean())


WITHOUT_LABELS = {
    m.name: m
    for m in (
        Metric("mutual_information", "maximize", _mutual_information, each.mutual_information),
        Metric(
            "soft_neighbourhood_density",
            "maximize",
            _soft_neighbourhood_density,
            each.soft_neighbourhood_density,
            bounds=(-float("inf"), 0.0),
        ),
    )
}
"""Metrics of classes that do not look at labels, for examples that have none."""


def get(name: str) -> Metric:
    """Get the metric called ``name``.

    Raises:
        StudyError: There is no such metric; the message suggests similar names.
    """
    if name not in METRICS:
        raise StudyError(f"no metric is called {name!r}; {did_you_mean(name, METRICS)}")
    return METRICS[name]


def confusion_matrix(
    labels: Labels, probabilities: Probabilities, max_classes: int = MAX_MATRIX_CLASSES
) -> list[list[int]]:
    """Count the images of each class that were predicted as each class.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]``.
        max_classes: The number of classes above which there is no matrix, because it grows with
            their square; ``confused_pairs`` then has its largest errors.

    Returns:
        ``[C, C]``; rows are the true classes, columns the predicted ones. Empty for more than
        ``max_classes``.
    """
    classes = probabilities.shape[1]
    if classes > max_classes:
        return []
    codes = labels * classes + predict_classes(probabilities)
    counts: list[list[int]] = (
        np.bincount(codes, minlength=classes**2).reshape(classes, classes).tolist()
    )
    return counts


def confused_pairs(
    labels: Labels, probabilities: Probabilities, limit: int = MAX_PAIRS
) -> list[tuple[int, int, int]]:
    """List the pairs of classes that are confused most often.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]``.
        limit: The maximum number of pairs.

    Returns:
        The true class, the predicted class and the number of images, the largest number first.
    """
    predicted = predict_classes(probabilities)
    wrong = predicted != labels
    pairs, counts = np.unique(
        labels[wrong] * probabilities.shape[1] + predicted[wrong], return_counts=True
    )
    first = np.argsort(-counts, kind="stable")[:limit]
    true, guesses = np.divmod(pairs[first], probabilities.shape[1])
    return list(zip(true.tolist(), guesses.tolist(), counts[first].tolist(), strict=True))
