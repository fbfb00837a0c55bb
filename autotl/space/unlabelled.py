"""What a plugin of the kind ``unlabelled`` returns, and what its loss is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outputs:
    """What a model computes of a batch of B examples.

    Attributes:
        logits: ``float32 [B, L]``.
        features: The input of the head, ``float32 [B, ..., F]``.
        targets: ``float32 [B, L]`` of labelled examples, after their augmentation; None of others.
    """

    logits: Any
    features: Any
    targets: Any = None


UnlabelledLoss = Callable[[Outputs, Outputs, Outputs, float], Any]
"""``loss(labelled, weak, strong, progress)`` returns a scalar that is added to the loss of a step.

``weak`` and ``strong`` are of the same unlabelled examples, in one order: as they are, and
augmented by the augmentation of the configuration. They are the same where that changes nothing, or
mixes images. ``progress`` is the fraction of the training that is done, from 0 to below 1.

A function remembers nothing from step to step. What an ``nn.Module`` remembers are its buffers; its
parameters are trained with the learning rate of the head."""


@dataclass(frozen=True)
class UnlabelledMethod:
    """What a training does with unlabelled examples; without arguments nothing.

    Attributes:
        loss: The loss of trainings by gradients; None if there is none.
        mu: The number of unlabelled examples for each labelled one in a step, at least 1.
        teacher_decay: Decay of a moving average of the weights, which computes ``weak`` instead of
            the model itself, without gradients and in eval mode; it is also the result of the
            training. 0 for no such teacher.
        select: Selects by the predictions ``float32 [U, C]`` of a head in closed form, and by the
            number of the round from 1, for which unlabelled examples they are trusted: ``bool
            [U]``. The head is then fitted to these as well. None if there is no such selection.
        rounds: How often this is done.
        adapts_batch_norm: Whether the running statistics of BatchNorm layers that are trained are
            computed on unlabelled examples after each epoch, instead of those of its batches.
    """

    loss: UnlabelledLoss | None = None
    mu: int = 1
    teacher_decay: float = 0.0
    select: Callable[[Any, int], Any] | None = None
    rounds: int = 3
    adapts_batch_norm: bool = False

    @property
    def does_nothing(self) -> bool:
        """Whether a training is the same without unlabelled examples."""
        return self.loss is None and self.select is None and not self.adapts_batch_norm
