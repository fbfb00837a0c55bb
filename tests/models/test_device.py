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
