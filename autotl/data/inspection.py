"""Open an example once, and note all that the check of a data set needs of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotl.data import scale
from autotl.data.copies import (
    Thumbnail,
    digest_thumbnails,
    make_thumbnail,
    open_for_thumbnail,
    shorten_digest,
)
from autotl.data.image import is_animated, read_error, require_channels
from autotl.data.image_kind import IMAGES
from autotl.data.scale import Sample
from autotl.space.input_kind import InputKind
from autotl.space.kinds import RGB
from autotl.space.plugin import UNLABELLED, Example


class Inspection(NamedTuple):
    """What is stored of an example that was opened once; what only images have is empty for others.

    Attributes:
        content: SHA-256 of what identifies it, e.g. of the file.
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


def inspect(example: Example, kind: InputKind = IMAGES, channels: int = RGB) -> Inspection:
    """Hash and open an example.

    It is opened as ``encode`` will open it, so that packing cannot fail where this did not.

    Args:
        example: The example.
        kind: What it is.
        channels: Number of channels that images must have or be converted to.
    """
    content = ""
    try:
        data = kind.content(example.item)
        if not data:
            return Inspection("", f"the {'file' if kind is IMAGES else kind.noun} is empty")
        content = hashlib.sha256(data).hexdigest()
        problem = "" if example.label or example.split == UNLABELLED else "no label"
        if kind is IMAGES:
            is_array = isinstance(example.item, np.ndarray)
            image = example.item if is_array else BytesIO(data)
            require_channels(image, channels)
            return _inspect_image(image, content, problem)
        kind.convert(example.item)
        return Inspection(content, problem)
    except Exception as error:  # decoders raise anything on broken files
        return Inspection(content, read_error(error))


def digest_contents(inspections: Sequence[Inspection], kind: InputKind) -> NDArray[np.uint64]:
    """A number for the content of each example, ``uint64 [N]``."""
    if kind is IMAGES:
        return digest_thumbnails([i.thumbnail for i in inspections])
    return np.array([shorten_digest(i.content) for i in inspections], dtype=np.uint64)


def _inspect_image(image: Any, content: str, problem: str) -> Inspection:
    opened = open_for_thumbnail(image)
    return Inspection(
        content,
        problem,
        make_thumbnail(opened),
        min(opened.size),
        scale.sample(opened) if scale.is_deep(opened) else None,
        isinstance(image, BytesIO) and opened.format != "JPEG" and is_animated(image),
    )
