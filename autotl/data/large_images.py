"""Open images of any size within bounded memory.

Pillow refuses images of more than 179 megapixels as a possible attack, although phones take
photographs of 200, and an image of a few kilobytes may take gigabytes once it is decoded and
converted. Here the bytes of all images that are decoded at the same time are bounded, one that
exceeds the bound is decoded alone, and large images are converted and reduced strip by strip.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition
from typing import Any, BinaryIO

from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_MEGAPIXELS = 500.0
"""The default of the maximum number of megapixels of an image."""

LIMIT_VARIABLE = "AUTOTL_MAX_MEGAPIXELS"
"""The environment variable that sets another maximum."""

BYTES_IN_FLIGHT = 1 << 30
"""The maximum bytes of the images that are decoded at the same time, unless it is one image."""

LARGE_PIXELS = 8_000_000
"""The number of pixels above which an image is converted and reduced strip by strip."""

STRIP_PIXELS = 4_000_000
"""The number of pixels of a strip."""

_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # and 4 of all other modes

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


class _Bound:
    """Lets threads take parts of a total, and wait until there is room.

    Args:
        total: The total; a larger part is taken alone.
    """

    def __init__(self, total: int) -> None:
        self._total, self._taken, self._changed = total, 0, Condition()

    @contextmanager
    def take(self, part: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + part <= self._total)
            self._taken += part
        try:
            yield
        finally:
            with self._changed:
                self._taken -= part
                self._changed.notify_all()


_in_flight = _Bound(BYTES_IN_FLIGHT)


@contextmanager
def open_image(
    source: Any, read: Callable[[BinaryIO], ImageFile.ImageFile] | None = None
) -> Iterator[ImageFile.ImageFile]:
    """Open an image file and read its header.

    Args:
        source: A path or a binary file.
        read: Reads the header; by default Pillow does.

    Raises:
        ValueError: It has more megapixels than the maximum.
        Exception: Whatever Pillow raises on broken files.
    """
    read = read or _identify
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            yield _check_pixels(read(file))
    else:
        source.seek(0)
        yield _check_pixels(read(source))


def _identify(file: BinaryIO) -> ImageFile.ImageFile:
    """Do what ``Image.open`` does, without its limit, which is a setting of the whole process."""
    Image.preinit()
    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in tuple(Image.ID):
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if not accepted or isinstance(accepted, str):
            continue
        file.seek(0)
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # another format
            return factory(file, "")
    raise UnidentifiedImageError("not an image")


def _check_pixels(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        most = float(text or MAX_MEGAPIXELS)
    except ValueError:
        raise ValueError(f"{LIMIT_VARIABLE}={text!r} is not a number of megapixels") from None
    megapixels = image.width * image.height / 1e6
    if megapixels > most:
        raise ValueError(
            f"{image.width} x {image.height} pixels are {megapixels:.0f} megapixels, more than the "
            f"limit of {most:g}, which protects memory; set {LIMIT_VARIABLE} to a higher one"
        )
    return image


def load_upright(
    image: ImageFile.ImageFile, side: int, to_rgb: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Decode an open image upright; if it is large, reduced and in RGB.

    Args:
        image: An image from ``open_image``.
        side: Side that it will be resized to, in pixels. A JPEG is decoded at a reduced size, and a
            large image of another format is reduced, both to no less than twice that; 0 for the
            full size.
        to_rgb: Converts a part of an image of any mode to RGB.

    Raises:
        Exception: Whatever Pillow raises on broken files.
    """
    # A JPEG decodes several times faster at 1/2, 1/4 or 1/8 of its size; twice the side is enough
    # for an antialiased resize.
    if side:
        image.draft(None, (2 * side, 2 * side))
    pixels = image.width * image.height
    with _in_flight.take(pixels * (_BYTES_PER_PIXEL.get(image.mode, 4) + 4)):
        image.load()
        loaded = _reduce(image, side, to_rgb) if side and pixels > LARGE_PIXELS else image
        with suppress(Exception):  # broken EXIF is common, and unrelated to the pixels
            if loaded is image:
                ImageOps.exif_transpose(image, in_place=True)
            elif (orientation := image.getexif().get(ExifTags.Base.Orientation)) in _UPRIGHT:
                loaded = loaded.transpose(_UPRIGHT[orientation])
    loaded.format = image.format
    return loaded


def _reduce(
    image: Image.Image, side: int, to_rgb: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert an image to RGB and reduce it by a whole factor, strip by strip.

    An image with more than 8 bits, whose values are scaled later, is returned as it is, and so is
    one that is less than four times as large as ``side``.
    """
    width, height = image.size
    factor = min(min(image.size) // (2 * side), STRIP_PIXELS // width)
    if image.mode.startswith(("I", "F")) or factor < 2:
        return image
    reduced = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = STRIP_PIXELS // width // factor * factor
    for top in range(0, height, rows):
        strip = to_rgb(image.crop((0, top, width, min(height, top + rows))))
        reduced.paste(strip.reduce(factor), (0, top // factor))
    return reduced
