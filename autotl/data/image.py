"""One picture, whatever its format, as ``uint8 [size, size, 3]``; and many of them on threads."""

from __future__ import annotations

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
"""Told after every picture: what is being done, how many are done, how many there are."""

FULL_SCALES = (1, 255, 4095, 65535)
"""The white of floats and masks, of 8 bits, of 12-bit cameras and X-ray, of 16 bits."""

CHUNK = 128
"""Pictures handed to the threads at once: so many decoded ones can wait in memory."""

T = TypeVar("T")
R = TypeVar("R")


def decode(image: Any, size: int, interpolation: str) -> NDArray[np.uint8]:
    """The whole of ``image``, upright, on white where it was transparent.

    Args:
        image: A file, or ``uint8 [H, W]`` or ``[H, W, 3]``.
        size: Height and width of the result, in pixels.
        interpolation: timm's name of it; see ``pillow_interpolation``.

    Returns:
        ``uint8 [size, size, 3]``.

    Raises:
        DataError: The picture cannot be read.
    """
    try:
        picture = open_rgb(image, size)
    except Exception as error:  # decoders raise anything on broken files
        what = "the array" if isinstance(image, np.ndarray) else image
        raise DataError(f"{what}: {read_error(error)}; save it again or leave it out") from error
    # Squashed, not cropped: nothing is known of these pictures, and what tells the classes
    # apart may lie at the border. Backbones mind a changed aspect ratio less than a lost object.
    how = Image.Resampling[pillow_interpolation(interpolation).upper()]
    return np.array(picture.resize((size, size), how))


def pillow_interpolation(interpolation: str) -> str:
    """``interpolation`` if Pillow has it, else ``'bicubic'``."""
    return interpolation if interpolation.upper() in Image.Resampling.__members__ else "bicubic"


def open_rgb(image: Any, side: int) -> Image.Image:
    """``image`` in RGB and upright; a JPEG much larger than ``side`` pixels may come reduced.

    Raises:
        Exception: Whatever Pillow raises on broken files; ``read_error`` puts it into words.
    """
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not fits:
            shape = list(image.shape)
            raise ValueError(f"{image.dtype} {shape} is neither uint8 [H, W] nor uint8 [H, W, 3]")
        _not_a_line(image.shape[1], image.shape[0])
        return Image.fromarray(image).convert("RGB")
    with Image.open(image) as picture:
        _not_a_line(*picture.size)
        # A JPEG decodes several times faster at 1/2, 1/4 or 1/8; twice the side leaves enough
        # for an antialiased resize.
        picture.draft(None, (2 * side, 2 * side))
        picture.load()
        with suppress(Exception):  # broken EXIF is common, and says nothing about the pixels
            ImageOps.exif_transpose(picture, in_place=True)
        return _rgb(picture)


def _not_a_line(width: int, height: int) -> None:
    if min(width, height) < 2:
        raise ValueError(f"only {width} x {height} pixels")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # Pillow's own conversion clips at 255
        return Image.fromarray(_to_8_bits(np.asarray(picture))).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _to_8_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values ``[H, W]`` of any depth; the smallest usual full scale that holds them is 255."""
    values = np.nan_to_num(grey.astype(np.float32), posinf=0, neginf=0)
    values -= min(0, values.min())
    top = next((scale for scale in FULL_SCALES if values.max() <= scale), values.max())
    return np.round(values * (255 / top)).astype(np.uint8)


def read_error(error: Exception) -> str:
    """Why a picture could not be read, for people."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def map_in_threads(
    work: Callable[[T], R],
    items: Sequence[T],
    take: Callable[[R], object],
    what: str,
    progress: Progress | None,
) -> None:
    """``take(work(item))`` for each item in order: ``work`` on threads, ``take`` on this one.

    Threads are enough, because Pillow lets go of the interpreter while it decodes. Its warnings
    (odd metadata, large pictures) stay inside; what matters of them is an exception or an issue.
    """
    Image.init()  # formats registered by one thread while another looks for its own can be missed
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(items), CHUNK):
            results = pool.map(work, items[start : start + CHUNK])
            for done, result in enumerate(results, start + 1):
                take(result)
                if progress:
                    progress(what, done, len(items))
