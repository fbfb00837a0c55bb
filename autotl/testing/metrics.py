"""The checks of metrics: their values, their bounds and their direction.

Shapes: N examples, K numbers in a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.space.plugin import AnyPlugin
from autotl.testing.toy_tasks import ToyTask, find_toy_tasks
from autotl.testing.violations import Violations, describe

SHUFFLES = 10
"""How often right predictions are shuffled, to compare their score with that of wrong ones."""

TOLERANCE = 1e-6


def check_metric(plugin: AnyPlugin, violations: Violations) -> None:
    """Check the values of a metric for all tasks that it suits.

    Args:
        plugin: The plugin.
        violations: Where violations are added.
    """
    low, high = plugin.bounds
    if not low < high:
        violations.add(f"has the bounds {plugin.bounds}; the first one is the smaller one")
        return
    for toy in find_toy_tasks(plugin):
        with violations.trying(f"for {toy.task.name}"):
            for problem in _find_problems(plugin, toy):
                violations.add(problem)


def _find_problems(plugin: AnyPlugin, toy: ToyTask) -> Iterator[str]:
    """Find what is wrong with the values of a metric; the first problem is enough."""
    targets, n = toy.targets, len(toy.labels)
    right = toy.predict(toy.fit_logits())
    generator = np.random.default_rng(0)
    orders = [generator.permutation(n) for _ in range(SHUFFLES)]
    before = targets.copy(), right.copy()
    value: Any = plugin.function(targets, right)
    if not np.array_equal(before[0], targets) or not np.array_equal(before[1], right):
        yield "changes the targets or predictions in place; work on a copy"
        return
    if problem := _find_shape_problem(value, plugin.per_example, n):
        yield problem
        return
    scores = [_score(plugin, targets, right[order]) for order in orders]
    best = float(np.mean(value))
    low, high = plugin.bounds
    for score in (best, *scores):
        if not np.isfinite(score):
            yield f"has the score {score} for usual predictions; return finite numbers"
            return
        if not low - TOLERANCE <= score <= high + TOLERANCE:
            yield f"has the score {score:.4g} outside of its bounds {plugin.bounds}; correct these"
            return
    sign = 1 if plugin.direction == "maximize" else -1
    worst = max(scores, key=lambda score: sign * score)
    if sign * best < sign * worst - TOLERANCE:
        yield (
            f"has the score {best:.4g} for right predictions and {worst:.4g} for wrong ones, but "
            f"its direction is {plugin.direction!r}; correct one of them"
        )
        return
    wrong, order = right[orders[0]], orders[1]
    value, moved = plugin.function(targets, wrong), plugin.function(targets[order], wrong[order])
    expected = np.asarray(value)[order] if plugin.per_example else value
    if not np.allclose(moved, expected, 1e-4, 1e-4):
        yield "depends on the order of the examples; compute it from each, or from all of them"


def _find_shape_problem(value: Any, per_example: bool, n: int) -> str:
    """What is wrong with the type of a score or of contributions, or ''."""
    is_number = np.issubdtype(np.asarray(value).dtype, np.number)
    shape = np.shape(value)
    if per_example and (shape != (n,) or not is_number):
        return (
            f"returns {describe(value)} for {n} examples; with per_example=True return what each "
            "contributes, [N]"
        )
    if not per_example and shape == (n,):
        return f"returns {describe(value)}; return a number, or declare per_example=True"
    if not per_example and (shape != () or not is_number):
        return f"returns {describe(value)}; return a number"
    return ""


def _score(plugin: AnyPlugin, targets: NDArray[Any], predictions: NDArray[np.float32]) -> float:
    return float(np.mean(plugin.function(targets, predictions)))
