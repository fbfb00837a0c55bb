"""Two plugins, each a decorated function: a freeze strategy and a head."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated

from torch import nn

from autotl import Range, freeze, head

if TYPE_CHECKING:
    from autotl.models import Group, Model


@freeze
def top_and_stem(
    model: Model,
    *,
    fraction: Annotated[float, Range(0.1, 0.5)] = 0.25,
    lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-3,
) -> list[Group]:
    """Train the head, the last blocks, and the stem at a tenth of the learning rate.

    ``fraction`` is the fraction of the blocks after the stem that are trained.
    """
    stem, *others = model.blocks
    last = [p for block in others[-ceil(fraction * len(others)) :] for p in block]
    trained = [*model.head.parameters(), *last]
    return [{"params": trained, "lr": lr}, {"params": stem, "lr": lr / 10}]


@head
def bottleneck(
    features: int, classes: int, *, width: Annotated[int, Range(8, 256, log=True)] = 64
) -> nn.Module:
    """A low-rank linear classifier: a narrow linear layer before the output layer."""
    return nn.Sequential(nn.Linear(features, width), nn.Linear(width, classes))
