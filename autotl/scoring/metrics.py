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
    def higher_is_better(self) -> bool:
        """Whether a higher score is the better one."""
        return self.direction == "maximize"

    def gain(self, a: float, b: float) -> float:
        """By how much the score ``a`` is better than ``b``; below 0 if it is worse."""
        return a - b if self.higher_is_better else b - a

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


def confusion_matrix(labels: Labels, probabilities: Probabilities) -> list[list[int]]:
    """How many pictures of each class were answered as each: rows the truth, columns the answer."""
    from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

    classes = range(probabilities.shape[1])
    found: list[list[int]] = sklearn_confusion_matrix(
        labels, probabilities.argmax(1), labels=classes
    ).tolist()
    return found


def wilson_interval(score: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy ``score`` measured on ``n`` pictures (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(round(score * n), n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def effective_sample_size(right: NDArray[np.bool_], units: NDArray[np.int64]) -> int:
    """As how many independent answers those to pictures that belong together count.

    Their number over the design effect (Kish 1965), by which pictures of one patient, say, that
    are right or wrong together make an accuracy less sure; and fewer for few units (Korn & Graubard
    1998, Survey Methodology 24).

    Args:
        right: Which answers are, ``[N]``.
        units: The unit of each picture, ``[N]``.
    """
    from scipy import stats

    _, unit = np.unique(units, return_inverse=True)
    count, share = int(unit.max()) + 1, float(right.mean())
    if count == len(right):
        return count
    alone = share * (1 - share) * len(right)
    if count == 1 or not alone:
        return count
    apart = np.bincount(unit, right - share)
    together = float((apart**2).sum()) * count / (count - 1)
    fewer = float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, count - 1)) ** 2
    return max(1, round(len(right) / max(1.0, together / alone) * fewer))


def score_interval(
    metric: Metric,
    labels: Labels,
    probabilities: Probabilities,
    seed: int = 0,
    units: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """The 95 % interval of a score: Wilson's for accuracy, else a bootstrap stratified by class.

    The bootstrap takes the 2.5 % and 97.5 % quantiles of 1000 resamples (Efron 1979). Pictures that
    belong together are drawn together, and count for fewer in Wilson's, see ``effective_sample_size``.

    Args:
        metric: The score.
        labels: ``[N]``.
        probabilities: ``[N, C]``.
        seed: Of the resamples.
        units: What each picture belongs to, ``[N]``; None where each is on its own.
    """
    units = np.arange(len(labels)) if units is None else units
    if metric.name == "accuracy":
        right = probabilities.argmax(1) == labels
        return wilson_interval(float(right.mean()), effective_sample_size(right, units))
    from sklearn.utils import resample

    random = np.random.RandomState(seed)
    order = np.argsort(units, kind="stable")
    _, first = np.unique(units[order], return_index=True)
    members = np.split(order, first[1:])
    tied = len(members) < len(labels)
    pure = all(len(set(labels[rows].tolist())) == 1 for rows in members)
    strata = labels[order[first]] if pure else None
    scores = []
    for _ in range(1000):
        drawn = resample(np.arange(len(members)), stratify=strata, random_state=random)
        rows = np.concatenate([members[unit] for unit in drawn]) if tied else order[drawn]
        scores.append(metric.score(labels[rows], probabilities[rows]))
    low, high = np.nanquantile(scores, (0.025, 0.975))  # such as AUROC has none of one class
    return float(low), float(high)
