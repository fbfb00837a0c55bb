"""A sample of the examples, where there is no time for all of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from autotl.data.image import image_side, map_in_threads, open_upright
from autotl.space.plugin import Example

FEWEST_PER_CLASS = 6
"""The number of examples of each label and split that are drawn at least, if there are so many."""

TIMED = 32
"""The number of images whose decoding is timed."""


def sample_examples(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Draw about ``count`` examples at random, stratified by given split and label.

    Args:
        examples: The examples.
        count: Number of examples to draw; of each label and split, ``FEWEST_PER_CLASS`` are drawn
            at least.
        seed: Seed of the draw.
    """
    strata: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda e: e.name):
        strata[example.split, example.label].append(example)
    random, fraction = np.random.default_rng(seed), count / len(examples)
    drawn = []
    for _, stratum in sorted(strata.items()):
        number = max(FEWEST_PER_CLASS, round(fraction * len(stratum)))
        drawn += [stratum[i] for i in random.permutation(len(stratum))[:number]]
    return drawn


def measure_decoding(examples: Sequence[Example]) -> tuple[float, int]:
    """Measure on a few examples how long decoding takes, and how large the images are.

    Args:
        examples: The examples; those that cannot be read are left out.

    Returns:
        Seconds per image, and the median side of the images in pixels: the square root of width
        times height. The side is 0 if no image can be read.
    """
    positions = np.linspace(0, len(examples) - 1, min(TIMED, len(examples))).astype(int)
    sides: list[float] = []

    def open_image(example: Example) -> float:
        with suppress(Exception):  # decoders raise anything on broken files
            open_upright(example.item, 1)
            return image_side(example.item)
        return 0.0

    began = time.monotonic()
    map_in_threads(open_image, [examples[i] for i in positions], sides.append, "", None)
    seconds = (time.monotonic() - began) / len(positions)
    readable = [side for side in sides if side]
    return seconds, round(float(np.median(readable))) if readable else 0
