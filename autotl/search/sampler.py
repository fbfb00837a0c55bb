"""Drawing the parameters of the next trial: a tree-structured Parzen estimator (TPE).

Optuna's own `TPESampler` does the same with other settings, which it no longer lets its users
choose. They are chosen for searches of some thirty trials, each scored by a single noisy training:
with a tenth of the trials counted as good, and a prior with the weight of one, Optuna draws the
luckiest two or three trials again and again. `studies/benchmarks/README.md` compares the two.

Sources: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), for the estimator;
Falkner et al., "BOHB: Robust and Efficient Hyperparameter Optimization at Scale" (2018), for one
joint over several parameters; Watanabe, "Tree-Structured Parzen Estimator: Understanding Its
Algorithm Components and Their Roles for Better Empirical Performance" (2023), for the settings.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotl.errors import OutOfTime

Floats = NDArray[np.float64]

STARTUP_TRIALS = 10
"""Number of finished trials before which parameters are drawn at random."""

GOOD_FRACTION = 0.25
"""Fraction of the finished trials that counts as good."""

MAX_GOOD = 25
"""Maximum number of good trials."""

MAX_BAD = 300
"""Maximum number of other trials, the latest, which bounds the cost of a draw."""

PRIOR_WEIGHT = 8.0
"""Weight of the almost uniform prior, in trials."""

CANDIDATES = 24
"""Number of candidates drawn from the good trials' density, of which the best is taken."""

DESCRIPTION = (
    f"TPE(startup_trials={STARTUP_TRIALS}, good_fraction={GOOD_FRACTION:g}, max_good={MAX_GOOD}, "
    f"prior_weight={PRIOR_WEIGHT:g}, candidates={CANDIDATES})"
)
"""The sampler and its settings, as recorded with a study."""


def make_sampler(seed: int, without: Mapping[str, Collection[str]] | None = None) -> BaseSampler:
    """Make the sampler of a search; two with the same seed draw the same after the same trials.

    Args:
        seed: Seed of the random number generator.
        without: Choices that are not drawn, by the name of their parameter; others must be left.
    """
    return ParzenSampler(seed, without or {})


class ParzenSampler(BaseSampler):
    """Tree-structured Parzen estimator for single-objective studies.

    Parameters that all completed trials have are drawn jointly, the others one by one. Of several
    candidates, the one with the largest ratio of the density of good trials to that of the other
    trials is taken. Pruned trials and those that violate a constraint are never good, failed ones
    are ignored, and running ones count as bad, so that trials drawn side by side differ ("constant
    liar", Ginsbourger et al. 2010).

    Args:
        seed: Seed of the random number generator.
        without: See ``make_sampler``.
    """

    def __init__(self, seed: int, without: Mapping[str, Collection[str]]) -> None:
        self._rng, self._without = np.random.default_rng(seed), without
        self._good: Sequence[FrozenTrial] = ()
        self._bad: Sequence[FrozenTrial] = ()

    def reseed_rng(self) -> None:
        """Seed the random number generator from the operating system."""
        self._rng = np.random.default_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Split the earlier trials; return the parameters that all completed ones have.

        Optuna calls this once for each trial, before any parameter is drawn.
        """
        trials = study.get_trials(deepcopy=False)
        trials = [other for other in trials if other.number != trial.number and _counts(other)]
        self._good, self._bad = _split(trials, study.direction)
        complete = [t for t in (*self._good, *self._bad) if t.state == TrialState.COMPLETE]
        if not complete:
            return {}
        names = set.intersection(*(set(other.params) for other in complete))
        space = complete[-1].distributions
        return {name: space[name] for name in sorted(names) if not space[name].single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the parameters of ``search_space`` jointly."""
        return self._draw(search_space) if search_space else {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter, from the trials that have it."""
        return self._draw({param_name: param_distribution})[param_name]

    def _draw(self, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        good, bad = (_Mixture(space, each, self._without) for each in (self._good, self._bad))
        candidates = good.sample(self._rng, CANDIDATES)
        best = int(np.argmax(good.density(candidates) / bad.density(candidates)))
        values = {name: column[best].item() for name, column in candidates.items()}
        return {name: d.to_external_repr(values[name]) for name, d in space.items()}


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is an observation: it was not enqueued, and did not fail but for its time."""
    if trial.state == TrialState.FAIL:
        return bool(trial.user_attrs.get("status") == OutOfTime.status)
    return trial.state != TrialState.WAITING


def _split(
    trials: Sequence[FrozenTrial], direction: StudyDirection
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The good trials and the others, both empty until the startup trials have finished."""
    finished = sum(trial.state != TrialState.RUNNING for trial in trials)
    if finished < STARTUP_TRIALS:
        return [], []
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    good = _best(complete, min(math.ceil(GOOD_FRACTION * finished), MAX_GOOD), direction)
    numbers = {trial.number for trial in good}
    latest = islice((t for t in reversed(trials) if t.number not in numbers), MAX_BAD)
    return good, list(latest)[::-1]


def _best(
    complete: Sequence[FrozenTrial], count: int, direction: StudyDirection
) -> list[FrozenTrial]:
    """The best ``count`` trials that violate no constraint, without sorting all trials."""
    first = heapq.nlargest if direction == StudyDirection.MAXIMIZE else heapq.nsmallest
    looked_at, feasible = count, list[FrozenTrial]()
    while True:
        best = first(looked_at, complete, key=lambda t: t.value or 0.0)
        feasible = [t for t in best if max(t.constraints.values(), default=0) <= 0]
        if len(feasible) >= count or looked_at >= len(complete):
            return feasible[:count]
        looked_at *= 4  # some violate a constraint


class _Mixture:
    """Parzen estimator: a mixture of one product kernel for each trial and one for the prior.

    Values are in Optuna's internal representation: the index of a choice, or the number itself.

    Args:
        space: The parameters.
        trials: The observations; those that lack a parameter are left out.
        without: See ``make_sampler``.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        trials: Sequence[FrozenTrial],
        without: Mapping[str, Collection[str]],
    ) -> None:
        params = [trial.params for trial in trials if space.keys() <= trial.params.keys()]
        weights = np.append(np.ones(len(params)), PRIOR_WEIGHT)
        self.weights = weights / weights.sum()
        self.kernels: dict[str, _CategoricalKernels | _NumericalKernels] = {}
        for name, distribution in space.items():
            values = np.array([distribution.to_internal_repr(p[name]) for p in params])
            if isinstance(distribution, CategoricalDistribution):
                choices, omitted = distribution.choices, without.get(name, ())
                left_out = [i for i, choice in enumerate(choices) if choice in omitted]
                self.kernels[name] = _CategoricalKernels(len(choices), values, left_out)
            elif isinstance(distribution, FloatDistribution | IntDistribution):
                self.kernels[name] = _NumericalKernels(distribution, values)

    def sample(self, rng: np.random.Generator, count: int) -> dict[str, Floats]:
        """Draw ``count`` values of every parameter."""
        drawn = rng.choice(len(self.weights), count, p=self.weights)
        return {name: kernels.sample(rng, drawn) for name, kernels in self.kernels.items()}

    def density(self, values: Mapping[str, Floats]) -> Floats:
        """Density at every value ``[N]``, up to a factor that depends on the space alone."""
        factors = [kernels.density(values[name]) for name, kernels in self.kernels.items()]
        result: Floats = np.prod(factors, axis=0) @ self.weights
        return result


class _CategoricalKernels:
    """A distribution over choices for each observation, and a uniform one, the prior, as the last.

    Each mixes the observed choice with all choices, by the prior's weight. Those that are left out
    have the probability 0.
    """

    def __init__(self, choices: int, observed: Floats, left_out: Sequence[int] = ()) -> None:
        count = len(observed)
        masses = np.full((count + 1, choices), PRIOR_WEIGHT / (count + 1))
        masses[np.arange(count), observed.astype(int)] += 1
        masses[:, list(left_out)] = 0
        self.probabilities: Floats = masses / masses.sum(axis=1, keepdims=True)

    def sample(self, rng: np.random.Generator, drawn: NDArray[np.int64]) -> Floats:
        """Draw a choice from each kernel whose index is in ``drawn [N]``."""
        cumulative = self.probabilities.cumsum(axis=1)[drawn, :-1]
        choices: Floats = (cumulative < rng.random((len(drawn), 1))).sum(axis=1, dtype=np.float64)
        return choices

    def density(self, values: Floats) -> Floats:
        """Probabilities ``[N, kernels]`` of the choices ``[N]``."""
        return self.probabilities[:, values.astype(int)].T


class _NumericalKernels:
    """A truncated normal distribution for each observation, and a wide one, the prior, as the last.

    The range, or its logarithm, is scaled to [0, 1]. The standard deviation of a kernel is the
    distance to its farther neighbour (Bergstra et al. 2011), but at least 1 % of the range and
    1 / (observations + 2). The prior is centred; its standard deviation is the range.
    """

    def __init__(self, distribution: FloatDistribution | IntDistribution, observed: Floats) -> None:
        self.distribution = distribution
        half = (distribution.step or 0) / 2  # so that the first and the last step are as wide
        low, high = distribution.low - half, distribution.high + half
        if distribution.log:
            low, high = math.log(low), math.log(high)
        self.low, self.high = low, high
        means = self._scale(observed)
        self.means, self.stds = np.append(means, 0.5), np.append(_bandwidths(means), 1.0)
        cdf = np.vectorize(NormalDist().cdf, otypes=[np.float64])
        self.below: Floats = cdf(-self.means / self.stds)
        self.masses: Floats = cdf((1 - self.means) / self.stds) - self.below

    def sample(self, rng: np.random.Generator, drawn: NDArray[np.int64]) -> Floats:
        """Draw a number from each kernel whose index is in ``drawn [N]``."""
        quantiles = self.below[drawn] + rng.random(len(drawn)) * self.masses[drawn]
        inverse_cdf = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
        normal = inverse_cdf(quantiles.clip(1e-12, 1 - 1e-12))
        scaled = (self.means[drawn] + self.stds[drawn] * normal).clip(0, 1)
        values: Floats = self.low + scaled * (self.high - self.low)
        values = np.exp(values) if self.distribution.log else values
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        if step:
            values = low + step * ((values - low) / step).round()
        return values.clip(low, high)

    def density(self, values: Floats) -> Floats:
        """Densities ``[N, kernels]`` at the numbers ``[N]``, times the square root of 2 pi."""
        distances = (self._scale(values)[:, None] - self.means) / self.stds
        densities: Floats = np.exp(-0.5 * distances**2) / (self.stds * self.masses)
        return densities

    def _scale(self, values: Floats) -> Floats:
        values = np.log(values) if self.distribution.log else values
        scaled: Floats = ((values - self.low) / (self.high - self.low)).clip(0, 1)
        return scaled


def _bandwidths(means: Floats) -> Floats:
    """Standard deviations of kernels at ``means [N]`` in [0, 1].

    The ends of the range count as neighbours only where there is no other observation.
    """
    order = np.argsort(means)
    gaps = np.diff(means[order], prepend=0.0, append=1.0)
    farther = np.maximum(gaps[:-1], gaps[1:])
    if len(means) > 1:
        farther[0], farther[-1] = gaps[1], gaps[-2]
    stds = np.empty_like(means)
    stds[order] = farther
    return stds.clip(1 / min(100, len(means) + 2), 1.0)
