"""Models under test: what must stay frozen, can be saved and can be copied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from broken_plugins import (
    assert_reported,
    head_group,
    make_strategy,
)
from torch import Tensor, nn

from autotl import (
    backbone,
    head,
)
from autotl.models import Group, Model
from autotl.space.plugin import AnyPlugin
from autotl.testing import toy


class Unsaved(nn.Module):
    """Uses a random projection of the features that is not among its buffers."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.projection = torch.randn(features, features)
        self.layer = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features @ self.projection)


@head
def unsaved(features: int, classes: int) -> nn.Module:
    """Loses a random projection when it is saved."""
    return Unsaved(features, classes)


@head
def tied(features: int, classes: int) -> nn.Module:
    """Two layers with one weight."""
    one, other = nn.Linear(features, features), nn.Linear(features, features)
    other.weight = one.weight
    return nn.Sequential(one, other, nn.Linear(features, classes))


@head
def uncopied(features: int, classes: int) -> nn.Module:
    """Holds a tensor that is computed from a parameter."""
    layer = nn.Linear(features, classes)
    layer.extra = layer.weight * 2  # type: ignore[assignment]
    return layer


def changes_frozen_weight(model: Model) -> list[Group]:
    model.blocks[0][0].data.mul_(1.01)
    return [head_group(model)]


def changes_frozen_weight_later(model: Model) -> Iterator[list[Group]]:
    yield [head_group(model)]
    model.blocks[0][0].data.mul_(1.01)
    yield [head_group(model)]


def keeps_batchnorm_in_train_mode(model: Model) -> list[Group]:
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.train = lambda mode=True, module=module: module  # type: ignore
    return [head_group(model)]


class AlwaysTraining(nn.BatchNorm2d):
    """BatchNorm that always uses and updates the statistics of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            images, self.running_mean, self.running_var, self.weight, self.bias, True
        )


@backbone
def always_training() -> nn.Module:
    """Four blocks, one with a BatchNorm that ignores eval mode."""
    network = toy.convnet()
    assert isinstance(network, toy.ConvNet)
    network.stem[1] = AlwaysTraining(8)
    return network


BROKEN = [
    (unsaved, "gives different logits after it is saved and loaded"),
    (tied, "cannot be saved and loaded again"),
    (uncopied, "cannot be copied"),
    (
        make_strategy(changes_frozen_weight),
        "changes 'backbone.stem.0.weight', which is in no group",
    ),
    (
        make_strategy(changes_frozen_weight_later),
        "changes 'backbone.stem.0.weight', which is in no group",
    ),
    (make_strategy(keeps_batchnorm_in_train_mode), "running statistics of a frozen layer"),
    (always_training, "running statistics of a frozen layer"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)
