"""What a score is: scikit-learn's metrics by name, and the intervals around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotl.errors import StudyError, did_you_mean

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Metric:
    """A score of probabilities ``[N, classes]`` against labels ``[N]``, and which way is better."""

    name: str
    direction: Literal["maximize", "minimize"]
    score: Callable[[Labels, Probabilities], float]

    def better(self, a: float, b: float) -> bool:
        """Whether the score ``a`` is better than ``b``."""
        return a > b if self.direction == "maximize" else a < b


def _accuracy(labels: Labels, probabilities: Probabilities) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def _balanced_accuracy(labels: Labels, probabilities: Probabilities) -> float:
    from sklearn.metrics import recall_score

    return float(recall_score(labels, probabilities.argmax(1), average="macro", labels=_in(labels)))


def _macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(1), average="macro", zero_division=0.0))


def _auroc(labels: Labels, probabilities: Probabilities) -> float:
    from sklearn.metrics import roc_auc_score

    # One class against the rest, over the classes that are there: scikit-learn's own multi-class
    # form refuses a part in which a class is missing.
    present = [c for c in _in(labels) if (labels != c).any()]
    if not present:
        return float("nan")
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]))


def _log_loss(labels: Labels, probabilities: Probabilities) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(labels, probabilities, labels=range(probabilities.shape[1])))


def _in(labels: Labels) -> list[int]:
    return [int(c) for c in np.unique(labels)]


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
