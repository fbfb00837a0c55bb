"""Freeze strategies that train everything and add a penalty to the loss.

Shapes: B images in a batch, F features.
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

# A penalty is a partial function rather than a closure, so that a copy of the model has its own.


@freeze
def l2_sp(
    model: Model, *, alpha: Annotated[float, Range(1e-4, 1.0, log=True)] = 1e-2, lr: Rate = 1e-3
) -> list[Group]:
    """Train all, penalise distance to pretrained weights (L2-SP: Li et al. 2018, arXiv:1802.01483).

    The penalty replaces the backbone's weight decay, which would pull the weights to zero; the
    head keeps its own.
    """
    weights = list(model.backbone.parameters())
    pretrained = [p.detach().clone() for p in weights]
    penalty = partial(squared_distance, weights=weights, pretrained=pretrained, alpha=alpha)
    model.penalties.append(penalty)
    backbone = {"params": weights, "lr": lr, "weight_decay": 0.0}
    return [{"params": model.head.parameters(), "lr": lr}, backbone]


def squared_distance(
    features: Tensor, weights: Sequence[Tensor], pretrained: Sequence[Tensor], alpha: float
) -> Tensor:
    """``alpha`` / 2 times the squared distance between ``weights`` and ``pretrained``."""
    squares = [(p - q).square().sum() for p, q in zip(weights, pretrained, strict=True)]
    return alpha / 2 * torch.stack(squares).sum()


@freeze
def bss(
    model: Model,
    *,
    eta: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-3,
    lr: Rate = 1e-3,
    count: int = 1,
) -> list[Group]:
    """Train all, penalise small singular values of features (BSS: Chen et al. 2019, NeurIPS).

    "Catastrophic forgetting meets negative transfer": directions in which the features of a batch
    hardly vary carry what does not transfer. The ``count`` smallest singular values are penalised.
    """
    model.penalties.append(partial(spectral_penalty, eta=eta, count=count))
    return [{"params": model.parameters(), "lr": lr}]


def spectral_penalty(features: Tensor, eta: float, count: int) -> Tensor:
    """``eta`` times the sum of the ``count`` smallest squared singular values of the features.

    They are the eigenvalues of the products of the features of any two images, in float64. The
    largest value is never penalised, so a batch of one image has no penalty. The gradient is also
    finite for equal singular values, because it needs no differences of them. The CPU waits for a
    GPU, which says whether they were found.

    Args:
        features: ``[B, F]``, or a map ``[B, positions, F]``, which is averaged over its positions.
        eta: Weight of the penalty.
        count: Number of singular values.
    """
    with torch.autocast(features.device.type, enabled=False):
        # Values that are not finite show in the loss, which ends the trial for that reason.
        finite = features.float().nan_to_num(0.0, 0.0, 0.0)
        pooled = finite.reshape(len(finite), -1, finite.shape[-1]).mean(1)
        on_mps = pooled.device.type == "mps"  # which has neither float64 nor eigenvalues
        exact = (pooled.cpu() if on_mps else pooled).double()
        products = exact @ exact.T if len(exact) <= exact.shape[1] else exact.T @ exact
        values = torch.linalg.eigvalsh(products)  # in ascending order
        penalty: Tensor = eta * values[:-1][:count].sum().to(pooled)
        return penalty
