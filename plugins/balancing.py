"""Balancing: how training compensates for class imbalance, from the training images per class.

``none`` is right if every error costs the same whatever the class; the others favour rare classes
at the expense of frequent ones. A class without images counts as if it had one.
"""

from __future__ import annotations

from math import log
from typing import Annotated

from autotl import Balance, Range, balance

Power = Annotated[float, Range(0.25, 1.0)]


@balance(order=1, tasks=["classification"])
def none(counts: list[int]) -> Balance:
    """Train on the classes as they are, with the same weight for every image."""
    return Balance()


@balance(tasks=["classification"])
def class_weights(counts: list[int], *, power: Power = 0.5) -> Balance:
    """Weight the loss by a power of the inverse frequency (Cui et al. 2019, arXiv:1901.05555).

    Power 1 gives each class the same total weight. The mean weight of an image is 1, so that
    learning rates keep their meaning.
    """
    rarity = _rarity(counts, power)
    mean = sum(n * r for n, r in zip(counts, rarity, strict=True)) / sum(counts)
    return Balance(weights=[r / mean for r in rarity])


@balance(tasks=["classification"])
def balanced_sampling(counts: list[int], *, power: Power = 0.5) -> Balance:
    """Sample images of rare classes more often (Kang et al. 2019, arXiv:1910.09217).

    Power 1 samples all classes equally often, 0.5 in proportion to the square root of their size.
    """
    return Balance(sampling=_rarity(counts, power))


@balance(tasks=["classification"])
def logit_adjustment(
    counts: list[int], *, tau: Annotated[float, Range(0.25, 2.0)] = 1.0
) -> Balance:
    """Add the logarithm of a class's frequency to its logit (Menon et al. 2020, arXiv:2007.07314).

    The network then learns what distinguishes the classes beyond their frequency; tau 1 minimises
    the balanced error.
    """
    total = sum(max(n, 1) for n in counts)
    return Balance(offsets=[tau * log(max(n, 1) / total) for n in counts])


def _rarity(counts: list[int], power: float) -> list[float]:
    """The rarity of each class: 1 for a class of mean size, more for a smaller one."""
    mean = sum(counts) / len(counts)
    return [(mean / max(n, 1)) ** power for n in counts]
