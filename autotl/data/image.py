"""Decoding of one image, whatever its format, and of many images in threads."""

from __future__ import annotations

import itertools
import math
import os
import stat
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from autotl.data import scale
from autotl.data.large_images import load_upright, open_image
from autotl.data.scale import Scales
from autotl.errors import DataError
from autotl.space.kinds import RGB

Progress = Callable[[str, int, int], None]
"""Called after every image with the name of the step, the number done and the total number."""

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
"""What is at byte 8 of HEIC files, whatever their suffix."""

MAX_BEGUN = 128
"""The number of images that are given to the threads and not consumed yet, which limits the memory
used; at least two for each thread."""

T = TypeVar("T")
R = TypeVar("R")


def decode(
    image: Any,
    size: int,
    interpolation: str,
    scales: Scales | None = None,
    channels: int = RGB,
) -> NDArray[np.uint8]:
    """Decode the whole image, upright, with transparent pixels on white.

    The image is squashed to a square, not cropped: objects that distinguish the classes may lie
    near the border, and backbones tolerate a changed aspect ratio better than a lost object.

    Args:
        image: A file, a Pillow image, or an array ``uint8 [H, W]`` or ``uint8 [H, W, C]``.
        size: Height and width of the result, in pixels.
        interpolation: timm's name of the interpolation; see ``pillow_interpolation``.
        scales: The scales of images with more than 8 bits, by file type; see ``scale``.
        channels: Number of channels. Images become RGB for 3 and grey for 1; for other numbers
            they must have as many.

    Returns:
        ``uint8 [size, size, channels]``.

    Raises:
        DataError: The image cannot be read, or has another number of channels.
    """
    try:
        layers = _open_layers(image, size, {} if scales is None else scales, channels)
    except Exception as error:  # decoders raise anything on broken files
        names = {np.ndarray: "the array", Image.Image: "the image"}
        source = next((names[kind] for kind in names if isinstance(image, kind)), image)
        raise DataError(f"{source}: {read_error(error)}; replace the image or remove it") from error
    resampling = Image.Resampling[pillow_interpolation(interpolation).upper()]
    resized = [np.array(layer.resize((size, size), resampling)) for layer in layers]
    return resized[0] if channels == RGB else np.stack(resized, 2)


def _open_layers(image: Any, side: int, scales: Scales, channels: int) -> Sequence[Image.Image]:
    """Open an image as one image in RGB, or as one of mode ``L`` for each channel."""
    require_channels(image, channels)
    if channels == RGB:
        return [to_rgb(open_upright(image, side), scales)]
    if channels == 1:
        return [to_rgb(open_upright(image, side), scales).convert("L")]
    if isinstance(image, np.ndarray):
        return [Image.fromarray(np.ascontiguousarray(layer)) for layer in np.moveaxis(image, 2, 0)]
    return open_upright(image, 0).split()


def require_channels(image: Any, channels: int) -> None:
    """Check that an image has the channels that a backbone takes.

    All files and all arrays of one or three channels can become grey or RGB.

    Args:
        image: A file, a Pillow image or an array.
        channels: Number of channels.

    Raises:
        ValueError: It has another number.
        Exception: Whatever Pillow raises on broken files.
    """
    convertible = (1, RGB)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3):
            return  # which open_upright refuses
        count = 1 if image.ndim == 2 else image.shape[2]
        if not count:
            return  # this one too
    elif channels in convertible:
        return
    elif isinstance(image, Image.Image):
        count = len(image.getbands())
    else:
        if not isinstance(image, BytesIO):
            require_regular_file(image)
        with open_image(image) as opened:
            count = len(opened.getbands())
    if count != channels and not (count in convertible and channels in convertible):
        hint = "" if count in convertible else f"; a search takes them with --in-chans {count}"
        raise ValueError(f"it has {count} channel{'s' * (count > 1)} and not {channels}{hint}")


def pillow_interpolation(interpolation: str) -> str:
    """``interpolation`` if Pillow supports it, else ``'bicubic'``."""
    return interpolation if interpolation.upper() in Image.Resampling.__members__ else "bicubic"


def open_upright(image: Any, side: int) -> Image.Image:
    """Open an image upright; of several frames or pages the first.

    Args:
        image: A file, a Pillow image, or an array ``uint8 [H, W]`` or ``uint8 [H, W, C]``, of whose
            channels the first three are used, or the first of two.
        side: Side that the image will be resized to, in pixels. An image that is much larger may
            be decoded at a reduced size, see ``large_images``; 0 for the full size.

    Raises:
        Exception: Whatever Pillow raises on broken files; see ``read_error``.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.size)):
            shape = list(image.shape)
            raise ValueError(f"{image.dtype} {shape} is neither uint8 [H, W] nor uint8 [H, W, C]")
        _check_size(image.shape[1], image.shape[0])
        if image.ndim == 3 and image.shape[2] != RGB:
            image = image[..., :RGB] if image.shape[2] > RGB else image[..., 0]
        return Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        _check_size(*image.size)
        upright = image.copy()
        with suppress(Exception):  # broken EXIF is common, and unrelated to the pixels
            upright = ImageOps.exif_transpose(image)
        upright.format = image.format  # by which its scale is found
        return upright
    if not isinstance(image, BytesIO):
        require_regular_file(image)
    with suppress(UnidentifiedImageError), open_image(image) as opened:
        return _load(opened, side)
    with open_image(image, _heif_reader(image)) as opened:
        return _load(opened, side)


def _load(opened: ImageFile.ImageFile, side: int) -> Image.Image:
    _check_size(*opened.size)
    return load_upright(opened, side, lambda part: to_rgb(part, {}))


def _heif_reader(image: Any) -> Callable[[BinaryIO], ImageFile.ImageFile]:
    """The reader of pillow-heif for an image in a format that Pillow does not know.

    Raises:
        ValueError: It is in another format, which the message names, or pillow-heif is missing.
        UnidentifiedImageError: The format is not known.
    """
    head = image.getvalue()[:132] if isinstance(image, BytesIO) else _read_head(image)
    if head[128:132] == b"DICM":
        raise ValueError("DICOM is not read; convert it, e.g. to PNG")
    if head[4:8] != b"ftyp" or head[8:12] not in HEIF_BRANDS:
        raise UnidentifiedImageError
    try:
        import pillow_heif
    except ImportError:
        raise ValueError('HEIC is read only with: pip install "autotl[heif]"') from None
    reader: Callable[[BinaryIO], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return reader


def _read_head(file: Any) -> bytes:
    with Path(file).open("rb") as opened:
        return opened.read(132)


def require_regular_file(file: Any) -> None:
    """Check that a path is a file, because opening a pipe may wait forever.

    Raises:
        OSError: It does not exist.
        ValueError: It is a pipe, a socket, a device or a folder.
    """
    mode = Path(file).stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("not a file but a pipe, socket or device")


def is_animated(image: Any) -> bool:
    """Whether an image file has further frames or pages than the one that is used.

    A photograph of a phone may have others, such as a depth map, which are not meant.
    """
    with suppress(Exception), open_image(image) as opened:
        return bool(getattr(opened, "is_animated", False)) and opened.format != "MPO"
    return False


def image_side(image: Any) -> float:
    """The square root of width times height of an image, in pixels; only its header is read.

    Raises:
        Exception: Whatever Pillow raises on broken files; see ``read_error``.
    """
    if isinstance(image, np.ndarray):
        return math.sqrt(math.prod(image.shape[:2]))
    require_regular_file(image)
    with open_image(image) as opened:
        return math.sqrt(opened.width * opened.height)


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 2:
        raise ValueError(f"only {width} x {height} pixels")


def to_rgb(image: Image.Image, scales: Scales) -> Image.Image:
    """Convert an image to RGB, with transparent pixels on white.

    Args:
        image: An image in any mode.
        scales: The scales of images with more than 8 bits, by file type.
    """
    if scale.is_deep(image):  # Pillow's own conversion clips at 255
        return Image.fromarray(scale.to_8_bits(image, scales)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


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
    waiting, cores = iter(items), count_cores()
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool:
        warnings.simplefilter("ignore")
        # As soon as one result is consumed another item is begun, so that no thread is idle.
        first = itertools.islice(waiting, max(MAX_BEGUN, 2 * cores))
        begun = deque(pool.submit(function, item) for item in first)
        try:
            for done in range(1, len(items) + 1):
                consume(begun.popleft().result())
                begun.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
                if progress:
                    progress(step, done, len(items))
        finally:
            for future in begun:  # after an error
                future.cancel()


def count_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
