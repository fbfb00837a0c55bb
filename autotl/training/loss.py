"""The loss that a training minimises, and its gradients, in parts where memory is short."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from autotl.errors import OutOfMemory
from autotl.frozen.activations import Activations, concatenate
from autotl.space.unlabelled import Outputs
from autotl.training.compute import CompiledFunction, cost_key
from autotl.training.contrastive import Contrast
from autotl.training.frozen_inputs import eval_mode
from autotl.training.inputs import Inputs
from autotl.training.memory import MicroBatches, split
from autotl.training.weight_average import WeightAverage


class TrainingLoss:
    """The loss of a batch: that of the task or of the configuration, and all that is added to it.

    These are the penalties of the strategy, the predictions of a teacher, and what unlabelled
    examples add. Of a training without labels it is how well the views of an image are told apart.

    Args:
        inputs: What the model is fed, with the trainable parameters as they are in the beginning.

    Attributes:
        micro_batches: The size of the parts in which a training step computes a batch, if it does
            not fit into memory.
        scaler: Scales the loss of a training in float16.
        average: The averaged weights, which may compute the targets of unlabelled examples.
        progress: The fraction of the training that is done, from 0 to below 1.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.model, self.job = inputs, inputs.model, inputs.job
        self._unlabelled = inputs.unlabelled
        device = inputs.device.torch_device
        # Gradients would underflow in float16; those in other types are not scaled.
        in_float16 = inputs.device.autocast == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=in_float16)
        self._loss = self._make_loss(_to_tensor(inputs.balance.weights, device))
        self._logit_offsets = _to_tensor(inputs.balance.offsets, device)
        teacher_decay = self._unlabelled.method.teacher_decay if self._unlabelled else 0.0
        self.average = WeightAverage(teacher_decay or self.job.ema)
        self.progress = 0.0
        self.micro_batches = MicroBatches()
        self._cost_key = ""
        self._compiled: CompiledFunction | None = None  # instead of ``model.features``
        self.update_batch_size()

    def _make_loss(self, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of the configuration, or that of the task."""
        smoothing = self.job.label_smoothing
        if choice := self.inputs.config.get("loss"):
            given = {"output_weights": weights, "label_smoothing": smoothing}
            loss: Callable[[Tensor, Tensor], Tensor] = choice.plugin.call(given, choice.params)
            return loss
        return partial(self.model.task.loss, weights=weights, label_smoothing=smoothing)

    def update_batch_size(self) -> None:
        """Begin with twice the size that fitted in a training of the same kind.

        That is to be called when other parameters become trainable.
        """
        key = cost_key(self.model, self.inputs.config, self.inputs.device)
        if key != self._cost_key:
            self._cost_key, size = key, self.job.micro_batch_sizes.get(key)
            largest = math.ceil(self.job.train.num_examples / len(self.job.train))
            self.micro_batches.size = None if size is None else min(2 * size, largest)

    def compile_backbone(self) -> None:
        """Compile the backbone for batches of images.

        Another call, or other trainable parameters, would compile it again.
        """
        self._compiled = CompiledFunction(self.model.features, self.job.deadline)

    def compute(self, batch: Activations, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch: the balanced loss and the strategy's penalties.

        Args:
            batch: Inputs of the model or activations ``[B, ...]``; unlabelled ones, or second
                views, follow.
            targets: ``[B, L]``, or with a teacher ``[B, 2 L]``.

        Returns:
            A scalar; of a classification in nats.
        """
        if self.job.contrast:
            return self._compare_views(batch, len(targets), self.job.contrast)
        count, copies = len(targets), self._count_copies(batch, targets)
        if not self.inputs.trainable:  # others that are trained in this pass have unlabelled ones
            batch, copies = batch[:count], 0
        taught: Outputs | None = None
        if copies and self._unlabelled and self._unlabelled.method.teacher_decay:
            size = (len(batch) - count) // copies
            taught = self._teach(batch[count : count + size])
            batch = concatenate([batch[:count], batch[len(batch) - size :]])
        features, logits = self.inputs.compute_outputs(batch, self._compiled)
        own, teacher = logits[:count], self.job.teacher
        targets, *predicted = targets.chunk(2, 1) if teacher else (targets,)
        offset = own if self._logit_offsets is None else own + self._logit_offsets
        loss: Tensor = self._loss(offset, targets)
        if teacher:  # whose predictions are balanced as they should be
            loss = teacher.add_to(loss, own, predicted[0], self.model.task)
        for penalty in self.model.penalties:
            loss = loss + penalty(features[:count])
        if copies and self._unlabelled:
            labelled = Outputs(own, features[:count], targets)
            weak, strong = self._divide_unlabelled(logits[count:], features[count:], taught)
            loss = loss + self._unlabelled.compute_loss(labelled, weak, strong, self.progress)
        return loss

    def _compare_views(self, batch: Activations, count: int, contrast: Contrast) -> Tensor:
        """Compute the loss of two views of each of ``count`` images, and the penalties.

        Raises:
            OutOfMemory: So little memory is left that there is one image, and nothing to compare.
        """
        if count < 2:
            raise OutOfMemory("two images, which are compared, do not fit in the device's memory")
        features, projections = self.inputs.compute_outputs(batch, self._compiled)
        loss = contrast.loss(projections)
        for penalty in self.model.penalties:
            loss = loss + penalty(features)
        return loss

    def _teach(self, batch: Activations) -> Outputs:
        """Compute the outputs of the averaged weights, in eval mode and without gradients."""
        with torch.no_grad(), self.average.applied(), eval_mode(self.model):
            features, logits = self.inputs.compute_outputs(self.inputs.copy(batch))
        return Outputs(logits, features)

    def _divide_unlabelled(
        self, logits: Tensor, features: Tensor, taught: Outputs | None
    ) -> tuple[Outputs, Outputs]:
        """Return the weak and the strong outputs; with a teacher, all of the model are strong."""
        if taught is not None:
            return taught, Outputs(logits, features)
        copies = self.inputs.copies
        parts = zip(logits.tensor_split(copies), features.tensor_split(copies), strict=True)
        outputs = [Outputs(*own) for own in parts]
        return outputs[0], outputs[-1]

    def _count_copies(self, batch: Activations, targets: Tensor) -> int:
        """How many groups of unlabelled examples follow the labelled ones of a batch."""
        return self.inputs.copies if len(batch) > len(targets) else 0

    def backward(self, batch: Activations, targets: Tensor) -> Tensor:
        """Add the gradients of the mean loss of a batch, scaled, to those of the parameters.

        When memory runs out, what is resident on the device is given up, and then the batch is
        computed in halves, quarters and so on, which gives the gradients of the whole batch. The
        next training with the same ``cost_key`` begins with twice the size that fitted: there may
        be more memory then, and if not, one step is computed again.

        Args:
            batch: Inputs of the model or activations ``[B, ...]``.
            targets: ``[B, C]``.

        Returns:
            The mean loss, a detached scalar.

        Raises:
            OutOfMemory: A single image does not fit on the device.
        """
        attempts = itertools.count()

        def compute(parts: int) -> Tensor:
            if next(attempts):  # gradients that were added before memory ran out
                self.model.zero_grad(set_to_none=True)
                if self._unlabelled and self._unlabelled.module:
                    self._unlabelled.module.zero_grad(set_to_none=True)
            return self._backward_in_micro_batches(self.inputs.copy(batch), targets, parts)

        run = partial(self.micro_batches.run, compute, len(targets), targets.device)
        try:
            loss = run()
        except Exception as error:
            if not self._compiled or not self._compiled.give_up(error):
                raise
            loss = run()
        if self.micro_batches.size is not None:
            self.job.micro_batch_sizes[self._cost_key] = self.micro_batches.size
        return loss

    def _backward_in_micro_batches(self, batch: Activations, targets: Tensor, parts: int) -> Tensor:
        total = torch.zeros((), device=targets.device)
        # Nearly equal parts: none has a single image, which breaks BatchNorm.
        copies = self._count_copies(batch, targets)
        for micro_batch, micro_targets in split(parts, batch, targets, copies):
            weight = len(micro_targets) / len(targets)
            loss = self.compute(micro_batch, micro_targets) * weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            del loss  # and with it the graph, before that of the next ones is built
        return total

    def evaluate(self, batch: Activations, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch without gradients, in parts like ``backward``."""

        def compute(parts: int) -> Tensor:
            copied = self.inputs.copy(batch)
            if parts == 1:
                return self.compute(copied, targets)
            parted = split(parts, copied, targets, self._count_copies(batch, targets))
            losses = [len(t) * self.compute(b, t) for b, t in parted]
            return torch.stack(losses).sum() / len(targets)

        with torch.no_grad():
            return self.micro_batches.run(compute, len(targets), targets.device)


def _to_tensor(values: Sequence[float] | None, device: torch.device) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
