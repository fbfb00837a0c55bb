"""A sample of the examples, where there is no time for all of them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.data.image import map_in_threads, open_upright
from autotl.data.image_kind import IMAGES
from autotl.data.labels import parse_label
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example
from autotl.space.task import Task
from autotl.tasks import CLASSIFICATION

FEWEST_PER_CLASS = 6
"""The number of examples of each label and split that are drawn at least, if there are so many."""

TIMED = 32
"""The number of examples whose decoding is timed."""


def sample_examples(
    examples: Sequence[Example], count: int, seed: int, task: Task = CLASSIFICATION
) -> list[Example]:
    """Draw about ``count`` examples at random, stratified by given split and label.

    Args:
        examples: The examples.
        count: Number of examples to draw; of each label and split, ``FEWEST_PER_CLASS`` are drawn
            at least. An example of several labels counts for the rarest.
        seed: Seed of the draw.
        task: What is predicted of them.
    """
    strata: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    named = sorted(examples, key=lambda e: e.name)
    for example, label in zip(named, rarest_labels(named, task), strict=True):
        strata[example.split, label].append(example)
    random, fraction = np.random.default_rng(seed), count / len(examples)
    drawn = []
    for _, stratum in sorted(strata.items()):
        number = max(FEWEST_PER_CLASS, round(fraction * len(stratum)))
        drawn += [stratum[i] for i in random.permutation(len(stratum))[:number]]
    return drawn


def rarest_labels(examples: Sequence[Example], task: Task) -> list[str]:
    """Return the rarest class or label of each example; '' where labels are numbers."""
    names = [task.names(parse_label(example.label, task)[0]) for example in examples]
    counts = Counter(name for own in names for name in own)
    return [min(own, key=counts.__getitem__, default="") for own in names]


def order_by_stratum(
    indices: NDArray[np.int64], strata: NDArray[Any], fewest: int, seed: int
) -> NDArray[np.int64]:
    """Order examples at random so that the first n are a stratified sample, whatever n is.

    Args:
        indices: Indices of the examples, ``[n]``.
        strata: The stratum of each, ``[n]``; of several strata for each, ``[n, S]``, none counts.
        fewest: The number of examples of each stratum that come before all others.
        seed: Seed of the order.
    """
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(indices))
    if strata.ndim > 1:
        return indices[shuffled]
    own = strata[shuffled]
    by_stratum = np.argsort(own, kind="stable")
    own, sizes = own[by_stratum], np.bincount(own)
    rank = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    quantile = (rank + random.random(len(sizes))[own]) / sizes[own]
    order = np.argsort(quantile - (rank < fewest), kind="stable")
    return indices[shuffled[by_stratum][order]]


def draw_items(examples: Sequence[Example]) -> list[Any]:
    """The items of at most ``TIMED`` examples, evenly spaced."""
    positions = np.linspace(0, len(examples) - 1, min(TIMED, len(examples))).astype(int)
    return [examples[i].item for i in positions]


def measure_opening(items: Sequence[Any], kind: InputKind = IMAGES) -> float:
    """Measure how many seconds opening an item takes; of those that cannot be read, until then."""

    def open_item(item: Any) -> None:
        with suppress(Exception):  # decoders raise anything on broken files
            if kind is IMAGES:
                open_upright(item, 1)
            else:
                kind.content(item)
                kind.convert(item)

    began = time.monotonic()
    map_in_threads(open_item, items, lambda _: None, "", None)
    return (time.monotonic() - began) / len(items)
