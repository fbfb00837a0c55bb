"""Find copies of one image, and near-copies: encoded again, resized, or the next frame of a video.

Every image has a thumbnail of 16 x 16 px. Copies have equal thumbnails, and are compared pixel by
pixel to be sure. Near-copies have similar perceptual hashes (the signs of the lowest frequencies)
and thumbnails that differ little compared with their contrast. On 1,087 photographs of waste on a
plain table this finds the one pair of near-copies in them, and none among 1,200 photographs of
hands; encoding or resizing an image moves it by less than ``MAX_DIFFERENCE``.

Shapes: N images, T the side of a thumbnail.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotl.data.image import map_in_threads, open_upright, to_rgb
from autotl.data.image_kind import IMAGES
from autotl.data.scale import Scale, is_deep, sample
from autotl.space.input_kind import InputKind
from autotl.space.kinds import RGB
from autotl.space.plugin import Example

SIDE = 16
"""Side of a thumbnail, in pixels."""

SMALLEST = 32
"""Side of the smallest images that may be near-copies, in pixels: in smaller ones, such as digits
of 28 px, different objects look alike."""

MIN_CONTRAST = 4.0
"""The smallest std of the pixels of a thumbnail that may be a near-copy, of 255: all images of an
empty table look alike."""

MAX_DISTANCE = 8
"""The largest number of different bits of 64 in the hashes of near-copies."""

MAX_DIFFERENCE = 0.3
"""The largest root mean square difference of the thumbnails of near-copies, in their std. A
JPEG of 32 px with quality 40 differs by 0.15 from its original, other images of noise by 1.4."""

ALL_PAIRS = 2_000
"""Up to this number of images all pairs are compared."""

ROTATIONS, NEIGHBOURS = 16, 8
"""Of more images, each is compared with the next 8 in 16 sorted orders of the hashes, which begin
at every fourth bit; so the time grows with the number of images, not of pairs."""

CHUNK = 10_000
"""The number of thumbnails or pairs that are computed with at a time, which limits the memory."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""

Thumbnail = NDArray[np.uint8]
"""``[T, T, 3]``"""

Pairs = NDArray[np.int64]
"""Indices of two images, ``[P, 2]``."""


def open_for_thumbnail(image: Any) -> Image.Image:
    """Open an image as its thumbnail is made from, always in the same way.

    Raises:
        Exception: Whatever Pillow raises on broken files.
    """
    return open_upright(image, SIDE)


def make_thumbnail(opened: Image.Image) -> Thumbnail:
    """Make the thumbnail of an image that ``open_for_thumbnail`` opened.

    Values of more than 8 bits are scaled from their own lowest to their highest.
    """
    scales = {}
    if is_deep(opened):
        file_type, values = sample(opened)
        low, high = (values.min(), values.max()) if len(values) else (0, 0)
        scales[file_type] = Scale(float(low), float(high) if high > low else float(low) + 1)
    rgb = to_rgb(opened, scales)
    return np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.BOX))


def digest_thumbnail(thumbnail: Thumbnail) -> int:
    """A number of 64 bits that is equal for equal thumbnails."""
    return int.from_bytes(hashlib.blake2b(thumbnail.tobytes(), digest_size=8).digest(), "little")


def digest_thumbnails(thumbnails: Sequence[Thumbnail]) -> NDArray[np.uint64]:
    """The digests of thumbnails, ``uint64 [N]``."""
    return np.array([digest_thumbnail(thumbnail) for thumbnail in thumbnails], dtype=np.uint64)


def shorten_digest(content: str) -> int:
    """The first 64 bits of a digest in hexadecimal."""
    return int(content[:16], 16)


def digest_examples(examples: Sequence[Example], kind: InputKind = IMAGES) -> NDArray[np.uint64]:
    """The digests of examples, ``uint64 [N]``; 0 where one cannot be read.

    They are those of a data set: see ``Dataset.digests``.
    """

    def digest(example: Example) -> int:
        try:
            if kind is not IMAGES:
                return shorten_digest(hashlib.sha256(kind.content(example.item)).hexdigest())
            return digest_thumbnail(make_thumbnail(open_for_thumbnail(example.item)))
        except Exception:  # decoders raise anything on broken files
            return 0

    digests: list[int] = []
    map_in_threads(digest, examples, digests.append, "", None)
    return np.array(digests, dtype=np.uint64)


def find_copies(
    examples: Sequence[Example], thumbnails: Sequence[Thumbnail], contents: Sequence[str]
) -> list[str]:
    """Return a key of each image, ``[N]``: equal for images whose upright pixels are equal.

    Only images with equal thumbnails but different contents are opened again.

    Args:
        examples: The examples, all of them readable.
        thumbnails: The thumbnail of each.
        contents: The digest of the content of each file or array.
    """
    by_thumbnail: defaultdict[int, list[int]] = defaultdict(list)
    for i, digest in enumerate(digest_thumbnails(thumbnails).tolist()):
        by_thumbnail[digest].append(i)
    # One image of each content is opened.
    doubtful = {
        contents[i]: i
        for group in by_thumbnail.values()
        if len(group) > 1 and len({contents[i] for i in group}) > 1
        for i in group
    }
    digests: list[str] = []
    indices = list(doubtful.values())
    map_in_threads(lambda i: _digest_pixels(examples[i]), indices, digests.append, "", None)
    pixels = dict(zip(doubtful, digests, strict=True))
    return [pixels.get(content) or content for content in contents]


def _digest_pixels(example: Example) -> str:
    """A digest of the upright pixels at full size; empty if the image has become unreadable."""
    item = example.item
    if isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[2] != RGB:
        return ""  # such arrays are copies only if they are equal
    try:
        opened = open_upright(item, 0)
        # Values of more than 8 bits are equal whatever their type.
        deep = is_deep(opened)
        pixels = np.asarray(opened).astype(np.float64) if deep else np.asarray(to_rgb(opened, {}))
    except Exception:  # decoders raise anything on broken files
        return ""
    return "pixels " + hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def find_near_copies(thumbnails: Sequence[Thumbnail] | NDArray[np.uint8]) -> Pairs:
    """Find the pairs of images that are nearly alike.

    Args:
        thumbnails: Those of N images of at least ``SMALLEST`` px. They are computed with in chunks,
            and never copied as a whole.

    Returns:
        Indices of the two images of each pair, the smaller first, ``[P, 2]``.
    """
    contrasts, hashes = [np.zeros(0, np.float32)], [np.zeros(0, np.uint64)]
    for start in range(0, len(thumbnails), CHUNK):
        chunk = np.stack([*thumbnails[start : start + CHUNK]])
        contrasts.append(_measure_contrast(chunk))
        hashes.append(hash_thumbnails(chunk[contrasts[-1] >= MIN_CONTRAST]))
    contrast = np.concatenate(contrasts)
    chosen = np.flatnonzero(contrast >= MIN_CONTRAST)
    pairs: Pairs = chosen[_find_similar(np.concatenate(hashes))]
    close = [np.zeros(0, dtype=bool)]
    for start in range(0, len(pairs), CHUNK):
        one, two = pairs[start : start + CHUNK].T
        first, second = (np.stack([thumbnails[i] for i in of]) for of in (one, two))
        difference = _describe(first) - _describe(second)
        limit = MAX_DIFFERENCE * np.minimum(contrast[one], contrast[two])
        close.append(np.sqrt((difference**2).sum(1)) <= limit)
    near: Pairs = pairs[np.concatenate(close)]
    return near


def _measure_contrast(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The std of the brightness and the colours of thumbnails, ``[N]``."""
    values = _describe(thumbnails)
    brightness, colour = values[:, : SIDE * SIDE], values[:, SIDE * SIDE :].reshape(-1, 16, 3)
    contrast: NDArray[np.float32] = np.sqrt(
        brightness.var(1) * SIDE * SIDE + colour.var(1).sum(1) * 16
    )
    return contrast


def _describe(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The brightness of each pixel and the colours of 4 x 4 regions of thumbnails, ``[N, 304]``.

    JPEG stores colours at half the resolution or less. The squared distance of two descriptions is
    the mean squared difference of the brightness plus that of the colours.
    """
    brightness = thumbnails @ LUMA
    colour = thumbnails - brightness[..., None]
    regions = colour.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4))
    return np.concatenate(
        [
            brightness.reshape(-1, SIDE * SIDE) / np.float32(SIDE),
            regions.reshape(-1, 48) / np.float32(48**0.5),
        ],
        axis=1,
    )


def hash_thumbnails(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The perceptual hashes ``uint64 [N]`` of thumbnails ``[N, T, T, 3]``.

    A bit says whether one of the 8 x 8 lowest coefficients of the cosine transform of the
    brightness is larger than their median (pHash; Zauner 2010,
    https://phash.org/docs/pubs/thesis_zauner.pdf).
    """
    frequency, position = np.arange(8)[:, None], np.arange(SIDE)[None]
    cosines = np.cos(np.pi * (position + 0.5) * frequency / SIDE).astype(np.float32)
    grey = thumbnails @ LUMA
    coefficients = (cosines @ grey @ cosines.T).reshape(len(grey), 64)
    bits = coefficients > np.median(coefficients[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False  # the mean brightness
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _find_similar(hashes: NDArray[np.uint64]) -> Pairs:
    """The pairs of hashes ``[N]`` with at most ``MAX_DISTANCE`` different bits, ``[P, 2]``."""
    count = len(hashes)
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    if count <= ALL_PAIRS:
        for i in range(count - 1):
            others = np.flatnonzero(_distances(hashes[i + 1 :], hashes[i]) <= MAX_DISTANCE)
            pairs.append(np.stack([np.full_like(others, i), others + i + 1], 1))
    else:
        for rotation in range(0, 64, 64 // ROTATIONS):
            left, right = np.uint64(rotation), np.uint64((64 - rotation) % 64)
            order = np.argsort((hashes << left) | (hashes >> right), kind="stable")
            ordered = hashes[order]
            for step in range(1, NEIGHBOURS + 1):
                near = _distances(ordered[:-step], ordered[step:]) <= MAX_DISTANCE
                pairs.append(np.stack([order[:-step][near], order[step:][near]], 1))
    return np.unique(np.sort(np.concatenate(pairs), 1), axis=0)


def _distances(first: NDArray[np.uint64], second: NDArray[np.uint64] | np.uint64) -> NDArray[Any]:
    """The numbers of different bits of hashes ``[P]``, added up in twos, fours and eights."""
    x = first ^ second
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
