"""What the sampler draws after some thirty noisy trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autotl.search import sampler

SPACE: dict[str, BaseDistribution] = {
    "backbone": CategoricalDistribution(["a", "b", "c"]),
    "freeze": CategoricalDistribution(["v", "w", "x", "y", "z"]),
    "head": CategoricalDistribution(["linear", "mlp"]),
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
}
NAMES = ("backbone", "freeze", "head")
Draws = Sequence[tuple[str, ...]]


def draws(make: Callable[[int], optuna.samplers.BaseSampler], seed: int, many: int = 20) -> Draws:
    """What would be next after 24 random trials; those with ``a`` are better, beside noise."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed), direction="maximize")
    for _ in range(24):
        trial = study.ask(SPACE)
        study.tell(trial, (trial.params["backbone"] == "a") + rng.normal(0, 0.5))
    found = []
    for i in range(many):
        then = optuna.create_study(sampler=make(1000 * seed + i), direction="maximize")
        then.add_trials(study.trials)
        found.append(tuple(then.ask(SPACE).params[name] for name in NAMES))
    return found


def optunas(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)


@pytest.fixture(scope="module")
def ours() -> list[Draws]:
    return [draws(sampler.tpe, seed) for seed in range(8)]


def test_few_lucky_trials_are_not_drawn_again_and_again(ours: list[Draws]) -> None:
    distinct = np.mean([len(set(d)) for d in ours])
    theirs = np.mean([len(set(draws(optunas, seed))) for seed in range(8)])
    assert distinct > 1.3 * theirs, (distinct, theirs)


def test_what_is_better_is_drawn_more_often(ours: list[Draws]) -> None:
    share = np.mean([d[0] == "a" for drawn in ours for d in drawn])
    assert share > 0.5, share  # by chance a third


def test_a_seed_draws_the_same_again() -> None:
    assert draws(sampler.tpe, 3, 4) == draws(sampler.tpe, 3, 4)
