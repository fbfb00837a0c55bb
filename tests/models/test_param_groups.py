"""The parameter groups of freeze strategies: when they are requested, and how they are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from toy import config, model

from autotl import freeze, head
from autotl.errors import PluginError
from autotl.models import Group, Model, plan_groups


def plan(network: Model, plugin: Any, epochs: int = 3) -> list[list[Group]]:
    return list(plan_groups(network, config(freeze=plugin)["freeze"], epochs))


def test_the_parameters_of_a_group_may_be_a_generator() -> None:
    @freeze
    def lazy(model: Model) -> list[Group]:
        return [{"params": (p for p in model.head.parameters()), "lr": 1.0, "momentum": 0.5}]

    network = model()
    for groups in plan(network, lazy):
        assert groups == [{"params": list(network.head.parameters()), "lr": 1.0, "momentum": 0.5}]


def test_the_last_list_is_used_until_the_end_and_no_list_is_requested_early() -> None:
    requested = []

    @freeze
    def phases(model: Model, epochs: int) -> Iterator[list[Group]]:
        for lr in (1.0, 2.0):
            requested.append(lr)
            yield [{"params": model.head.parameters(), "lr": lr}, {"params": [], "lr": 5.0}]

    network = model()
    steps = plan_groups(network, config(freeze=phases)["freeze"], 4)
    assert next(steps)[0]["lr"] == 1.0
    assert requested == [1.0]
    rest = list(steps)
    assert [[g["lr"] for g in groups] for groups in rest] == [[2.0]] * 3  # none without parameters
    assert all(g["params"] == list(network.head.parameters()) for groups in rest for g in groups)
    assert [g[0]["lr"] for g in plan(network, phases, 1)] == [1.0]  # as many as there are epochs


def test_a_strategy_is_given_the_number_of_epochs() -> None:
    received = []

    @freeze
    def recording(model: Model, epochs: int) -> list[Group]:
        received.append(epochs)
        return [{"params": model.head.parameters(), "lr": 1.0}]

    plan(model(), recording, 5)
    assert received == [5]


def test_a_head_without_parameters_need_not_be_trainable() -> None:
    @head
    def without_parameters(features: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Identity())

    @freeze
    def backbone_only(model: Model) -> list[Group]:
        return [{"params": model.backbone.parameters(), "lr": 1.0}]

    assert len(plan(model(head=without_parameters), backbone_only)) == 3


Groups = Callable[[Model], list[Group]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            lambda m: [{"params": m.parameters(), "lr": x} for x in (1, 2)],
            "parameter in two groups",
        ),
        (lambda m: [{"params": [*m.head.parameters()] * 2, "lr": 1}], "parameter in two groups"),
        (
            lambda m: [{"params": [*m.head.parameters(), nn.Parameter(torch.ones(1))], "lr": 1}],
            "returns 1 parameters that are not the model's",
        ),
        (lambda m: [{"params": m.backbone.parameters(), "lr": 1}], "freezes the head"),
        (lambda m: [], "freezes the head"),
        (lambda m: [{"params": m.head.parameters()}], "without 'lr'"),
    ],
)
def test_a_strategy_that_breaks_the_contract_is_named(groups: Groups, message: str) -> None:
    network = model()

    @freeze
    def broken(model: Model) -> list[Group]:
        return groups(model)

    with pytest.raises(PluginError, match=f"freeze plugin 'broken' .*{message}"):
        plan(network, broken)


def test_a_strategy_that_breaks_the_contract_in_a_later_epoch_is_named_then() -> None:
    @freeze
    def late(model: Model, epochs: int) -> Iterator[list[Group]]:
        yield [{"params": model.head.parameters(), "lr": 1.0}]
        yield [{"params": model.backbone.parameters(), "lr": 1.0}]

    steps = plan_groups(model(), config(freeze=late)["freeze"], 3)
    next(steps)
    with pytest.raises(PluginError, match="'late' freezes the head"):
        next(steps)


def test_the_backbone_may_scale_the_rates_of_its_parameters() -> None:
    @freeze
    def both(model: Model) -> list[Group]:
        mixed = [*model.head.parameters(), *model.blocks[-1]]
        return [
            {"params": mixed, "lr": 1.0, "momentum": 0.5},
            {"params": model.blocks[0], "lr": 2.0},
        ]

    network = model()
    unscaled = plan(network, both)
    network.backbone.lr_scale = 0.1
    assert (
        plan(network, both)
        == [
            [
                {"params": list(network.head.parameters()), "lr": 1.0, "momentum": 0.5},
                {"params": network.blocks[-1], "lr": 0.1, "momentum": 0.5},
                {"params": network.blocks[0], "lr": 0.2},
            ]
        ]
        * 3
    )
    network.backbone.lr_scale = 1.0
    assert plan(network, both) == unscaled
