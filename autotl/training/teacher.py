"""What a student learns from besides the labels: the predictions of a teacher.

The targets of a student are its labels and the predictions of the teacher at a temperature (Hinton
et al. 2015, arXiv:1503.02531). A training sees some views of each example; the teacher predicts
the same views at its own input size, so that both see the same crop (a consistent teacher: Beyer et
al. 2022, arXiv:2106.05237). These predictions are computed once, before the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import Batches
from autotl.models import Device, Model
from autotl.space.space import Choice
from autotl.space.task import Task
from autotl.training.augmentation import Augmentation
from autotl.training.kernels import cuda_kernels
from autotl.training.memory import MicroBatches, retry_when_out_of_memory
from autotl.training.predict import compile_if_it_pays, compute_logits, split_for_inference

TEMPERATURE = 2.0
"""The divisor of the logits of both models, so that improbable classes count as well."""

WEIGHT = 0.9
"""The weight of the teacher's predictions in the loss; the labels have the rest."""


@dataclass(frozen=True)
class Teacher:
    """The predictions of a teacher for the training examples of a student.

    Attributes:
        targets: The predictions as the loss takes them, see ``Task.soften``, of each view of each
            example: ``float16 [V, N, L]``, in the order of the training's batches. The first view
            is the example without augmentation.
        temperature: The divisor of the logits of both models.
        weight: The weight of these targets, from 0 to 1; the labels have the rest.
        unlabelled: Which examples have no label, ``bool [N]``: the predictions count alone; None if
            all have one.
    """

    targets: Tensor
    temperature: float = TEMPERATURE
    weight: float = WEIGHT
    unlabelled: Tensor | None = None

    @property
    def views(self) -> int:
        """The number V of views."""
        return len(self.targets)

    def join(self, targets: Tensor, view: int, positions: Tensor) -> Tensor:
        """Append the predictions for a batch to its targets.

        Args:
            targets: Those of the labels, as the loss takes them, ``float32 [B, L]``.
            view: The number of the view.
            positions: The positions of the examples in the training, ``int64 [B]``.

        Returns:
            ``float32 [B, 2 L]``.
        """
        predicted = self.targets[view].index_select(0, positions).float()
        if self.unlabelled is not None:
            has_none = self.unlabelled.index_select(0, positions)[:, None]
            targets = torch.where(has_none, predicted, targets)
        return torch.cat([targets, predicted], 1)

    def add_to(self, loss: Tensor, logits: Tensor, predicted: Tensor, task: Task) -> Tensor:
        """Return the weighted mean of the loss of the labels and that of the predictions.

        The latter is multiplied by the squared temperature, by which its gradients are smaller.

        Args:
            loss: That of the labels, a scalar.
            logits: Those of the student, ``float32 [B, L]``.
            predicted: What ``join`` appended, ``[B, L]``.
            task: What is predicted.
        """
        own: Tensor = task.loss(logits / self.temperature, predicted)
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * own


def teach(
    model: Model,
    augment: Choice,
    batches: Batches,
    device: Device,
    views: int,
    check_time: Callable[[], None] = lambda: None,
    temperature: float = TEMPERATURE,
    unlabelled: NDArray[np.bool_] | None = None,
) -> Teacher:
    """Compute the predictions of a teacher for the views that a student will be trained on.

    Args:
        model: The teacher, on the device; left in eval mode.
        augment: The augmentation of the student, which must not mix examples.
        batches: The training examples at the input size of the teacher.
        device: The device and the type to compute in.
        views: The number of views; an augmentation that changes nothing has one.
        check_time: Called before every batch; may raise ``OutOfTime``.
        temperature: The divisor of the logits of both models.
        unlabelled: Which examples have no label, ``[N]``; None if all have one.

    Raises:
        OutOfMemory: A single example does not fit on the device, or not all predictions do.
    """
    model.eval()
    augmentation = Augmentation(augment, model.expects, model.task, device.torch_device)
    augmentation.detect_identity(*next(iter(batches)))
    views = 1 if augmentation.is_identity else views
    positions = split_for_inference(np.arange(batches.num_examples), batches)
    sizes, forward = MicroBatches(usual=batches.batch_size), None
    parts: list[list[Tensor]] = [[] for _ in range(views)]
    with cuda_kernels(device):
        for view in range(views):
            for own, (inputs, _) in zip(positions, batches.load(positions), strict=True):
                check_time()
                if view:
                    inputs = augmentation.make_view(inputs, batches.indices[own], view)
                if forward is None:
                    count = views * batches.num_examples
                    forward = compile_if_it_pays(model, inputs, device, count)
                logits = compute_logits(forward, inputs, device, sizes)
                predictions = model.task.activate(logits)
                parts[view].append(model.task.soften(predictions, temperature).half())
    join = partial(torch.cat, [batch for part in parts for batch in part])
    joined = retry_when_out_of_memory(join, device.torch_device, "what the teacher predicts")
    targets = joined.reshape(views, -1, *joined.shape[1:])
    has_none = None
    if unlabelled is not None and unlabelled.any():
        has_none = torch.from_numpy(unlabelled).to(targets.device)
    return Teacher(targets, temperature, unlabelled=has_none)
