"""Freeze strategies that learn a small change of each weight instead of the weight itself.

The change is a parametrization of the weight, so every layer goes on computing as its architecture
says, and the changed weight takes the place of the old one when training is done: what is saved
has the architecture's own names and costs nothing extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from autotl import Incompatible, Range, freeze

from .strategies import HeadRate, affine, rest_statistics, top

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotl.models import Group, Model


class LowRank(nn.Module):
    """``weight [out, in, ...] -> weight + scale * up @ down``, at first the weight itself.

    ``down`` is ``[rank, in * ...]``, ``up`` is ``[out, rank]``: the kernel of a convolution is
    changed as the matrix that it is to the patch it sees.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = scale
        nn.init.kaiming_uniform_(self.down, a=5**0.5)  # as that of a linear layer of torch

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight; in full precision, as it is what will be saved."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down).view(weight.shape)


@freeze
def lora(
    model: Model,
    *,
    rank: Annotated[int, Range(2, 32, log=True)] = 8,
    share: Annotated[float, Range(0.1, 1.0)] = 0.5,
    lr: Annotated[float, Range(1e-4, 1e-2, log=True)] = 3e-3,
    alpha: float = 16.0,
) -> list[Group]:
    """Learn a low-rank change of the top weights (LoRA: Hu et al. 2021, arXiv:2106.09685).

    Linear layers and convolutions of the top ``share`` of the blocks get one, scaled by
    ``alpha / rank``; convolutions in groups do not, their kernels are small already.
    """
    inside = {id(p) for p in top(model, share)}
    learning = list(model.head.parameters())
    for layer in _layers(model.backbone):
        if getattr(layer, "groups", 1) == 1 and id(layer.weight) in inside:
            change = LowRank(layer.weight, rank, alpha / rank)
            register_parametrization(layer, "weight", change)
            learning += change.parameters()
    if len(learning) == len(list(model.head.parameters())):
        raise Incompatible("the top blocks have no linear layer and no plain convolution")
    return [{"params": learning, "lr": lr}]


class ScaleShift(nn.Module):
    """``tensor [out, ...] -> tensor * scale + shift``, one scale and shift ``[out]`` a channel."""

    shift: nn.Parameter | None

    def __init__(self, scale: nn.Parameter, shift: nn.Parameter | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.register_parameter("shift", shift)

    def forward(self, tensor: Tensor) -> Tensor:
        """The changed weight or bias; without a shift, the scaled one."""
        changed = tensor * self.scale.view(-1, *[1] * (tensor.ndim - 1))
        return changed if self.shift is None else changed + self.shift


@freeze
def scale_shift(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Learn a scale and shift of each channel and norm (SSF: Lian et al. 2022, arXiv:2210.08823).

    Linear layers and convolutions get both; those without a bias are scaled only, as the norm
    behind them shifts.
    """
    learning = [*model.head.parameters(), *affine(model)]
    rest_statistics(model)
    for layer in _layers(model.backbone):
        scale = nn.Parameter(layer.weight.new_ones(len(layer.weight)))
        register_parametrization(layer, "weight", ScaleShift(scale))
        learning.append(scale)
        if isinstance(layer.bias, Tensor):
            shift = nn.Parameter(torch.zeros_like(layer.bias))
            register_parametrization(layer, "bias", ScaleShift(scale, shift))
            learning.append(shift)
    return [{"params": learning, "lr": lr}]


def _layers(backbone: nn.Module) -> Iterable[nn.Linear | nn.Conv2d]:
    return [m for m in backbone.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
