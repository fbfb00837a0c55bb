"""Tasks of classes: one class of several, and classes with an order.

Shapes: N examples, B of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl import Finding, Task, task
from autotl.scoring import calibration as scaling
from autotl.tasks import Classification

Array = NDArray[np.float32]
Indices = NDArray[np.int64]


@task
class OneClass(Classification):
    """One class for each example: softmax and cross-entropy."""

    name = "classification"


@task
class Ordinal(Classification):
    """Classes with an order, such as stars: that of their names, '2' before '10'.

    Logit k is that of being beyond class k for an example that is not before it (continuation
    ratios; CORN: Shi et al. 2021, arXiv:2111.08851), so the loss is the cross-entropy of the
    probabilities of the classes.
    """

    name = "ordinal"
    default_metric = "quadratic_kappa"
    activation_code = (
        "-nn.functional.pad(nn.functional.pad(nn.functional.logsigmoid(logits).cumsum(1).exp(), "
        "(1, 0), value=1.0), (0, 1)).diff(dim=1)"
    )

    @property
    def num_logits(self) -> int:
        """One less than there are classes."""
        return len(self.outputs) - 1

    def expand(self, targets: Tensor) -> Tensor:
        """Return for each class but the last whether the label is beyond it, ``[B, C - 1]``."""
        classes = torch.arange(self.num_logits, device=targets.device)
        return (targets[:, None] > classes).float()

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the cross-entropy in nats; it is not smoothed."""
        reached = functional.pad(targets, (1, 0), value=1.0)[:, :-1]
        beyond = targets * functional.logsigmoid(logits)
        within = (reached - targets) * functional.logsigmoid(-logits)
        return -(beyond + within).sum(1).mean()

    def activate(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes ``[B, C]``."""
        beyond = functional.logsigmoid(logits).cumsum(1).exp()
        upper = functional.pad(beyond, (1, 0), value=1.0)
        return upper - functional.pad(beyond, (0, 1))

    def invert(self, predictions: Tensor) -> Tensor:
        """Return the logits ``[B, C - 1]`` of probabilities ``[B, C]``."""
        p = predictions.clamp(min=scaling.SMALLEST_PROBABILITY)
        beyond = p.flip(1).cumsum(1).flip(1)
        return beyond[:, 1:].log() - p[:, :-1].log()

    soften = Task.soften  # the loss takes classes alone

    def find_mistakes(
        self,
        targets: Indices,
        predictions: Array,
        calibration: Mapping[str, Any] = {},
        limit: int = 24,
    ) -> list[Finding]:
        """Return the wrong predictions: the farthest, and of those the most confident ones."""
        guesses = predictions.argmax(1)
        distance = np.abs(guesses - targets)
        severity = np.where(distance > 0, distance - 1 + predictions.max(1), 0)
        return self._list(guesses, predictions, severity, limit)
