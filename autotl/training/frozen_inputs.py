"""Activations of a model's frozen layers, cached by example and by view.

A row of the cache depends only on its example and its view: a view of an example is drawn from
random numbers that depend on the view's number and the example's index in the data set. So a row is
the same whichever training computes it and in whichever batch, up to rounding: the order of sums
may change with the batch size, and the prefix may run with OpenVINO, where that agrees with PyTorch
up to rounding (``fast_inference``). An augmentation that mixes examples is the exception: its rows
belong to one list of examples in batches of one size, and are seeded by view and batch.

Where the layers after the split point need the model's input, a row has that of its view, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import Batches
from autotl.frozen import CachedRows, entry_name
from autotl.frozen.activations import Activations, WithInputs
from autotl.frozen.split_point import HALF, SplitPoint
from autotl.models import Device, Model, fast_inference
from autotl.space.source import library_versions, source_digest
from autotl.space.space import Choice, Config
from autotl.training.augmentation import Augmentation
from autotl.training.compute import openvino_key
from autotl.training.job import Job
from autotl.training.kernels import cuda_kernels
from autotl.training.memory import MicroBatches
from autotl.training.predict import autocast, split_for_inference
from autotl.training.random_state import torch_seeded

FORMAT = 3
"""The version of the content of rows; incremented when their meaning changes."""

ComputedRows = tuple[NDArray[np.int64], Activations, Tensor | None]
"""Indices ``[B]``, activations ``[B, ...]``, and targets ``[B, C]`` of mixed examples."""


class FrozenInputs:
    """Cached activations at a split point, which a training feeds to the layers after it.

    Args:
        model: The model in its current state; layers after the split point may be trained further.
        split_point: Where the activations are taken.
        config: Its backbone and augmentation are part of what identifies a row.
        job: Its cache and its data are used.
        augmentation: The augmentation of the configuration.
        device: The device and the type to compute in.
        inputs: A few real inputs ``[B, ...]``, to find the type and size of a row.
        temporary: Whether the rows are of use to this job alone, as those of layers that were
            trained. They are removed from the cache by ``close``.

    Attributes:
        row_bytes: Bytes of a cached row.
        total_bytes: Bytes of the rows of all views that the training needs, which the caller sets.
    """

    def __init__(
        self,
        model: Model,
        split_point: SplitPoint,
        config: Config,
        job: Job,
        augmentation: Augmentation,
        device: Device,
        inputs: Tensor,
        temporary: bool,
    ) -> None:
        self.model, self.split_point, self.config, self.job = model, split_point, config, job
        self.augmentation, self.device, self.temporary = augmentation, device, temporary
        self._entry_names: dict[tuple[Batches, int | None], str] = {}
        self._on_disk: dict[tuple[Batches, int | None], CachedRows] = {}
        self._prefix: fast_inference.Forward = split_point.prefix
        self._micro_batches = MicroBatches(usual=job.train.batch_size)
        with eval_mode(model):
            activations = self._compute(inputs)
        self._dtype = self._stored_dtype = activations.dtype
        # Feature maps in float32 are stored in half the space where that is as accurate. Pooled
        # features are small in any type.
        is_map = activations.ndim > 2
        if self._dtype == torch.float32 and is_map and split_point.tolerates_float16(inputs):
            self._stored_dtype = HALF
        self.row_bytes = activations[0].numel() * self._stored_dtype.itemsize
        if split_point.needs_input:
            self.row_bytes += inputs[0].nbytes
        self.total_bytes = 0

    def compute(self, inputs: Tensor) -> Activations:
        """Compute activations ``[B, ...]`` that later layers may overwrite and train on."""
        with eval_mode(self.model):
            activations = self._compute(inputs).clone()
        return WithInputs(activations, inputs) if self.split_point.needs_input else activations

    def compile_prefix(self, inputs: Tensor) -> bool:
        """Run the prefix with OpenVINO from now on, if it computes the same there.

        If not, the reason is kept with the measured costs, and it is not tried again.

        Args:
            inputs: Real inputs ``[B, ...]``, at least three. Only for images is it compiled.

        Returns:
            Whether the prefix is compiled.
        """
        key, prefixes = openvino_key(self.model, self.config, self.device), self.job.cache.prefixes
        if inputs.ndim < 4:  # code may decide by token ids what to compute, which tracing fixes
            return False
        if len(inputs) < 3 or self.job.measured_costs.get(key, {}).get("reason"):
            return False
        name = entry_name(
            {
                "backbone": [self.config["backbone"].name, dict(self.config["backbone"].params)],
                "input": [self.model.expects.describe(), self.model.head_input],
                "prefix": [self.split_point.name, self._weights_digest],
                "settings": [self.device.autocast, torch.get_num_threads()],
            }
        )
        if name not in prefixes:
            try:
                with eval_mode(self.model):
                    compiled = fast_inference.compile_forward(
                        self.split_point.prefix, self.model, inputs, self.device
                    )
            except fast_inference.NotCompiled as error:
                self.job.measured_costs[key] = {"reason": str(error)}
                self.job.cache.warn(f"{key.partition(',')[0]}: features take longer: {error}")
                return False
            self.job.cache.remember_prefix(name, compiled)
        prefixes.move_to_end(name)
        self._prefix = fast_inference.with_fallback(prefixes[name], self.split_point.prefix)
        return True

    def get_rows(self, batches: Batches, view: int | None) -> CachedRows | None:
        """Get the rows of the examples of ``batches`` from the cache, which computes missing ones.

        Args:
            batches: The examples.
            view: Number of the augmented view; None for the examples without augmentation.

        Returns:
            The rows; None if there is no space for them.
        """
        if self.augmentation.is_identity:
            view = None
        if (batches, view) in self._on_disk:
            return self._on_disk[batches, view]
        if (batches, view) not in self._entry_names:
            self._entry_names[batches, view] = self.name_entry(batches, view)
        name = self._entry_names[batches, view]
        mixed_view = view if self.augmentation.mixes else None

        def compute(missing: NDArray[np.int64]) -> Iterator[ComputedRows]:
            with eval_mode(self.model):
                if mixed_view is not None:
                    yield from self._compute_mixed(batches, missing, mixed_view)
                else:
                    yield from self._compute_single(batches, missing, view)

        device = self.device.torch_device
        check = mixed_view is None  # of mixed examples, whole batches would be computed again
        rows = self.job.cache.get_or_compute(
            name, batches.indices, compute, device, check=check, total_bytes=self.total_bytes
        )
        if rows and not rows.resident:
            self._on_disk[batches, view] = rows
        return rows

    def restore_dtype(self, activations: Activations) -> Activations:
        """Convert cached activations to the type that they were computed in."""
        return activations.to(self._dtype)

    def close(self) -> None:
        """Remove rows that no other job will use."""
        self._on_disk.clear()
        if self.temporary:
            self.job.cache.remove(self._entry_names.values())

    def name_entry(self, batches: Batches, view: int | None) -> str:
        """Name the cache entry: a digest of everything that its rows depend on."""
        backbone, augment = self.config["backbone"], self.config["augment"]
        device = self.device
        key: dict[str, object] = {
            "format": FORMAT,
            "versions": [_version("torch"), _version("timm")],
            "data": [batches.data_id or self.job.data_id, batches.packed.key],
            "backbone": [backbone.name, dict(backbone.params), *_identify_code(backbone)],
            "input": [self.model.expects.describe(), self.model.head_input],
            "split_point": self.split_point.name,
            "weights": self._weights_digest,
            "type": [device.torch_device.type, device.autocast, self._stored_dtype],
        }
        if device.tf32:  # it rounds to ten bits
            key["tf32"] = True
        if self.split_point.needs_input:
            key["with_input"] = True
        if view is not None:
            key["view"] = [view, augment.name, dict(augment.params), *_identify_code(augment)]
            key["torchvision"] = _version("torchvision")
            if self.augmentation.mixes:  # an example may be mixed with any of these
                indices_digest = hashlib.sha256(batches.indices.tobytes()).hexdigest()
                key["mixed"] = [indices_digest, batches.batch_size]
        return entry_name(key)

    def _compute(self, inputs: Tensor) -> Tensor:
        with torch.inference_mode(), cuda_kernels(self.device), autocast(self.device):
            return self._micro_batches.map(self._prefix, inputs)

    def _compute_rows(self, inputs: Tensor) -> Activations:
        """Compute activations in the type in which they are stored."""
        activations = self._compute(inputs).to(self._stored_dtype)
        return WithInputs(activations, inputs) if self.split_point.needs_input else activations

    def _compile_if_it_pays(self, inputs: Tensor, count: int) -> None:
        """Compile the prefix, unless it is, if ``count`` inputs like these are to be computed."""
        threshold = self.job.compute.openvino_from
        if self._prefix != self.split_point.prefix or not fast_inference.is_available(self.device):
            return
        pays = fast_inference.pays(count, inputs)
        if pays if threshold is None else count >= threshold > 0:
            self.compile_prefix(inputs)

    def _compute_single(
        self, batches: Batches, missing: NDArray[np.int64], view: int | None
    ) -> Iterator[ComputedRows]:
        """Compute the missing rows of examples that are augmented by themselves, or not at all."""
        missing_positions = np.flatnonzero(np.isin(batches.indices, missing))
        positions = split_for_inference(
            missing_positions, batches, self.job.compute.inference_factor
        )
        for batch, (inputs, _) in zip(positions, batches.load(positions), strict=True):
            self.job.check_time()
            self._compile_if_it_pays(inputs, len(missing))
            indices = batches.indices[batch]
            if view is not None:
                inputs = self.augmentation.make_view(inputs, indices, view)
            yield indices, self._compute_rows(inputs), None

    def _compute_mixed(
        self, batches: Batches, missing: NDArray[np.int64], view: int
    ) -> Iterator[ComputedRows]:
        """Compute the rows of batches of mixed examples in which a row is missing."""
        # Examples are mixed with others of their batch, and data sets are often sorted by class.
        positions = batches.shuffled_indices(view)
        loaded = zip(positions, batches.load(positions), strict=True)
        device = self.device.torch_device
        for number, (batch, (inputs, labels)) in enumerate(loaded):
            indices = batches.indices[batch]
            if not np.isin(indices, missing).any():
                continue
            self.job.check_time()
            self._compile_if_it_pays(inputs, len(missing))
            with torch_seeded(device, view, number):
                inputs, targets = self.augmentation(inputs, labels)
            yield indices, self._compute_rows(inputs), targets

    @cached_property
    def _weights_digest(self) -> str:
        return prefix_weights_digest(self.model, self.split_point)


def prefix_weights_digest(model: Model, split_point: SplitPoint) -> str:
    """A digest of the tensors that the layers before a split point compute with.

    A buffer counts as one of them unless its module has parameters, all of them after the split
    point.
    """
    digest = hashlib.sha256()
    for path, module in model.backbone.named_modules():
        own = dict(module.named_parameters(recurse=False))
        prefix = {name: p for name, p in own.items() if id(p) in split_point.prefix_parameters}
        buffers = dict(module.named_buffers(recurse=False)) if prefix or not own else {}
        for name, tensor in (prefix | buffers).items():
            content = tensor.detach().cpu().contiguous()
            digest.update(f"{path}.{name} {content.dtype} {list(content.shape)}".encode())
            digest.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


_version = cache(version)  # it reads files


def _identify_code(choice: Choice) -> tuple[str, dict[str, str]]:
    """The source of a plugin and the versions of its libraries."""
    return source_digest(choice.plugin.function.__module__), library_versions(choice.plugin)


@contextmanager
def eval_mode(model: Model) -> Iterator[None]:
    """Put the model in eval mode, and back in train mode at the end if it was in that."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
