"""The device that a network runs on, and the precision it computes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autotl.errors import StudyError

AMPERE = (8, 0)
"""The compute capability of NVIDIA GPUs from which on they compute in bfloat16 and TF32."""

VOLTA = (7, 0)
"""That from which on they compute faster in float16. Older ones are up to 64 times slower in it."""

CUDA_TYPES = ((AMPERE, torch.bfloat16), (VOLTA, torch.float16))
"""The 16-bit type that is faster than float32, by the lowest compute capability."""


@dataclass(frozen=True)
class Device:
    """A torch device and the types that are computed in on it.

    Attributes:
        torch_device: The device.
        autocast: The type of autocast; None computes in float32 without autocast.
        tf32: Whether float32 products of matrices and convolutions are computed in TensorFloat-32,
            which has the range of float32 and the precision of float16; on CUDA only.
    """

    torch_device: torch.device
    autocast: torch.dtype | None
    tf32: bool = False

    @property
    def precision(self) -> str:
        """The value of the option ``precision`` with which ``select_device`` returns this."""
        if self.autocast is None:
            return "tf32" if self.tf32 else "float32"
        return str(self.autocast).removeprefix("torch.")

    @property
    def kind(self) -> str:
        """What its speed depends on, such as the name of a GPU, which other devices may have."""
        kind = self.torch_device.type
        if kind == "cuda":
            kind = torch.cuda.get_device_name(self.torch_device)
        elif kind == "cpu":
            kind = f"cpu with {torch.get_num_threads()} threads"
        return f"{kind}, {self.precision}"

    def __str__(self) -> str:
        """``cpu, bfloat16``; on a GPU its name, and whether the rest is in TF32."""
        name = str(self.torch_device)
        if self.torch_device.type == "cuda":
            name = f"{name} ({torch.cuda.get_device_name(self.torch_device)})"
        computed = str(self.autocast or torch.float32).removeprefix("torch.")
        return f"{name}, {computed}{' with TF32' if self.tf32 else ''}"


def select_device(name: str = "auto", precision: str = "auto") -> Device:
    """Select a device and its precision.

    Args:
        name: A torch device such as ``cuda:1``; ``auto`` takes CUDA, then Apple's MPS, then the
            CPU, whichever is available first.
        precision: ``float32``, ``tf32``, ``bfloat16``, ``float16`` or ``auto``, which takes the
            16-bit type that the hardware computes in: bfloat16, or float16 on an NVIDIA GPU from
            compute capability 7.0 to 7.5. That is read from the hardware, not timed, so that a run
            can be repeated. With any of them but ``float32``, what remains in float32 is computed
            in TF32 where the GPU has it.

    Returns:
        The device and the types to compute in.

    Raises:
        StudyError: This machine, or this build of PyTorch, does not have the device, or the device
            cannot train in this precision.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    device = torch.device(name)
    _require(device)
    if device.type == "cuda" and device.index is None:
        # The current one; other threads have another.
        device = torch.device("cuda", torch.cuda.current_device())
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE
    if precision == "tf32" and not has_tf32:
        raise StudyError(
            f"{device} cannot compute in tf32: it needs an NVIDIA GPU of compute capability 8.0 or "
            "more; leave --precision out, or give --precision float32"
        )
    if precision == "float16" and device.type == "mps":  # its gradients cannot be scaled
        raise StudyError(
            "mps cannot train in float16; leave --precision out, or give --precision bfloat16"
        )
    if precision == "auto":
        autocast = _find_16_bit_type(device)
    else:
        autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return Device(device, autocast, tf32=has_tf32 and precision != "float32")


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


def _find_16_bit_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that the hardware has instructions for; None if it is slow in all."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return next((t for least, t in CUDA_TYPES if capability >= least), None)
    # Older versions of torch cannot read the CPU's capabilities; float32 is used with them.
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if device.type == "cpu" and has_bfloat16 else None


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use (``CUDA_VISIBLE_DEVICES``)."""
    return torch.cuda.device_count()


def limit_threads(count: int) -> None:
    """Let operations on the CPU use so many threads in this process."""
    torch.set_num_threads(count)
