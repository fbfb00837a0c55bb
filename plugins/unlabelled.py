"""What a training does with unlabelled examples: semi-supervised learning and domain adaptation.

Each returns an ``autotl.UnlabelledMethod``, whose loss is added to that of the labelled examples.
It gets the outputs of the labelled batch, and those of unlabelled examples as they are (weak) and
augmented (strong). Methods with a confidence threshold also select examples to which a head in
closed form is fitted, too.

``mu`` is the number of unlabelled examples for each labelled one; a study file can set it.

Shapes: B labelled and U unlabelled examples, L logits, F features.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl import Outputs, Range, UnlabelledMethod, unlabelled

Weight = Annotated[float, Range(0.1, 3.0, log=True)]
Threshold = Annotated[float, Range(0.7, 0.98)]

FEWEST_SELECTED = 1 / 3
"""The fraction of the examples of a predicted class that the first round selects."""

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The bandwidths of the Gaussian kernels of MMD, relative to the mean squared distance in a batch.
"""


@unlabelled(order=1, tasks=["classification"])
def none() -> UnlabelledMethod:
    """Do not use unlabelled examples."""
    return UnlabelledMethod()


@unlabelled(tasks=["classification"])
def pseudo_labels(*, weight: Weight = 1.0, mu: int = 2) -> UnlabelledMethod:
    """Train on the model's own predictions (Lee 2013, ICML workshop WREPL).

    They count for more the longer the training lasts. A head in closed form is fitted again to the
    most confident predictions of each class, to more of them in each of three rounds
    (self-training; Zou et al. 2018, arXiv:1810.07911).
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        guesses = weak.logits.detach().argmax(1)
        ramp = min(1.0, progress / 0.6)
        result: Tensor = weight * ramp * functional.cross_entropy(strong.logits, guesses)
        return result

    return UnlabelledMethod(loss, mu, select=_select_most_confident)


@unlabelled(tasks=["classification"])
def fixmatch(*, threshold: Threshold = 0.9, weight: Weight = 1.0, mu: int = 2) -> UnlabelledMethod:
    """Predict augmented examples as the model predicts them unaugmented, where it is sure.

    FixMatch (Sohn et al. 2020, arXiv:2001.07685). A head in closed form is fitted again to the
    examples of which it is sure.
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        confidence, guesses = weak.logits.detach().softmax(1).max(1)
        losses = functional.cross_entropy(strong.logits, guesses, reduction="none")
        result: Tensor = weight * (losses * (confidence >= threshold)).mean()
        return result

    return UnlabelledMethod(loss, mu, select=partial(_select_above, threshold))


@unlabelled(tasks=["classification"])
def flexmatch(
    classes: int, *, threshold: float = 0.9, weight: Weight = 1.0, mu: int = 2
) -> UnlabelledMethod:
    """FixMatch with a lower threshold for classes that are learned slowly.

    FlexMatch (Zhang et al. 2021, arXiv:2110.08263). How well a class is learned is a moving average
    over batches here, instead of a count over the last prediction of each example, and the weight
    grows over the first third of the training, because the head begins with random predictions.
    """
    return UnlabelledMethod(
        _FlexMatch(classes, threshold, weight), mu, select=_select_most_confident
    )


class _FlexMatch(nn.Module):
    """The loss of FlexMatch; ``learned [L]`` has how often each class is predicted surely."""

    def __init__(self, classes: int, threshold: float, weight: float, decay: float = 0.95) -> None:
        super().__init__()
        self.threshold, self.weight, self.decay = threshold, weight, decay
        self.learned: Tensor
        self.register_buffer("learned", torch.zeros(classes))

    def forward(self, labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        confidence, guesses = weak.logits.detach().softmax(1).max(1)
        learned, ramp = self.learned, min(1.0, progress / 0.3)
        sure = functional.one_hot(guesses, len(learned)) * (confidence >= self.threshold)[:, None]
        learned.lerp_(sure.float().mean(0), 1 - self.decay)
        unsure = 1 - learned.sum()  # until most examples are, all thresholds are low
        status = learned / torch.maximum(learned.max(), unsure).clamp(min=1e-6)
        thresholds = self.threshold * status / (2 - status)
        losses = functional.cross_entropy(strong.logits, guesses, reduction="none")
        chosen = confidence >= thresholds[guesses]
        result: Tensor = self.weight * ramp * (losses * chosen).mean()
        return result


@unlabelled(tasks=["classification"])
def mean_teacher(
    *,
    decay: Annotated[float, Range(0.9, 0.999)] = 0.99,
    weight: Annotated[float, Range(0.1, 10.0, log=True)] = 1.0,
    mu: int = 2,
) -> UnlabelledMethod:
    """Predict augmented examples as the averaged weights do (Tarvainen & Valpola 2017).

    Mean teacher, arXiv:1703.01780. The weight of the squared difference of the probabilities grows
    over the first fifth of the training. The averaged weights are the result.
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        ramp = math.exp(-5 * (1 - min(1.0, progress / 0.2)) ** 2)
        difference = strong.logits.softmax(1) - weak.logits.detach().softmax(1)
        result: Tensor = weight * ramp * difference.square().sum(1).mean()
        return result

    return UnlabelledMethod(loss, mu, teacher_decay=decay)


@unlabelled(order=2, tasks=["classification"], across_domains=True)
def information(
    *, weight: Annotated[float, Range(0.03, 1.0, log=True)] = 0.1, mu: int = 2
) -> UnlabelledMethod:
    """Be sure of each unlabelled example, and predict all classes (Liang et al. 2020).

    The information maximisation of SHOT, arXiv:2002.08546: the entropy of the predictions minus the
    entropy of their mean, also for unlabelled examples of another domain. It suits classes that are
    about equally frequent (for few labels: Boudiaf et al. 2020, arXiv:2008.11297).
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        logs = weak.logits.log_softmax(1)
        mean = logs.exp().mean(0)
        entropy = -(logs.exp() * logs).sum(1).mean()
        diversity = -torch.special.xlogy(mean, mean).sum()
        result: Tensor = weight * (entropy - diversity)
        return result

    return UnlabelledMethod(loss, mu)


@unlabelled(order=5, tasks=["classification"], across_domains=True)
def coral(*, weight: Weight = 1.0, mu: int = 1) -> UnlabelledMethod:
    """Align the covariances of the logits (Deep CORAL: Sun & Saenko 2016, arXiv:1607.01719).

    For unlabelled examples of another domain than that of the labelled ones.
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        difference = _covariance(labelled.logits) - _covariance(weak.logits)
        return weight * difference.square().sum() / (4 * len(difference) ** 2)

    return UnlabelledMethod(loss, mu)


@unlabelled(order=3, tasks=["classification"], across_domains=True)
def mmd(*, weight: Weight = 1.0, mu: int = 1) -> UnlabelledMethod:
    """Align the distributions of features and logits (DAN: Long et al. 2015, arXiv:1502.02791).

    The sum of the maximum mean discrepancies of the two, with a mean of Gaussian kernels, for
    unlabelled examples of another domain. Where the backbone is frozen, the logits alone change.
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        own, other = ((_pool(outputs.features), outputs.logits) for outputs in (labelled, weak))
        features, logits = map(_discrepancy, own, other)
        return weight * (features + logits)

    return UnlabelledMethod(loss, mu)


@unlabelled(order=4, tasks=["classification"], across_domains=True)
def adabn() -> UnlabelledMethod:
    """Normalise unlabelled examples by their own statistics (Li et al. 2016, arXiv:1603.04779).

    Adaptive BatchNorm, for unlabelled examples of another domain: labelled ones are normalised by
    the statistics of their batches, and those that are predicted by those of unlabelled ones. It
    adapts the BatchNorm layers that are trained.
    """
    return UnlabelledMethod(adapts_batch_norm=True)


@unlabelled(order=6, tasks=["classification"], across_domains=True)
def dann(
    features: int,
    *,
    weight: Weight = 0.3,
    width: Annotated[int, Range(32, 512, log=True)] = 128,
) -> UnlabelledMethod:
    """Train features from which a network cannot tell labelled from unlabelled examples.

    DANN (Ganin et al. 2016, arXiv:1505.07818), for unlabelled examples of another domain. It has no
    effect where the backbone is frozen.
    """
    return UnlabelledMethod(_DomainLoss(features, width, weight))


class _DomainLoss(nn.Module):
    """The loss of a network that tells the two domains apart, whose gradient is reversed below."""

    def __init__(self, features: int, width: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        layers = nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1)
        self.discriminator = nn.Sequential(*layers)

    def forward(self, labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        ramp = 2 / (1 + math.exp(-10 * progress)) - 1
        both = [_pool(outputs.features) for outputs in (labelled, weak)]
        logits = self.discriminator(_ReversedGradient.apply(torch.cat(both), self.weight * ramp))
        domains = torch.cat([logits.new_ones(len(both[0])), logits.new_zeros(len(both[1]))])
        return functional.binary_cross_entropy_with_logits(logits[:, 0], domains)


class _ReversedGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a negative factor."""

    @staticmethod
    def forward(context: Any, features: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.factor * gradients[0], None


def _pool(features: Tensor) -> Tensor:
    """The mean over the positions of a map ``[B, positions, F]``; pooled features as they are."""
    return features.mean(1) if features.ndim == 3 else features


def _covariance(logits: Tensor) -> Tensor:
    """The covariance ``[L, L]`` of logits ``[B, L]``."""
    centred = logits - logits.mean(0)
    return centred.T @ centred / max(1, len(logits) - 1)


def _discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of rows ``[B, F]`` and ``[U, F]``, a scalar from 0 to 2.

    It is the biased estimate (Gretton et al. 2012, JMLR 13), which is never negative, and the same
    if rows are repeated.
    """
    rows = torch.cat([one, other])
    rows = rows - rows.mean(0)  # distances stay the same, and are rounded less
    squares = rows.square().sum(1)
    distances = (squares[:, None] + squares - 2 * rows @ rows.T).clamp(min=0)
    relative = distances / distances.detach().mean().clamp(min=1e-12)
    kernel = torch.stack([torch.exp(-relative / width) for width in BANDWIDTHS]).mean(0)
    size = len(one)
    within = kernel[:size, :size].mean() + kernel[size:, size:].mean()
    return within - 2 * kernel[:size, size:].mean()


def _select_above(threshold: float, predictions: Tensor, number: int) -> Tensor:
    """The examples whose most probable class has this probability, ``bool [U]``."""
    return predictions.amax(1) >= threshold


def _select_most_confident(predictions: Tensor, number: int) -> Tensor:
    """Of each predicted class the most confident third, then two thirds, then all, ``bool [U]``."""
    confidence, guesses = predictions.max(1)
    order = confidence.argsort(descending=True, stable=True)
    chosen = torch.zeros(len(predictions), dtype=torch.bool, device=predictions.device)
    for guess in set(guesses.tolist()):
        own = order[guesses[order] == guess]
        chosen[own[: math.ceil(len(own) * min(1.0, number * FEWEST_SELECTED))]] = True
    return chosen
