"""A kind of input of its own: time series, read from ``.npz`` files, for any head.

The backbone is untrained: random convolution kernels of several dilations, whose responses a linear
head classifies well (ROCKET; Dempster et al. 2020, arXiv:1910.13051).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl import Example, InputKind, ModelInput, backbone, dataset


class Series(InputKind):
    """Arrays of numbers ``[N]``, or text files with one number a line."""

    name, noun, nouns, unit = "series", "series", "series", "samples"

    def open_file(self, file: Path) -> Any:
        """The numbers of a file, for ``autotl predict``."""
        return np.array(file.read_text("utf-8").split(), float)

    def toy_item(self, label: int, random: np.random.Generator) -> Any:
        """A wave of a frequency for each class, with noise."""
        waves = np.sin((2 * label + 1) * np.linspace(0, 6, 60) + random.uniform(0, 6))
        return waves + random.normal(0, 0.3, 60)


class SeriesInput(ModelInput):
    """``float32 [size]``, interpolated, with a mean of 0 and a std of 1."""

    kind = "series"

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, item: Any) -> Any:
        """Encode a series."""
        values = np.interp(np.linspace(0, 1, self.size), np.linspace(0, 1, len(item)), item)
        return ((values - values.mean()) / (values.std() + 1e-6)).astype(np.float32)


class RandomKernels(nn.Module):
    """``float32 [B, size]`` to ``[B, 1000]``: how often and how strongly each kernel responds."""

    num_features = 1000

    def __init__(self, size: int) -> None:
        super().__init__()
        self.expects = SeriesInput(size)
        self.layers = nn.ModuleList(nn.Conv1d(1, 100, 9, dilation=2**i) for i in range(5))
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter)
            if name.endswith("weight"):
                parameter.data -= parameter.data.mean(2, keepdim=True)

    def forward(self, series: Tensor) -> Tensor:
        """The fraction of samples to which each kernel responds, then its largest response."""
        padded = nn.functional.pad(series[:, None], (64, 64))
        responses = [layer(padded) for layer in self.layers]
        often = [(10 * response).sigmoid().mean(2) for response in responses]
        return torch.cat([*often, *(response.amax(2) for response in responses)], 1)


@backbone(input="series")
def random_kernels(size: int | None = None) -> nn.Module:
    """Random convolution kernels (ROCKET), which need no pretraining."""
    return RandomKernels(size or 64)


def has_series(source: str) -> bool:
    """Tells these files from those with images."""
    with np.load(source) as file:
        return {"series", "labels"} <= set(file)


@dataset(input="series", matches=["*.npz"], accepts=has_series)
def series_file(source: str) -> list[Example]:
    """An ``.npz`` file with ``series [N, samples]`` and ``labels [N]``, classes or numbers."""
    with np.load(source) as file:
        pairs = zip(file["series"], file["labels"].tolist(), strict=True)
        return [Example(str(i), item, label) for i, (item, label) in enumerate(pairs)]


series = Series()
