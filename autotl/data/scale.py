"""The scale on which pixel values of more than 8 bits become 8 bits: one for all images of a set.

An image on its own does not tell what is black and white: 2,000 is nearly black in a scan of 16
bits and half white in one of 12 bits. The scale is fitted to a sample of the values of all images
of one file type, stored with the model, and used for every image that the model predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE_LEVELS = (1, 255, 1023, 4095, 16383, 65535)
"""The usual white levels: of masks and floats, and of 8, 10, 12, 14 and 16 bits."""

NO_DATA = (-9999.0, -99999.0, -999.0, -32768.0)
"""Values that stand for "no value here" in scientific images, besides NaN and infinity."""

GDAL_NODATA = 42113
"""The TIFF tag in which GDAL writes the value that stands for "no value here"."""

HUGE = 1e30
"""Magnitude from which a value stands for "no value here", such as the smallest float."""

QUANTILES = np.linspace(0.001, 0.999, 64)
"""The quantiles of an image that are sampled; a few hot or dead pixels are beyond them."""

SAMPLED = 65_536
"""The largest number of values of an image whose quantiles are computed."""

TOLERANCE = 1.02
"""Values may exceed a usual white level by this factor, as after an interpolation."""

LEVELS_LOST = 8
"""If the values use less than this part of a scale, the scale is fitted to them instead."""

Values = NDArray[np.float32]


class Scale(NamedTuple):
    """The values that become 0 and 255; values beyond are clipped."""

    black: float
    white: float


Scales = Mapping[str, Scale]
"""The scale of each file type whose pixels have more than 8 bits, such as ``TIFF integer``."""


class Sample(NamedTuple):
    """Quantiles of the values of one image, and its file type."""

    file_type: str
    quantiles: Values


def is_deep(image: Image.Image) -> bool:
    """Whether the pixels of a grey image have more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def sample(image: Image.Image) -> Sample:
    """Sample the values of a deep image."""
    values = _read_values(image).ravel()
    values = values[:: math.ceil(len(values) / SAMPLED)]
    values = values[np.isfinite(values)]
    if not len(values):
        return Sample(_file_type(image), np.zeros(0, np.float32))
    low, high = np.array_split(QUANTILES, 2)
    # Towards the middle, so that a single extreme pixel of a small image has no weight.
    quantiles = [
        np.quantile(values, low, method="higher"),
        np.quantile(values, high, method="lower"),
    ]
    return Sample(_file_type(image), np.concatenate(quantiles).astype(np.float32))


def fit_scales(samples: Iterable[Sample]) -> dict[str, Scale]:
    """Fit one scale to all images of each file type."""
    by_type: dict[str, list[Values]] = {}
    for one in samples:
        by_type.setdefault(one.file_type, []).append(one.quantiles)
    return {name: _fit_scale(np.concatenate(by_type[name])) for name in sorted(by_type)}


def _fit_scale(values: Values) -> Scale:
    """The usual scale that covers 99.9 % of the values, or else from their 0.1 to 99.9 % quantile.

    Black is 0 and white one of ``WHITE_LEVELS``, unless values are negative or the images would use
    only a small part of such a scale.
    """
    if not len(values):
        return Scale(0.0, 1.0)
    low = float(np.quantile(values, 0.001, method="higher"))
    high = float(np.quantile(values, 0.999, method="lower"))
    fitting = (level for level in WHITE_LEVELS if high <= level * TOLERANCE)
    white = float(next(fitting, high))
    if low >= 0 and (high - low) * LEVELS_LOST >= white:
        return Scale(0.0, white)
    return Scale(low, high) if high > low else Scale(min(low, 0.0), max(white, 1.0))


def to_8_bits(image: Image.Image, scales: Scales) -> NDArray[np.uint8]:
    """Scale the values of a deep image to ``uint8 [H, W]``; what has no value becomes black."""
    file_type = _file_type(image)
    try:
        scale = scales[file_type]
    except KeyError:
        scale, _ = guess_scale(file_type, scales)
    values = (_read_values(image) - scale.black) * (255 / (scale.white - scale.black))
    pixels: NDArray[np.uint8] = np.round(np.nan_to_num(values).clip(0, 255)).astype(np.uint8)
    return pixels


def guess_scale(file_type: str, scales: Scales) -> tuple[Scale, str]:
    """Guess the scale of a file type that has none.

    Returns:
        The scale of the first file type with the same number type, and the name of that file type;
        without one the full scale of 16 bits, or of fractions, and an empty name.
    """
    number = file_type.split()[-1]
    same = next((name for name in scales if name.split()[-1] == number), "")
    return scales[same] if same else Scale(0.0, 1 if number == "float" else 65535), same


class CheckedScales(dict[str, Scale]):
    """Scales that tell, once for each file type, that one had to be guessed.

    Args:
        scales: The scales that are known.
        warn: Called with a sentence for the user.

    Attributes:
        guesses: These sentences by file type.
    """

    def __init__(self, scales: Scales, warn: Callable[[str], object]) -> None:
        super().__init__(scales)
        self.guesses: dict[str, str] = {}
        self._warn = warn

    def __missing__(self, file_type: str) -> Scale:
        """Guess the scale of a file type."""
        guess, same = guess_scale(file_type, self)
        text = (
            f"no image of the training data was {file_type} with more than 8 bits; "
            f"{guess.black:g} is taken for black and {guess.white:g} for white"
            f"{f', as in {same}' if same else ''}; if that is wrong, convert these images to 8 bits"
        )
        if self.guesses.setdefault(file_type, text) is text:  # the first one of all threads
            self._warn(text)
        return guess


def _file_type(image: Image.Image) -> str:
    """The format and number type of a deep image, such as ``PNG integer``."""
    return f"{image.format or 'array'} {'float' if image.mode.startswith('F') else 'integer'}"


def _read_values(image: Image.Image) -> Values:
    """The values ``[H, W]``, with NaN where there is none."""
    values = np.asarray(image).astype(np.float32)
    missing = np.isin(values, np.array(NO_DATA, np.float32)) | ~(np.abs(values) < HUGE)
    tag: Any = getattr(image, "tag_v2", {}).get(GDAL_NODATA)
    with suppress(ValueError):  # not a number
        missing |= values == np.float32(str(tag).strip("\0 ")) if tag else False
    values[missing] = np.nan
    return values


def to_json(scales: Scales) -> dict[str, list[float]]:
    """Describe scales for ``config.json``: black and white by file type."""
    return {name: list(scale) for name, scale in scales.items()}


def from_json(content: Mapping[str, Any]) -> dict[str, Scale]:
    """Read what ``to_json`` returned.

    Raises:
        ValueError: It is not a description of scales.
    """
    scales = {}
    for name, values in content.items():
        black, white = values if isinstance(values, list) and len(values) == 2 else (0, 0)
        if not all(type(v) in (int, float) and abs(v) < HUGE for v in (black, white)):
            raise ValueError(f"the scale of {name!r} has values that are not numbers")
        if not (black < white and name.split()):
            raise ValueError(f"the scale of {name!r} is not a pair of numbers, black below white")
        scales[name] = Scale(float(black), float(white))
    return scales


def describe(scales: Scales) -> list[str]:
    """One line for each file type, such as ``TIFF integer: 0 is black, 4095 is white``."""
    return [f"{name}: {s.black:g} is black, {s.white:g} is white" for name, s in scales.items()]
