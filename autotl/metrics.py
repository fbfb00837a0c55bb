"""What a score is: the usual metrics by name, and the intervals around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotl.errors import StudyError, did_you_mean

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """A score of probabilities ``[N, classes]`` against labels ``[N]``, and which way is better."""

    name: str
    direction: Literal["maximize", "minimize"]
    score: Callable[[Labels, Probabilities], float]

    @property
    def higher(self) -> bool:
        """Whether a higher score is the better one."""
        return self.direction == "maximize"

    def gain(self, a: float, b: float) -> float:
        """By how much the score ``a`` is better than ``b``; below 0 if it is worse."""
        return a - b if self.higher else b - a

    def better(self, a: float, b: float) -> bool:
        """Whether the score ``a`` is better than ``b``."""
        return self.gain(a, b) > 0


# Written out, because an interval takes a thousand scores and an ensemble hundreds, and of the 2 to
# 7 ms that scikit-learn takes for one most goes into checks. The tests hold them against it.


def _accuracy(labels: Labels, probabilities: Probabilities) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def _balanced_accuracy(labels: Labels, probabilities: Probabilities) -> float:
    right, truths, _ = _counts(labels, probabilities)
    present = truths > 0
    return float((right[present] / truths[present]).mean())


def _macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    right, truths, guesses = _counts(labels, probabilities)
    known = truths + guesses > 0
    return float((2 * right[known] / (truths + guesses)[known]).mean())


def _auroc(labels: Labels, probabilities: Probabilities) -> float:
    from scipy.stats import rankdata

    # One class against the rest, over the classes that are there, each as the rank-sum statistic
    # (Hanley & McNeil 1982, Radiology 143).
    truths = np.eye(probabilities.shape[1], dtype=bool)[labels]
    inside = truths.sum(0)
    ranks = (rankdata(probabilities, axis=0) * truths).sum(0)
    present = (inside > 0) & (inside < len(labels))
    if not present.any():
        return float("nan")
    inside = inside[present]
    above = ranks[present] - inside * (inside + 1) / 2
    return float((above / (inside * (len(labels) - inside))).mean())


def _log_loss(labels: Labels, probabilities: Probabilities) -> float:
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(right, np.finfo(probabilities.dtype).eps)).mean())


def _counts(labels: Labels, probabilities: Probabilities) -> tuple[Counts, Counts, Counts]:
    """By class ``[C]``: right answers, pictures, answers."""
    classes = probabilities.shape[1]
    answers = probabilities.argmax(1)
    right = np.bincount(labels[answers == labels], minlength=classes)
    return right, np.bincount(labels, minlength=classes), np.bincount(answers, minlength=classes)


METRICS = {
    m.name: m
    for m in (
        Metric("accuracy", "maximize", _accuracy),
        Metric("balanced_accuracy", "maximize", _balanced_accuracy),
        Metric("macro_f1", "maximize", _macro_f1),
        Metric("auroc", "maximize", _auroc),
        Metric("log_loss", "minimize", _log_loss),
    )
}


def get(name: str) -> Metric:
    """The metric of that name.

    Raises:
        StudyError: There is none; the message has near names.
    """
    if name not in METRICS:
        raise StudyError(f"no metric is called {name!r}; {did_you_mean(name, METRICS)}")
    return METRICS[name]


def confusion(labels: Labels, probabilities: Probabilities) -> list[list[int]]:
    """How many pictures of each class were answered as each: rows the truth, columns the answer."""
    from sklearn.metrics import confusion_matrix

    classes = range(probabilities.shape[1])
    found: list[list[int]] = confusion_matrix(
        labels, probabilities.argmax(1), labels=classes
    ).tolist()
    return found


def wilson(score: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy ``score`` measured on ``n`` pictures (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(round(score * n), n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def interval(
    metric: Metric, labels: Labels, probabilities: Probabilities, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a score: Wilson's for accuracy, else a bootstrap stratified by class.

    The bootstrap takes the 2.5 % and 97.5 % quantiles of 1000 resamples (Efron 1979).
    """
    if metric.name == "accuracy":
        return wilson(metric.score(labels, probabilities), len(labels))
    from sklearn.utils import resample

    random = np.random.RandomState(seed)
    rows = np.arange(len(labels))
    draws = (resample(rows, stratify=labels, random_state=random) for _ in range(1000))
    scores = [metric.score(labels[draw], probabilities[draw]) for draw in draws]
    low, high = np.quantile(scores, (0.025, 0.975))
    return float(low), float(high)
