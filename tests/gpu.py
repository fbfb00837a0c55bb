"""The device of the tests that need a GPU."""

from __future__ import annotations

import os

import torch

_CHOICE = os.environ.get("AUTOTL_GPU_TESTS", "cuda")
SIMULATED = _CHOICE == "simulated"
GPU = "cuda" if SIMULATED else _CHOICE
"""Type of the device: ``cuda``, or another one to test the tests themselves."""

MISSING = GPU == "cuda" and not SIMULATED and not torch.cuda.is_available()
