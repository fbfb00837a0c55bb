"""Comparison of candidates on the same examples: the best, and those indistinguishable from it.

Every candidate is trained in the same runs, each with its own seed and validation examples, and
every prediction counts: candidates are compared by the differences of what the same example
contributes to their scores (see ``influence``). Two kinds of chance are in such a difference.

- The examples: the variance of the differences between examples, or between sampling units, which
  hundreds of predictions determine well.
- The training: another seed gives another score. A few runs hardly determine that variance, so the
  factor by which runs differ more than their examples explain is shrunk to what is usual, as limma
  moderates variances (Smyth 2004, SAGMB 3), with ``PRIOR_FACTOR`` and ``PRIOR_DEGREES``. It is
  common to all candidates but those whose runs differ far more than those of the others: their
  noise says nothing about the other pairs, and each of their pairs has a factor of its own.

Which candidates are tied is tested by ranges (Tukey's studentized range), step by step from the
one farthest behind the best: first as one of k, then, if it is not tied, the next one as one of
k - 1, and so on until one is tied, and with it all that are closer (Newman 1939, Biometrika 31).
Equal candidates are then all reported as statistically indistinguishable ("tied") 95 times in 100,
whatever their number, and the truly best one is among the tied as often: of its rivals, those that
are still there can only be as good or worse. What steps inflate is the error rate among candidates
behind the best, about which nothing is said. Like the subset of Gupta 1965 (Technometrics 7), the
tied are those that may be the best; printed differences have simultaneous intervals (Tukey 1949,
Biometrics 5).

Nadeau & Bengio's correction for common training images is not applied: it is about other data, and
the question here is which recipe is best on these.

Shapes: k candidates, S runs, E evaluations (an example in a run), U sampling units.
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

PRIOR_FACTOR, PRIOR_DEGREES = 1.25, 12
"""The usual variance of runs relative to that of their examples, and its weight in runs."""

UNSTABLE_LEVEL = 0.05
"""The error rate at which one of several candidates is taken to be less stable than the others."""

LATENCY_TOLERANCE = 0.1
"""Latencies within this fraction of the lowest count as equal: their order may be by chance."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Results:
    """The results of candidates in the same runs, NaN where a candidate has no result.

    Attributes:
        scores: The score of each candidate in each run, ``[k, S]``.
        contributions: What each evaluation contributes to them, see ``influence``, ``[k, E]``.
        runs: The run of each evaluation, from 0, ``[E]``.
        units: The sampling unit of each evaluation, the same in all runs, ``[E]``.
        unit: A large difference between two contributions of one example: 1 for an accuracy.
    """

    scores: Scores
    contributions: Scores
    runs: NDArray[np.int64]
    units: NDArray[np.int64]
    unit: float = 1.0


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def difference_unit(has_unit: bool, constant: float | None) -> float:
    """Return a large difference between two contributions of one example, see ``Results.unit``.

    Args:
        has_unit: Whether the metric is in the unit of the targets; see ``metrics.Metric``.
        constant: The score of a constant prediction, which is such a difference then.
    """
    return abs(constant) if has_unit and constant else 1.0


def approximate_standard_error(low: float, high: float) -> float:
    """Return the standard error of a difference, given its interval; about four of them wide."""
    return (high - low) / 4


@dataclass(frozen=True)
class Standing:
    """How one candidate compares with the best.

    Attributes:
        mean: Mean score over the runs; where the runs differ, as if all had been in all runs.
        difference: Candidate minus best, with a simultaneous interval: all of them hold together.
        tied: Whether the candidate is statistically indistinguishable from the best. The interval
            of a candidate that is not may still contain 0, because it is the wider one for k.
        training_variance: The variance of its mean score that is due to the training.
    """

    mean: float
    difference: Interval
    tied: bool
    training_variance: float


@dataclass(frozen=True)
class Comparison:
    """A comparison of candidates.

    Attributes:
        standings: One for each candidate.
        detectable: The smallest difference to the best that could be seen, by the median.
    """

    standings: list[Standing]
    detectable: float


@dataclass(frozen=True, eq=False)
class _Noise:
    """By how much runs differ more than their examples explain.

    Attributes:
        factors: As a factor of the variance of the examples, for each pair, ``[k, k]``.
        degrees: The degrees of freedom of the variance of each pair, ``[k, k]``.
    """

    factors: Scores
    degrees: NDArray[np.int64]


def compare(
    results: Results,
    *,
    higher_is_better: bool = True,
    num_candidates: int | None = None,
    reference: int | None = None,
) -> Comparison:
    """Compare each of several candidates with the best of them.

    Args:
        results: Of at least two candidates in at least one run; one candidate has all runs.
        higher_is_better: Whether a higher score is the better one.
        num_candidates: The best is selected among this many first ones; None for all.
        reference: Index of the candidate to compare with; None for the best.
    """
    means = additive_means(results.scores)
    if selected := reference is None:
        reference = _index_of_best(means[:num_candidates], higher_is_better)
    variances = _difference_variances(results)
    noise = _estimate_noise(results, variances)
    factors, degrees = noise.factors[reference], noise.degrees[reference]

    gaps, others = means - means[reference], np.arange(len(means)) != reference
    # The studentized range is in standard errors of a mean, not of a difference.
    errors = np.sqrt(factors * variances[reference] / 2)
    distances = np.zeros(len(means))
    distances[others] = np.abs(gaps[others]) / errors[others]
    widest = np.array([_studentized_range(len(means), each) for each in degrees.tolist()])
    tied, quantiles = distances <= widest, widest
    if selected:
        first = slice(num_candidates)
        tied[first], step = _stepwise(distances[first], degrees[first])
        quantiles = np.array([_studentized_range(step, each) for each in degrees.tolist()])
    training = _training_variances(results, variances, noise)
    return Comparison(
        [
            Standing(mean, Interval(gap, gap - margin, gap + margin), is_tied, variance)
            for mean, gap, margin, is_tied, variance in zip(
                means.tolist(), gaps.tolist(), (widest * errors).tolist(), tied.tolist(),
                training.tolist(), strict=True,
            )
        ],
        detectable=float(np.median((quantiles * errors)[others])),
    )  # fmt: skip


def additive_means(scores: Scores) -> Scores:
    """The mean score ``[k]`` of each candidate over all runs.

    A candidate without a result in some runs gets the mean that it would have had if it differed
    from the others there as in its own runs: least squares on effects of candidates and runs. A run
    with a single candidate says nothing about differences and is left out, unless a candidate has
    no other one. No mean is beyond the scores.

    Args:
        scores: ``[k, S]``, NaN where there is no result.
    """
    present = np.isfinite(scores)
    if present.all():
        means: Scores = scores.mean(1)
        return means
    shared = present & (present.sum(0) > 1)
    if shared.any(1).all():
        present = shared
    k, runs = scores.shape
    candidate, run = np.nonzero(present)
    design = np.concatenate([np.eye(k)[candidate], np.eye(runs)[run]], axis=1)
    effects = np.linalg.lstsq(design, scores[present], rcond=None)[0]
    used = present.any(0)
    adjusted = effects[:k] + effects[k:][used].mean()
    observed = scores[present]
    clipped: Scores = np.clip(adjusted, observed.min(), observed.max())
    return clipped


def _difference_variances(results: Results) -> Scores:
    """The variance ``[k, k]`` of the difference of two means that is due to the examples.

    It is that of the units' sums of differences, plus that of one more unit in which one candidate
    is right and the other is wrong: two candidates with equal predictions may differ on others.
    """
    k, runs = results.scores.shape
    _, unit = np.unique(results.units, return_inverse=True)
    present = np.isfinite(results.scores)
    sizes = np.bincount(results.runs, minlength=runs)
    sums = [np.bincount(results.runs, row, runs) for row in results.contributions]
    deviations = results.contributions - (np.array(sums) / sizes)[:, results.runs]
    variances = np.zeros((k, k))
    for a in range(k):
        for b in range(a):
            common = present[a] & present[b]
            weights = np.where(common, 1 / (max(1, common.sum()) * sizes), 0.0)[results.runs]
            used = weights > 0
            values = (deviations[a, used] - deviations[b, used]) * weights[used]
            _, own = np.unique(unit[used], return_inverse=True)
            by_unit = np.bincount(own, values)
            units = max(2, len(by_unit))
            variance = float((by_unit**2).sum()) * units / (units - 1)
            variance += (results.unit / units) ** 2
            variances[a, b] = variances[b, a] = variance
    return variances


def _estimate_noise(results: Results, variances: Scores) -> _Noise:
    """Estimate by how much runs differ more than the ``variances`` of pairs explain.

    The factor is common to all pairs of stable candidates, and moderated. A pair with an unstable
    one has a factor of its own, which is not moderated, because it is not of the usual size.
    """
    scores, k = results.scores, len(results.scores)
    units = max(1, len(np.unique(results.units)) - 1)
    between, runs = _run_variances(scores)
    stable = _stable_candidates(scores, between, variances)
    common = np.outer(stable, stable) if stable.sum() > 1 else np.zeros((k, k), dtype=bool)
    measured = np.triu(common & (runs > 1), 1)
    ratio = between[measured].sum() / variances[measured].sum() if measured.any() else 0.0
    degrees = _run_degrees(scores[stable]) if common.any() else 0
    moderated = (PRIOR_DEGREES * PRIOR_FACTOR + degrees * ratio) / (PRIOR_DEGREES + degrees)
    own = np.divide(between, variances, out=np.zeros((k, k)), where=variances > 0)
    factors = np.where(common | (runs < 2), moderated, own)
    all_degrees = np.where(common | (runs < 2), PRIOR_DEGREES + degrees, runs - 1)
    return _Noise(
        np.maximum(1.0, factors),  # the training cannot reduce the variance
        np.minimum(all_degrees, units),
    )


def _run_variances(scores: Scores) -> tuple[Scores, NDArray[np.int64]]:
    """The variance ``[k, k]`` of the mean difference of two candidates between runs.

    The second array has the number of the common runs of each pair; with less than two of them the
    variance is 0.
    """
    k = len(scores)
    between, runs = np.zeros((k, k)), np.zeros((k, k), dtype=np.int64)
    for a in range(k):
        for b in range(k):
            differences = (scores[a] - scores[b])[np.isfinite(scores[a] - scores[b])]
            runs[a, b] = count = len(differences)
            if count > 1:
                between[a, b] = float(differences.var(ddof=1)) / count
    return between, runs


def _run_degrees(scores: Scores) -> int:
    """The degrees of freedom of the residuals of effects of candidates and runs."""
    return max(0, int(np.isfinite(scores).sum()) - sum(scores.shape) + 1)


def _stable_candidates(scores: Scores, between: Scores, variances: Scores) -> NDArray[np.bool_]:
    """Find the candidates whose runs do not differ far more than those of the others.

    The least stable one is left out while an F test against the others rejects, and two others
    remain.
    """
    stable = np.ones(len(scores), dtype=bool)
    while stable.sum() > 2:
        statistics = {}
        for candidate in np.flatnonzero(stable):
            others = stable & (np.arange(len(scores)) != candidate)
            pairs = np.ix_(others, others)
            degrees, runs = _run_degrees(scores[others]), np.isfinite(scores[candidate]).sum()
            if degrees < 1 or runs < 2:
                continue
            rest = max(PRIOR_FACTOR, between[pairs].sum() / variances[pairs].sum())
            own = between[candidate, others].sum() / variances[candidate, others].sum()
            tail = stats.f.sf(own / rest, runs - 1, degrees)
            statistics[int(candidate)] = float(tail)
        least = min(statistics, key=statistics.__getitem__, default=None)
        if least is None or statistics[least] * int(stable.sum()) > UNSTABLE_LEVEL:
            break
        stable[least] = False
    return stable


def _training_variances(results: Results, variances: Scores, noise: _Noise) -> Scores:
    """The variance ``[k]`` of each mean score that is due to the training.

    That of a difference is the sum of two. The most stable candidates have equal shares in it.
    """
    k = len(variances)
    complete = np.isfinite(results.scores).all(1)
    rows = np.flatnonzero(complete) if complete.sum() > 1 else np.arange(k)
    usual = variances[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)].mean()
    excess: Scores = (noise.factors - 1) * usual
    np.fill_diagonal(excess, np.inf)
    smallest = float(excess.min()) / 2
    shares: Scores = np.maximum(smallest, excess.min(1) - smallest)
    return shares


def _stepwise(distances: Scores, degrees: NDArray[np.int64]) -> tuple[NDArray[np.bool_], int]:
    """Exclude candidates from the farthest on, while they are farther than the range of those left.

    Args:
        distances: The distance of each candidate to the best in standard errors of a mean.
        degrees: The degrees of freedom of each standard error.

    Returns:
        Which candidates are tied, and the number of candidates of the last range.
    """
    tied, left = np.ones(len(distances), dtype=bool), 2
    for step, candidate in enumerate(np.argsort(-distances, kind="stable")[:-1]):
        left = len(distances) - step
        if distances[candidate] <= _studentized_range(left, int(degrees[candidate])):
            break
        tied[candidate] = False
    return tied, left


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
    milliseconds: Sequence[tuple[float, float, float] | None], parameters: Sequence[float | None]
) -> int:
    """Find the model that is cheapest to run.

    Args:
        milliseconds: Latency of each model, the median and its lower and upper quartile; None if
            unknown, which counts as slowest.
        parameters: Number of parameters of each model, which decides between the fastest one and
            those whose quartiles overlap with its own, or are within ``LATENCY_TOLERANCE`` of its
            median; None if unknown, which counts as largest.

    Returns:
        The index of the model; of equal ones the first.
    """
    infinite = float("inf")
    times = [(infinite,) * 3 if value is None else value for value in milliseconds]
    sizes = [infinite if value is None else value for value in parameters]
    median, _, high = min(times)
    limit = max(high, median * (1 + LATENCY_TOLERANCE))
    fastest = [i for i, (_, low, _) in enumerate(times) if low <= limit]
    return min(fastest, key=sizes.__getitem__)


@cache
def t_quantile(degrees_of_freedom: int = PRIOR_DEGREES) -> float:
    """The quantile of t for a 95 % interval, by default of a moderated variance."""
    return float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, degrees_of_freedom))


@cache
def _studentized_range(k: int, degrees_of_freedom: int) -> float:
    """The 95 % quantile of the range of k equal means, in standard errors."""
    return float(stats.studentized_range.ppf(CONFIDENCE_LEVEL, k, degrees_of_freedom))


def _index_of_best(values: Scores, higher_is_better: bool) -> int:
    return int(values.argmax() if higher_is_better else values.argmin())
