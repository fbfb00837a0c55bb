"""Settings of the computation that are chosen by measurement, and the key of measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autotl.models import Device, Model
from autotl.space.space import Config
from autotl.training.memory import is_out_of_memory


@dataclass(frozen=True)
class ComputeSettings:
    """The settings that ``measure_cost`` measured to be fastest.

    Plain values: a study stores them with its trials, to compute in the same way when it resumes.

    Attributes:
        autocast: Use autocast, in the type that the device is expected to be fastest in.
        cache_activations: Cache the activations of frozen layers where there is space.
        compile: Compile the backbone with ``torch.compile``.
        openvino_from: Number of images from which on frozen layers run with OpenVINO, where it is
            installed; 0 for never, None for as many as are expected to pay on any CPU.
    """

    autocast: bool = True
    cache_activations: bool = True
    compile: bool = False
    openvino_from: int | None = None

    def apply_to(self, device: Device) -> Device:
        """The device, without its autocast type if autocast is off."""
        return device if self.autocast else Device(device.torch_device, None)


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


def compile_or_fall_back(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Compile a function; use it uncompiled from the first failure of the compiled one on."""
    current: Callable[[Tensor], Tensor] = torch.compile(function)

    def call(batch: Tensor) -> Tensor:
        nonlocal current
        try:
            return current(batch)
        except Exception as error:  # compilers fail in many ways; training must not
            if current is function or is_out_of_memory(error):
                raise
            current = function
            return function(batch)

    return call
