"""What is on which simulated GPU, which copies are on their way, and what has waited."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

CPU = torch.device("cpu")

REPORTED_BYTES = 8 << 30
"""The memory of a GPU whose memory is not limited."""


@dataclass
class LateCopy:
    """A copy that has begun, and is completed when something waits for it.

    Attributes:
        target: What is copied to.
        source: What is copied from.
        to_host: Whether the target is in memory, where its readers do not wait by themselves.
    """

    target: Tensor
    source: Tensor
    to_host: bool


@dataclass
class Caller(threading.local):
    """The GPU of the tensors that PyTorch was called with from Python, in each thread.

    Functions of PyTorch that consist of operations make tensors on the device of their arguments,
    which is the CPU to them.
    """

    gpu: torch.device | None = None


@dataclass
class Simulation:
    """The simulated GPUs of this process.

    Attributes:
        limit: Bytes of the memory of each GPU; None for more than tests need.
        count: The number of GPUs.
        capability: Their compute capability.
        current: Number of the current one.
        waits: How often the CPU has waited for a GPU, by the reason.
        waiting_is_an_error: Whether it must not, see ``torch.cuda.set_sync_debug_mode``.
        random_state: That of the generator of the GPUs.
        peak_bytes: The most that was allocated, if the memory is limited.
    """

    limit: int | None = None
    count: int = 1
    capability: tuple[int, int] = (8, 0)
    current: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    waiting_is_an_error: bool = False
    random_state: Tensor = field(default_factory=lambda: torch.Generator().get_state())
    peak_bytes: int = 0
    caller: Caller = field(default_factory=Caller)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _on_gpu: dict[int, tuple[StorageWeakRef, torch.device]] = field(default_factory=dict)
    _pinned: dict[int, StorageWeakRef] = field(default_factory=dict)
    _late: dict[int, LateCopy] = field(default_factory=dict)

    # The devices of tensors. A weak reference keeps the address of a storage from being used again.

    def device_of(self, tensor: Tensor) -> torch.device:
        """The device that a tensor is on."""
        key = storage_key(tensor)
        if key in self._on_gpu:
            return self._on_gpu[key][1]
        with torch._C.DisableTorchFunction():
            return tensor.device

    def put(self, tensor: Tensor, device: torch.device, pinned: bool = False) -> None:
        """Note that a new tensor is on a device."""
        key = storage_key(tensor)
        if key is None:
            return
        reference = StorageWeakRef(tensor.untyped_storage())
        with self.lock:
            self._on_gpu.pop(key, None)
            self._pinned.pop(key, None)
            if device.type == "cuda":
                self._on_gpu[key] = reference, self.numbered(device)
            elif pinned:
                self._pinned[key] = reference
        if device.type == "cuda" and self.limit is not None:
            self.peak_bytes = max(self.peak_bytes, self.allocated_bytes(device))

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor is in pinned memory."""
        return storage_key(tensor) in self._pinned

    def numbered(self, device: torch.device) -> torch.device:
        """The device, a GPU with its number."""
        if device.type != "cuda" or device.index is not None:
            return device
        return torch.device("cuda", self.current)

    @contextmanager
    def called_with(self, gpu: torch.device | None) -> Iterator[None]:
        """Let ``caller`` have this GPU."""
        before = self.caller.gpu
        self.caller.gpu = gpu
        try:
            yield
        finally:
            self.caller.gpu = before

    # Memory.

    @property
    def total_bytes(self) -> int:
        """Bytes of the memory of each GPU."""
        return REPORTED_BYTES if self.limit is None else self.limit

    def allocated_bytes(self, device: torch.device) -> int:
        """Bytes of the tensors on a GPU."""
        device = self.numbered(device)
        with self.lock:
            for key in [key for key, (ref, _) in self._on_gpu.items() if ref.expired()]:
                del self._on_gpu[key]
            alive = [ref for ref, where in self._on_gpu.values() if where == device]
        storages = (torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for ref in alive)
        return sum(storage.nbytes() for storage in storages if storage is not None)

    def reserve(self, nbytes: int, device: torch.device) -> None:
        """Raise ``OutOfMemoryError`` if so many bytes are not free."""
        free = self.total_bytes
        if self.limit is not None:
            free -= self.allocated_bytes(device)
        if nbytes > free:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {nbytes} bytes. Of the "
                f"{self.total_bytes} bytes of the GPU {free} are free."
            )

    # Waiting.

    def wait(self, reason: str) -> None:
        """Let the CPU wait for the GPUs."""
        self.waits[reason] += 1
        if self.waiting_is_an_error:
            raise RuntimeError(f"called a synchronizing CUDA operation: {reason}")
        with self.lock:
            for key in list(self._late):
                self._complete(key)

    def copy_late(self, target: Tensor, source: Tensor, to_host: bool) -> None:
        """Begin to copy; until that is complete, the target has other numbers."""
        key = storage_key(target)
        assert key is not None
        with self.lock:
            if key in self._late:
                self._complete(key)
            # What is on a GPU is read in the order of its stream, what is in memory is read late.
            source = source.clone() if to_host else source.detach()
            target.detach().fill_(float("nan") if target.is_floating_point() else 0)
            self._late[key] = LateCopy(target.detach(), source, to_host)

    def read_on_gpu(self, *tensors: Tensor) -> None:
        """Complete copies to tensors on a GPU, which an operation on it comes after."""
        with self.lock:
            for tensor in tensors:
                key = storage_key(tensor)
                if key in self._late and not self._late[key].to_host:
                    self._complete(key)

    def _complete(self, key: int) -> None:
        copy = self._late.pop(key)
        copy.target.copy_(copy.source)


def storage_key(tensor: Tensor) -> int | None:
    """The address of the storage of a tensor; None for a sparse one."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def leaves(*values: Any) -> Iterator[Any]:
    """All values inside of tuples, lists and dictionaries."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from leaves(*value)
        elif isinstance(value, dict):
            yield from leaves(*value.values())
        else:
            yield value


def tensors_in(*values: Any) -> list[Tensor]:
    """All tensors inside of tuples, lists and dictionaries."""
    return [value for value in leaves(*values) if isinstance(value, Tensor)]
