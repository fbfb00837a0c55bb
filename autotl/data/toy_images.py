"""Small images of easy classes, with which plugins are tested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotl.space.plugin import Example

SIDE = 16
"""Height and width of the images, in pixels."""

COLOURS = {"blue": (60, 90, 200), "green": (60, 160, 90), "red": (190, 80, 70)}
"""The classes, with their colours."""


def squares(counts: Sequence[int], seed: int = 0, side: int = SIDE) -> list[Example]:
    """Make images of noise with a square of their class's colour, of every colour in turn.

    Args:
        counts: Number of images of each colour.
        seed: Seed of the noise and of the squares' positions.
        side: Height and width of an image in pixels.

    Returns:
        The examples.
    """
    random = np.random.default_rng(seed)
    examples = []
    for i in range(max(counts)):
        for (label, colour), count in zip(COLOURS.items(), counts, strict=True):
            if i >= count:
                continue
            image = random.integers(40, 200, (side, side, 3))
            y, x = random.integers(0, side // 2 + 1, 2)
            square = image[y : y + side // 2, x : x + side // 2]
            square[:] = np.array(colour) + random.integers(-30, 31, square.shape)
            examples.append(Example(f"{label}/{i}", image.astype(np.uint8), label))
    return examples
