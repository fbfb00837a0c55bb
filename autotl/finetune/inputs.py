"""What a model is fed: pictures, or where it is cut, what its frozen part made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl import cut
from autotl.cache import Features
from autotl.cut import Cut
from autotl.data import Batches
from autotl.errors import OutOfMemory
from autotl.finetune.predict import autocast, in_halves, is_out_of_memory, predict, probabilities
from autotl.finetune.task import Task
from autotl.model import Model
from autotl.plugin import Balance
from autotl.space import Config


class Inputs:
    """Batches for the model, and the loss of one; a cut changes only what is fed and what runs."""

    def __init__(self, model: Model, config: Config, task: Task) -> None:
        self.model, self.task = model, task
        backbone, augment = config["backbone"], config["augment"]
        self.augment = augment.plugin.give({"size": model.expects.size}, augment.params)
        self.mixes = augment.plugin.mixes
        self.still = False  # whether the augmentation leaves pictures as they are
        self.fitted = False  # whether the head was, in closed form
        values = str(dict(backbone.params))
        self.backbone_key = (task.data, backbone.name, values, model.expects, model.takes)
        self.augment_key = (augment.name, str(dict(augment.params)))
        self.micro = math.ceil(task.train.pictures / len(task.train))  # all of the largest batch
        self.cut: Cut | None = None
        self.kept = task.kept
        balance = Balance()
        if chosen := config.get("balance"):
            balance = chosen.plugin.give({"counts": task.train.counts}, chosen.params)
        self.sampling = balance.sampling
        device = task.where.device
        self.weights = _row(balance.weights, device)
        self.offsets = _row(balance.offsets, device)

    @property
    def learns(self) -> bool:
        """Whether there is anything to train: not so above a frozen backbone, if the head fits."""
        return self.model.backbone_learns or not hasattr(self.model.head, "fit")

    def recut(self, learned: set[int]) -> None:
        """Cut the model below what learns now; ``learned`` has the ids of all that ever did."""
        images, labels = next(iter(self.task.train))
        with self._seeded(0):
            self.still = self.augmented(images, labels)[0] is images
        self.cut = cut.find(self.model, images[:4])
        if self.cut is None:
            return
        activations = self.run_below(images[:4])
        count = self.task.train.pictures * self.views + self.task.validation_pictures
        if activations[0].numel() * activations.element_size() * count > self.task.kept.limit / 2:
            self.cut = None  # too big to keep; the frozen part runs again in every epoch
        elif self.task.data is None or self.cut.parameters & learned:
            self.kept = Features(self.task.kept.limit)  # no longer what other trials would find

    @property
    def views(self) -> int:
        """How many augmented views are kept of a picture."""
        return 1 if self.still else min(self.task.views, self.task.epochs)

    def targets(self, labels: Tensor) -> Tensor:
        """Labels ``int64 [B]`` to targets ``float32 [B, C]``, one for the class and 0 elsewhere."""
        return functional.one_hot(labels, len(self.task.train.counts)).float()

    def augmented(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``[B, 3, S, S]`` as they are trained on, and their targets ``[B, C]``."""
        targets = self.targets(labels)
        if self.mixes:
            images, targets = self.augment(images, targets)
            return images, targets
        return self.augment(images), targets

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``(pictures or activations [B, ...], targets [B, C])`` of one epoch."""
        batches = self.task.train
        if self.cut is None:
            for images, labels in batches.epoch(epoch, self.sampling):
                yield self.augmented(images, labels)
            return
        activations, targets = self._activations("train", batches, (epoch - 1) % self.views)
        for rows in batches.rows(epoch, self.sampling):
            yield activations[rows], targets[rows]

    def fit_head(self) -> None:
        """Fit a head that can be, on the pictures as they are."""
        fit = getattr(self.model.head, "fit", None)
        if fit is None:
            return
        part = self.task.train
        if self.cut and self.cut.name == "backbone":
            features, _ = self._activations("train", part, None)
        else:
            features = torch.cat([self._features(images) for images, _ in part])
        labels = torch.cat([labels for _, labels in part])
        with torch.no_grad():
            fit(features.float(), labels)
        self.fitted = True

    def validation(self) -> NDArray[np.float32]:
        """Probabilities ``[N, C]`` of the validation part."""
        part = self.task.validation
        assert part is not None
        if self.cut is None:
            return predict(self.model, part, self.task.where, self.task.check_time)
        activations, _ = self._activations("validation", part, None)
        self.model.eval()
        with torch.inference_mode(), autocast(self.task.where):
            parts = activations.split(part.batch_size)  # type: ignore[no-untyped-call]
            # Layers that work in place must not spoil what is kept.
            logits = [self.cut.above(some.clone()) for some in parts]
        return probabilities(torch.cat(logits))

    def backward(self, batch: Tensor, targets: Tensor) -> Tensor:
        """Add the gradients of the mean loss of a batch; return that loss, detached.

        When memory runs out, the batch is done again in halves, quarters, ... of its pictures:
        the gradients stay those of the whole batch.
        """
        while True:
            try:
                total = torch.zeros((), device=targets.device)
                # Nearly equal parts: no picture is left alone, which breaks BatchNorm.
                count = math.ceil(len(targets) / self.micro)
                parts = zip(batch.tensor_split(count), targets.tensor_split(count), strict=True)
                for part, truth in parts:
                    partial = self.loss(part, truth) * (len(truth) / len(targets))
                    partial.backward()  # type: ignore[no-untyped-call]
                    total += partial.detach()
                return total
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not is_out_of_memory(error):
                    raise
            if self.micro == 1:
                raise OutOfMemory("one picture alone does not fit on the device")
            self.micro = max(1, min(self.micro, len(targets)) // 2)
            self.model.zero_grad(set_to_none=True)
            if targets.device.type == "cuda":
                torch.cuda.empty_cache()

    def loss(self, batch: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar: balanced cross-entropy and a strategy's penalties."""
        with autocast(self.task.where):
            features = self.cut.features(batch) if self.cut else self.model.features(batch)
            logits = self.model.head(features)
        logits = logits.float() if self.offsets is None else logits.float() + self.offsets
        smoothing = self.task.label_smoothing
        loss = functional.cross_entropy(logits, targets, self.weights, label_smoothing=smoothing)
        for penalty in self.model.penalties:
            loss = loss + penalty(features.float())
        return loss

    def _activations(self, part: str, batches: Batches, view: int | None) -> tuple[Tensor, Tensor]:
        """Activations ``[N, ...]`` and targets in the order of ``batches``; None: not augmented."""
        assert self.cut is not None
        if self.still:
            view = None

        def compute() -> tuple[Tensor, Tensor]:
            activations, targets = [], []
            for images, labels in batches:
                self.task.check_time()
                plain = images, self.targets(labels)
                fed, truth = plain if view is None else self.augmented(images, labels)
                activations.append(self.run_below(fed))
                targets.append(truth)
            return torch.cat(activations), torch.cat(targets)

        key = (*self.backbone_key, self.cut.name, part)
        with self._seeded(view or 0):  # the same view whichever trial computes it
            return self.kept.get(key if view is None else (*key, view, self.augment_key), compute)

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Random numbers of its own, that leave the training's as they are."""
        device = self.task.where.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def run_below(self, images: Tensor) -> Tensor:
        """Activations ``[B, ...]`` of the frozen part."""
        assert self.cut is not None
        return self._evaluated(self.cut.below, images)

    def _features(self, images: Tensor) -> Tensor:
        """What the head is fed, of all of the backbone."""
        return self._evaluated(self.model.features, images)

    def _evaluated(self, work: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        training = self.model.training
        self.model.eval()
        with torch.inference_mode(), autocast(self.task.where):
            found = in_halves(work, images)
        self.model.train(training)
        return found.clone()  # outside inference mode, so that autograd may use it


def _row(values: Sequence[float] | None, device: torch.device) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
