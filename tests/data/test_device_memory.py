"""What a CPU answers, and what is asked of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autotl.data import device_memory

CPU, GPU, MPS = torch.device("cpu"), torch.device("cuda:1"), torch.device("mps")


def test_a_cpu_keeps_nothing_and_copies_nothing_ahead() -> None:
    assert device_memory.free_bytes(CPU) == 0
    assert not device_memory.copies_ahead(CPU)
    assert device_memory.canonical(CPU) == CPU
    device_memory.empty_cache(CPU)
    device_memory.synchronize(CPU)
    buffer = device_memory.host_buffer((2, 3), CPU)
    assert (buffer.dtype, buffer.shape, buffer.is_pinned()) == (torch.uint8, (2, 3), False)
    assert device_memory.copy_ahead(buffer, CPU)() is buffer


def test_what_pytorch_reserves_without_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (asked.append(d), (100, 1000))[1])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda d: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: 30)
    assert device_memory.free_bytes(GPU) == 140
    assert asked == [GPU]


def test_the_device_that_ran_out_gives_its_cache_back(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    for device in (GPU, MPS, CPU):
        device_memory.empty_cache(device)
    assert emptied == ["cuda", "mps"]


def test_the_gpu_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert device_memory.canonical(torch.device("cuda")) == torch.device("cuda:3")
    assert device_memory.canonical(GPU) == GPU


def test_available_memory_is_read_from_the_system() -> None:
    assert 0 <= device_memory.available_ram() < 1 << 50


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("anything"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            True,
        ),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("the file is out of memory"), False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.4 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("no"), False),
    ],
    ids=str,
)
def test_errors_that_mean_that_memory_ran_out_are_recognised(
    error: Exception, expected: bool
) -> None:
    assert device_memory.is_out_of_memory(error) == expected


def test_the_errors_of_torch_are_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert device_memory.is_out_of_memory(raised.value)
