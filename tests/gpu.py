"""The device of the tests that need a GPU."""

from __future__ import annotations

import os

import torch

GPU = os.environ.get("AUTOTL_GPU_TESTS", "cuda")
"""Type of the device: ``cuda``, or another one to test the tests themselves."""

MISSING = GPU == "cuda" and not torch.cuda.is_available()
