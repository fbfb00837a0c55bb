"""Images as a kind of input: how they are read, shown and encoded for a backbone.

Shapes: S the side of an encoded image in pixels, C its channels.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from autotl.data.image import (
    decode,
    image_side,
    open_upright,
    pillow_interpolation,
    require_regular_file,
)
from autotl.data.scale import Scales
from autotl.data.toy_images import squares
from autotl.errors import PluginError, did_you_mean
from autotl.space.input_kind import IMAGE, InputKind, ModelInput, Preview
from autotl.space.kinds import RGB
from autotl.space.plugin import Example
from autotl.space.registry import Registry

DECODING = 2
"""The version of what ``decode`` returns; incremented when the pixels of a file change, so that
arrays and features of an earlier version are not used."""

UPSCALING = 8
"""Images are enlarged to at most this many times their own side; beyond, nothing more is seen."""

SMALLEST, STEP = 64, 32
"""The smallest side that is chosen, and the step between sides, in pixels."""

PREVIEW_SIDE = 96
"""Side of the view of an image in reports, in pixels."""

JPEG_QUALITY = 80


@dataclass(frozen=True)
class ImageInput(ModelInput):
    """Square images, normalised on the device.

    Attributes:
        size: Side of the images in pixels.
        mean: Mean of each channel, in the range 0..1.
        std: Standard deviation of each channel, in the range 0..1.
        interpolation: timm's name of the interpolation for resizing.
        channels: Number of channels C: 1 of grey images, 3 of RGB.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    channels: int = RGB

    kind = IMAGE
    dtype = "uint8"

    @property
    def shape(self) -> tuple[int, ...]:
        """``[S, S, C]``."""
        return self.size, self.size, self.channels

    @property
    def key(self) -> str:
        """The size, the interpolation, the version of the decoding, and the channels if not RGB."""
        channels = "" if self.channels == RGB else f"-{self.channels}ch"
        return f"{self.size}-{pillow_interpolation(self.interpolation)}-{DECODING}{channels}"

    def encode(self, item: Any, scales: Scales | None = None) -> NDArray[np.uint8]:
        """Decode the whole image to ``uint8 [S, S, C]``; see ``decode``."""
        return decode(item, self.size, self.interpolation, scales, self.channels)

    def make_preprocessing(self) -> nn.Module:
        """The normalisation of ``[B, C, S, S]`` in the range 0..255."""
        return _Normalise(self.mean, self.std)

    def describe(self) -> dict[str, Any]:
        """The fields, as ``config.json`` has them for images; of RGB without ``channels``."""
        return {k: v for k, v in vars(self).items() if (k, v) != ("channels", RGB)}


def match_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The mean or the std of each channel, as timm changes the weights of the first layer.

    For one channel, whose weights are the sum of those of all, it is their mean. For several, whose
    weights repeat, the values repeat.

    Args:
        values: Those of the channels that a backbone was trained on.
        channels: Number of channels of the images.
    """
    if channels == 1:
        return (sum(values) / len(values),)
    if len(values) in (1, channels):
        return tuple(values)
    return tuple(itertools.islice(itertools.cycle(values), channels))


class _Normalise(nn.Module):
    """Subtracts the mean of each channel of ``[B, C, S, S]`` and divides by its std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            # Not saved with the weights, because they are part of the preprocessing.
            self.register_buffer(name, 255 * torch.tensor(values).view(1, -1, 1, 1), False)

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        return normalised.contiguous(memory_format=torch.channels_last)


class ImageKind(InputKind):
    """Images: files, Pillow images, or arrays ``uint8 [H, W]`` or ``[H, W, C]``."""

    name, noun, nouns, unit = IMAGE, "image", "images", "px"

    def content(self, item: Any) -> bytes:
        """The bytes of the file, or of the array with its type and shape."""
        if isinstance(item, np.ndarray):
            return repr((item.dtype.str, item.shape)).encode() + item.tobytes()
        require_regular_file(item)
        return Path(item).read_bytes()

    def find_file(self, item: Any) -> Path | None:
        """The file of an image; arrays have none."""
        return Path(item) if isinstance(item, str | Path) else None

    def show(self, item: Any, scales: Scales) -> Preview:
        """A small JPEG of the whole image, resized as for a model; of many channels the first 3."""
        opened = open_upright(item, PREVIEW_SIDE) if isinstance(item, np.ndarray) else item
        return as_jpeg(decode(opened, PREVIEW_SIDE, "bicubic", scales))

    def read(self, argument: str) -> Iterable[tuple[str, Any]]:
        """The file; folders and patterns are resolved before."""
        return [(argument, Path(argument))]

    def encode(self, item: Any, expects: ModelInput, scales: Scales) -> NDArray[np.uint8]:
        """Decode an image with the scales of images with more than 8 bits."""
        assert isinstance(expects, ImageInput)
        return expects.encode(item, scales)

    def useful_size(self, items: Sequence[Any], expects: ModelInput) -> int | None:
        """At most ``UPSCALING`` times the median side, the root of width times height."""
        sides = []
        for item in items:
            try:
                sides.append(image_side(item))
            except Exception:  # decoders raise anything on broken files
                continue
        if not sides:
            return None
        return max(SMALLEST, UPSCALING * round(float(np.median(sides))) // STEP * STEP)

    def toy(self, counts: Sequence[int], seed: int = 0) -> list[Example]:
        """Images of noise with a square of their class's colour, see ``toy_images.squares``."""
        return squares(counts, seed)


def as_jpeg(pixels: NDArray[np.uint8]) -> Preview:
    """A JPEG of ``uint8 [H, W, 3]``."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return Preview("image/jpeg", file.getvalue())


IMAGES = ImageKind()
"""The kind of all data sets and backbones that name no other one."""


def find_kind(name: str, plugins: Registry) -> InputKind:
    """Get the kind of input of a name.

    Raises:
        PluginError: There is none.
    """
    if name == IMAGE:
        return IMAGES
    if name not in plugins.input_kinds:
        near = did_you_mean(name, [IMAGE, *plugins.input_kinds])
        raise PluginError(f"no input kind is called {name!r}; {near}")
    return plugins.input_kinds[name]
