"""Who draws the next trial: TPE, with more doubt than Optuna's own."""

from __future__ import annotations

import math
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler

GOOD = 0.25
"""The share of the trials that counts as good."""

MOST = 25
"""How many trials count as good at most."""

PRIOR = 8.0
"""The weight of the prior, that anything may be good, in good trials."""


def tpe(seed: int) -> TPESampler:
    """A tree-structured Parzen estimator, joint over what is drawn together.

    A search of transfers has some thirty trials, and each score is that of one training: another
    seed gives another. Optuna counts the best tenth as good, two or three trials then, and its
    prior as one more, so that it draws the luckiest of them again and again. With a quarter, and a
    prior that weighs more, `studies/benchmarks/replay.py` finds better ones sooner.

    Args:
        seed: Of what it draws.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011); what its settings
    do: Watanabe, "Tree-Structured Parzen Estimator: Understanding Its Algorithm Components and
    Their Roles for Better Empirical Performance" (2023).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # they leave with Optuna 6
        return TPESampler(multivariate=True, group=True, gamma=_good, prior_weight=PRIOR, seed=seed)


def _good(trials: int) -> int:
    return min(math.ceil(GOOD * trials), MOST)
