"""What a training feeds: the model's inputs, or cached activations of its frozen layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import Batches, send_positions
from autotl.errors import Incompatible, OutOfMemory
from autotl.frozen import CachedRows
from autotl.frozen.activations import Activations, divide
from autotl.frozen.split_point import SplitPoint, find_split_point
from autotl.models import Model
from autotl.space.plugin import Balance
from autotl.space.space import Config
from autotl.training.augmentation import Augmentation
from autotl.training.compute import CompiledFunction, cost_key
from autotl.training.frozen_inputs import FrozenInputs, eval_mode
from autotl.training.head_fit import fit_head
from autotl.training.job import Job
from autotl.training.memory import MicroBatches, retry_when_out_of_memory, split
from autotl.training.predict import (
    autocast,
    collect_predictions,
    predict,
    split_for_inference,
)


class Inputs:
    """The batches of a training and the loss of a batch.

    With a split point, batches hold cached activations and only the layers after it run; without
    one, batches hold images and the whole model runs. Everything else is the same.

    Args:
        model: The model that is trained.
        config: Its augmentation and its balance are used.
        job: The data and the settings.

    Attributes:
        trainable: Whether there is anything to train. A head that was fitted on a frozen backbone
            is not trained.
        micro_batches: The size of the parts in which a training step computes a batch, if it does
            not fit into memory.
        frozen: Cached activations of the frozen layers; None feeds images.
        scaler: Scales the loss of a training in float16.
        sampling: Relative probability of each class to be drawn, ``[C]``; None draws every image
            once.
    """

    def __init__(self, model: Model, config: Config, job: Job) -> None:
        self.model, self.config, self.job = model, config, job
        self.device = job.compute.apply_to(job.device)
        device = job.device.torch_device
        self.augmentation = Augmentation(config["augment"], model.expects, model.task, device)
        if job.teacher and self.augmentation.mixes:
            raise Incompatible("the predictions of a teacher are not those of mixed examples")
        self.trainable = True
        self._max_batch_size = math.ceil(job.train.num_examples / len(job.train))
        self.micro_batches = MicroBatches()
        self._inference = MicroBatches(usual=job.train.batch_size)
        self.frozen: FrozenInputs | None = None
        self._cost_key = ""
        self._compiled: CompiledFunction | None = None  # instead of ``model.features``
        # Gradients would underflow in float16; those in other types are not scaled.
        in_float16 = self.device.autocast == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=in_float16)
        balance = Balance()
        if choice := config.get("balance"):
            balance = choice.plugin.call({"counts": job.train.class_counts}, choice.params)
        self.sampling = balance.sampling
        self._loss = self._make_loss(_to_tensor(balance.weights, device))
        self._logit_offsets = _to_tensor(balance.offsets, device)

    def _make_loss(self, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of the configuration, or that of the task."""
        smoothing = self.job.label_smoothing
        if choice := self.config.get("loss"):
            given = {"output_weights": weights, "label_smoothing": smoothing}
            loss: Callable[[Tensor, Tensor], Tensor] = choice.plugin.call(given, choice.params)
            return loss
        return partial(self.model.task.loss, weights=weights, label_smoothing=smoothing)

    @property
    def split_point(self) -> SplitPoint | None:
        """The point at which activations are cached; None if the model is fed images."""
        return self.frozen.split_point if self.frozen else None

    @property
    def views(self) -> int:
        """Number of views of an image whose activations are cached."""
        teacher = self.job.teacher
        views = teacher.views if teacher else self.job.views
        return 1 if self.augmentation.is_identity else min(views, self.job.epochs)

    def find_split_point(self, trained: set[int]) -> None:
        """Find the split point before the parameters that are trainable now, and cache there.

        Args:
            trained: The ids of all parameters that have been trained so far.
        """
        self.close()
        self._update_trainable()
        images, labels = next(iter(self.job.train))
        self.augmentation.detect_identity(images, labels)
        if not self.job.compute.cache_activations:
            return
        for count in (4, 2):  # fewer if memory does not suffice; without either nothing is cached
            make = partial(self._make_frozen_inputs, images[:count], trained)
            with suppress(OutOfMemory):
                self.frozen = retry_when_out_of_memory(make, images.device, "the model")
                break

    def share_frozen_inputs(self, other: Inputs) -> None:
        """Use the cached activations of ``other``, whose model has the same frozen backbone."""
        self.frozen, self.augmentation = other.frozen, other.augmentation
        self._update_trainable()

    def compile_backbone(self) -> None:
        """Compile the backbone for batches of images.

        Another call, or other trainable parameters, would compile it again.
        """
        self._compiled = CompiledFunction(self.model.features, self.job.deadline)

    def close(self) -> None:
        """Remove cached activations that only this training can use."""
        if self.frozen:
            self.frozen.close()
        self.frozen = None

    def training_batches(self, epoch: int) -> Iterator[tuple[Activations, Tensor]]:
        """Yield the training batches of one epoch.

        With a split point, the first of every ``views`` epochs has images without augmentation: all
        trials share the activations of that view, and validation uses it. Where nothing is trained,
        images are never augmented. With a teacher, images have the views that it predicted.

        Args:
            epoch: Number of the epoch, from 1.

        Yields:
            Inputs of the model or activations ``[B, ...]``, and targets ``[B, C]``, to which a
            teacher appends its own.
        """
        batches, teacher = self.job.train, self.job.teacher
        positions = batches.epoch_indices(epoch, self.sampling)
        view = (epoch - 1) % self.views if self.trainable else 0
        loaded = self._load_training_batches(positions, view)
        if teacher is None:
            yield from loaded
            return
        for own, (batch, targets) in zip(
            send_positions(positions, batches.device), loaded, strict=True
        ):
            yield batch, teacher.join(targets, view, own)

    def _load_training_batches(
        self, positions: Sequence[NDArray[np.int64]], view: int
    ) -> Iterator[tuple[Activations, Tensor]]:
        """Yield inputs or activations ``[B, ...]`` and targets ``[B, C]`` of training batches."""
        batches = self.job.train
        rows = self._get_rows(batches, view or None)
        if self.frozen is None or rows is None:
            for own, (images, labels) in zip(positions, batches.load(positions), strict=True):
                if not self.trainable or (self.job.teacher and not view):
                    yield images, self.model.task.expand(labels)
                elif self.job.teacher:
                    indices = batches.indices[own]
                    images = self.augmentation.make_view(images, indices, view)
                    yield images, self.model.task.expand(labels)
                else:
                    yield self.augmentation(images, labels)
            return
        loaded = zip(batches.load_targets(positions), rows.batches(positions), strict=True)
        for labels, (activations, targets) in loaded:
            targets = self.model.task.expand(labels) if targets is None else targets
            yield self.frozen.restore_dtype(activations), targets

    def fit_head(self) -> None:
        """Fit a head that has a ``fit`` to the training images without augmentation."""
        head, name = self.model.head, self.config["head"].name
        if hasattr(head, "fit"):
            features, targets = self.extract_head_inputs(), self.job.train.targets
            if targets.ndim > 1:  # a head in closed form is fitted to labels or to logits
                targets = self.model.task.expand(targets)
            fit = partial(fit_head, head, features, targets, name, self.job)
            with torch.no_grad():
                retry_when_out_of_memory(fit, features.device, "the fit of the head")

    def extract_head_inputs(self) -> Tensor:
        """Compute the input of the head for the training images without augmentation.

        Returns:
            ``float32 [N, ...]``, in the order of the images.
        """
        train = self.job.train
        whole_backbone = self.split_point is not None and self.split_point.name == "backbone"
        rows = self._get_rows(train, None) if whole_backbone else None
        features: Tensor | None = None
        done = 0
        with eval_mode(self.model), torch.inference_mode(), autocast(self.device):
            for part in self._compute_head_inputs(rows):
                if features is None:
                    shape = (train.num_examples, *part.shape[1:])
                    with torch.inference_mode(False):  # such tensors cannot be trained on
                        features = torch.empty(shape, dtype=torch.float32, device=part.device)
                features[done : done + len(part)] = part
                done += len(part)
        assert features is not None  # there is a training image
        return features

    def _compute_head_inputs(self, rows: CachedRows | None) -> Iterator[Tensor]:
        """Yield the input of the head for batches of the training images, in their order."""
        train = self.job.train
        if rows:
            for row, _ in rows.batches(train.sequential_indices()):
                yield divide(row)[0]
            return
        for images, _ in train:
            self.job.check_time()
            yield self._inference.map(self.model.features, images)

    def predict_validation(self) -> NDArray[np.float32]:
        """Predict the validation split, ``[N, K]``."""
        validation = self.job.validation
        assert validation is not None
        rows = self._get_rows(validation, None)
        if self.frozen is None or rows is None:
            # Another epoch changes the weights, which compiling makes constants.
            check_time = self.job.check_time
            factor = self.job.compute.inference_factor
            return predict(
                self.model, validation, self.device, check_time, False, factor, self._inference
            )
        self.model.eval()
        frozen = self.frozen

        def compute_logits(activations: Activations) -> Tensor:
            # The backbone of the split point may be another model's; the head is this model's.
            # Layers may overwrite the activations, which another attempt would need: a copy.
            features = frozen.split_point.features(*divide(activations.clone()))
            logits: Tensor = self.model.head(features)
            return logits

        factor = self.job.compute.inference_factor
        positions = split_for_inference(np.arange(validation.num_examples), validation, factor)
        with torch.inference_mode(), autocast(self.device):
            logits = (
                self._inference.map(compute_logits, frozen.restore_dtype(activations))
                for activations, _ in rows.batches(positions)
            )
            return collect_predictions(logits, validation.num_examples, self.model.task)

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
            return self._backward_in_micro_batches(self._copy(batch), targets, parts)

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

    def forward_loss(self, batch: Activations, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch without gradients, in parts like ``backward``."""

        def compute(parts: int) -> Tensor:
            if parts == 1:
                return self.loss(self._copy(batch), targets)
            copied = self._copy(batch)
            losses = [len(t) * self.loss(b, t) for b, t in split(parts, copied, targets)]
            return torch.stack(losses).sum() / len(targets)

        with torch.no_grad():
            return self.micro_batches.run(compute, len(targets), targets.device)

    def _copy(self, batch: Activations) -> Activations:
        """Copy activations, which layers may overwrite and another attempt would need."""
        return batch.clone() if self.frozen else batch

    def loss(self, batch: Activations, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch: the balanced loss and the strategy's penalties.

        Args:
            batch: Inputs of the model or activations ``[B, ...]``.
            targets: ``[B, L]``, or with a teacher ``[B, 2 L]``.

        Returns:
            A scalar; of a classification in nats.
        """
        with autocast(self.device):
            activations, inputs = divide(batch)
            if split_point := self.split_point:
                features = split_point.features(activations, inputs)
            else:
                features = (self._compiled or self.model.features)(activations)
            logits = self.model.head(features)
        logits, teacher = logits.float(), self.job.teacher
        targets, *predicted = targets.chunk(2, 1) if teacher else (targets,)
        offset = logits if self._logit_offsets is None else logits + self._logit_offsets
        loss: Tensor = self._loss(offset, targets)
        if teacher:  # whose predictions are balanced as they should be
            loss = teacher.add_to(loss, logits, predicted[0], self.model.task)
        for penalty in self.model.penalties:
            loss = loss + penalty(features.float())
        return loss

    def _update_trainable(self) -> None:
        """Update what depends on which parameters are trainable."""
        # Nothing is trained after a frozen backbone if the head is fitted.
        self.trainable = self.model.backbone_trainable or not hasattr(self.model.head, "fit")
        key = cost_key(self.model, self.config, self.device)
        if key != self._cost_key:
            self._cost_key, size = key, self.job.micro_batch_sizes.get(key)
            self.micro_batches.size = None if size is None else min(2 * size, self._max_batch_size)

    def _make_frozen_inputs(self, images: Tensor, trained: set[int]) -> FrozenInputs | None:
        """The activations at the split point; None without one, or without space for them."""
        if (split_point := find_split_point(self.model, images)) is None:
            return None
        frozen = FrozenInputs(
            self.model,
            split_point,
            self.config,
            self.job,
            self.augmentation,
            self.device,
            images,
            temporary=self.job.data_id is None or bool(split_point.prefix_parameters & trained),
        )
        count = self.job.train.num_examples * self.views + self.job.num_validation_examples
        frozen.total_bytes = frozen.row_bytes * count
        has_space = self.job.cache.has_space(frozen.total_bytes, self.device.torch_device)
        return frozen if has_space else None

    def _get_rows(self, batches: Batches, view: int | None) -> CachedRows | None:
        """The rows of ``batches``; without space for them, the model is fed images from now on."""
        if self.frozen is None:
            return None
        rows = self.frozen.get_rows(batches, view)
        if rows is None:
            self.close()
        return rows

    def _backward_in_micro_batches(self, batch: Activations, targets: Tensor, parts: int) -> Tensor:
        total = torch.zeros((), device=targets.device)
        # Nearly equal parts: none has a single image, which breaks BatchNorm.
        for micro_batch, micro_targets in split(parts, batch, targets):
            weight = len(micro_targets) / len(targets)
            loss = self.loss(micro_batch, micro_targets) * weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            del loss  # and with it the graph, before that of the next ones is built
        return total


def _to_tensor(values: Sequence[float] | None, device: torch.device) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
