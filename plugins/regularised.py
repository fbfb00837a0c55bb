"""Freeze strategies that train everything and add a penalty to the loss.

Shapes: B pictures in a batch, F features.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from autotl import Range, freeze

from .strategies import Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotl.models import Group, Model

# A penalty is a partial function rather than a closure: a copy of the model then has its own.


@freeze
def l2_sp(
    model: Model, *, alpha: Annotated[float, Range(1e-4, 1.0, log=True)] = 1e-2, lr: Rate = 1e-3
) -> list[Group]:
    """Train all, pulled to the pretrained weights (L2-SP: Li et al. 2018, arXiv:1802.01483).

    The pull takes the place of the backbone's weight decay, which would pull to zero; the head
    keeps its own.
    """
    learning = list(model.backbone.parameters())
    before = [p.detach().clone() for p in learning]
    model.penalties.append(partial(distance, learning=learning, before=before, alpha=alpha))
    pulled = {"params": learning, "lr": lr, "weight_decay": 0.0}
    return [{"params": model.head.parameters(), "lr": lr}, pulled]


def distance(
    features: Tensor, learning: Sequence[Tensor], before: Sequence[Tensor], alpha: float
) -> Tensor:
    """Half ``alpha`` times the squared distance of the weights to those of before."""
    squares = [(p - q).square().sum() for p, q in zip(learning, before, strict=True)]
    return alpha / 2 * torch.stack(squares).sum()


@freeze
def bss(
    model: Model,
    *,
    eta: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-3,
    lr: Rate = 1e-3,
    count: int = 1,
) -> list[Group]:
    """Train all, smallest singular value of the features shrunk (BSS: Chen et al. 2019, NeurIPS).

    "Catastrophic forgetting meets negative transfer": directions in which the features of a batch
    hardly differ carry what does not transfer. ``count`` of them are shrunk.
    """
    model.penalties.append(partial(spectrum, eta=eta, count=count))
    return [{"params": model.parameters(), "lr": lr}]


def spectrum(features: Tensor, eta: float, count: int) -> Tensor:
    """``eta`` times the sum of the ``count`` smallest squared singular values of ``[B, F]``.

    A map ``[B, positions, F]`` is pooled. The largest value is never shrunk, so a batch of one
    picture is left alone. Equal singular values have a gradient as well, since the values alone
    are asked for and not their directions.
    """
    with torch.autocast(features.device.type, enabled=False):
        # What is not finite shows in the loss, which ends the trial with that reason.
        finite = features.float().nan_to_num(0.0, 0.0, 0.0)
        pooled = finite.reshape(len(finite), -1, finite.shape[-1]).mean(1)
        values = torch.linalg.svdvals(pooled)  # the largest first
        smallest: Tensor = values[1:][-count:]
        return eta * smallest.square().sum()
