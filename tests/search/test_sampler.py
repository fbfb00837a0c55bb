"""What the sampler draws: better, distinct, valid and reproducible parameters, at bounded cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from autotl.search import sampler
from autotl.search.sampler import make_sampler

SPACE: dict[str, BaseDistribution] = {
    "backbone": CategoricalDistribution(["a", "b", "c"]),
    "freeze": CategoricalDistribution(["v", "w", "x", "y", "z"]),
    "head": CategoricalDistribution(["linear", "mlp"]),
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
}
NAMES = ("backbone", "freeze", "head")
Direction = Literal["maximize", "minimize"]
Draws = Sequence[tuple[str, ...]]
MakeSampler = Callable[[int], optuna.samplers.BaseSampler]


def finished_study(
    score: Callable[[dict[str, Any]], float],
    count: int = 24,
    seed: int = 0,
    direction: Direction = "maximize",
    space: dict[str, BaseDistribution] = SPACE,
) -> optuna.Study:
    """A study of random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed), direction=direction)
    for _ in range(count):
        trial = study.ask(space)
        study.tell(trial, score(trial.params))
    return study


def draw_next(
    study: optuna.Study,
    count: int = 50,
    make: MakeSampler = make_sampler,
    seed: int = 0,
    space: dict[str, BaseDistribution] = SPACE,
) -> list[dict[str, Any]]:
    """Alternatives for the next trial of a study, each drawn with its own seed.

    They are filed as failed, so that the later ones do not depend on them.
    """
    drawn = []
    for i in range(count):
        study.sampler = make(1000 * seed + i)
        trial = study.ask(space)
        study.tell(trial, state=TrialState.FAIL)
        drawn.append(trial.params)
    return drawn


def noisy_draws(make: MakeSampler, seed: int, count: int = 20) -> Draws:
    """Draws after 24 random trials whose scores are noisy; those with ``a`` are better."""
    rng = np.random.default_rng(seed)
    study = finished_study(lambda p: (p["backbone"] == "a") + rng.normal(0, 0.5), seed=seed)
    return [tuple(p[name] for name in NAMES) for p in draw_next(study, count, make, seed)]


def optuna_tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


@pytest.fixture(scope="module")
def draws() -> list[Draws]:
    return [noisy_draws(make_sampler, seed) for seed in range(8)]


def test_draws_after_few_noisy_trials_are_more_diverse_than_optunas(draws: list[Draws]) -> None:
    distinct = np.mean([len(set(d)) for d in draws])
    optunas = np.mean([len(set(noisy_draws(optuna_tpe, seed))) for seed in range(8)])
    assert distinct > 1.3 * optunas, (distinct, optunas)


def test_better_choices_are_drawn_more_often(draws: list[Draws]) -> None:
    fraction = np.mean([d[0] == "a" for drawn in draws for d in drawn])
    assert fraction > 0.5, fraction  # a third by chance


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_numbers_are_drawn_near_the_best_ones(direction: Direction) -> None:
    sign = 1 if direction == "minimize" else -1
    study = finished_study(lambda p: sign * abs(math.log10(p["lr"]) + 2), direction=direction)
    distances = [abs(math.log10(p["lr"]) + 2) for p in draw_next(study)]
    assert np.median(distances) < 0.4  # 0.75 by chance


def test_choices_are_drawn_jointly() -> None:
    study = finished_study(lambda p: float((p["backbone"] == "a") == (p["head"] == "mlp")), 100)
    pairs = [(p["backbone"] == "a") == (p["head"] == "mlp") for p in draw_next(study)]
    assert np.mean(pairs) > 0.7  # half by chance, and by either parameter alone


def test_the_same_seed_draws_the_same() -> None:
    assert noisy_draws(make_sampler, 3, 4) == noisy_draws(make_sampler, 3, 4)
    assert noisy_draws(make_sampler, 3, 4) != noisy_draws(make_sampler, 4, 4)


def test_reseeding_changes_what_is_drawn() -> None:
    study = finished_study(lambda p: p["lr"])

    def reseeded(seed: int) -> optuna.samplers.BaseSampler:
        made = make_sampler(seed)
        made.reseed_rng()
        return made

    assert draw_next(study, 5) != draw_next(study, 5, reseeded)


def test_first_trials_are_random() -> None:
    none, few, enough = (
        finished_study(lambda p: p["lr"], count)
        for count in (1, sampler.STARTUP_TRIALS - 1, sampler.STARTUP_TRIALS)
    )
    assert draw_next(few, 10) == draw_next(none, 10)
    assert draw_next(enough, 10) != draw_next(none, 10)


EVERY_KIND: dict[str, BaseDistribution] = {
    "choice": CategoricalDistribution([None, True, 3, "x"]),
    "float": FloatDistribution(-1, 2),
    "log": FloatDistribution(1e-5, 1e-1, log=True),
    "step": FloatDistribution(0, 1, step=0.25),
    "int": IntDistribution(3, 9),
    "even": IntDistribution(2, 10, step=2),
    "width": IntDistribution(16, 512, log=True),
    "single": FloatDistribution(0.5, 0.5),
}


@pytest.mark.parametrize("count", [0, 1, 12, 60])
def test_every_kind_of_parameter_is_drawn_within_its_distribution(count: int) -> None:
    study = finished_study(lambda p: p["float"] + p["int"], count, space=EVERY_KIND)
    for params in draw_next(study, 40, space=EVERY_KIND):
        assert params.keys() == EVERY_KIND.keys()
        assert params["choice"] in (None, True, 3, "x")
        assert -1 <= params["float"] <= 2
        assert 1e-5 <= params["log"] <= 1e-1
        assert params["step"] in (0, 0.25, 0.5, 0.75, 1)
        assert params["int"] in range(3, 10)
        assert params["even"] in (2, 4, 6, 8, 10)
        assert params["width"] in range(16, 513)
        assert all(isinstance(params[name], int) for name in ("int", "even", "width"))


def test_all_values_of_a_range_can_be_drawn() -> None:
    study = finished_study(lambda p: 0.0, 0, space=EVERY_KIND)
    drawn = draw_next(study, 100, space=EVERY_KIND)
    assert {p["step"] for p in drawn} == {0, 0.25, 0.5, 0.75, 1}
    assert {p["int"] for p in drawn} == set(range(3, 10))
    logs = [math.log10(p["log"]) for p in drawn]
    assert np.percentile(logs, [10, 50, 90]) == pytest.approx([-4.6, -3, -1.4], abs=0.4)


def test_conditional_parameters_learn_from_the_trials_that_have_them() -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        value = trial.suggest_float(f"{kind}.lr", 0, 1)
        return -abs(value - (0.2 if kind == "a" else 0.8))

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0), direction="maximize")
    study.optimize(objective, n_trials=60)
    for kind, best in (("a", 0.2), ("b", 0.8)):
        space: dict[str, BaseDistribution] = {f"{kind}.lr": FloatDistribution(0, 1)}
        values = [p[f"{kind}.lr"] for p in draw_next(study, 30, space=space)]
        assert abs(np.median(values) - best) < 0.2  # 0.3 by chance, and by trials of all kinds


def trial(backbone: str, state: TrialState, **options: Any) -> FrozenTrial:
    space = {"backbone": SPACE["backbone"]}
    return optuna.create_trial(
        params={"backbone": backbone}, distributions=space, state=state, **options
    )


@pytest.mark.parametrize(
    ("state", "options"),
    [
        (TrialState.PRUNED, {}),
        (TrialState.PRUNED, {"intermediate_values": {1: 9.0}}),
        (TrialState.COMPLETE, {"value": 9.0, "constraints": {"parameters": 1.0}}),
        (TrialState.FAIL, {"user_attrs": {"status": "out_of_time"}}),
    ],
    ids=["without values", "pruned", "infeasible", "out of time"],
)
def test_trials_that_were_pruned_infeasible_or_out_of_time_are_avoided(
    state: TrialState, options: dict[str, Any]
) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trials([trial("a", state, **options)] * 12)
    study.add_trials([trial(b, TrialState.COMPLETE, value=0.1) for b in "bc"] * 4)
    space = {"backbone": SPACE["backbone"]}
    assert np.mean([p["backbone"] == "a" for p in draw_next(study, 60, space=space)]) < 0.15


def test_a_satisfied_constraint_does_not_count_against_a_trial() -> None:
    study = optuna.create_study(direction="maximize")
    options: dict[str, Any] = {"value": 1.0, "constraints": {"parameters": -1.0}}
    study.add_trials([trial("a", TrialState.COMPLETE, **options)] * 4)
    study.add_trials([trial(b, TrialState.COMPLETE, value=0.1) for b in "bc"] * 6)
    space = {"backbone": SPACE["backbone"]}
    assert np.mean([p["backbone"] == "a" for p in draw_next(study, 60, space=space)]) > 0.6


def test_failed_trials_are_ignored() -> None:
    study = finished_study(lambda p: p["lr"])
    before = draw_next(study, 10)
    study.add_trials([trial("a", TrialState.FAIL)] * 20)
    study.add_trials([trial("a", TrialState.FAIL, user_attrs={"status": "diverged"})] * 20)
    assert draw_next(study, 10) == before


def test_trials_drawn_side_by_side_differ() -> None:
    study = finished_study(lambda p: (p["backbone"] == "a") + (p["freeze"] == "v"), 60)
    study.sampler = make_sampler(0)
    drawn = [tuple(study.ask(SPACE).params[n] for n in NAMES) for _ in range(30)]
    assert len(set(drawn)) > 10


def test_only_the_best_and_the_latest_trials_are_used() -> None:
    study = finished_study(lambda p: p["lr"], 400)
    good, others = sampler._split(study.trials, study.direction)
    assert len(good) == sampler.MAX_GOOD
    assert len(others) == sampler.MAX_BAD
    scores = sorted((t.value for t in study.trials if t.value is not None), reverse=True)
    assert [t.value for t in good] == scores[: sampler.MAX_GOOD]
    assert others[-1].number in (399, 398)
    assert not {t.number for t in good} & {t.number for t in others}


def test_the_densities_of_kernels_integrate_to_one() -> None:
    observed = np.array([0.0, 0.1, 0.12, 0.7, 1.0])
    kernels = sampler._NumericalKernels(FloatDistribution(0, 1), observed)
    grid = (np.arange(10_000) + 0.5) / 10_000
    areas = kernels.density(grid).mean(0)
    assert areas / math.sqrt(2 * math.pi) == pytest.approx(1, abs=1e-3)  # a factor left out
    choices = sampler._CategoricalKernels(3, np.array([0.0, 2.0, 2.0]))
    assert choices.density(np.arange(3.0)).sum(0) == pytest.approx(1)
    assert choices.density(np.arange(3.0))[:, -1] == pytest.approx(1 / 3)  # the prior


def test_choices_that_are_left_out_are_not_drawn() -> None:
    study = optuna.create_study()
    for number in range(30):
        study.sampler = make_sampler(number, {"backbone": ["a", "c"]} if number >= 12 else {})
        trial = study.ask()
        name = trial.suggest_categorical("backbone", ["a", "b", "c", "d"])
        study.tell(trial, trial.suggest_float("lr", 0, 1) + (name != "a"))
    drawn = [trial.params["backbone"] for trial in study.trials]
    assert "a" in drawn[:12]
    assert set(drawn[12:]) == {"b", "d"}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("infeasible", [0.0, 0.3, 0.95])
def test_good_trials_are_the_first_of_all_sorted_trials(
    direction: Direction, infeasible: float
) -> None:
    rng = np.random.default_rng(0)
    study = optuna.create_study(direction=direction)
    for _ in range(200):
        violation = 1.0 if rng.random() < infeasible else -1.0
        options: dict[str, Any] = {"constraints": {"parameters": violation}}
        state = TrialState.COMPLETE if rng.random() < 0.8 else TrialState.PRUNED
        value = round(rng.random(), 1) if state == TrialState.COMPLETE else None  # with ties
        study.add_trial(trial("a", state, value=value, **options))
    reverse = direction == "maximize"
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    complete.sort(key=lambda t: t.value or 0.0, reverse=reverse)
    feasible = [t.number for t in complete if t.constraints["parameters"] <= 0]
    good, others = sampler._split(study.trials, study.direction)
    assert [t.number for t in good] == feasible[: sampler.MAX_GOOD]
    rest = sorted({t.number for t in study.trials} - {t.number for t in good})
    assert [t.number for t in others] == rest
