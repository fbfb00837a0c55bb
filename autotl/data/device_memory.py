"""What is asked of a device about its memory, and copies to it.

Everything here depends on the hardware. The rules about what is resident are in ``resident``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path("/")

CONTAINER_FILES = (
    (
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory.current",
        "sys/fs/cgroup/memory.stat",
        "inactive_file",
    ),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)
"""The files with a container's limit, what is used of it, and what of that is a cache of files, of
control groups of versions 2 and 1, as Docker, Kubernetes and SLURM set them."""

OUT_OF_MEMORY_MESSAGES = (
    "out of memory",  # CUDA, "CUDA error: out of memory", HIP, XPU and "MPS backend out of memory"
    "can't allocate memory",  # the CPU
    "not enough memory",  # the CPU on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # no memory for its handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    # What cuDNN says where no algorithm has memory for its workspace.
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
    "NVML_SUCCESS ==",  # an assertion of PyTorch's allocator, as it writes the message
)
"""Parts of the messages of errors that mean that memory ran out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(part in text for part in OUT_OF_MEMORY_MESSAGES)


def canonical(device: torch.device) -> torch.device:
    """The device with its number: ``cuda`` is the current GPU."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def free_bytes(device: torch.device) -> int:
    """Bytes that new data may take on the device now, whichever process takes the others.

    Returns:
        0 where data are not kept on a device: on the CPU they are in memory already, and an Apple
        GPU shares its memory with the CPU.
    """
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch has reserved and does not use is free too.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def available_ram() -> int:
    """Bytes of memory that are available on this machine, or in this container if that has less.

    Returns:
        0 if the system does not say.
    """
    available = 0
    with suppress(OSError, ValueError, IndexError):
        for line in (ROOT / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    limits = [left for files in CONTAINER_FILES if (left := _left_in_container(*files)) is not None]
    return min([available, *limits]) if available else 0


def _left_in_container(limit: str, used: str, statistics: str, reclaimable: str) -> int | None:
    """Bytes up to the limit of a container; None without a limit."""
    with suppress(OSError, ValueError):  # "max" is no number
        left = int((ROOT / limit).read_text("ascii")) - int((ROOT / used).read_text("ascii"))
        for line in (ROOT / statistics).read_text("ascii").splitlines():
            name, value = line.split()
            if (
                name == reclaimable
            ):  # pages of files, which the system gives up when they are needed
                left += int(value)
        return max(0, left)
    return None


def empty_cache(device: torch.device) -> None:
    """Give the memory that PyTorch has reserved and does not use back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until everything has been computed that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def copies_ahead(device: torch.device) -> bool:
    """Whether data are copied to the device while it computes, from pinned memory."""
    return device.type == "cuda"


def host_buffer(
    shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.uint8
) -> Tensor:
    """An empty tensor in memory, pinned if the device copies from pinned memory.

    PyTorch gives pinned memory to another tensor only when copies from it are complete.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


@cache
def _copy_stream(device: torch.device) -> Any:
    cuda: Any = torch.cuda
    return cuda.Stream(device)


def copy_ahead(buffer: Tensor, device: torch.device) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the device, at the same time as the device computes.

    Args:
        buffer: From ``host_buffer``.
        device: The device.

    Returns:
        A function that returns the copy, to be called where it is used. It does not wait; the
        device waits for the copy before it computes with it.
    """
    if device.type != "cuda":
        return lambda: buffer.to(device)
    stream = _copy_stream(canonical(device))
    with torch.cuda.stream(stream):
        copied = buffer.to(device, non_blocking=True)
    complete = stream.record_event()

    def use() -> Tensor:
        current = torch.cuda.current_stream(device)
        current.wait_event(complete)
        copied.record_stream(current)  # its memory is not given away while that still computes
        return copied

    return use
