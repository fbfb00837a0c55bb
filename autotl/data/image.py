"""Decoding of one image, whatever its format, and of many images in threads."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from autotl.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called after every image with the name of the step, the number done and the total number."""

FULL_SCALES = (1, 255, 4095, 65535)
"""The white level of floats and masks, 8 bits, 12-bit cameras and X-ray detectors, and 16 bits."""

CHUNK = 128
"""The number of images that are given to the threads at a time, which limits the memory used."""

T = TypeVar("T")
R = TypeVar("R")


def decode(image: Any, size: int, interpolation: str) -> NDArray[np.uint8]:
    """Decode the whole image, upright, with transparent pixels on white.

    The image is squashed to a square, not cropped: objects that distinguish the classes may lie
    near the border, and backbones tolerate a changed aspect ratio better than a lost object.

    Args:
        image: A file, a Pillow image, or an array ``uint8 [H, W]`` or ``uint8 [H, W, 3]``.
        size: Height and width of the result, in pixels.
        interpolation: timm's name of the interpolation; see ``pillow_interpolation``.

    Returns:
        ``uint8 [size, size, 3]``.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        rgb = open_rgb(image, size)
    except Exception as error:  # decoders raise anything on broken files
        names = {np.ndarray: "the array", Image.Image: "the image"}
        source = next((names[kind] for kind in names if isinstance(image, kind)), image)
        raise DataError(f"{source}: {read_error(error)}; replace the image or remove it") from error
    resampling = Image.Resampling[pillow_interpolation(interpolation).upper()]
    return np.array(rgb.resize((size, size), resampling))


def pillow_interpolation(interpolation: str) -> str:
    """``interpolation`` if Pillow supports it, else ``'bicubic'``."""
    return interpolation if interpolation.upper() in Image.Resampling.__members__ else "bicubic"


def open_rgb(image: Any, side: int) -> Image.Image:
    """Open an image in RGB and upright.

    Args:
        image: A file, a Pillow image, or an array ``uint8 [H, W]`` or ``uint8 [H, W, 3]``.
        side: Side that the image will be resized to, in pixels. A JPEG that is much larger may be
            decoded at a reduced size.

    Raises:
        Exception: Whatever Pillow raises on broken files; see ``read_error``.
    """
    if isinstance(image, np.ndarray):
        valid_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not valid_shape:
            shape = list(image.shape)
            raise ValueError(f"{image.dtype} {shape} is neither uint8 [H, W] nor uint8 [H, W, 3]")
        _check_size(image.shape[1], image.shape[0])
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, Image.Image):
        _check_size(*image.size)
        return _to_rgb(ImageOps.exif_transpose(image))
    with Image.open(image) as opened:
        _check_size(*opened.size)
        # A JPEG decodes several times faster at 1/2, 1/4 or 1/8 of its size; twice the side is
        # enough for an antialiased resize.
        opened.draft(None, (2 * side, 2 * side))
        opened.load()
        with suppress(Exception):  # broken EXIF is common, and unrelated to the pixels
            ImageOps.exif_transpose(opened, in_place=True)
        return _to_rgb(opened)


def image_side(image: Any) -> float:
    """The square root of width times height of an image, in pixels; only its header is read.

    Raises:
        Exception: Whatever Pillow raises on broken files; see ``read_error``.
    """
    if isinstance(image, np.ndarray):
        return math.sqrt(math.prod(image.shape[:2]))
    with Image.open(image) as opened:
        return math.sqrt(opened.width * opened.height)


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 2:
        raise ValueError(f"only {width} x {height} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips at 255
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale gray values ``[H, W]`` of any depth to 8 bits.

    The smallest of ``FULL_SCALES`` that holds all values becomes 255; else the largest value does.
    """
    values = np.nan_to_num(gray.astype(np.float32), posinf=0, neginf=0)
    values -= min(0, values.min())
    white = next((scale for scale in FULL_SCALES if values.max() <= scale), values.max())
    return np.round(values * (255 / white)).astype(np.uint8)


def read_error(error: Exception) -> str:
    """Describe why an image could not be read."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def map_in_threads(
    function: Callable[[T], R],
    items: Sequence[T],
    consume: Callable[[R], object],
    step: str,
    progress: Progress | None,
) -> None:
    """Call ``consume(function(item))`` for each item, in order.

    ``function`` runs in threads, which suffice because Pillow releases the GIL while decoding, and
    ``consume`` in the calling thread. Pillow's warnings (odd metadata, large images) are ignored:
    what matters of them also raises an exception or is reported as an issue.

    Args:
        function: Applied to each item; the first exception it raises is raised here.
        items: The items.
        consume: Called with each result.
        step: Name of the step, for ``progress``.
        progress: Called after every item.
    """
    Image.init()  # one thread may otherwise miss the formats that another is still registering
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(items), CHUNK):
            results = pool.map(function, items[start : start + CHUNK])
            for done, result in enumerate(results, start + 1):
                consume(result)
                if progress:
                    progress(step, done, len(items))
