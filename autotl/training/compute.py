"""Settings of the computation that are chosen by measurement, and the key of measurements."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autotl.data import ImageInput, device_memory
from autotl.errors import TrialStopped, free_frames, is_machine_fault
from autotl.models import Device, Model
from autotl.space.space import Config

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

    These are the backbone, the input size, the head's input, the kind of the device, the names and
    shapes of the trainable parameters, and what is done with unlabelled examples.
    """
    backbone = config["backbone"]
    trainable = [f"{n} {list(p.shape)}" for n, p in model.named_parameters() if p.requires_grad]
    if choice := config.get("unlabelled"):  # its examples are in the same batch
        counts = {k: v for k, v in choice.params.items() if not isinstance(v, float)}
        trainable.append(f"{choice.name} {counts}")
    digest = hashlib.sha256("\n".join(trainable).encode()).hexdigest()[:12]
    values = "".join(f" {k}={v}" for k, v in sorted(backbone.params.items()))
    size, head_input = model.expects.size, model.head_input
    unit = "px" if isinstance(model.expects, ImageInput) else model.expects.kind
    return f"{backbone.name}{values}, {size} {unit}, {head_input}, {device.kind}, {digest}"


def openvino_key(model: Model, config: Config, device: Device) -> str:
    """Return the key of what was found out about OpenVINO for a backbone at an image size."""
    return f"{cost_key(model, config, device).rpartition(', ')[0]}, openvino"


class CompiledFunction:
    """A function that is compiled for each shape of its batches, up to ``MAX_SHAPES``.

    Batches of further shapes are computed uncompiled, and all batches from the first failure of the
    compiled function on. It is compiled for static shapes, which is faster than for any shape.

    Args:
        function: The function.
        deadline: The reading of ``time.monotonic()`` at which it must be compiled.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], deadline: float | None = None) -> None:
        def call(batch: Tensor) -> Tensor:
            return function(batch)

        # Dynamo compiles a code object a few times at most, and all models share that of Model.
        call.__code__ = call.__code__.replace()
        self._function, self._deadline = function, deadline
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(call, dynamic=False)
        self._shapes: set[tuple[object, ...]] = set()

    def __call__(self, batch: Tensor) -> Tensor:
        """Compute the function of a batch."""
        # It is compiled again where any of these changes.
        shape = (batch.shape, batch.stride(), batch.dtype, torch.is_grad_enabled())
        if self._compiled is None or (shape not in self._shapes and not self._may_compile()):
            return self._function(batch)
        self._shapes.add(shape)
        try:
            return self._compiled(batch)
        except Exception as error:  # compilers fail in many ways; training must not
            if not self.give_up(error):
                raise
        return self._function(batch)

    def give_up(self, error: Exception) -> bool:
        """After an error, compute uncompiled from now on; return whether that may help.

        The backward pass is compiled when it is first computed, outside of this object.
        """
        is_compiler_fault = not (
            isinstance(error, TrialStopped)  # such as an ``OutOfMemory`` of the training
            or device_memory.is_out_of_memory(error)
            or is_machine_fault(error)
        )
        if self._compiled is None or not is_compiler_fault:
            return False
        self._compiled = None
        free_frames(error)  # the failed graph must not take memory
        return True

    def _may_compile(self) -> bool:
        in_time = self._deadline is None or time.monotonic() + COMPILE_SECONDS <= self._deadline
        return in_time and len(self._shapes) < MAX_SHAPES
