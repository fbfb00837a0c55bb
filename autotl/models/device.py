"""The device that a network runs on, and the precision it computes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autotl.errors import StudyError


@dataclass(frozen=True)
class Device:
    """A torch device and the type that autocast uses on it.

    Attributes:
        torch_device: The device.
        autocast: The type of autocast; None computes in float32 without autocast.
    """

    torch_device: torch.device
    autocast: torch.dtype | None

    def __str__(self) -> str:
        """``cpu, bfloat16``, or the name of the GPU and its type."""
        name = str(self.torch_device)
        if self.torch_device.type == "cuda":
            name = f"{name} ({torch.cuda.get_device_name(self.torch_device)})"
        return f"{name}, {str(self.autocast or torch.float32).removeprefix('torch.')}"


def select_device(name: str = "auto", precision: str = "auto") -> Device:
    """Select a device and its precision.

    Args:
        name: A torch device such as ``cuda:1``; ``auto`` takes CUDA, then Apple's MPS, then the
            CPU, whichever is available first.
        precision: ``float32``, ``bfloat16`` or ``auto``, which takes bfloat16 where the hardware
            computes in it. That is read from the hardware, not timed, so that a run can be
            repeated.

    Returns:
        The device and the type for autocast.

    Raises:
        StudyError: This machine, or this build of PyTorch, does not have the device.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    device = torch.device(name)
    _require(device)
    bfloat16 = _computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return Device(device, torch.bfloat16 if bfloat16 else None)


def _require(device: torch.device) -> None:
    """Check that a device can be used, before anything is computed on it."""
    problem = ""
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count and not torch.version.cuda:
            problem = f"PyTorch {torch.__version__} was installed without CUDA"
        elif not count:
            problem = "PyTorch finds no NVIDIA GPU and driver"
        elif (device.index or 0) >= count:
            last = f" to cuda:{count - 1}" if count > 1 else ""
            problem = f"this machine has cuda:0{last}"
    elif device.type == "mps" and not torch.backends.mps.is_available():
        problem = "it needs a Mac with an Apple GPU"
    if problem:
        raise StudyError(
            f"the device {device} is not available: {problem}; leave --device out, or give "
            "--device cpu"
        )


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Older versions of torch cannot read the CPU's capabilities; float32 is used with them.
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )
