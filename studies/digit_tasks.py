"""Data sets of other tasks than one class, made from scikit-learn's digits.

Search them with ``--plugin studies/digit_tasks.py``: ``made:several`` has up to three digits in one
image (several labels), ``made:angle`` a digit that is rotated (a number).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from autotl import Example, dataset
from autotl.errors import DataError, did_you_mean

SIDE = 64
"""The side of the images in pixels."""

UPRIGHT = (2, 3, 4, 5, 7)
"""Digits that look like no other digit, and not like themselves, when they are rotated."""

LARGEST_ANGLE = 90.0
"""In degrees, to either side."""


@dataset(matches=["made:*"])
def made_digits(source: str, *, count: int = 2000, seed: int = 0) -> list[Example]:
    """Images with several digits (``made:several``), or with a rotated one (``made:angle``)."""
    makers = {"several": _several, "angle": _rotated}
    name = source.partition(":")[2]
    if name not in makers:
        raise DataError(f"there are no data {source!r}; {did_you_mean(name, makers)}")
    random = np.random.default_rng(seed)
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)
    return [
        Example(f"{name}/{i}", *makers[name](images, digits.target, random)) for i in range(count)
    ]


def _several(images: Any, labels: Any, random: Any) -> tuple[Any, list[str]]:
    """Up to three digits in different quarters, and which they are."""
    canvas, present = np.zeros((SIDE, SIDE), np.uint8), set()
    half = SIDE // 2
    for quarter in random.permutation(4)[: random.integers(1, 4)]:
        index = random.integers(len(images))
        row, column = (half * int(part) for part in divmod(quarter, 2))
        digit = Image.fromarray(images[index]).resize((half, half))
        canvas[row : row + half, column : column + half] = np.array(digit)
        present.add(str(labels[index]))
    return canvas, sorted(present)


def _rotated(images: Any, labels: Any, random: Any) -> tuple[Any, dict[str, float]]:
    """A digit that is rotated counterclockwise, and by how many degrees."""
    index = random.choice(np.flatnonzero(np.isin(labels, UPRIGHT)))
    angle = float(random.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
    digit = Image.fromarray(images[index]).resize((SIDE, SIDE))
    return np.array(digit.rotate(angle, Image.Resampling.BICUBIC)), {"degrees": round(angle, 2)}
