"""How violations are collected and worded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
import torch
from broken_plugins import (
    assert_reported,
    with_constant_rate,
)
from torch import nn

from autotl import (
    Range,
    head,
    optimizer,
)
from autotl.models import Group
from autotl.space.plugin import AnyPlugin
from autotl.testing import examine


@head
def fails_at_two(features: int, classes: int, *, depth: Literal[1, 2] = 1) -> nn.Module:
    """Cannot be built at one of its choices."""
    if depth == 2:
        raise ValueError("two are too many")
    return nn.Linear(features, classes)


@optimizer
def explosive(
    groups: list[Group],
    steps: int,
    *,
    scale: Annotated[float, Range(1.0, 1e30, log=True)] = 1.0,
) -> Any:
    """SGD whose learning rate may be far too high."""
    return with_constant_rate(torch.optim.SGD([{**g, "lr": scale * g["lr"]} for g in groups]))


BROKEN = [
    (fails_at_two, "raises ValueError in line"),
    (fails_at_two, "two are too many (with depth=2)"),
    (explosive, "diverges on easy data"),
    (explosive, "narrow the range (with scale=1e+30)"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)


def test_the_values_of_a_violation_are_reported_with_the_number_of_others() -> None:
    @head
    def only_shallow(
        features: int, classes: int, *, depth: Annotated[int, Range(1, 9)] = 5
    ) -> nn.Module:
        """Fails away from its default."""
        if depth != 5:
            raise ValueError("no")
        return nn.Linear(features, classes)

    [text] = examine(only_shallow).broken
    assert text.endswith("no (with depth=1 and 1 more)")
    assert examine(only_shallow).configurations == 3
