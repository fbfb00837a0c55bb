"""Freeze strategies, optimizers, balance plugins and families of backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from broken_plugins import (
    assert_reported,
    head_group,
    make_strategy,
    with_constant_rate,
)
from torch import nn

from autotl import (
    Balance,
    Range,
    backbone,
    balance,
    freeze,
    optimizer,
)
from autotl.models import Group, Model
from autotl.space.plugin import AnyPlugin
from autotl.testing import toy


@freeze
def needs_two_epochs(model: Model, epochs: int) -> list[Group]:
    """Needs at least two epochs."""
    return [head_group(model, lr=1e-2 / (epochs - 1))]


@freeze
def unused_rate(
    model: Model, *, lr: Annotated[float, Range(1e-4, 1e-1, log=True)] = 1e-2
) -> list[Group]:
    """Has a learning rate that it does not use."""
    return [head_group(model)]


STRATEGIES = [
    (make_strategy(lambda m: [head_group(m), head_group(m)]), "puts a parameter in two groups"),
    (
        make_strategy(
            lambda m: [head_group(m), {"params": [nn.Parameter(torch.ones(1))], "lr": 1e-2}]
        ),
        "that are not the model's",
    ),
    (make_strategy(lambda m: [{"params": m.blocks[-1], "lr": 1e-2}]), "freezes the head"),
    (make_strategy(lambda m: [{"params": m.head.parameters()}]), "without 'lr'"),
    (make_strategy(lambda m: [head_group(m, lr=0.0)]), "returns a group with lr=0.0"),
    (make_strategy(lambda m: [head_group(m, lr=float("nan"))]), "returns a group with lr=nan"),
    (needs_two_epochs, "raises ZeroDivisionError in line"),
    (unused_rate, "keyword 'lr' without effect"),
]


def optimizing(make: Callable[[list[Group], int], Any]) -> AnyPlugin:
    @optimizer(name="broken")
    def broken(groups: list[Group], steps: int) -> Any:
        """Optimize, with a fault."""
        return make(groups, steps)

    return broken


def flat(groups: list[Group]) -> list[Group]:
    return [{"params": [p for g in groups for p in g["params"]], "lr": 1e-3}]


class Lazy(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        pass


OPTIMIZERS = [
    (optimizing(lambda g, n: torch.optim.Adam(g)), "return a torch.optim.Optimizer and a"),
    (optimizing(lambda g, n: (torch.optim.Adam(g), None)), "returns NoneType as scheduler"),
    (
        optimizing(lambda g, n: with_constant_rate(torch.optim.Adam(g[:1]))),
        "include each of them once",
    ),
    (optimizing(lambda g, n: with_constant_rate(torch.optim.Adam(flat(g)))), "keep their ratio"),
    (
        optimizing(
            lambda g, n: with_constant_rate(
                torch.optim.AdamW([{**x, "weight_decay": 0.1} for x in g])
            )
        ),
        "uses weight_decay=0.1 for a group with weight_decay=0",
    ),
    (optimizing(lambda g, n: with_constant_rate(Lazy(g))), "does not change 'weight' of the head"),
]


def balancing(make: Callable[[list[int]], Any]) -> AnyPlugin:
    @balance(name="broken")
    def broken(counts: list[int]) -> Any:
        """Balance classes, with a fault."""
        return make(counts)

    return broken


BALANCING = [
    (balancing(lambda n: [1.0] * len(n)), "return an autotl.Balance"),
    (balancing(lambda n: Balance(weights=[1.0])), "returns weights=[1.0] for [15, 12, 9] examples"),
    (balancing(lambda n: Balance(weights=[1 / x for x in n])), "ZeroDivisionError in line"),
    (balancing(lambda n: Balance(offsets=[float("-inf") for _ in n])), "one finite number"),
    (balancing(lambda n: Balance(sampling=[1.0, -1.0, 1.0])), "not below 0"),
]

FAMILY = backbone(
    members=lambda patterns, device, seconds: ["b"] if patterns else ["a"],
)(toy.convnet.function)

NO_DEFAULT = backbone(members=lambda patterns, device, seconds: list(patterns))(
    toy.convnet.function
)

BROKEN = [
    *STRATEGIES,
    *OPTIMIZERS,
    *BALANCING,
    (FAMILY, "does not list its own members"),
    (NO_DEFAULT, "is a family without default members; test a member"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)
