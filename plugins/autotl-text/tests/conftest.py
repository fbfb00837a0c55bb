"""A tiny encoder with random weights, and settings of every test."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub

from pathlib import Path

import pytest
import torch
from tiny_encoder import write_encoder

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of three layers, as save_pretrained writes it."""
    return write_encoder(tmp_path_factory.mktemp("models") / "tiny")
