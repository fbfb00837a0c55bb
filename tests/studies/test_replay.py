"""The replay of searches, on curves that are written out: what a search sees, costs and finds."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna import pruners, samplers

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import curves as recorded
import replay

from autotl.search.trials import PROBES

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SHAPE = (1, 5, 2, 2, 4)  # backbones, strategies, heads, augmentations, learning rates
SPACE = recorded.grid_space(["tf_efficientnet_lite0"])


def curves(direction: str = "maximize", seed: int = 0) -> recorded.Curves:
    """Cells that rise evenly to an end of their own, one second an epoch."""
    ends = np.random.default_rng(seed).permutation(np.prod(SHAPE)).reshape(SHAPE) / np.prod(SHAPE)
    rising = ends[..., None] * np.linspace(0.2, 1, recorded.EPOCHS)
    scores = rising if direction == "maximize" else 1 - rising
    return recorded.Curves(scores[None], np.ones(rising.shape), SPACE, direction)


def pinned(**values: Any) -> Any:
    """A sampler that always draws the same."""
    rate = values.pop("lr")
    every = {kind: values.get(kind, names[0]) for kind, names in recorded.WANTED.items()}
    every |= {f"freeze.{name}.lr": rate for name in recorded.FREEZE}
    return lambda seed: samplers.PartialFixedSampler(every, samplers.RandomSampler(seed=seed))


def regrets(search: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = replay.regrets(search)
    return found


def test_a_learning_rate_goes_to_the_nearest_of_the_grid() -> None:
    grid = recorded.rates(SPACE, "last_blocks")
    assert grid[0] == pytest.approx(3e-5)
    assert grid[-1] == pytest.approx(3e-3)
    for lr, place in ((3e-5, 0), (grid[1] * 1.9, 1), (grid[1] * 2.5, 2), (3e-3, 3)):
        params = SPACE.defaults(freeze="last_blocks") | {"freeze.last_blocks.lr": lr}
        config = SPACE.suggest(optuna.trial.FixedTrial(params))
        assert recorded.cell(SPACE, config) == (0, 2, 0, 1, place)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_regret_is_0_at_the_best_cell_and_1_from_the_median_on(direction: str) -> None:
    one = curves(direction)
    order = np.argsort(curves().scores[0, ..., -1], axis=None)
    worst, middle, best = (np.unravel_index(order[i], SHAPE) for i in (0, len(order) // 2, -1))
    assert one.regret(best) == 0
    assert one.regret(middle) == pytest.approx(1, abs=0.02)
    assert one.regret(worst) == 1


def test_a_search_costs_what_its_trials_took() -> None:
    one = curves()
    again = replay.Method(pinned(freeze="norms", lr=1e-2))
    search = replay.Search(one, again, 0).run()
    each = recorded.EPOCHS + recorded.AROUND
    assert search.complete == recorded.TRIALS
    assert search.pruned == 0
    assert search.seconds == pytest.approx(recorded.TRIALS * each)
    [(seconds, regret)] = search.found  # the first; the others are no better
    assert seconds == pytest.approx(each)
    assert regret == one.regret((0, 1, 0, 0, 2))


def test_a_pruned_trial_costs_its_epochs_and_finds_nothing() -> None:
    class Strict(pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == 2

    search = replay.Search(curves(), replay.Method(replay.random, Strict), 0).run()
    assert search.complete == 0
    assert search.found == []
    each = 2 + recorded.AROUND
    assert search.pruned == pytest.approx(search.curves.budget / each, abs=1)
    assert search.seconds == pytest.approx(search.pruned * each)
    assert (regrets(search) == 1).all()


def test_one_that_diverged_is_no_trial() -> None:
    one = curves()
    one.scores[..., 3:] = np.nan
    search = replay.Search(one, replay.METHODS["... no pruner"], 0)
    search.curves.seconds[:] = 10.0
    assert search.run().complete == 0


def test_the_recipes_come_first_and_in_order() -> None:
    search = replay.Search(curves(), replay.METHODS["... no pruner"], 0).run()
    trials = search.study.trials
    probes, recipes = trials[:PROBES], trials[PROBES : PROBES + 3]
    assert {t.params["freeze"] for t in probes} == {"linear_probe"}
    assert [t.params["freeze"] for t in recipes] == ["last_blocks", "lp_ft", "layer_decay"]
    assert {t.params["head"] for t in (probes[0], *recipes)} == {"linear"}
    assert len({t.params["head"] for t in probes}) == 2
    assert len({t.params["freeze.linear_probe.lr"] for t in probes}) > 4


def test_heads_beside_a_probe_cost_less_than_alone() -> None:
    class Short(recorded.Curves):
        budget = 0.1

    search = replay.Search(Short(*vars(curves()).values()), replay.METHODS["... no pruner"], 0)
    search.run()
    assert search.complete == PROBES
    each = recorded.EPOCHS / replay.TOGETHER
    assert search.seconds == pytest.approx(recorded.AROUND + PROBES * each)


@pytest.mark.parametrize(("share", "count"), [("none", 5), ("range", 2), ("all", 1)])
def test_learning_rates_are_shared_as_asked(share: str, count: int) -> None:
    method = replay.Method(replay.random, recipes=True, share=share)
    search = replay.Search(curves(), method, 0).run()
    trials = [{k: v for k, v in t.params.items() if ".lr" in k} for t in search.study.trials]
    assert len(set().union(*trials)) == count
    assert list(trials[0].values()) == [3e-3]  # the probe's default


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_search_repeats_and_its_regret_never_rises(direction: str) -> None:
    method = replay.Method(replay.random, replay.WorstTenthPruner, recipes=True)
    run = partial(replay.Search, curves(direction), method)
    first = regrets(run(3).run())
    assert (first == regrets(run(3).run())).all()
    assert (np.diff(first) <= 0).all()
    assert first[0] == 1
    assert first[-1] < 0.5


def test_when_a_level_is_reached() -> None:
    assert replay.reached(np.array([1.0, 0.5, 0.2, 0.1, 0.1]), 0.2) == 0.5
    assert replay.reached(np.array([1.0, 0.5]), 0.2) == np.inf


def test_the_interval_holds_the_mean_and_narrows_with_more_runs() -> None:
    runs = np.random.default_rng(0).normal(size=(400, 1))
    low, high = replay.interval(runs)
    few_low, few_high = replay.interval(runs[:25])
    assert low < runs.mean() < high
    assert high - low == pytest.approx(4 / 400**0.5, rel=0.2)
    assert few_high - few_low > 2 * (high - low)
