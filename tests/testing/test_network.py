"""Outputs and training of models with a plugin's backbone or head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from broken_plugins import (
    assert_reported,
    wrap_linear,
)
from torch import Tensor, nn

from autotl import (
    backbone,
    head,
)
from autotl.space.plugin import AnyPlugin
from autotl.testing import toy


@head
def too_wide(features: int, classes: int) -> nn.Module:
    """One logit too many."""
    return nn.Linear(features, classes + 1)


@head
def no_module(features: int, classes: int) -> Any:
    """A function in place of a module."""
    return lambda features: features


class Partly(nn.Module):
    """Detaches the output of a second layer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer, self.second = nn.Linear(features, classes), nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) + self.second(features).detach()


@head
def partly(features: int, classes: int) -> nn.Module:
    """Trains one of its two layers."""
    return Partly(features, classes)


class Misfit(nn.Linear):
    """Is fitted in closed form to classes in the wrong order."""

    def fit(self, features: Tensor, labels: Tensor) -> None:
        for i in range(len(self.weight)):
            mean = features[labels == i].mean(0)
            self.weight[i - 1], self.bias[i - 1] = mean, -mean.square().sum() / 2


@head
def misfit(features: int, classes: int) -> nn.Module:
    """Is fitted to the wrong classes."""
    return Misfit(features, classes)


def network(change: Callable[[Any], Any]) -> AnyPlugin:
    @backbone(name="broken")
    def broken() -> nn.Module:
        """Four blocks, with a fault."""
        network = toy.convnet()
        change(network)
        return network

    return broken


BROKEN = [
    (too_wide, "returns logits float32 [8, 4] for 8 images; return [8, 3]"),
    (no_module, "returned function; it must return a torch.nn.Module"),
    (wrap_linear(lambda m, x: m.layer(x).round().long()), "returns logits of int64"),
    (wrap_linear(lambda m, x: m.layer(x) / 0), "not finite"),
    (wrap_linear(lambda m, x: m.layer(x).detach()), "its logits have no gradient"),
    (wrap_linear(lambda m, x: m.layer(x * 0)), "25% of the points of four separate clusters"),
    (
        wrap_linear(lambda m, x: m.layer(nn.functional.dropout(x))),
        "gives different logits each time",
    ),
    (wrap_linear(lambda m, x: m.layer(x).squeeze()), "cannot predict a single image"),
    (wrap_linear(lambda m, x: m.layer(x - x.mean(0))), "predicts one image alone differently"),
    (partly, "its parameter 'second.weight' does not change"),
    (misfit, "classifies 0% of the points of four separate clusters"),
    (network(lambda m: setattr(m, "num_features", 25)), "return [8, 25]"),
    (network(lambda m: delattr(m, "pretrained_cfg")), "does not implement timm's interface"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)
