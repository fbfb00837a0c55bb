"""95 % confidence intervals of metrics.

All are computed from what each example contributes to the score (see ``influence``): Wilson's
interval for scores between 0 and 1, with the sample size at which an accuracy would be as variable,
and an interval of the logarithm for losses. A bootstrap would have no width if all predictions are
correct, and too little in small classes: all resamples have the same few examples of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.influence import Contributions, contributions
from autotl.scoring.metrics import Metric, Predictions, Targets

BLEND = 2.0
"""The number of errors that count as much as the usual variance, for the variance of an AUROC."""

_NORMAL_QUANTILE = 1.959964
"""The 97.5 % quantile of the normal distribution."""


def wilson_interval(score: float, n: float) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of an accuracy.

    Args:
        score: The accuracy, from 0 to 1.
        n: Number of independent images that it was measured on, or the effective one.

    Returns:
        The lower and the upper limit.
    """
    z2 = _NORMAL_QUANTILE**2
    centre = score + z2 / (2 * n)
    half_width = math.sqrt(z2) * math.sqrt(max(0.0, score * (1 - score)) / n + z2 / (4 * n**2))
    low, high = ((centre + sign * half_width) / (1 + z2 / n) for sign in (-1, 1))
    # Rounding must not exclude a score of 0 or 1.
    return max(0.0, min(low, score)), min(1.0, max(high, score))


def effective_sample_size(values: NDArray[np.generic], units: NDArray[np.int64]) -> float:
    """The effective sample size of a mean over clustered images.

    The number of images divided by the design effect (Kish 1965): if the images of one patient,
    say, tend to be right or wrong together, the accuracy is less certain than their number
    suggests. It is reduced further for few units, by the ratio of the squared normal and t
    quantiles (Korn & Graubard 1998, Survey Methodology 24).

    Args:
        values: What is averaged, such as whether each prediction is correct, ``[N]``.
        units: The sampling unit (cluster) of each image, ``[N]``.
    """
    from scipy import stats

    _, unit = np.unique(units, return_inverse=True)
    num_units = int(unit.max()) + 1
    if num_units == len(values):
        return num_units
    residuals = values - values.mean()
    independent_variance = float((residuals**2).sum())
    if num_units == 1 or not independent_variance:
        return num_units
    clustered_variance = float((np.bincount(unit, residuals) ** 2).sum())
    clustered_variance *= num_units / (num_units - 1)
    design_effect = max(1.0, clustered_variance / independent_variance)
    small_sample = float(_NORMAL_QUANTILE / stats.t.ppf(0.975, num_units - 1)) ** 2
    return max(1.0, len(values) / design_effect * small_sample)


def score_interval(
    metric: Metric,
    targets: Targets,
    predictions: Predictions,
    units: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """The 95 % confidence interval of a score.

    Args:
        metric: The metric of the score.
        targets: ``[N, ...]``.
        predictions: ``[N, K]``.
        units: The sampling unit (cluster) of each image, ``[N]``; None if all are independent.

    Returns:
        The lower and the upper limit; NaN if the score is not defined.
    """
    values = contributions(metric, targets, predictions)
    return mean_interval(metric, values, targets, units, predictions.shape[1])


def mean_interval(
    metric: Metric,
    values: Contributions,
    targets: Targets,
    units: NDArray[np.int64] | None,
    outputs: int,
    training_variance: float = 0.0,
) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of contributions to a score.

    Args:
        metric: The metric of the score.
        values: The contributions, of one model or of several that were trained alike, ``[N]``.
        targets: ``[N, ...]``.
        units: The sampling unit (cluster) of each image, ``[N]``; None if all are independent.
        outputs: The number K of numbers in a prediction, such as the classes.
        training_variance: The variance of the score that is not due to the examples.

    Returns:
        The lower and the upper limit; NaN if the score is not defined.
    """
    score, units = float(values.mean()), np.arange(len(targets)) if units is None else units
    if not math.isfinite(score):
        return math.nan, math.nan
    effective = effective_sample_size(values, units)
    if metric.bounds == (0.0, math.inf):
        guess = 0.0 if metric.has_unit else math.log(max(2, outputs))
        return _loss_interval(values, effective, guess, training_variance)
    if metric.bounds != (0.0, 1.0) or not metric.higher_is_better:
        return _clipped_interval(metric, values, effective, training_variance)
    n = _equivalent_size(metric, values, targets) * effective / len(targets)
    spread = score * (1 - score)
    if spread > 0:
        n = spread / (spread / n + training_variance)
    return wilson_interval(score, n)


def _equivalent_size(metric: Metric, values: Contributions, targets: Targets) -> float:
    """The number of independent images on which an accuracy would be as variable as the score.

    A mean over C classes, each with a recall of the same variance, is as variable as an accuracy on
    ``C**2 / sum(1 / n_c)`` images. The variance of F1 is estimated, but taken to be no less than
    that, because the estimate is too small in small classes. The variance of AUROC is estimated
    too, as far as enough examples are ranked too low. Of other metrics the variance is estimated.
    """
    score, n = float(values.mean()), len(values)
    if metric.fraction_of == "examples":
        return n
    variance = float(values.var(ddof=1)) / n if n > 1 else 0.0
    spread = score * (1 - score)
    if not metric.fraction_of:
        return spread / variance if min(spread, variance) > 0 else n
    _, counts = np.unique(targets, return_counts=True)
    usual = len(counts) ** 2 / float((1 / counts).sum())
    if metric.name == "balanced_accuracy" or min(spread, variance) <= 0:
        return usual
    if metric.name == "macro_f1":
        return min(usual, spread / variance)
    errors = int((values < score - 1e-9).sum())
    weight = errors / (errors + BLEND)
    return 1 / (weight * variance / spread + (1 - weight) / usual)


def _loss_interval(
    values: Contributions, effective: float, guess: float, training_variance: float
) -> tuple[float, float]:
    """The interval of a mean loss: a t interval of its logarithm, because losses are skewed.

    The upper limit allows for one more image with the largest loss, or ``guess``, if that is
    larger: of a model that is mostly right, most samples lack the images on which it is wrong. The
    lower limit allows for the change that one more image without a loss would make.
    """
    from scipy import stats

    mean, largest = float(values.mean()), max(float(values.max()), guess)
    more = (effective * mean + largest) / (effective + 1)
    squares = (effective * float((values**2).mean()) + largest**2) / (effective + 1)
    variance = (squares - more**2) / effective + training_variance
    error = max(math.sqrt(max(0.0, variance)), more / (effective + 1))
    quantile = float(stats.t.ppf(0.975, max(1.0, effective - 1)))
    ratio = math.exp(quantile * error / more) if more > 0 else 1.0
    return mean / ratio, more * ratio


def _clipped_interval(
    metric: Metric, values: Contributions, effective: float, training_variance: float
) -> tuple[float, float]:
    """A t interval of the mean, within the bounds of the metric."""
    from scipy import stats

    variance = float(values.var(ddof=1)) / effective if len(values) > 1 else 0.0
    quantile = float(stats.t.ppf(0.975, max(1.0, effective - 1)))
    mean, half_width = float(values.mean()), quantile * math.sqrt(variance + training_variance)
    low, high = metric.bounds
    return max(low, mean - half_width), min(high, mean + half_width)
