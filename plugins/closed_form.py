"""Heads that are computed from the features of all training images at once, without gradients.

Each has ``fit(features [N, F], targets)``. Targets are labels ``[N]`` of classes, or what the loss
of another task takes, ``float32 [N, L]``. All standardise the features first. What ``fit``
computes is stored in tensors of the head, so scikit-learn is needed to fit, not to predict. The
heads that are linear layers can be trained further by gradients together with the backbone.

Shapes: N training images, B in a batch, F features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl import Range, head

ITERATIONS = 300
"""The maximum number of iterations of L-BFGS."""

ABSENT_LOGIT = -10.0
"""The logit of a class without a training image; those of the other classes have mean 0."""

BLOCK_NUMBERS = 1 << 25
"""About how many numbers in float64 are computed with at a time, which limits the memory."""

MAX_WHOLE = 1 << 27
"""The maximum number of features, and of logits, that scikit-learn's logistic regression is given:
1 GiB each. More are computed with in blocks."""

MAX_CALIBRATED, FEWEST_CALIBRATED = 1 << 25, 2000
"""A scale of logits is fitted to this number of them, of at least this number of images."""

MAX_STORED = 1 << 28
"""The maximum number of features of training images that a head stores: 1 GiB."""


class Rows:
    """Features ``[N, F]``, standardised in float64: in blocks, if there are many.

    Iterating yields the slice of each block and its standardised features ``[n, F]``.

    Args:
        features: The features, ``[N, F]``.
        mean: What is subtracted, ``[F]``.
        scale: By what they are divided, ``[F]``.
        width: The largest number of numbers that are computed of a row, such as logits.
    """

    def __init__(self, features: Tensor, mean: Tensor, scale: Tensor, width: int) -> None:
        self.features, self.mean, self.scale = features, mean, scale
        self._step = max(1, BLOCK_NUMBERS // max(width, features.shape[1]))
        self.is_one_block = len(features) <= self._step
        self._whole: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self), self._step):
            part = slice(start, start + self._step)
            yield part, self.whole() if self.is_one_block else self._standardise(part)

    def whole(self) -> Tensor:
        """Return all standardised features, ``[N, F]``."""
        if self._whole is None:
            self._whole = self._standardise(slice(None))
        return self._whole

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the indices and the standardised features of random rows, ``[n]``, ``[n, F]``."""
        chosen = _sample(len(self), count, self.features.device)
        return chosen, self._standardise(chosen)

    def _standardise(self, part: slice | Tensor) -> Tensor:
        return (self.features[part].double() - self.mean) / self.scale


def _sample(size: int, count: int, device: torch.device) -> Tensor:
    """At most ``count`` random indices below ``size``, ascending."""
    if size <= count:
        return torch.arange(size, device=device)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    return order[:count].sort().values.to(device)


Solution = tuple[Tensor, Tensor]
Solver = Callable[[Rows, Tensor], Solution]
"""Maps standardised features and targets to weights and biases.

Weights are ``[L, F]``, biases ``[L]``. All are on the device of the head, or on the CPU if that has
no float64, as an Apple GPU; labels ``[N]`` are 0 to C - 1, and each occurs. Other targets are
``float64 [N, L]``."""


def _moments(features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[F]`` of ``features [N, F]``."""
    step = max(1, BLOCK_NUMBERS // features.shape[1])
    if len(features) <= step:
        converted = features.to(dtype)
        return converted.mean(0), converted.std(0, correction=0)
    blocks = [features[start : start + step] for start in range(0, len(features), step)]
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(features)
    squares = [(block.double() - mean).square().sum(0) for block in blocks]
    std = (torch.stack(squares).sum(0) / len(features)).sqrt()
    return mean.to(dtype), std.to(dtype)


def _standardisation(features: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[F]`` of ``features [N, F]``; 1 replaces an std near 0."""
    mean, std = _moments(features, dtype)
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
        mean, std = self.standardise(features)
        rows = Rows(features, mean, std, self.out_features)
        if targets.ndim == 2:
            weight, bias = self.solve(rows, targets.double())
            weight = weight / std
            self.weight.copy_(weight)
            self.bias.copy_(bias - weight @ mean)
            return
        present, indices = torch.unique(targets, return_inverse=True)
        weight, bias = self.solve(rows, indices)
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


def _solve_logistic_regression(rows: Rows, labels: Tensor, C: float) -> Solution:
    if labels.ndim == 2:
        return _minimise_binary_losses(rows, labels, C)
    width = max(len(rows.mean), int(labels.max()) + 1)
    if labels.device.type != "cpu" or len(rows) * width > MAX_WHOLE:
        return _minimise_logistic_loss(rows, labels, C)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        # A solution that was stopped early is more regularised, and is scored like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows.whole().numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(weight) == 1:  # for two classes, scikit-learn stores the difference
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


def _minimise_logistic_loss(rows: Rows, labels: Tensor, C: float) -> Solution:
    """The solution of scikit-learn on another device or in blocks, to about five digits."""
    classes = int(labels.max()) + 1
    # For two classes, scikit-learn penalises their difference, which is twice as large.
    strength = C / classes if classes == 2 else C
    return _minimise(
        rows,
        classes,
        strength,
        lambda logits, part: functional.cross_entropy(logits, labels[part]),
    )


def _minimise_binary_losses(rows: Rows, targets: Tensor, C: float) -> Solution:
    """The solution of scikit-learn for each of the labels ``[N, C]``, to about five digits."""

    def compute_loss(logits: Tensor, part: slice) -> Tensor:
        total = functional.binary_cross_entropy_with_logits(logits, targets[part], reduction="sum")
        return total / len(logits)

    return _minimise(rows, targets.shape[1], C, compute_loss)


def _minimise(
    rows: Rows, outputs: int, strength: float, loss_of: Callable[[Tensor, slice], Tensor]
) -> Solution:
    """Minimise a mean loss of logits ``[N, L]`` plus an L2 penalty by L-BFGS.

    ``loss_of`` takes the logits of a block and its slice.
    """
    weight = rows.mean.new_zeros(outputs, len(rows.mean), requires_grad=True)
    bias = rows.mean.new_zeros(outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        total = weight.square().sum() / (2 * strength * len(rows))
        total.backward()  # type: ignore[no-untyped-call]
        for part, block in rows:  # the logits of one block are there at a time
            loss = loss_of(functional.linear(block, weight, bias), part) * (len(block) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() + total.detach()
        return total

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
        mean, std = _moments(features, torch.float64)
        smallest = float(std.mean()) or 1.0
        return mean, std.clamp(min=smallest)


@head(order=2, tasks=["regression"])
def ridge(features: int, classes: int) -> nn.Module:
    """Ridge regression, whose penalty is chosen by leave-one-out errors (Allen 1974)."""
    return Ridge(features, classes, _solve_ridge)


@head(order=3, takes="stages", tasks=["regression"])
def stages_ridge(features: int, classes: int) -> nn.Module:
    """Ridge regression on several stages (Head2Toe: Evci et al. 2022, arXiv:2201.03529)."""
    return Ridge(features, classes, _solve_ridge)


def _solve_ridge(rows: Rows, targets: Tensor) -> Solution:
    """The solution with the smallest mean squared leave-one-out error over all numbers.

    With the singular value decomposition ``X = U S V'`` of centred features, the error of an
    example that is left out is its residual over ``1 - h``, with the leverage ``h``. In several
    blocks ``S`` and ``V`` are those of ``X' X``, whose rounding matters less than any penalty.
    """
    bias = targets.mean(0)
    if rows.is_one_block:
        centre = rows.whole().mean(0)
        u, s, vh = torch.linalg.svd(rows.whole() - centre, full_matrices=False)
        projected = u.T @ (targets - bias)
    else:
        centre = torch.zeros_like(rows.mean)  # their scale is not their std, but their mean is 0
        gram = rows.mean.new_zeros(len(centre), len(centre))
        products = rows.mean.new_zeros(len(centre), targets.shape[1])
        for part, block in rows:
            gram += block.T @ block
            products += block.T @ (targets[part] - bias)
        squares, v = torch.linalg.eigh(gram)
        s, vh = squares.clamp(min=float(squares[-1]) * 1e-14).sqrt(), v.T
        projected = (vh @ products) / s[:, None]
    penalties = torch.logspace(-3, 4, 22, dtype=s.dtype, device=s.device) * s.square().mean()
    errors = s.new_zeros(len(penalties))
    for part, block in rows:
        own = u if rows.is_one_block else (block @ vh.T) / s
        for i, penalty in enumerate(penalties):
            shrink = s.square() / (s.square() + penalty)
            residuals = targets[part] - bias - own @ (shrink[:, None] * projected)
            leverage = (own.square() * shrink).sum(1) + 1 / len(rows)
            error = (residuals / (1 - leverage).clamp(min=1e-6)[:, None]).square().mean()
            errors[i] += error * (len(block) / len(rows))
    best = penalties[errors.argmin()]
    weight = (vh.T @ ((s / (s.square() + best))[:, None] * projected)).T
    return weight, bias - weight @ centre


@head(tasks=["classification"])
def lda(
    features: int, classes: int, *, shrinkage: Annotated[float, Range(0.01, 1.0, log=True)] = 0.1
) -> nn.Module:
    """Linear discriminant analysis with a shrunken covariance (Friedman 1989, JASA 84).

    ``shrinkage`` interpolates between the covariance within classes (0) and the same variance in
    every direction (1).
    """
    return SolvedLinear(features, classes, partial(_solve_lda, shrinkage=shrinkage))


def _solve_lda(rows: Rows, labels: Tensor, shrinkage: float) -> Solution:
    """The solution of scikit-learn's solver ``lsqr``, 5 to 10 times faster by Cholesky factors."""
    means, counts = _class_means(rows, labels)
    products, variance = means.new_zeros(means.shape[1], means.shape[1]), means.new_zeros(())
    for part, block in rows:
        centred = block - means[labels[part]]
        products += centred.T @ centred
        variance += centred.square().mean() * (len(block) / len(rows))
    covariance = (1 - shrinkage) * products / len(labels)
    variance = variance.clamp(min=1e-3)  # it is 0 for one image of each class
    covariance.diagonal().add_(shrinkage * variance)
    weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance)).T
    return weight, (counts / len(labels)).log() - (weight * means).sum(1) / 2


def _class_means(rows: Rows, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean ``[C, F]`` and the number of examples ``[C]`` of each class."""
    counts = labels.bincount().to(rows.mean)
    sums = counts.new_zeros(len(counts), len(rows.mean))
    for part, block in rows:
        sums.index_add_(0, labels[part], block)
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


def _solve_nearest_mean(rows: Rows, labels: Tensor, threshold: float) -> Solution:
    means, counts = _class_means(rows, labels)
    degrees = max(1, len(labels) - len(means))  # of freedom
    squares = torch.zeros_like(rows.mean)
    for part, block in rows:
        squares += (block - means[labels[part]]).square().sum(0)
    within = (squares / degrees).sqrt()
    error = (1 / counts - 1 / len(labels)).sqrt()[:, None] * (within + within.quantile(0.5))
    means = means.sign() * (means.abs() - threshold * error).clamp(min=0)
    some: slice | Tensor = slice(None)
    if rows.is_one_block:
        features = rows.whole()
    else:  # all distances are many, and one number is fitted to them
        some, features = rows.sample(max(FEWEST_CALIBRATED, MAX_CALIBRATED // len(means)))
    scale = _calibrate_scale(torch.cdist(features, means).square(), labels[some], counts)
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
        """Store the directions ``[N, F]`` and the labels of the training images.

        Of more than fit into ``MAX_STORED``, they are those of a random sample.
        """
        on_mps = features.device.type == "mps"  # which has no float64
        moments = _standardisation(features.cpu() if on_mps else features, torch.float32)
        self.mean, self.std = (each.to(self.mean.device) for each in moments)
        count = max(1, MAX_STORED // features.shape[1])
        if len(features) > count:
            chosen = _sample(len(features), count, features.device)
            features, labels = features[chosen], labels[chosen]
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
