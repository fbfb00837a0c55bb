"""What a model is fed: pictures, or where it is cut, what its frozen part made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl.data import Batches
from autotl.errors import OutOfMemory
from autotl.frozen import Rows, split_point
from autotl.frozen.split_point import SplitPoint
from autotl.models import Model
from autotl.space.plugin import Balance
from autotl.space.space import Config
from autotl.training.compute import compiled, key
from autotl.training.frozen_inputs import Augmentation, Frozen, eval_mode
from autotl.training.predict import (
    autocast,
    halve_when_out_of_memory,
    is_out_of_memory,
    parts,
    predict,
    probabilities,
)
from autotl.training.task import Task


class Inputs:
    """Batches for the model, and the loss of one; a cut changes only what is fed and what runs."""

    def __init__(self, model: Model, config: Config, task: Task) -> None:
        self.model, self.config, self.task = model, config, task
        self.where = task.compute.where(task.where)
        device = task.where.device
        self.augmented = Augmentation(
            config["augment"], model.expects.size, len(task.train.counts), device
        )
        self.targets = self.augmented.targets
        self.learns = True  # whether there is anything to train
        self.whole = math.ceil(task.train.num_examples / len(task.train))  # the largest batch
        self.micro = self.whole
        self.frozen: Frozen | None = None
        self._micro_key = ""
        self._extract = compiled(model.features) if task.compute.compiled else model.features
        balance = Balance()
        if chosen := config.get("balance"):
            balance = chosen.plugin.call({"counts": task.train.counts}, chosen.params)
        self.sampling = balance.sampling
        self.weights = _row(balance.weights, device)
        self.offsets = _row(balance.offsets, device)

    @property
    def cut(self) -> SplitPoint | None:
        """Where the model is cut; None feeds it pictures."""
        return self.frozen.cut if self.frozen else None

    @property
    def views(self) -> int:
        """How many views are kept of a picture: as it is, and augmented ones."""
        return 1 if self.augmented.still else min(self.task.views, self.task.epochs)

    def recut(self, learned: set[int]) -> None:
        """Cut the model below what learns now; ``trained_parameters`` has the ids of all that ever did."""
        self.close()
        self._look()
        images, labels = next(iter(self.task.train))
        self.augmented.look(images, labels)
        if not self.task.compute.keep:
            return
        for few in (images[:4], images[:2]):  # as many as memory has room for
            try:
                self.frozen = self._frozen(few, learned)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise

    def join(self, other: Inputs) -> None:
        """Take what ``other`` keeps of the frozen backbone that both stand on."""
        self.frozen, self.augmented = other.frozen, other.augmented
        self._look()

    def _look(self) -> None:
        """See what learns now, and how many pictures fit at once when that does."""
        # Nothing learns above a frozen backbone if the head is fitted.
        self.learns = self.model.backbone_trainable or not hasattr(self.model.head, "fit")
        self._micro_key = key(self.model, self.config, self.where)
        self.micro = min(self.whole, self.task.micro.get(self._micro_key, self.whole))

    def close(self) -> None:
        """Give back what only this training has use for."""
        if self.frozen:
            self.frozen.close()
        self.frozen = None

    def _frozen(self, images: Tensor, learned: set[int]) -> Frozen | None:
        """What is kept of a frozen part; None without one, or without room for it."""
        if (found := split_point.find(self.model, images)) is None:
            return None
        own = self.task.data is None or bool(found.parameters & learned)
        frozen = Frozen(
            self.model, found, self.config, self.task, self.augmented, self.where, images, own
        )
        count = self.task.train.num_examples * self.views + self.task.num_validation_examples
        return frozen if self.task.cache.has_space(frozen.bytes * count) else None

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``(pictures or activations [B, ...], targets [B, C])`` of one epoch.

        In the first of every ``views`` epochs above a cut the pictures are as they are: all trials
        share that view, and validation does. They always are where nothing learns.
        """
        batches = self.task.train
        places = batches.epoch_indices(epoch, self.sampling)
        view = (epoch - 1) % self.views if self.learns else 0
        rows = self._rows(batches, view or None)
        if self.frozen is None or rows is None:
            for images, labels in batches.load(places):
                plain = images, self.targets(labels)
                yield self.augmented(images, labels) if self.learns else plain
            return
        labelled = zip(batches.labels(places), rows.batches(places), strict=True)
        for labels, (activations, targets) in labelled:
            known = self.targets(labels) if targets is None else targets
            yield self.frozen.restored(activations), known

    def fit_head(self) -> None:
        """Fit a head that can be, on the pictures as they are."""
        fit = getattr(self.model.head, "fit", None)
        if fit is None:
            return
        with torch.no_grad():
            fit(self.plain(), self.task.train.classes)

    def plain(self) -> Tensor:
        """What the head is fed of the training pictures as they are, ``float32 [N, ...]``."""
        part = self.task.train
        pooled = self.cut is not None and self.cut.name == "backbone"
        rows = self._rows(part, None) if pooled else None
        with eval_mode(self.model), torch.inference_mode(), autocast(self.where):
            if rows:
                found = [some for some, _ in rows.batches(part.sequential_indices())]
            else:
                found = [
                    halve_when_out_of_memory(self.model.features, images) for images, _ in part
                ]
        return torch.cat(found).float().clone()  # what inference mode made cannot learn

    def validation(self) -> NDArray[np.float32]:
        """Probabilities ``[N, C]`` of the validation part."""
        part = self.task.validation
        assert part is not None
        rows = self._rows(part, None)
        if self.frozen is None or rows is None:
            return predict(self.model, part, self.where, self.task.check_time)
        self.model.eval()
        logits, above = [], self.frozen.cut.features
        with torch.inference_mode(), autocast(self.where):
            for activations, _ in rows.batches(parts(np.arange(part.num_examples), part)):
                kept = self.frozen.restored(activations)
                # The head is this model's, whosever the cut of the backbone is.
                logits.append(
                    halve_when_out_of_memory(lambda some: self.model.head(above(some)), kept)
                )
        return probabilities(torch.cat(logits))

    def backward(self, batch: Tensor, targets: Tensor) -> Tensor:
        """Add the gradients of the mean loss of a batch; return that loss, detached.

        When memory runs out, the batch is done again in halves, quarters, ... of its pictures:
        the gradients stay those of the whole batch. The next trial of this kind begins with them.
        """
        while True:
            try:
                total = torch.zeros((), device=targets.device)
                # Nearly equal parts: no picture is left alone, which breaks BatchNorm.
                count = math.ceil(len(targets) / self.micro)
                pairs = zip(batch.tensor_split(count), targets.tensor_split(count), strict=True)
                for part, truth in pairs:
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
            self.task.micro[self._micro_key] = self.micro
            self.model.zero_grad(set_to_none=True)
            if targets.device.type == "cuda":
                torch.cuda.empty_cache()

    def loss(self, batch: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar: balanced cross-entropy and a strategy's penalties."""
        with autocast(self.where):
            features = self.cut.features(batch) if self.cut else self._extract(batch)
            logits = self.model.head(features)
        logits = logits.float() if self.offsets is None else logits.float() + self.offsets
        smoothing = self.task.label_smoothing
        loss = functional.cross_entropy(logits, targets, self.weights, label_smoothing=smoothing)
        for penalty in self.model.penalties:
            loss = loss + penalty(features.float())
        return loss

    def _rows(self, batches: Batches, view: int | None) -> Rows | None:
        """The rows of ``batches``; without room for them, the model is fed pictures from now on."""
        if self.frozen is None:
            return None
        rows = self.frozen.rows(batches, view)
        if rows is None:
            self.close()
        return rows


def _row(values: Sequence[float] | None, device: torch.device) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
