"""Selecting a device and its precision."""

from __future__ import annotations

import pytest
import torch
from toy import CPU

from autotl.errors import StudyError
from autotl.models import Device, select_device


def test_a_device_is_selected_by_its_name() -> None:
    bfloat16 = select_device("cpu", "bfloat16")
    assert select_device("cpu", "float32") == CPU == Device(torch.device("cpu"), None)
    assert torch.device("cpu") == bfloat16.torch_device
    assert torch.bfloat16 is bfloat16.autocast
    assert str(CPU) == "cpu, float32"
    assert str(bfloat16) == "cpu, bfloat16"
    assert select_device("cpu", "auto").autocast in (None, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "built", "gpus", "says"),
    [
        ("cuda", False, 0, "cuda is not available: PyTorch .* was installed without CUDA"),
        ("cuda:1", True, 0, "cuda:1 is not available: PyTorch finds no NVIDIA GPU"),
        ("cuda:1", True, 1, "cuda:1 is not available: this machine has cuda:0;"),
        ("cuda:7", True, 4, "cuda:7 is not available: this machine has cuda:0 to cuda:3;"),
        ("mps", False, 0, "mps is not available: it needs a Mac .* --device cpu"),
    ],
)
def test_a_device_that_the_machine_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, built: bool, gpus: int, says: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8" if built else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(StudyError, match=says):
        select_device(name)


def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Fake")


@pytest.mark.parametrize(
    ("capability", "precision", "expected"),
    [
        ((9, 0), "auto", "cuda:0, bfloat16 with TF32"),  # H100
        ((8, 0), "auto", "cuda:0, bfloat16 with TF32"),  # A100
        ((7, 5), "auto", "cuda:0, float16"),  # T4
        ((7, 0), "auto", "cuda:0, float16"),  # V100
        ((6, 1), "auto", "cuda:0, float32"),  # GTX 1080, slow in float16
        ((8, 0), "float32", "cuda:0, float32"),
        ((8, 0), "tf32", "cuda:0, float32 with TF32"),
        ((8, 0), "bfloat16", "cuda:0, bfloat16 with TF32"),
        ((8, 0), "float16", "cuda:0, float16 with TF32"),
        ((7, 5), "float32", "cuda:0, float32"),
        ((7, 5), "bfloat16", "cuda:0, bfloat16"),
    ],
)
def test_the_precision_is_what_the_gpu_computes_in(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str, expected: str
) -> None:
    fake_gpu(monkeypatch, capability)
    device = select_device("auto", precision)
    assert str(device) == expected.replace("cuda:0", "cuda:0 (Fake)")
    assert select_device("cuda:1", precision).torch_device == torch.device("cuda:1")
    assert select_device("auto", device.precision) == device  # so that a study can name it
    if precision != "auto":
        assert device.precision == precision


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "cuda"):
        fake_gpu(monkeypatch, (7, 5))
        with pytest.raises(StudyError, match=f"{name}.* cannot compute in tf32: .* 8.0 or more"):
            select_device(name, "tf32")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(StudyError, match=r"mps cannot train in float16; .* --precision bfloat16"):
        select_device("mps", "float16")


def test_the_cpu_has_float16_if_it_is_asked_for_and_mps_is_left_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = select_device("cpu", "float16")
    assert (device.autocast, device.tf32, str(device)) == (torch.float16, False, "cpu, float16")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("mps") == Device(torch.device("mps"), None)
    assert select_device("mps", "bfloat16").autocast == torch.bfloat16


def test_devices_of_one_kind_are_equally_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["H100", "H100", "T4"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    first, second, other = (Device(torch.device("cuda", i), torch.bfloat16) for i in range(3))
    assert first.kind == second.kind == "H100, bfloat16" != other.kind
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert Device(torch.device("cpu"), None).kind == "cpu with 4 threads, float32"
