"""Selecting a device and its precision."""

from __future__ import annotations

import torch
from toy import CPU

from autotl.models import Device, select_device


def test_a_device_is_selected_by_its_name() -> None:
    bfloat16 = select_device("cpu", "bfloat16")
    assert select_device("cpu", "float32") == CPU == Device(torch.device("cpu"), None)
    assert torch.device("cpu") == bfloat16.torch_device
    assert torch.bfloat16 is bfloat16.autocast
    assert str(CPU) == "cpu, float32"
    assert str(bfloat16) == "cpu, bfloat16"
    assert select_device("cpu", "auto").autocast in (None, torch.bfloat16)
