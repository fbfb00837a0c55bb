"""Heads that are computed from the features of all training pictures at once, not stepped to.

Each has ``fit(features [N, F], labels [N])``. All standardise the features first. What they learn
is tensors of their own, so scikit-learn is needed to fit, not to predict. Those that are linear
layers can go on learning by gradients when the backbone under them does.

Shapes: N training pictures, B in a batch, F features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl import Range, head

Solution = tuple[Tensor, Tensor]
Solve = Callable[[Tensor, Tensor], Solution]
"""Standardised features ``float64 [N, F]`` and labels ``[N]`` to weights ``[C, F]`` and biases.

All are on the CPU; the labels are 0 to C - 1, and each occurs."""

ABSENT = -10.0
"""The logit of a class without a training picture; those of the others have mean 0."""


def _scaling(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[F]`` of ``features [N, F]``; a deviation of nearly 0 counts as 1."""
    mean, deviation = features.mean(0), features.std(0, correction=0)
    least = 1e-5 * (mean.abs() + deviation.mean())
    return mean, torch.where(deviation > least, deviation, 1.0)


class Solved(nn.Linear):
    """``features [B, F] -> logits [B, C]``: a linear layer whose weights are solved for."""

    def __init__(self, features: int, classes: int, solve: Solve) -> None:
        super().__init__(features, classes)
        self.solve = solve

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Set the weights; the scaling of the features becomes part of them."""
        features = features.cpu().double()
        mean, deviation = _scaling(features)
        present, numbers = torch.unique(labels.cpu(), return_inverse=True)
        weight, bias = self.solve((features - mean) / deviation, numbers)
        weight = (weight - weight.mean(0)) / deviation
        bias = bias - bias.mean() - weight @ mean
        self.weight.zero_()[present] = weight.to(self.weight)
        self.bias.fill_(ABSENT)[present] = bias.to(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """In float32: the scaling takes large numbers from each other."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


@head(order=2)
def logistic_regression(
    features: int, classes: int, *, C: Annotated[float, Range(1e-4, 10.0, log=True)] = 0.03
) -> nn.Module:
    """Logistic regression by L-BFGS, as CLIP is probed (Radford et al. 2021, arXiv:2103.00020).

    ``C`` is scikit-learn's: the inverse of the strength of the L2 penalty.
    """
    return Solved(features, classes, partial(_logistic_regression, C=C))


def _logistic_regression(features: Tensor, labels: Tensor, C: float) -> Solution:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=300)
    with warnings.catch_warnings():
        # Stopped early it is a little more regularised, and scored like any other head.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(weight) == 1:  # of two classes, scikit-learn keeps the difference
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


@head
def lda(
    features: int, classes: int, *, shrinkage: Annotated[float, Range(0.01, 1.0, log=True)] = 0.1
) -> nn.Module:
    """Linear discriminants with a shrunken covariance (Friedman 1989, JASA 84).

    ``shrinkage`` is the way from the covariance within classes (0) to the same variance in every
    direction (1).
    """
    return Solved(features, classes, partial(_lda, shrinkage=shrinkage))


def _lda(features: Tensor, labels: Tensor, shrinkage: float) -> Solution:
    """What scikit-learn's solver ``lsqr`` finds, 5 to 10 times faster by a Cholesky factor."""
    means, counts = _means(features, labels)
    within = features - means[labels]
    covariance = (1 - shrinkage) * (within.T @ within) / len(labels)
    variance = within.square().mean().clamp(min=1e-3)  # it is 0 for one picture of each class
    covariance.diagonal().add_(shrinkage * variance)
    weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T
    return weight, (counts / len(labels)).log() - (weight * means).sum(1) / 2


def _means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean ``[C, F]`` and the number ``[C]`` of each class."""
    counts = labels.bincount().to(features)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None], counts


@head
def nearest_mean(
    features: int, classes: int, *, threshold: Annotated[float, Range(0.0, 2.0)] = 0.5
) -> nn.Module:
    """The nearest class mean, without features that differ by luck (Tibshirani 2002, PNAS 99).

    ``threshold`` is scikit-learn's ``shrink_threshold``: by so many standard errors each class's
    mean is moved towards the mean of all.
    """
    return Solved(features, classes, partial(_nearest_mean, threshold=threshold))


def _nearest_mean(features: Tensor, labels: Tensor, threshold: float) -> Solution:
    means, counts = _means(features, labels)
    free = max(1, len(labels) - len(means))
    within = ((features - means[labels]).square().sum(0) / free).sqrt()
    error = (1 / counts - 1 / len(labels)).sqrt()[:, None] * (within + within.quantile(0.5))
    means = means.sign() * (means.abs() - threshold * error).clamp(min=0)
    scale = _scale(torch.cdist(features, means).square(), labels, counts)
    return scale * means, -scale * means.square().sum(1) / 2


def _scale(distances: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """How much nearer is how much likelier: what ``-distances / 2`` must be multiplied by.

    It is the scale with the least cross-entropy (Guo et al. 2017, arXiv:1706.04599), each picture
    being left out of its own class's mean, which would make ``distances [N, C]`` too short.
    """
    size = counts[labels]
    logits = -distances / 2
    logits[torch.arange(len(labels)), labels] *= (size / (size - 1)) ** 2
    others = size > 1
    scales = torch.logspace(-4, 1, 51, dtype=logits.dtype)
    losses = [
        functional.cross_entropy(s * logits[others], labels[others], reduction="sum")
        for s in scales
    ]
    return scales[torch.stack(losses).argmin()]


class Neighbours(nn.Module):
    """``features [B, F] -> logits [B, C]``: the vote of the most similar training pictures."""

    mean: Tensor
    deviation: Tensor
    known: Tensor
    labels: Tensor

    def __init__(self, features: int, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.classes, self.k, self.temperature = classes, k, temperature
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("known", torch.zeros(0, features))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Keep the training pictures' directions ``[N, F]`` and labels ``[N]``."""
        self.mean, self.deviation = _scaling(features.float())
        self.known, self.labels = self._directions(features), labels.clone()

    def forward(self, features: Tensor) -> Tensor:
        """The logarithm of the votes, as if one more neighbour had voted for all classes alike."""
        with torch.autocast(features.device.type, enabled=False):
            similarity = functional.linear(self._directions(features), self.known)
            near = similarity.topk(min(self.k, len(self.known)), 1)
            weights = (near.values / self.temperature).softmax(1)
            votes = weights.new_zeros(features.shape[0], self.classes)
            votes = votes.scatter_add(1, self.labels[near.indices], weights)
            return (near.values.shape[1] * votes + 1 / self.classes).log()

    def _directions(self, features: Tensor) -> Tensor:
        return functional.normalize((features.float() - self.mean) / self.deviation, dim=1)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("known", "labels"):  # as many rows as there were training pictures
            if (saved := state.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state, prefix, *others)


@head
def knn(
    features: int,
    classes: int,
    *,
    k: Annotated[int, Range(1, 100, log=True)] = 10,
    temperature: Annotated[float, Range(0.02, 1.0, log=True)] = 0.1,
) -> nn.Module:
    """A vote of the nearest training pictures, by cosine (Wu et al. 2018, arXiv:1805.01978).

    A neighbour's vote counts ``exp(cosine / temperature)``.
    """
    return Neighbours(features, classes, k, temperature)
