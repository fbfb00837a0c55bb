"""Open an image once, and note all that the check of a data set needs of it."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotl.data import scale
from autotl.data.copies import Thumbnail, make_thumbnail, open_for_thumbnail
from autotl.data.image import is_animated, read_error, require_regular_file
from autotl.data.scale import Sample
from autotl.space.plugin import Example


class Inspection(NamedTuple):
    """What is stored of an image that was opened once.

    Attributes:
        content: SHA-256 of the file or array.
        problem: Why the example cannot be used, or ``''``.
        thumbnail: See ``copies``.
        side: The shorter side in pixels.
        sample: Values of an image with more than 8 bits; None for others.
        animated: Whether it has further frames or pages.
    """

    content: str
    problem: str
    thumbnail: Thumbnail = np.zeros(0, np.uint8)
    side: int = 0
    sample: Sample | None = None
    animated: bool = False


def inspect(example: Example) -> Inspection:
    """Hash and open an image.

    It is opened as ``decode`` will open it, so that packing cannot fail where this did not.
    """
    content = ""
    try:
        if isinstance(example.item, np.ndarray):
            image: Any = example.item
            data = repr((image.dtype.str, image.shape)).encode() + image.tobytes()
        else:
            require_regular_file(example.item)
            data = Path(example.item).read_bytes()
            image = BytesIO(data)
        if not data:
            return Inspection("", "the file is empty")
        content = hashlib.sha256(data).hexdigest()
        opened = open_for_thumbnail(image)
        return Inspection(
            content,
            "" if example.label else "no label",
            make_thumbnail(opened),
            min(opened.size),
            scale.sample(opened) if scale.is_deep(opened) else None,
            isinstance(image, BytesIO) and opened.format != "JPEG" and is_animated(image),
        )
    except Exception as error:  # decoders raise anything on broken files
        return Inspection(content, read_error(error))
