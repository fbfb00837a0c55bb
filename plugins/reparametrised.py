"""Freeze strategies that train a small change of each weight instead of the weight itself.

The change is a parametrization of the weight, so each layer computes as its architecture defines.
After training the changed weight replaces the original one: the saved model has the parameter
names and the cost of the plain architecture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from autotl import Incompatible, Range, freeze

from .strategies import HeadRate, freeze_statistics, last_parameters, norm_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotl.models import Group, Model


class LowRank(nn.Module):
    """``weight [out, in, ...] -> weight + scale * up @ down``, initially the weight itself.

    ``down`` is ``[rank, in * ...]`` and ``up`` is ``[out, rank]``: the kernel of a convolution is
    changed as the matrix that it applies to a patch.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = scale
        nn.init.kaiming_uniform_(self.down, a=5**0.5)  # as in torch.nn.Linear

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, in full precision because it is the one that will be saved."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down).view(weight.shape)


@freeze
def lora(
    model: Model,
    *,
    rank: Annotated[int, Range(2, 32, log=True)] = 8,
    fraction: Annotated[float, Range(0.1, 1.0)] = 0.5,
    lr: Annotated[float, Range(1e-4, 1e-2, log=True)] = 3e-3,
    alpha: float = 16.0,
) -> list[Group]:
    """Train low-rank updates of the last blocks (LoRA: Hu et al. 2021, arXiv:2106.09685).

    Linear layers and convolutions get one in the last blocks, ``fraction`` of all; it is scaled by
    ``alpha / rank``. Grouped convolutions get none, because their kernels are small already.
    """
    last = {id(p) for p in last_parameters(model, fraction)}
    trained = list(model.head.parameters())
    for layer in _get_layers(model.backbone):
        if getattr(layer, "groups", 1) == 1 and id(layer.weight) in last:
            update = LowRank(layer.weight, rank, alpha / rank)
            register_parametrization(layer, "weight", update)
            trained += update.parameters()
    if len(trained) == len(list(model.head.parameters())):
        raise Incompatible("the last blocks have no linear layer and no ungrouped convolution")
    return [{"params": trained, "lr": lr}]


class ScaleShift(nn.Module):
    """``tensor [out, ...] -> tensor * scale + shift``, with ``scale`` and ``shift`` ``[out]``."""

    shift: nn.Parameter | None

    def __init__(self, scale: nn.Parameter, shift: nn.Parameter | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.register_parameter("shift", shift)

    def forward(self, tensor: Tensor) -> Tensor:
        """The changed weight or bias; it is only scaled if there is no shift."""
        changed = tensor * self.scale.view(-1, *[1] * (tensor.ndim - 1))
        return changed if self.shift is None else changed + self.shift


@freeze
def scale_shift(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train a scale and shift of each channel and norm (SSF: Lian et al. 2022, arXiv:2210.08823).

    Linear layers and convolutions get both. Those without a bias are only scaled, because the
    following normalisation layer shifts.
    """
    trained = [*model.head.parameters(), *norm_parameters(model)]
    freeze_statistics(model)
    for layer in _get_layers(model.backbone):
        scale = nn.Parameter(layer.weight.new_ones(len(layer.weight)))
        register_parametrization(layer, "weight", ScaleShift(scale))
        trained.append(scale)
        if isinstance(layer.bias, Tensor):
            shift = nn.Parameter(torch.zeros_like(layer.bias))
            register_parametrization(layer, "bias", ScaleShift(scale, shift))
            trained.append(shift)
    return [{"params": trained, "lr": lr}]


def _get_layers(backbone: nn.Module) -> Iterable[nn.Linear | nn.Conv2d]:
    return [m for m in backbone.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
