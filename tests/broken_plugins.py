"""Plugins that break the contract, shared by the tests of ``autotl.testing``.

A broken plugin is a working one with a single fault, so that a report can only be about that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotl import freeze, head
from autotl.errors import PluginError
from autotl.models import Group, Model
from autotl.space.plugin import AnyPlugin
from autotl.testing import check


class Wrapped(nn.Module):
    """A linear layer with a given function of its features."""

    def __init__(
        self, features: int, classes: int, forward: Callable[[Any, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)
        self.compute = forward

    def forward(self, features: Tensor) -> Tensor:
        return self.compute(self, features)


def wrap_linear(forward: Callable[[Any, Tensor], Tensor]) -> AnyPlugin:
    """A head plugin of a linear layer with a given forward."""

    @head(name="broken")
    def broken(features: int, classes: int) -> nn.Module:
        """A linear layer with a fault."""
        return Wrapped(features, classes, forward)

    return broken


def make_strategy(make: Callable[[Model], Any]) -> AnyPlugin:
    """A freeze plugin that returns what ``make`` makes of the model."""

    @freeze(name="broken")
    def broken(model: Model) -> Any:
        """Train the head, with a fault."""
        return make(model)

    return broken


def head_group(model: Model, **more: Any) -> Group:
    """The group of the head's parameters."""
    return {"params": model.head.parameters(), "lr": 1e-2, **more}


def with_constant_rate(chosen: torch.optim.Optimizer) -> Any:
    """The optimizer and a scheduler that keeps its learning rates."""
    return chosen, torch.optim.lr_scheduler.LambdaLR(chosen, lambda step: 1.0)


def assert_reported(plugin: AnyPlugin, words: str) -> None:
    """Assert that ``check`` reports a violation in these words, with the plugin's name."""
    with pytest.raises(PluginError) as caught:
        check(plugin)
    assert words in str(caught.value)
    assert f"{plugin.kind} plugin {plugin.name!r} " in str(caught.value)
