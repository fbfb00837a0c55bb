"""A CPU that answers like a GPU when it is asked about its memory."""

from __future__ import annotations

import weakref

import pytest
import torch

from autotl.data import device_memory, resident

CPU = torch.device("cpu")


class FakeGpu:
    """The CPU, with memory of its own for resident data, to which data are copied ahead.

    Attributes:
        memory: Bytes that no other process and no model takes.
        ram: Bytes of the machine's memory that are available.
        emptied: Number of times that PyTorch's unused memory was given back.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory: int, ram: int = 1 << 40) -> None:
        self.memory, self.ram, self.emptied = memory, ram, 0
        monkeypatch.setattr(resident, "_tensors", weakref.WeakSet())
        monkeypatch.setattr(resident, "_fractions", {})
        monkeypatch.setattr(device_memory, "free_bytes", self.free_bytes)
        monkeypatch.setattr(device_memory, "available_ram", lambda: self.ram)
        monkeypatch.setattr(device_memory, "copies_ahead", lambda device: True)
        monkeypatch.setattr(device_memory, "empty_cache", self.empty_cache)

    def free_bytes(self, device: torch.device) -> int:
        return max(0, self.memory - resident.resident_bytes(device))

    def empty_cache(self, device: torch.device) -> None:
        self.emptied += 1
