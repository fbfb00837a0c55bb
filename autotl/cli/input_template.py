"""The files that ``plugins new input`` writes: a kind of input with data, a backbone and a test."""

PLUGIN = '''"""A kind of input for AutoTL, with a data set and a backbone.

Check it: autotl plugins check NAME.py --source NAME:30.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl import Example, InputKind, ModelInput, backbone, dataset


class Kind(InputKind):
    """Series of numbers: items are arrays ``[N]``, of any length N."""

    # The name of the kind, what one example and several are called, and the unit of their size.
    name, noun, nouns, unit = "NAME", "series", "series", "numbers"

    def open_file(self, file: Path) -> Any:
        """The item in a file, such as one to predict: here text with numbers."""
        return np.array(file.read_text("utf-8").split(), float)

    def toy_item(self, label: int, random: np.random.Generator) -> Any:
        """An item of an easy class: a noisy wave, whose frequency depends on the class."""
        time = np.linspace(0, 6, 60)
        return np.sin((2 * label + 1) * time + random.uniform(0, 6)) + random.normal(0, 0.2, 60)


class Input(ModelInput):
    """What the backbone takes: ``float32 [size]``."""

    kind = "NAME"

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, item: Any) -> Any:
        """Encode an item as an array of a fixed size, here by interpolation.

        Packed examples are found by ``key``: set it to another one when you change what this does.
        """
        positions = np.linspace(0, 1, self.size)
        return np.interp(positions, np.linspace(0, 1, len(item)), item).astype(np.float32)


class Network(nn.Module):
    """``float32 [B, size] -> features [B, 128]``: two convolutions, and the mean over positions."""

    num_features = 128
    # The modules after which the network may be split: the frozen part before is computed once.
    feature_info = [{"module": "stem"}, {"module": "top"}]

    def __init__(self, size: int) -> None:
        super().__init__()
        self.expects = Input(size)
        self.stem = nn.Sequential(nn.Conv1d(1, 64, 9, 2, 4), nn.BatchNorm1d(64), nn.ReLU())
        self.top = nn.Sequential(nn.Conv1d(64, 128, 9, 2, 4), nn.BatchNorm1d(128), nn.ReLU())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names for the stem and for each block, in order."""
        return {"stem": "^stem", "blocks": [("^top", None)]}

    def forward(self, series: Tensor) -> Tensor:
        """Map ``[B, size]`` to features ``[B, 128]``."""
        responses: Tensor = self.top(self.stem(series[:, None]))
        return responses.mean(2)


@backbone(input="NAME")
def NAME_network(size: int | None = None) -> nn.Module:
    """Two convolutions (add the paper here).

    Load pretrained weights here, from safetensors or with ``torch.load(..., weights_only=True)``.

    Args:
        size: The size of the input; None for that which suits the backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(size or 64)


@dataset(input="NAME", matches=["NAME:*"])
def NAME_data(source: str) -> list[Example]:
    """Examples of two classes; NAME:30 has 30 of each. Read your own data here.

    Args:
        source: The data source as the user wrote it. A folder matches the pattern ``*/``, a file
            for example ``*.npz``.
    """
    count = int(source.partition(":")[2])
    # One of your own is Example(name="a.txt", item=numbers, label="up").
    return NAME.toy([count, count])


NAME = Kind()
'''
"""The plugin file; the name of the kind replaces ``NAME``."""

TEST = '''"""Tests that the kind of input NAME, its backbone and its data meet their contracts."""

from NAME import NAME, NAME_data, NAME_network

from autotl.testing import check, check_input_kind


def test_NAME() -> None:
    check_input_kind(NAME, backbone=NAME_network)
    assert check(NAME_network, kind=NAME) >= 1
    assert check(NAME_data, kind=NAME, source="NAME:30") == 1
'''
"""The file with its test."""
