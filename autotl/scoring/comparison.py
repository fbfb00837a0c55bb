"""Comparison of candidates on paired scores: the best, and those indistinguishable from it.

Every candidate is trained in the same runs, and a run has its own seed and split, so the scores of
candidates are paired. Plain t tests on such scores report differences that do not exist, for two
reasons. First, runs share images, so their scores are not independent: the variance of a mean is
more than ``1/S`` of that of one score, see ``data.Resample.variance_factor``. Second, the best of k
is selected because it looks best: therefore all differences to it are tested together, by the
studentized range (Tukey 1949, Biometrics 5) over the residual variance that remains when the
effects of runs and candidates are removed. Candidates that are equal are then all reported as
statistically indistinguishable ("tied") 95 times in 100, whatever their number.

Shapes: k candidates, S runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE_LEVEL = 0.95
"""Of all intervals."""

LATENCY_TOLERANCE = 0.1
"""Latencies within this fraction of the lowest count as equal: their order may be by chance."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """How one candidate compares with the best.

    Attributes:
        score: Mean over the runs, with a t interval for this candidate alone. The best of several
            means is optimistic, whatever its interval.
        difference: Candidate minus best, with a simultaneous interval: all of them hold together.
        tied: Whether the candidate is statistically indistinguishable from the best, because the
            interval of the difference contains 0.
    """

    score: Interval
    difference: Interval
    tied: bool


def compare_scores(
    scores: Scores,
    variance_factor: float,
    *,
    higher_is_better: bool = True,
    resolution: float = 0.0,
    num_candidates: int | None = None,
    reference: int | None = None,
) -> list[Standing]:
    """Compare each of several candidates with the best of them.

    Args:
        scores: ``[k, S]``, at least two candidates and two runs, all finite.
        variance_factor: The variance of the mean of S scores relative to that of one score; 1/S
            if they are independent, else more.
        higher_is_better: Whether a higher score is the better one.
        resolution: The smallest possible change of a score, such as 1/n for the accuracy on n
            images. The variance is taken to be at least that of its rounding, ``resolution**2 /
            12``.
        num_candidates: The best is selected among this many first rows; None for all.
        reference: Index of the row to compare with; None for the best.

    Returns:
        One ``Standing`` for each row.
    """
    k, runs = scores.shape
    means = scores.mean(1)
    if reference is None:
        reference = _index_of_best(means[:num_candidates], higher_is_better)
    degrees_of_freedom = (k - 1) * (runs - 1)
    residuals = scores - means[:, None] - scores.mean(0) + scores.mean()
    rounding_variance = resolution**2 / 12
    variance = max(float((residuals**2).sum()) / degrees_of_freedom, rounding_variance)
    margin = _studentized_range(k, degrees_of_freedom) * (variance * variance_factor) ** 0.5

    own_variances = np.maximum(scores.var(1, ddof=1), rounding_variance)
    t_quantile = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, runs - 1))
    half_widths = t_quantile * np.sqrt(own_variances * variance_factor)
    standings = []
    for mean, half_width in zip(means.tolist(), half_widths.tolist(), strict=True):
        difference = mean - float(means[reference])
        standings.append(
            Standing(
                score=Interval(mean, mean - half_width, mean + half_width),
                difference=Interval(difference, difference - margin, difference + margin),
                tied=abs(difference) <= margin,
            )
        )
    return standings


def nested_selection_score(scores: Scores, *, higher_is_better: bool = True) -> float:
    """Estimate the winner's score without selection bias.

    The winner's own mean is optimistic, because the winner was selected by it. Here each run scores
    the candidate that is best in the other runs (Varma & Simon 2006, BMC Bioinformatics 7).

    Args:
        scores: ``[k, S]``, at least two runs.
        higher_is_better: Whether a higher score is the better one.

    Returns:
        The mean over the runs.
    """
    other_runs = scores.sum(1, keepdims=True) - scores
    runs = np.arange(scores.shape[1])
    selected = [_index_of_best(other_runs[:, run], higher_is_better) for run in runs]
    return float(scores[selected, runs].mean())


def index_of_cheapest(
    milliseconds: Sequence[float | None], parameters: Sequence[float | None]
) -> int:
    """Find the model that is cheapest to run.

    Args:
        milliseconds: Latency of each model for one image; None if unknown, which counts as slowest.
        parameters: Number of parameters of each model, which decides between latencies within
            ``LATENCY_TOLERANCE`` of the lowest; None if unknown, which counts as largest.

    Returns:
        The index of the model; of equal ones the first.
    """
    times, sizes = (
        [float("inf") if value is None else value for value in values]
        for values in (milliseconds, parameters)
    )
    fastest = [i for i, time in enumerate(times) if time <= min(times) * (1 + LATENCY_TOLERANCE)]
    return min(fastest, key=sizes.__getitem__)


@cache
def _studentized_range(k: int, degrees_of_freedom: int) -> float:
    """The 95 % quantile of the range of k equal means, in standard errors."""
    return float(stats.studentized_range.ppf(CONFIDENCE_LEVEL, k, degrees_of_freedom))


def _index_of_best(values: Scores, higher_is_better: bool) -> int:
    return int(values.argmax() if higher_is_better else values.argmin())
