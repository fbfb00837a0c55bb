"""How fast cached rows are read from where they may be, measured once for each process."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from autotl.data import device_memory

SHAPE = (2048, 4096)
"""The number of rows that are read to measure the speed, and their bytes."""

DISK_BYTES = 8 << 20
"""Bytes of a file that are read to measure the speed."""


@cache
def gathering_seconds_per_byte(device: torch.device) -> float:
    """Seconds to copy a byte of rows in random order, on the device that they are on."""
    rows = torch.zeros(SHAPE, dtype=torch.uint8, device=device)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(rows))).to(device)
    return _time_second_call(lambda: rows.index_select(0, order), device) / rows.nbytes


@cache
def copying_seconds_per_byte(device: torch.device) -> float:
    """Seconds to copy a byte from memory to the device; 0 if that is the CPU."""
    if device.type == "cpu":
        return 0.0
    rows = device_memory.host_buffer(SHAPE, device).zero_()
    return _time_second_call(lambda: rows.to(device, non_blocking=True), device) / rows.nbytes


@cache
def disk_seconds_per_byte(folder: Path) -> float:
    """Seconds to read a byte of a file in a folder that is not in the system's page cache."""
    content = np.random.default_rng(0).bytes(DISK_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began = time.perf_counter()
            file.read()
            return (time.perf_counter() - began) / len(content)
    except OSError:
        return float("inf")


def _time_second_call(function: Callable[[], object], device: torch.device) -> float:
    """Measure the seconds of the second call of a function; the first one warms up."""
    for _ in range(2):
        device_memory.synchronize(device)
        began = time.perf_counter()
        function()
        device_memory.synchronize(device)
    return time.perf_counter() - began
