"""What a training feeds: the model's inputs, or cached activations of its frozen layers."""

from __future__ import annotations

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
from autotl.frozen.activations import Activations, concatenate, divide
from autotl.frozen.split_point import SplitPoint, find_split_point
from autotl.models import Model
from autotl.space.plugin import Balance
from autotl.space.space import Config
from autotl.training import batch_norm
from autotl.training.augmentation import Augmentation
from autotl.training.frozen_inputs import FrozenInputs, eval_mode
from autotl.training.head_fit import fit_head
from autotl.training.job import Job
from autotl.training.memory import MicroBatches, retry_when_out_of_memory
from autotl.training.predict import (
    autocast,
    collect_predictions,
    predict,
    split_for_inference,
)
from autotl.training.unlabelled import Rows, make_unlabelled_inputs, self_train


class Inputs:
    """The batches of a training, and what is computed of all examples of a split.

    With a split point, batches hold cached activations and only the layers after it run; without
    one, batches hold images and the whole model runs. Everything else is the same.

    Args:
        model: The model that is trained.
        config: Its augmentation and its balance are used.
        job: The data and the settings.

    Attributes:
        device: The device and the type to compute in.
        trainable: Whether there is anything to train. A head that was fitted on a frozen backbone
            is not trained.
        frozen: Cached activations of the frozen layers; None feeds images.
        balance: How often the classes are drawn, and how the loss weighs them.
        unlabelled: The unlabelled examples and what is done with them; None if nothing is.
    """

    def __init__(self, model: Model, config: Config, job: Job) -> None:
        self.model, self.config, self.job = model, config, job
        self.device = job.compute.apply_to(job.device)
        device = job.device.torch_device
        self.augmentation = Augmentation(config["augment"], model.expects, model.task, device)
        if job.teacher and self.augmentation.mixes:
            raise Incompatible("the predictions of a teacher are not those of mixed examples")
        if job.contrast and self.augmentation.mixes:
            raise Incompatible(
                "views of one image are compared, and this augmentation mixes images"
            )
        self.trainable = True
        self._inference = MicroBatches(usual=job.train.batch_size)
        self.frozen: FrozenInputs | None = None
        self.balance = Balance()
        if choice := config.get("balance"):
            self.balance = choice.plugin.call({"counts": job.train.class_counts}, choice.params)
        self.unlabelled = make_unlabelled_inputs(model, config, job)

    @property
    def split_point(self) -> SplitPoint | None:
        """The point at which activations are cached; None if the model is fed images."""
        return self.frozen.split_point if self.frozen else None

    @property
    def passes(self) -> int:
        """Number of passes over the training images in an epoch."""
        return self.unlabelled.passes if self.unlabelled and self.trainable else 1

    @property
    def extra_rows(self) -> Rows:
        """How much unlabelled examples, or second views, add to what is computed."""
        if self.job.contrast:
            return Rows(relative=2)
        if self.unlabelled is None:
            return Rows()
        method, count = self.unlabelled.method, self.unlabelled.batches.num_examples
        relative = 1 + self.copies * method.mu if self.trainable else 1
        adapted = self.unlabelled.sample.num_examples if method.adapts_batch_norm else 0
        is_trained_on = method.loss is not None or method.select is not None
        return Rows(count if is_trained_on else 0, self.passes, relative, adapted)

    @property
    def copies(self) -> int:
        """How many groups of rows follow those of the targets in a batch.

        They are the unlabelled examples as they are, and augmented; or the second views of images.
        """
        if self.job.contrast:
            return 1
        if self.unlabelled is None or self.unlabelled.method.loss is None:
            return 0
        return 1 if self.augmentation.is_identity or self.augmentation.mixes else 2

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
        device = self.job.device.torch_device
        images = retry_when_out_of_memory(self._detect_identity, device, "a batch of images")
        if self.job.contrast and self.augmentation.is_identity:
            raise Incompatible("without an augmentation, all views of an image are the same")
        if self.job.contrast or not self.job.compute.cache_activations:
            return
        for count in (4, 2):  # fewer if memory does not suffice; without either nothing is cached
            make = partial(self._make_frozen_inputs, images[:count], trained)
            with suppress(OutOfMemory):
                self.frozen = retry_when_out_of_memory(make, device, "the model")
                break

    def _detect_identity(self) -> Tensor:
        """Find out whether the augmentation changes anything; return the images of a batch."""
        images, labels = next(iter(self.job.train))
        self.augmentation.detect_identity(images, labels)
        return images

    def share_frozen_inputs(self, other: Inputs) -> None:
        """Use the cached activations of ``other``, whose model has the same frozen backbone."""
        self.frozen, self.augmentation = other.frozen, other.augmentation
        self._update_trainable()

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
            teacher appends its own. With unlabelled examples the inputs are more than the targets:
            ``copies`` groups of these follow; with ``job.contrast`` the second views of the images.
        """
        for number in range((epoch - 1) * self.passes + 1, epoch * self.passes + 1):
            yield from self._pass(number)

    def _pass(self, number: int) -> Iterator[tuple[Activations, Tensor]]:
        """Yield the training batches of one pass over the training images, see above."""
        batches, teacher = self.job.train, self.job.teacher
        positions = batches.epoch_indices(number, self.balance.sampling)
        view = (number - 1) % self.views if self.trainable else 0
        loaded = self._load_training_batches(number, positions, view)
        if teacher is None:
            yield from loaded
            return
        for own, (batch, targets) in zip(
            send_positions(positions, batches.device), loaded, strict=True
        ):
            yield batch, teacher.join(targets, view, own)

    def _load_training_batches(
        self, number: int, positions: Sequence[NDArray[np.int64]], view: int
    ) -> Iterator[tuple[Activations, Tensor]]:
        """Yield inputs or activations and the targets ``[B, C]`` of one pass without a teacher."""
        batches = self.job.train
        drawn, views = self._draw_unlabelled(number, [len(own) for own in positions])
        # All rows first: without space for any of them, the model is fed images.
        rows = self._get_rows(batches, view or None)
        others = [self._get_rows(self.unlabelled.batches, v) for v in views if self.unlabelled]
        if self.frozen is None or rows is None:
            yield from self._load_images(positions, drawn, view)
            return
        loaded = zip(batches.load_targets(positions), rows.batches(positions), strict=True)
        groups = [other.batches(drawn) for other in others if other is not None]
        for labels, (activations, targets) in loaded:
            targets = self.model.task.expand(labels) if targets is None else targets
            parts = [activations, *(next(group)[0] for group in groups)]
            batch = concatenate(parts) if groups else activations
            yield self.frozen.restore_dtype(batch), targets

    def _draw_unlabelled(
        self, number: int, sizes: Sequence[int]
    ) -> tuple[list[NDArray[np.int64]], list[int | None]]:
        """Draw the unlabelled examples of each step of a pass, and the views of them.

        Args:
            number: The number of the pass, from 1.
            sizes: The number of labelled examples in each step.

        Returns:
            Their positions in each step, and for each of ``copies`` the view, None for the examples
            as they are; both empty if there are none.
        """
        if self.unlabelled is None or not self.copies or not self.trainable:
            return [], []
        strong = 1 + number % max(1, self.views - 1)
        return self.unlabelled.draw(number, sizes), [None, strong][: self.copies]

    def _load_images(
        self,
        positions: Sequence[NDArray[np.int64]],
        drawn: Sequence[NDArray[np.int64]],
        view: int,
    ) -> Iterator[tuple[Activations, Tensor]]:
        """Yield the batches of a pass as inputs of the model, with the unlabelled ones drawn."""
        others = self.unlabelled.batches.load(drawn) if self.unlabelled and drawn else None
        for own, (images, labels) in zip(positions, self.job.train.load(positions), strict=True):
            batch, targets = self._augment(images, labels, own, view)
            if self.job.contrast:
                batch = torch.cat([batch, self._augment(images, labels, own, view)[0]])
            if others is not None:
                weak, _ = next(others)
                copies = [weak] if self.copies == 1 else [weak, self.augmentation.transform(weak)]
                batch = torch.cat([batch, *copies])
            yield batch, targets

    def _augment(
        self, images: Tensor, labels: Tensor, positions: NDArray[np.int64], view: int
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs and the targets ``[B, C]`` of a batch of training images.

        Those of a student are the views that its teacher predicted.

        Raises:
            OutOfMemory: They do not fit on the device, even without resident data.
        """
        draw = partial(self._draw_view, images, labels, positions, view)
        return retry_when_out_of_memory(draw, images.device, "a batch of images")

    def _draw_view(
        self, images: Tensor, labels: Tensor, positions: NDArray[np.int64], view: int
    ) -> tuple[Tensor, Tensor]:
        if not self.trainable or (self.job.teacher and not view):
            return images, self.model.task.expand(labels)
        if self.job.teacher:
            images = self.augmentation.make_view(images, self.job.train.indices[positions], view)
            return images, self.model.task.expand(labels)
        return self.augmentation(images, labels)

    def fit_head(self) -> None:
        """Fit a head that has a ``fit`` to the training images without augmentation."""
        head, name, train = self.model.head, self.config["head"].name, self.job.train
        if not hasattr(head, "fit"):
            return
        features, targets = self.extract_head_inputs(train), train.targets
        if targets.ndim > 1:  # a head in closed form is fitted to labels or to logits
            targets = self.model.task.expand(targets)

        def fit(features: Tensor, targets: Tensor) -> None:
            run = partial(fit_head, head, features, targets, name, self.job)
            retry_when_out_of_memory(run, features.device, "the fit of the head")

        with torch.no_grad():
            if self.unlabelled is None or self.unlabelled.method.select is None:
                fit(features, targets)
                return
            method, more = self.unlabelled.method, self.extract_head_inputs(self.unlabelled.batches)
            self_train(fit, self._predict_from_head_inputs, features, targets, more, method)

    def _predict_from_head_inputs(self, features: Tensor) -> Tensor:
        """Predict ``float32 [N, K]`` from the input of the head."""
        with eval_mode(self.model), autocast(self.device):
            logits: Tensor = self._inference.map(self.model.head, features)
        predictions: Tensor = self.model.task.activate(logits.float())
        return predictions

    def extract_head_inputs(self, batches: Batches) -> Tensor:
        """Compute the input of the head for examples without augmentation.

        Returns:
            ``float32 [N, ...]``, in the order of the examples.

        Raises:
            OutOfMemory: They do not fit on the device.
        """
        extract = partial(self._extract_head_inputs, batches)
        return retry_when_out_of_memory(extract, self.device.torch_device, "the features")

    def _extract_head_inputs(self, batches: Batches) -> Tensor:
        whole_backbone = self.split_point is not None and self.split_point.name == "backbone"
        rows = self._get_rows(batches, None) if whole_backbone else None
        features: Tensor | None = None
        done = 0
        with eval_mode(self.model), torch.inference_mode(), autocast(self.device):
            for part in self._compute_head_inputs(batches, rows):
                if features is None:
                    shape = (batches.num_examples, *part.shape[1:])
                    with torch.inference_mode(False):  # such tensors cannot be trained on
                        features = torch.empty(shape, dtype=torch.float32, device=part.device)
                features[done : done + len(part)] = part
                done += len(part)
        assert features is not None  # there is an example
        return features

    def _compute_head_inputs(self, batches: Batches, rows: CachedRows | None) -> Iterator[Tensor]:
        """Yield the input of the head for batches of examples, in their order."""
        if rows:
            for row, _ in rows.batches(batches.sequential_indices()):
                yield divide(row)[0]
            return
        for images in self._load_sequentially(batches, None):
            yield self._inference.map(self.model.features, images)

    def adapt_batch_norm(self) -> None:
        """Compute the running statistics of BatchNorm on unlabelled examples, if the method does.

        The model is in the mode of its last step of training, and is left in that.
        """
        if self.unlabelled is None or not self.unlabelled.method.adapts_batch_norm:
            return
        layers = batch_norm.find_layers(self.model)
        if not layers:  # this epoch trains none of them, but another one does
            return

        def compute(batch: Activations) -> Tensor:
            return self.compute_outputs(self.copy(batch))[1]

        sample = self.unlabelled.sample
        with eval_mode(self.model):
            batches = self._load_sequentially(sample, self._get_rows(sample, None))
            batch_norm.adapt(layers, batches, compute, self._inference)

    def _load_sequentially(
        self, batches: Batches, rows: CachedRows | None
    ) -> Iterator[Activations]:
        """Yield the inputs of the model or activations of all examples, in their order."""
        factor = self.job.compute.inference_factor
        positions = split_for_inference(np.arange(batches.num_examples), batches, factor)
        if self.frozen is None or rows is None:
            for inputs, _ in batches.load(positions):
                self.job.check_time()
                yield inputs
            return
        for activations, _ in rows.batches(positions):
            yield self.frozen.restore_dtype(activations)

    def predict_validation(self) -> NDArray[np.float32]:
        """Predict the validation split, ``[N, K]``."""
        validation = self.job.validation
        assert validation is not None
        rows = self._get_rows(validation, None)
        if rows is None:
            # Another epoch changes the weights, which compiling makes constants.
            check_time = self.job.check_time
            factor = self.job.compute.inference_factor
            return predict(
                self.model, validation, self.device, check_time, False, factor, self._inference
            )
        self.model.eval()

        def compute_logits(activations: Activations) -> Tensor:
            return self.compute_outputs(self.copy(activations))[1]

        with torch.inference_mode():
            batches = self._load_sequentially(validation, rows)
            logits = (self._inference.map(compute_logits, activations) for activations in batches)
            return collect_predictions(logits, validation.num_examples, self.model.task)

    def count_unlabelled_rows(self) -> int:
        """The number of cached rows of unlabelled examples that the training needs."""
        rows = self.extra_rows
        return rows.unlabelled * (max(2, self.views) if self.copies > 1 else 1) + rows.adapted

    def copy(self, batch: Activations) -> Activations:
        """Copy activations, which layers may overwrite and another attempt would need."""
        return batch.clone() if self.frozen else batch

    def compute_outputs(
        self, batch: Activations, features_of: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the model, or its layers after the split point.

        Args:
            batch: Inputs of the model or activations ``[B, ...]``.
            features_of: Computes what ``model.features`` does, where the whole model runs; None for
                that itself.

        Returns:
            The input of the head ``[B, ..., F]`` and the logits ``[B, L]``, in float32.
        """
        with autocast(self.device):
            activations, inputs = divide(batch)
            if split_point := self.split_point:  # its backbone may be another model's
                features = split_point.features(activations, inputs)
            else:
                features = (features_of or self.model.features)(activations)
            logits = self.model.head(features)
        return features.float(), logits.float()

    def _update_trainable(self) -> None:
        # Nothing is trained after a frozen backbone if the head is fitted.
        self.trainable = self.model.backbone_trainable or not hasattr(self.model.head, "fit")

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
        count += self.count_unlabelled_rows()
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
