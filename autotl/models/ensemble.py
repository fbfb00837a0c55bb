"""Combine several models: by the mean of their predictions, or of their weights.

Shapes: m members, N examples, B images in a batch, S the side of an image in pixels, L logits,
K numbers in a prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from autotl.data import ImageInput
from autotl.errors import Incompatible
from autotl.models import Model
from autotl.scoring.metrics import Metric, Predictions, Targets
from autotl.space.input_kind import ModelInput
from autotl.space.task import Task

ENSEMBLE, SOUP = "ensemble", "soup"
"""The kinds of combination: the mean of predictions, and the mean of weights (a model soup)."""

MAX_EXAMPLES = 3000
"""Number of examples by which members are selected; more would take long and change little."""

ROUNDS = 20
"""Number of selection rounds, each of which adds one member; weights are multiples of 1 / n for n
members added."""


def select_members(
    metric: Metric, targets: Targets, predictions: Sequence[Predictions]
) -> list[float]:
    """Select members of an ensemble greedily, with replacement (Caruana et al. 2004, ICML).

    The first round takes the best member; each further round adds the member that improves the mean
    most. The weights are those after the best round.

    Args:
        metric: The metric to optimise.
        targets: ``[N, ...]``.
        predictions: ``[N, K]`` of each member, for examples that no member was trained on.

    Returns:
        The weight of each member; their sum is 1, and a member that was not selected has 0.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    if len(targets) > MAX_EXAMPLES:
        subset = np.random.default_rng(0).choice(len(targets), MAX_EXAMPLES, replace=False)
        targets, predictions = targets[subset], [p[subset] for p in predictions]
    counts = np.zeros(len(predictions))
    total: Predictions = np.zeros_like(predictions[0])
    best_counts, best_score = counts, -np.inf
    for number in range(1, ROUNDS + 1):
        factor = np.float32(1 / number)
        scores = [sign * metric.score(targets, (total + p) * factor) for p in predictions]
        member = int(np.argmax(scores))
        total = total + predictions[member]
        counts = counts + np.eye(len(counts))[member]
        if scores[member] > best_score:
            best_counts, best_score = counts, scores[member]
    weights: list[float] = (best_counts / best_counts.sum()).tolist()
    return weights


def average_predictions(
    predictions: Sequence[Predictions], weights: Sequence[float]
) -> Predictions:
    """Compute the weighted mean of the members' predictions.

    Args:
        predictions: ``[N, K]`` of each member.
        weights: Weight of each member; their sum is 1.

    Returns:
        ``float32 [N, K]``.
    """
    average: NDArray[np.float64] = np.tensordot(weights, np.stack(predictions), axes=1)
    return average.astype(np.float32)


class Ensemble(Model):
    """An ensemble as one model: encoded examples ``[B, ...]`` to logits ``[B, L]``.

    The prediction of the logits is the weighted mean of the members' predictions: those of a
    classification are logarithms of mean probabilities. The members take the place of the
    backbone. Images have the largest size of a member, and are resized for smaller ones; members
    for other kinds of input must have the same one.

    Args:
        members: The models.
        weights: Weight of each member, above 0; their sum is 1.

    Raises:
        Incompatible: The inputs of the members differ.
    """

    def __init__(self, members: Sequence[Model], weights: Sequence[float]) -> None:
        largest = max((member.expects for member in members), key=lambda expects: expects.size)
        if not all(can_share_input(member.expects, largest) for member in members):
            raise Incompatible("the members of an ensemble take different inputs")
        task = members[0].task
        super().__init__(nn.ModuleList(members), _MeanPrediction(weights, task), largest, task=task)
        # Each member prepares its own input.
        self.preprocessing = nn.Identity()
        self._resize = nn.ModuleList(_Resize(largest.size, m.expects) for m in members)

    @property
    def members(self) -> list[Model]:
        """The models of the ensemble."""
        return [cast(Model, member) for member in self.backbone.children()]

    def forward(self, inputs: Tensor) -> Tensor:
        """Encoded examples ``[B, ...]`` to logits ``[B, L]``."""
        pairs = zip(self.members, self._resize, strict=True)
        output: Tensor = self.head(
            torch.stack([member(resize(inputs)) for member, resize in pairs])
        )
        return output


def can_share_input(one: ModelInput, other: ModelInput) -> bool:
    """Whether models with these inputs can be members of one ensemble."""
    both_images = isinstance(one, ImageInput) and isinstance(other, ImageInput)
    return both_images or one.key == other.key


class _Resize(nn.Module):
    """Resizes images ``[B, 3, S, S]`` to the input of a member, as a smoothing interpolation.

    The interpolation is linear and separable, so it is two products with a matrix, which every
    export format supports, unlike the interpolation itself.

    Args:
        size: ``S``.
        expects: The input of the member, which is not larger.
    """

    matrix: Tensor | None

    def __init__(self, size: int, expects: ModelInput) -> None:
        super().__init__()
        self.register_buffer("matrix", None)
        if not isinstance(expects, ImageInput) or expects.size == size:
            return
        mode = "bilinear" if expects.interpolation == "bilinear" else "bicubic"
        rows = torch.eye(size)[None, None]
        resized = functional.interpolate(rows, (expects.size, size), mode=mode, antialias=True)
        self.register_buffer("matrix", resized[0, 0], persistent=False)  # [new size, S]

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` to the size of the member; as they are if they have that size."""
        if self.matrix is None:
            return images
        with torch.autocast(images.device.type, enabled=False):
            resized: Tensor = self.matrix @ images.float() @ self.matrix.T
            return resized.clamp(0, 255)


class _MeanPrediction(nn.Module):
    """``logits [m, B, L]`` to logits ``[B, L]`` whose prediction is the mean of theirs."""

    weights: Tensor

    def __init__(self, weights: Sequence[float], task: Task) -> None:
        super().__init__()
        self.task = task
        self.register_buffer("weights", torch.tensor(weights).view(-1, 1, 1))

    def forward(self, logits: Tensor) -> Tensor:
        predictions = torch.stack([self.task.activate(own) for own in logits.float()])
        mean: Tensor = self.task.invert((self.weights * predictions).sum(0))
        return mean


def have_same_shapes(a: Model, b: Model) -> bool:
    """Whether two networks have tensors of the same names and shapes."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape for name in first
    )


def average_weights(networks: Sequence[Model]) -> Model:
    """Build a model soup: a network whose weights are the mean of those of ``networks``.

    Source: Wortsman et al. 2022, arXiv:2203.05482.

    Args:
        networks: Networks that were fine-tuned from the same weights; see ``have_same_shapes``.

    Returns:
        A new network; ``networks`` are not changed.
    """
    soup = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    average = {
        name: sum(state[name] for state in states) / len(states)
        if first.is_floating_point()
        else first  # BatchNorm's count of batches is an integer, which has no mean
        for name, first in states[0].items()
    }
    soup.load_state_dict(average)
    return soup
