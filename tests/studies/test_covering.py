"""Recipes that are chosen to cover data sets: what each adds, what it costs, what is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import covering
import curves as recorded
import replay

SHAPE = (1, 5, 2, 2, 4)  # backbones, strategies, heads, augmentations, learning rates
SPACE = recorded.grid_space(["tf_efficientnet_lite0"])
CELLS = [(0, i, 0, 0, 0) for i in range(5)]


def curves(*scores: float, seconds: float = 1.0) -> recorded.Curves:
    """Curves in which the first cells have these final scores, and all others score 0.5."""
    final = np.full(SHAPE, 0.5)
    for cell, score in zip(CELLS, scores, strict=False):
        final[cell] = score
    curves = np.repeat(final[..., None], recorded.EPOCHS, -1)
    costs = np.ones(curves.shape)
    costs[CELLS[2]] = seconds
    return recorded.Curves(curves[None], costs, SPACE)


def test_scores_are_normalised_by_the_best_and_the_median() -> None:
    scores = covering.normalised_scores(curves(0.9, 0.7, 0.1, np.nan))
    assert [scores[0, *cell] for cell in CELLS] == pytest.approx([1, 0.5, 0, 0, 0])


def test_each_recipe_adds_most_to_those_before_it() -> None:
    # The third cell is the best on average, and after it the first; the second adds nothing.
    data_sets = [curves(1.0, 0.6, 0.9), curves(0.5, 0.85, 0.9)]
    chosen = covering.choose_recipes(data_sets, 4, per_second=False)
    assert chosen == [CELLS[2], CELLS[0]]
    given = [CELLS[2]]
    assert covering.choose_recipes(data_sets, 4, per_second=False, given=given) == [CELLS[0]]
    assert covering.choose_recipes(data_sets, 1, per_second=False) == [CELLS[2]]


def test_a_gain_may_be_worth_less_than_its_time() -> None:
    data_sets = [curves(0.6, 0.85, 0.9, seconds=10.0)] * 2
    assert covering.choose_recipes(data_sets, 1, per_second=False) == [CELLS[2]]
    assert covering.choose_recipes(data_sets, 1, per_second=True) == [CELLS[1]]


def test_a_search_tries_recipes_of_the_other_data_sets_after_its_own() -> None:
    method = replay.Method(replay.random, recipes=True, covering=2)
    search = replay.Search(curves(0.9), method, 0, [curves(0.5, 0.5, 0.5, 0.9, 0.8)]).run()
    fine_tuned = [t for t in search.study.trials if t.params["freeze"] != "linear_probe"]
    assert [t.params["freeze"] for t in fine_tuned[:2]] == ["last_blocks", "lp_ft"]
    assert fine_tuned[1].params["augment"] == "none"
    rate = recorded.learning_rates(SPACE, "lp_ft")[0]
    assert fine_tuned[1].params["freeze.lp_ft.lr"] == rate
