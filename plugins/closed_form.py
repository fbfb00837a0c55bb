"""Heads that are computed from the features of all training images at once, without gradients.

Each has ``fit(features [N, F], targets)``. Targets are labels ``[N]`` of classes, or what the loss
of another task takes, ``float32 [N, L]``. All standardise the features first. What ``fit``
computes is stored in tensors of the head, so scikit-learn is needed to fit, not to predict. The
heads that are linear layers can be trained further by gradients together with the backbone.

Shapes: N training images, B in a batch, F features, C classes.
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
Solver = Callable[[Tensor, Tensor], Solution]
"""Maps standardised features ``float64 [N, F]`` and targets to weights and biases.

Weights are ``[L, F]``, biases ``[L]``. All are on the device of the head, or on the CPU if that has
no float64, as an Apple GPU; labels ``[N]`` are 0 to C - 1, and each occurs. Other targets are
``float64 [N, L]``."""

ITERATIONS = 300
"""The maximum number of iterations of L-BFGS."""

ABSENT_LOGIT = -10.0
"""The logit of a class without a training image; those of the other classes have mean 0."""


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[F]`` of ``features [N, F]``; 1 replaces an std near 0."""
    mean, std = features.mean(0), features.std(0, correction=0)
    threshold = 1e-5 * (mean.abs() + std.mean())
    return mean, torch.where(std > threshold, std, 1.0)


class SolvedLinear(nn.Linear):
    """``features [B, F] -> logits [B, L]``: a linear layer with weights in closed form."""

    def __init__(self, features: int, classes: int, solve: Solver) -> None:
        super().__init__(features, classes)
        self.solve = solve

    def standardise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the scale ``[F]`` of features ``[N, F]``."""
        return _standardisation(features)

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Set the weights, which include the standardisation of the features."""
        if features.device.type == "mps":
            features, targets = features.cpu(), targets.cpu()
        features = features.double()
        mean, std = self.standardise(features)
        if targets.ndim == 2:
            weight, bias = self.solve((features - mean) / std, targets.double())
            weight = weight / std
            self.weight.copy_(weight)
            self.bias.copy_(bias - weight @ mean)
            return
        present, indices = torch.unique(targets, return_inverse=True)
        weight, bias = self.solve((features - mean) / std, indices)
        weight = (weight - weight.mean(0)) / std
        bias = bias - bias.mean() - weight @ mean
        self.weight.zero_()[present] = weight.to(self.weight)
        self.bias.fill_(ABSENT_LOGIT)[present] = bias.to(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits in float32, because the standardisation subtracts large numbers."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


@head(order=2, tasks=["classification", "multilabel"])
def logistic_regression(
    features: int, classes: int, *, C: Annotated[float, Range(1e-4, 10.0, log=True)] = 0.03
) -> nn.Module:
    """Logistic regression by L-BFGS, as CLIP is probed (Radford et al. 2021, arXiv:2103.00020).

    ``C`` is that of scikit-learn, which fits it on a CPU: the inverse strength of the L2 penalty.
    Of several labels, each has a regression of its own.
    """
    return SolvedLinear(features, classes, partial(_solve_logistic_regression, C=C))


@head(order=3, takes="stages", tasks=["classification", "multilabel"])
def stages_logistic(
    features: int, classes: int, *, C: Annotated[float, Range(1e-4, 10.0, log=True)] = 0.03
) -> nn.Module:
    """Logistic regression on several stages (Head2Toe: Evci et al. 2022, arXiv:2201.03529).

    ``C`` is that of ``logistic_regression``.
    """
    return SolvedLinear(features, classes, partial(_solve_logistic_regression, C=C))


def _solve_logistic_regression(features: Tensor, labels: Tensor, C: float) -> Solution:
    if labels.ndim == 2:
        return _minimise_binary_losses(features, labels, C)
    if features.device.type != "cpu":
        return _minimise_logistic_loss(features, labels, C)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        # A solution that was stopped early is more regularised, and is scored like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(weight) == 1:  # for two classes, scikit-learn stores the difference
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


def _minimise_logistic_loss(features: Tensor, labels: Tensor, C: float) -> Solution:
    """The solution of scikit-learn on another device, to about five digits."""
    classes = int(labels.max()) + 1
    # For two classes, scikit-learn penalises their difference, which is twice as large.
    strength = C / classes if classes == 2 else C
    return _minimise(
        features, classes, strength, lambda logits: functional.cross_entropy(logits, labels)
    )


def _minimise_binary_losses(features: Tensor, targets: Tensor, C: float) -> Solution:
    """The solution of scikit-learn for each of the labels ``[N, C]``, to about five digits."""

    def compute_loss(logits: Tensor) -> Tensor:
        total = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return total / len(targets)

    return _minimise(features, targets.shape[1], C, compute_loss)


def _minimise(
    features: Tensor, outputs: int, strength: float, loss_of: Callable[[Tensor], Tensor]
) -> Solution:
    """Minimise a mean loss of logits ``[N, L]`` plus an L2 penalty by L-BFGS."""
    weight = features.new_zeros(outputs, features.shape[1], requires_grad=True)
    bias = features.new_zeros(outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(features, weight, bias)
        loss = loss_of(logits) + weight.square().sum() / (2 * strength * len(features))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(compute_loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


class Ridge(SolvedLinear):
    """A ridge regression on features that are scaled by at least their mean standard deviation.

    A feature that is 0 for nearly all images has a tiny standard deviation, and would be many of
    these for the first image that has it: a prediction far outside of all numbers.
    """

    def standardise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the scale ``[F]`` of features ``[N, F]``."""
        std = features.std(0, correction=0)
        smallest = float(std.mean()) or 1.0
        return features.mean(0), std.clamp(min=smallest)


@head(order=2, tasks=["regression"])
def ridge(features: int, classes: int) -> nn.Module:
    """Ridge regression, whose penalty is chosen by leave-one-out errors (Allen 1974)."""
    return Ridge(features, classes, _solve_ridge)


@head(order=3, takes="stages", tasks=["regression"])
def stages_ridge(features: int, classes: int) -> nn.Module:
    """Ridge regression on several stages (Head2Toe: Evci et al. 2022, arXiv:2201.03529)."""
    return Ridge(features, classes, _solve_ridge)


def _solve_ridge(features: Tensor, targets: Tensor) -> Solution:
    """The solution with the smallest mean squared leave-one-out error over all numbers.

    With the singular value decomposition ``X = U S V'`` of centred features, the error of an
    example that is left out is its residual over ``1 - h``, with the leverage ``h``.
    """
    bias = targets.mean(0)
    u, s, vh = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    projected = u.T @ (targets - bias)
    penalties = torch.logspace(-3, 4, 22, dtype=features.dtype, device=features.device)
    penalties = penalties * s.square().mean()
    errors = []
    for penalty in penalties:
        shrink = s.square() / (s.square() + penalty)
        residuals = targets - bias - u @ (shrink[:, None] * projected)
        leverage = (u.square() * shrink).sum(1) + 1 / len(features)
        errors.append((residuals / (1 - leverage).clamp(min=1e-6)[:, None]).square().mean())
    best = penalties[torch.stack(errors).argmin()]
    weight = (vh.T @ ((s / (s.square() + best))[:, None] * projected)).T
    return weight, bias - weight @ features.mean(0)


@head(tasks=["classification"])
def lda(
    features: int, classes: int, *, shrinkage: Annotated[float, Range(0.01, 1.0, log=True)] = 0.1
) -> nn.Module:
    """Linear discriminant analysis with a shrunken covariance (Friedman 1989, JASA 84).

    ``shrinkage`` interpolates between the covariance within classes (0) and the same variance in
    every direction (1).
    """
    return SolvedLinear(features, classes, partial(_solve_lda, shrinkage=shrinkage))


def _solve_lda(features: Tensor, labels: Tensor, shrinkage: float) -> Solution:
    """The solution of scikit-learn's solver ``lsqr``, 5 to 10 times faster by Cholesky factors."""
    means, counts = _class_means(features, labels)
    centred = features - means[labels]
    covariance = (1 - shrinkage) * (centred.T @ centred) / len(labels)
    variance = centred.square().mean().clamp(min=1e-3)  # it is 0 for one image of each class
    covariance.diagonal().add_(shrinkage * variance)
    weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T
    return weight, (counts / len(labels)).log() - (weight * means).sum(1) / 2


def _class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean ``[C, F]`` and the number of examples ``[C]`` of each class."""
    counts = labels.bincount().to(features)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None], counts


@head(tasks=["classification"])
def nearest_mean(
    features: int, classes: int, *, threshold: Annotated[float, Range(0.0, 2.0)] = 0.5
) -> nn.Module:
    """The nearest shrunken class mean (Tibshirani et al. 2002, PNAS 99).

    ``threshold`` is scikit-learn's ``shrink_threshold``: the number of standard errors by which
    each class's mean is moved towards the mean of all, which removes features that differ by
    chance.
    """
    return SolvedLinear(features, classes, partial(_solve_nearest_mean, threshold=threshold))


def _solve_nearest_mean(features: Tensor, labels: Tensor, threshold: float) -> Solution:
    means, counts = _class_means(features, labels)
    degrees = max(1, len(labels) - len(means))  # of freedom
    within = ((features - means[labels]).square().sum(0) / degrees).sqrt()
    error = (1 / counts - 1 / len(labels)).sqrt()[:, None] * (within + within.quantile(0.5))
    means = means.sign() * (means.abs() - threshold * error).clamp(min=0)
    scale = _calibrate_scale(torch.cdist(features, means).square(), labels, counts)
    return scale * means, -scale * means.square().sum(1) / 2


def _calibrate_scale(distances: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The factor on ``-distances / 2`` that makes calibrated logits of them.

    It minimises the cross-entropy (temperature scaling, Guo et al. 2017, arXiv:1706.04599). Each
    image is left out of the mean of its own class, which would make the distance too short.

    Args:
        distances: Squared distances ``[N, C]`` to the class means.
        labels: ``[N]``.
        counts: The number of examples of each class ``[C]``.
    """
    size = counts[labels]
    logits = -distances / 2
    logits[torch.arange(len(labels), device=labels.device), labels] *= (size / (size - 1)) ** 2
    usable = size > 1
    scales = torch.logspace(-4, 1, 51, dtype=logits.dtype, device=logits.device)
    losses = [
        functional.cross_entropy(s * logits[usable], labels[usable], reduction="sum")
        for s in scales
    ]
    return scales[torch.stack(losses).argmin()]


class NearestNeighbours(nn.Module):
    """``features [B, F] -> logits [B, C]``: a vote of the most similar training images."""

    mean: Tensor
    std: Tensor
    directions: Tensor
    labels: Tensor

    def __init__(self, features: int, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.classes, self.k, self.temperature = classes, k, temperature
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("directions", torch.zeros(0, features))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Store the directions ``[N, F]`` and the labels of the training images."""
        self.mean, self.std = _standardisation(features.float())
        self.directions, self.labels = self._normalise(features), labels.clone()

    def forward(self, features: Tensor) -> Tensor:
        """The logarithm of the votes, with one additional vote that all classes share equally."""
        with torch.autocast(features.device.type, enabled=False):
            similarity = functional.linear(self._normalise(features), self.directions)
            nearest = similarity.topk(min(self.k, len(self.directions)), 1)
            weights = (nearest.values / self.temperature).softmax(1)
            votes = weights.new_zeros(features.shape[0], self.classes)
            votes = votes.scatter_add(1, self.labels[nearest.indices], weights)
            return (nearest.values.shape[1] * votes + 1 / self.classes).log()

    def _normalise(self, features: Tensor) -> Tensor:
        return functional.normalize((features.float() - self.mean) / self.std, dim=1)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("directions", "labels"):  # they have one row for each training image
            if (saved := state.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state, prefix, *others)


@head(tasks=["classification"])
def knn(
    features: int,
    classes: int,
    *,
    k: Annotated[int, Range(1, 100, log=True)] = 10,
    temperature: Annotated[float, Range(0.02, 1.0, log=True)] = 0.1,
) -> nn.Module:
    """A vote of the k nearest training images by cosine (Wu et al. 2018, arXiv:1805.01978).

    The weight of a neighbour's vote is ``exp(cosine / temperature)``.
    """
    return NearestNeighbours(features, classes, k, temperature)
