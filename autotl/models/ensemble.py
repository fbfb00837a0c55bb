"""Several finalists as one: the mean of their probabilities, or of their weights.

Shapes: m members, N pictures, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotl.models import Model
from autotl.scoring.calibration import TINY
from autotl.scoring.metrics import Labels, Metric, Probabilities

ENSEMBLE, SOUP = "ensemble", "soup"
"""What is made of several: the mean of their probabilities, the mean of their weights."""

MOST = 3000
"""Pictures by which members are chosen; more would take long and change little."""

ROUNDS = 20
"""Members chosen, each as often as it helps; weights are multiples of one in so many."""


def select(metric: Metric, labels: Labels, probabilities: Sequence[Probabilities]) -> list[float]:
    """The weight of each member, chosen greedily with replacement (Caruana et al. 2004, ICML).

    It begins with the best member and adds, round after round, the one that helps the mean most;
    the weights are those of the best round.

    Args:
        metric: What is to be good.
        labels: ``[N]``.
        probabilities: ``[N, C]`` of each member, of pictures that none of them was trained on.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    if len(labels) > MOST:
        some = np.random.default_rng(0).choice(len(labels), MOST, replace=False)
        labels, probabilities = labels[some], [p[some] for p in probabilities]
    counts = np.zeros(len(probabilities))
    total: Probabilities = np.zeros_like(probabilities[0])
    best, best_score = counts, -np.inf
    for number in range(1, ROUNDS + 1):
        share = np.float32(1 / number)
        scores = [sign * metric.score(labels, (total + p) * share) for p in probabilities]
        member = int(np.argmax(scores))
        total = total + probabilities[member]
        counts = counts + np.eye(len(counts))[member]
        if scores[member] > best_score:
            best, best_score = counts, scores[member]
    weights: list[float] = (best / best.sum()).tolist()
    return weights


def mean(probabilities: Sequence[Probabilities], weights: Sequence[float]) -> Probabilities:
    """``[N, C]``, the weighted mean of the members' ``[N, C]``."""
    found: NDArray[np.float64] = np.tensordot(weights, np.stack(probabilities), axes=1)
    return found.astype(np.float32)


class Ensemble(Model):
    """Several models as one, which answers with the weighted mean of their probabilities.

    ``uint8 images [B, 3, S, S] -> [B, classes]``, the logarithms of that mean, whose softmax it is:
    they serve where logits do. The members stand in the place of the backbone.

    Args:
        members: They are to see pictures of the same size and interpolation.
        weights: Of each, above 0; their sum is 1.
    """

    def __init__(self, members: Sequence[Model], weights: Sequence[float]) -> None:
        super().__init__(nn.ModuleList(members), _Mean(weights), members[0].expects)

    @property
    def members(self) -> list[Model]:
        """The models."""
        return [cast(Model, member) for member in self.backbone.children()]

    def forward(self, images: Tensor) -> Tensor:
        """Ask all members."""
        mixed: Tensor = self.head(torch.stack([member(images) for member in self.members]))
        return mixed


class _Mean(nn.Module):
    """``logits [m, B, classes]`` to the logarithms of their mean probabilities."""

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights).view(-1, 1, 1))

    def forward(self, logits: Tensor) -> Tensor:
        return (self.weights * logits.float().softmax(2)).sum(0).clamp(min=TINY).log()


def alike(a: Model, b: Model) -> bool:
    """Whether two networks have the same tensors under the same names."""
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(one[k].shape == other[k].shape for k in one)


def soup(networks: Sequence[Model]) -> Model:
    """A network whose weights are the mean of those of ``networks`` (Wortsman et al. 2022).

    arXiv:2203.05482. They are to be ``alike``, and fine-tuned from the same weights.
    """
    mixed = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    averaged = {
        name: sum(state[name] for state in states) / len(states)
        if first.is_floating_point()
        else first  # a count of batches has no mean
        for name, first in states[0].items()
    }
    mixed.load_state_dict(averaged)
    return mixed
