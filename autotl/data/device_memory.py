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


def total_bytes(device: torch.device) -> int:
    """Bytes of the device's memory; 0 where data are not kept on a device, see ``free_bytes``."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def available_ram() -> int:
    """Bytes of the machine's memory that are available; 0 if the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


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
