"""Hyperparameters: ranges, conditions and which values a domain contains."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autotl import Range, When
from autotl.errors import PluginError
from autotl.space.hyperparameter import Hyperparameter


def declare(type: type, choices: Any = None, range: Range | None = None) -> Hyperparameter:
    return Hyperparameter("x", type, None, choices, range)


@pytest.mark.parametrize(
    ("h", "inside", "outside"),
    [
        (declare(int, range=Range(0, 4)), [0, 4], [-1, 5, 2.0, 2.5, True, False, "2", None]),
        (
            declare(float, range=Range(0, 1)),
            [0, 1, 0.0, 0.5],
            [-1e-9, 1.1, math.nan, math.inf, True, "0.5", None],
        ),
        (declare(bool, (False, True)), [True, False], [0, 1, 1.0, "True", None]),
        (declare(int, (1, 2)), [1, 2], [True, 1.0, 3, "1"]),
        (declare(float, (0.0, 1.0)), [0.0, 1.0], [0, 1, False, True]),
        (declare(str, ("a", "b")), ["a", "b"], ["c", "", None]),
        (declare(int), [], [1, None]),
    ],
)
def test_allows_checks_type_and_limits(
    h: Hyperparameter, inside: list[Any], outside: list[Any]
) -> None:
    assert [v for v in inside if not h.allows(v)] == []
    assert [v for v in outside if h.allows(v)] == []


@pytest.mark.parametrize(
    ("h", "text"),
    [
        (declare(float, range=Range(1e-5, 0.1, log=True)), "1e-05 to 0.1 (log)"),
        (declare(float, range=Range(0, 0.123456789)), "0.0 to 0.123456789"),
        (declare(int, range=Range(1, 2000001)), "1 to 2000001"),
        (declare(str, ("a", "b")), "a | b"),
    ],
)
def test_the_domain_is_described_exactly(h: Hyperparameter, text: str) -> None:
    assert h.domain == text


def test_when_requires_every_condition() -> None:
    when = When(depth=(1, 2), norm=True)
    assert when.applies({"depth": 2, "norm": True, "other": 0})
    assert not when.applies({"depth": 2, "norm": False})
    assert not when.applies({"depth": 3, "norm": True})
    assert not when.applies({"norm": True})


def test_the_values_of_a_condition_may_be_a_list() -> None:
    assert When(depth=[1, 2]).applies({"depth": 2})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(1, 10, log=True, step=1), "cannot be combined with log"),
        (lambda: Range(0, 1, step=-0.5), "step must be positive"),
        (lambda: Range(0, 1, step=0.3), "low plus a whole number of steps"),
    ],
)
def test_steps_that_do_not_fit_the_range_are_rejected(make: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make()
