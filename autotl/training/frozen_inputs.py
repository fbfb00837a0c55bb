"""What the frozen part of a model makes of pictures, out of the cache.

A row of the cache depends on its picture and its view alone: a view of a picture is drawn from
random numbers seeded by the view's number and the picture's place in the data set. So a row is the
same whoever computes it, in whatever company, up to the rounding of sums whose order may change
with the size of a batch. An augmentation that mixes pictures is the exception: its rows belong to
one list of pictures in batches of one size, and are seeded by view and batch.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl.data import Batches
from autotl.frozen import FeatureCache, Rows, digest
from autotl.frozen.split_point import HALF, SplitPoint
from autotl.models import Device, Model
from autotl.space.space import Choice, Config
from autotl.training.predict import autocast, halve_when_out_of_memory, parts
from autotl.training.task import Task

FORMAT = 2
"""Counted up when rows come to mean something else."""


class Augmentation:
    """The augmentation of a configuration, for batches and for single pictures.

    Attributes:
        still: Whether it leaves pictures as they are.
    """

    def __init__(self, choice: Choice, size: int, classes: int, device: torch.device) -> None:
        self.choice, self.classes, self.device = choice, classes, device
        self.transform = choice.plugin.call({"size": size}, choice.params)
        self.mixes = choice.plugin.mixes
        self.still = False

    def look(self, images: Tensor, labels: Tensor) -> None:
        """Find out whether it changes pictures at all."""
        with seeded(self.device, 0):
            self.still = self(images, labels)[0] is images

    def targets(self, labels: Tensor) -> Tensor:
        """Labels ``int64 [B]`` to targets ``float32 [B, C]``, one for the class and 0 elsewhere."""
        return functional.one_hot(labels, self.classes).float()

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``[B, 3, S, S]`` as they are trained on, and their targets ``[B, C]``."""
        targets = self.targets(labels)
        if self.mixes:
            images, targets = self.transform(images, targets)
            return images, targets
        return self.transform(images), targets

    def view(self, images: Tensor, indices: NDArray[np.int64], view: int) -> Tensor:
        """One view of each of ``images [B, 3, S, S]``, whatever the others are."""
        with seeded(self.device):
            changed = []
            for i, index in enumerate(indices):
                seed(self.device, view, int(index))
                changed.append(self.transform(images[i : i + 1]))
        return torch.cat(changed)


class Frozen:
    """The rows of one cut.

    Args:
        model: As it is now; it may go on learning above the cut.
        cut: Where.
        config: Its backbone and augmentation are part of what a row is.
        task: Its cache is used.
        augmentation: Of the configuration.
        where: The device and the type to compute in.
        images: A few real pictures ``uint8 [B, 3, S, S]``, to see how large a row is.
        own: Whether the rows are of use to this task alone, as those of a part that has learned.
    """

    def __init__(
        self,
        model: Model,
        cut: SplitPoint,
        config: Config,
        task: Task,
        augmentation: Augmentation,
        where: Device,
        images: Tensor,
        own: bool,
    ) -> None:
        self.model, self.cut, self.config, self.task = model, cut, config, task
        self.augmentation, self.where, self.own = augmentation, where, own
        self._names: dict[tuple[Batches, int | None], str] = {}
        self._on_disk: dict[tuple[Batches, int | None], Rows] = {}
        found = self.run(images)
        self._type = self._kept_type = found.dtype
        # Maps in float32 take half the room where that is as good. What is pooled is small anyway.
        if found.dtype == torch.float32 and found.ndim > 2 and cut.float16_agrees(images):
            self._kept_type = HALF
        self.bytes = found[0].numel() * self._kept_type.itemsize  # of a row

    @property
    def _kept(self) -> FeatureCache:
        return self.task.cache

    def run(self, images: Tensor) -> Tensor:
        """Activations ``[B, ...]`` of pictures, which layers above may spoil and learn from."""
        with eval_mode(self.model):
            return self._run(images).clone()

    def rows(self, batches: Batches, view: int | None) -> Rows | None:
        """The rows of the pictures of ``batches``; view None is the pictures as they are.

        Returns:
            None if there is no room for them.
        """
        if self.augmentation.still:
            view = None
        if (batches, view) in self._on_disk:
            return self._on_disk[batches, view]
        if (batches, view) not in self._names:
            self._names[batches, view] = self._name(batches, view)
        name = self._names[batches, view]

        def compute(missing: NDArray[np.int64]) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
            mixed = view is not None and self.augmentation.mixes
            work = self._mixed(batches, missing, view or 0) if mixed else None
            with eval_mode(self.model):
                yield from (work or self._alone(batches, missing, view))

        found = self._kept.rows(name, batches.indices, compute, self.where.device)
        if found and not found.resident:
            self._on_disk[batches, view] = found
        return found

    def restored(self, activations: Tensor) -> Tensor:
        """Kept activations in the type they were computed in."""
        return activations.to(self._type)

    def close(self) -> None:
        """Remove what nobody else will ask for."""
        self._on_disk.clear()
        if self.own:
            self._kept.forget(self._names.values())

    def _run(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(self.where):
            return halve_when_out_of_memory(self.cut.prefix, images)

    def _alone(
        self, batches: Batches, missing: NDArray[np.int64], view: int | None
    ) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        places = np.flatnonzero(np.isin(batches.indices, missing))
        some = parts(places, batches)
        for part, (images, _) in zip(some, batches.load(some), strict=True):
            self.task.check_time()
            indices = batches.indices[part]
            if view is not None:
                images = self.augmentation.view(images, indices, view)
            yield indices, self._run(images).to(self._kept_type), None

    def _mixed(
        self, batches: Batches, missing: NDArray[np.int64], view: int
    ) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        # Sources often are in the order of their classes, and a picture is mixed with its batch.
        every = batches.shuffled_indices(view)
        shown = zip(every, batches.load(every), strict=True)
        for number, (part, (images, labels)) in enumerate(shown):
            indices = batches.indices[part]
            if not np.isin(indices, missing).any():
                continue
            self.task.check_time()
            with seeded(self.where.device):
                seed(self.where.device, view, number)
                images, targets = self.augmentation(images, labels)
            yield indices, self._run(images).to(self._kept_type), targets

    @cached_property
    def _weights(self) -> str:
        return weights_below(self.model, self.cut)

    def _name(self, batches: Batches, view: int | None) -> str:
        """Of the entry: a digest of all that decides its rows."""
        backbone, augment = self.config["backbone"], self.config["augment"]
        key: dict[str, object] = {
            "format": FORMAT,
            "versions": [_version("torch"), _version("timm")],
            "data": [self.task.data, batches.packed.key],
            "backbone": [backbone.name, dict(backbone.params), _source(backbone)],
            "input": [self.model.expects, self.model.takes],
            "cut": self.cut.name,
            "weights": self._weights,
            "type": [self.where.device.type, self.where.autocast, self._kept_type],
        }
        if view is not None:
            key["view"] = [view, augment.name, dict(augment.params), _source(augment)]
            key["torchvision"] = _version("torchvision")
            if self.augmentation.mixes:  # what is mixed in may be any of these
                chosen = hashlib.sha256(batches.indices.tobytes()).hexdigest()
                key["mixed"] = [chosen, batches.batch_size]
        return digest(key)


def weights_below(model: Model, cut: SplitPoint) -> str:
    """A digest of the tensors that the part below a cut computes with.

    A buffer is taken for one of them unless its module has parameters, all of them above.
    """
    found = hashlib.sha256()
    for path, module in model.backbone.named_modules():
        own = dict(module.named_parameters(recurse=False))
        below = {name: p for name, p in own.items() if id(p) in cut.parameters}
        buffers = dict(module.named_buffers(recurse=False)) if below or not own else {}
        for name, tensor in (below | buffers).items():
            content = tensor.detach().cpu().contiguous()
            found.update(f"{path}.{name} {content.dtype} {list(content.shape)}".encode())
            found.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


_version = cache(version)  # it reads files


def _source(choice: Choice) -> str:
    """A digest of the module that a plugin is written in: its author may be changing it."""
    return _source_of(choice.plugin.function.__module__)


@cache
def _source_of(module: str) -> str:
    try:
        text = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):  # a notebook has no file
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def eval_mode(model: Model) -> Iterator[None]:
    """The model in eval mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Random numbers of its own, that leave the training's as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed(device, *numbers)
        yield


def seed(device: torch.device, *numbers: int) -> None:
    """Seed torch by several numbers, which count each for itself."""
    value = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    # torch.manual_seed() takes 3 ms where there is no CUDA, which it notes for later.
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(value)
