"""A kind of input of its own: univariate time series, read from ``.npz`` files, for any head.

The backbone is untrained: random convolution kernels of several dilations, whose responses a linear
head classifies well (ROCKET; Dempster et al. 2020, arXiv:1910.13051).

Shapes: B series in a batch, T the number of samples of an encoded series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl import Example, InputKind, ModelInput, Preview, backbone, dataset
from autotl.errors import DataError

KERNELS, LENGTH = 500, 9


class SeriesInput(ModelInput):
    """A series of ``size`` samples, interpolated and standardised."""

    kind, dtype = "series", "float32"

    def __init__(self, size: int) -> None:
        self.size, self.shape, self.key = size, (size,), f"series-{size}"

    def encode(self, item: Any) -> Any:
        """``float32 [T]`` with a mean of 0 and a std of 1."""
        values = np.interp(np.linspace(0, 1, self.size), np.linspace(0, 1, len(item)), item)
        return ((values - values.mean()) / (values.std() + 1e-6)).astype(np.float32)


class Series(InputKind):
    """Univariate time series, as arrays of numbers."""

    name, noun, nouns, unit = "series", "series", "series", "samples"

    def content(self, item: Any) -> bytes:
        """The bytes of the numbers; a series without a number is unreadable."""
        if not len(item) or not np.isfinite(item).all():
            raise ValueError("it has no numbers, or some that are not finite")
        return bytes(np.asarray(item, np.float64).tobytes())

    def show(self, item: Any) -> Preview:
        """A line, as an image in SVG."""
        low, high = min(item), max(item)
        points = [
            f"{100 * i / len(item):.1f},{60 - 60 * (value - low) / ((high - low) or 1):.1f}"
            for i, value in enumerate(item)
        ]
        line = f'<polyline points="{" ".join(points)}" fill="none" stroke="teal"/>'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 60">{line}</svg>'
        return Preview("image/svg+xml", svg.encode())

    def read(self, argument: str) -> list[tuple[str, Any]]:
        """The series of a text file with one number a line."""
        try:
            return [(argument, np.loadtxt(argument, ndmin=1))]
        except (OSError, ValueError) as error:
            raise DataError(f"{argument} is not a file of numbers: {error}") from None

    def useful_size(self, items: Sequence[Any], expects: ModelInput) -> int:
        """The median length."""
        return int(np.median([len(item) for item in items]))

    def toy(self, counts: Sequence[int], seed: int = 0) -> list[Example]:
        """Waves of a frequency for each class, with noise."""
        random = np.random.default_rng(seed)
        time = np.linspace(0, 6, 60)
        return [
            Example(
                f"{c}/{i}",
                np.sin((2 * c + 1) * time + random.uniform(0, 6)) + random.normal(0, 0.3, 60),
                str(c),
            )
            for c, count in enumerate(counts)
            for i in range(count)
        ]


series = Series()


def _has_series(source: str) -> bool:
    with np.load(source, allow_pickle=False) as file:
        return {"series", "labels"} <= set(file)


@dataset(input="series", matches=["*.npz"], accepts=_has_series)
def series_file(source: str) -> list[Example]:
    """An ``.npz`` file with ``series [N, samples]`` and ``labels [N]``, classes or numbers."""
    with np.load(Path(source), allow_pickle=False) as file:
        rows = zip(file["series"], file["labels"].tolist(), strict=True)
        return [Example(str(i), values, label) for i, (values, label) in enumerate(rows)]


class RandomKernels(nn.Module):
    """``float32 [B, T]`` to ``[B, 1000]``: how often and how strongly each kernel responds."""

    num_features = 2 * KERNELS

    def __init__(self, size: int) -> None:
        super().__init__()
        self.expects = SeriesInput(size)
        dilations = [2**i for i in range(10) if (LENGTH - 1) * 2**i < size] or [1]
        each = [len(part) for part in np.array_split(range(KERNELS), len(dilations))]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(1, count, LENGTH, padding="same", dilation=dilation)
            for count, dilation in zip(each, dilations, strict=True)
        )
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.uniform_(parameter, -1, 1)
            else:
                weights = nn.init.normal_(parameter).data
                weights -= weights.mean(2, keepdim=True)

    def forward(self, series: Tensor) -> Tensor:
        """The fraction of samples to which each kernel responds, then its largest response."""
        responses = [convolution(series[:, None]) for convolution in self.convolutions]
        fractions = [(10 * response).sigmoid().mean(2) for response in responses]
        return torch.cat([*fractions, *(response.amax(2) for response in responses)], 1)


@backbone(input="series")
def random_kernels(size: int | None = None) -> nn.Module:
    """Random convolution kernels (ROCKET), which need no pretraining."""
    return RandomKernels(size or 128)
