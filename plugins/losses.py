"""Losses in the place of the task's own: searched if they are named, e.g. ``--loss focal``.

Each returns a function of logits and targets, ``float32 [B, L]``, which computes the mean loss of a
batch. Targets may be mixed. ``output_weights [L]`` are those of the outputs, e.g. of rare classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from autotl import Range, loss

Loss = Callable[[Tensor, Tensor], Tensor]

CLASSES, LABELS, NUMBERS = "classification", "multilabel", "regression"


@loss(order=1, tasks=[CLASSES])
def cross_entropy(output_weights: Tensor | None, label_smoothing: float) -> Loss:
    """The cross-entropy with label smoothing, the loss of a classification by default."""

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits, targets, output_weights, label_smoothing=label_smoothing
        )

    return compute


@loss(tasks=[CLASSES])
def focal(output_weights: Tensor | None, *, gamma: Annotated[float, Range(0.5, 5.0)] = 2.0) -> Loss:
    """The cross-entropy with less weight for what is easy (Lin et al. 2017, arXiv:1708.02002).

    The weight of an example is ``(1 - p) ** gamma``, with the probability p of its class.
    """

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        # Powers below 1 have an infinite gradient at 0.
        terms = targets * (1 - log_p.exp()).clamp(min=1e-6) ** gamma * log_p
        return -_weighted(terms, output_weights).sum(1).mean()

    return compute


@loss(tasks=[CLASSES])
def poly1(
    output_weights: Tensor | None,
    label_smoothing: float,
    *,
    epsilon: Annotated[float, Range(-0.9, 5.0)] = 1.0,
) -> Loss:
    """The cross-entropy plus ``epsilon * (1 - p)`` (Leng et al. 2022, arXiv:2204.12511)."""
    plain = cross_entropy(output_weights, label_smoothing)

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        linear = targets * (1 - logits.softmax(1))
        return plain(logits, targets) + epsilon * _weighted(linear, output_weights).sum(1).mean()

    return compute


@loss(order=2, tasks=[CLASSES, LABELS])
def binary_cross_entropy(output_weights: Tensor | None) -> Loss:
    """The sum of the binary cross-entropies of all outputs (Wightman et al., arXiv:2110.00476).

    It is the loss of several labels by default.
    """

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits, targets, output_weights, reduction="sum"
        ) / len(logits)

    return compute


@loss(tasks=[LABELS])
def asymmetric(
    output_weights: Tensor | None,
    *,
    gamma: Annotated[float, Range(1.0, 6.0)] = 4.0,
    margin: Annotated[float, Range(0.0, 0.2)] = 0.05,
) -> Loss:
    """The asymmetric loss for rare labels (Ridnik et al. 2021, arXiv:2009.14119).

    Labels that an example lacks have the weight ``p ** gamma``, with the probability p less
    ``margin``, so that the many easy ones among them do not dominate.
    """

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        present = targets * functional.logsigmoid(logits)
        p = (logits.sigmoid() - margin).clamp(min=0)
        absent = (1 - targets) * p**gamma * torch.log1p(-p.clamp(max=1 - 1e-6))
        return -_weighted(present + absent, output_weights).sum(1).mean()

    return compute


@loss(order=1, tasks=[NUMBERS])
def huber(
    output_weights: Tensor | None, *, delta: Annotated[float, Range(0.1, 3.0, log=True)] = 1.0
) -> Loss:
    """Half the squared error of small errors, and the absolute one of others (Huber 1964).

    ``delta`` is the limit, in standard deviations of the targets. It is the loss of numbers by
    default.
    """

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        terms = functional.huber_loss(logits, targets, reduction="none", delta=delta)
        return _weighted(terms, output_weights).sum(1).mean()

    return compute


@loss(tasks=[NUMBERS])
def squared_error(output_weights: Tensor | None) -> Loss:
    """Half the squared error: predictions are means."""

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        return _weighted((logits - targets).square(), output_weights).sum(1).mean() / 2

    return compute


@loss(tasks=[NUMBERS])
def absolute_error(output_weights: Tensor | None) -> Loss:
    """The absolute error: predictions are medians."""

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        return _weighted((logits - targets).abs(), output_weights).sum(1).mean()

    return compute


def _weighted(terms: Tensor, output_weights: Tensor | None) -> Tensor:
    return terms if output_weights is None else terms * output_weights
