"""Balancing: what is done about classes of unequal size, from their numbers of training pictures.

``none`` is right where a mistake costs the same whatever the class; the others give more to
rare classes, at the cost of the frequent ones. A class without any picture counts as if it had one.
"""

from __future__ import annotations

from math import log
from typing import Annotated

from autotl import Balance, Range, balance

Power = Annotated[float, Range(0.25, 1.0)]


@balance(order=1)
def none(counts: list[int]) -> Balance:
    """Learn from the classes as they come, each picture counting the same."""
    return Balance()


@balance
def class_weights(counts: list[int], *, power: Power = 0.5) -> Balance:
    """Weigh the loss by a power of the inverse frequency (Cui et al. 2019, arXiv:1901.05555).

    Power 1 gives each class the same weight in all. The mean weight of a picture is 1, so that
    the learning rates keep their meaning.
    """
    rare = _rarity(counts, power)
    mean = sum(n * r for n, r in zip(counts, rare, strict=True)) / sum(counts)
    return Balance(weights=[r / mean for r in rare])


@balance
def balanced_sampling(counts: list[int], *, power: Power = 0.5) -> Balance:
    """Draw pictures of rare classes more often (Kang et al. 2019, arXiv:1910.09217).

    Power 1 draws each class as often as any other, 0.5 by the square root of its size.
    """
    return Balance(sampling=_rarity(counts, power))


@balance
def logit_adjustment(
    counts: list[int], *, tau: Annotated[float, Range(0.25, 2.0)] = 1.0
) -> Balance:
    """Add the logarithm of a class's share to its logit (Menon et al. 2020, arXiv:2007.07314).

    The network then learns what is left to tell apart beyond the shares; tau 1 is what minimises
    the balanced error.
    """
    total = sum(max(n, 1) for n in counts)
    return Balance(offsets=[tau * log(max(n, 1) / total) for n in counts])


def _rarity(counts: list[int], power: float) -> list[float]:
    """How rare each class is: 1 for a class of the mean size, more for a smaller one."""
    mean = sum(counts) / len(counts)
    return [(mean / max(n, 1)) ** power for n in counts]
