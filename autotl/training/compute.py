"""How a trial computes, where that is chosen by a measurement, and what is known by its key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autotl.models import Device, Model
from autotl.space.space import Config
from autotl.training.predict import is_out_of_memory


@dataclass(frozen=True)
class ComputeSettings:
    """What ``measure`` found fastest. Plain values, so that a study keeps them and goes on so."""

    half: bool = True  # compute in the type that the device is said to be fastest in
    keep: bool = True  # keep what frozen parts compute, where there is room
    compiled: bool = False  # compile the training of the whole model

    def where(self, device: Device) -> Device:
        """The device with the type to compute in."""
        return device if self.half else Device(device.device, None)


def key(model: Model, config: Config, where: Device) -> str:
    """What decides memory and speed: backbone, size, device and which parameters learn."""
    backbone = config["backbone"]
    learning = [f"{n} {list(p.shape)}" for n, p in model.named_parameters() if p.requires_grad]
    digest = hashlib.sha256("\n".join(learning).encode()).hexdigest()[:12]
    values = "".join(f" {k}={v}" for k, v in sorted(backbone.params.items()))
    return f"{backbone.name}{values}, {model.expects.size} px, {model.takes}, {where}, {digest}"


def compiled(work: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``work`` compiled, or as it is from the moment that this fails."""
    chosen: Callable[[Tensor], Tensor] = torch.compile(work)

    def call(batch: Tensor) -> Tensor:
        nonlocal chosen
        try:
            return chosen(batch)
        except Exception as error:  # compilers fail in many ways; training must not
            if chosen is work or is_out_of_memory(error):
                raise
            chosen = work
            return work(batch)

    return call
