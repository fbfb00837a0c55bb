"""Heads that are trained by gradients: they map the output of a backbone to logits ``[B, C]``.

Shapes: B images in a batch, F features, P positions of a map, C classes.
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
    """One linear layer after dropout (Srivastava et al. 2014, JMLR 15)."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))


@head
def mlp(
    features: int,
    classes: int,
    *,
    depth: Literal[1, 2] = 1,
    width: Width = 256,
    second_width: Annotated[int, Range(64, 1024, log=True), When(depth=2)] = 128,
    dropout: Dropout = 0.1,
) -> nn.Module:
    """One or two hidden layers with GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    sizes = [features, width, second_width][: depth + 1]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(sizes[-1], classes))


class CosineClassifier(nn.Module):
    """``features [B, F] -> logits [B, C]``: scaled cosine similarity to a direction per class."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        # Of length 1: the longer they are, the smaller the rotation by a step.
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
    """Cosine similarity to a trained direction per class (Chen et al. 2019, arXiv:1904.04232)."""
    return CosineClassifier(features, classes, scale)


class BatchNorm(nn.BatchNorm1d):
    """``features [B, F] -> [B, F]``: normalises each feature to mean 0 and variance 1.

    The running statistics start as the mean over all batches and become torch's moving average,
    which alone would need some 30 steps to forget its initial values. A batch of one image has no
    variance; it is normalised with the running statistics.
    """

    def __init__(self, features: int, affine: bool) -> None:
        super().__init__(features, affine=affine)
        self.steps = 0

    def forward(self, features: Tensor) -> Tensor:
        """Normalise; in training, also count the step."""
        if self.training and len(features) == 1:
            mean, var = self.running_mean, self.running_var
            return functional.batch_norm(features, mean, var, self.weight, self.bias, eps=self.eps)
        if self.training:
            self.steps += 1
            self.momentum = max(0.1, 1 / self.steps)
        normalised: Tensor = super().forward(features)
        return normalised


@head
def batch_norm(
    features: int, classes: int, *, affine: bool = False, dropout: Dropout = 0.0
) -> nn.Module:
    """A linear layer on batch-normalised features (He et al. 2021, arXiv:2111.06377)."""
    norm = BatchNorm(features, affine)
    return nn.Sequential(norm, nn.Dropout(dropout), nn.Linear(features, classes))


class MultiDropout(nn.Linear):
    """``features [B, F] -> logits [B, C]``: the mean of the logits under several dropout masks."""

    def __init__(self, features: int, classes: int, samples: int, dropout: float) -> None:
        super().__init__(features, classes)
        self.samples, self.rate = samples, dropout

    def forward(self, features: Tensor) -> Tensor:
        """Apply the layer once, to the mean of the masked features, because it is linear."""
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
    """A linear layer after several dropout masks at once (Inoue 2019, arXiv:1905.09788)."""
    return MultiDropout(features, classes, samples, dropout)


class GeM(nn.Module):
    """``map [B, P, F] -> [B, F]``: generalised mean, from the mean (exponent 1) to the maximum.

    Negative activations are pooled separately and subtracted: after a ReLU it is the definition of
    the paper, and near exponent 1 it is the mean of any map.

    Args:
        exponent: The initial exponent.
        padding: Whether positions of zeros are padding.
    """

    def __init__(self, exponent: float, padding: bool = False) -> None:
        super().__init__()
        self.padding = padding
        self.excess = nn.Parameter(torch.tensor(math.log(math.expm1(exponent - 1))))

    @property
    def exponent(self) -> Tensor:
        """Always above 1, because below 1 the derivative at 0 is infinite."""
        return 1 + functional.softplus(self.excess)

    def forward(self, activations: Tensor) -> Tensor:
        """Pool over the positions, in float32."""
        with torch.autocast(activations.device.type, enabled=False):
            activations = activations.float()
            return self._pool(activations, 1) - self._pool(activations, -1)

    def _pool(self, activations: Tensor, sign: int) -> Tensor:
        # In log space, powers cannot overflow.
        logs = self.exponent * (sign * activations).clamp(min=1e-6).log()
        if not self.padding:
            total = logs.logsumexp(1) - math.log(activations.shape[1])
        else:
            content = has_content(activations)
            logs = logs.masked_fill(~content, -torch.inf)
            total = logs.logsumexp(1) - content.sum(1).log()
        return (total / self.exponent).exp()


def has_content(activations: Tensor) -> Tensor:
    """Whether each position of a map ``[B, P, F]`` is no padding: ``bool [B, P, 1]``.

    A map without any content is taken as a whole.
    """
    content = (activations != 0).any(2, keepdim=True)
    return content | ~content.any(1, keepdim=True)


@head(takes="map")
def gem(
    features: int,
    classes: int,
    padding: bool = False,
    *,
    exponent: Annotated[float, Range(1.2, 8.0, log=True)] = 3.0,
    dropout: Dropout = 0.1,
) -> nn.Module:
    """A linear layer after generalised-mean pooling (Radenovic et al. 2017, arXiv:1711.02512)."""
    return nn.Sequential(GeM(exponent, padding), nn.Dropout(dropout), nn.Linear(features, classes))


class AttentionPool(nn.Module):
    """``map [B, P, F] -> [B, F]``: each head averages its group of features by attention weights.

    Keys and values are the map itself, which suits few training images. The queries are
    initialised to 0, so training starts from the plain mean.

    Args:
        features: F.
        heads: Number of heads, which divides F.
        padding: Whether positions of zeros are padding.
    """

    def __init__(self, features: int, heads: int, padding: bool = False) -> None:
        super().__init__()
        self.padding = padding
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.queries = nn.Parameter(torch.zeros(heads, features))

    def forward(self, activations: Tensor) -> Tensor:
        """Pool over the positions."""
        heads, features = self.queries.shape
        scores = functional.linear(self.norm(activations), self.queries) / math.sqrt(features)
        if self.padding:
            scores = scores.masked_fill(~has_content(activations), -torch.inf)
        values = activations.reshape(*activations.shape[:2], heads, -1)
        return torch.einsum("bph,bphf->bhf", scores.softmax(1).to(values), values).flatten(1)


@head(takes="map")
def attention(
    features: int,
    classes: int,
    padding: bool = False,
    *,
    heads: Literal[1, 4, 8] = 4,
    dropout: Dropout = 0.1,
) -> nn.Module:
    """A linear layer after attention pooling (Lee et al. 2018, arXiv:1810.00825).

    If ``heads`` does not divide the number of features, their greatest common divisor is used.
    """
    pool = AttentionPool(features, math.gcd(features, heads), padding)
    return nn.Sequential(pool, nn.Dropout(dropout), nn.Linear(features, classes))


@head(takes="stages")
def stages(features: int, classes: int, *, dropout: Dropout = 0.1) -> nn.Module:
    """A linear layer on features of several stages (Head2Toe: Evci et al. 2022, arXiv:2201.03529).

    Each feature is normalised over the batch, so that stages with large features do not dominate.
    """
    norm = BatchNorm(features, affine=False)
    return nn.Sequential(norm, nn.Dropout(dropout), nn.Linear(features, classes))
