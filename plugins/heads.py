"""Heads map pooled features ``[B, features]`` to logits ``[B, classes]``."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl import Range, When, head

Dropout = Annotated[float, Range(0.0, 0.5)]
Width = Annotated[int, Range(64, 1024, log=True)]


@head(order=1)
def linear(features: int, classes: int, *, dropout: Dropout = 0.1) -> nn.Module:
    """One linear layer behind dropout (Srivastava et al. 2014, JMLR 15)."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))


@head
def mlp(
    features: int,
    classes: int,
    *,
    depth: Literal[1, 2] = 1,
    width: Width = 256,
    second: Annotated[int, Range(64, 1024, log=True), When(depth=2)] = 128,
    dropout: Dropout = 0.1,
) -> nn.Module:
    """One or two hidden layers with GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    sizes = [features, width, second][: depth + 1]
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Dropout(dropout), nn.Linear(wide, narrow), nn.GELU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(sizes[-1], classes))


class Cosine(nn.Module):
    """``features [B, F] -> logits [B, C]``: their cosine to each class's direction, scaled."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, features))
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits in ``[-scale, scale]``."""
        unit = functional.normalize(features, dim=1)
        return self.scale * functional.linear(unit, functional.normalize(self.directions, dim=1))


@head
def cosine(
    features: int, classes: int, *, scale: Annotated[float, Range(5.0, 50.0, log=True)] = 16.0
) -> nn.Module:
    """Cosine to a learnt direction of each class (Chen et al. 2019, arXiv:1904.04232)."""
    return Cosine(features, classes, scale)
