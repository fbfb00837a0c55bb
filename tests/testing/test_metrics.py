"""Metrics that break their contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from broken_plugins import assert_reported

from autotl import metric
from autotl.space.plugin import AnyPlugin
from autotl.testing import check


def error(targets: Any, predictions: Any) -> Any:
    return np.abs(targets - predictions).mean(1)


def scoring(
    make: Callable[[Any, Any], Any], tasks: tuple[str, ...] = ("regression",), **options: Any
) -> AnyPlugin:
    options = {"direction": "minimize", "bounds": (0.0, np.inf), **options}

    @metric(name="broken", tasks=tasks, **options)
    def broken(targets: Any, predictions: Any) -> Any:
        """Score, with a fault."""
        return make(targets, predictions)

    return broken


def change(targets: Any, predictions: Any) -> float:
    predictions -= targets
    return float(np.abs(predictions).mean())


def by_position(targets: Any, predictions: Any) -> float:
    weights = np.arange(1, len(targets) + 1)
    return float((error(targets, predictions) * weights).mean())


def accuracy(targets: Any, predictions: Any) -> Any:
    return (targets == predictions.argmax(1)).astype(float)


BROKEN = [
    (scoring(lambda t, p: float(error(t, p).mean()), direction="maximize"), "its direction is"),
    (scoring(lambda t, p: 1 / (1 + error(t, p).mean())), "1 for right predictions and 0."),
    (scoring(error), "float32 [24]; return a number, or declare per_example=True"),
    (scoring(lambda t, p: error(t, p).mean(), per_example=True), "return what each contributes"),
    (scoring(lambda t, p: np.abs(t - p).mean(0)), "float32 [2]; return a number"),
    (scoring(lambda t, p: "good"), "returns str; return a number"),
    (scoring(lambda t, p: float("nan")), "has the score nan for usual predictions"),
    (
        scoring(lambda t, p: error(t, p).mean(), bounds=(0.0, 1.0)),
        "outside of its bounds (0.0, 1.0)",
    ),
    (scoring(lambda t, p: 1.0, bounds=(1.0, 0.0)), "the first one is the smaller one"),
    (scoring(change), "changes the targets or predictions in place"),
    (scoring(by_position), "depends on the order of the examples"),
    (scoring(lambda t, p: 1 / 0), "raises ZeroDivisionError in line"),
    (scoring(error, ("regresion",)), "names the task 'regresion'; did you mean 'regression'"),
    (scoring(accuracy, ("classification", "ordinal"), per_example=True), "(for classification"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[w[:25] for _, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)


def test_valid_metrics_pass() -> None:
    assert check(scoring(error, per_example=True)) == 1
    assert check(scoring(lambda t, p: error(t, p).mean())) == 1
    valid = scoring(accuracy, ("classification", "ordinal"), per_example=True, direction="maximize")
    assert check(valid) == 1
