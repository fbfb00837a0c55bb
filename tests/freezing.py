"""Helpers of the tests of freeze strategies: models, plans and sets of trained parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from toy import Backbone, config, model

from autotl import backbone
from autotl.models import Group, Model, plan_groups
from autotl.training import set_trainable

TIMM_MODELS = ("test_vit", "test_resnet", "test_efficientnet")


def build_network(name: str | None = None) -> Model:
    """The toy model, or a model of timm with random weights for images of 32 pixels."""
    return model(backbone=name, size=32) if name else model()


def random_images(net: Model, count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(3)
    side = net.expects.size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def plan_epochs(net: Model, name: str, epochs: int = 2, **params: Any) -> list[list[Group]]:
    return list(plan_groups(net, config(freeze=(name, params))["freeze"], epochs))


def build_and_plan(name: str, epochs: int, **params: Any) -> tuple[Model, list[list[Group]]]:
    net = model()
    return net, plan_epochs(net, name, epochs, **params)


def parameter_ids(groups: list[Group]) -> set[int]:
    return {id(p) for g in groups for p in g["params"]}


def train_as(net: Model, name: str, **params: Any) -> set[str]:
    """Set the trainable parameters by a strategy; the names of those in the backbone."""
    groups = plan_epochs(net, name, **params)[-1]
    set_trainable(net, groups)
    assert all(p.requires_grad for p in net.head.parameters())
    return {n for n, p in net.backbone.named_parameters() if p.requires_grad}


def trained_blocks(net: Model, groups: list[Group]) -> set[int]:
    """The indices of the trained blocks, which are trained as a whole; -1 is the head."""
    trained = parameter_ids(groups)
    parts = {-1: list(net.head.parameters()), **dict(enumerate(net.blocks))}
    whole = {n for n, part in parts.items() if {id(p) for p in part} <= trained}
    assert trained == {id(p) for n in whole for p in parts[n]}
    return whole


def perturb(net: Model) -> None:
    """Change all trainable parameters."""
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape).mul(0.1))


def norm_names(net: Model) -> set[str]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    layers = {n for n, m in net.backbone.named_modules() if isinstance(m, kinds)}
    return {n for n, _ in net.backbone.named_parameters() if n.rpartition(".")[0] in layers}


@backbone
def single() -> nn.Module:
    """The toy backbone as a single block, without norms or biases."""
    net = Backbone()
    net.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.ReLU())
    net.stages, net.group_matcher = nn.Identity(), None
    return net
