"""95 % confidence intervals of metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.metrics import Labels, Metric, Probabilities

RESAMPLES = 1000
"""Bootstrap resamples for an interval."""


def wilson_interval(score: float, n: int) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of an accuracy.

    Args:
        score: The accuracy, from 0 to 1.
        n: Number of independent images that it was measured on.

    Returns:
        The lower and the upper limit.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(score * n), n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def effective_sample_size(correct: NDArray[np.bool_], units: NDArray[np.int64]) -> int:
    """The effective sample size of an accuracy measured on clustered images.

    The number of images divided by the design effect (Kish 1965): if the images of one patient,
    say, tend to be right or wrong together, the accuracy is less certain than their number
    suggests. It is reduced further for few units, by the ratio of the squared normal and t
    quantiles (Korn & Graubard 1998, Survey Methodology 24).

    Args:
        correct: Whether each prediction is correct, ``[N]``.
        units: The sampling unit (cluster) of each image, ``[N]``.
    """
    from scipy import stats

    _, unit = np.unique(units, return_inverse=True)
    num_units, accuracy = int(unit.max()) + 1, float(correct.mean())
    if num_units == len(correct):
        return num_units
    independent_variance = accuracy * (1 - accuracy) * len(correct)
    if num_units == 1 or not independent_variance:
        return num_units
    residuals = np.bincount(unit, correct - accuracy)
    clustered_variance = float((residuals**2).sum()) * num_units / (num_units - 1)
    design_effect = max(1.0, clustered_variance / independent_variance)
    small_sample = float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, num_units - 1)) ** 2
    return max(1, round(len(correct) / design_effect * small_sample))


def score_interval(
    metric: Metric,
    labels: Labels,
    probabilities: Probabilities,
    seed: int = 0,
    units: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """The 95 % confidence interval of a score.

    For accuracy this is Wilson's interval with the effective sample size. For all other metrics
    it is a percentile bootstrap, see ``bootstrap_interval``.

    Args:
        metric: The metric of the score.
        labels: ``[N]``.
        probabilities: ``[N, C]``.
        seed: Seed of the bootstrap.
        units: The sampling unit (cluster) of each image, ``[N]``; None if all are independent.

    Returns:
        The lower and the upper limit.
    """
    units = np.arange(len(labels)) if units is None else units
    if metric.name == "accuracy":
        correct = probabilities.argmax(1) == labels
        return wilson_interval(float(correct.mean()), effective_sample_size(correct, units))
    return bootstrap_interval(metric, labels, probabilities, seed, units)


def bootstrap_interval(
    metric: Metric,
    labels: Labels,
    probabilities: Probabilities,
    seed: int,
    units: NDArray[np.int64],
) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the score over ``RESAMPLES`` resamples (Efron 1979).

    A cluster bootstrap: whole sampling units are drawn. It is stratified by class where every
    unit is of one class. For the arguments see ``score_interval``.
    """
    from sklearn.utils import resample

    random = np.random.RandomState(seed)
    order = np.argsort(units, kind="stable")
    _, first = np.unique(units[order], return_index=True)
    members = np.split(order, first[1:])
    clustered = len(members) < len(labels)
    pure = all(len(set(labels[rows].tolist())) == 1 for rows in members)
    strata = labels[order[first]] if pure else None
    scores = []
    for _ in range(RESAMPLES):
        drawn = resample(np.arange(len(members)), stratify=strata, random_state=random)
        rows = np.concatenate([members[unit] for unit in drawn]) if clustered else order[drawn]
        scores.append(metric.score(labels[rows], probabilities[rows]))
    # A resample's score may be NaN: AUROC is undefined for a single class.
    low, high = np.nanquantile(scores, (0.025, 0.975))
    return float(low), float(high)
