"""Settings of the computation that are chosen by measurement, and the key of measurements."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autotl.errors import is_machine_fault
from autotl.models import Device, Model
from autotl.space.space import Config
from autotl.training.memory import is_out_of_memory

COMPILE_SECONDS = 120.0
"""Maximum seconds that compiling takes for one shape of batches."""

MAX_SHAPES = 4
"""The maximum number of shapes that a function is compiled for. The batches of a training have two
sizes, because they are nearly equal; with micro-batches there may be two more."""


@dataclass(frozen=True)
class ComputeSettings:
    """The settings that ``measure_cost`` measured to be fastest.

    Plain values: a study stores them with its trials, to compute in the same way when it resumes.

    Attributes:
        autocast: Use autocast, in the type that the device is expected to be fastest in.
        cache_activations: Cache the activations of frozen layers where there is space.
        compile: Compile the backbone with ``torch.compile``, in the epochs of the last phase of the
            strategy.
        cudnn_benchmark: Let cuDNN time its algorithms and take the fastest.
        inference_factor: Number of training batches that are computed at once in inference; None
            for as many as usually pay on the device.
        openvino_from: Number of images from which on frozen layers run with OpenVINO, where it is
            installed; 0 for never, None for as many as are expected to pay on any CPU.
    """

    autocast: bool = True
    cache_activations: bool = True
    compile: bool = False
    cudnn_benchmark: bool = False
    inference_factor: int | None = None
    openvino_from: int | None = None

    def apply_to(self, device: Device) -> Device:
        """The device, without its autocast type if autocast is off."""
        return device if self.autocast else replace(device, autocast=None)


def cost_key(model: Model, config: Config, device: Device) -> str:
    """Return a key of everything that memory and speed depend on.

    These are the backbone, the image size, the head's input, the device, and the names and shapes
    of the trainable parameters.
    """
    backbone = config["backbone"]
    trainable = [f"{n} {list(p.shape)}" for n, p in model.named_parameters() if p.requires_grad]
    digest = hashlib.sha256("\n".join(trainable).encode()).hexdigest()[:12]
    values = "".join(f" {k}={v}" for k, v in sorted(backbone.params.items()))
    size, head_input = model.input_spec.size, model.head_input
    return f"{backbone.name}{values}, {size} px, {head_input}, {device}, {digest}"


def openvino_key(model: Model, config: Config, device: Device) -> str:
    """Return the key of what was found out about OpenVINO for a backbone at an image size."""
    return f"{cost_key(model, config, device).rpartition(', ')[0]}, openvino"


def compile_or_fall_back(
    function: Callable[[Tensor], Tensor], deadline: float | None = None
) -> Callable[[Tensor], Tensor]:
    """Compile a function for each shape of its batches, up to ``MAX_SHAPES``.

    Batches of further shapes are computed uncompiled, and all batches from the first failure of the
    compiled function on. It is compiled for static shapes, which is faster than for any shape.

    Args:
        function: The function.
        deadline: The reading of ``time.monotonic()`` at which it must be compiled.
    """
    compiled: Callable[[Tensor], Tensor] | None = torch.compile(function, dynamic=False)
    shapes: set[tuple[object, ...]] = set()

    def may_compile() -> bool:
        in_time = deadline is None or time.monotonic() + COMPILE_SECONDS <= deadline
        return in_time and len(shapes) < MAX_SHAPES

    def call(batch: Tensor) -> Tensor:
        nonlocal compiled
        # It is compiled again where any of these changes.
        shape = (batch.shape, batch.stride(), batch.dtype, torch.is_grad_enabled())
        if compiled is None or (shape not in shapes and not may_compile()):
            return function(batch)
        shapes.add(shape)
        try:
            return compiled(batch)
        except Exception as error:  # compilers fail in many ways; training must not
            if is_out_of_memory(error) or is_machine_fault(error):
                raise
            compiled = None
        return function(batch)

    return call
