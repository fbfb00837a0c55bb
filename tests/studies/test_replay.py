"""Replayed searches on curves that are written out: what they see, what they cost, their regret."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna import pruners, samplers

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import curves as recorded
import replay

from autotl.search.trial_queue import HEADS

SHAPE = (1, 5, 2, 2, 4)  # backbones, strategies, heads, augmentations, learning rates
SPACE = recorded.grid_space(["tf_efficientnet_lite0"])


def curves(
    direction: Literal["maximize", "minimize"] = "maximize", seed: int = 0
) -> recorded.Curves:
    """Curves that rise evenly to a different final score in each cell, one second an epoch."""
    final = np.random.default_rng(seed).permutation(np.prod(SHAPE)).reshape(SHAPE) / np.prod(SHAPE)
    rising = final[..., None] * np.linspace(0.2, 1, recorded.EPOCHS)
    scores = rising if direction == "maximize" else 1 - rising
    return recorded.Curves(scores[None], np.ones(rising.shape), SPACE, direction)


class ConstantSampler(samplers.BaseSampler):
    """Always draws the given values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        return self.values[name]


def regret_over_time(search: Any) -> NDArray[np.float64]:
    regret: NDArray[np.float64] = replay.regret_over_time(search)
    return regret


def test_a_learning_rate_is_rounded_to_the_nearest_in_the_grid() -> None:
    grid = recorded.learning_rates(SPACE, "last_blocks")
    assert grid[0] == pytest.approx(3e-5)
    assert grid[-1] == pytest.approx(3e-3)
    for lr, index in ((3e-5, 0), (grid[1] * 1.9, 1), (grid[1] * 2.5, 2), (3e-3, 3)):
        params = SPACE.defaults(freeze="last_blocks") | {"freeze.last_blocks.lr": lr}
        config = SPACE.suggest(optuna.trial.FixedTrial(params))
        assert recorded.cell_index(SPACE, config) == (0, 2, 0, 1, index)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_regret_is_0_at_the_best_cell_and_1_from_the_median_on(
    direction: Literal["maximize", "minimize"],
) -> None:
    grid = curves(direction)
    order = np.argsort(curves().scores[0, ..., -1], axis=None)
    worst, middle, best = (np.unravel_index(order[i], SHAPE) for i in (0, len(order) // 2, -1))
    assert grid.regret(best) == 0
    assert grid.regret(middle) == pytest.approx(1, abs=0.02)
    assert grid.regret(worst) == 1


def test_a_search_takes_the_time_of_its_trials() -> None:
    grid = curves()
    first = {kind: names[0] for kind, names in recorded.PLUGINS.items()}
    values = {**first, "freeze": "norms", "freeze.norms.lr": 1e-2}
    search = replay.Search(grid, replay.Method(lambda seed: ConstantSampler(values)), 0).run()
    each = recorded.EPOCHS + recorded.OVERHEAD
    assert search.complete == recorded.TRIALS
    assert search.pruned == 0
    assert search.seconds == pytest.approx(recorded.TRIALS * each)
    [(seconds, regret)] = search.improvements  # the first trial; the others are equally good
    assert seconds == pytest.approx(each)
    assert regret == grid.regret((0, 1, 0, 0, 2))


def test_a_pruned_trial_takes_the_time_of_its_epochs_and_has_no_score() -> None:
    class Strict(pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == 2

    search = replay.Search(curves(), replay.Method(replay.random, Strict), 0).run()
    assert search.complete == 0
    assert search.improvements == []
    each = 2 + recorded.OVERHEAD
    assert search.pruned == pytest.approx(search.curves.budget / each, abs=1)
    assert search.seconds == pytest.approx(search.pruned * each)
    assert (regret_over_time(search) == 1).all()


def test_a_diverged_trial_does_not_count() -> None:
    grid = curves()
    grid.scores[..., 3:] = np.nan
    search = replay.Search(grid, replay.METHODS[replay.NO_PRUNER], 0)
    search.curves.seconds[:] = 10.0
    assert search.run().complete == 0


def test_recipes_are_tried_first_and_in_order() -> None:
    search = replay.Search(curves(), replay.METHODS[replay.NO_PRUNER], 0).run()
    trials = search.study.trials
    first, heads, others = trials[:2], trials[2 : 2 + HEADS], trials[2 + HEADS : 4 + HEADS]
    assert [t.params["freeze"] for t in first] == ["linear_probe", "last_blocks"]
    assert {t.params["freeze"] for t in heads} == {"linear_probe"}
    assert [t.params["freeze"] for t in others] == ["lp_ft", "layer_decay"]
    assert {t.params["head"] for t in (*first, *others)} == {"linear"}
    assert heads[0].params["head"] != "linear"
    assert len({t.params["head"] for t in heads}) == 2
    assert len({t.params["freeze.linear_probe.lr"] for t in heads}) > 4


def test_heads_trained_in_one_pass_take_less_time_than_alone() -> None:
    alone = 2 * (recorded.OVERHEAD + recorded.EPOCHS)  # the first probe and the default recipe

    class Short(recorded.Curves):
        budget = alone + 0.1

    search = replay.Search(Short(*vars(curves()).values()), replay.METHODS[replay.NO_PRUNER], 0)
    search.run()
    assert search.complete == 2 + HEADS
    each = recorded.EPOCHS / replay.PROBE_SPEEDUP
    assert search.seconds == pytest.approx(alone + recorded.OVERHEAD + HEADS * each)


@pytest.mark.parametrize(("sharing", "count"), [("none", 5), ("range", 2), ("all", 1)])
def test_strategies_may_share_learning_rates(sharing: str, count: int) -> None:
    method = replay.Method(replay.random, recipes=True, sharing=sharing)
    search = replay.Search(curves(), method, 0).run()
    trials = [{k: v for k, v in t.params.items() if ".lr" in k} for t in search.study.trials]
    assert len(set().union(*trials)) == count
    assert list(trials[0].values()) == [3e-3]  # the probe's default


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_search_repeats_and_its_regret_never_rises(
    direction: Literal["maximize", "minimize"],
) -> None:
    method = replay.Method(replay.random, replay.OUR_PRUNER, recipes=True)
    run = partial(replay.Search, curves(direction), method)
    first = regret_over_time(run(3).run())
    assert (first == regret_over_time(run(3).run())).all()
    assert (np.diff(first) <= 0).all()
    assert first[0] == 1
    assert first[-1] < 0.5


def test_the_time_to_reach_a_level() -> None:
    assert replay.time_to_reach(np.array([1.0, 0.5, 0.2, 0.1, 0.1]), 0.2) == 0.5
    assert replay.time_to_reach(np.array([1.0, 0.5]), 0.2) == np.inf


def test_the_interval_contains_the_mean_and_narrows_with_more_runs() -> None:
    runs = np.random.default_rng(0).normal(size=(400, 1))
    low, high = replay.bootstrap_interval(runs)
    few_low, few_high = replay.bootstrap_interval(runs[:25])
    assert low < runs.mean() < high
    assert high - low == pytest.approx(4 / 400**0.5, rel=0.2)
    assert few_high - few_low > 2 * (high - low)
