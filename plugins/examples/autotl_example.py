"""Two plugins: a freeze strategy and a head. Each is a function, and that is all there is to it."""

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
    share: Annotated[float, Range(0.1, 0.5)] = 0.25,
    lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-3,
) -> list[Group]:
    """Train the head, the top share of the blocks, and the stem ten times slower."""
    stem, *others = model.blocks
    top = [p for block in others[-ceil(share * len(others)) :] for p in block]
    learning = [*model.head.parameters(), *top]
    return [{"params": learning, "lr": lr}, {"params": stem, "lr": lr / 10}]


@head
def bottleneck(
    features: int, classes: int, *, width: Annotated[int, Range(8, 256, log=True)] = 64
) -> nn.Module:
    """A narrow linear layer before the classifier, as in low-rank bilinear heads."""
    return nn.Sequential(nn.Linear(features, width), nn.Linear(width, classes))
