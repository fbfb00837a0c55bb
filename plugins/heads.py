"""Heads map what a backbone gives to logits ``[B, classes]``; these learn by gradients alone.

Shapes: B pictures in a batch, F features, P positions of a map, C classes.
"""

from __future__ import annotations

import itertools
import math
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
        # Of length 1: the longer they are, the less a step turns them.
        self.directions = nn.Parameter(functional.normalize(torch.randn(classes, features), dim=1))
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


class BatchNorm(nn.BatchNorm1d):
    """``features [B, F] -> [B, F]``: each feature to mean 0 and deviation 1, over the pictures.

    The statistics it keeps begin as the mean of all batches and go over into torch's moving
    average, which alone would need some 30 steps to forget what it started with. A picture that
    comes alone has no deviation; it is normalised as in use.
    """

    def __init__(self, features: int, affine: bool) -> None:
        super().__init__(features, affine=affine)
        self.steps = 0

    def forward(self, features: Tensor) -> Tensor:
        """Normalise; count a step of training."""
        if self.training and len(features) == 1:
            mean, var = self.running_mean, self.running_var
            return functional.batch_norm(features, mean, var, self.weight, self.bias, eps=self.eps)
        if self.training:
            self.steps += 1
            self.momentum = max(0.1, 1 / self.steps)
        normal: Tensor = super().forward(features)
        return normal


@head
def batch_norm(
    features: int, classes: int, *, affine: bool = False, dropout: Dropout = 0.0
) -> nn.Module:
    """A linear layer on features normalised over the batch (He et al. 2021, arXiv:2111.06377)."""
    normal = BatchNorm(features, affine)
    return nn.Sequential(normal, nn.Dropout(dropout), nn.Linear(features, classes))


class MultiDropout(nn.Linear):
    """``features [B, F] -> logits [B, C]``: the mean of what several dropout masks leave."""

    def __init__(self, features: int, classes: int, samples: int, dropout: float) -> None:
        super().__init__(features, classes)
        self.samples, self.rate = samples, dropout

    def forward(self, features: Tensor) -> Tensor:
        """The layer is linear, so it need run only once, on the mean of the masked features."""
        if self.training:
            masks = functional.dropout(features.new_ones(self.samples, *features.shape), self.rate)
            features = features * masks.mean(0)
        return super().forward(features)


@head
def multi_dropout(
    features: int,
    classes: int,
    *,
    samples: Annotated[int, Range(2, 16, log=True)] = 5,
    dropout: Annotated[float, Range(0.1, 0.8)] = 0.5,
) -> nn.Module:
    """A linear layer behind several dropout masks at once (Inoue 2019, arXiv:1905.09788)."""
    return MultiDropout(features, classes, samples, dropout)


class GeM(nn.Module):
    """``map [B, P, F] -> [B, F]``: generalised mean, from the mean (exponent 1) to the maximum.

    Negative activations are pooled by themselves and taken off: after a ReLU it is the paper's,
    and near exponent 1 it is the mean of any map.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.excess = nn.Parameter(torch.tensor(math.log(math.expm1(exponent - 1))))

    @property
    def exponent(self) -> Tensor:
        """Always above 1: below, the slope at 0 is infinite."""
        return 1 + functional.softplus(self.excess)

    def forward(self, activations: Tensor) -> Tensor:
        """Pool over the positions, in float32."""
        with torch.autocast(activations.device.type, enabled=False):
            activations = activations.float()
            return self._pool(activations) - self._pool(-activations)

    def _pool(self, activations: Tensor) -> Tensor:
        logs = activations.clamp(min=1e-6).log()  # in logarithms no power can overflow
        total = (self.exponent * logs).logsumexp(1) - math.log(activations.shape[1])
        return (total / self.exponent).exp()


@head(takes="map")
def gem(
    features: int,
    classes: int,
    *,
    exponent: Annotated[float, Range(1.2, 8.0, log=True)] = 3.0,
    dropout: Dropout = 0.1,
) -> nn.Module:
    """A linear layer on the map's generalised mean (Radenovic et al. 2017, arXiv:1711.02512)."""
    return nn.Sequential(GeM(exponent), nn.Dropout(dropout), nn.Linear(features, classes))


class Attention(nn.Module):
    """``map [B, P, F] -> [B, F]``: each head averages its share of the features where it looks.

    Keys and values are the map itself, which is what learns from few pictures. The queries start
    at 0, so training starts from the plain mean.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.queries = nn.Parameter(torch.zeros(heads, features))

    def forward(self, activations: Tensor) -> Tensor:
        """Pool over the positions."""
        heads, features = self.queries.shape
        scores = functional.linear(self.norm(activations), self.queries) / math.sqrt(features)
        shares = activations.reshape(*activations.shape[:2], heads, -1)
        return torch.einsum("bph,bphf->bhf", scores.softmax(1).to(shares), shares).flatten(1)


@head(takes="map")
def attention(
    features: int, classes: int, *, heads: Literal[1, 4, 8] = 4, dropout: Dropout = 0.1
) -> nn.Module:
    """A linear layer on what learnt queries look at (Lee et al. 2018, arXiv:1810.00825).

    Where ``heads`` do not divide the features, as many are used as do.
    """
    pool = Attention(features, math.gcd(features, heads))
    return nn.Sequential(pool, nn.Dropout(dropout), nn.Linear(features, classes))


@head(takes="stages")
def stages(features: int, classes: int, *, dropout: Dropout = 0.1) -> nn.Module:
    """A linear layer on features of several depths (Head2Toe: Evci et al. 2022, arXiv:2201.03529).

    Each feature is normalised over the batch, or the stages with large ones would outshout others.
    """
    normal = BatchNorm(features, affine=False)
    return nn.Sequential(normal, nn.Dropout(dropout), nn.Linear(features, classes))
